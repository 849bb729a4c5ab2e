"""Does a short budget see anything? `python -m benchmarks.signal [--data FOLDER]` trains a spread of networks with several seeds.

The between-architecture standard deviation (a variance component: what is left of the spread of the means when the seeds' share is taken off),
the seeds' standard deviation, their ratio, and the rank correlation across seeds. Recipe, budget, input and the generated data are chosen by
this ratio, not by the best accuracy.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import sys
import tempfile
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from search_space.architecture import Architecture
from search_space.complexity import count
from search_space.errors import Parser, UserError, open_console, run_command
from search_space.space import get_space
from studies.analysis import signal
from studies.plans import check_train_input
from studies.run import count_of, size_of
from trainers.config import default_budget, default_train_input, get_recipe
from trainers.datasets import DEFAULT_FOLD
from trainers.inputs import data_record
from trainers.loop import Diverged
from trainers.opening import open_data
from trainers.runs import available_cores
from trainers.workers import WorkerTask, default_workers, shared_devices, stopping, train_candidate, worker_pool


def spread(input: tuple[int, int], n_classes: int, number: int) -> list[str]:
    """Networks of the default space at even steps of the rank of their params, drawn with a fixed seed."""
    rng, space = random.Random(0), get_space("dssdn")
    sampled = {space.sample(lambda _, options: rng.choice(options)) for _ in range(20 * number)}
    ranked = sorted(sampled, key=lambda architecture: (count(architecture, input, n_classes).params, str(architecture)))
    return [str(ranked[round(place)]) for place in np.linspace(0, len(ranked) - 1, number)]


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = Parser(prog="python -m benchmarks.signal", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", metavar="FOLDER", help="as in studies.run")
    parser.add_argument("--subset", help="as in studies.run")
    parser.add_argument("--fold", type=int, default=DEFAULT_FOLD, help="as in studies.run")
    parser.add_argument("--budget", type=count_of, help="clips a network sees (default: a study's)")
    parser.add_argument("--train-input", type=size_of, metavar="TxF", help="frames x mels (default: a study's)")
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--lr", type=float, help="instead of the short recipe's")
    parser.add_argument("--batch-size", type=int, help="instead of the short recipe's")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    options = parser.parse_args(argv)
    if options.networks < 3 or options.seeds < 2:
        raise UserError("a signal needs at least --networks 3 and --seeds 2")
    for name, value in (("lr", options.lr), ("batch-size", options.batch_size), ("workers", options.workers)):
        if value is not None and value <= 0:
            raise UserError(f"--{name} is above 0, not {value}")
    console = open_console(stderr=options.json)

    dataset, features = open_data(console, options.data, options.subset, options.fold)
    size = features.size
    train_input = options.train_input or default_train_input(size)
    check_train_input(train_input, size)
    budget = options.budget or default_budget(len(dataset.classes))
    changed = {
        key: value for key, value in (("lr", options.lr), ("batch_size", options.batch_size)) if value is not None
    }
    recipe = dataclasses.replace(get_recipe("short"), **changed)
    devices = shared_devices("auto")
    workers = options.workers or default_workers(devices)
    data = data_record(dataset, features)
    networks = spread(size, len(dataset.classes), options.networks)
    threads = max(1, available_cores() // workers)
    task = WorkerTask(dataset, features.digest, train_input, recipe, budget, threads)
    began = time.monotonic()
    accuracies = np.zeros((len(networks), options.seeds))
    seconds = np.zeros_like(accuracies)
    pool, stop = worker_pool(task, workers, devices)
    with tempfile.TemporaryDirectory() as folder, stopping(pool, stop):
        futures = {}
        for row, seed in np.ndindex(accuracies.shape):
            config: dict[str, Any] = {
                "architecture": networks[row],
                "seed": int(seed),
                "data": data,
                "recipe": recipe.name,
                "clips": budget,
                "command": "benchmarks.signal",
            }
            futures[row, seed] = pool.submit(
                train_candidate, networks[row], str(Path(folder) / f"{row}-{seed}"), config
            )
        for (row, seed), future in futures.items():
            try:
                result = future.result()
            except (BrokenProcessPool, Diverged) as error:
                raise UserError(f"{networks[row]} with seed {seed} could not be trained: {error}") from error
            accuracies[row, seed], seconds[row, seed] = result["val_accuracy"], result["seconds"]
            console.print(f"{networks[row]}  seed {seed}  val {result['val_accuracy']:.1%}  {result['seconds']:.0f} s")
    found = signal(accuracies)
    costs = [count(Architecture.parse(text), size, len(dataset.classes)) for text in networks]
    report = {
        "data": data,
        "budget": budget,
        "train_input": list(train_input),
        "recipe": recipe.record(),
        "between_sd": found.between_sd,
        "seed_sd": found.seed_sd,
        "ratio": found.ratio if math.isfinite(found.ratio) else None,
        "rank_correlation": found.rank_correlation,
        "seconds": round(time.monotonic() - began, 1),
        "networks": [
            {
                "architecture": text,
                "params": cost.params,
                "macs": cost.macs,
                "val_accuracies": accuracies[row].tolist(),
                "seconds": seconds[row].tolist(),
            }
            for row, (text, cost) in enumerate(zip(networks, costs, strict=True))
        ],
    }
    if options.json:
        json.dump(report, sys.stdout)
        print()
        return 0
    table = Table(
        "network",
        "params",
        *(f"seed {seed}" for seed in range(options.seeds)),
        title=dataset.name + (" (synthetic data)" if dataset.synthetic else ""),
    )
    for row, cost in enumerate(costs):
        table.add_row(networks[row], f"{cost.params:,}", *(f"{value:.1%}" for value in accuracies[row]))
    console.print(table)
    console.print(
        f"between architectures {100 * found.between_sd:.1f} points, seeds {100 * found.seed_sd:.1f} points, ratio {found.ratio:.1f}, "
        f"rank correlation across seeds {found.rank_correlation:.2f}; {budget:,} clips at {train_input[0]}x{train_input[1]}, "
        f"{options.seeds} seeds, {report['seconds']:.0f} s"
    )
    return 0


if __name__ == "__main__":
    run_command(main)
