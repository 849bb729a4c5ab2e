"""Does a study find as much in fewer clips? `python -m benchmarks.search --seeds 30 [--json]` replays searches in the recorded tables.

A table (`benchmarks.make_table`) holds the learning curve of every network of a small space, so a search in it trains nothing: the
samplers, the candidates and the decision at a rung are those of a study, the scores are read. A replay reads one seed's curves, as a study's
candidates share one seed; what it ended with fully trained is judged by the mean over all seeds, as no search sees it.
"""

from __future__ import annotations

import heapq
import json
import random
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.trial import Trial, TrialState

from benchmarks.make_table import SPACE, TABLES
from search_space.architecture import Architecture
from search_space.errors import UserError, unknown
from studies.analysis import OBJECTIVES, hypervolume_of
from studies.candidates import Candidates, Caps, make_sampler
from studies.halving import KEEP, Reached, at_rung, goes_on

SAMPLERS = ("random", "tpe", "nsga2")
_T_95 = 1.96


@dataclass(frozen=True)
class Table:
    """A recorded table: `about` is its provenance, `rows` its trainings."""

    about: dict[str, Any]
    rows: pd.DataFrame

    @cached_property
    def rungs(self) -> list[int]:
        """Clips at the rungs, the full budget last."""
        return list(self.about["rungs"])

    @cached_property
    def seeds(self) -> list[int]:
        """The seeds that every network was trained with."""
        return sorted(int(seed) for seed in self.rows["seed"].unique())

    @cached_property
    def curves(self) -> dict[tuple[str, int], dict[int, float]]:
        """Val accuracy (0 to 1) at every rung by network and seed."""
        keyed = self.rows.set_index(["architecture", "seed"])
        keyed = keyed[[str(rung) for rung in self.rungs]]
        return {
            key: dict(zip(self.rungs, row, strict=True)) for key, row in zip(keyed.index, keyed.to_numpy(), strict=True)
        }

    @cached_property
    def pace(self) -> dict[str, float]:
        """Seconds a clip took, by network."""
        return dict(self.rows.groupby("architecture")["seconds"].mean() / self.rungs[-1])

    @cached_property
    def truth(self) -> pd.DataFrame:
        """Every network with its mean accuracy over the seeds at the full budget, its costs, and `state` complete."""
        scored = self.rows.rename(columns={str(self.rungs[-1]): "val_accuracy"})
        means = scored.groupby("architecture")[list(OBJECTIVES)].mean()
        return means.assign(state="complete")

    def hypervolume(self, networks: list[str]) -> float:
        """That of these networks, as a study counts it, by their mean accuracies."""
        params, macs = SPACE.largest(tuple(self.about["input"]), self.about["n_classes"])
        reference = {
            "accuracy": 1 / self.about["n_classes"],
            "log10_params": np.log10(params),
            "log10_macs": np.log10(macs),
        }
        return hypervolume_of(self.truth.loc[networks], reference)


@cache
def read_table(name: str, folder: Path = TABLES) -> Table:
    """The table of this name. Raises `UserError` with the known names, or when its space is not today's."""
    path = folder / f"{name}.csv"
    if not path.exists():
        raise unknown("table", name, list_tables(folder))
    about = json.loads(path.with_suffix(".json").read_text("utf-8"))
    if about["space"]["digest"] != SPACE.digest or "provenance" not in about:
        raise UserError(f"{path} is not finished, or of another space; make it with python -m benchmarks.make_table")
    return Table(about, pd.read_csv(path))


def list_tables(folder: Path = TABLES) -> list[str]:
    """Names of the tables with a provenance."""
    return sorted(path.stem for path in folder.glob("*.json"))


@dataclass(frozen=True)
class Replay:
    """What one search came to: the `clips` that its trainings saw, the networks it `finished`, how many it `stopped`."""

    clips: int
    finished: list[str]
    stopped: int


def replay(
    table: Table, sampler: str, halving: bool, seed: int, trials: int = 50, workers: int = 2, keep: float = KEEP
) -> Replay:
    """A search of `trials` networks by `workers` that take as long for a clip as the table says."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    input, n_classes = tuple(table.about["input"]), table.about["n_classes"]
    directions = list(OBJECTIVES.values())
    study = optuna.create_study(directions=directions, sampler=make_sampler(sampler, seed, workers))
    candidates = Candidates(study, SPACE, input, n_classes, Caps(input, n_classes), random.Random(seed))
    data_seed = table.seeds[seed % len(table.seeds)]
    busy: list[
        tuple[float, int, int, Trial, Architecture]
    ] = []  # when a worker is done with a trial, and at which rung it is then
    started, clips, stopped, clock, finished = 0, 0, 0, 0.0, []
    stages = range(len(table.rungs)) if halving else range(len(table.rungs) - 1, len(table.rungs))

    def train(trial: Trial, network: Architecture, stage: int) -> None:
        nonlocal clips
        seen = table.rungs[stages[stage]] - (table.rungs[stages[stage - 1]] if stage else 0)
        clips += seen
        heapq.heappush(busy, (clock + seen * table.pace[str(network)], trial.number, stage, trial, network))

    while True:
        while len(busy) < workers and started < trials and (asked := candidates.next()) is not None:
            train(*asked, 0)
            started += 1
        if not busy:
            return Replay(clips, finished, stopped)
        clock, _, stage, trial, network = heapq.heappop(busy)
        rung = table.rungs[stages[stage]]
        score, attributes = table.curves[str(network), data_seed][rung], trial.user_attrs
        if rung == table.rungs[-1]:
            study.tell(trial, [score, attributes["params"], attributes["macs"]])
            finished.append(str(network))
            continue
        trial.set_user_attr("rungs", {**attributes.get("rungs", {}), str(rung): score})
        others = at_rung(study.get_trials(deepcopy=False), rung)
        others.pop(trial.number)
        if goes_on(Reached(score, attributes["params"], attributes["macs"]), others.values(), keep):
            train(trial, network, stage + 1)
        else:
            candidates.end(trial, "stopped", TrialState.PRUNED)
            stopped += 1
