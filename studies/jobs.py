"""Full retrainings as processes of their own: started, watched, cancelled and resumed without torch in this process.

A job is the command `python -m trainers.retrain` in a session of its own, so it outlives the page, the browser and the server that
started it. Its folder is the run's; `job.json` beside the run's own files says which process was started, `log.txt` what it printed.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from filelock import FileLock

from search_space.errors import UserError
from trainers.config import DEFAULT_RECIPE, get_recipe
from trainers.config import RECIPES as _RECIPES
from trainers.runs import Run, process_alive, retrain_folder

if TYPE_CHECKING:
    from studies.records import StudyRecords

RECIPES = {name: get_recipe(name).epochs for name in _RECIPES}
"""The recipes that a retraining can follow, by name, with the epochs that each is made for."""

_FOLDER = re.compile(r"(\d{5,9})-([a-z]+)-e([1-9]\d{0,5})-s(\d{1,10})")
_LOG_BYTES, _LOG_LINES = 8192, 20
_ENDED = ("interrupted", "stopped", "failed")


@dataclass(frozen=True)
class Job:
    """One retraining, by what tells it from every other: a trial of a study, a recipe, a length, a seed. `device` is where it runs.

    `epochs` 0 stands for as many as the recipe is made for. Raises `UserError` where that is asked of a recipe that does not exist.
    """

    study: str
    runs: Path
    trial: int
    recipe: str = DEFAULT_RECIPE
    epochs: int = 0
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.epochs:
            object.__setattr__(self, "epochs", get_recipe(self.recipe).epochs)

    @property
    def run(self) -> Run:
        """The folder that it fills. Raises `UserError` for a study's name that could lead out of `runs`."""
        return Run(retrain_folder(self.runs, self.study, self.trial, self.recipe, self.epochs, self.seed))

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
        return ["-m", "trainers.retrain", *options, *(["--resume"] if resume else [])]

    def shell(self, resume: bool = False) -> str:
        """The command as one line for a person's shell."""
        return shlex.join(["python", *self.command(resume)])


@dataclass(frozen=True)
class State:
    """Where a retraining truly stands: what it wrote, held against the processes that exist.

    `name` is 'starting' (its process prepares, no epoch has begun), 'running', 'finished', 'interrupted' (it was asked to end, and kept
    its finished batches), 'stopped' (its process is gone without a word), 'failed' or 'corrupt' (its record can not be read).
    `eta_s` are the seconds left, None while unknown; `error` says what went wrong, None while nothing did. `barred` says why a run that
    has not finished can not go on, None where it can.
    """

    name: str
    epoch: int = 0
    epochs: int = 0
    eta_s: float | None = None
    error: str | None = None
    barred: str | None = None

    @property
    def active(self) -> bool:
        """Whether a process works on it now."""
        return self.name in ("starting", "running")

    @property
    def resumable(self) -> bool:
        """Whether it can be started again and goes on after the last batch that it kept."""
        return self.name in _ENDED and self.barred is None


def start_retrain(job: Job, resume: bool = False) -> Run:
    """Start a job as a process that outlives this one: the run that it fills.

    Raises `UserError` when that very job is at work or finished, can not go on, or has stopped and `resume` was not asked for.
    """
    run = job.run
    run.path.mkdir(parents=True, exist_ok=True)
    with FileLock(run.path / "job.lock"), (run.path / "log.txt").open("ab") as log:
        found = _state(run)
        if found and not (resume and found.resumable):
            advice = found.barred or "resume it if it stopped, or choose another seed"
            raise UserError(f"{run.path.name} is there already ({found.name}); {advice}")
        log.write(f"$ {job.shell(resume)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            [sys.executable, *job.command(resume)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        run.write_json("job.json", {"pid": process.pid, "pid_started": psutil.Process(process.pid).create_time()})
    # Somebody has to wait for a child that ends, or it stays as a zombie.
    threading.Thread(target=process.wait, daemon=True).start()
    return run


def state(run: Run) -> State:
    """Where a retraining truly stands, whoever started it and whatever became of its process."""
    return _state(run) or State("stopped", error=last_words(run), barred=_barred(run))


def cancel(run: Run) -> None:
    """Ask a retraining's process to end (SIGTERM): it keeps its finished batches. Nothing happens when there is no such process."""
    job = _job(run)
    for record in (job, run.status):
        if process_alive(record.get("pid"), record.get("pid_started")):
            if record is job:
                with contextlib.suppress(OSError):  # a full disk is no reason not to end it
                    run.write_json("job.json", {**job, "cancelled": True})  # it may end before it can say why
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(record["pid"]).terminate()
            return


def job_of(run: Run) -> Job:
    """The job that fills a run's folder, as its name and place tell. Raises `UserError` for a folder of another kind."""
    match = _FOLDER.fullmatch(run.path.name)
    if not match:
        raise UserError(f"{run.path.name!r} is no retraining's folder; they are named like 00017-strong-e60-s0")
    study = run.path.parents[1]
    trial, recipe, epochs, seed = match.groups()
    return Job(study.name, study.parent, int(trial), recipe, int(epochs), int(seed))


def retrainings(study: StudyRecords, trial: int) -> list[Job]:
    """Every retraining of a trial's network, by whomever it was started, even if only just; the latest first."""
    folders = [
        path for path in study.path.glob(f"retrain/{trial:05d}-*") if path.is_dir() and _FOLDER.fullmatch(path.name)
    ]
    return [job_of(Run(path)) for path in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)]


def last_words(run: Run) -> str | None:
    """The last lines that a job printed, or None without a log."""
    path = run.path / "log.txt"
    if not path.exists():
        return None
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - _LOG_BYTES))
        lines = log.read().decode("utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_LOG_LINES:])


def _job(run: Run) -> dict[str, Any]:
    """What `start_retrain` wrote of the process; empty when it was another that started the run."""
    path = run.path / "job.json"
    return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}


def _is_newer(run: Run, name: str, than: str) -> bool:
    """Whether one of the run's files was written after another, both of which are there."""
    return (run.path / name).stat().st_mtime_ns > (run.path / than).stat().st_mtime_ns


def _barred(run: Run) -> str | None:
    """Why a run could not go on if it was started again, or None: its recipe may be one that this version does not know."""
    match = _FOLDER.fullmatch(run.path.name)
    if match is None or match[2] in RECIPES:
        return None
    return (
        f"it can not be resumed, for its recipe {match[2]!r} does not exist any more; retrain the network with one of "
        f"{sorted(RECIPES)}"
    )


def _state(run: Run) -> State | None:
    """The run's state, or None when nothing has been started in its folder."""
    try:
        job = _job(run)
        # Asked before the status is read: of a process that is gone, that status is its last, and nothing of it is still to come.
        job_alive = process_alive(job.get("pid"), job.get("pid_started"))
        status = run.status
        name, error = status.get("state"), status.get("error")
        if name == "running" and not run.alive:
            # It may have ended since the status was read; now that its process is gone, the status is its last.
            status = run.status
            name = "stopped" if status.get("state") == "running" else status.get("state")
            error = status.get("error")
        if job and job.get("pid") != status.get("pid"):
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
        )
    except (ValueError, TypeError) as error:
        return State("corrupt", error=str(error))
    known = ("starting", "running", "finished", *_ENDED)
    return (
        found
        if name in known
        else State("corrupt", error=f"unknown state {name!r} in status.json; known: {sorted(known)}")
    )
