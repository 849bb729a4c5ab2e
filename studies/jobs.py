"""Full retrainings as processes of their own: queued, started, watched, cancelled and resumed without torch in this process.

A job is the command `python -m trainers.retrain` in a session of its own, so it outlives the page, the browser and the server that
started it. Its folder is the run's; `job.json` beside the run's own files says that it waits or which process was started, `log.txt` what it printed.

Jobs that wait are started one after the other by `python -m studies.jobs --runs DIR`, the one process that works a folder's queue off. Whoever
queues a job or looks at one that waits starts it where it is gone (`attend`), and it ends when nothing waits any more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import psutil
from filelock import FileLock

from search_space.errors import Parser, UserError, open_console, run_command
from search_space.rounding import per_cent
from studies.reports import lies_inside
from trainers import config
from trainers.config import DEFAULT_RECIPE, get_recipe
from trainers.config import RECIPES as _RECIPES
from trainers.runs import Run, is_study_name, process_alive, retrain_folder, trial_folder
from trainers.teaching import parsed, words_of

if TYPE_CHECKING:
    import pandas as pd

    from studies.records import StudyRecords

RECIPES = {name: get_recipe(name).epochs for name in _RECIPES}
"""The recipes that a job can follow, by name, with the epochs that each is made for."""
UNTAUGHT = config.UNTAUGHT
"""Those of them that need no teacher."""
FEATURES, PRECISIONS = config.FEATURE_FORMS, config.PRECISIONS
"""In which form a teacher's features can be learned, and what a job's networks can be made of."""

_FOLDER = re.compile(r"(\d{5,9})-([a-z][a-z0-9.-]{0,79}?)-e([1-9]\d{0,5})-s(\d{1,10})")
_MADE_OTHERWISE = re.compile(r"(?P<recipe>[a-z-]+?)(-with-[0-9a-f]{8})?(-pruned[0-9.]+x\d+)?(-int8-[a-z-]+)?")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,2})?")
_LOG_BYTES, _LOG_LINES = 8192, 20
_ENDED = ("interrupted", "stopped", "failed")
# What a record of another shape than ours, or a file that can not be read, brings about.
_TORN = (ValueError, TypeError, KeyError, OverflowError, RecursionError, OSError)

# Assumed: a training fills the cores, so that two at once are no faster than one after the other.
AT_ONCE = 1
_MOST_TEACHERS = 20
_LOOK_S = 2.0  # between two looks of the queue's worker
_RECORDS = ("job.json", "status.json", "run.json")
RETRAINED = [
    "trial",
    "architecture",
    "recipe",
    "epochs",
    "seed",
    "val_accuracy",
    "test_accuracy",
    "params",
    "macs",
    "run",
]
"""The columns of `retrained`."""
_WORKER, _LOCK, _LOG = ".queue.json", ".queue.lock", ".queue.log"


@dataclass(frozen=True)
class Job:
    """One retraining, by what tells it from every other: a trial of a study, a recipe, a length, a seed. `device` is where it runs.

    `options` are words of its command line that change the recipe (`--teacher RUN`, `--prune 0.5`, `--precision int8-qat`); `label` is the recipe's name
    with what they make of it, as its folder's name has it. `epochs` 0 stands for as many as the recipe is made for. Raises `UserError`
    where that is asked of a recipe that does not exist, and for options that can not be.
    """

    study: str
    runs: Path
    trial: int
    recipe: str = DEFAULT_RECIPE
    epochs: int = 0
    seed: int = 0
    device: str = "auto"
    options: tuple[str, ...] = ()
    label: str = ""

    def __post_init__(self) -> None:
        if not self.epochs:
            object.__setattr__(self, "epochs", get_recipe(self.recipe).epochs)
        if not self.label:
            label = parsed(self.recipe, self.options).label if self.options else self.recipe
            object.__setattr__(self, "label", label)

    @property
    def run(self) -> Run:
        """The folder that it fills. Raises `UserError` for a study's name that could lead out of `runs`."""
        return Run(retrain_folder(self.runs, self.study, self.trial, self.label, self.epochs, self.seed))

    def command(self, resume: bool = False) -> list[str]:
        """What follows `python` on its command line. A device that nobody chose is left out: a run that goes on keeps its own."""
        values = {
            "study": self.study,
            "trial": self.trial,
            "runs": self.runs,
            "epochs": self.epochs,
            "recipe": self.recipe,
            "seed": self.seed,
        }
        if self.device != "auto":
            values["device"] = self.device
        options = [word for name, value in values.items() for word in (f"--{name}", str(value))]
        return ["-m", "trainers.retrain", *options, *self.options, *(["--resume"] if resume else [])]

    def shell(self, resume: bool = False) -> str:
        """The command as one line for a person's shell."""
        return shlex.join(["python", *self.command(resume)])


@dataclass(frozen=True)
class State:
    """Where a retraining truly stands: what it wrote, held against the processes that exist.

    `name` is 'queued' (it waits for its turn), 'starting' (its process prepares, no epoch has begun), 'running', 'finished', 'interrupted' (it was asked to end, and kept
    its finished batches), 'stopped' (its process is gone without a word), 'failed' or 'corrupt' (its record can not be read).
    `clips_seen` of one that runs counts the clips trained on, of `clips` in all, 0 while unknown; `eta_s` are the seconds left, None while unknown; `error` says what went wrong, None while nothing did. `barred` says why a run that
    has not finished can not go on, None where it can.
    """

    name: str
    epoch: int = 0
    epochs: int = 0
    eta_s: float | None = None
    error: str | None = None
    barred: str | None = None
    clips_seen: int = 0
    clips: int = 0

    @property
    def done(self) -> float:
        """The share of its training that is done, 0 to 1: by clips, so that it grows within an epoch, where they are known."""
        share = self.clips_seen / self.clips if self.clips else self.epoch / max(1, self.epochs)
        return min(1.0, max(0.0, share))

    @property
    def active(self) -> bool:
        """Whether a process works on it now."""
        return self.name in ("starting", "running")

    @property
    def resumable(self) -> bool:
        """Whether it can be started again and goes on after the last batch that it kept."""
        return self.name in _ENDED and self.barred is None


def enqueue(job: Job, resume: bool = False) -> Run:
    """Have a job done as soon as its turn comes, whoever is looking then: the run that it will fill.

    Raises `UserError` when that very job waits, is at work or finished, can not go on, or has stopped and `resume` was not asked for, for a
    device that can not be, and where the runs can not be written.
    """
    if not _DEVICE.fullmatch(job.device):
        raise UserError(f"a device is auto, cpu, cuda or cuda:N, not {job.device!r}")
    run = job.run
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        with FileLock(run.path / "job.lock"):
            _check_free(run, resume)
            entry = {"state": "queued", "since": time.time(), "resume": resume, "device": job.device}
            entry |= {"options": list(job.options)} if job.options else {}
            run.write_json("job.json", {**entry, "before": _job(run) or None})
        attend(job.runs)
    except OSError as error:
        raise UserError(f"{run.path} can not be written ({error.strerror}); make room, or mend its rights") from error
    return run


def start_retrain(job: Job, resume: bool = False) -> Run:
    """Start a job as a process that outlives this one: the run that it fills.

    Raises `UserError` when that very job is at work or finished, can not go on, or has stopped and `resume` was not asked for.
    """
    run = job.run
    run.path.mkdir(parents=True, exist_ok=True)
    with FileLock(run.path / "job.lock"):
        _check_free(run, resume)
        _start(job, resume)
    return run


def _check_free(run: Run, resume: bool) -> None:
    """Raises `UserError` where a job must not be begun in the run's folder."""
    found = _state(run)
    if found and not (resume and found.resumable):
        advice = found.barred or "resume it if it stopped, or choose another seed"
        raise UserError(f"{run.path.name} is there already ({found.name}); {advice}")


def _start(job: Job, resume: bool) -> None:
    """Start a job's process. Only under its lock."""
    run = job.run
    with (run.path / "log.txt").open("ab") as log:
        log.write(f"$ {job.shell(resume)}\n".encode())
        log.flush()
        options = {"options": list(job.options)} if job.options else {}
        run.write_json("job.json", {**_detached(job.command(resume), log), **options})


def _detached(command: list[str], log: BinaryIO) -> dict[str, float]:
    """Start `python` with these arguments so that it outlives this process: its id and its start time."""
    process = subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    identity = {"pid": process.pid, "pid_started": psutil.Process(process.pid).create_time()}
    # Somebody has to wait for a child that ends, or it stays as a zombie.
    threading.Thread(target=process.wait, daemon=True).start()
    return identity


def state(run: Run) -> State:
    """Where a retraining truly stands, whoever started it and whatever became of its process."""
    return _state(run) or State("stopped", error=last_words(run), barred=_barred(run))


def is_begun(job: Job) -> bool:
    """Whether that very job waits, is at work, or has ended: only `resume` could do anything about it."""
    return _state(job.run) is not None


def cancel(run: Run) -> None:
    """Take a retraining that waits out of the queue, and ask its process to end (SIGTERM), which may be one from a shell: it keeps its
    finished batches. Nothing happens when there is neither."""
    if _unqueue(run) and not state(run).active:
        return
    job = _job(run)
    for record in (job, run.status):
        if process_alive(record.get("pid"), record.get("pid_started")):
            if record is job:
                with contextlib.suppress(OSError):  # a full disk is no reason not to end it
                    run.write_json("job.json", {**job, "cancelled": True})  # it may end before it can say why
            with contextlib.suppress(psutil.Error):
                psutil.Process(record["pid"]).terminate()
            return


def job_of(run: Run) -> Job:
    """The job that fills a run's folder, as its name and place tell. Raises `UserError` for a folder of another kind."""
    match = _FOLDER.fullmatch(run.path.name)
    if not match:
        raise UserError(f"{run.path.name!r} is no retraining's folder; they are named like 00017-strong-e60-s0")
    study = run.path.parents[1]
    trial, label, epochs, seed = match.groups()
    recipe, options = _made(run, label)
    return Job(study.name, study.parent, int(trial), recipe, int(epochs), int(seed), options=options, label=label)


def _made(run: Run, label: str) -> tuple[str, tuple[str, ...]]:
    """The recipe that a folder's label names, and the options that change it, as its records tell; none where they do not (`_barred` says so)."""
    if label in _RECIPES:
        return label, ()
    name = match["recipe"] if (match := _MADE_OTHERWISE.fullmatch(label)) else label
    with contextlib.suppress(UserError, *_TORN):
        recorded = _job(run).get("options")
        options = tuple(map(str, recorded)) if recorded else words_of(run.config["recipe"])
        if parsed(name, options).label == label:  # and nothing else stands in them than what changes a recipe
            return name, options
    return name, ()


def is_retraining(run: Run) -> bool:
    """Whether the run's folder is that of a retraining that a study's trial can have, not a trial's own."""
    return _FOLDER.fullmatch(run.path.name) is not None


def retrainings(study: StudyRecords, trial: int) -> list[Job]:
    """Every retraining of a trial's network, by whomever it was started, even if only just; the latest first."""
    return [job for job in all_retrainings(study) if job.trial == trial]


def all_retrainings(study: StudyRecords) -> list[Job]:
    """Every retraining of a study's networks, by whomever it was started, even if only just; the latest first."""
    return [job_of(run) for run in sorted(_runs(study.path), key=_changed, reverse=True)]


def retrained(study: StudyRecords) -> pd.DataFrame:
    """Every finished retraining of a study's networks, a row each: `trial`, `architecture`, `recipe` (the job's label), `epochs`, `seed`,
    `val_accuracy` and `test_accuracy` (0 to 1), `params`, `macs`, `run` (its folder's name). Architecture, params and MACs are those of the
    network that came of it, which pruning makes another one than the trial's. A record that can not be read is left out: `state` says that it is corrupt.
    """
    import pandas as pd  # the queue's worker, which lives for hours, needs none

    rows = []
    for run in sorted(_runs(study.path), key=lambda run: run.path.name):
        with contextlib.suppress(UserError, *_TORN):
            job, curve = job_of(run), run.metrics()
            scores = run.scores
            if scores is None or state(run).name != "finished" or not 0 <= float(scores["accuracy"]) <= 1:
                continue
            row: dict[str, Any] = {
                "trial": job.trial,
                "architecture": str(run.final["architecture"]),
                "recipe": job.label,
                "epochs": job.epochs,
                "seed": job.seed,
                "val_accuracy": float(curve[-1]["val_accuracy"]) if curve else math.nan,
                "test_accuracy": float(scores["accuracy"]),
                "params": int(run.final["params"]),
                "macs": int(run.final["macs"]),
                "run": run.path.name,
            }
            rows.append(row)
    return pd.DataFrame(rows, columns=RETRAINED)


def _runs(study: Path) -> list[Run]:
    """The folders of a study's retrainings in which something has been queued or started; others' folders are left alone."""
    try:
        folders = [path for path in (study / "retrain").iterdir() if _FOLDER.fullmatch(path.name) and path.is_dir()]
    except OSError:
        return []
    folders = [path for path in folders if lies_inside(path, study.parent)]
    return [Run(path) for path in folders if any((path / name).exists() for name in _RECORDS)]


def _changed(run: Run) -> float:
    """When the run's record last changed (seconds since the epoch): never, where that can not be seen."""
    times = [0.0]
    for name in ("", *_RECORDS):
        with contextlib.suppress(OSError):
            times.append((run.path / name).stat().st_mtime)
    return max(times)


def teachers(study: StudyRecords) -> dict[str, str]:
    """Folders of finished trainings of this study that can teach its networks, and what they are called: its retrainings, then the most accurate trials."""
    found: dict[str, str] = {}
    rows = retrained(study)
    for row in rows.sort_values("val_accuracy", ascending=False).to_dict("records"):
        path = study.path / "retrain" / str(row["run"])
        found[str(path)] = (
            f"trial {row['trial']} retrained ({row['recipe']}, {row['epochs']} epochs, seed {row['seed']}): val {per_cent(row['val_accuracy'])}"
        )
    complete = study.trials().query("state == 'complete'").sort_values("val_accuracy", ascending=False)
    for trial, accuracy in complete[["trial", "val_accuracy"]].head(_MOST_TEACHERS).itertuples(index=False):
        run = Run(trial_folder(study.path.parent, study.name, int(trial)))
        if run.weights_path.exists() and lies_inside(run.path, study.path.parent):
            found[str(run.path)] = f"trial {trial} as the study trained it: val {per_cent(accuracy)}"
    return found


def last_words(run: Run) -> str | None:
    """The last lines that a job printed, or None without a log."""
    path = run.path / "log.txt"
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _LOG_BYTES))
            lines = log.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return "\n".join(lines[-_LOG_LINES:])


def _job(run: Run) -> dict[str, Any]:
    """What was queued or started here; empty when it was another that started the run."""
    path = run.path / "job.json"
    return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}


def _is_newer(run: Run, name: str, than: str) -> bool:
    """Whether one of the run's files was written after another, both of which are there."""
    return (run.path / name).stat().st_mtime_ns > (run.path / than).stat().st_mtime_ns


def _clips(run: Run, status: dict[str, Any]) -> tuple[int, int]:
    """How many clips a training has seen, and will have; 0 where its records do not say."""
    with contextlib.suppress(UserError, *_TORN):
        return int(status["clips_seen"]), int(run.config["clips"])
    return 0, 0


def _barred(run: Run) -> str | None:
    """Why a run could not go on if it was started again, or None: its recipe may be one that this version does not know."""
    match = _FOLDER.fullmatch(run.path.name)
    if match is None or match[2] in RECIPES:
        return None
    name, options = _made(run, match[2])
    if name not in RECIPES:
        return (
            f"it can not be resumed, for its recipe {match[2]!r} does not exist any more; retrain the network with one of "
            f"{sorted(RECIPES)}"
        )
    return (
        None
        if options
        else "it can not be resumed, for its record does not say with which options, or its teacher is gone; retrain the network"
    )


def _state(run: Run) -> State | None:
    """The run's state, or None when nothing has been started in its folder."""
    try:
        job = _job(run)
        # Asked before the status is read: of a process that is gone, that status is its last, and nothing of it is still to come.
        job_alive = process_alive(job.get("pid"), job.get("pid_started"))
        waits = _waits(job)
        status = run.status
        name, error = status.get("state"), status.get("error")
        if name == "running" and not run.alive:
            # It may have ended since the status was read; now that its process is gone, the status is its last.
            status = run.status
            name = "stopped" if status.get("state") == "running" else status.get("state")
            error = status.get("error")
        if waits:  # unless somebody else has trained it in the meantime
            if name not in ("running", "finished"):
                name, error = "queued", None
        elif job and job.get("pid") != status.get("pid"):
            if job_alive:
                name = "starting"
            elif name is None or (name in _ENDED and _is_newer(run, "job.json", "status.json")):
                # It ended before its first word; what the status says is of a process before it.
                name, error = ("interrupted", None) if job.get("cancelled") else ("failed", last_words(run))
        if name is None and not job:
            return None
        eta_s = status.get("eta_s")
        found = State(
            str(name),
            int(status.get("epoch", 0)),
            int(status.get("epochs", 0)),
            eta_s and float(eta_s),
            str(error) if name == "failed" and error else None,
            _barred(run) if name in _ENDED else None,
            *(_clips(run, status) if name == "running" else ()),
        )
    except _TORN as error:
        return State("corrupt", error=str(error) or type(error).__name__)
    known = ("queued", "starting", "running", "finished", *_ENDED)
    return (
        found
        if name in known
        else State("corrupt", error=f"unknown state {name!r} in status.json; known: {sorted(known)}")
    )


# ----------------------------------------------------------------------------------------------------------------- queue


def queued(runs: Path) -> list[Job]:
    """The jobs that wait in a folder of studies, in the order of their turns."""
    found = []
    for path in Path(runs).glob("*/retrain/*/job.json"):
        run = Run(path.parent)
        if not _FOLDER.fullmatch(path.parent.name) or not is_study_name(path.parents[2].name):
            continue
        if not lies_inside(path, Path(runs)):
            continue
        with contextlib.suppress(*_TORN):
            entry = _job(run)
            if _waits(entry) and state(run).name == "queued":
                job = dataclasses.replace(job_of(run), device=entry["device"])
                found.append((entry["since"], run.path.name, job))
    return [job for *_, job in sorted(found, key=lambda entry: entry[:2])]


def attend(runs: Path) -> None:
    """Start the process that works the queue off, where something waits and none is at work. Raises `UserError` where that can not be."""
    if not queued(runs):
        return
    try:
        with FileLock(runs / _LOCK):
            if _worker(runs) is None and queued(runs):
                with (runs / _LOG).open("ab") as log:
                    Run(runs).write_json(_WORKER, _detached(["-m", "studies.jobs", "--runs", str(runs)], log))
    except OSError as error:
        raise UserError(
            f"the queue in {runs} can not be worked off ({error.strerror}); make room, or mend its rights"
        ) from error


def work_off(runs: Path, at_once: int = AT_ONCE) -> list[Job]:
    """The jobs that were started, each in its turn, never more than `at_once` at a time, whoever else starts some; returns when nothing
    waits any more. Raises `UserError` where another process works on this queue."""
    me = {"pid": os.getpid(), "pid_started": psutil.Process().create_time()}
    with FileLock(runs / _LOCK):
        other = _worker(runs)
        if other not in (None, me["pid"]):
            raise UserError(f"process {other} works on the queue of {runs} already; wait for it, or end it")
        Run(runs).write_json(_WORKER, me)
    started: list[Job] = []
    skipped: set[Path] = set()  # folders that can not be written: nobody waits for them

    def waiting() -> list[Job]:
        return [job for job in queued(runs) if job.run.path not in skipped]

    while True:
        turns = waiting()
        if not turns:
            with FileLock(runs / _LOCK):  # what is queued from here on starts another worker
                if not waiting():
                    (runs / _WORKER).unlink(missing_ok=True)
                    return started
        for job in turns[: max(0, at_once - len(at_work(runs)))]:
            try:
                started += [job] if _begin(job) else []
            except _TORN as error:
                skipped.add(job.run.path)
                print(f"{job.run.path} is passed over ({type(error).__name__}: {error})", file=sys.stderr, flush=True)
        time.sleep(_LOOK_S)


def _begin(job: Job) -> bool:
    """Start a job whose turn it is; whether it was still waiting."""
    run = job.run
    with FileLock(run.path / "job.lock"):
        if state(run).name != "queued":
            return False
        entry = _job(run)
        try:
            _start(job, entry["resume"])
        except OSError as error:
            with contextlib.suppress(OSError), (run.path / "log.txt").open("ab") as log:
                log.write(f"error: its process could not be started ({error})\n".encode())
            run.write_json("job.json", {"pid": 0, "pid_started": 0.0})  # of a process that never was
    return True


def _unqueue(run: Run) -> bool:
    """Take a job that waits out of the queue: what was known of it before stands again. Whether it waited."""
    try:
        if not run.path.is_dir() or not _waits(_job(run)):
            return False
        with FileLock(run.path / "job.lock"):
            entry = _job(run)
            if not _waits(entry):
                return False
            if entry.get("before"):
                run.write_json("job.json", entry["before"])
            else:
                (run.path / "job.json").unlink()
        return True
    except _TORN:
        return False


def _waits(job: dict[str, Any]) -> bool:
    """Whether this is what `enqueue` writes. Raises `ValueError` for what looks like it and is not: nothing is started by a torn record."""
    if "state" not in job:
        return False
    device, since, before = job.get("device"), job.get("since"), job.get("before")
    whole = job["state"] == "queued" and isinstance(job.get("resume"), bool) and isinstance(before, dict | None)
    if not whole or not isinstance(device, str) or not _DEVICE.fullmatch(device) or not isinstance(since, float):
        raise ValueError("job.json holds no entry of the queue, though it looks like one; delete it")
    return True


def _worker(runs: Path) -> int | None:
    """The id of the process that works on the queue, None where there is none."""
    try:
        record = dict(json.loads((runs / _WORKER).read_text("utf-8")))
        return int(record["pid"]) if process_alive(record.get("pid"), record.get("pid_started")) else None
    except _TORN:
        return None


def at_work(runs: Path) -> list[Job]:
    """The retrainings of a folder's studies that a process works on now, by whomever it was started."""
    folders = (
        path
        for path in runs.glob("*/retrain/*")
        if _FOLDER.fullmatch(path.name) and is_study_name(path.parents[1].name) and lies_inside(path, runs)
    )
    return [job_of(Run(path)) for path in folders if state(Run(path)).active]


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = Parser(
        prog="python -m studies.jobs",
        description="Start the retrainings that wait in a folder of studies, one after the other.",
    )
    add = parser.add_argument
    add("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where studies lie (default: runs)")
    add("--at-once", type=int, default=AT_ONCE, metavar="N", help=f"how many train at a time (default: {AT_ONCE})")
    add("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    options = parser.parse_args(argv)
    if options.at_once < 1:
        raise UserError(f"--at-once is at least 1, not {options.at_once}")
    if not options.runs.is_dir():
        raise UserError(f"--runs {options.runs} is no folder; `python -m studies.run` makes a study in one")
    started = work_off(options.runs, options.at_once)
    console = open_console(stderr=options.json)
    for job in started:
        console.print(f"started: {job.run.path}", markup=False, soft_wrap=True)
    if options.json:
        json.dump({"started": [str(job.run.path) for job in started]}, sys.stdout)
        print()
    return 0


if __name__ == "__main__":
    run_command(main)
