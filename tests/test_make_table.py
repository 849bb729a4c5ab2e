"""The table of all networks of a small space: what a row holds, going on after a kill, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.make_table import SPACE, main
from search_space.complexity import count
from search_space.errors import UserError


def _arguments(folder: Path, out: Path, budget: int = 288) -> list[str]:
    arguments = ["--data", str(folder), "--out", str(out), "--name", "tiny", "--budget", str(budget)]
    return [*arguments, "--train-input", "16x16", "--workers", "1"]


def test_the_space_is_one_that_can_be_searched() -> None:
    networks = list(SPACE)
    assert len(networks) == len(set(networks)) == SPACE.size
    for network in networks[::7]:
        chosen = SPACE.encode(network)
        assert SPACE.sample(lambda name, options, chosen=chosen: chosen[name]) == network
        assert set(SPACE.neighbours(network)) <= set(networks)


def test_rows_are_curves_and_the_same_command_goes_on(tiny_folder: Path, tmp_path: Path) -> None:
    arguments = _arguments(tiny_folder, tmp_path)
    main([*arguments, "--networks", "1", "--seeds", "2"])
    path = tmp_path / "tiny.csv"
    first = pd.read_csv(path)
    assert list(first.columns) == ["architecture", "params", "macs", "seed", "seconds", "32", "96", "288"]
    network = next(iter(SPACE))
    cost = count(network, (44, 256), 3)
    assert first[["architecture", "params", "macs", "seed"]].to_numpy().tolist() == [
        [str(network), cost.params, cost.macs, seed] for seed in (0, 1)
    ]
    assert first[["32", "96", "288"]].to_numpy().min() >= 0
    assert first[["32", "96", "288"]].to_numpy().max() <= 1
    path.write_text(path.read_text()[:-9])  # a kill in the middle of a line
    main([*arguments, "--networks", "2", "--seeds", "2"])
    table = pd.read_csv(path)
    same = table.merge(first, on=["architecture", "seed", "32", "96", "288"])
    assert (len(table), len(same)) == (4, 2)  # the torn row was trained again, to the same scores
    assert table["seconds"].isin(first["seconds"]).sum() >= 1
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["rungs"] == [32, 96, 288]
    assert set(about["signal"]) == {"32", "96", "288"}
    assert about["data"]["source"] == tiny_folder.name
    assert str(tmp_path) not in path.with_suffix(".json").read_text()
    main([*arguments, "--networks", "1", "--seeds", "1"])  # asks for less: nothing is lost
    assert len(pd.read_csv(path)) == 4
    about = json.loads(path.with_suffix(".json").read_text())
    assert (about["networks"], about["seeds"], set(about["signal"])) == (2, 2, {"32", "96", "288"})
    with pytest.raises(UserError, match=r"was made with something else \(budget, rungs\); give the same options"):
        main([*_arguments(tiny_folder, tmp_path, 300), "--networks", "1"])


def test_bad_arguments_are_named(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--seeds is at least 1, not 0"):
        main([*_arguments(tiny_folder, tmp_path), "--seeds", "0"])
