"""Trials of a study trained again with other seeds: what `studies.confirm` and `studies.fidelity` have in common.

The runs lie in `runs/<study>/<kind>/<recipe>-<clips>/<trial>-s<seed>`, what was found beside them; a finished run is
not trained again.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from search_space.errors import UserError
from studies.factors import TEACHING
from studies.grid import Hands, Planned, choose_hands, train_all, unfinished
from studies.records import StudyRecords, open_study
from trainers.config import UNTAUGHT, Recipe, get_untaught
from trainers.datasets import Dataset
from trainers.features import Features
from trainers.runs import Run, held, provenance, write_atomic
from trainers.teaching import sealed
from trainers.workers import WorkerTask

ADVICE = "move it away, or restore what it was trained with"


@dataclass(frozen=True)
class Replication:
    """Which trials of a study are trained again, and how: `rows` of its trials, each with every one of `seeds`,
    `budget` clips each."""

    records: StudyRecords
    kind: str
    rows: pd.DataFrame
    recipe: Recipe
    budget: int
    seeds: tuple[int, ...]

    @property
    def folder(self) -> Path:
        """Where its runs lie: another recipe or budget has another folder."""
        return self.records.path / self.kind / f"{self.recipe.name}-{self.budget}"

    def run(self, trial: int, seed: int) -> Run:
        """The run of a trial's network with a seed."""
        return Run(self.folder / f"{trial:05d}-s{seed}")

    def planned(self) -> list[Planned]:
        """Every run, the first seed of all networks first, so that a break leaves all of them with about as many."""
        info, command = self.records.info, provenance()["command"]
        common = {
            "kind": self.kind,
            "study": self.records.name,
            **{key: info[key] for key in ("data", "input", "train_input")},
            "recipe": self.recipe.record(),
            "clips": self.budget,
            "command": command,
        }
        return [
            Planned(
                f"trial {of['trial']}  {of['architecture']}",
                self.run(of["trial"], seed),
                {**common, **of, "seed": seed},
            )
            for seed in self.seeds
            for of in self.networks()
        ]

    def networks(self) -> list[dict[str, Any]]:
        """The trials' numbers, networks and costs, and what the study's own seed scored, as plain values."""
        return [
            {
                "trial": int(row["trial"]),
                "architecture": row["architecture"],
                "preset": row["preset"] if isinstance(row["preset"], str) else None,
                "params": int(row["params"]),
                "macs": int(row["macs"]),
                "study_val": float(row["val_accuracy"]),
            }
            for row in self.rows.to_dict("records")
        ]

    def train(self, console: Console, dataset: Dataset, features: Features, hands: Hands) -> None:
        """Train what has not finished, at the study's input. To be called under `lock`."""
        planned = self.planned()
        waiting = unfinished(planned, ADVICE)
        frames, mels = self.records.info["train_input"]
        console.print(
            f"{len(self.rows)} networks of study {self.records.name} on {dataset.name}"
            f"{' (synthetic data)' if dataset.synthetic else ''}, {len(self.seeds)} seed(s) each: {len(planned)} runs of "
            f"{self.budget:,} clips at {frames}x{mels} with recipe {self.recipe.name}; {len(planned) - len(waiting)} have finished "
            f"already",
            soft_wrap=True,
        )
        train_input = (frames, mels)
        train_all(
            console,
            waiting,
            WorkerTask(dataset, features.digest, train_input, self.recipe, self.budget, hands.threads),
            hands,
        )

    def accuracies(self) -> np.ndarray:
        """Validation accuracy (0 to 1) at the end of every run, (N, S). To be called when all have finished."""
        return np.array(
            [
                [self.run(trial, seed).metrics()[-1]["val_accuracy"] for seed in self.seeds]
                for trial in self.rows["trial"]
            ]
        )

    def lock(self) -> AbstractContextManager[None]:
        """The folder, held by this process alone. Raises `UserError` when another one trains there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return held(self.folder / "lock", f"{self.folder} is being trained by another process; wait for it or end it")

    def about(self) -> dict[str, Any]:
        """What its report begins with."""
        info = self.records.info
        return {
            "study": self.records.name,
            "data": {key: info["data"][key] for key in ("name", "synthetic", "counts", "digest", "fold")},
            "recipe": self.recipe.name,
            "budget": self.budget,
            "seeds": list(self.seeds),
            "train_input": info["train_input"],
            "study_recipe": info["recipe"]["name"],
            "study_budget": info["budget"],
            "study_seed": info["seed"],
        }

    def write(self, report: Mapping[str, Any], rows: pd.DataFrame) -> None:
        """Keep what was found: the report as JSON, its networks as a table, `<kind>.json` and `<kind>.csv`."""
        text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomic(self.folder / f"{self.kind}.json", lambda file: file.write(text.encode()))
        table = rows.to_csv(index=False)
        write_atomic(self.folder / f"{self.kind}.csv", lambda file: file.write(table.encode()))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that such a command has anyway."""
    add = parser.add_argument
    add("--study", required=True, metavar="NAME", help="the study")
    add("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where studies lie (default: runs)")
    add("--storage", metavar="URL", help="the study's database, where it has one")
    add("--recipe", default="short", help=f"one of {', '.join(UNTAUGHT)} (default: short)")
    add("--workers", type=int, help="processes that train (default: one to four a GPU, or one a core up to 8)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")


def checked(options: argparse.Namespace) -> tuple[StudyRecords, pd.DataFrame, Recipe, Hands]:
    """The study, its complete trials, the recipe and the workers that the options name.

    Raises `UserError` for what there is not, a study without a front above all.
    """
    recipe, hands = get_untaught(options.recipe), choose_hands(options.workers, options.device)
    records = open_study(options.study, options.runs, options.storage)
    trials = records.trials()
    complete = trials[trials["state"] == "complete"].reset_index(drop=True)
    if complete.empty:
        raise UserError(
            f"study {records.name!r} has no front: none of its {len(trials)} trials is complete; go on with "
            f"`{records.going_on()}` first"
        )
    return records, complete, _taught_like(records, recipe), hands


def _taught_like(records: StudyRecords, recipe: Recipe) -> Recipe:
    """The recipe with what taught the study's candidates besides their labels: without it the networks would be others.

    Raises `UserError` where that has changed, or is gone.
    """
    then = records.info["recipe"]
    recipe = Recipe.of({**recipe.record(), **{name: then[name] for name in TEACHING if name in then}})
    if sealed(recipe) != recipe:
        raise UserError(
            f"study {records.name!r} was taught by what has changed since ({', '.join(name for name, _ in recipe.digests)}): put it back as it was"
        )
    return recipe


def other_seeds(number: int, taken: int) -> tuple[int, ...]:
    """The first so many seeds that are not the study's own: more of them are these and others."""
    return tuple(itertools.islice((seed for seed in itertools.count() if seed != taken), number))
