"""Does the front hold? `python -m studies.confirm --study NAME`: it and its near misses, trained with several new seeds.

A front of scores of a single seed is too good: it holds whoever was lucky (the winner's curse). Here each network gets
a mean, an interval and the probability that it stands on the front at all. Everything is judged on val; with `--test`
every finished run is scored once on test after that, and chooses nothing. The same command goes on where it was
stopped.

Who is trained: the front, by falling accuracy, and its near misses, the nearest first: complete trials that would be on
it with no more accuracy than one standard error of the difference between two scores on the study's val clips, and at
most as many as the front has members.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from search_space.errors import Parser, UserError, open_console, run_command
from studies import analysis
from studies.grid import check_budget
from studies.interrupts import interrupt
from studies.replication import Replication, add_arguments, checked, other_seeds
from studies.run import count_of
from studies.statistics import means, non_dominated_probability
from trainers.loop import resolve_device
from trainers.opening import progress_bar, reopen_data
from trainers.runs import now
from trainers.scoring import score_test

# Assumed: twice the study's clips bring most of what its networks can still learn, and leave five seeds affordable.
_TIMES = 2


def main(argv: list[str] | None = None) -> int:
    """The command."""
    options = _parser().parse_args(argv)
    console = open_console(stderr=options.json)
    if options.seeds < 2:
        raise UserError(f"--seeds is at least 2, not {options.seeds}: one alone has no interval")
    if options.top is not None and options.top < 1:
        raise UserError(f"--top is at least 1, not {options.top}")
    records, complete, recipe, hands = checked(options)
    info = records.info
    budget = options.budget or _TIMES * info["budget"]
    check_budget(budget, recipe.batch_size)
    rows = chosen(complete, info["data"]["counts"]["val"], options.top)
    replication = Replication(records, "confirm", rows, recipe, budget, other_seeds(options.seeds, info["seed"]))
    dataset, features = reopen_data(console, info["data"])
    with replication.lock():
        replication.train(console, dataset, features, hands)
        if options.test:
            runs = [training.run for training in replication.planned()]
            with progress_bar(console, "test") as report_progress:
                frames, mels = info["train_input"]
                device = resolve_device(options.device)
                score_test(runs, dataset, features, (frames, mels), device, report_progress)
        report = _report(replication)
        replication.write(report, pd.DataFrame(report["networks"]))
    if options.json:
        json.dump(report, sys.stdout, allow_nan=False)
        print()
    else:
        _print(console, report, replication)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m studies.confirm", description=(__doc__ or "").split("\n")[0])
    add_arguments(parser)
    add = parser.add_argument
    add("--seeds", type=int, default=5, help="new ones, not the study's own (default: 5)")
    add("--top", type=int, metavar="N", help="no more networks than this: the front comes first, then its near misses")
    add("--budget", type=count_of, metavar="CLIPS", help="clips that each run sees (default: twice the study's)")
    add("--test", action="store_true", help="score every finished run once on test; nothing is chosen by it")
    return parser


def chosen(complete: pd.DataFrame, n_val: int, top: int | None = None) -> pd.DataFrame:
    """The complete trials to be confirmed, in their order, with `role` ('front' or 'near miss') and `misses_by`
    (accuracy, 0 to 1).

    `n_val` clips tell two scores of about p apart by one standard error from sqrt(2 p (1 - p) / n_val).
    Assumed: one such error, which is about what another seed changes (README: 2.4 points on the synthetic data, where
    it is 2.1).
    """
    rows = complete.assign(misses_by=analysis.shortfall(complete))
    on_front = rows["trial"].isin(analysis.front(complete)["trial"])
    front = rows[on_front].assign(role="front")
    accuracy = rows["val_accuracy"].astype(float)
    margin = np.sqrt(2 * accuracy * (1 - accuracy) / n_val)
    near = rows[~on_front & (rows["misses_by"] <= margin)].assign(role="near miss")
    front = front.sort_values(["val_accuracy", "params", "macs", "trial"], ascending=[False, True, True, True])
    near = near.sort_values(["misses_by", "trial"]).head(len(front))
    return pd.concat([front, near], ignore_index=True).head(top or len(rows))


def _report(replication: Replication) -> dict[str, Any]:
    """Accuracies 0 to 1. `curse` is the study's score less the mean of the new seeds; ranks count from 1 among these
    networks."""
    rows, val_NS = replication.rows, replication.accuracies()
    found = means(val_NS)
    costs_N2 = rows[["params", "macs"]].to_numpy(dtype=float)
    objectives_N3 = np.column_stack([found.mean, costs_N2])
    front_N = analysis.non_dominated(objectives_N3, np.array([False, True, True]))
    probability_N = non_dominated_probability(val_NS, costs_N2)
    study_rank_N, rank_N = (_ranks(scores) for scores in (rows["val_accuracy"], found.mean))
    networks = []
    for i, of in enumerate(replication.networks()):
        scores = [replication.run(of["trial"], seed).scores for seed in replication.seeds]
        test = [of_run["accuracy"] for of_run in scores if of_run]
        scored = means(test) if len(test) == len(scores) else None
        networks.append(
            {
                **of,
                "role": rows["role"][i],
                "misses_by": float(rows["misses_by"][i]),
                "val": val_NS[i].tolist(),
                **{f"val_{name}": float(value[i]) for name, value in found._asdict().items()},
                "curse": of["study_val"] - float(found.mean[i]),
                "non_dominated": float(probability_N[i]),
                "on_front": bool(front_N[i]),
                "study_rank": int(study_rank_N[i]),
                "rank": int(rank_N[i]),
                "rank_change": int(study_rank_N[i] - rank_N[i]),
                "test": test if scored else None,
                "test_mean": float(scored.mean) if scored else None,
                "test_std": float(scored.std) if scored else None,
            }
        )
    roles = {role: (rows["role"] == role).to_numpy() for role in ("front", "near miss")}
    study_N1 = rows["val_accuracy"].to_numpy(dtype=float)[:, None]
    return {
        **replication.about(),
        "near_misses": "off the front by at most sqrt(2 p (1 - p) / val clips), at most as many as the front has members",
        "curse": {role: _curse(study_N1[mask] - val_NS[mask]) for role, mask in roles.items() if mask.any()},
        "networks": sorted(networks, key=lambda network: (network["rank"], network["trial"])),
        "written": now(),
    }


def _ranks(scores: Any) -> np.ndarray:
    """1 for the best; equal scores share the better rank."""
    return pd.Series(scores).rank(method="min", ascending=False).to_numpy(dtype=int)


def _curse(excess_NS: np.ndarray) -> dict[str, float]:
    """Mean excess of the study's scores over the new seeds', with Student's interval over the seeds: what the study's
    own seed did to all networks alike is in the mean and not in the interval."""
    found = means(excess_NS.mean(0))
    return {name: float(getattr(found, name)) for name in ("mean", "low", "high")}


def _print(console: Console, report: dict[str, Any], replication: Replication) -> None:
    data, networks = report["data"], report["networks"]
    tested = any(network["test_mean"] is not None for network in networks)
    table = Table(
        title=f"{report['study']} on {data['name']}{' (synthetic data)' if data['synthetic'] else ''}: val accuracy with "
        f"{len(report['seeds'])} new seeds (%)"
    )
    for heading in ("trial", "network", "role"):
        table.add_column(heading, overflow="fold")
    alike = (report["budget"], report["recipe"]) == (report["study_budget"], report["study_recipe"])
    for heading in (
        "study",
        "mean",
        "95 %",
        "curse" if alike else "less",
        "on the front",
        "rank",
        *(["test"] if tested else []),
    ):
        table.add_column(heading, justify="right")
    for of in networks:
        change = of["rank_change"]
        test = "" if of["test_mean"] is None else f"{100 * of['test_mean']:.1f} ± {100 * of['test_std']:.1f}"
        table.add_row(
            *(str(of["trial"]), of["preset"] or of["architecture"], of["role"], f"{100 * of['study_val']:.1f}"),
            f"{100 * of['val_mean']:.1f} ± {100 * of['val_std']:.1f}",
            f"{100 * of['val_low']:.1f} to {100 * of['val_high']:.1f}",
            f"{100 * of['curse']:+.1f}",
            f"{of['non_dominated']:.2f}",
            f"{of['rank']}{f' ({change:+d})' if change else ''}",
            *([test] if tested else []),
        )
    console.print(table)
    curses = [
        f"{role}: {100 * of['mean']:+.1f} points (95 %: {100 * of['low']:+.1f} to {100 * of['high']:+.1f})"
        for role, of in report["curse"].items()
    ]
    if alike:
        console.print(
            f"winner's curse, the study's score less the mean of the new seeds, {'; '.join(curses)}", soft_wrap=True
        )
    else:
        console.print(
            f"the study's score less the mean of the new seeds, {'; '.join(curses)}; no measure of the winner's curse: these runs saw "
            f"{report['budget']:,} clips with recipe {report['recipe']}, the study's {report['study_budget']:,} with {report['study_recipe']}. "
            f"`--budget {report['study_budget']} --recipe {report['study_recipe']}` measures the curse alone",
            soft_wrap=True,
        )
    console.print(
        "95 %: Student's interval over the seeds, the val clips being the same; on the front: probability that no other "
        "network of the table beats it in mean val accuracy, params and MACs at once (bootstrap over whole "
        "seeds); rank by the mean, in brackets the places gained since the study",
        soft_wrap=True,
    )
    console.print(f"kept in {replication.folder}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    run_command(main)
