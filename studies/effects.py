"""What each choice did, as a study's trials saw it: `python -m studies.effects --study NAME`, observational, no experiment.

For val accuracy, params, MACs and for being on the front: which choices mattered (PED-ANOVA), what each option went with
(partial dependence of an additive model), which pairs of choices did more together, and whether all this is more than
noise. A search trains what it believes to be good, each network once: a difference seen here may be that of its company
or of one seed. `python -m studies.ablate` changes one thing at a time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from rich.console import Console
from rich.table import Table

from search_space.errors import Parser, open_console, run_command
from studies.charts import effects_figure, write_html
from studies.observed import CODINGS, LEAST_OF_OPTION, OBSERVATIONAL, TOP_LEAST, effects_report
from studies.records import open_study
from studies.statistics import CONFIDENCE
from trainers.runs import write_atomic


def main(argv: list[str] | None = None) -> int:
    """The command."""
    options = _parser().parse_args(argv)
    console = open_console(stderr=options.json)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    report = effects_report(open_study(options.study, options.runs, options.storage))
    if options.csv is not None:
        content = _long(report).to_csv(index=False, lineterminator="\n").encode()
        write_atomic(options.csv, lambda file: file.write(content))
    if options.html is not None:
        data = report["data"]
        figures = [
            effects_figure(
                name, of, f"{report['study']} on {data['name']}: {name.replace('_', ' ')}", data["synthetic"]
            )
            for name, of in report["objectives"].items()
        ]
        write_html(figures, options.html)
    if options.json:
        json.dump(report, sys.stdout, allow_nan=False)
        print()
    else:
        _print(console, report)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m studies.effects", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--study", required=True, metavar="NAME", help="whose trials are read; nothing is trained")
    add("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where studies lie (default: runs)")
    add("--storage", metavar="URL", help="the PostgreSQL that holds the study, where its folder does not say so")
    add("--csv", type=Path, metavar="FILE", help="write every option's row there too")
    add(
        "--html", type=Path, metavar="FILE", help="write the figures here: one an objective, its options with intervals"
    )
    add("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    return parser


def _long(report: Mapping[str, Any]) -> pd.DataFrame:
    """A row for every option and objective, and what it is worth in each."""
    parts: list[tuple[str, str, Mapping[str, Any]]] = [
        (name, of["unit"], of) for name, of in report["objectives"].items()
    ]
    rows = []
    for name, unit, part in [*parts, ("front", "share on the front (0 to 1)", report["front"])]:
        for choice in part["choices"]:
            common = {
                "evidence": "observational",
                "synthetic": report["data"]["synthetic"],
                "objective": name,
                **{key: choice[key] for key in ("choice", "importance", "noise")},
                "unit": unit,
                "r2": part["model"]["r2"] if "model" in part else None,
            }
            for option in choice["options"] or [{}]:
                of = {key: option.get(key) for key in ("option", "trials", "low", "high")}
                rows.append({**common, **of, "effect": option.get("effect", option.get("share"))})
    return pd.DataFrame(rows)


_TITLES = {"val_accuracy": "val accuracy (points)", "params": "params (%)", "macs": "MACs (%)"}
_SAMPLERS = {
    "random": "random search, which draws without looking at scores",
    None: "not recorded",
}


def _print(console: Console, report: Mapping[str, Any]) -> None:
    data, states = report["data"], report["states"]
    others = ", ".join(f"{number} {state.replace('_', ' ')}" for state, number in states.items() if state != "complete")
    adaptive = (
        f"{report['sampler']}, which tries more of what scored well: good regions are seen more often, and an option mostly beside those that suit "
        f"it"
    )
    console.print(
        f"Observational: {OBSERVATIONAL}. Study {report['study']} on {data['name']}{' (synthetic data)' if data['synthetic'] else ''}, "
        f"{states['complete']} complete trials of one seed each{f' (left out of accuracy and front: {others})' if others else ''}; sampler: "
        f"{_SAMPLERS.get(report['sampler'], adaptive)}.",
        soft_wrap=True,
    )
    if states.get("stopped"):
        console.print(
            "Stopped trials have no accuracy at the full budget; they were stopped for scoring low, so what makes networks poor is understated.",
            soft_wrap=True,
        )
    for name, part in report["objectives"].items():
        _print_objective(console, _TITLES[name], name, part, data["synthetic"])
    _print_front(console, report["front"], data["synthetic"])
    if report["unvaried"]:
        always = ", ".join(f"{name} {option}" for name, option in report["unvaried"].items())
        console.print(f"never varied, so nothing is known of them: {always}", soft_wrap=True)
    console.print(
        "importance: of 100 %, by PED-ANOVA; in brackets the most it reached when the results were shuffled, 19 times. Effects are against the mean of the "
        "trials that were asked. Of twenty intervals one misses by chance.",
        soft_wrap=True,
    )
    console.print(f"To test it, change one thing at a time: {report['ablation']}", soft_wrap=True)


def _print_objective(console: Console, title: str, name: str, part: Mapping[str, Any], synthetic: bool) -> None:
    model = part["model"]
    written = _points if name == "val_accuracy" else _per_cent_more
    table = _table(f"{title}, observational, {part['trials']} trials", ["effect"], synthetic)
    _fill(table, part["choices"], lambda option: [written(option["effect"])], written)
    console.print(table)
    if not model["says_something"]:
        console.print(
            f"no effects are shown: an additive model explains nothing of trials that it did not see (R2 {model['r2']:.2f})",
            soft_wrap=True,
        )
        return
    console.print(
        f"an additive model, {CODINGS[model['coding']]} ({model['columns']} columns), explains {100 * model['r2']:.0f} % of the variance "
        f"of trials that it did not see",
        soft_wrap=True,
    )
    if any(option["by_the_others"] for choice in part["choices"] for option in choice["options"]):
        console.print(
            f"({model['coding']}): fewer than {LEAST_OF_OPTION} trials had this option; its effect is a point of the {model['coding']} through all of "
            f"the choice's options, and not what these few scored",
            soft_wrap=True,
        )
    for pair in part["interactions"]:
        sure = pair["p"] < 1 - CONFIDENCE and pair["r2_gain"] > 0
        console.print(
            f"  {pair['first']} {pair['from_first']} to {pair['to_first']} with {pair['second']} {pair['from_second']} to "
            f"{pair['to_second']}: {written(pair['beyond'])} beyond the sum of both ({written(pair['low'])} to {written(pair['high'])}), p "
            f"{pair['p']:.2g} by Holm over all pairs, R2 {pair['r2_gain']:+.3f}{'' if sure else ': inside the noise'}",
            soft_wrap=True,
        )


def _print_front(console: Console, part: Mapping[str, Any], synthetic: bool) -> None:
    title = f"on the front, observational: {part['on_front']} of {part['trials']} trials ({_share(part['share'])})"
    table = _table(title, ["on the front", "share"], synthetic)
    _fill(table, part["choices"], lambda option: [str(option["on_front"]), _share(option["share"])], _share)
    console.print(table)
    if part["on_front"] < TOP_LEAST:
        console.print(f"importance takes at least {TOP_LEAST} trials on the front", soft_wrap=True)


def _table(title: str, headings: Sequence[str], synthetic: bool) -> Table:
    table = Table(title=f"{title}{' (synthetic data)' if synthetic else ''}")
    table.add_column("choice", overflow="fold")
    for heading in ("importance", "option", "trials", *headings, "95 %"):
        table.add_column(heading, justify="right")
    return table


def _fill(
    table: Table,
    choices: Sequence[Mapping[str, Any]],
    cells: Callable[[Mapping[str, Any]], list[str]],
    written: Callable[[float | None], str],
) -> None:
    """A row an option, the choice named in its first; a choice without rows stands alone."""
    width = len(table.columns)
    for choice in choices:
        known = choice["importance"] is not None
        head = [choice["choice"], f"{_share(choice['importance'])} ({_share(choice['noise'])})" if known else ""]
        for option in choice["options"]:
            sure = option["low"] is not None
            interval = f"{written(option['low'])} to {written(option['high'])}" if sure else "not told apart"
            if option.get("by_the_others"):
                interval += f" ({option['by_the_others']})"
            table.add_row(*head, str(option["option"]), str(option["trials"]), *cells(option), interval)
            head = ["", ""]
        if not choice["options"]:
            table.add_row(*head, *[""] * (width - 2))


def _points(difference: float | None) -> str:
    return "" if difference is None else f"{100 * difference:+.1f}"


def _per_cent_more(ratio: float | None) -> str:
    return "" if ratio is None else f"{100 * (ratio - 1):+.0f}"


def _share(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


if __name__ == "__main__":
    run_command(main)
