"""Whose a running trial is, and whether its process still lives: no decision is taken by comparing the clocks of two machines."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from trainers.runs import now, process_alive

HEARTBEAT_S = 10
"""Assumed: rare enough to cost a database nothing, often enough that a dead machine's trials wait for a minute and a half at most."""


def owner() -> dict[str, Any]:
    """The process that runs a trial: host, machine, id, when it started by the machine's own count and by its clock, and when it asked."""
    process = psutil.Process()
    return {
        "host": socket.gethostname(),
        "machine": machine(),
        "pid": process.pid,
        "ticks": _ticks(process.pid),
        "started": process.create_time(),
        "at": now(),
    }


def alive(owner: dict[str, Any] | None) -> bool | None:
    """Whether the process lives; None where it can not be seen from here, for it is another machine's or another container's.

    A clock that jumps changes nothing: where the system tells, the start is counted from the machine's own start.
    """
    if owner is None:
        return False
    if owner["host"] != socket.gethostname():
        return None
    if owner.get("ticks") is None:
        return process_alive(owner["pid"], owner["started"])
    return _ticks(owner["pid"]) == owner["ticks"] if owner["machine"] == machine() else None


def restarted(owner: dict[str, Any] | None) -> bool:
    """Whether this host, by its name, has been started again since. Another one may bear the same name: good enough to show."""
    if owner is None or owner["host"] != socket.gethostname() or owner.get("ticks") is None:
        return False
    return str(owner["machine"]).split()[0] != machine().split()[0]


def is_own(owner: dict[str, Any] | None) -> bool:
    """Whether it is this very process."""
    return owner is not None and owner["pid"] == os.getpid() and alive(owner) is True


@cache
def machine() -> str:
    """What tells machines that share a host name apart, and a machine from itself after a restart: the start's id and the process space's."""
    start = Path("/proc/sys/kernel/random/boot_id")
    space = Path("/proc/self/ns/pid")
    with contextlib.suppress(OSError):
        return f"{start.read_text().strip()} {os.readlink(space)}"
    return "unknown unknown"


def _ticks(pid: int) -> int | None:
    """When a process started, counted from its machine's start; None for one that is gone, or where /proc does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])  # Source: proc(5), fields 3 (state) and 22 (starttime)


class Heart:
    """Shows every `interval_s` that this process lives: calls `beat` with each trial under way, and `touch` once.

    What they raise is left to the thread that works: there the same trouble shows, and is dealt with.
    """

    def __init__(self, interval_s: float, beat: Callable[[int], None], touch: Callable[[], None]) -> None:
        self.interval_s = interval_s
        self._beat, self._touch = beat, touch
        self._trials: set[int] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def add(self, trial_id: int) -> None:
        """Begin with a trial: its first beat is done when this returns."""
        self._beat(trial_id)
        with self._lock:
            self._trials.add(trial_id)

    def only(self, trials: Iterable[int]) -> None:
        """Go on with these alone."""
        with self._lock:
            self._trials.intersection_update(trials)

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """It beats until the block ends."""
        thread = threading.Thread(target=self._go, daemon=True, name="heart")
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(timeout=self.interval_s)

    def _go(self) -> None:
        while not self._stop.wait(self.interval_s):
            with self._lock:
                trials = list(self._trials)
            with contextlib.suppress(Exception):
                self._touch()
            for trial_id in trials:
                with contextlib.suppress(Exception):
                    self._beat(trial_id)


def changes(path: Path, for_s: float) -> bool:
    """Whether a file's time of change moves within so many seconds, whatever it says: a sign of life that needs no common clock."""
    end, before = time.monotonic() + for_s, path.stat().st_mtime_ns
    while time.monotonic() < end:
        time.sleep(0.2)
        if path.stat().st_mtime_ns != before:
            return True
    return False
