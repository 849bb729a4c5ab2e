"""A folder in TAU 2020's layout, made of the generator's sound, through the commands: check, study, retraining, prediction."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from studies import run as studies_run
from trainers import data, predict, retrain
from trainers.runs import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six of the generator's clips a scene and split, written out by the project's own command."""
    place = tmp_path_factory.mktemp("journey") / "tau"
    assert data.main(["export", "synthetic", str(place), "--clips", "6"]) == 0
    return place


@pytest.fixture(scope="module")
def runs(folder: Path) -> Path:
    """The runs of a study of two networks and the retraining of one of them on that folder."""
    place = folder.parent / "runs"
    options = ["--data", str(folder), "--runs", str(place), "--study", "made", "--trials", "2", "--workers", "1"]
    assert studies_run.main([*options, "--budget", "64", "--train-input", "16x16"]) == 0
    assert retrain.main(["--study", "made", "--trial", "1", "--runs", str(place), "--epochs", "1"]) == 0
    return place


def test_the_folder_is_whole_and_called_synthetic(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data.main(["check", str(folder), "--deep"]) == 0
    said = capsys.readouterr().out
    assert "synthetic data" in said
    assert "ready to train on (every file decoded)" in said


def test_splits_keep_locations_and_unseen_recorders_apart(folder: Path) -> None:
    counts = data.check(folder)["counts"]
    assert counts["train"]["clips"] + counts["val"]["clips"] == 10 * 6 * 2
    assert counts["test"]["clips"] == 10 * 6
    assert not {"s4", "s5", "s6"} & (counts["train"]["recorder"].keys() | counts["val"]["recorder"].keys())


def test_study_says_what_it_is_about(runs: Path) -> None:
    trial = next(path for path in sorted((runs / "made" / "trials").iterdir()) if Run(path).weights_path.exists())
    record = Run(trial).config["data"]
    assert record["synthetic"]
    assert record["name"] != "tau2020"
    assert Run(trial).predictions("test") is None


def test_retraining_scores_every_recorder_seen_or_not(runs: Path) -> None:
    (path,) = (runs / "made" / "retrain").glob("*/scores.json")
    scores = json.loads(path.read_text())
    heard = {"s4", "s5", "s6"} & scores["per_recorder"].keys()
    assert scores["n_clips"] == 60
    assert heard
    assert scores["seen"] is not None
    assert scores["unseen"] is not None


def test_evaluation_set_is_predicted_into_dcase_s_table(folder: Path, runs: Path, tmp_path: Path) -> None:
    """The test recordings as an evaluation set: numbered, without labels."""
    (path,) = (runs / "made" / "retrain").glob("*/run.json")
    said = Run(path.parent).predictions("test")
    assert said is not None
    evaluation = tmp_path / "evaluation"
    (evaluation / "audio").mkdir(parents=True)
    for number, name in enumerate(said.filenames):
        shutil.copy(folder / "audio" / name, evaluation / "audio" / f"{number}.wav")
    names = "".join(f"audio/{number}.wav\n" for number in range(len(said.filenames)))
    (evaluation / "evaluation_setup").mkdir()
    (evaluation / "evaluation_setup" / "fold1_test.csv").write_text(f"filename\n{names}")
    out = tmp_path / "out.csv"
    assert predict.main([str(path.parent), str(evaluation), "--csv", str(out)]) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["filename"] for row in rows] == [f"{number}.wav" for number in range(len(said.filenames))]
    classes = tuple(Run(path.parent).config["data"]["classes"])
    for row, probabilities_K in zip(rows, said.probabilities_NK, strict=True):
        assert row["scene_label"] == classes[probabilities_K.argmax()]
        assert [float(row[scene]) for scene in classes] == pytest.approx(probabilities_K.tolist(), abs=1e-5)


def test_exporting_again_changes_nothing(folder: Path) -> None:
    """Writing the same clips out again gives the same lists."""
    before = {path.name: path.read_text() for path in folder.rglob("*.csv")}
    assert data.main(["export", "synthetic", str(folder), "--clips", "6"]) == 0
    assert {path.name: path.read_text() for path in folder.rglob("*.csv")} == before
