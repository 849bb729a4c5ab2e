"""How a study of many trials goes on: `python -m benchmarks.large_study [--trials 10000] [--storage URL|postgresql]`.

The trials are made up: networks of the space drawn at random, with scores that a formula gives. What is timed is what `studies.run` and the page
do with them: opening the study to go on, asking for one network, loading it to look, and its front.
"""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from rich.table import Table

from benchmarks.speed import machine
from benchmarks.stand_in import no_estimate, open_empty_pool, postgresql, sleep_instead_of_training, write_noise
from search_space.complexity import count
from search_space.errors import Parser, UserError, open_console, run_command
from search_space.presets import PRESETS
from studies import open_study
from studies.analysis import hypervolume_of
from studies.owners import owner
from studies.plans import SearchOptions
from studies.records import encode, ordered
from studies.search import Search
from trainers.datasets import open_dataset
from trainers.features import prepare
from trainers.opening import progress_bar

_NAME = "large"


def make_search(data: Path, runs: Path, storage: str | None, trials: int, space: str) -> Search:
    """A search of one more network than there are; nothing is trained by it."""
    dataset = open_dataset(str(data))
    options = SearchOptions(
        trials=trials + 1,
        study=_NAME,
        runs=runs,
        storage=storage,
        space=space,
        workers=2,
        budget=32,
        train_input=(8, 8),
        device="cpu",
    )
    return Search(
        *(options, dataset, prepare(dataset)),
        train=sleep_instead_of_training,  # type: ignore[arg-type]
        measure=no_estimate,  # type: ignore[arg-type]
        open_pool=open_empty_pool,
    )


def record(search: Search, trials: int, report: Callable[[int, int], None]) -> None:
    """Fill the study with made-up trials, as Optuna writes them: score rises with the logarithm of the params, with noise."""
    rng, space = random.Random(0), search.space
    seen: set[str] = set()
    with search.opened():
        while len(seen) < len(PRESETS):  # these are queued
            asked = search._candidates.next()
            assert asked is not None
            trial, network = asked
            trial.set_user_attr("seconds", 10.0)
            search._study.tell(trial, [0.5, trial.user_attrs["params"], trial.user_attrs["macs"]])
            seen.add(str(network))
        while len(seen) < trials:
            network = space.sample(lambda _, options: rng.choice(options))
            if str(network) in seen:
                continue
            seen.add(str(network))
            chosen, choices = space.encode(network), space.choices
            cost = count(network, search.input, search.n_classes)
            score = 1 / (1 + math.exp(-(math.log10(cost.params) - 4 + rng.gauss(0, 0.2))))
            about = {"params": cost.params, "macs": cost.macs, "owner": owner(), "architecture": str(network)}
            search._study.add_trial(
                create_trial(
                    values=[score, cost.params, cost.macs],
                    params={name: encode(choices[name], option) for name, option in chosen.items()},
                    distributions={name: _distribution(choices[name]) for name in chosen},
                    user_attrs={**about, "seconds": 10.0},
                )
            )
            report(len(seen), trials)


def _distribution(options: tuple[Any, ...]) -> BaseDistribution:
    """Optuna's name for a choice, as `studies.candidates` asks for it."""
    return IntDistribution(0, len(options) - 1) if ordered(options) else CategoricalDistribution(options)


@contextmanager
def without_fsync() -> Iterator[None]:
    """A journal that is only written to be measured need not be forced to the disk record by record."""
    before, os.fsync = os.fsync, lambda fd: None
    try:
        yield
    finally:
        os.fsync = before


def measure(data: Path, runs: Path, storage: str | None, trials: int, space: str, asks: int) -> dict[str, Any]:
    """Seconds of each step."""
    search = make_search(data, runs, storage, trials, space)
    began, cpu = time.perf_counter(), time.process_time()
    with search.opened() as records:
        complete = search.complete()
        opened_s, opened_cpu_s = time.perf_counter() - began, time.process_time() - cpu
        asked_s, asked_cpu_s = [], []
        for _ in range(asks):
            began, cpu = time.perf_counter(), time.process_time()
            asked = search._candidates.next()
            asked_s.append(time.perf_counter() - began)
            asked_cpu_s.append(time.process_time() - cpu)
            assert asked is not None
            search._candidates.end(asked[0], "interrupted", TrialState.FAIL)
        info = records.info
    began = time.perf_counter()
    frame = open_study(_NAME, runs, storage).trials()
    looked_s = time.perf_counter() - began
    study = open_study(_NAME, runs, storage)
    study.trials()
    began = time.perf_counter()
    front = study.front()
    front_s = time.perf_counter() - began
    began = time.perf_counter()
    volume = hypervolume_of(frame, info["reference_point"])
    volume_s = time.perf_counter() - began
    return {
        "complete": complete,
        "continue_s": opened_s,
        "continue_cpu_s": opened_cpu_s,
        "ask_cpu_s": statistics.median(asked_cpu_s),
        "ask_s": statistics.median(asked_s),
        "first_ask_s": asked_s[0],
        "look_s": looked_s,
        "front_s": front_s,
        "front": len(front),
        "hypervolume_s": volume_s,
        "hypervolume": volume,
    }


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = Parser(prog="python -m benchmarks.large_study", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trials", type=int, default=10_000, help="recorded trials (default: 10000)")
    parser.add_argument("--space", default="dssdn-blocks", help="that they are drawn from (default: dssdn-blocks)")
    parser.add_argument("--asks", type=int, default=3, help="networks asked for (default: 3)")
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="an empty database, or 'postgresql' for a temporary one (default: a journal)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    options = parser.parse_args(argv)
    for name in ("trials", "asks"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} is at least 1, not {getattr(options, name)}")
    console = open_console(stderr=options.json)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        data, runs = write_noise(place / "data"), place / "runs"
        with postgresql() if options.storage == "postgresql" else nullcontext(options.storage) as storage:
            began = time.perf_counter()
            with progress_bar(console, "made-up trials") as report, without_fsync():
                record(make_search(data, runs, storage, options.trials, options.space), options.trials, report)
            recorded_s = time.perf_counter() - began
            found = measure(data, runs, storage, options.trials, options.space, options.asks)
            journal = runs / _NAME / "journal.log"
            size = journal.stat().st_size if journal.exists() else None
    row: dict[str, Any] = {
        **machine(),
        "storage": "journal" if options.storage is None else "postgresql",
        "trials": options.trials,
        "space": options.space,
        "made_up": True,
        "record_s": recorded_s,
        "journal_bytes": size,
        "load": os.getloadavg()[0],
        **found,
    }
    if options.json:
        json.dump(row, sys.stdout)
        print()
        return 0
    table = Table(
        "step", "seconds", title=f"{options.trials:,} made-up trials on a {row['storage']}, load {row['load']:.1f}"
    )
    for key, name in (
        ("record_s", "recording them"),
        ("continue_s", "opening to go on"),
        ("continue_cpu_s", "of that, this process at work"),
        ("first_ask_s", "the first ask"),
        ("ask_s", "one ask, median"),
        ("ask_cpu_s", "of that, this process at work"),
        ("look_s", "opening to look, all trials as a frame"),
        ("front_s", f"the front ({row['front']} networks), with the frame"),
        ("hypervolume_s", "its hypervolume"),
    ):
        table.add_row(name, f"{row[key]:.2f}")
    console.print(table)
    return 0


if __name__ == "__main__":
    run_command(main)
