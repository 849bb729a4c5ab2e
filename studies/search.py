"""A study: ask for a network, train it for a short budget in a worker process, tell what came of it.

With halving a training waits at every rung, in its run's folder, while the coordinator decides whether it goes on: it is trained further by
whichever worker is free, or its trial ends as stopped. One process asks and tells, so that the total is exact, no network is trained twice, and the journal has one writer; the workers only train.
"""

from __future__ import annotations

import dataclasses
import math
import random
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from search_space.architecture import Architecture
from search_space.complexity import BYTES
from search_space.errors import UserError, unknown
from search_space.limits import get_limits
from search_space.presets import PRESETS
from search_space.space import get_space
from studies.candidates import SAMPLERS, Candidates, Caps, make_sampler
from studies.halving import KEEP, at_rung, goes_on
from studies.records import StudyRecords, trial_alive, trial_state
from studies.storage import mend_journal, open_storage
from trainers.config import default_budget, default_train_input, get_recipe
from trainers.datasets import Dataset
from trainers.features import Features
from trainers.inputs import data_record
from trainers.loop import Diverged, Stopped, rung_clips
from trainers.recorded import drop_checkpoints, move_checkpoint
from trainers.runs import Run, available_cores, check_seed, held, provenance, study_folder, trial_folder
from trainers.workers import (
    WorkerTask,
    default_workers,
    measure_candidate,
    shared_devices,
    train_candidate,
    worker_pool,
)

_DIRECTIONS = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE, StudyDirection.MINIMIZE]
_METRICS = ["val_accuracy", "params", "macs"]
_FAILURES_IN_A_ROW = 5
_BROKEN_POOLS = 10


@dataclass(frozen=True)
class SearchOptions:
    """What a study is asked to do; the home of its defaults. None means: decided by the data or the machine."""

    trials: int = 200
    study: str | None = None
    runs: Path = Path("runs")
    storage: str | None = None
    space: str = "dssdn"
    sampler: str = "tpe"
    seed: int = 0
    workers: int | None = None
    device: str = "auto"
    budget: int | None = None
    train_input: tuple[int, int] | None = None
    max_params: int | None = None
    max_macs: int | None = None
    limits: str | None = None
    precision: str | None = None
    halving: bool = False

    def __post_init__(self) -> None:
        """Check what needs no data. Raises `UserError`."""
        if self.trials < 1:
            raise UserError(f"--trials is at least 1, not {self.trials}")
        if self.sampler not in SAMPLERS:
            raise unknown("sampler", self.sampler, SAMPLERS)
        check_seed(self.seed)
        get_space(self.space)
        if self.limits is not None:
            get_limits(self.limits)
        if self.precision is not None and (self.limits is None or self.precision not in BYTES):
            raise UserError(f"--precision is one of {sorted(BYTES)}, with --limits; got {self.precision!r}")
        devices = shared_devices(self.device)
        most = max(available_cores(), len(devices))
        if self.workers is not None and not 1 <= self.workers <= most:
            raise UserError(f"--workers is 1 to {most}, what this machine has room for, not {self.workers}")
        if self.study is not None:
            study_folder(self.runs, self.study)


@dataclass(frozen=True)
class Told:
    """One ended trial, for whoever shows the progress: `val_accuracy` 0 to 1, or the `error` that ended it. A trial that was stopped early
    has the accuracy at its last rung, and that rung's clips in `stopped_at`."""

    trial: int
    architecture: str
    val_accuracy: float | None
    error: str | None
    stopped_at: int | None = None


Pending = dict[Future[dict[str, Any]], tuple[Trial, Architecture]]


class Search:
    """A study on a data set, opened or continued. `run` trains until the total is reached; what is finished stays.

    Raises `UserError` before any training when an option breaks a rule, no architecture meets the caps, the study was made on something else,
    or another process is running it.
    """

    def __init__(self, options: SearchOptions, dataset: Dataset, features: Features) -> None:
        self.options = options
        self.space = get_space(options.space)
        self.n_classes = len(dataset.classes)
        self.input = features.size
        self.train_input = default_train_input(self.input) if options.train_input is None else options.train_input
        self.budget = default_budget(self.n_classes) if options.budget is None else options.budget
        self.halving = options.halving
        self.recipe = get_recipe("rungs" if self.halving else "short")
        self.name = options.study or dataset.name
        self.path = study_folder(options.runs, self.name)
        self.devices = shared_devices(options.device)
        self.workers = default_workers(self.devices) if options.workers is None else options.workers
        self.threads = max(1, available_cores() // self.workers)
        self._dataset = dataset
        self.data = data_record(dataset, features)
        limits = None if options.limits is None else get_limits(options.limits)
        if limits and options.precision:
            limits = limits._replace(dtype=options.precision)
        self.limits = limits
        frames = features.front_end.frames(limits.seconds) if limits else 0
        self._caps = Caps(
            self.input, self.n_classes, options.max_params, options.max_macs, limits, (frames, self.input[1])
        )
        self._check_options()
        self._caps.check(self.space)
        self._failures = 0

    # ---- the study

    @contextmanager
    def opened(self) -> Iterator[StudyRecords]:
        """The study, locked for this process, with its presets queued and what a killed process left behind queued again."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.path.mkdir(parents=True, exist_ok=True)
        busy = f"study {self.name!r} is being run by another process; wait for it, end it, or name another with --study"
        with held(self.path / "lock", busy):
            mend_journal(self.path)
            self._study = optuna.create_study(
                study_name=self.name,
                storage=open_storage(self.path, self.options.storage),
                directions=_DIRECTIONS,
                load_if_exists=True,
            )
            trials = self._study.get_trials(deepcopy=False)
            seed = self.options.seed + len(trials)  # a continued study draws new numbers
            self._study.sampler = make_sampler(self.options.sampler, seed, self.workers)
            self._candidates = Candidates(
                self._study, self.space, self.input, self.n_classes, self._caps, random.Random(seed)
            )
            self._agree()
            self._recover(trials)
            yield StudyRecords(self.name, self.path, self._study)

    def _agree(self) -> None:
        """Write down what the study is about, or check that it is still about that."""
        largest_params, largest_macs = self.space.largest(self.input, self.n_classes)
        about: dict[str, Any] = {
            "data": self.data,
            "n_classes": self.n_classes,
            "space": {"name": self.space.name, "digest": self.space.digest, "size": self.space.size},
            "input": list(self.input),
            "train_input": list(self.train_input),
            "budget": self.budget,
            "recipe": dataclasses.asdict(self.recipe),
            "halving": {"keep": round(KEEP, 6), "rungs": list(rung_clips(self.recipe, self.budget))}
            if self.halving
            else None,
            "seed": self.options.seed,
            "max_params": self.options.max_params,
            "max_macs": self.options.max_macs,
            "limits": self.limits._asdict() if self.limits else None,
            "reference_point": {
                "accuracy": 1 / self.n_classes,
                "log10_params": round(math.log10(largest_params), 6),
                "log10_macs": round(math.log10(largest_macs), 6),
            },
            "provenance": provenance(),
        }
        then = self._study.user_attrs
        if "recipe" in then:  # an older record lacks what recipes have said since; it was as the short one says
            then["recipe"] = {**dataclasses.asdict(get_recipe("short")), **then["recipe"]}
        if "provenance" in then:  # the last attribute to be written
            keys = (
                "space",
                "input",
                "train_input",
                "budget",
                "halving",
                "recipe",
                "seed",
                "max_params",
                "max_macs",
                "limits",
            )
            differences = [
                f"{key}: {_difference(then.get(key), about[key])}" for key in keys if then.get(key) != about[key]
            ]
            if then["data"]["front_end"] != self.data["front_end"]:
                differences.insert(0, f"front end: {_difference(then['data']['front_end'], self.data['front_end'])}")
            if then["data"]["digest"] != self.data["digest"]:
                differences.insert(0, f"data: {_described(then['data'])}, now {_described(self.data)}")
            if differences:
                raise UserError(
                    f"study {self.name!r} was made with something else; give the same options, or another --study name. "
                    f"Then and now: {'; '.join(differences)}"
                )
            return
        if any(self.path.glob("trials/*")):
            raise UserError(
                f"{self.path} holds trials of another study (another --storage?); name a new one with --study"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self._study.set_metric_names(_METRICS)
        if not self._study.get_trials(deepcopy=False):
            for name, architecture in PRESETS.items():
                self._candidates.enqueue(architecture, preset=name)
        for key, value in about.items():
            self._study.set_user_attr(key, value)

    def _recover(self, trials: list[FrozenTrial]) -> None:
        """Remember what has been trained; queue again what a killed process left running."""
        for trial in trials:
            if trial_state(trial) in ("complete", "stopped", "failed") and "architecture" in trial.user_attrs:
                self._candidates.seen.setdefault(trial.user_attrs["architecture"], trial.number)
        for trial in trials:
            if trial.state == TrialState.RUNNING and not trial_alive(trial):
                self._interrupted(trial)

    # ---- training

    def run(self, on_start: Callable[[float, int], None], on_told: Callable[[Told], None]) -> str | None:
        """Train until `trials` distinct networks are complete or were stopped early; why it ended before that, or None.

        `on_start` hears the estimated seconds and the number of networks still to train, `on_told` every finished one. To be called inside
        `opened`. On Ctrl-C the networks under way are queued again and `KeyboardInterrupt` goes on up.
        """
        remaining = self.options.trials - self._complete()
        if remaining <= 0:
            on_start(0.0, 0)
            return None
        pool, stop = self._pool()
        pending: Pending = {}
        broken = 0
        try:
            on_start(self._estimate(pool) * remaining / self.workers, remaining)
            while True:
                try:
                    exhausted = self._fill(pool, pending)
                    if not pending:
                        trained = f"no other network within the caps was found; {self._complete()} were trained"
                        return trained if exhausted else None
                    finished, _ = wait(pending, return_when=FIRST_COMPLETED)
                    for future in finished:
                        asked = pending[future]
                        told = self._tell(future, *asked)
                        del pending[future]
                        broken = 0
                        if told is None:
                            self._start(pool, pending, *asked)
                        else:
                            on_told(told)
                except BrokenProcessPool as error:
                    self._end_pending(pending, on_told)
                    broken += 1
                    if broken > _BROKEN_POOLS:
                        raise UserError(
                            f"a worker process was killed {broken} times (out of memory?); use fewer --workers"
                        ) from error
                    pool.shutdown(wait=False)
                    pool, stop = self._pool()
        except BaseException:
            stop.set()
            self._end_pending(pending, on_told)
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _fill(self, pool: ProcessPoolExecutor, pending: Pending) -> bool:
        """Give every free worker a network; whether the space has no other one."""
        while len(pending) < self.workers and self._complete() + len(pending) < self.options.trials:
            asked = self._candidates.next()
            if asked is None:
                return True
            self._adopt(asked[0])
            self._start(pool, pending, *asked)
        return False

    def _start(self, pool: ProcessPoolExecutor, pending: Pending, trial: Trial, architecture: Architecture) -> None:
        try:
            pending[self._submit(pool, trial, architecture)] = trial, architecture
        except BrokenProcessPool:
            self._interrupted(trial)
            raise

    def _adopt(self, trial: Trial) -> None:
        """Let a new trial go on from the rung to which an interrupted one brought the same network."""
        for other in reversed(self._study.get_trials(deepcopy=False, states=(TrialState.FAIL,))):
            same = other.user_attrs.get("architecture") == trial.user_attrs["architecture"]
            if same and "rungs" in other.user_attrs and trial_state(other) == "interrupted":
                if move_checkpoint(self._run(other.number), self._run(trial.number)):
                    for key in ("rungs", "seconds"):
                        trial.set_user_attr(key, other.user_attrs[key])
                return

    def _run(self, trial: int) -> Run:
        return Run(trial_folder(self.options.runs, self.name, trial))

    def _submit(self, pool: ProcessPoolExecutor, trial: Trial, architecture: Architecture) -> Future[dict[str, Any]]:
        attributes = trial.user_attrs
        config = {
            "kind": "trial",
            "study": self.name,
            "trial": trial.number,
            "architecture": str(architecture),
            "preset": attributes.get("preset"),
            "params": attributes["params"],
            "macs": attributes["macs"],
            "choices": self.space.encode(architecture),
            "data": self.data,
            "input": list(self.input),
            "train_input": list(self.train_input),
            "recipe": dataclasses.asdict(self.recipe),
            "clips": self.budget,
            "seed": self.options.seed,
            "command": provenance()["command"],
        }
        path = self._run(trial.number).path
        return pool.submit(train_candidate, str(architecture), str(path), config, resume="rungs" in attributes)

    def _tell(self, future: Future[dict[str, Any]], trial: Trial, architecture: Architecture) -> Told | None:
        """Put what became of a training into the study; None when it waits at a rung and is to go on.

        Raises what ends the study: no disk, a dead worker, one failure after another.
        """
        error = future.exception()
        if error is None:
            result = future.result()
            attributes = trial.user_attrs
            trial.set_user_attr("seconds", round(attributes.get("seconds", 0.0) + result["seconds"], 2))
            if result["clips"] < self.budget:
                return self._at_rung(trial, architecture, result["clips"], result["val_accuracy"])
            self._study.tell(trial, [result["val_accuracy"], attributes["params"], attributes["macs"]])
            self._failures = 0
            return Told(trial.number, str(architecture), result["val_accuracy"], None)
        if isinstance(error, BrokenProcessPool | OSError | Stopped):
            self._interrupted(trial)
            if isinstance(error, OSError):
                raise UserError(
                    f"trial {trial.number} could not be written or read ({error}); mend that, then run the same command again"
                ) from error
            if isinstance(error, BrokenProcessPool):
                raise error
            return Told(trial.number, str(architecture), None, "interrupted")
        message = f"{type(error).__name__}: {error}"
        trial.set_user_attr("error", message if isinstance(error, Diverged) else f"{message}\n{error.__cause__ or ''}")
        self._candidates.end(trial, "failed", TrialState.FAIL)
        self._failures += 1
        if self._failures >= _FAILURES_IN_A_ROW:
            raise UserError(
                f"{self._failures} trials in a row failed, the last with {message}; their errors are in the study"
            )
        return Told(trial.number, str(architecture), None, message)

    def _at_rung(self, trial: Trial, architecture: Architecture, rung: int, val_accuracy: float) -> Told | None:
        """Note the score, and end the trial unless it stands high enough among all that came to the rung."""
        attributes = trial.user_attrs
        trial.set_user_attr("rungs", {**attributes.get("rungs", {}), str(rung): val_accuracy})
        others = at_rung(self._study.get_trials(deepcopy=False), rung)
        newcomer = others.pop(trial.number)
        if goes_on(newcomer, others.values(), KEEP):
            return None
        self._candidates.end(trial, "stopped", TrialState.PRUNED)
        run = self._run(trial.number)
        run.write_status("stopped", **{key: run.status.get(key) for key in ("epoch", "epochs")}, clips_seen=rung)
        drop_checkpoints(run)
        self._failures = 0
        return Told(trial.number, str(architecture), val_accuracy, None, stopped_at=rung)

    def _end_pending(self, pending: Pending, on_told: Callable[[Told], None]) -> None:
        """While stopping: keep what finished in the meantime, queue the rest again."""
        wait(pending, timeout=60)
        for future, (trial, architecture) in pending.items():
            if self._is_told(trial):
                continue
            ended = future.done() and not future.cancelled() and future.exception() is None
            told = self._tell(future, trial, architecture) if ended else None
            if told is None:
                self._interrupted(trial)
            else:
                on_told(told)
        pending.clear()

    def _interrupted(self, trial: Trial | FrozenTrial) -> None:
        """End a trial that nobody trains any more, and queue its network again (as it was queued, if it was)."""
        storage = self._study._storage
        storage.set_trial_user_attr(trial._trial_id, "outcome", "interrupted")
        self._study.tell(trial.number, state=TrialState.FAIL)
        seen, architecture = self._candidates.seen, trial.user_attrs.get("architecture")
        if architecture is not None and seen.get(architecture) == trial.number:
            del seen[architecture]
        asked_for = storage.get_trial(trial._trial_id).system_attrs.get("fixed_params")
        params = asked_for or (trial.params if architecture else None)  # without a name not all choices were made
        if params and architecture not in seen:
            kept = {key: trial.user_attrs[key] for key in ("preset",) if key in trial.user_attrs}
            self._study.enqueue_trial(params, kept)

    def _is_told(self, trial: Trial) -> bool:
        return self._study._storage.get_trial(trial._trial_id).state.is_finished()

    def _complete(self) -> int:
        """Networks that count for the total: complete ones, and those that were stopped early."""
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return sum(trial_state(trial) in ("complete", "stopped") for trial in trials)

    # ---- workers

    def _pool(self) -> tuple[ProcessPoolExecutor, Event]:
        task = WorkerTask(
            *(self._dataset, self.data["digest"], self.train_input, self.recipe, self.budget, self.threads),
            pauses=self.halving,
        )
        return worker_pool(task, self.workers, self.devices)

    def _estimate(self, pool: ProcessPoolExecutor) -> float:
        """Seconds a candidate takes when all workers are busy: a few batches of a preset and of random networks."""
        rng = random.Random(0)
        drawn = [self.space.sample(lambda _, options: rng.choice(options)) for _ in range(3)]
        networks = [str(network) for network in (PRESETS["dssdn-middle"], *drawn)]
        measured = [pool.submit(measure_candidate, networks) for _ in range(self.workers)]
        try:
            return sum(future.result() for future in measured) / len(measured)
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process ended while it started (see above; out of memory?); try --workers 1"
            ) from error

    # ---- checks

    def _check_options(self) -> None:
        if self.budget < self.recipe.batch_size:
            raise UserError(f"--budget is at least one batch of {self.recipe.batch_size} clips, not {self.budget}")
        first = rung_clips(self.recipe, self.budget)[0]
        if self.halving and first < self.recipe.batch_size:
            raise UserError(
                f"--halving needs a batch of {self.recipe.batch_size} clips up to the first rung, which is at {first} of --budget "
                f"{self.budget}; give a larger budget, or --no-halving"
            )
        check_train_input(self.train_input, self.input)


def check_train_input(size: tuple[int, int], full: tuple[int, int]) -> None:
    """Raises `UserError` for a training input (frames, mels) that is larger than the full one."""
    if not all(1 <= length <= most for length, most in zip(size, full, strict=True)):
        raise UserError(f"--train-input is at most the full input, {full[0]}x{full[1]} here, not {size[0]}x{size[1]}")


def _described(data: dict[str, Any]) -> str:
    counts = "/".join(str(number) for number in data["counts"].values())
    return f"{data['name']} ({counts} clips, test fold {data['fold']}, digest {data['digest'][:12]})"


def _difference(then: Any, now: Any) -> str:
    """Only what differs of two values."""
    if isinstance(then, dict) and isinstance(now, dict):
        return ", ".join(
            f"{key} {then.get(key)!r}, now {now.get(key)!r}" for key in now if then.get(key) != now.get(key)
        )
    return f"{then!r}, now {now!r}"
