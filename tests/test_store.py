"""The store of log-mels, read without torch: the rows that features wrote, and nothing else."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from trainers.datasets import open_dataset
from trainers.features import prepare
from trainers.store import LogmelStore, row_key


@pytest.fixture(scope="module")
def made(tiny_folder):
    """(data set, its features, the store that should hold them)."""
    dataset = open_dataset(str(tiny_folder))
    features = prepare(dataset)
    return (
        dataset,
        features,
        LogmelStore(dataset.source_key, dataset.duration_s, dataclasses.asdict(features.front_end)),
    )


def test_every_clip_is_found_as_it_was_written(made):
    dataset, features, store = made
    assert store.folder == features.path
    for i, key in enumerate(dataset.row_keys()):
        found = store.find(key)
        assert found is not None
        np.testing.assert_array_equal(found, features.read(i)[0])


def test_an_unknown_clip_is_not_found(made):
    dataset, features, store = made
    assert store.find("another") is None
    other = LogmelStore("elsewhere", dataset.duration_s, dataclasses.asdict(features.front_end))
    assert other.find(dataset.row_keys()[0]) is None
    assert len(row_key("another")) == 16


def test_a_torn_record_is_not_taken(made, tmp_path):
    dataset, _, store = made
    torn = LogmelStore.__new__(LogmelStore)
    torn.__dict__.update(store.__dict__)
    content = bytearray(store.journal_path.read_bytes())
    content[40] ^= 1  # of the first record
    torn.journal_path = tmp_path / "journal"
    torn.journal_path.write_bytes(content)
    found = [torn.find(key) is not None for key in dataset.row_keys()]
    assert found.count(False) == 1


def test_finding_loads_no_torch():
    code = "import sys; import trainers.store, studies.mistakes; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
