"""Commands that answer with one JSON document, each a process of its own: an export, a prediction. Asked and looked at without torch.

A folder holds one such process: `process.json` says which it is, `answer.json` is what it printed on stdout, `log.txt` the rest. What a
process printed is whole only once it has ended, so an answer that can not be read then is a failure, and the log says why.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from search_space.errors import UserError
from trainers.runs import Run, process_alive

_LOG_BYTES = 8192
_LARGEST_ANSWER_BYTES = 10_000_000


@dataclass(frozen=True)
class Answer:
    """Where a process stands: `name` is 'none' (never asked), 'running', 'finished', 'failed' or 'corrupt'; its `document`, and the end of its `log`."""

    name: str
    document: dict[str, Any] = field(default_factory=dict)
    log: str = ""


def ask(folder: Path, command: Sequence[str]) -> None:
    """Start `python` with these arguments as a process that outlives this one; what stood in the folder of an earlier one goes.

    Raises `UserError` while an earlier one runs, and where the folder can not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            if look(folder).name == "running":
                raise UserError(f"{folder.parent.name} is being worked on already; wait for it, or cancel it")
            for name in ("process.json", "answer.json"):
                (folder / name).unlink(missing_ok=True)
            with (folder / "answer.json").open("wb") as answer, (folder / "log.txt").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=answer,
                    stderr=log,
                    start_new_session=True,
                )
            started = psutil.Process(process.pid).create_time()
            Run(folder).write_json("process.json", {"pid": process.pid, "pid_started": started})
    except OSError as error:
        raise UserError(f"{folder} can not be written ({error.strerror}); make room, or mend its rights") from error
    # Somebody has to wait for a child that ends, or it stays as a zombie.
    threading.Thread(target=process.wait, daemon=True).start()


def look(folder: Path) -> Answer:
    """Where the folder's process stands, whoever started it and whatever became of it."""
    try:
        process = _process(folder)
        if process is None:
            return Answer("none")
        if process_alive(process.get("pid"), process.get("pid_started")):
            return Answer("running", log=_log(folder))
    except (ValueError, TypeError, OSError, RecursionError) as error:
        return Answer("corrupt", log=f"{type(error).__name__}: {error}")
    try:
        path = folder / "answer.json"
        if path.stat().st_size > _LARGEST_ANSWER_BYTES:
            raise ValueError("too large an answer")
        document = json.loads(path.read_text("utf-8"))
        if not isinstance(document, dict):
            raise ValueError("no document")
    except (ValueError, OSError, RecursionError):
        return Answer("failed", log=_log(folder) or "its process is gone without a word")
    return Answer("finished", document, _log(folder))


def cancel(folder: Path) -> None:
    """End the folder's process, if it runs."""
    if look(folder).name == "running":
        with contextlib.suppress(psutil.Error):
            psutil.Process((_process(folder) or {})["pid"]).terminate()


def _process(folder: Path) -> dict[str, Any] | None:
    """Which process was started, None where none was."""
    path = folder / "process.json"
    return dict(json.loads(path.read_text("utf-8"))) if path.exists() else None


def _log(folder: Path) -> str:
    try:
        with (folder / "log.txt").open("rb") as file:
            file.seek(max(0, (folder / "log.txt").stat().st_size - _LOG_BYTES))
            return file.read().decode("utf-8", errors="replace").strip()
    except OSError:
        return ""
