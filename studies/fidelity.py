"""How far is a short budget to be trusted? `python -m studies.fidelity --study NAME` trains a sample of networks longer.

Kendall's tau-b between the study's scores and the longer ones, each with the interval of a bootstrap over the networks;
beside it what the number of params and of MACs alone would have ranked, and, where the study scored its trials on the
way, every rung. The longer trainings have other seeds than the study: what a seed does to both would look like
agreement. Judged on val. The same command goes on where it was stopped.

The sample stands for the complete trials: equal parts of their ranks by accuracy, in each of these equal parts by MACs,
and from each of those one trial at random (always the same one, while the study stays as it is).
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from rich.console import Console
from rich.table import Table

from search_space.errors import Parser, UserError, open_console, run_command
from studies.grid import check_budget
from studies.interrupts import interrupt
from studies.replication import Replication, add_arguments, checked, other_seeds
from studies.statistics import Correlation, kendall
from trainers.opening import reopen_data
from trainers.runs import now

# Assumed: of fewer networks no order can be told from chance; three agree in one of six orders.
_FEWEST = 4


def main(argv: list[str] | None = None) -> int:
    """The command."""
    options = _parser().parse_args(argv)
    console = open_console(stderr=options.json)
    if options.networks < _FEWEST:
        raise UserError(f"--networks is at least {_FEWEST}, not {options.networks}: fewer have no order to speak of")
    if options.seeds < 1:
        raise UserError(f"--seeds is at least 1, not {options.seeds}")
    if not (math.isfinite(options.factor) and options.factor > 0):
        raise UserError(f"--factor is above 0, not {options.factor}; 4 trains four times as long as the study")
    records, complete, recipe, hands = checked(options)
    info = records.info
    if len(complete) < _FEWEST:
        raise UserError(
            f"study {records.name!r} has {len(complete)} complete trials, and ranks take at least {_FEWEST}; go on with "
            f"`{records.going_on()}` first"
        )
    budget = math.ceil(options.factor * info["budget"])
    check_budget(budget, recipe.batch_size)
    rows = complete.iloc[stratified(complete["val_accuracy"], complete["macs"], options.networks)]
    rows = rows.sort_values(["val_accuracy", "trial"], ascending=[False, True], ignore_index=True)
    if len(rows) < options.networks:
        console.print(f"the study has {len(rows)} complete trials: all of them are trained")
    replication = Replication(records, "fidelity", rows, recipe, budget, other_seeds(options.seeds, info["seed"]))
    dataset, features = reopen_data(console, info["data"])
    with replication.lock():
        replication.train(console, dataset, features, hands)
        report = _report(replication, records.rungs())
        replication.write(report, pd.DataFrame(report["networks"]))
    if options.json:
        json.dump(report, sys.stdout, allow_nan=False)
        print()
    else:
        _print(console, report, replication)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m studies.fidelity", description=(__doc__ or "").split("\n")[0])
    add_arguments(parser)
    add = parser.add_argument
    add("--networks", type=int, default=16, help="how many of the study's complete trials (default: 16)")
    add("--factor", type=float, default=4.0, help="how many times the study's clips they see (default: 4)")
    add("--seeds", type=int, default=1, help="new ones for each, not the study's own (default: 1)")
    return parser


def stratified(scores: ArrayLike, costs: ArrayLike, number: int, seed: int = 0) -> np.ndarray:
    """Row numbers of `number` rows (all of them where there are fewer): one at random from every cell of ranks by
    score, then by cost.

    The cells hold the same number of rows but for one, so that the sample spreads as all rows do: a sample that was
    chosen for its spread would find ranks easier than they are.
    """
    scores, costs = np.asarray(scores, dtype=float), np.asarray(costs, dtype=float)
    number = min(number, len(scores))
    rng = np.random.default_rng(seed)
    order = np.lexsort((np.arange(len(scores)), -scores))
    strata = max(1, round(math.sqrt(number)))
    chosen = []
    # Cut in proportion to the cells of each stratum, which differ by one where the number is no square.
    cells = [len(part) for part in np.array_split(np.arange(number), strata)]
    ends = np.round(np.cumsum([0, *cells]) * len(scores) / number).astype(int)
    for start, end, parts in zip(ends[:-1], ends[1:], cells, strict=True):
        stratum = order[start:end]
        by_cost = stratum[np.lexsort((stratum, costs[stratum]))]
        chosen += [int(rng.choice(cell)) for cell in np.array_split(by_cost, parts)]
    return np.array(chosen)


def _report(replication: Replication, rungs: pd.DataFrame) -> dict[str, Any]:
    """The networks with both scores (0 to 1), and how well each predictor ranks the longer ones."""
    rows, val_NS = replication.rows, replication.accuracies()
    long_N = val_NS.mean(1)
    about = replication.about()
    networks = [
        {**of, "val": val.tolist(), "val_mean": float(val.mean())}
        for of, val in zip(replication.networks(), val_NS, strict=True)
    ]
    predictors: list[tuple[str, int | None, pd.Series]] = [("study", about["study_budget"], rows["val_accuracy"])]
    seen = rungs.reindex(rows["trial"]).reset_index(drop=True)
    predictors += [("rung", int(clips), seen[clips]) for clips in seen.columns if clips < about["study_budget"]]
    predictors += [(cost, None, rows[cost]) for cost in ("params", "macs")]
    ranked: list[dict[str, Any]] = []
    for name, clips, values in predictors:
        known_N = values.notna().to_numpy()
        if known_N.sum() >= _FEWEST:
            found = kendall(values[known_N].astype(float), long_N[known_N])
            ranked.append({"predictor": name, "clips": clips, "networks": int(known_N.sum()), **_plain(found)})
    return {
        **about,
        "stopped": int((replication.records.trials()["state"] == "stopped").sum()),
        "networks": networks,
        "correlations": ranked,
        "reading": reading(ranked[0], {of["predictor"]: of["tau"] for of in ranked if of["clips"] is None}),
        "written": now(),
    }


def _plain(found: Correlation) -> dict[str, float | None]:
    """JSON has no NaN."""
    names = ("tau", "low", "high")
    return {name: value if math.isfinite(value) else None for name, value in zip(names, found, strict=True)}


def reading(short: dict[str, Any], plain: dict[str, float | None]) -> str:
    """What the correlation of the short budget (`tau`, `low`, `high`, `clips`) says, and whether a plain count (tau by
    name) says as much."""
    tau, low, high = short["tau"], short["low"], short["high"]
    budget = f"{short['clips']:,} clips"
    if tau is None:
        return f"all scores are the same: {budget} say nothing about these networks"
    if low <= 0 <= high:
        return (
            f"cannot be told: the interval, {low:+.2f} to {high:+.2f}, includes 0, so these networks are too few or too alike to say whether "
            f"{budget} rank them; take more with --networks"
        )
    if high < 0:
        return f"{budget} rank these networks the wrong way round"
    said = f"{budget} rank these networks: they get about {(1 + tau) / 2:.0%} of all pairs right"
    name, best = max(((name, value or 0.0) for name, value in plain.items()), key=lambda of: of[1])
    if best >= tau:
        said += f"; but so does the number of {'MACs' if name == 'macs' else name} alone, with a tau of {best:.2f}"
    return said


def _print(console: Console, report: dict[str, Any], replication: Replication) -> None:
    data, short, long = report["data"], f"{report['study_budget']:,}", f"{report['budget']:,}"
    title = f"{report['study']} on {data['name']}{' (synthetic data)' if data['synthetic'] else ''}"
    table = Table(title=f"{title}: val accuracy (%)")
    table.add_column("trial")
    table.add_column("network", overflow="fold")
    for heading in ("params", "MACs", f"study, {short} clips", f"new seeds, {long} clips"):
        table.add_column(heading, justify="right")
    for of in report["networks"]:
        table.add_row(
            *(str(of["trial"]), of["preset"] or of["architecture"], f"{of['params']:,}", f"{of['macs'] / 1e6:,.1f} M"),
            *(f"{100 * of[key]:.1f}" for key in ("study_val", "val_mean")),
        )
    console.print(table)
    ranks = Table(title=f"Kendall's tau-b with the accuracy after {long} clips ({len(report['seeds'])} new seed(s))")
    ranks.add_column("by")
    for heading in ("networks", "tau", "95 %"):
        ranks.add_column(heading, justify="right")
    for of in report["correlations"]:
        name = {"macs": "MACs alone", "params": "params alone", "study": "the study's score"}.get(of["predictor"])
        told = of["tau"] is not None
        ranks.add_row(
            f"{name or 'the score'} after {of['clips']:,} clips" if of["clips"] else name,
            str(of["networks"]),
            f"{of['tau']:+.2f}" if told else "none",
            f"{of['low']:+.2f} to {of['high']:+.2f}" if told else "",
        )
    console.print(ranks)
    console.print(report["reading"], soft_wrap=True)
    if report["stopped"]:
        console.print(
            f"only networks that the study trained fully are ranked: the {report['stopped']} that it stopped early are not among "
            f"them, so the scores at the rungs look worse here than they are",
            soft_wrap=True,
        )
    if report["recipe"] != report["study_recipe"]:
        console.print(f"the study's recipe is {report['study_recipe']}, that of these runs {report['recipe']}")
    console.print(f"kept in {replication.folder}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    run_command(main)
