"""A full retraining of a study's network: what it leaves, how it goes on, what it refuses."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from search_space.errors import UserError
from studies import open_study
from trainers.recorded import load_model
from trainers.retrain import main, retrain
from trainers.runs import Run, retrain_folder


def test_it_scores_test_once_at_full_size(own_study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, name = own_study, "tiny"
    arguments = ["--study", name, "--trial", "1", "--runs", str(runs), "--epochs", "2", "--device", "cpu"]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    run = Run(retrain_folder(runs, name, 1, "long", 2, 0))
    assert report["input"] == [44, 256]
    assert [row["epoch"] for row in report["metrics"]] == [1, 2]
    assert all("val_accuracy" in row for row in report["metrics"])
    said = run.predictions("test")
    assert said is not None
    assert report["test"]["accuracy"] == pytest.approx(said.accuracy)
    assert set(report["test"]["per_scene"]) == {"low", "high", "noise"}
    assert run.status["state"] == "finished"
    written = run.path.joinpath("scores.json").stat().st_mtime_ns
    assert main(arguments) == 0  # the same command again: nothing is trained or scored again
    assert run.path.joinpath("scores.json").stat().st_mtime_ns == written
    assert "test fold scored once" in capsys.readouterr().out
    run.write_status("running")  # as after a kill between the scores and the last status
    assert main(arguments) == 0
    assert run.status["state"] == "finished"


def test_the_saved_network_says_what_the_run_recorded(own_study: Path) -> None:
    runs, name = own_study, "tiny"
    study = open_study(name, runs)
    run = study.run(2)
    from trainers.datasets import open_dataset
    from trainers.features import prepare
    from trainers.inputs import load_inputs

    data = run.config["data"]
    dataset = open_dataset(data["source"], subset=data["subset"], fold=data["fold"])
    val = load_inputs(dataset, prepare(dataset), size=tuple(run.config["train_input"])).splits["val"]
    with torch.inference_mode():
        probabilities = study.model(2)(val.logmel_NTF.float().unsqueeze(1)).softmax(1).numpy()
    recorded = run.predictions("val")
    assert recorded is not None
    np.testing.assert_allclose(probabilities, recorded.probabilities_NK, atol=1e-4)


def test_killed_and_resumed_equals_undisturbed(own_study: Path) -> None:
    runs, name = own_study, "tiny"
    undisturbed = retrain(runs, name, 1, epochs=4, seed=1, device="cpu")
    expected = load_file(undisturbed.weights_path)
    shutil.rmtree(undisturbed.path)
    command = [
        sys.executable,
        "-m",
        "trainers.retrain",
        "--study",
        name,
        "--trial",
        "1",
        "--runs",
        str(runs),
        "--epochs",
        "4",
    ]
    process = subprocess.Popen(
        [*command, "--seed", "1", "--device", "cpu"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    run = Run(retrain_folder(runs, name, 1, "long", 4, 1))
    deadline = time.monotonic() + 120
    while not (run.path / "checkpoint.pt").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run.scores is None, "killed too late to say anything"
    assert not run.alive
    with pytest.raises(UserError, match="--resume"):
        retrain(runs, name, 1, epochs=4, seed=1, device="cpu")
    retrain(runs, name, 1, epochs=4, seed=1, device="cpu", resume=True)
    resumed = load_file(run.weights_path)
    assert all(torch.equal(expected[key], resumed[key]) for key in expected)
    assert [row["epoch"] for row in run.metrics()] == [1, 2, 3, 4]


def test_a_torn_checkpoint_and_anothers_are_refused(own_study: Path) -> None:
    runs, name = own_study, "tiny"
    run = retrain(runs, name, 1, epochs=1, device="cpu")
    (run.path / "scores.json").unlink()
    whole = (run.path / "checkpoint.pt").read_bytes()
    (run.path / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="torn"):
        retrain(runs, name, 1, epochs=1, device="cpu", resume=True)
    other = retrain(runs, name, 1, epochs=1, seed=7, device="cpu")
    shutil.copy(other.path / "checkpoint.pt", run.path / "checkpoint.pt")
    with pytest.raises(UserError, match="belongs to another training"):
        retrain(runs, name, 1, epochs=1, device="cpu", resume=True)


def test_one_folder_is_trained_by_one_process(own_study: Path) -> None:
    runs, name = own_study, "tiny"
    folder = retrain_folder(runs, name, 1, "long", 1, 0)
    folder.parent.mkdir()
    with (
        filelock.FileLock(folder.parent / f".{folder.name}.lock"),
        pytest.raises(UserError, match="by another process"),
    ):
        retrain(runs, name, 1, epochs=1)


def test_another_studys_retraining_is_not_taken_for_this_one(own_study: Path) -> None:
    runs, name = own_study, "tiny"
    retrain(runs, name, 1, epochs=1, device="cpu")
    path = runs / name / "trials" / "00001" / "run.json"
    path.write_text((runs / name / "trials" / "00002" / "run.json").read_text())
    with pytest.raises(UserError, match="is another study's"):
        retrain(runs, name, 1, epochs=1, device="cpu")


def test_signals_are_given_back(own_study: Path) -> None:
    runs, name = own_study, "tiny"
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    retrain(runs, name, 1, epochs=1, device="cpu")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_what_can_not_be_retrained_is_named(own_study: Path) -> None:
    runs, name = own_study, "tiny"
    with pytest.raises(UserError, match="no trained trial 99"):
        retrain(runs, name, 99)
    with pytest.raises(UserError, match="unknown recipe 'best'; known"):
        retrain(runs, name, 1, recipe="best")
    for seed in (-1, 2**31):
        with pytest.raises(UserError, match="--seed is from 0"):
            retrain(runs, name, 1, seed=seed)
    with pytest.raises(UserError, match="--epochs is at least 1"):
        retrain(runs, name, 1, epochs=0)


def test_other_data_than_the_studys_is_refused(own_study: Path) -> None:
    runs, name = own_study, "tiny"
    path = runs / name / "trials" / "00001" / "run.json"
    config = json.loads(path.read_text())
    config["data"]["digest"] = "0" * 64
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="is not what the study was made on"):
        retrain(runs, name, 1, epochs=1)


def test_weights_of_another_network_are_refused(own_study: Path) -> None:
    runs, name = own_study, "tiny"
    study = open_study(name, runs)
    shutil.copy(study.run(0).weights_path, study.run(1).weights_path)
    with pytest.raises(UserError, match="weights of another network"):
        load_model(study.run(1))
