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
from trainers.config import short
from trainers.datasets import Clip
from trainers.inputs import Inputs, Split
from trainers.metrics import log_loss
from trainers.recorded import load_model, train_recorded
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


def test_views_of_masks_are_scored_beside_the_plain_test(own_study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, name = own_study, "tiny"
    arguments = ["--study", name, "--trial", "1", "--runs", str(runs), "--epochs", "1", "--device", "cpu"]
    assert main([*arguments, "--tta", "3", "--json"]) == 0
    test = json.loads(capsys.readouterr().out)["test"]
    run = Run(retrain_folder(runs, name, 1, "long", 1, 0))
    assert test == run.scores
    tta = test.pop("tta")
    assert tta.pop("draws") == 3
    assert set(tta) == set(test) - {"split"}
    assert tta["n_clips"] == test["n_clips"] == 9
    assert tta["log_loss"] != test["log_loss"]
    said = run.predictions("test")  # the plain ones
    assert said is not None
    assert test["log_loss"] == pytest.approx(log_loss(said.probabilities_NK, said.labels_N))

    assert main([*arguments, "--tta", "3"]) == 0  # nothing is scored again
    assert "the same over 3 draws of masks" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UserError, match="has finished without --tta 5, and test is scored once"):
        retrain(runs, name, 1, epochs=1, device="cpu", tta=5)

    shutil.rmtree(run.path)
    plain = retrain(runs, name, 1, epochs=1, device="cpu")
    assert plain.scores == test
    with pytest.raises(UserError, match="has finished without --tta 3"):
        retrain(runs, name, 1, epochs=1, device="cpu", tta=3)


@pytest.mark.parametrize(("recipe", "epochs"), [("paper", 200), ("long", 60), ("mixstyle", 60)])
def test_nobody_says_how_long_but_the_recipe(own_study: Path, recipe: str, epochs: int) -> None:
    """Seen by the folder that it would train in, which another process holds."""
    folder = retrain_folder(own_study, "tiny", 1, recipe, epochs, 0)
    folder.parent.mkdir()
    with (
        filelock.FileLock(folder.parent / f".{folder.name}.lock"),
        pytest.raises(UserError, match=f"{folder.name} is being trained by another process"),
    ):
        main(["--study", "tiny", "--trial", "1", "--runs", str(own_study), "--recipe", recipe, "--device", "cpu"])


@pytest.mark.parametrize("network", ["sp4asc", "dsmn-1"])
def test_a_network_by_name_is_trained_and_its_weights_are_read_again(network: str, tmp_path: Path) -> None:
    """SP4ASC has parameters for each mel bin, DSMN makes a second channel of the log-mel it is handed."""
    generator = torch.Generator().manual_seed(0)
    clip = Clip(filename="x.wav", scene="a", group="g", split="train")
    splits = {
        name: Split(
            (3 * torch.randn(count, 32, 32, generator=generator) - 5).half(), torch.arange(count) % 3, (clip,) * count
        )
        for name, count in (("train", 32), ("val", 6))
    }
    inputs = Inputs(splits, torch.full((32,), -5.0), torch.full((32,), 3.0), ("a", "b", "c"))
    run = Run(tmp_path)
    run.write_json(
        "run.json", {"architecture": network, "data": {"classes": list(inputs.classes)}, "train_input": [32, 32]}
    )
    _, said = train_recorded(run, network, inputs, short(), 96, 0, torch.device("cpu"))
    assert run.metrics()[-1]["clips_seen"] == 96
    with torch.inference_mode():
        probabilities = load_model(run)(splits["val"].logmel_NTF.float().unsqueeze(1)).softmax(1).numpy()
    np.testing.assert_allclose(probabilities, said.probabilities_NK, atol=1e-5)


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
    with pytest.raises(UserError, match="--tta is a number of draws of the recipe's masks, from 0; got -1"):
        retrain(runs, name, 1, tta=-1)
    with pytest.raises(UserError, match="got 5, and recipe 'short' has 0 masks"):
        retrain(runs, name, 1, recipe="short", tta=5)
    assert not (runs / name / "retrain").exists()


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
