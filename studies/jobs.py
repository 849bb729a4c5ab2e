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
from trainers.config import RECIPES as _RECIPES
from trainers.runs import Run, process_alive, retrain_folder

if TYPE_CHECKING:
    from studies.records import StudyRecords

RECIPES = tuple(_RECIPES)
"""The names of the recipes that a retraining can follow."""

_FOLDER = re.compile(r"(\d{5,9})-([a-z]+)-e(\d{1,6})-s(\d{1,10})")
_LOG_BYTES, _LOG_LINES = 8192, 20


@dataclass(frozen=True)
class Job:
    """One retraining, by what tells it from every other: a trial of a study, a recipe, a length, a seed. `device` is where it runs."""

    study: str
    runs: Path
    trial: int
    recipe: str = "strong"
    epochs: int = 60
    seed: int = 0
    device: str = "auto"

    @property
    def run(self) -> Run:
        """The folder that it fills. Raises `UserError` for a study's name that could lead out of `runs`."""
        return Run(retrain_folder(self.runs, self.study, self.trial, self.recipe, self.epochs, self.seed))

    def command(self, resume: bool = False) -> list[str]:
        """What follows `python` on its command line."""
        values = {
            "study": self.study,
            "trial": self.trial,
            "runs": self.runs,
            "epochs": self.epochs,
            "recipe": self.recipe,
        }
        values |= {"seed": self.seed, "device": self.device}
        options = [word for name, value in values.items() for word in (f"--{name}", str(value))]
        return ["-m", "trainers.retrain", *options, *(["--resume"] if resume else [])]

    def shell(self, resume: bool = False) -> str:
        """The command as one line for a person's shell."""
        return shlex.join(["python", *self.command(resume)])


@dataclass(frozen=True)
class State:
    """Where a retraining truly stands: what it wrote, held against the processes that exist.

    `name` is 'starting' (its process prepares, no epoch has begun), 'running', 'finished', 'interrupted' (it was asked to end, and kept
    its finished epochs), 'stopped' (its process is gone without a word), 'failed' or 'corrupt' (its record can not be read).
    `eta_s` are the seconds left, None while unknown; `error` says what went wrong, None while nothing did.
    """

    name: str
    epoch: int = 0
    epochs: int = 0
    eta_s: float | None = None
    error: str | None = None

    @property
    def active(self) -> bool:
        """Whether a process works on it now."""
        return self.name in ("starting", "running")

    @property
    def resumable(self) -> bool:
        """Whether it can be started again and goes on after its last finished epoch."""
        return self.name in ("interrupted", "stopped", "failed")


def start_retrain(job: Job, resume: bool = False) -> Run:
    """Start a job as a process that outlives this one: the run that it fills.

    Raises `UserError` when that very job is at work or finished, or has stopped and `resume` was not asked for.
    """
    run = job.run
    run.path.mkdir(parents=True, exist_ok=True)
    with FileLock(run.path / "job.lock"), (run.path / "log.txt").open("ab") as log:
        found = _state(run)
        if found and not (resume and found.resumable):
            raise UserError(
                f"{run.path.name} is there already ({found.name}); resume it if it stopped, or choose another seed"
            )
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
    return _state(run) or State("stopped", error=last_words(run))


def cancel(run: Run) -> None:
    """Ask a retraining's process to end (SIGTERM): it keeps its finished epochs. Nothing happens when there is no such process."""
    for record in (_job(run), run.status):
        if process_alive(record.get("pid"), record.get("pid_started")):
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


def _state(run: Run) -> State | None:
    """The run's state, or None when nothing has been started in its folder."""
    try:
        job, status = _job(run), run.status
        name = status.get("state")
        if name == "running" and not run.alive:
            # It may have ended since the status was read; now that its process is gone, the status is its last.
            status = run.status
            name = "stopped" if status.get("state") == "running" else status.get("state")
        if job.get("pid") != status.get("pid") and process_alive(job.get("pid"), job.get("pid_started")):
            name = "starting"
        if name is None:
            return State("failed", error=last_words(run)) if job else None
        error = status.get("error") if name == "failed" else None
        eta_s = status.get("eta_s")
        found = State(
            str(name),
            int(status.get("epoch", 0)),
            int(status.get("epochs", 0)),
            eta_s and float(eta_s),
            error and str(error),
        )
    except (ValueError, TypeError) as error:
        return State("corrupt", error=str(error))
    known = ("starting", "running", "finished", "interrupted", "stopped", "failed")
    return (
        found
        if name in known
        else State("corrupt", error=f"unknown state {name!r} in status.json; known: {sorted(known)}")
    )
