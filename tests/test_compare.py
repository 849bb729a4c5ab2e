"""Networks side by side: every seed trained once, test scored once a run, what is finished never trained again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import SAMPLE_RATE

from search_space.errors import UserError
from search_space.tables import read_results
from studies import compare
from trainers.runs import Run

NETWORKS = "dssdn_c4-6_r0.5_sc_h8,dsmn-1"


def arguments(folder: Path, runs: Path, *more: str) -> list[str]:
    options = ["--data", str(folder), "--runs", str(runs), "--networks", NETWORKS, "--seeds", "2", "--workers", "1"]
    return [*options, "--budget", "32", "--train-input", "16x16", *more]


@pytest.fixture(scope="module")
def runs(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison of two networks with two seeds."""
    place = tmp_path_factory.mktemp("compare") / "runs"
    assert compare.main(arguments(tiny_folder, place, "--name", "tiny")) == 0
    return place


def test_every_run_leaves_its_record_and_scored_test_once(runs: Path) -> None:
    names = sorted(path.name for path in (runs / "tiny").iterdir() if path.is_dir())
    assert names == sorted(f"{network}-s{seed}" for network in NETWORKS.split(",") for seed in (0, 1))
    for name in names:
        run = Run(runs / "tiny" / name)
        assert run.status["state"] == "finished"
        said = run.predictions("test")
        assert said is not None
        assert run.scores is not None
        assert run.scores["accuracy"] == pytest.approx(said.accuracy)
        assert run.scores["n_clips"] == 9


def test_report_is_mean_and_deviation_over_seeds(
    runs: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main(arguments(tiny_folder, runs, "--name", "tiny", "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["seeds"] == [0, 1]
    assert [row["test_mean"] for row in report["rows"]] == sorted(
        (r["test_mean"] for r in report["rows"]), reverse=True
    )
    for row in report["rows"]:
        scores = [(Run(runs / "tiny" / f"{row['network']}-s{seed}").scores or {})["accuracy"] for seed in (0, 1)]
        assert row["test"] == scores
        assert row["test_mean"] == pytest.approx(np.mean(scores))
        assert row["test_std"] == pytest.approx(np.std(scores, ddof=1))
        assert row["params"] > 0


def test_finished_runs_are_not_trained_again_and_missing_ones_are(runs: Path, tiny_folder: Path) -> None:
    folder = runs / "tiny"
    kept, lost = (folder / f"dsmn-1-s{seed}" for seed in (0, 1))
    before, weights = (kept / "weights.safetensors").stat().st_mtime_ns, (lost / "weights.safetensors").read_bytes()
    (lost / "scores.json").unlink()  # as after a kill before the end
    assert compare.main(arguments(tiny_folder, runs, "--name", "tiny")) == 0
    assert (kept / "weights.safetensors").stat().st_mtime_ns == before
    assert (lost / "weights.safetensors").read_bytes() == weights
    assert Run(lost).scores is not None


def test_other_options_are_refused(runs: Path, tiny_folder: Path) -> None:
    options = arguments(tiny_folder, runs, "--name", "tiny")
    options[options.index("32")] = "64"
    with pytest.raises(
        UserError, match=r"was trained with another clips \(32, now 64\); give the same options, or another --name"
    ):
        compare.main(options)


@pytest.mark.slow
def test_the_papers_recipe_trains_as_long_and_as_large_as_it_says(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """27 clips of train; 2 epochs where they are asked for, the recipe's 200 where nothing is, at full size in both."""
    runs = tmp_path / "runs"
    options = ["--data", str(tiny_folder), "--runs", str(runs), "--networks", "dssdn_c4-6_r0.5_sc_h8", "--seeds", "1"]
    options += ["--workers", "1", "--name", "papers", "--recipe", "paper"]
    assert compare.main([*options, "--epochs", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["recipe"], report["budget"]) == ("paper", 54)
    assert report["train_input"] == report["input"]
    run = Run(runs / "papers" / "dssdn_c4-6_r0.5_sc_h8-s0")
    assert [row["clips_seen"] for row in run.metrics()] == [27, 54]
    assert run.config["train_input"] == report["input"]
    with pytest.raises(UserError, match=r"was trained with another clips \(54, now 5400\)"):
        compare.main(options)
    with pytest.raises(UserError, match=r"another train_input \(\[\d+, 256\], now \[16, 16\]\)"):
        compare.main([*options, "--epochs", "2", "--train-input", "16x16"])
    with pytest.raises(UserError, match=r"was trained with another"):
        compare.main([*options, "--recipe", "short"])


def test_results_are_kept_for_the_tables(
    runs: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "results.json"
    monkeypatch.setattr(compare, "RESULTS", kept)
    assert compare.main(arguments(tiny_folder, runs, "--name", "tiny", "--record")) == 0
    results = read_results(kept)
    assert {result.network for result in results} == set(NETWORKS.split(","))
    assert {result.dataset for result in results} == {tiny_folder.name}
    assert {result.seeds for result in results} == {(0, 1)}
    assert {(result.fold, result.sample_rate) for result in results} == {(5, SAMPLE_RATE)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--networks", "mobilenet-v9"),
            r"unknown network 'mobilenet-v9'; did you mean 'mobilenet-v3'\? known: \['bc-resnet'",
        ),
        (("--networks", ""), r"--networks is at least one name .*single commas; got ''"),
        (("--networks", "dl-b,,sp4asc"), "single commas; got 'dl-b,,sp4asc'"),
        (("--networks", "dl-b,"), "single commas; got 'dl-b,'"),
        (("--epochs", "0"), "--epochs is at least 1, not 0"),
        (("--epochs", "2"), "--budget is in clips and --epochs in passes over train; give one of them"),
        (("--seeds", "0"), "--seeds is at least 1, not 0"),
        (("--recipe", "slow"), r"unknown recipe 'slow'; known: \["),
        (("--recipe", "taught"), "recipe 'taught' learns from a teacher, and this command names none"),
        (("--budget", "8"), "--budget is at least one batch of 32 clips, not 8"),
        (("--train-input", "999x16"), "--train-input is at most the full input"),
        (("--workers", "99"), "--workers is 1 to"),
    ],
)
def test_bad_input_ends_before_training(
    tiny_folder: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        compare.main([*arguments(tiny_folder, tmp_path / "runs"), *options])
    assert not list(tmp_path.glob("runs/*/*-s0"))
