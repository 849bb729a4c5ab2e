"""Grids of trainings: stopped, they keep what has finished and go on with the rest; other runs are refused."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from search_space.errors import UserError
from studies.grid import Failures, Hands, Planned, choose_hands, train_all, unfinished
from trainers.config import get_recipe
from trainers.datasets import open_dataset
from trainers.features import prepare
from trainers.inputs import data_record
from trainers.runs import Run
from trainers.workers import WorkerTask

ADVICE = "name another folder"


class Terminal(io.StringIO):
    """A terminal in which somebody presses Ctrl-C when these words appear."""

    words: str | None = None

    def write(self, text: str) -> int:
        if self.words is not None and self.words in text:
            raise KeyboardInterrupt
        return super().write(text)


@pytest.fixture
def task(tiny_folder: Path) -> WorkerTask:
    dataset = open_dataset(str(tiny_folder))
    return WorkerTask(dataset, prepare(dataset).digest, (16, 16), get_recipe("short"), 32, threads=1)


@pytest.fixture
def planned(task: WorkerTask, tmp_path: Path) -> list[Planned]:
    """Four trainings of one small network."""
    common: dict[str, Any] = {
        "architecture": "dssdn_c4-6_r0.5_sc_h8",
        "data": data_record(task.dataset, prepare(task.dataset)),
        "train_input": list(task.train_input),
        "recipe": task.recipe.record(),
        "clips": task.budget,
        "command": "tests",
    }
    return [Planned("small", Run(tmp_path / f"small-s{seed}"), {**common, "seed": seed}) for seed in range(4)]


def test_stopped_it_keeps_what_has_finished_and_goes_on(task: WorkerTask, planned: list[Planned]) -> None:
    terminal, hands = Terminal(), Hands(1, 1, ["cpu"])
    terminal.words = "2/4"
    with pytest.raises(KeyboardInterrupt):
        train_all(Console(file=terminal), planned, task, hands)
    waiting = unfinished(planned, ADVICE)
    assert 0 < len(waiting) <= 2
    kept = [training.run.weights_path.stat().st_mtime_ns for training in planned[:2]]
    terminal.words = None
    train_all(Console(file=terminal, width=120), waiting, task, hands)
    assert unfinished(planned, ADVICE) == []
    assert [training.run.weights_path.stat().st_mtime_ns for training in planned[:2]] == kept
    assert f"{len(waiting)} runs to train with 1 worker: " in terminal.getvalue()
    assert f"{len(waiting)}/{len(waiting)}\n" in terminal.getvalue()
    assert f"1/{len(waiting)}  less than 10 s left" in terminal.getvalue()

    assert unfinished(planned, ADVICE, scored=True) == planned  # none has test scores
    for key, other in (("clips", 64), ("seed", 9), ("architecture", "dl-o"), ("train_input", [8, 8])):
        changed = [Planned(name, run, {**config, key: other}) for name, run, config in planned]
        with pytest.raises(UserError, match=rf"small-s0 was trained with another {key} \(.*, now .*\); {ADVICE}"):
            unfinished(changed, ADVICE)
    data = [Planned(name, run, {**config, "data": {"digest": "0"}}) for name, run, config in planned]
    with pytest.raises(UserError, match="was trained with another data"):
        unfinished(data, ADVICE)


def test_one_that_fails_does_not_end_the_others(task: WorkerTask, planned: list[Planned]) -> None:
    terminal, (first, second, *_) = io.StringIO(), planned
    task = dataclasses.replace(task, recipe=dataclasses.replace(task.recipe, lr=1e38))
    good = dataclasses.replace(task, recipe=dataclasses.replace(task.recipe, lr=1e-3))
    with pytest.raises(Failures) as raised:
        train_all(Console(file=terminal, width=200), [first, second], task, Hands(1, 1, ["cpu"]))
    assert list(raised.value.failures) == ["small with seed 0", "small with seed 1"]
    assert "2 trainings failed, the others have finished and are kept:\nsmall with seed 0: Diverged: " in str(
        raised.value
    )
    train_all(Console(file=terminal), [first], good, Hands(1, 1, ["cpu"]))
    assert first.run.status["state"] == "finished"


def test_nothing_to_train_starts_nothing(task: WorkerTask) -> None:
    terminal = Terminal()
    train_all(Console(file=terminal), [], task, Hands(1, 1, ["cpu"]))
    assert terminal.getvalue() == ""


def test_workers_are_what_the_machine_has_room_for() -> None:
    assert choose_hands(1, "cpu").number == 1
    for workers in (0, 9999):
        with pytest.raises(UserError, match=f"--workers is 1 to .*, what this machine has room for, not {workers}"):
            choose_hands(workers, "cpu")
