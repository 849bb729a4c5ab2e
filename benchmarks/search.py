"""Does a study find as much in fewer clips? `python -m benchmarks.search --seeds 30 [--json]` replays searches in the recorded tables.

A table (`benchmarks.make_table`) holds the learning curve of every network of a small space, so a search in it trains nothing: the
samplers, the candidates and the decision at a rung are those of a study, the scores are read. A replay reads one seed's curves, as a study's
candidates share one seed; what it ended with fully trained is judged by the mean over all seeds, as no search sees it.
"""

from __future__ import annotations

import heapq
import json
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState
from rich.table import Table as Printed

from benchmarks.make_table import SPACE, TABLES
from search_space.errors import Parser, UserError, open_console, run_command, unknown
from search_space.families import Network
from studies.analysis import OBJECTIVES, hypervolume_of
from studies.candidates import Candidates, Caps, make_sampler
from studies.halving import KEEP, at_rung, goes_on
from trainers.runs import available_cores

SAMPLERS = ("random", "tpe", "nsga2")
_RESAMPLES = 10_000


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
    table = Table(about, pd.read_csv(path))
    missing = [
        f"{text} with seed {seed}"
        for text in map(str, SPACE)
        for seed in table.seeds
        if (text, seed) not in table.curves
    ]
    if missing:
        raise UserError(
            f"{path} lacks {len(missing)} trainings, {missing[0]} for one; python -m benchmarks.make_table goes on with it"
        )
    return table


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
    table: Table,
    sampler: str,
    halving: bool,
    seed: int,
    trials: int = 50,
    workers: int = 2,
    keep: Sequence[float] = KEEP,
) -> Replay:
    """A search of `trials` networks by `workers` that take as long for a clip as the table says."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    input, n_classes = tuple(table.about["input"]), table.about["n_classes"]
    directions = [StudyDirection[direction.upper()] for direction in OBJECTIVES.values()]
    study = optuna.create_study(directions=directions, sampler=make_sampler(sampler, seed, workers))
    candidates = Candidates(study, SPACE, input, n_classes, Caps(input, n_classes), random.Random(seed))
    data_seed = table.seeds[seed % len(table.seeds)]
    busy: list[
        tuple[float, int, int, Trial, Network]
    ] = []  # when a worker is done with a trial, and at which rung it is then
    started, clips, stopped, clock = 0, 0, 0, 0.0
    finished: list[str] = []
    stages = range(len(table.rungs)) if halving else range(len(table.rungs) - 1, len(table.rungs))

    def train(trial: Trial, network: Network, stage: int) -> None:
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
        if goes_on(others.pop(trial.number), others.values(), keep[stage]):
            train(trial, network, stage + 1)
        else:
            candidates.end(trial, "stopped", TrialState.PRUNED)
            stopped += 1


@dataclass(frozen=True)
class _Job:
    table: str
    folder: Path
    sampler: str
    halving: bool
    seed: int
    trials: int
    workers: int


def _replayed(job: _Job) -> tuple[int, float, int]:
    """Clips seen, the hypervolume of what was finished, networks finished."""
    table = read_table(job.table, job.folder)
    found = replay(table, job.sampler, job.halving, job.seed, job.trials, job.workers)
    return found.clips, table.hypervolume(found.finished), len(found.finished)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean of `values` (n,)."""
    draws = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = Parser(prog="python -m benchmarks.search", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=30, help="replays of each strategy (default: 30)")
    parser.add_argument("--trials", type=int, default=50, help="networks in a replay (default: 50)")
    parser.add_argument("--table", help="one table alone (default: all of them)")
    parser.add_argument(
        "--tables", type=Path, default=TABLES, metavar="DIR", help="where tables lie (default: benchmarks/tables)"
    )
    parser.add_argument("--workers", type=int, default=2, help="workers of a replayed study (default: 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    options = parser.parse_args(argv)
    for name in ("seeds", "trials", "workers"):
        if (value := getattr(options, name)) < 1:
            raise UserError(f"--{name} is at least 1, not {value}")
    console = open_console(stderr=options.json)
    names = [options.table] if options.table else list_tables(options.tables)
    if not names:
        raise UserError(f"there is no table in {options.tables}; make one with python -m benchmarks.make_table")
    tables = {name: read_table(name, options.tables) for name in names}
    jobs = [
        _Job(name, options.tables, sampler, halving, seed, options.trials, options.workers)
        for name in names
        for sampler in SAMPLERS
        for halving in (False, True)
        for seed in range(options.seeds)
    ]
    began = time.monotonic()
    with ProcessPoolExecutor(available_cores()) as pool:
        results = dict(zip(jobs, pool.map(_replayed, jobs, chunksize=options.seeds), strict=True))
    rows: list[dict[str, Any]] = []
    for start in range(0, len(jobs), options.seeds):
        of = jobs[start : start + options.seeds]
        clips, volumes, finished = np.array([results[job] for job in of]).T
        without = [results[replace(job, halving=False)] for job in of]
        rows.append(
            {
                "table": of[0].table,
                "name": of[0].sampler,
                "halving": of[0].halving,
                "clips_seen": float(clips.mean()),
                "clips_share": float(clips.mean() / np.mean([clips for clips, _, _ in without])),
                "hypervolume_mean": float(volumes.mean()),
                "hypervolume_ci": interval(volumes),
                "hypervolume_share": float(volumes.mean() / np.mean([volume for _, volume, _ in without])),
                "finished": float(finished.mean()),
            }
        )
    report = {"table": ", ".join(names), "seeds": options.seeds, "trials": options.trials, "strategies": rows}
    if options.json:
        json.dump(report, sys.stdout)
        print()
    for name, table in tables.items():
        kind = " (synthetic data)" if table.about["data"]["synthetic"] else ""
        everything = table.hypervolume(list(table.truth.index))
        printed = Printed(
            *(
                "strategy",
                "halving",
                "clips",
                "of without",
                "fully trained",
                "hypervolume (95 % interval)",
                "of without",
            ),
            title=f"{name}{kind}: {options.seeds} replays of {options.trials} of {len(table.truth)} networks; all of them: {everything:.4f}",
        )
        for row in (row for row in rows if row["table"] == name):
            low, high = row["hypervolume_ci"]
            printed.add_row(
                *(
                    row["name"],
                    "yes" if row["halving"] else "no",
                    f"{row['clips_seen']:,.0f}",
                    f"{row['clips_share']:.1%}",
                ),
                *(f"{row['finished']:.1f}", f"{row['hypervolume_mean']:.4f} ({low:.4f} to {high:.4f})"),
                f"{row['hypervolume_share']:.1%}",
            )
        console.print(printed)
    console.print(f"{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    run_command(main)
