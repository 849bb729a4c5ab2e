"""Can networks be ranked untrained? `python -m studies.proxies --study NAME`: synflow and naswot beside params and MACs.

Both score a network's initial weights: minutes instead of a study. Each is compared with the val accuracies that the
study found, by Kendall's tau-b with its interval and by Spearman's correlation, and params and MACs are always compared
as well: a proxy that ranks no better than a count of the params knows nothing else. Training clips alone are read, and
nothing is trained.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from search_space.errors import Parser, UserError, open_console, run_command
from studies.fidelity import stratified
from studies.records import open_study
from studies.statistics import kendall, spearman
from trainers.loop import resolve_device
from trainers.opening import progress_bar, reopen_data
from trainers.proxies import score_untrained
from trainers.runs import write_atomic

PREDICTORS = ("synflow", "naswot", "params", "macs")
_FEWEST = 4


def main(argv: list[str] | None = None) -> int:
    """The command."""
    options = _parser().parse_args(argv)
    console = open_console(stderr=options.json)
    if options.networks < _FEWEST:
        raise UserError(f"--networks is at least {_FEWEST}, not {options.networks}: fewer have no order to speak of")
    device = resolve_device(options.device)
    records = open_study(options.study, options.runs, options.storage)
    trials = records.trials()
    complete = trials[trials["state"] == "complete"]
    if len(complete) < _FEWEST:
        raise UserError(
            f"study {records.name!r} has {len(complete)} complete trials, and ranks take at least {_FEWEST}; go on with "
            f"`{records.going_on()}` first"
        )
    rows = complete.iloc[stratified(complete["val_accuracy"], complete["macs"], options.networks)]
    rows = rows.sort_values("trial", ignore_index=True)
    info = records.info
    dataset, features = reopen_data(console, info["data"])
    frames, mels = info["train_input"]
    scores = []
    with progress_bar(console, "networks") as report_progress:
        for found in score_untrained(rows["architecture"], dataset, features, (frames, mels), info["seed"], device):
            scores.append(found)
            report_progress(len(scores), len(rows))
    table = rows[["trial", "architecture", "val_accuracy", "params", "macs"]].join(pd.DataFrame(scores))
    path = records.path / "proxies.csv"
    write_atomic(path, lambda file: file.write(table.to_csv(index=False).encode()))
    report = {
        "study": records.name,
        "data": {key: info["data"][key] for key in ("name", "synthetic", "counts", "digest", "fold")},
        "budget": info["budget"],
        "train_input": info["train_input"],
        "seed": info["seed"],
        "networks": [{key: _plain(value) for key, value in row.items()} for row in table.to_dict("records")],
        "correlations": [_correlation(table, name) for name in PREDICTORS],
    }
    if options.json:
        json.dump(report, sys.stdout, allow_nan=False)
        print()
    else:
        _print(console, report, path)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m studies.proxies", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--study", required=True, metavar="NAME", help="the study")
    add("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where studies lie (default: runs)")
    add("--storage", metavar="URL", help="the study's database, where it has one")
    add("--networks", type=int, default=200, help="no more than so many complete trials, spread as all (default: 200)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    return parser


def _correlation(table: pd.DataFrame, name: str) -> dict[str, Any]:
    """How a predictor ranks the networks: with val accuracy, and how much of it is the number of params (tau with
    them)."""
    found = kendall(table[name], table["val_accuracy"])
    with_params = kendall(table[name], table["params"]).value
    values = {
        "tau": found.value,
        "low": found.low,
        "high": found.high,
        "spearman": spearman(table[name], table["val_accuracy"]),
        "tau_with_params": with_params,
    }
    return {"predictor": name, **{key: _plain(value) for key, value in values.items()}}


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print(console: Console, report: dict[str, Any], path: Path) -> None:
    data = report["data"]
    table = Table(
        title=f"{report['study']} on {data['name']}{' (synthetic data)' if data['synthetic'] else ''}: rank correlation with the val "
        f"accuracy of {len(report['networks'])} networks"
    )
    table.add_column("untrained, by")
    for heading in ("Kendall's tau-b", "95 %", "Spearman", "tau with params"):
        table.add_column(heading, justify="right")
    for of in report["correlations"]:
        told = of["tau"] is not None
        table.add_row(
            {"macs": "MACs alone", "params": "params alone"}.get(of["predictor"], of["predictor"]),
            _signed(of["tau"]),
            f"{of['low']:+.2f} to {of['high']:+.2f}" if told else "",
            _signed(of["spearman"]),
            _signed(of["tau_with_params"]),
        )
    console.print(table)
    console.print(reading({of["predictor"]: of["tau"] for of in report["correlations"]}), soft_wrap=True)
    console.print(f"each network's scores: {path}", markup=False, soft_wrap=True)


def reading(taus: dict[str, float | None]) -> str:
    """Whether a proxy ranks better than the better one of the two counts."""
    counted = max(taus[name] or 0.0 for name in ("params", "macs"))
    better = [name for name in ("synflow", "naswot") if (taus[name] or 0.0) > counted]
    if not better:
        return "neither proxy ranks these networks better than a plain count of params or MACs"
    return (
        f"{' and '.join(better)} had a larger tau than params and MACs; where the intervals overlap, that may be chance"
    )


def _signed(value: float | None) -> str:
    return "none" if value is None else f"{value:+.2f}"


if __name__ == "__main__":
    run_command(main)
