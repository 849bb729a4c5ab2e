"""Ctrl-C and SIGTERM that wait for a good moment: an exception in the middle of a write to the journal, or of its lock, would tear it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def interrupt(*_: Any) -> None:
    """What a command does on SIGTERM: the same as on Ctrl-C."""
    raise KeyboardInterrupt


class Interrupts:
    """Between `hold` and `let_go` the first interrupt waits for a moment that is `welcome`; a second one does not.

    Signals that end the process at once, by their default, are left alone, and so is everything outside of the main thread.
    """

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._waiting = self._welcome = False

    def hold(self) -> None:
        """Begin to keep interrupts back."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._waiting = False
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(signal.getsignal(number)):
                self._before[number] = signal.signal(number, self._arrive)

    def let_go(self) -> None:
        """Put back what was there before; one that still waits is forgotten, for all has ended."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @contextmanager
    def welcome(self) -> Iterator[None]:
        """A moment at which they may come. Raises `KeyboardInterrupt` for one that waits or comes."""
        if self._waiting:
            raise KeyboardInterrupt
        self._welcome = True
        try:
            yield
        finally:
            self._welcome = False

    def rest(self, seconds: float) -> None:
        """Sleep; they may come."""
        with self.welcome():
            time.sleep(seconds)

    def _arrive(self, *_: Any) -> None:
        again, self._waiting = self._waiting, True
        if self._welcome or again:
            raise KeyboardInterrupt
