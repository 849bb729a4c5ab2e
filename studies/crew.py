"""The worker processes of one machine: each in a pool of its own, so that one that dies takes no other's training with it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event
from typing import Any

from search_space.errors import UserError

OpenPool = Callable[[str], tuple[ProcessPoolExecutor, Event]]
"""Starts one worker on the device of this name: its pool, and the event that stops what it trains."""

_STARTS = 3


class Crew:
    """One worker a device of `devices`, in which a device may come several times. A worker that died is replaced by a new one."""

    def __init__(self, open_pool: OpenPool, devices: list[str]) -> None:
        self._open, self._devices = open_pool, devices
        self._workers = [open_pool(device) for device in devices]
        self._busy: dict[Future[Any], int] = {}

    def free(self) -> int:
        """How many workers have nothing to do."""
        return len(self._workers) - len(self._busy)

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have a free worker do this. One that died while it had nothing to do is replaced.

        Raises `UserError` when workers die one after the other before they can begin.
        """
        index = next(index for index in range(len(self._workers)) if index not in self._busy.values())
        for _ in range(_STARTS):
            try:
                future: Future[Any] = self._workers[index][0].submit(work, *arguments)
            except BrokenProcessPool:
                self._replace(index)
            else:
                self._busy[future] = index
                return future
        raise UserError("worker processes end while they start (see above; out of memory?); try --workers 1")

    def done(self, future: Future[Any]) -> None:
        """Take a worker back whose work has ended. One that failed is replaced: what broke it may be in its memory, or its device's."""
        index = self._busy.pop(future)
        if future.cancelled() or future.exception() is not None:
            self._replace(index)

    def stop(self) -> None:
        """Ask all trainings under way to stop between two batches."""
        for _, event in self._workers:
            event.set()

    def close(self) -> None:
        """Wait for the workers to end."""
        for pool, _ in self._workers:
            pool.shutdown(wait=True, cancel_futures=True)

    def _replace(self, index: int) -> None:
        self._workers[index][0].shutdown(wait=False, cancel_futures=True)
        self._workers[index] = self._open(self._devices[index])
