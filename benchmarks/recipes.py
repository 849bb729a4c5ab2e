"""Recipes side by side on validation clips: `python -m benchmarks.recipes --data ESC-50-master`.

One network, the same number of epochs, several seeds; the strong recipe and what differs from it in one thing. Test is never read: what
this chooses is a full retraining's default, which is to be scored on test elsewhere. A run that has finished is not trained again. Runs lie
in `runs/recipes-<data>/<recipe>-s<seed>`.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from search_space.errors import Parser, UserError, open_console, run_command, unknown
from search_space.presets import check_network
from studies.grid import Planned, choose_hands, train_all, unfinished
from studies.plans import check_train_input
from studies.run import size_of
from trainers.clips import DEFAULT_FOLD
from trainers.config import RECIPES, Recipe, default_train_input, get_recipe
from trainers.inputs import data_record
from trainers.opening import open_data
from trainers.runs import Run, held, provenance, study_folder
from trainers.workers import WorkerTask

CHANGES: dict[str, dict[str, Any]] = {
    "masks": {"masks": 2, "mask_width": 1 / 16},
    "wide-masks": {"masks": 2, "mask_width": 1 / 8},
    "mixup": {"mixup_alpha": 0.2},
    "mixup-scheduled": {"mixup_alpha": 0.4, "mixup_schedule": "without_hesitation"},
    "no-smoothing": {"label_smoothing": 0.0},
    "half-lr": {"lr": 4e-3},
    "double-lr": {"lr": 1.6e-2},
    "decay-0.1": {"weight_decay": 0.1},
}
"""What differs from the strong recipe in each of the others."""


def recipe_of(name: str) -> Recipe:
    """A recipe of the project, or the strong one with a change. Raises `UserError` for another name."""
    if name in CHANGES:
        return dataclasses.replace(get_recipe("strong"), name=name, **CHANGES[name])
    if name not in RECIPES:
        raise unknown("recipe", name, [*RECIPES, *CHANGES])
    return get_recipe(name)


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = Parser(prog="python -m benchmarks.recipes", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--data", metavar="FOLDER", help="as in studies.run")
    add("--subset", help="as in studies.run")
    add("--fold", type=int, default=DEFAULT_FOLD, help="as in studies.run")
    add("--architecture", default="dssdn-small", metavar="NETWORK", help="a name or notation (default: dssdn-small)")
    names = ",".join(["strong", *CHANGES, "mixstyle", "paper"])
    add("--recipes", default=names, metavar="A,B", help=f"(default: {names})")
    add("--epochs", type=int, default=40)
    add("--seeds", type=int, default=2)
    add("--train-input", type=size_of, metavar="TxF", help="frames x mels (default: a study's)")
    add("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs lie (default: runs)")
    add("--workers", type=int)
    add("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    options = parser.parse_args(argv)
    for name, value in (("epochs", options.epochs), ("seeds", options.seeds)):
        if value < 1:
            raise UserError(f"--{name} is at least 1, not {value}")
    check_network(options.architecture)
    hands = choose_hands(options.workers)
    recipes = [recipe_of(name.strip()) for name in options.recipes.split(",")]
    console = open_console(stderr=options.json)
    dataset, features = open_data(console, options.data, options.subset, options.fold)
    train_input = options.train_input or default_train_input(features.size)
    check_train_input(train_input, features.size)
    clips = options.epochs * len(dataset.splits.train)
    task = WorkerTask(*(dataset, features.digest, train_input, recipes[0], clips, hands.threads))
    folder = study_folder(options.runs, f"recipes-{dataset.name}")
    folder.mkdir(parents=True, exist_ok=True)
    common = {
        "kind": "recipes",
        "architecture": options.architecture,
        "data": data_record(dataset, features),
        "input": list(features.size),
        "train_input": list(train_input),
        "clips": clips,
        "command": provenance()["command"],
    }
    with held(folder / "lock", f"{folder} is being filled by another process; wait for it or end it"):
        for recipe in recipes:
            planned = _planned(folder, recipe, options.seeds, common)
            waiting = unfinished(planned, "remove it or name other --runs")
            train_all(console, waiting, dataclasses.replace(task, recipe=recipe), hands)
    report = {
        **{key: common[key] for key in ("architecture", "train_input", "clips")},
        "data": {key: common["data"][key] for key in ("name", "synthetic", "counts", "fold")},
        "epochs": options.epochs,
        "rows": [_row(folder, recipe, options.seeds) for recipe in recipes],
    }
    if options.json:
        json.dump(report, sys.stdout)
        print()
    else:
        _print(console, report)
    return 0


def _planned(folder: Path, recipe: Recipe, seeds: int, common: dict[str, Any]) -> list[Planned]:
    runs = [Run(folder / f"{recipe.name}-s{seed}") for seed in range(seeds)]
    recorded = {**common, "recipe": recipe.record()}
    return [Planned(recipe.name, run, {**recorded, "seed": seed}) for seed, run in enumerate(runs)]


def _row(folder: Path, recipe: Recipe, seeds: int) -> dict[str, Any]:
    """Val accuracy and log loss (nats) at the end of a recipe's runs, with their mean and deviation over the seeds."""
    last = [Run(folder / f"{recipe.name}-s{seed}").metrics()[-1] for seed in range(seeds)]
    val = [row["val_accuracy"] for row in last]
    return {
        "recipe": recipe.name,
        "changes": CHANGES.get(recipe.name, {}),
        "val": val,
        "val_mean": statistics.fmean(val),
        "val_std": statistics.stdev(val) if seeds > 1 else None,
        "val_loss_mean": statistics.fmean(row["val_loss"] for row in last),
        "train_mean": statistics.fmean(row["train_accuracy"] for row in last),
    }


def _print(console: Console, report: dict[str, Any]) -> None:
    data = report["data"]
    title = (
        f"{data['name']}{' (synthetic data)' if data['synthetic'] else ''}, {data['counts']['val']} validation clips"
    )
    table = Table(title=title)
    table.add_column("recipe")
    for heading in ("val", "log loss", "train"):
        table.add_column(heading, justify="right")
    for row in sorted(report["rows"], key=lambda row: -row["val_mean"]):
        spread = "" if row["val_std"] is None else f" ± {100 * row['val_std']:.1f}"
        table.add_row(
            row["recipe"], f"{row['val_mean']:.1%}{spread}", f"{row['val_loss_mean']:.3f}", f"{row['train_mean']:.1%}"
        )
    console.print(table)
    frames, mels = report["train_input"]
    console.print(
        f"{report['architecture']}, {report['epochs']} epochs ({report['clips']:,} clips) at {frames}x{mels}, "
        f"{len(report['rows'][0]['val'])} seeds",
        soft_wrap=True,
    )


if __name__ == "__main__":
    run_command(main)
