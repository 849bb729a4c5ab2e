"""Networks side by side: `python -m studies.compare --data ESC-50-master`, each with several seeds, test scored once a run.

Every network sees the same clips for the same budget with the same recipe; nothing is chosen by a score. The recipe `short` has a study's
budget and its small input, every other one its own number of epochs at the full input, unless told otherwise. A run that has finished is not
trained again: the same command goes on where it was stopped. Runs lie in `runs/compare-<data>/<network>-s<seed>`.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from search_space.complexity import Cost, count_network
from search_space.errors import Parser, UserError, open_console, run_command
from search_space.presets import check_network
from search_space.rounding import per_cent
from search_space.tables import RESULTS, record_result
from studies.grid import Planned, check_budget, choose_hands, train_all, unfinished
from studies.interrupts import interrupt
from studies.plans import check_train_input
from studies.run import count_of, size_of
from trainers.clips import DEFAULT_FOLD
from trainers.config import UNTAUGHT, Recipe, default_budget, default_train_input, get_untaught, short
from trainers.datasets import Dataset
from trainers.features import FrontEnd
from trainers.inputs import data_record
from trainers.opening import open_data
from trainers.runs import Run, held, now, provenance, study_folder
from trainers.workers import WorkerTask

# The networks of the paper's tables that a small machine trains in a minute, and the strongest small rival.
DEFAULT_NETWORKS = ("dssdn-large", "dssdn-middle", "dssdn-small", "dl-o", "dl-b-pooled", "sp4asc", "mobilenet-v2")


@dataclass(frozen=True)
class Comparison:
    """What all runs have in common, as they record it."""

    folder: Path
    data: dict[str, Any]
    input: tuple[int, int]
    train_input: tuple[int, int]
    recipe: Recipe
    budget: int
    costs: dict[str, Cost]
    seeds: int

    def run(self, network: str, seed: int) -> Run:
        """The run of a network with a seed."""
        return Run(self.folder / f"{network}-s{seed}")

    def config(self, network: str, seed: int) -> dict[str, Any]:
        """What that run records: enough to do it again."""
        return {
            "kind": "compare",
            "study": self.folder.name,
            "architecture": network,
            "preset": network,
            "params": self.costs[network].params,
            "macs": self.costs[network].macs,
            "data": self.data,
            "input": list(self.input),
            "train_input": list(self.train_input),
            "recipe": self.recipe.record(),
            "clips": self.budget,
            "seed": seed,
            "command": provenance()["command"],
        }

    def planned(self) -> list[Planned]:
        """Every run, the first seed of all networks first."""
        jobs = [(name, seed) for seed in range(self.seeds) for name in self.costs]
        return [Planned(name, self.run(name, seed), self.config(name, seed)) for name, seed in jobs]


def main(argv: list[str] | None = None) -> int:
    """The command."""
    options = _parser().parse_args(argv)
    console = open_console(stderr=options.json)
    networks = list(dict.fromkeys(name.strip() for name in options.networks.split(",")))
    if "" in networks:
        raise UserError(
            f"--networks is at least one name or notation, separated by single commas; got {options.networks!r}"
        )
    for name in networks:
        check_network(name)
    if options.epochs is not None and options.epochs < 1:
        raise UserError(f"--epochs is at least 1, not {options.epochs}")
    if options.budget is not None and options.epochs is not None:
        raise UserError("--budget is in clips and --epochs in passes over train; give one of them")
    if options.seeds < 1:
        raise UserError(f"--seeds is at least 1, not {options.seeds}")
    recipe, hands = get_untaught(options.recipe), choose_hands(options.workers, options.device)

    def early(dataset: Dataset, front_end: FrontEnd, size: tuple[int, int]) -> None:
        budget, train_input = _length(options, recipe, dataset, size)
        check_train_input(train_input, size)
        check_budget(budget, recipe.batch_size)

    dataset, features = open_data(console, options.data, options.subset, options.fold, early)
    budget, train_input = _length(options, recipe, dataset, features.size)
    comparison = Comparison(
        folder=study_folder(options.runs, options.name or f"compare-{dataset.name}"),
        data=data_record(dataset, features),
        input=features.size,
        train_input=train_input,
        recipe=recipe,
        budget=budget,
        costs={name: count_network(name, features.size, len(dataset.classes)) for name in networks},
        seeds=options.seeds,
    )
    task = WorkerTask(
        *(dataset, features.digest, comparison.train_input, recipe, comparison.budget, hands.threads),
        score_test=True,
    )
    comparison.folder.mkdir(parents=True, exist_ok=True)
    busy = f"{comparison.folder} is being trained by another process; wait for it or end it"
    with held(comparison.folder / "lock", busy):
        planned = comparison.planned()
        waiting = unfinished(planned, "give the same options, or another --name", scored=True)
        console.print(
            f"{len(planned)} runs ({len(networks)} networks, {options.seeds} seeds) on {dataset.name}"
            f"{' (synthetic data)' if dataset.synthetic else ''}, each of {comparison.budget:,} clips at "
            f"{comparison.train_input[0]}x{comparison.train_input[1]} with recipe {recipe.name}; "
            f"{len(planned) - len(waiting)} have finished already",
            soft_wrap=True,
        )
        train_all(console, waiting, task, hands)
    report = _report(comparison)
    if options.record:
        _record(comparison, report)
    if options.json:
        json.dump(report, sys.stdout)
        print()
    else:
        _print_report(console, report)
    return 0


def _length(
    options: argparse.Namespace, recipe: Recipe, dataset: Dataset, full: tuple[int, int]
) -> tuple[int, tuple[int, int]]:
    """Clips that each run sees, and the frames x mels that it trains on."""
    quick = recipe.name == short().name  # made for a study's budget and input
    epochs = options.epochs or (None if quick else recipe.epochs)
    budget = options.budget or (
        default_budget(len(dataset.classes)) if epochs is None else epochs * len(dataset.splits.train)
    )
    return budget, options.train_input or (default_train_input(full) if quick else full)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m studies.compare", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    names = ",".join(DEFAULT_NETWORKS)
    add("--networks", default=names, metavar="A,B", help=f"names or notations (default: {names})")
    add("--seeds", type=int, default=3, help="runs of each network, with seeds 0, 1, ... (default: 3)")
    add("--data", metavar="FOLDER", help="as for studies.run")
    add("--subset", help="as for studies.run")
    add("--fold", type=int, default=DEFAULT_FOLD, help="the test fold, where the data has folds")
    add("--recipe", default="short", help=f"one of {', '.join(UNTAUGHT)} (default: short)")
    add("--budget", type=count_of, metavar="CLIPS", help="clips that each run sees (short: as for studies.run)")
    add("--epochs", type=int, help="instead of --budget: passes over train (default: the recipe's own, but for short)")
    add(
        "--train-input",
        type=size_of,
        metavar="TxF",
        help="frames x mels trained on; costs count at full size (default: full size, but for short)",
    )
    add("--name", help="the folder's name below --runs (default: compare-<data>)")
    add("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs lie (default: runs)")
    add("--workers", type=int, help="processes that train (default: one to four a GPU, or one a core up to 8)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add(
        "--record",
        action="store_true",
        help=f"keep the results in {RESULTS.name}, where search_space.tables shows them",
    )
    add("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    return parser


def _report(comparison: Comparison) -> dict[str, Any]:
    """Mean and standard deviation over the seeds of every network's accuracies (0 to 1), with its cost."""
    rows = []
    for name, cost in comparison.costs.items():
        scored = [comparison.run(name, seed) for seed in range(comparison.seeds)]
        test = [(run.scores or {})["accuracy"] for run in scored]
        val = [run.metrics()[-1]["val_accuracy"] for run in scored]
        rows.append(
            {
                "network": name,
                "params": cost.params,
                "macs": cost.macs,
                "test": test,
                "test_mean": statistics.fmean(test),
                "test_std": statistics.stdev(test) if len(test) > 1 else None,
                "val": val,
                "val_mean": statistics.fmean(val),
                "val_std": statistics.stdev(val) if len(val) > 1 else None,
            }
        )
    return {
        "study": comparison.folder.name,
        "data": {key: comparison.data[key] for key in ("name", "synthetic", "counts", "digest", "fold")},
        "recipe": comparison.recipe.name,
        "budget": comparison.budget,
        "input": list(comparison.input),
        "train_input": list(comparison.train_input),
        "seeds": list(range(comparison.seeds)),
        "rows": sorted(rows, key=lambda row: -row["test_mean"]),
    }


def _record(comparison: Comparison, report: dict[str, Any]) -> None:
    """Keep the test accuracies where the paper's tables find them."""
    for row in report["rows"]:
        frames, mels = comparison.train_input
        record_result(
            RESULTS,
            {
                "network": row["network"],
                "dataset": comparison.data["name"],
                "data_digest": comparison.data["digest"],
                "fold": comparison.data["fold"],
                "sample_rate": comparison.data["front_end"]["sample_rate"],
                "recipe": f"{comparison.recipe.name}, {comparison.budget:,} clips",
                "input": f"{frames}x{mels}",
                "seeds": report["seeds"],
                "accuracy_mean": round(100 * row["test_mean"], 2),
                "accuracy_std": None if row["test_std"] is None else round(100 * row["test_std"], 2),
                "params": row["params"],
                "macs": row["macs"],
                "command": provenance()["command"],
                "date": now(),
            },
        )


def _print_report(console: Console, report: dict[str, Any]) -> None:
    data = report["data"]
    table = Table(
        title=f"{data['name']}{' (synthetic data)' if data['synthetic'] else ''}: test accuracy, mean and deviation over the seeds"
    )
    table.add_column("network")
    for heading in ("test", "val", "params", "MACs"):
        table.add_column(heading, justify="right")
    for row in report["rows"]:
        cells = (_mean(row["test_mean"], row["test_std"]), _mean(row["val_mean"], row["val_std"]))
        table.add_row(row["network"], *cells, f"{row['params']:,}", f"{row['macs'] / 1e6:,.1f} M")
    console.print(table)
    frames, mels = report["input"]
    console.print(
        f"{len(report['seeds'])} seeds, {report['budget']:,} clips at {report['train_input'][0]}x{report['train_input'][1]}, recipe "
        f"{report['recipe']}; {data['counts']['test']} test clips; params and MACs at {frames}x{mels}",
        soft_wrap=True,
    )


def _mean(mean: float, std: float | None) -> str:
    return per_cent(mean) if std is None else f"{per_cent(mean)} ± {100 * std:.1f}"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    run_command(main)
