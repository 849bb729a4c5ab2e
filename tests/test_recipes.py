"""The comparison of recipes: what it trains, what it keeps, what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks.recipes import CHANGES, main, recipe_of
from search_space.errors import UserError
from trainers.config import get_recipe
from trainers.runs import Run


@pytest.mark.slow
def test_it_compares_on_validation_clips_and_goes_on(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = "dssdn_c8-12_r0.5_sc_h8"
    arguments = ["--data", str(tiny_folder), "--runs", str(tmp_path), "--architecture", network, "--workers", "1"]
    arguments += ["--epochs", "2", "--recipes", "strong,mixup", "--train-input", "16x16"]
    assert main([*arguments, "--seeds", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["val_std"] is None
    first = Run(tmp_path / "recipes-esc" / "mixup-s0")
    weights = first.weights_path.stat().st_mtime_ns
    assert main([*arguments, "--seeds", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert first.weights_path.stat().st_mtime_ns == weights
    assert first.scores is None
    assert first.predictions("test") is None
    assert report["clips"] == 54
    assert [row["recipe"] for row in report["rows"]] == ["strong", "mixup"]
    for row in report["rows"]:
        runs = [Run(tmp_path / "recipes-esc" / f"{row['recipe']}-s{seed}") for seed in range(2)]
        assert row["val"] == [run.metrics()[-1]["val_accuracy"] for run in runs]
        assert row["val_mean"] == pytest.approx(sum(row["val"]) / 2)
    assert main([*arguments, "--seeds", "2"]) == 0
    assert "2 epochs (54 clips) at 16x16, 2 seeds" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UserError, match="was trained with another clips"):
        main([*arguments, "--epochs", "3"])


@pytest.mark.parametrize("name", CHANGES)
def test_each_differs_from_the_strong_recipe_as_it_says(name: str) -> None:
    changed, strong = recipe_of(name), get_recipe("strong")
    assert changed != dataclasses.replace(strong, name=name)
    assert dataclasses.replace(changed, name="strong", **{key: getattr(strong, key) for key in CHANGES[name]}) == strong


def test_bad_arguments_are_named(tiny_folder: Path) -> None:
    with pytest.raises(UserError, match="unknown recipe 'best'"):
        main(["--data", str(tiny_folder), "--recipes", "best"])
    with pytest.raises(UserError, match="--epochs is at least 1, not 0"):
        main(["--data", str(tiny_folder), "--epochs", "0"])
