"""A run's folder: atomic writes, torn files, names that stay inside."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import psutil
import pytest

from search_space.errors import UserError
from trainers.runs import (
    Predictions,
    Run,
    clear_temporaries,
    is_study_name,
    network_folder,
    process_alive,
    retrain_folder,
    study_folder,
    trial_folder,
    write_atomic,
)


def test_predictions_come_back_as_they_were(tmp_path: Path) -> None:
    said = Predictions(np.eye(3, dtype=np.float32), np.array([0, 1, 1]), ["a.wav", "ü.wav", "c.wav"], ["a", "", "s1"])
    run = Run(tmp_path)
    run.write_predictions("val", said)
    read = run.predictions("val")
    assert read is not None
    np.testing.assert_array_equal(read.probabilities_NK, said.probabilities_NK)
    assert (read.labels_N.tolist(), read.filenames, read.recorders) == (
        [0, 1, 1],
        said.filenames,
        said.recorders,
    )
    assert read.accuracy == pytest.approx(2 / 3)
    assert run.predictions("test") is None


def test_a_torn_last_line_of_the_curve_is_left_out(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.append_metrics({"epoch": 1, "loss": 2.0})
    run.append_metrics({"epoch": 2, "loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo')
    assert [row["epoch"] for row in run.metrics()] == [1, 2]


def test_a_curve_is_appended_to_and_replaced_only_where_it_says_something_else(tmp_path: Path) -> None:
    run, rows = Run(tmp_path), [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}]
    path = tmp_path / "metrics.jsonl"
    run.write_metrics([])
    with path.open() as follower:
        run.append_metrics(rows[0])
        with path.open("a") as file:
            file.write('{"epoch": 2, "lo')  # torn by a kill
        run.write_metrics(rows)
        run.write_metrics(rows)
        assert [json.loads(line) for line in follower] == rows
    run.write_metrics([{"epoch": 1, "loss": 3.0}])
    assert run.metrics() == [{"epoch": 1, "loss": 3.0}]
    run.write_metrics([])
    assert run.metrics() == []


def test_temporaries_of_a_kill_are_cleared_and_nothing_else(tmp_path: Path) -> None:
    run = Run(tmp_path)
    left: set[str] = set()
    names = ("run.json", "status.json", "predictions-test.npz", "weights.safetensors", ".checkpoint.pt.new", "job.json")
    for name in names:
        write_atomic(tmp_path / name, lambda _: left.update(path.name for path in tmp_path.glob(".*")))
    for name in left:
        (tmp_path / name).write_bytes(b"torn")
    kept = {name for name in left if "job" in name} | {".notes", ".cache", ".status.json"}
    (tmp_path / ".notes").write_text("mine")
    (tmp_path / ".status.json").write_text("mine")
    (tmp_path / ".cache").mkdir()
    clear_temporaries(run)
    assert len(left) == len(names) + 1
    assert {path.name for path in tmp_path.glob(".*")} == kept


def test_corrupt_records_are_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"architecture": ')
    with pytest.raises(UserError, match=r"run\.json is not valid JSON"):
        _ = Run(tmp_path).config
    (tmp_path / "status.json").write_text("[]")
    with pytest.raises(UserError, match="must hold a JSON object"):
        _ = Run(tmp_path).status
    (tmp_path / "predictions-val.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(UserError, match="can not be read"):
        Run(tmp_path).predictions("val")


def test_an_empty_folder_holds_no_run(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert (run.metrics(), run.status, run.scores, run.alive) == ([], {}, None, False)
    with pytest.raises(UserError, match="holds no run"):
        _ = run.config


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_atomic(path, lambda file: file.write(b"old"))

    def full_disk(file: BinaryIO) -> None:
        file.write(b"ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, full_disk)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["status.json"]


def test_a_process_is_known_by_id_and_start_time() -> None:
    own = psutil.Process()
    assert process_alive(own.pid, own.create_time())
    assert not process_alive(own.pid, own.create_time() - 60)
    assert not process_alive(None, None)


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "a b", "x" * 65, "a\n", "-flag"])
def test_names_that_could_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="a study's name"):
        study_folder(tmp_path, name)


@pytest.mark.parametrize("name", ["retrain", "Retrain"])
def test_the_folder_of_retrainings_is_no_study(tmp_path: Path, name: str) -> None:
    assert not is_study_name(name)
    with pytest.raises(
        UserError, match=rf"can not be named '{name}': .* holds the retrainings .*; choose another name"
    ):
        study_folder(tmp_path, name)
    assert study_folder(tmp_path, "retrain-2").parent == network_folder(tmp_path, "a", "b", "short", 1, 0).parents[1]


def test_folders() -> None:
    assert trial_folder("runs", "esc10", 17) == Path("runs/esc10/trials/00017")
    assert retrain_folder(Path("runs"), "esc10", 17, "strong", 60, 0) == Path("runs/esc10/retrain/00017-strong-e60-s0")
