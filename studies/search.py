"""A study: ask for a network, train it for a short budget in a worker process, tell what came of it.

One process a machine asks and tells, its workers only train. A journal has one such process, a database any number: the total is exact and
no network is trained twice, because a trial is asked for and its network claimed by one process at a time. What a process or a worker that
died left behind is found by the others and queued again.

With halving a training waits at every rung, in its run's folder, while the coordinator decides whether it goes on: it is trained further by
whichever worker is free, or its trial ends as stopped.
"""

from __future__ import annotations

import math
import os
import random
import socket
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from search_space.errors import UserError
from search_space.families import Network
from studies import owners
from studies.agreement import check_code, check_same
from studies.candidates import Candidates, make_sampler, trained
from studies.code import code_digest
from studies.crew import Crew
from studies.halving import KEEP, at_rung, goes_on, mean_share
from studies.interrupts import Interrupts
from studies.owners import Heart
from studies.plans import SearchOptions, planned
from studies.records import ADDRESS, StudyRecords, trial_state
from studies.storage import DATABASE_ERRORS, JOURNAL, database_lock, is_gone, mend_journal, open_storage
from trainers.config import get_recipe
from trainers.datasets import Dataset
from trainers.features import Features
from trainers.inputs import data_record
from trainers.loop import Diverged, Stopped, rung_clips
from trainers.recorded import drop_checkpoints, move_checkpoint
from trainers.runs import (
    Run,
    available_cores,
    held,
    provenance,
    study_folder,
    trial_folder,
    without_password,
    write_atomic,
)
from trainers.teachers import check
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
_FIRST_FAILURES = 5
MOST_DEATHS = 10
"""So often is a network queued again after its worker died."""

# Assumed: how long a database may be away before a machine gives up, and how long while it is being stopped.
_PATIENCE_S, _LAST_PATIENCE_S = 3600.0, 10.0
_LOOK_S = 2.0
# Assumed: a machine that found no other network looks again so often for one that a dead machine leaves.
_EXHAUSTED_S = 30.0
_ESTIMATES = 3

T = TypeVar("T")


@dataclass(frozen=True)
class Told:
    """One ended trial, for whoever shows the progress: `val_accuracy` 0 to 1, or the `error` that ended it. A trial that was stopped early
    has the accuracy at its last rung, and that rung's clips in `stopped_at`."""

    trial: int
    architecture: str
    val_accuracy: float | None
    error: str | None
    stopped_at: int | None = None


Pending = dict[Future[dict[str, Any]], tuple[Trial, Network]]


class Search:
    """A study on a data set, opened or continued. `run` trains until the total is reached; what is finished stays.

    Raises `UserError` before any training when an option breaks a rule, no architecture meets the caps, the study was made on something else,
    or another process is running it. `say` hears what a person should know on the way. `train`, `measure` and `open_pool` are what a worker
    does, how its pace is measured, and how it is started (`trainers.workers`): a benchmark of the machinery puts stand-ins in their place.
    """

    def __init__(
        self,
        options: SearchOptions,
        dataset: Dataset,
        features: Features,
        *,
        say: Callable[[str], None] = lambda line: None,
        train: Callable[[str, str, dict[str, Any]], dict[str, Any]] = train_candidate,
        measure: Callable[[list[str]], float] = measure_candidate,
        open_pool: Callable[..., tuple[ProcessPoolExecutor, Event]] = worker_pool,
    ) -> None:
        self.options = options
        self._say, self._train, self._measure, self._open_pool = say, train, measure, open_pool
        self.n_classes = len(dataset.classes)
        self.input = features.size
        plan = planned(options, self.n_classes, features.front_end, self.input)
        self.space, self.train_input, self.budget, self.halving, self.recipe, self.limits, self._caps = plan
        self.name = options.study or dataset.name
        self.path = study_folder(options.runs, self.name)
        self.devices = shared_devices(options.device)
        self.workers = default_workers(self.devices) if options.workers is None else options.workers
        self.threads = max(1, available_cores() // self.workers)
        self._dataset = dataset
        self.data = data_record(dataset, features)
        check(self.recipe, dataset, features.front_end, features.digest, self.train_input)
        self.shared = options.storage is not None
        self._failures = self._successes = self._deaths = 0
        self._stale: dict[int, float] = {}
        self._looked_s = self._filled_s = 0.0
        self._interrupts = Interrupts()

    # ---- the study

    @contextmanager
    def opened(self) -> Iterator[StudyRecords]:
        """The study, locked for this process where it is a journal, with its presets queued and what was left behind queued again."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        options = self.options
        with ExitStack() as stack:
            stack.enter_context(_database_named())
            self._check_place()
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock: Callable[[], AbstractContextManager[None]] = nullcontext
            lock_file = self.path / "lock"
            if options.storage is None:
                busy = f"study {self.name!r} is being run by another process; wait for it, end it, or name another with --study"
                stack.enter_context(held(lock_file, busy))
                for line in mend_journal(self.path):
                    self._say(line)
            storage = open_storage(self.path, options.storage, heartbeat_s=options.heartbeat)
            if options.storage is not None:
                self._lock = database_lock(options.storage, f"study {self.name}")
            self._heart = Heart(
                options.heartbeat,
                (lambda trial_id: self._study._storage.record_heartbeat(trial_id)) if self.shared else (lambda _: None),  # type: ignore[attr-defined]
                (lambda: None) if self.shared else (lambda: os.utime(lock_file)),
            )
            with self._lock():
                self._study = optuna.create_study(
                    study_name=self.name, storage=storage, directions=_DIRECTIONS, load_if_exists=True
                )
                trials = self._study.get_trials(deepcopy=False)
                seed = options.seed + len(trials)  # a continued study draws new numbers
                if self.shared:  # and so does every machine
                    seed += zlib.crc32(f"{owners.machine()} {socket.gethostname()} {os.getpid()}".encode())
                self._study.sampler = make_sampler(options.sampler, seed % 2**32, 2 if self.shared else self.workers)
                self._candidates = Candidates(
                    *(self._study, self.space, self.input, self.n_classes, self._caps, random.Random(seed)),
                    lock=self._lock,
                    on_ask=lambda trial: self._heart.add(trial._trial_id),
                )
                self._agree()
                if options.retry_failed:
                    self._retry_failed(trials)
            if options.storage is not None:
                address = without_password(options.storage)
                write_atomic(self.path / ADDRESS, lambda file: file.write(f"{address}\n".encode()))
            self._recover(trials, lock_file)
            stack.enter_context(self._heart.beating())
            yield StudyRecords(self.name, self.path, self._study)

    def _check_place(self) -> None:
        """Raises `UserError` when the study's folder says that its trials live elsewhere."""
        if self.shared and (self.path / JOURNAL).exists():
            raise UserError(f"{self.path} holds a study with a journal; leave --storage out, or name another study")
        if not self.shared and (self.path / ADDRESS).exists():
            address = (self.path / ADDRESS).read_text("utf-8").strip()
            raise UserError(f"study {self.name!r} lives in a database; add --storage {address}, or name another study")

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
            "recipe": self.recipe.record(),
            "halving": {"keep": list(KEEP), "rungs": list(rung_clips(self.recipe, self.budget))}
            if self.halving
            else None,
            "sampler": self.options.sampler,
            "seed": self.options.seed,
            "max_params": self.options.max_params,
            "max_macs": self.options.max_macs,
            "max_bytes": self.options.max_bytes,
            "precision": self._caps.precision if self.options.max_bytes else None,
            "limits": self.limits._asdict() if self.limits else None,
            "reference_point": {
                "accuracy": 1 / self.n_classes,
                "log10_params": round(math.log10(largest_params), 6),
                "log10_macs": round(math.log10(largest_macs), 6),
            },
            "heartbeat_s": self.options.heartbeat if self.shared else None,
            "artifacts": self._artifacts_place(),
            "code": code_digest(),
            "provenance": provenance(),
        }
        then = self._study.user_attrs
        if "recipe" in then:  # an older record lacks what recipes have said since; it was as the short one says
            then["recipe"] = {**get_recipe("short").record(), **then["recipe"]}
        if "provenance" in then:  # the last attribute to be written
            check_same(self.name, then, about, with_artifacts=self.options.artifacts is not None)
            if said := check_code(self.name, then, about["code"], self.options.accept_code):
                self._say(said)
                self._study.set_user_attr("code", about["code"])
            self._open_artifacts(then.get("artifacts"))
            return
        if any(self.path.glob("trials/*")):
            raise UserError(
                f"{self.path} holds trials of another study (another --storage?); name a new one with --study"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self._study.set_metric_names(_METRICS)
        queued = {trial.user_attrs.get("preset") for trial in self._study.get_trials(deepcopy=False)}
        for name, architecture in self.space.presets.items():
            if name not in queued:  # all of them, but for a study that was killed right here
                self._candidates.enqueue(architecture, preset=name)
        self._open_artifacts(about["artifacts"])
        for key, value in about.items():
            self._study.set_user_attr(key, value)

    def _artifacts_place(self) -> str | None:
        place = self.options.artifacts
        return place if place is None or "://" in place else str(Path(place).resolve())

    def _open_artifacts(self, place: str | None) -> None:
        from studies.artifacts import Artifacts  # boto3, where it is installed, takes a while to import

        self._artifacts = Artifacts(place) if place else None

    def _retry_failed(self, trials: list[FrozenTrial]) -> None:
        """Queue again what failed by itself and was not queued again since."""
        again = {trial.user_attrs.get("retry_of") for trial in trials}
        for trial in trials:
            failed = trial.state == TrialState.FAIL and trial.user_attrs.get("outcome", "failed") == "failed"
            if failed and trial.number not in again and trial.params:
                kept = {key: trial.user_attrs[key] for key in ("preset",) if key in trial.user_attrs}
                self._study.enqueue_trial(trial.params, {**kept, "retry_of": trial.number})

    def _recover(self, trials: list[FrozenTrial], lock_file: Path) -> None:
        """Remember what has been trained; queue again what a killed process left running.

        Raises `UserError` when a journal's trial is of another host that shows signs of life: there are file systems that lock nothing.
        """
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        hosts = {owner["host"] for trial in running if (owner := trial.user_attrs.get("owner"))}
        elsewhere = sorted(hosts - {socket.gethostname()})
        if elsewhere and not self.shared:
            self._say(f"trials under way on {', '.join(elsewhere)}: looking whether it lives")
            if owners.changes(lock_file, 3 * self.options.heartbeat):
                raise UserError(
                    f"study {self.name!r} is being run on {', '.join(elsewhere)}; wait for it, end it, or name another with --study"
                )
        self._reap({})
        self._candidates.look()

    def _reap(self, pending: Pending) -> None:
        """Queue again what dead processes left under way.

        A process of this machine is looked for. Any other is dead when the database has not heard of it for `GRACE` heartbeats, by its own
        clock, and not for two more while this process could reach it: after a pause of the database all look dead for a moment.
        """
        ours = {trial._trial_id for trial, _ in pending.values()}
        with self._lock():  # where every living trial has an owner
            trials = self._study.get_trials(deepcopy=False)
            running = {trial._trial_id: trial for trial in trials if trial.state == TrialState.RUNNING}
            silent = set(self._study._storage._get_stale_trial_ids(self._study._study_id)) if self.shared else set()  # type: ignore[attr-defined]
        seen_s = time.monotonic()
        self._stale = {trial_id: self._stale.get(trial_id, seen_s) for trial_id in silent}
        for trial_id, trial in running.items():
            owner = trial.user_attrs.get("owner")
            if trial_id in ours:
                continue
            if owner is None or owners.is_own(owner) or not self.shared:
                dead = True
            else:
                silent_s = seen_s - self._stale.get(trial_id, seen_s)
                dead = owners.alive(owner) is False or silent_s >= 2 * self.options.heartbeat
            if dead:
                self._say(f"trial {trial.number} was left behind by a process that died; its network is queued again")
                self._interrupted(trial, died=True)

    # ---- training

    def run(self, on_start: Callable[[float, int], None], on_told: Callable[[Told], None]) -> str | None:
        """Train until `trials` distinct networks are complete or were stopped early; why it ended before that, or None.

        `on_start` hears the estimated seconds and the number of networks still to train, `on_told` every finished one. To be called inside
        `opened`. On Ctrl-C the networks under way are queued again and `KeyboardInterrupt` goes on up.
        """
        remaining = self.options.trials - self.complete()
        if remaining <= 0:
            on_start(0.0, 0)
            return None
        crew = self._crew()
        pending: Pending = {}
        waiting = exhausted = ended = False
        self._interrupts.hold()
        try:
            share = mean_share(self.recipe.cycles) if self.halving else 1.0
            on_start(self._estimate(crew) * share * remaining / self.workers, remaining)
            while True:
                # Each look for a network where there is none leaves records behind.
                looked = not exhausted or ended or time.monotonic() - self._filled_s > _EXHAUSTED_S
                if looked:
                    exhausted = self._patiently(lambda: self._fill(crew, pending))
                    self._filled_s = time.monotonic()
                if not pending:
                    complete, elsewhere = self._patiently(self._standing)
                    if complete >= self.options.trials:
                        return None
                    if not elsewhere and exhausted and not looked:
                        exhausted = False  # what another machine left may be queued again
                        continue
                    if not elsewhere and exhausted:
                        return f"no other network within the caps was found; {complete} were trained"
                    if elsewhere and not waiting:
                        self._say(f"nothing left to begin; waiting for {elsewhere} under way elsewhere")
                    waiting = elsewhere > 0
                    self._interrupts.rest(min(_LOOK_S, self.options.heartbeat))
                with self._interrupts.welcome():
                    finished, _ = wait(pending, timeout=self._look_again_s(), return_when=FIRST_COMPLETED)
                ended = bool(finished)
                for future in finished:
                    asked = pending[future]
                    told = self._patiently(lambda future=future, asked=asked: self._tell(future, *asked))  # type: ignore[misc]
                    del pending[future]
                    crew.done(future)
                    if told is None:
                        pending[self._submit(crew, *asked)] = asked
                    else:
                        on_told(told)
                if self.shared and time.monotonic() - self._looked_s > self.options.heartbeat:
                    self._patiently(lambda: self._reap(pending))
                    self._looked_s = time.monotonic()
        except BaseException:
            crew.stop()
            self._end_pending(pending, on_told)
            raise
        finally:
            self._interrupts.let_go()
            crew.close()

    def _look_again_s(self) -> float | None:
        """How long to wait for an own training before looking at what other machines do."""
        return min(_LOOK_S, self.options.heartbeat) if self.shared else None

    def _fill(self, crew: Crew, pending: Pending) -> bool:
        """Give every free worker a network; whether the space has no other one."""
        try:
            while crew.free():
                asked = self._candidates.next(self.options.trials)
                if asked is None:
                    return not self._candidates.full
                self._adopt(asked[0])
                pending[self._submit(crew, *asked)] = asked
            return False
        finally:  # what was asked for in vain is not ours any more
            self._heart.only(trial._trial_id for trial, _ in pending.values())

    def _patiently(self, act: Callable[[], T], for_s: float = _PATIENCE_S) -> T:
        """What `act` gives, which may be called again: a database that does not answer is waited for, while the workers go on.

        Raises `UserError` when it stays away.
        """
        began, pause_s = time.monotonic(), 1.0
        while True:
            try:
                return act()
            except DATABASE_ERRORS as error:
                if not is_gone(error):
                    raise
                self._stale.clear()
                away_s = time.monotonic() - began
                said = str(error.__cause__ or error).splitlines()[0]
                if away_s > for_s:
                    raise UserError(
                        f"the database has not answered for {away_s:.0f} s ({said}); the same command goes on when it does"
                    ) from error
                self._say(f"the database does not answer ({said}); asking again in {pause_s:.0f} s, trainings go on")
                self._interrupts.rest(pause_s)
                pause_s = min(2 * pause_s, 15.0)

    def _adopt(self, trial: Trial) -> None:
        """Let a new trial go on from the rung to which an interrupted one brought the same network, where its state lies here."""
        if not self.halving:
            return
        for other in reversed(self._study.get_trials(deepcopy=False, states=(TrialState.FAIL,))):
            same = other.user_attrs.get("architecture") == trial.user_attrs["architecture"]
            if same and "rungs" in other.user_attrs and trial_state(other) == "interrupted":
                if move_checkpoint(self._run(other.number), self._run(trial.number)):
                    for key in ("rungs", "rung_seconds", "seconds"):
                        trial.set_user_attr(key, other.user_attrs[key])
                return

    def _run(self, trial: int) -> Run:
        return Run(trial_folder(self.options.runs, self.name, trial))

    def _submit(self, crew: Crew, trial: Trial, architecture: Network) -> Future[dict[str, Any]]:
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
            "recipe": self.recipe.record(),
            "clips": self.budget,
            "seed": self.options.seed,
            "command": provenance()["command"],
        }
        path = self._run(trial.number).path
        resume = [True] if "rungs" in attributes else []
        return crew.submit(self._train, str(architecture), str(path), config, *resume)

    def _tell(self, future: Future[dict[str, Any]], trial: Trial, architecture: Network) -> Told | None:
        """Put what became of a training into the study; None when it waits at a rung and is to go on. May be called again where the database
        broke off.

        Raises `UserError` for what ends the study: no disk, workers that die one after the other, nothing but failures.
        """
        error = future.exception()
        if error is None:
            result = future.result()
            if result.get("clips", self.budget) < self.budget:
                return self._at_rung(trial, architecture, result)
            return self._tell_score(result, trial, architecture)
        if isinstance(error, BrokenProcessPool | OSError | Stopped):
            died = isinstance(error, BrokenProcessPool)
            self._interrupted(trial, died=died)
            if isinstance(error, OSError):
                raise UserError(
                    f"trial {trial.number} could not be written or read ({error}); mend that, then run the same command again"
                ) from error
            self._deaths += died
            if self._deaths > MOST_DEATHS * (self.workers + 1):
                raise UserError(
                    f"worker processes were killed {self._deaths} times in a row (out of memory?); use fewer --workers"
                ) from error
            return Told(
                trial.number, str(architecture), None, "its worker died; queued again" if died else "interrupted"
            )
        message = f"{type(error).__name__}: {error}"
        self._end_once(trial, message if isinstance(error, Diverged) else f"{message}\n{error.__cause__ or ''}")
        self._failures += 1
        if not self._successes and self._failures >= _FIRST_FAILURES:
            raise UserError(
                f"all of the first {self._failures} trials here failed, the last with {message}; their errors are in the study"
            )
        return Told(trial.number, str(architecture), None, message)

    def _tell_score(self, result: dict[str, Any], trial: Trial, architecture: Network) -> Told:
        attributes = self._study._storage.get_trial(trial._trial_id).user_attrs
        try:
            trial.set_user_attr("seconds", round(_before_rungs(attributes) + result["seconds"], 2))
            if self._artifacts is not None:
                self._artifacts.keep(trial_folder(self.options.runs, self.name, trial.number), trial)
            with self._lock():  # at its end the score is on the database's disk
                self._study.tell(trial, [result["val_accuracy"], attributes["params"], attributes["macs"]])
        except OSError as error:
            self._interrupted(trial)
            raise UserError(
                f"trial {trial.number} could not be kept ({error}); mend that, then run the same command again"
            ) from error
        except (UpdateFinishedTrialError, ValueError):
            if (
                self._study._storage.get_trial(trial._trial_id).state != TrialState.COMPLETE
            ):  # else it was told just before
                return self._given_up(trial, architecture)
        self._successes, self._deaths = self._successes + 1, 0
        return Told(trial.number, str(architecture), result["val_accuracy"], None)

    def _given_up(self, trial: Trial, architecture: Network) -> Told:
        return Told(trial.number, str(architecture), None, "taken for dead meanwhile; another process trains it")

    def _end_once(self, trial: Trial | FrozenTrial, error: str) -> None:
        """Record a trial's own failure, unless it has been ended already."""
        storage = self._study._storage
        if not storage.get_trial(trial._trial_id).state.is_finished():
            storage.set_trial_user_attr(trial._trial_id, "error", error)
            storage.set_trial_user_attr(trial._trial_id, "outcome", "failed")
            self._study.tell(trial.number, state=TrialState.FAIL)

    def _at_rung(self, trial: Trial, architecture: Network, result: dict[str, Any]) -> Told | None:
        """Note the score, and end the trial unless it stands high enough among all that came to the rung."""
        rung, val_accuracy = result["clips"], result["val_accuracy"]
        storage = self._study._storage
        with self._lock():
            now = storage.get_trial(trial._trial_id)
            attributes = now.user_attrs
            if not now.state.is_finished():
                if str(rung) not in attributes.get("rungs", {}):  # else it was noted just before
                    seconds = {**attributes.get("rung_seconds", {}), str(rung): result["seconds"]}
                    trial.set_user_attr("rung_seconds", seconds)
                    trial.set_user_attr("seconds", round(sum(seconds.values()), 2))
                    trial.set_user_attr("rungs", {**attributes.get("rungs", {}), str(rung): val_accuracy})
                others = at_rung(self._study.get_trials(deepcopy=False), rung)
                newcomer = others.pop(trial.number)
                self._successes, self._deaths = self._successes + 1, 0
                if goes_on(newcomer, others.values(), KEEP[rung_clips(self.recipe, self.budget).index(rung)]):
                    return None
                self._candidates.end(trial, "stopped", TrialState.PRUNED)
            elif attributes.get("outcome") != "stopped":  # else it was told just before the database broke off
                return self._given_up(trial, architecture)
        run = self._run(trial.number)
        run.write_status("stopped", **{key: run.status.get(key) for key in ("epoch", "epochs")}, clips_seen=rung)
        drop_checkpoints(run)
        return Told(trial.number, str(architecture), val_accuracy, None, stopped_at=rung)

    def _end_pending(self, pending: Pending, on_told: Callable[[Told], None]) -> None:
        """While stopping: keep what finished in the meantime, queue the rest again."""
        wait(pending, timeout=60)

        def end(future: Future[dict[str, Any]], trial: Trial, architecture: Network) -> None:
            if self._is_told(trial):
                return
            if future.done() and not future.cancelled() and future.exception() is None:
                told = self._tell(future, trial, architecture)
                if told is not None:
                    on_told(told)
                    return
            self._interrupted(trial)

        for future, (trial, architecture) in pending.items():
            self._patiently(lambda end=end, asked=(future, trial, architecture): end(*asked), _LAST_PATIENCE_S)  # type: ignore[misc]
        pending.clear()

    def _interrupted(self, trial: Trial | FrozenTrial, died: bool = False) -> None:
        """End a trial that nobody trains any more, and queue its network again (as it was queued, if it was).

        Queued first: a kill between the two leaves a duplicate, which nobody trains, and not a gap. After `MOST_DEATHS` deaths of its worker it
        counts as failed.
        """
        storage = self._study._storage
        with self._lock():
            frozen = storage.get_trial(trial._trial_id)
            if frozen.state.is_finished():
                return
            kept: dict[str, Any] = {
                key: frozen.user_attrs[key] for key in ("preset", "retry_of") if key in frozen.user_attrs
            }
            deaths = frozen.user_attrs.get("deaths", 0) + died
            if deaths > MOST_DEATHS:
                self._end_once(
                    frozen,
                    f"its worker process died {deaths} times while it trained (killed, or out of memory?); --retry-failed tries again",
                )
                return
            architecture, asked_for = frozen.user_attrs.get("architecture"), frozen.system_attrs.get("fixed_params")
            self._candidates.look(besides=frozen.number)
            params = asked_for or (frozen.params if architecture else None)  # without a name not all choices were made
            if params and architecture not in self._candidates.seen:
                self._study.enqueue_trial(params, {**kept, "deaths": deaths})
            storage.set_trial_user_attr(frozen._trial_id, "outcome", "interrupted")
            try:
                self._study.tell(frozen.number, state=TrialState.FAIL)
            except (UpdateFinishedTrialError, ValueError):
                return  # its own process told it in this very moment

    def _is_told(self, trial: Trial) -> bool:
        return self._study._storage.get_trial(trial._trial_id).state.is_finished()

    def complete(self) -> int:
        """How many networks count towards the total so far, wherever they were trained."""
        return self._patiently(self._standing)[0]

    def _standing(self) -> tuple[int, int]:
        """Networks that count towards the total, and those under way."""
        trials = self._study.get_trials(deepcopy=False)
        running = sum(trial.state == TrialState.RUNNING for trial in trials)
        return sum(map(trained, trials)), running

    # ---- workers

    def _crew(self) -> Crew:
        task = WorkerTask(
            *(self._dataset, self.data["digest"], self.train_input, self.recipe, self.budget, self.threads),
            pauses=self.halving,
        )
        devices = [self.devices[index % len(self.devices)] for index in range(self.workers)]
        return Crew(lambda device: self._open_pool(task, 1, [device], sharing=self.workers), devices)

    def _estimate(self, crew: Crew) -> float:
        """Seconds a candidate takes when all workers are busy: a few batches of a preset and of random networks."""
        rng = random.Random(0)
        drawn = [self.space.sample(lambda _, options: rng.choice(options)) for _ in range(3)]
        presets = list(self.space.presets.values())
        networks = [str(network) for network in (presets[len(presets) // 2], *drawn)]
        for _ in range(_ESTIMATES):
            measured = [crew.submit(self._measure, networks) for _ in range(self.workers)]
            with self._interrupts.welcome():
                wait(measured)
            for future in measured:
                crew.done(future)
            broken = [error for future in measured if (error := future.exception()) is not None]
            if not broken:
                return sum(future.result() for future in measured) / len(measured)
            if not isinstance(broken[0], BrokenProcessPool):
                raise broken[0]
        raise UserError(
            "a worker process ended while it started (see above; out of memory?); try --workers 1"
        ) from broken[0]


@contextmanager
def _database_named() -> Iterator[None]:
    """A database that breaks off where nobody waits for it is a person's business, not a traceback's."""
    try:
        yield
    except DATABASE_ERRORS as error:
        if not is_gone(error):
            raise
        said = str(error.__cause__ or error).splitlines()[0]
        raise UserError(
            f"--storage: the database does not answer ({said}); the same command goes on when it does"
        ) from error


def _before_rungs(attributes: dict[str, Any]) -> float:
    """Seconds that a trial took up to its last rung."""
    return float(sum(attributes.get("rung_seconds", {}).values()))
