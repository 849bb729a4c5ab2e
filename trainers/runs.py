"""One run's folder: what is in it, written atomically, read without torch.

    run.json               what was trained, on what, how: enough to do it again
    status.json            running, finished, failed or interrupted; epoch, seconds left, process
    metrics.jsonl          one line per epoch, appended as it ends
    predictions-val.npz    probabilities, labels, file names, recorders (-test: full retrainings only)
    weights.safetensors    the network and the normalisation of its input
    int8.safetensors       the int8 network that was made of it, where the recipe asks for one
    scores.json            the test split, scored once (full retrainings only)
    provenance.json        versions, git revision, command, machine
    checkpoint.pt          where a full retraining stands; checkpoint.previous.pt is the one before
    tensorboard/           scalars for TensorBoard, where asked for

A study's candidates lie in `runs/<study>/trials/<trial>`, full retrainings of them in `runs/<study>/retrain/`, those of networks that no
study found in `runs/retrain/`.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import numpy as np
import psutil

from search_space.errors import UserError

INT8 = "int8.safetensors"
"""In a run's folder: the int8 network that it made, where it made one (`trainers.quantisation`)."""
_LONGEST_NAME = 150  # file systems take 255 bytes
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# `write_atomic`'s names for what a training writes (`job.json` is another process's), and that of a checkpoint before it takes its place.
_TEMPORARY = re.compile(
    r"\.((run|status|scores|provenance)\.json|metrics\.jsonl|predictions-(val|test)\.npz|weights\.safetensors|"
    r"\.checkpoint\.pt\.new)\.[a-z0-9_]{8}|\.checkpoint\.pt\.new"
)
_RESERVED = "retrain"  # `runs/retrain` holds the retrainings of networks that no study found


@dataclass(frozen=True)
class Predictions:
    """What a network said of a split: `probabilities_NK` float32, `labels_N` int64, and each clip's file name and recorder."""

    probabilities_NK: np.ndarray
    labels_N: np.ndarray
    filenames: list[str]
    recorders: list[str]

    @property
    def accuracy(self) -> float:
        """Share of clips whose most probable class is the right one, 0 to 1."""
        return float((self.probabilities_NK.argmax(1) == self.labels_N).mean())


class Run:
    """A run's folder, read without torch. A file that is not there yet reads as empty; a torn one raises `UserError`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def config(self) -> dict[str, Any]:
        """What was trained, on what, how. Raises `UserError` when the folder holds no run."""
        config = self._json("run.json")
        if not config:
            raise UserError(f"{self.path} holds no run: run.json is missing")
        return config

    @property
    def final(self) -> dict[str, Any]:
        """What the training made of its network: architecture, params and macs (at the full input), and, of one that shrank or was quantised,
        the steps of that and its `param_bytes`. Of any other the network that it began with."""
        config = self.config
        return config.get("final") or {key: config.get(key) for key in ("architecture", "params", "macs")}

    @property
    def status(self) -> dict[str, Any]:
        """state, epoch, epochs, clips_seen, eta_s, pid, pid_started, updated, error: as the run last wrote it, true or not any more."""
        return self._json("status.json")

    @property
    def alive(self) -> bool:
        """Whether the process that wrote the status still exists (its id and its start time both agree)."""
        status = self.status
        return process_alive(status.get("pid"), status.get("pid_started"))

    @property
    def provenance(self) -> dict[str, Any]:
        """Versions, git revision, command and machine of the run."""
        return self._json("provenance.json")

    @property
    def scores(self) -> dict[str, Any] | None:
        """The test split's scores, or None while the run has not finished."""
        return self._json("scores.json") or None

    @property
    def weights_path(self) -> Path:
        """Where the weights lie (safetensors)."""
        return self.path / "weights.safetensors"

    def metrics(self) -> list[dict[str, Any]]:
        """One row per finished epoch; a line torn by a kill at the very end is left out."""
        path = self.path / "metrics.jsonl"
        rows = []
        for line in path.read_text("utf-8").splitlines() if path.exists() else []:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def predictions(self, split: str) -> Predictions | None:
        """The predictions on 'val' or 'test', or None where the run has none."""
        path = self.path / f"predictions-{split}.npz"
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                return Predictions(
                    file["probabilities"],
                    file["labels"],
                    [str(name) for name in file["filenames"]],
                    [str(name) for name in file["recorders"]],
                )
        except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} can not be read ({error}); train this network again") from error

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one of the run's JSON files, whole or not at all."""
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        write_atomic(self.path / name, lambda file: file.write(text.encode()))

    def write_status(self, state: str, **fields: Any) -> None:
        """Say where the run stands, with this process's id and start time, so that a reader can tell a dead run."""
        process = psutil.Process()
        own = {"pid": process.pid, "pid_started": process.create_time(), "updated": now()}
        self.write_json("status.json", {"state": state, **fields, **own})

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Have the curve hold these rows (a resumed run starts from its checkpoint's).

        What is missing is appended, so that who follows the file goes on with it; it is replaced only where it says something else.
        """
        path, whole = self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode()
        said = path.read_bytes() if path.exists() else b""
        if not whole.startswith(said):
            write_atomic(path, lambda file: file.write(whole))
        else:
            with path.open("ab") as file:
                file.write(whole[len(said) :])

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add one finished epoch to the curve."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def write_predictions(self, split: str, predictions: Predictions) -> None:
        """Keep what the network said of a split (compressed, no pickle)."""

        def write(file: BinaryIO) -> None:
            np.savez_compressed(
                file,
                probabilities=predictions.probabilities_NK.astype(np.float32),
                labels=predictions.labels_N.astype(np.int64),
                filenames=np.array(predictions.filenames, dtype=np.str_),
                recorders=np.array(predictions.recorders, dtype=np.str_),
            )

        write_atomic(self.path / f"predictions-{split}.npz", write)

    def _json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            content = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not valid JSON ({error}); the record is corrupt") from error
        if not isinstance(content, dict):
            raise UserError(f"{path} must hold a JSON object, not {type(content).__name__}; the record is corrupt")
        return content


def clear_temporaries(run: Run) -> None:
    """Delete what a kill left of the run's files that were being written; what others left in the folder stays."""
    for path in run.path.glob(".*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink()


def is_study_name(text: str) -> bool:
    """Whether the text can name a study: one that no path and no shell gets wrong, and whose folder is not taken.

    `Retrain` is not allowed either: to some file systems it is the same folder as `retrain`.
    """
    return _NAME.fullmatch(text) is not None and text.lower() != _RESERVED


def study_folder(runs: Path | str, study: str) -> Path:
    """`runs/<study>`. Raises `UserError` for a name that could leave the folder, that no shell would like, or that is reserved."""
    if study.lower() == _RESERVED:
        raise UserError(
            f"a study can not be named {study!r}: {Path(runs) / _RESERVED} holds the retrainings of networks that no study found; "
            f"choose another name"
        )
    if not is_study_name(study):
        raise UserError(
            f"a study's name has 1 to 64 letters, digits, '.', '_' or '-' and starts with a letter or digit, not {study!r}; choose one with --study"
        )
    return Path(runs) / study


def trial_folder(runs: Path | str, study: str, trial: int) -> Path:
    """`runs/<study>/trials/00017`: a candidate's folder."""
    return study_folder(runs, study) / "trials" / f"{trial:05d}"


def retrain_folder(runs: Path | str, study: str, trial: int, recipe: str, epochs: int, seed: int) -> Path:
    """`runs/<study>/retrain/00017-<recipe>-e60-s0`: a full retraining's folder."""
    return study_folder(runs, study) / "retrain" / f"{trial:05d}-{recipe}-e{epochs}-s{seed}"


def network_folder(runs: Path | str, data: str, network: str, recipe: str, epochs: int, seed: int) -> Path:
    """`runs/retrain/esc50-dssdn-large-<recipe>-e60-s0`: the folder of a full retraining of a network that no study found.

    `data` names the clips: the data set, and its part and test fold where they are not what its name says.
    A notation too long for a file's name is cut, with the first digits of its SHA-256 behind it.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{data}-{network}")
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return Path(runs) / "retrain" / f"{name}-{recipe}-e{epochs}-s{seed}"


def check_runs(runs: Path) -> None:
    """Make the folder that runs lie in. Raises `UserError` where nothing can be written there."""
    try:
        runs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=runs):
            pass
    except OSError as error:
        raise UserError(f"--runs {runs} can not be written ({error.strerror}); name a folder that can be") from error


@contextmanager
def held(lock: Path, busy: str) -> Iterator[None]:
    """The lock file, held by this process alone until the block ends. Raises `UserError` with `busy` when another one holds it."""
    file = filelock.FileLock(lock)
    try:
        file.acquire(timeout=0)
    except filelock.Timeout as error:
        raise UserError(busy) from error
    try:
        yield
    finally:
        file.release()


def available_cores() -> int:
    """Cores that this process may use (its affinity, where the system has one)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """The processor's model, as the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8", "replace").splitlines() if info.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def check_seed(seed: int) -> None:
    """Raises `UserError` for a seed outside of 0 to 2**31 - 1, the range that every library here takes."""
    if not 0 <= seed < 2**31:
        raise UserError(f"--seed is from 0 to 2147483647, not {seed}")


def process_alive(pid: int | None, started: float | None) -> bool:
    """Whether the process with this id *and* this start time (seconds since the epoch) still runs."""
    if pid is None or started is None:
        return False
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file that appears under `path` whole, or not at all: a kill or a full disk leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o644)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def provenance(**fields: Any) -> dict[str, Any]:
    """What one must know to do a run again: command, versions, git revision, machine, and the fields given."""
    packages = ("torch", "torchaudio", "numpy", "optuna", "soundfile")
    return {
        "command": _command(),
        "started": now(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "git": _git_revision(),
        "machine": {"system": platform.platform(), "processor": processor_name(), "cores": os.cpu_count()},
        **fields,
    }


def _command() -> str:
    """This process's command line for a shell, without the password of a storage's URL."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    module = ["-m", spec.name] if spec else [Path(sys.argv[0]).name]
    return shlex.join(["python", *module, *map(without_password, sys.argv[1:])])


def without_password(text: str) -> str:
    """The same without the password of an address in it: that before the host, and that among a query's parameters."""
    text = re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1@", text)
    return re.sub(r"(?<=[?&])password=[^&#\s]*&?", "", text).rstrip("?&")


@cache
def _git_revision() -> str | None:
    """The project's revision, '+' behind it when files differ, or None outside of a checkout."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty=+",
        "--exclude=*",
        "--abbrev=40",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
