"""A full retraining of a study's network: what it leaves, how it goes on, what it refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import soundfile
import torch
from conftest import write_esc_folder
from rich.console import Console
from safetensors.torch import load_file, save_file

import trainers.retrain
from search_space.complexity import count_network
from search_space.errors import UserError, open_console
from search_space.presets import recorded
from studies import open_study
from studies.jobs import Job
from trainers.config import RECIPES, Recipe, get_recipe, short
from trainers.datasets import Clip, open_dataset
from trainers.inputs import Inputs, Split, data_record, load_inputs
from trainers.loop import Stopped, bfloat16_pays, resolve_device, seeded_model
from trainers.metrics import log_loss
from trainers.opening import open_data
from trainers.recorded import load_model, train_recorded
from trainers.retrain import _data_name, _read_back, main, retrain
from trainers.runs import Run, network_folder, processor_name, retrain_folder

ROOT = Path(__file__).parent.parent


def test_it_scores_test_once_at_full_size(own_study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, name = own_study, "tiny"
    arguments = ["--study", name, "--trial", "1", "--runs", str(runs), "--epochs", "2", "--device", "cpu"]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    run = Run(retrain_folder(runs, name, 1, "strong", 2, 0))
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


def test_a_long_epoch_says_how_far_it_is(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("_FIRST_WORD_S", "LINE_EVERY_S"):
        monkeypatch.setattr(f"trainers.retrain.{name}", 0.0)
    options = [
        "--architecture",
        "dssdn_c8-12_r0.5_sc_h16",
        "--data",
        str(tiny_folder),
        "--runs",
        str(tmp_path),
        "--epochs",
        "2",
    ]
    assert main([*options, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "27 of 54 clips seen, less than 10 s left" in said
    assert "0.0 min" not in said


def test_a_study_that_is_not_there_is_named_with_those_that_are(own_study: Path) -> None:
    with pytest.raises(UserError, match=r"no study 'tinny' in .*; did you mean 'tiny'\? known: \['tiny'\]"):
        main(["--study", "tinny", "--trial", "1", "--runs", str(own_study)])
    with pytest.raises(UserError, match="study 'tiny' has no trained trial 77"):
        main(["--study", "tiny", "--trial", "77", "--runs", str(own_study)])


def test_steps_of_no_pruning_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    options = ["--architecture", "dssdn_c8-12_r0.5_sc_h16", "--data", str(tiny_folder), "--runs", str(tmp_path)]
    with pytest.raises(UserError, match=r"--prune-steps 8 is about --prune; give --prune 0\.5 as well"):
        main([*options, "--prune-steps", "8"])
    assert not (tmp_path / "retrain").exists()


def test_views_of_masks_are_scored_beside_the_plain_test(own_study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, name = own_study, "tiny"
    arguments = [
        "--study",
        name,
        "--trial",
        "1",
        "--runs",
        str(runs),
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--recipe",
        "paper",
    ]
    assert main([*arguments, "--tta", "3", "--json"]) == 0
    test = json.loads(capsys.readouterr().out)["test"]
    run = Run(retrain_folder(runs, name, 1, "paper", 1, 0))
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
        retrain(runs, name, 1, epochs=1, recipe="paper", device="cpu", tta=5)

    shutil.rmtree(run.path)
    plain = retrain(runs, name, 1, epochs=1, recipe="paper", device="cpu")
    assert plain.scores == test
    with pytest.raises(UserError, match="has finished without --tta 3"):
        retrain(runs, name, 1, epochs=1, recipe="paper", device="cpu", tta=3)


@pytest.mark.parametrize(("recipe", "epochs"), [("paper", 200), ("strong", 60), ("mixstyle", 60)])
def test_nobody_says_how_long_but_the_recipe(own_study: Path, recipe: str, epochs: int) -> None:
    """Seen by the folder that it would train in, which another process holds."""
    folder = retrain_folder(own_study, "tiny", 1, recipe, epochs, 0)
    folder.parent.mkdir()
    with (
        filelock.FileLock(folder.parent / f".{folder.name}.lock"),
        pytest.raises(UserError, match=f"{folder.name} is being trained by another process"),
    ):
        main(["--study", "tiny", "--trial", "1", "--runs", str(own_study), "--recipe", recipe, "--device", "cpu"])


@pytest.mark.parametrize(
    "network",
    ["sp4asc", "dsmn-1", "cp-mobile-s1", "repm_c2-4-4_b2_x6-6", "cp-resnet", "bcr_c8-4-6_b1-2", "tfs_c2-8-4-6_b1-2"],
)
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


SMALL = "dssdn_c8-12_r0.5_sc_h8"


SAVING = (
    "import sys, trainers.recorded, trainers.retrain\n"
    "from search_space.errors import run_command\n"
    "trainers.recorded.SAVE_EVERY_S = 0.0\n"
    "run_command(lambda: trainers.retrain.main(sys.argv[1:]))\n"
)
"""The command with a checkpoint before every batch."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four batches an epoch, where the tiny folder has one."""
    return write_esc_folder(tmp_path_factory.mktemp("four-batches") / "esc", clips_per_fold=12)


def again(runs: Path, folder: Path, *, seed: int = 1, **options: Any) -> Run:
    """Four epochs of a small network, in this process."""
    named: dict[str, Any] = {"architecture": SMALL, "data": str(folder), "epochs": 4, "device": "cpu"}
    return retrain(runs, **{**named, **options}, seed=seed)


def command(runs: Path, folder: Path, *options: str) -> list[str]:
    """The same for a process of its own."""
    named = ["--architecture", SMALL, "--data", str(folder), "--runs", str(runs), "--epochs", "4", "--seed", "1"]
    return [sys.executable, "-m", "trainers.retrain", *named, "--device", "cpu", *options]


def wait_for(what: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while not what() and process.poll() is None:
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.002)


def start(arguments: list[str], **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)


def assert_same_weights(run: Run, expected: dict[str, torch.Tensor]) -> None:
    found = load_file(run.weights_path)
    assert set(found) == set(expected)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


class TestGoingOn:
    @pytest.fixture(scope="class")
    @classmethod
    def undisturbed(cls, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
        """The weights of four epochs without a break."""
        return load_file(again(tmp_path_factory.mktemp("undisturbed"), folder).weights_path)

    @pytest.fixture
    def runs(self, tmp_path: Path) -> Path:
        return tmp_path / "runs"

    @pytest.fixture
    def run(self, runs: Path) -> Run:
        return Run(network_folder(runs, "esc", SMALL, "strong", 4, 1))

    @pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.slow)])
    def test_kills_at_random_moments_change_no_bit(
        self, runs: Path, folder: Path, undisturbed: dict[str, torch.Tensor], run: Run, kills: int
    ) -> None:
        """After each kill another process goes on; finished runs are compared and begun again. A moment is any in the two seconds, about
        what the run takes, from when a process has written what it trains."""
        draw, done, finished, underway = random.Random(kills), 0, 0, False
        arguments = [sys.executable, "-c", SAVING, *command(runs, folder, "--resume")[3:]]
        within = 0
        while done < kills or underway or not finished:
            before = self._touched(run)
            process = start(arguments)
            wait_for(lambda before=before: self._touched(run) != before, process)  # type: ignore[misc]
            if done < kills:
                moment = time.monotonic() + draw.uniform(0, 2)
                while time.monotonic() < moment and process.poll() is None:
                    time.sleep(0.001)
                process.kill()
            process.wait()
            underway = run.scores is None
            if process.returncode == -signal.SIGKILL:
                done += 1
                assert not run.alive
                if (run.path / "checkpoint.pt").exists():
                    within += torch.load(run.path / "checkpoint.pt", weights_only=True)["batch"] > 0
            if not underway:
                assert_same_weights(run, undisturbed)
                assert [row["epoch"] for row in run.metrics()] == [1, 2, 3, 4]
                finished += 1
                shutil.rmtree(run.path)
        assert done == kills
        assert within or kills < 10, "no kill met a checkpoint within an epoch"

    def _touched(self, run: Run) -> int:
        path = run.path / "run.json"
        return path.stat().st_mtime_ns if path.exists() else 0

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_asked_to_end_it_keeps_the_batches_of_the_epoch_under_way(
        self, runs: Path, folder: Path, undisturbed: dict[str, torch.Tensor], run: Run, number: int
    ) -> None:
        process = subprocess.Popen(command(runs, folder), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wait_for(lambda: bool(run.metrics()), process)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "The same command with --resume goes on" in " ".join(said.decode().split())
        assert run.status["state"] == "interrupted"
        kept = torch.load(run.path / "checkpoint.pt", weights_only=True)
        assert kept["epoch"] >= 1
        assert run.scores is None
        resumed = again(runs, folder, resume=True)
        assert_same_weights(resumed, undisturbed)
        assert len(resumed.provenance["resumed_from"]) == 1

    @pytest.mark.parametrize("batches", [1, 14])
    def test_within_an_epoch(self, folder: Path, run: Run, batches: int) -> None:
        """Stopped before its second batch, or, all of the epoch's 14 seen, before the first one of val: nothing else has been kept by then."""
        dataset, features = open_data(open_console(stderr=True), str(folder))
        config = {"architecture": SMALL, "data": data_record(dataset, features)}
        inputs, recipe = load_inputs(dataset, features), get_recipe("strong")
        recipe = dataclasses.replace(recipe, batch_size=8)
        arguments = (SMALL, inputs, recipe, 2 * len(inputs.splits["train"]), 0, torch.device("cpu"))
        whole, _ = train_recorded(self._run(run.path / "whole", config, recipe), *arguments, keep_checkpoints=True)
        broken, calls = self._run(run.path / "broken", config, recipe), iter([*[None] * batches, Stopped()])

        def check() -> None:
            if error := next(calls, None):
                raise error

        with pytest.raises(Stopped):
            train_recorded(broken, *arguments, keep_checkpoints=True, check=check)
        kept = torch.load(broken.path / "checkpoint.pt", weights_only=True)
        assert (kept["epoch"], kept["batch"], kept["clips"]) == (0, batches, {1: 8, 14: 108}[batches])
        resumed, _ = train_recorded(broken, *arguments, keep_checkpoints=True, resume=True)
        for name, value in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], value), name

    def _run(self, path: Path, config: dict[str, Any], recipe: Recipe) -> Run:
        run = Run(path)
        run.write_json("run.json", {**config, "recipe": recipe.record(), "clips": 0, "seed": 0})
        return run

    @pytest.mark.parametrize("how", ["cut", "one byte", "nothing in it", "another file"])
    def test_a_torn_checkpoint_is_refused_and_the_previous_one_used(
        self, runs: Path, folder: Path, undisturbed: dict[str, torch.Tensor], run: Run, how: str
    ) -> None:
        console = Console(file=io.StringIO(), width=1000)
        again(runs, folder)
        (run.path / "scores.json").unlink()
        path = run.path / "checkpoint.pt"
        whole = path.read_bytes()
        tensors = torch.load(path, weights_only=True)["model"].values()
        middle = (
            whole.index(max(tensors, key=torch.numel).numpy().tobytes()) + 1
        )  # within what is summed, not in the gaps
        path.write_bytes(
            {
                "cut": whole[:middle],
                "one byte": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
                "nothing in it": b"",
                "another file": b"not a checkpoint",
            }[how]
        )
        again(runs, folder, resume=True, console=console)
        said = console.file.getvalue()  # type: ignore[attr-defined]
        assert "checkpoint.pt is torn" in said
        assert "going on from the one before, after epoch 3" in said
        assert "epoch 4/4" in said
        assert "epoch 3/4" not in said
        assert_same_weights(run, undisturbed)

    def test_a_kill_right_after_a_torn_one_was_replaced_finds_a_good_one(
        self, runs: Path, folder: Path, undisturbed: dict[str, torch.Tensor], run: Run
    ) -> None:
        """The torn file is out of the way before the next one is written: neither of the two names is ever a torn file's again."""
        again(runs, folder)
        (run.path / "scores.json").unlink()
        (run.path / "checkpoint.pt").write_bytes(b"torn")
        process = start([sys.executable, "-c", SAVING, *command(runs, folder, "--resume")[3:]])
        wait_for(lambda: (run.path / "checkpoint.refused.pt").exists(), process)
        process.kill()
        process.wait()
        assert (run.path / "checkpoint.refused.pt").read_bytes() == b"torn"
        for path in run.path.glob("checkpoint*.pt"):
            assert path.name == "checkpoint.refused.pt" or torch.load(path, weights_only=True)["epoch"] >= 3
        again(runs, folder, resume=True)
        assert_same_weights(run, undisturbed)

    def test_one_that_can_not_be_read_is_not_called_torn(
        self, runs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = again(runs, folder, epochs=1)
        (run.path / "scores.json").unlink()
        before = (run.path / "checkpoint.pt").read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(torch, "load", _raise(MemoryError()))
            with pytest.raises(UserError, match="free memory and go on with --resume"):
                again(runs, folder, epochs=1, resume=True)
        assert (run.path / "checkpoint.pt").read_bytes() == before
        (run.path / "checkpoint.pt").rename(run.path / "kept")
        (run.path / "checkpoint.pt").mkdir()
        with pytest.raises(UserError, match=r"checkpoint\.pt can not be read \(Is a directory\); it may be whole"):
            again(runs, folder, epochs=1, resume=True)
        assert not (run.path / "checkpoint.refused.pt").exists()
        assert "can not be read" in run.status["error"]

    def test_another_precision_is_refused_where_something_is_trained(self, runs: Path, folder: Path) -> None:
        run = again(runs, folder, epochs=1)
        config = run.config
        inputs = load_inputs(*open_data(open_console(stderr=True), str(folder)))
        pays = bfloat16_pays(torch.device("cpu"), seeded_model(SMALL, 3, 0, inputs.size[1]))
        assert config["precision"] == ("bfloat16" if pays else "float32")
        assert run.provenance["machine"]["processor"] == processor_name()
        (run.path / "scores.json").unlink()
        other = "float32" if pays else "bfloat16"
        run.write_json("run.json", {**config, "precision": other})
        with pytest.raises(UserError, match=f"began in {other}, and cpu of this machine trains it in"):
            again(runs, folder, epochs=1, resume=True)
        for path in run.path.glob("checkpoint*.pt"):
            path.unlink()
        assert again(runs, folder, epochs=1, resume=True).config == config

    def test_where_nothing_lies_it_says_that_it_begins(self, runs: Path, folder: Path) -> None:
        console = Console(file=io.StringIO(), width=1000)
        run = again(runs, folder, epochs=1, resume=True, console=console)
        assert f"nothing to go on from in {run.path}: this begins" in console.file.getvalue()  # type: ignore[attr-defined]

    @pytest.mark.slow
    def test_options_are_those_that_it_began_with(self, runs: Path, folder: Path) -> None:
        run = again(runs, folder, recipe="paper", accumulate=2, tta=2)
        whole = load_file(run.weights_path)
        shutil.rmtree(run.path)
        process = start(command(runs, folder, "--recipe", "paper", "--accumulate", "2", "--tta", "2"))
        wait_for((run.path / "checkpoint.pt").exists, process)
        process.terminate()
        process.wait()
        written = (run.path / "run.json").read_bytes()
        with pytest.raises(UserError, match="began with --accumulate 2, which its end must have as well"):
            again(runs, folder, recipe="paper", resume=True, accumulate=4)
        assert (run.path / "run.json").read_bytes() == written
        resumed = again(runs, folder, recipe="paper", resume=True)
        assert_same_weights(resumed, whole)
        assert resumed.scores is not None
        assert resumed.scores["tta"]["draws"] == 2

    def test_an_earlier_recipe_of_the_name_is_not_taken_for_this_one(self, runs: Path, folder: Path, run: Run) -> None:
        again(runs, folder)
        config = run.config
        run.write_json("run.json", {**config, "recipe": {**config["recipe"], "lr": 1.0}})
        with pytest.raises(UserError, match=r"was trained by an earlier recipe 'strong' \(lr 1.0, now 0.008\)"):
            again(runs, folder)

    def test_anothers_checkpoint_is_refused_and_none_left_ends_it(self, runs: Path, folder: Path, run: Run) -> None:
        again(runs, folder)
        other = again(runs, folder, seed=7)
        (run.path / "scores.json").unlink()
        shutil.copy(other.path / "checkpoint.pt", run.path / "checkpoint.pt")
        (run.path / "checkpoint.previous.pt").write_bytes(b"")
        with pytest.raises(UserError, match=r"belongs to another training.*; .*previous\.pt is torn.*to start again"):
            again(runs, folder, resume=True)

    def test_a_kill_between_two_names_leaves_the_previous_one(
        self, runs: Path, folder: Path, undisturbed: dict[str, torch.Tensor], run: Run
    ) -> None:
        again(runs, folder)
        (run.path / "scores.json").unlink()
        (run.path / "checkpoint.pt").unlink()
        again(runs, folder, resume=True)
        assert_same_weights(run, undisturbed)

    def test_a_full_disk_loses_nothing(
        self, runs: Path, folder: Path, undisturbed: dict[str, torch.Tensor], run: Run
    ) -> None:
        """Files of half a checkpoint's size cannot be written for a while."""
        process = start(command(runs, folder))
        wait_for((run.path / "checkpoint.pt").exists, process)
        process.kill()
        process.wait()
        assert run.scores is None, "killed too late to say anything"
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, ((run.path / "checkpoint.pt").stat().st_size // 2, hard))
        try:
            with pytest.raises(
                UserError, match=r"cannot be written \(File too large\); what was saved before is whole"
            ):
                again(runs, folder, resume=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        again(runs, folder, resume=True)
        assert_same_weights(run, undisturbed)
        assert not [path for path in run.path.iterdir() if path.name.startswith(".")]

    def test_weights_that_are_not_those_trained_are_noticed(self, runs: Path, folder: Path, run: Run) -> None:
        again(runs, folder)
        tensors = load_file(run.weights_path)
        val = run.predictions("val")
        assert val is not None
        inputs = load_inputs(*open_data(open_console(stderr=True), str(folder)))
        assert isinstance(_read_back(run, inputs, val, torch.device("cpu")), torch.nn.Module)
        name = next(name for name in tensors if name.startswith("head.classes.weight"))
        save_file(tensors | {name: -tensors[name]}, run.weights_path)
        with pytest.raises(UserError, match="does not hold what was trained: read back, it scores"):
            _read_back(run, inputs, val, torch.device("cpu"))


def test_the_command_leaves_what_nobody_says_as_it_began(
    own_study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the page starts it, on a machine that has a GPU by now."""
    run = retrain(own_study, "tiny", 1, epochs=1, device="cpu", accumulate=2)
    (run.path / "scores.json").unlink()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == "cuda"
    assert main(Job("tiny", own_study, 1, epochs=1).command(resume=True)[2:]) == 0
    assert (run.config["device"], run.config["accumulate"]) == ("cpu", 2)
    assert "test fold scored once" in capsys.readouterr().out


def _raise(error: Exception) -> Callable[..., Any]:
    def raising(*_: Any, **__: Any) -> Any:
        raise error

    return raising


class TestFullMemory:
    """What torch, safetensors or the system raise, raised for them."""

    def _run(self, runs: Path) -> Run:
        return Run(network_folder(runs, "esc", SMALL, "strong", 4, 1))

    @pytest.mark.parametrize("error", [torch.OutOfMemoryError("x"), RuntimeError("could not create a primitive")])
    def test_in_the_first_epoch_smaller_parts_are_the_way(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        monkeypatch.setattr(torch.Tensor, "backward", _raise(error))
        words = "a batch of 32 clips at 44x256 does not fit into the memory of cpu; give --resume --accumulate 2"
        with pytest.raises(UserError, match=words):
            again(tmp_path, folder)
        assert self._run(tmp_path).status["state"] == "failed"
        assert words in self._run(tmp_path).status["error"]

    def test_once_something_is_trained_they_are_not(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls, backward = 0, torch.Tensor.backward

        def failing(tensor: torch.Tensor, *arguments: Any, **options: Any) -> None:
            nonlocal calls
            if (calls := calls + 1) > 4:  # an epoch has four batches
                raise torch.OutOfMemoryError("x")
            backward(tensor, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "backward", failing)
            words = "free memory and go on with --resume, or begin again with another --seed and --accumulate 2"
            with pytest.raises(UserError, match=words):
                again(tmp_path, folder)
        assert words in self._run(tmp_path).status["error"]
        assert self._run(tmp_path).status["epoch"] == 1
        assert again(tmp_path, folder, resume=True).scores is not None

    @pytest.mark.parametrize("where", ["psutil.virtual_memory", "trainers.recorded.load_file"])
    def test_before_and_after_training_it_is_said_too(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
    ) -> None:
        """As the log-mels are loaded, as the weights are read back."""
        with monkeypatch.context() as patch:
            patch.setattr(where, _raise(MemoryError()))
            with pytest.raises(UserError, match=r"the memory is full .*free memory and go on with --resume"):
                again(tmp_path, folder, epochs=1)
        run = Run(network_folder(tmp_path, "esc", SMALL, "strong", 1, 1))
        assert run.status.get("state") == (None if where.startswith("psutil") else "failed")
        assert again(tmp_path, folder, epochs=1, resume=True).scores is not None


class TestAskedToEndAtTheEnd:
    @pytest.fixture
    def arguments(self, folder: Path, tmp_path: Path) -> list[str]:
        return command(tmp_path, folder, "--epochs", "1")[3:]

    def _signalled(self, patch: pytest.MonkeyPatch, name: str, when: Callable[..., bool]) -> None:
        """The process gets a SIGTERM as it calls that function of the retraining."""
        function = getattr(trainers.retrain, name)

        def signalling(*arguments: Any, **options: Any) -> Any:
            if when(*arguments):
                os.kill(os.getpid(), signal.SIGTERM)
            return function(*arguments, **options)

        patch.setattr(trainers.retrain, name, signalling)

    def test_while_test_is_scored_it_ends_and_scores_when_it_goes_on(
        self, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with monkeypatch.context() as patch:
            self._signalled(patch, "predictions", lambda model, inputs, split, device: split == "test")
            with pytest.raises(KeyboardInterrupt):
                main(arguments)
        run = Run(network_folder(tmp_path, "esc", SMALL, "strong", 1, 1))
        assert (run.scores, run.status["state"]) == (None, "interrupted")
        assert "The same command with --resume goes on" in " ".join(capsys.readouterr().out.split())
        assert main([*arguments, "--resume"]) == 0
        assert run.scores is not None

    @pytest.mark.parametrize("seeds", [1, 2])
    def test_a_run_that_has_finished_by_then_is_printed(
        self, arguments: list[str], seeds: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """No other seed begins."""
        self._signalled(monkeypatch, "scores", lambda *_: True)
        with contextlib.nullcontext() if seeds == 1 else pytest.raises(KeyboardInterrupt):
            assert main([*arguments, "--seeds", str(seeds)]) == 0
        said = capsys.readouterr().out
        assert "test fold scored once" in said
        assert "seed 2" not in said


def test_paths_are_printed_as_they_are(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rich would take a part of these for markup."""
    runs = tmp_path / "runs [" / "red] [bold]"
    data = shutil.copytree(tiny_folder, tmp_path / "data [" / "red] [bold]" / "esc")
    arguments = ["--architecture", SMALL, "--data", str(data), "--runs", str(runs), "--epochs", "1", "--device", "cpu"]
    assert main(arguments) == 0
    assert f"everything is in {runs}".replace(" ", "") in "".join(capsys.readouterr().out.split())
    assert main(arguments) == 0
    assert f"{runs}/retrain".replace(" ", "") in "".join(capsys.readouterr().out.split())


def test_a_full_disk_before_the_first_checkpoint_counts_no_epoch(folder: Path, tmp_path: Path) -> None:
    open_data(open_console(stderr=True), str(folder))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, hard))
    try:
        with pytest.raises(UserError, match=r"cannot be written \(File too large\)"):
            again(tmp_path, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    status = Run(network_folder(tmp_path, "esc", SMALL, "strong", 4, 1)).status
    assert (status["state"], status["epoch"]) == ("failed", 0)
    assert "Make room" in status["error"]


def test_what_others_keep_in_the_folder_stays(tiny_folder: Path, tmp_path: Path) -> None:
    run = again(tmp_path, tiny_folder, epochs=1)
    (run.path / "scores.json").unlink()
    (run.path / ".notes").write_text("mine")
    (run.path / ".cache").mkdir()
    again(tmp_path, tiny_folder, epochs=1, resume=True)
    assert (run.path / ".notes").read_text() == "mine"
    assert (run.path / ".cache").is_dir()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no folder that nobody can write to")
def test_runs_that_can_not_be_written_are_named_before_data_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--runs /proc/x can not be written \(No such file or directory\)"):
        retrain(Path("/proc/x"), architecture=SMALL, data=str(tmp_path / "no-data"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_it_is_read_back_and_goes_on(folder: Path, tmp_path: Path) -> None:
    run = again(tmp_path, folder, device="cuda", accumulate=2)
    assert run.status["state"] == "finished"  # the weights that were read back say what the trained ones said
    assert run.config["device"] == "cuda"
    losses = [row["loss"] for row in run.metrics()]
    (run.path / "scores.json").unlink()
    (run.path / "checkpoint.pt").unlink()
    resumed = again(tmp_path, folder, device=None, resume=True)
    assert (resumed.config["device"], resumed.config["accumulate"]) == ("cuda", 2)
    assert [row["loss"] for row in resumed.metrics()] == pytest.approx(losses, rel=0.1)


class TestANamedNetwork:
    def test_another_fold_or_part_is_another_run(self, tiny_folder: Path, tmp_path: Path) -> None:
        options: dict[str, Any] = {"architecture": SMALL, "data": str(tiny_folder), "epochs": 1, "device": "cpu"}
        first = retrain(tmp_path / "runs", **options)
        other = retrain(tmp_path / "runs", **options, fold=2)
        assert (first.path.name, other.path.name) == (
            f"esc-{SMALL}-strong-e1-s0",
            f"esc-fold2-{SMALL}-strong-e1-s0",
        )
        assert (first.config["data"]["fold"], other.config["data"]["fold"]) == (5, 2)
        names = [path.name for path in (tiny_folder / "audio").iterdir()]
        (tmp_path / "half.csv").write_text("\n".join(["filename", *sorted(names)[::2], *sorted(names)[1::2]]))
        half = open_dataset(str(tiny_folder), subset=str(tmp_path / "half.csv"), fold=1)
        assert _data_name(half) == "esc-half-fold1"
        unsaid = dataclasses.replace(half, name="esc10")  # as a list of clips of ESC-10 alone is called
        assert _data_name(unsaid) == "esc10-half-fold1"

    @pytest.mark.parametrize("network", ["dssdn-small", "dssdn_c8-12_r0.25_osc.m4_h8", "mobilenet-v2"])
    def test_is_trained_without_a_study(
        self, network: str, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["--architecture", network, "--data", str(tiny_folder), "--runs", str(tmp_path), "--epochs", "1"]
        assert main([*arguments, "--device", "cpu", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        run = Run(tmp_path / "retrain" / f"esc-{network}-strong-e1-s0")
        assert report["run"] == str(run.path)
        assert report["study"] is None
        assert report["trial"] is None
        assert report["preset"] == (None if network.startswith("dssdn_") else network)
        assert report["params"] == count_network(network, (44, 256), 3).params
        assert report["test"]["n_clips"] == 9
        assert main(arguments) == 0  # again: handed back
        assert "has finished already" in " ".join(capsys.readouterr().out.split())

    def test_a_run_recorded_by_name_is_that_of_the_notation(self, tiny_folder: Path, tmp_path: Path) -> None:
        """As CP-ResNet's were while it had none."""
        options: dict[str, Any] = {"data": str(tiny_folder), "epochs": 1, "device": "cpu"}
        stop = threading.Event()
        stop.set()
        with pytest.raises(KeyboardInterrupt):
            retrain(tmp_path, architecture="cp-resnet", **options, stop=stop)
        [path] = (tmp_path / "retrain").glob("*/run.json")
        record = json.loads(path.read_text())
        assert record["architecture"] == recorded("cp-resnet") != "cp-resnet"
        path.write_text(json.dumps({**record, "architecture": "cp-resnet"}))
        checkpoint = path.with_name("checkpoint.pt")
        state = torch.load(checkpoint, weights_only=True)
        state["identity"] = state["identity"].replace(recorded("cp-resnet"), "cp-resnet")
        torch.save(state, checkpoint)
        made = retrain(tmp_path, architecture="cp-resnet", **options, resume=True)
        again = retrain(tmp_path, architecture=recorded("cp-resnet"), **options)
        assert made.path == again.path == path.parent
        assert made.scores == again.scores is not None
        assert again.config["architecture"] == "cp-resnet"

    def test_several_seeds_are_summed_up(
        self, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["--architecture", "dssdn_c8-12_r0.5_sc_h8", "--data", str(tiny_folder), "--runs", str(tmp_path)]
        assert main([*arguments, "--epochs", "1", "--seed", "3", "--seeds", "2", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert [document["seed"] for document in report["runs"]] == [3, 4]
        tests = [document["test"]["accuracy"] for document in report["runs"]]
        assert report["summary"]["seeds"] == [3, 4]
        assert report["summary"]["test_mean"] == pytest.approx(sum(tests) / 2)
        assert report["summary"]["test_std"] == pytest.approx(abs(tests[0] - tests[1]) / 2**0.5)
        assert report["summary"]["test_unseen_std"] is None
        assert main([*arguments, "--epochs", "1", "--seed", "3", "--seeds", "2"]) == 0
        assert "2 seeds" in capsys.readouterr().out

    def test_other_data_of_the_same_name_is_not_taken_for_this_one(
        self, tiny_folder: Path, make_folder: Callable[..., Path], tmp_path: Path
    ) -> None:
        options: dict[str, Any] = {"architecture": "dssdn_c8-12_r0.5_sc_h8", "epochs": 1, "device": "cpu"}
        retrain(tmp_path / "runs", data=str(tiny_folder), **options)
        other = make_folder()
        sound = next((other / "audio").glob("*.wav"))
        waveform, rate = soundfile.read(sound)
        soundfile.write(sound, waveform * 0.5, rate)
        with pytest.raises(UserError, match="is another study's or other data's"):
            retrain(tmp_path / "runs", data=str(other), **options)

    def test_who_names_it_twice_or_not_at_all_is_told(self, tiny_folder: Path, tmp_path: Path) -> None:
        data = str(tiny_folder)
        with pytest.raises(UserError, match="--study NAME --trial N, or --architecture NETWORK"):
            retrain(tmp_path)
        with pytest.raises(UserError, match="--study NAME --trial N, or"):
            retrain(tmp_path, "tiny")
        with pytest.raises(UserError, match="not by both"):
            retrain(tmp_path, "tiny", 1, architecture="dssdn-small", data=data)
        with pytest.raises(UserError, match="--data goes with --architecture"):
            retrain(tmp_path, "tiny", 1, data=data)
        with pytest.raises(UserError, match="--fold goes with --architecture"):
            retrain(tmp_path, "tiny", 1, fold=2)
        with pytest.raises(UserError, match=r"unknown network 'dssdn-huge'; .*known"):
            retrain(tmp_path, architecture="dssdn-huge", data=data)
        with pytest.raises(UserError, match="--accumulate is from 1 to 16, which leaves two"):
            retrain(tmp_path, architecture="dssdn-small", data=data, accumulate=17)
        with pytest.raises(UserError, match="--seeds is at least 1, not 0"):
            main(["--architecture", "dssdn-small", "--data", data, "--seeds", "0"])
        with pytest.raises(UserError, match="--seed is from 0"):
            main(["--architecture", "dssdn-small", "--data", data, "--seed", str(2**31 - 1), "--seeds", "2"])
        assert not list(tmp_path.iterdir())


def test_tensorboard_reads_the_curve(own_study: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = retrain(own_study, "tiny", 1, epochs=2, device="cpu", tensorboard=True)
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    rows = run.metrics()
    for name in ("loss", "val_accuracy", "lr"):
        points = events.Scalars(name)
        assert [point.step for point in points] == [row["clips_seen"] for row in rows]
        assert [point.value for point in points] == pytest.approx([row[name] for row in rows])


def test_tensorboard_holds_no_epoch_twice_after_a_refused_checkpoint(own_study: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = retrain(own_study, "tiny", 1, epochs=3, device="cpu", tensorboard=True)
    (run.path / "scores.json").unlink()
    (run.path / "checkpoint.pt").write_bytes(b"torn")
    retrain(own_study, "tiny", 1, epochs=3, device="cpu", tensorboard=True, resume=True)
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    assert [point.step for point in events.Scalars("loss")] == [row["clips_seen"] for row in run.metrics()]
    assert len(run.metrics()) == 3
    (run.path / "scores.json").unlink()
    curve = (run.path / "metrics.jsonl").stat().st_ino
    retrain(own_study, "tiny", 1, epochs=3, device="cpu", resume=True)
    assert (run.path / "metrics.jsonl").stat().st_ino == curve  # who follows the file goes on with it


def test_memory_that_is_full_is_said_with_what_to_do(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step asks for more memory than any machine has; the error is the allocator's own."""
    arguments = {"architecture": SMALL, "data": str(tiny_folder), "epochs": 2, "device": "cpu"}
    with monkeypatch.context() as full:
        full.setattr(torch.optim.AdamW, "step", lambda *_: torch.empty(1 << 60))
        with pytest.raises(UserError) as caught:
            retrain(tmp_path, **arguments)  # type: ignore[arg-type]
    advice = "a batch of 32 clips at 44x256 does not fit into the memory of cpu; give --resume --accumulate 2"
    assert advice in str(caught.value)
    run = Run(next((tmp_path / "retrain").glob("esc-*")))
    assert run.status["state"] == "failed"
    assert "--accumulate 2" in run.status["error"]
    retrain(tmp_path, **arguments, resume=True, accumulate=2)  # type: ignore[arg-type]
    assert run.status["state"] == "finished"


def test_a_loss_that_is_not_finite_ends_it_with_what_is_kept(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recipe whose learning rate no network survives."""
    steep = dataclasses.replace(get_recipe("strong"), name="steep", lr=1e30, schedule="cosine")
    monkeypatch.setitem(RECIPES, "steep", lambda: steep)
    arguments = {"architecture": SMALL, "data": str(tiny_folder), "recipe": "steep", "epochs": 5, "device": "cpu"}
    with pytest.raises(
        UserError, match=r"epoch \d.*what \d epochs trained is kept in .*choose another --recipe or --seed"
    ):
        retrain(tmp_path, **arguments)  # type: ignore[arg-type]
    run = Run(next((tmp_path / "retrain").glob("esc-*")))
    assert run.status["state"] == "failed"
    for path in run.path.glob("checkpoint*.pt"):
        assert all(bool(value.isfinite().all()) for value in torch.load(path, weights_only=True)["model"].values())


def test_one_folder_is_trained_by_one_process(own_study: Path) -> None:
    runs, name = own_study, "tiny"
    folder = retrain_folder(runs, name, 1, "strong", 1, 0)
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


@pytest.mark.parametrize("content", [b"", b"not weights", b"\xff" * 100])
def test_torn_weights_are_named(own_study: Path, content: bytes) -> None:
    run = open_study("tiny", own_study).run(1)
    run.weights_path.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.safetensors is torn or no safetensors file"):
        load_model(run)
