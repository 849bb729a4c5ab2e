"""Stand-ins for trainings that go wrong, for the tests of what a study does then. Light to import: every worker process does."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from benchmarks.stand_in import sleep_instead_of_training


def fail(architecture: str, path: str, config: dict[str, Any], *, trials: tuple[int, ...]) -> dict[str, Any]:
    """Fails by itself in these trials."""
    if config["trial"] in trials:
        raise RuntimeError(f"out of memory in trial {config['trial']}")
    return sleep_instead_of_training(architecture, path, config, seconds=0.0)


def always_fail(architecture: str, path: str, config: dict[str, Any]) -> dict[str, Any]:
    """Fails by itself."""
    raise RuntimeError("no device")


def die(architecture: str, path: str, config: dict[str, Any], *, of: str) -> dict[str, Any]:
    """The network of this notation ends its worker, as the system does when memory is full."""
    if architecture == of:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    return sleep_instead_of_training(architecture, path, config, seconds=0.0)


def fill_the_disk(architecture: str, path: str, config: dict[str, Any], *, trial: int) -> dict[str, Any]:
    """The run's folder can not be written in one trial."""
    if config["trial"] == trial:
        raise OSError(28, "No space left on device")
    return sleep_instead_of_training(architecture, path, config, seconds=0.0)
