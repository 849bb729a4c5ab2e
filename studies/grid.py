"""Many trainings side by side, networks by seeds on the worker pool: each is trained once, whatever stops in between.

What `studies.compare`, `studies.confirm`, `studies.fidelity` and `benchmarks.recipes` have in common.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from search_space.errors import UserError
from search_space.rounding import per_cent
from trainers.opening import about
from trainers.runs import Run, available_cores
from trainers.workers import (
    WorkerTask,
    default_workers,
    measure_candidate,
    shared_devices,
    stopping,
    train_candidate,
    worker_pool,
)

# Assumed: as many say what an average network takes; every worker measures each of them.
_MEASURED = 8


class Hands(NamedTuple):
    """The processes that train: how many, with how many threads each, on which devices."""

    number: int
    threads: int
    devices: list[str]


class Planned(NamedTuple):
    """A training that is to be there: how it is called in print, its folder, and what it records (enough to do it
    again)."""

    name: str
    run: Run
    config: dict[str, Any]


def choose_hands(workers: int | None = None, device: str = "auto") -> Hands:
    """So many workers, or as many as suit the machine. Raises `UserError` for more than it has room for, or a device
    that is not there."""
    devices = shared_devices(device)
    most = max(available_cores(), len(devices))
    if workers is not None and not 1 <= workers <= most:
        raise UserError(f"--workers is 1 to {most}, what this machine has room for, not {workers}")
    number = default_workers(devices) if workers is None else workers
    return Hands(number, max(1, available_cores() // number), devices)


def check_budget(clips: int, batch_size: int) -> None:
    """Raises `UserError` for fewer clips than one batch."""
    if clips < batch_size:
        raise UserError(f"--budget is at least one batch of {batch_size} clips, not {clips}")


def unfinished(planned: Iterable[Planned], advice: str, scored: bool = False) -> list[Planned]:
    """Those that are not there and whole yet; `scored` says that a whole one has its test scores.

    Raises `UserError`, ending in `advice`, where a finished run was made with something else.
    """
    return [training for training in planned if not _finished(training, advice, scored)]


def _finished(training: Planned, advice: str, scored: bool) -> bool:
    run, config = training.run, training.config
    if run.status.get("state") != "finished" or (scored and run.scores is None):
        return False
    then = run.config
    for key, before, after in (
        ("data", then["data"]["digest"], config["data"]["digest"]),
        *((key, then[key], config[key]) for key in ("architecture", "train_input", "recipe", "clips", "seed")),
    ):
        if before != after:
            raise UserError(f"{run.path} was trained with another {key} ({before}, now {after}); {advice}")
    return True


class Failures(UserError):
    """Trainings that failed by themselves (diverged, out of memory), after all others had finished: each with what it said."""

    def __init__(self, failures: dict[str, str]) -> None:
        self.failures = failures
        of = f"{len(failures)} training{'s' * (len(failures) != 1)}"
        super().__init__("\n".join([f"{of} failed, the others have finished and are kept:", *said(failures)]))


def said(failures: dict[str, str]) -> list[str]:
    """A line for each training that failed, with its words."""
    return [f"{name}: {error}" for name, error in failures.items()]


def train_all(console: Console, waiting: Sequence[Planned], task: WorkerTask, hands: Hands) -> None:
    """Train what is waiting, the expected time first. What has finished stays, whatever happens.

    Raises `Failures` at the end where trainings failed by themselves, `UserError` at once when a worker's process dies; on Ctrl-C those under way stop between two batches.
    """
    if not waiting:
        return
    workers = min(hands.number, len(waiting))
    pool, stop = worker_pool(task, workers, hands.devices)
    with stopping(pool, stop):
        names = _spread(waiting)
        measured = [pool.submit(measure_candidate, names) for _ in range(workers)]
        errors = [future.exception() for future in measured]  # a network that fails says so when it is trained
        if any(isinstance(error, BrokenProcessPool) for error in errors):
            raise UserError("a worker process ended while it started (see above; out of memory?); try --workers 1")
        each_s = [future.result() for future, error in zip(measured, errors, strict=True) if error is None]
        time_s = sum(each_s) / len(each_s) * len(waiting) / workers if each_s else 0.0
        takes = f": {about(time_s)} in all" if each_s else ""
        console.print(f"{len(waiting)} runs to train with {workers} worker{'s' * (workers > 1)}{takes}")
        began = time.monotonic()
        futures = {
            pool.submit(
                train_candidate, training.config["architecture"], str(training.run.path), training.config
            ): training
            for training in waiting
        }
        failures: dict[str, str] = {}
        for done, future in enumerate(as_completed(futures), start=1):
            training = futures[future]
            called = f"{training.name} with seed {training.config['seed']}"
            try:
                result = future.result()
            except BrokenProcessPool as error:
                raise UserError(f"{called} could not be trained, its process died: {error}") from error
            except Exception as error:
                failures[called] = f"{type(error).__name__}: {error}"
                console.print(
                    f"{called} failed: {failures[called]}  {done}/{len(waiting)}", markup=False, soft_wrap=True
                )
                continue
            left_s = (time.monotonic() - began) / done * (len(waiting) - done)
            console.print(
                f"{training.name}  seed {training.config['seed']}  val {per_cent(result['val_accuracy'])}  {result['seconds']:.0f} s  "
                f"{done}/{len(waiting)}{f'  {about(left_s)} left' if left_s else ''}",
                markup=False,
                soft_wrap=True,
            )
    if failures:
        raise Failures(failures)


def _spread(waiting: Sequence[Planned]) -> list[str]:
    """A few of the networks, from the cheapest to the dearest."""
    macs = {training.config["architecture"]: training.config.get("macs", 0) for training in waiting}
    ranked = sorted(macs, key=lambda name: (macs[name], name))
    return [ranked[round(place)] for place in np.linspace(0, len(ranked) - 1, min(_MEASURED, len(ranked)))]
