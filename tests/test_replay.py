"""Replays of searches in a recorded table: reproducible, cheaper with halving, judged by the mean over seeds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.make_table import SPACE
from benchmarks.search import SAMPLERS, Table, interval, main, read_table, replay
from search_space.complexity import count
from search_space.errors import UserError

INPUT, CLASSES, RUNGS = (44, 256), 10, (100, 300, 900)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table of made-up curves: larger networks are better, rungs say so with noise."""
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    with (folder / "made-up.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["architecture", "params", "macs", "seed", "seconds", *RUNGS])
        for network in SPACE:
            cost = count(network, INPUT, CLASSES)
            final = 0.2 + 0.1 * np.log10(cost.params / 2000) + 0.1 * np.log10(cost.macs / 1e6)
            for seed in range(2):
                curve = np.array([0.3, 0.6, 1.0]) * final + rng.normal(0, 0.01, 3)
                writer.writerow([str(network), cost.params, cost.macs, seed, 1 + cost.macs / 1e7, *curve])
    about = {"input": INPUT, "n_classes": CLASSES, "rungs": RUNGS, "data": {"synthetic": True}}
    (folder / "made-up.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def table(tables: Path) -> Table:
    return read_table("made-up", tables)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_replay_repeats_itself_and_halving_sees_fewer_clips(table: Table, sampler: str) -> None:
    whole, halved = (replay(table, sampler, halving, seed=1, trials=20) for halving in (False, True))
    assert replay(table, sampler, True, seed=1, trials=20) == halved
    assert replay(table, sampler, True, seed=2, trials=20) != halved
    assert (whole.clips, len(whole.finished), whole.stopped) == (20 * 900, 20, 0)
    assert len(set(whole.finished)) == 20
    assert 0 < len(halved.finished) < 20
    assert len(halved.finished) + halved.stopped == 20
    assert 20 * 100 + len(halved.finished) * 800 <= halved.clips < whole.clips


def test_a_random_search_tries_the_same_networks_with_and_without(table: Table) -> None:
    whole, halved = (replay(table, "random", halving, seed=3, trials=20) for halving in (False, True))
    assert set(halved.finished) < set(whole.finished)
    assert table.hypervolume(halved.finished) <= table.hypervolume(whole.finished)


def test_networks_are_judged_by_the_mean_over_seeds(table: Table) -> None:
    """Written out for one network: accuracy above chance x decades of params x decades of MACs."""
    text = str(next(iter(SPACE)))
    scores = table.rows[table.rows["architecture"] == text]["900"]
    params, macs = SPACE.largest(INPUT, CLASSES)
    cost = count(text, INPUT, CLASSES)
    expected = (scores.mean() - 0.1) * np.log10(params / cost.params) * np.log10(macs / cost.macs)
    assert table.hypervolume([text]) == pytest.approx(expected)


def test_more_seeds_than_networks_end_with_the_space(table: Table) -> None:
    assert len(replay(table, "random", False, seed=0, trials=SPACE.size + 5).finished) == SPACE.size


def test_the_command_compares_every_sampler_with_itself(tables: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tables", str(tables), "--seeds", "2", "--trials", "12", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["table"], report["seeds"]) == ("made-up", 2)
    assert [(row["name"], row["halving"]) for row in report["strategies"]] == [
        (sampler, halving) for sampler in SAMPLERS for halving in (False, True)
    ]
    for row in report["strategies"]:
        low, high = row["hypervolume_ci"]
        assert low <= row["hypervolume_mean"] <= high
        assert row["clips_seen"] == 12 * 900 or row["halving"]


def test_the_interval_of_a_mean_holds_it_and_narrows() -> None:
    few, many = (np.random.default_rng(0).normal(5, 1, n) for n in (10, 1000))
    for values in (few, many):
        low, high = interval(values)
        assert low < values.mean() < high
    assert np.subtract(*interval(many)[::-1]) == pytest.approx(2 * 1.96 / 1000**0.5, rel=0.1)
    assert np.subtract(*interval(few)[::-1]) > np.subtract(*interval(many)[::-1])


def test_a_table_that_is_not_there_or_not_whole_is_refused(tables: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown table 'other'; known: \['made-up'\]"):
        read_table("other", tables)
    with pytest.raises(UserError, match="there is no table in"):
        main(["--tables", str(tmp_path)])
    lines = (tables / "made-up.csv").read_text().splitlines(keepends=True)
    (tmp_path / "made-up.csv").write_text("".join(lines[:-1]))
    (tmp_path / "made-up.json").write_text((tables / "made-up.json").read_text())
    with pytest.raises(UserError, match=r"lacks 1 trainings, .* with seed 1 for one"):
        read_table("made-up", tmp_path)
