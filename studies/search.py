"""A study: ask for a network, train it for a short budget in a worker process, tell what came of it.

One process asks and tells, so that the total is exact, no network is trained twice, and the journal has one writer; the workers only train.
"""

from __future__ import annotations

import dataclasses
import math
import os
import random
import socket
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import filelock
import optuna
import psutil
from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from search_space.architecture import Architecture
from search_space.complexity import count
from search_space.errors import UserError, unknown
from search_space.presets import PRESETS
from search_space.space import get_space
from studies.records import StudyRecords, encode, ordered, trial_state
from studies.storage import open_storage
from studies.worker import WorkerTask, measure_candidate, train_candidate, worker_pool
from trainers.config import default_budget, default_train_input, get_recipe
from trainers.datasets import Dataset
from trainers.features import Features
from trainers.loop import Diverged, Stopped, resolve_device
from trainers.retrain import data_record
from trainers.runs import now, process_alive, provenance, study_folder, trial_folder

_DIRECTIONS = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE, StudyDirection.MINIMIZE]
_METRICS = ["val_accuracy", "params", "macs"]
_MISSES_BEFORE_RANDOM = 10
_RANDOM_TRIES = 2000
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


@dataclass(frozen=True)
class Told:
    """One finished trial, for whoever shows the progress."""

    trial: int
    architecture: str
    val_accuracy: float | None
    error: str | None


def _sampler(name: str, seed: int, workers: int) -> optuna.samplers.BaseSampler:
    """Optuna's sampler of this name. TPE is told of the trials under way when there are several workers (constant liar)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        match name:
            case "tpe":
                return optuna.samplers.TPESampler(seed=seed, constant_liar=workers > 1)
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=seed, population_size=20)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed)
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
    raise unknown("sampler", name, SAMPLERS)


SAMPLERS = ("tpe", "nsga2", "gp", "random")


Pending = dict[Future[dict[str, Any]], tuple[Trial, Architecture]]


class Search:
    """A study on a data set, opened or continued. `run` trains until the total is reached; what is finished stays.

    Raises `UserError` before any training when an option breaks a rule, no architecture meets the caps, the study was made on something else,
    or another process is running it.
    """

    def __init__(
        self, options: SearchOptions, dataset: Dataset, features: Features, data: dict[str, Any]
    ) -> None:
        """`data` names the source: {'source', 'subset', 'fold'}, as given to `open_dataset`."""
        self.options = options
        self.space = get_space(options.space)
        self.n_classes = len(dataset.classes)
        full = (int(features.logmel.shape[1]), int(features.logmel.shape[2]))
        self.input = full
        self.train_input = options.train_input or default_train_input(full)
        self.budget = options.budget or default_budget(self.n_classes)
        self.recipe = get_recipe("short")
        self.name = options.study or dataset.name
        self.path = study_folder(options.runs, self.name)
        self.devices = shared_devices(options.device)
        self.workers = options.workers or default_workers(self.devices)
        self.threads = max(1, (os.cpu_count() or 1) // self.workers)
        self.data = data_record(dataset, features.digest, **data)
        self._check_options()
        self._sampler = _sampler(options.sampler, options.seed, self.workers)
        self._check_caps()
        self._rng = random.Random(options.seed)
        self._seen: dict[str, int] = {}
        self._over: set[str] = set()
        self._failures = 0

    # ---- the study

    @contextmanager
    def opened(self) -> Iterator[StudyRecords]:
        """The study, locked for this process, with its presets queued and what a killed process left behind queued again."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.path / "lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise UserError(
                f"study {self.name!r} is being run by another process; wait for it, end it, or name another with --study"
            ) from error
        with lock:
            storage = open_storage(self.path, self.options.storage)
            self._study = optuna.create_study(
                study_name=self.name,
                storage=storage,
                directions=_DIRECTIONS,
                sampler=self._sampler,
                load_if_exists=True,
            )
            self._agree()
            trials = self._study.get_trials(deepcopy=False)
            if trials:  # a continued study draws new numbers
                self._study.sampler = _sampler(
                    self.options.sampler, self.options.seed + len(trials), self.workers
                )
                self._rng = random.Random(self.options.seed + len(trials))
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
            "seed": self.options.seed,
            "max_params": self.options.max_params,
            "max_macs": self.options.max_macs,
            "reference_point": {
                "accuracy": 1 / self.n_classes,
                "log10_params": _log10_rounded(largest_params),
                "log10_macs": _log10_rounded(largest_macs),
            },
        }
        if "data" not in self._study.user_attrs:
            for key, value in about.items():
                self._study.set_user_attr(key, value)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                self._study.set_metric_names(_METRICS)
            self._study.set_user_attr("provenance", provenance())
            for name, architecture in PRESETS.items():
                self._enqueue(architecture, preset=name)
            return
        then = self._study.user_attrs
        keys = ("space", "input", "train_input", "budget", "recipe", "seed", "max_params", "max_macs")
        differences = [
            f"{key}: {_difference(then[key], about[key])}" for key in keys if then[key] != about[key]
        ]
        if then["data"]["digest"] != self.data["digest"]:
            differences.insert(0, f"data: {_described(then['data'])}, now {_described(self.data)}")
        if differences:
            raise UserError(
                f"study {self.name!r} was made with something else; give the same options, or another --study name. Then and now: "
                + "; ".join(differences)
            )

    def _recover(self, trials: list[FrozenTrial]) -> None:
        """Remember what has been trained; queue again what a killed process left running."""
        for trial in trials:
            state, architecture = trial_state(trial), trial.user_attrs.get("architecture")
            if state == "running" and not self._elsewhere(trial):
                self._interrupted(trial)
            elif architecture and state in ("complete", "failed"):
                self._seen.setdefault(architecture, trial.number)
            elif architecture and state == "over_cap":
                self._over.add(architecture)

    def _elsewhere(self, trial: FrozenTrial) -> bool:
        """Whether a running trial belongs to a process that may still live: on another machine, or alive on this one."""
        owner = trial.user_attrs.get("owner")
        if not owner:
            return False
        return owner["host"] != socket.gethostname() or process_alive(owner["pid"], owner["started"])

    # ---- asking

    def _next(self) -> tuple[Trial, Architecture] | None:
        """A trial whose network is new and within the caps, or None when the space has no other one."""
        misses = 0
        while True:
            if misses >= _MISSES_BEFORE_RANDOM:
                fresh = self._unseen()
                if fresh is None:
                    return None
                self._enqueue(fresh)
            trial = self._study.ask()
            architecture = self.space.sample(partial(_suggest, trial))
            text = str(architecture)
            cost = count(architecture, self.input, self.n_classes)
            for key, value in {
                "architecture": text,
                "params": cost.params,
                "macs": cost.macs,
                "owner": _owner(),
            }.items():
                trial.set_user_attr(key, value)
            within = True
            for key, value, cap in self._caps(cost.params, cost.macs):
                trial.set_constraint(key, value / cap - 1)
                within = within and value <= cap
            if not within:
                self._over.add(text)
                self._end(trial, "over_cap", TrialState.PRUNED)
            elif text in self._seen:
                trial.set_user_attr("same_as", self._seen[text])
                # Told as a failure because samplers leave failures out: a copied score would count one training twice.
                self._end(trial, "duplicate", TrialState.FAIL)
            else:
                self._seen[text] = trial.number
                return trial, architecture
            misses += 1

    def _unseen(self) -> Architecture | None:
        """A random network that is neither trained nor over a cap, or None when none turns up."""
        for _ in range(_RANDOM_TRIES):
            architecture = self.space.sample(lambda _, options: self._rng.choice(options))
            text = str(architecture)
            if text in self._seen or text in self._over:
                continue
            cost = count(architecture, self.input, self.n_classes)
            if all(value <= cap for _, value, cap in self._caps(cost.params, cost.macs)):
                return architecture
        return None

    def _caps(self, params: int, macs: int) -> list[tuple[str, int, int]]:
        caps = (("params", params, self.options.max_params), ("macs", macs, self.options.max_macs))
        return [(key, value, cap) for key, value, cap in caps if cap is not None]

    def _enqueue(self, architecture: Architecture, **attributes: Any) -> None:
        choices = self.space.choices
        chosen = self.space.encode(architecture)
        self._study.enqueue_trial(
            {name: encode(choices[name], option) for name, option in chosen.items()}, attributes
        )

    # ---- telling

    def run(self, on_start: Callable[[float, int], None], on_told: Callable[[Told], None]) -> str | None:
        """Train until `trials` distinct networks are complete; why it ended early, or None.

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
                        trained = (
                            f"the space has no other network within the caps; {self._complete()} were trained"
                        )
                        return trained if exhausted else None
                    finished, _ = wait(pending, return_when=FIRST_COMPLETED)
                    for future in finished:
                        on_told(self._tell(future, *pending.pop(future)))
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
            asked = self._next()
            if asked is None:
                return True
            try:
                pending[self._submit(pool, *asked)] = asked
            except BrokenProcessPool:
                self._interrupted(asked[0])
                raise
        return False

    def _end_pending(self, pending: Pending, on_told: Callable[[Told], None]) -> None:
        """While stopping: keep what finished in the meantime, queue the rest again."""
        wait(pending, timeout=60)
        for future, (trial, architecture) in pending.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                on_told(self._tell(future, trial, architecture))
            else:
                self._interrupted(trial)
        pending.clear()

    def _submit(
        self, pool: ProcessPoolExecutor, trial: Trial, architecture: Architecture
    ) -> Future[dict[str, Any]]:
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
        path = trial_folder(self.options.runs, self.name, trial.number)
        return pool.submit(train_candidate, str(architecture), str(path), config)

    def _tell(self, future: Future[dict[str, Any]], trial: Trial, architecture: Architecture) -> Told:
        error = future.exception()
        if error is None:
            result = future.result()
            trial.set_user_attr("seconds", result["seconds"])
            trial.set_user_attr("clips_seen", self.budget)
            attributes = trial.user_attrs
            self._study.tell(trial, [result["val_accuracy"], attributes["params"], attributes["macs"]])
            self._failures = 0
            return Told(trial.number, str(architecture), result["val_accuracy"], None)
        if isinstance(error, OSError):
            self._interrupted(trial)
            raise UserError(
                f"trial {trial.number} could not be written or read ({error}); free space or mend it, then run the same command again"
            )
        if isinstance(error, BrokenProcessPool):
            self._interrupted(trial)
            raise error
        if isinstance(error, Stopped):
            self._interrupted(trial)
            return Told(trial.number, str(architecture), None, "interrupted")
        message = f"{type(error).__name__}: {error}"
        trial.set_user_attr(
            "error", message if isinstance(error, Diverged) else f"{message}\n{error.__cause__ or ''}"
        )
        self._end(trial, "failed", TrialState.FAIL)
        self._failures += 1
        if self._failures >= _FAILURES_IN_A_ROW:
            raise UserError(
                f"{self._failures} trials in a row failed, the last one with {message}; their errors are in the study"
            )
        return Told(trial.number, str(architecture), None, message)

    def _end(self, trial: Trial, outcome: str, state: TrialState) -> None:
        trial.set_user_attr("outcome", outcome)
        self._study.tell(trial, state=state)

    def _interrupted(self, trial: Trial | FrozenTrial) -> None:
        """End a trial that nobody trains any more, and queue its network again."""
        storage = self._study._storage
        storage.set_trial_user_attr(trial._trial_id, "outcome", "interrupted")
        self._study.tell(trial.number, state=TrialState.FAIL)
        kept = {key: trial.user_attrs[key] for key in ("preset",) if key in trial.user_attrs}
        self._seen.pop(trial.user_attrs.get("architecture", ""), None)
        if trial.params:
            self._study.enqueue_trial(trial.params, kept)

    def _complete(self) -> int:
        return len(self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))

    # ---- workers

    def _pool(self) -> tuple[ProcessPoolExecutor, Event]:
        spec = self.data
        task = WorkerTask(
            *(spec["source"], spec["subset"], spec["fold"], spec["digest"]),
            *(self.train_input, self.recipe, self.budget, self.threads),
        )
        return worker_pool(task, self.workers, self.devices)

    def _estimate(self, pool: ProcessPoolExecutor) -> float:
        """Seconds a candidate takes when all workers are busy: a few batches of a preset and of random networks."""
        rng = random.Random(0)
        networks = [
            str(PRESETS["dssdn-middle"]),
            *(str(self.space.sample(lambda _, options: rng.choice(options))) for _ in range(3)),
        ]
        measured = [pool.submit(measure_candidate, networks) for _ in range(self.workers)]
        try:
            return sum(future.result() for future in measured) / len(measured)
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process ended while it started (see above; out of memory?); try --workers 1"
            ) from error

    # ---- checks

    def _check_options(self) -> None:
        options, cores = self.options, os.cpu_count() or 1
        if options.trials < 1:
            raise UserError(f"--trials is at least 1, not {options.trials}")
        if not 1 <= self.workers <= max(cores, len(self.devices)):
            raise UserError(f"--workers is 1 to {cores}, the number of cores, not {self.workers}")
        if self.budget < self.recipe.batch_size:
            raise UserError(
                f"--budget is at least one batch of {self.recipe.batch_size} clips, not {self.budget}"
            )
        if not all(1 <= size <= most for size, most in zip(self.train_input, self.input, strict=True)):
            raise UserError(
                f"--train-input is at most the full input, {self.input[0]}x{self.input[1]} here, "
                f"not {self.train_input[0]}x{self.train_input[1]}"
            )

    def _check_caps(self) -> None:
        """At least one network of the space must meet the caps."""
        if not self._caps(0, 0):
            return
        rng = random.Random(0)
        cheapest = self.space.sample(lambda _, options: options[0])
        candidates = [
            cheapest,
            *(self.space.sample(lambda _, options: rng.choice(options[:2])) for _ in range(500)),
        ]
        costs = [count(architecture, self.input, self.n_classes) for architecture in candidates]
        if not any(
            all(value <= cap for _, value, cap in self._caps(cost.params, cost.macs)) for cost in costs
        ):
            least = min(costs, key=lambda cost: cost.params), min(costs, key=lambda cost: cost.macs)
            raise UserError(
                f"no network of the space meets --max-params {self.options.max_params} and --max-macs {self.options.max_macs} at "
                f"{self.input[0]}x{self.input[1]}: the smallest have {least[0].params:,} params and {least[1].macs:,} MACs; raise the caps"
            )


def _suggest(trial: Trial, name: str, options: tuple[Any, ...]) -> Any:
    """An option chosen by Optuna; ordered options are suggested as their index."""
    if ordered(options):
        return options[trial.suggest_int(name, 0, len(options) - 1)]
    return trial.suggest_categorical(name, options)


def shared_devices(name: str) -> list[str]:
    """The devices that the workers share: all GPUs for 'auto' where there are any, otherwise the one that is named."""
    device = resolve_device(name)
    if name == "auto" and device.type == "cuda":
        import torch

        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [str(device)]


def default_workers(devices: list[str]) -> int:
    """One worker a GPU; on a CPU one a core up to eight, each with its share of the threads."""
    return len(devices) if devices[0].startswith("cuda") else min(8, os.cpu_count() or 1)


def _owner() -> dict[str, Any]:
    process = psutil.Process()
    return {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time(), "at": now()}


def _log10_rounded(value: int) -> float:
    return round(math.log10(value), 6)


def _described(data: dict[str, Any]) -> str:
    counts = "/".join(str(count) for count in data["counts"].values())
    return f"{data['name']} ({counts} clips, test fold {data['fold']}, digest {data['digest'][:12]})"


def _difference(then: Any, now_: Any) -> str:
    """Only what differs of two values."""
    if isinstance(then, dict) and isinstance(now_, dict):
        return ", ".join(
            f"{key} {then.get(key)!r}, now {now_.get(key)!r}"
            for key in now_
            if then.get(key) != now_.get(key)
        )
    return f"{then!r}, now {now_!r}"
