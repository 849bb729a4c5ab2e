"""What one change does: `python -m studies.ablate --base dssdn-middle --factors operator,split_ratio`, told apart from noise by paired runs.

The base is a published network, a notation, or a trial of a study; the variants are one change each, every combination of changes, or the rows of the
paper's Table 2. `studies.ablation` says how runs are paired, `studies.ablation_report` what is made of them. They lie in `runs/ablate-<data>`.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from search_space.errors import Parser, UserError, open_console, run_command
from search_space.families import Network
from search_space.presets import resolve
from studies import contrasts
from studies.ablation import (
    TABLE_2,
    TABLE_2_BASE,
    Ablation,
    Fold,
    name_of,
    score_finished,
    train_missing,
)
from studies.ablation_report import FILES, build_report, write_report
from studies.factors import Factor, Setting, factors
from studies.grid import check_budget, choose_hands
from studies.interrupts import interrupt
from studies.plans import check_train_input
from studies.records import open_study
from studies.run import count_of, size_of
from studies.variants import Grid, Variant, choose, factorial, one_change, table2
from trainers.changes import check_changeable
from trainers.clips import DEFAULT_FOLD
from trainers.config import RECIPES, Recipe, default_budget, default_train_input, short
from trainers.datasets import Dataset, open_dataset
from trainers.features import FrontEnd, front_end_for
from trainers.opening import open_data, progress_bar
from trainers.runs import held, provenance, study_folder
from trainers.teaching import add_changes, add_options, recipe_of


def main(argv: list[str] | None = None) -> int:
    """The command."""
    options = _parser().parse_args(argv)
    console = open_console(stderr=options.json)
    _check(options)
    network, of_study = _base(options)
    recipe = recipe_of(vars(options))
    source, subset = options.data, options.subset
    if of_study is not None and source is None:
        source, subset = of_study["data"]["source"], of_study["data"]["subset"]
        options.folds = options.folds or str(of_study["data"]["fold"])
    if options.list:
        return _list(console, network, recipe, source, subset, options.json)

    hands = choose_hands(options.workers, options.device)

    def early(dataset: Dataset, front_end: FrontEnd, size: tuple[int, int]) -> None:
        """Everything that needs no log-mel, so that a slip is told before they are made."""
        base = Setting(network, recipe, _numbers(front_end))
        variants, *_ = _variants(options, base, dataset)
        budget, train_input = _length(options, recipe, dataset, size, of_study)
        check_train_input(train_input, size)
        check_budget(budget, recipe.batch_size)
        for setting in (base, *(variant.setting for variant in variants)):
            check_changeable(setting.network, setting.recipe, train_input, len(dataset.classes), budget)

    dataset, features = open_data(console, source, subset, _first_fold(options.folds), early)
    base = Setting(network, recipe, _numbers(features.front_end))
    variants, grid, skipped = _variants(options, base, dataset)
    folds = _open_folds(console, options.folds, source, subset, Fold(dataset.spec.fold, dataset, features))
    budget, train_input = _length(options, recipe, dataset, features.size, of_study)
    name = options.name or re.sub(r"[^A-Za-z0-9._-]+", "-", f"ablate-{dataset.name}")[:64]
    ablation = Ablation(
        folder=study_folder(options.runs, name),
        base=Variant(base, ()),
        variants=variants,
        folds=folds,
        seeds=options.seeds,
        budget=budget,
        share=(train_input[0] / features.size[0], train_input[1] / features.size[1]),
        command=provenance()["command"],
    )
    for variant in ablation.arms:
        _check_front_end(ablation, variant)

    for line in skipped:
        console.print(line, soft_wrap=True)
    ablation.folder.mkdir(parents=True, exist_ok=True)
    busy = f"{ablation.folder} is being trained by another process; wait for it or end it"
    with held(ablation.folder / "lock", busy):
        others, failures = train_missing(console, ablation, hands, options.accept_code, options.retry_failed)
        if options.test:
            score_finished(console, ablation, hands)
    report = build_report(ablation, grid, options.preset, skipped, others, failures, options.test, options.effect)
    report["files"] = write_report(ablation, report, {kind: getattr(options, kind) for kind in _FORMS})
    if options.json:
        json.dump(report, sys.stdout)
        print()
    else:
        _print(console, report)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m studies.ablate", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--base", help="a network by name or notation (default: dssdn-middle; of --preset table2 dssdn-large)")
    add(
        "--study",
        metavar="NAME",
        help="with --trial: the base is a trial of this study, on its data unless --data says otherwise",
    )
    add("--trial", type=int, metavar="N", help="which one")
    add(
        "--storage",
        metavar="URL",
        help="the PostgreSQL that holds the study, as in studies.run (default: what its folder says)",
    )
    add(
        "--factors",
        metavar="A,B=x|y",
        help="what to change, and to which levels alone (default: all of the architecture; --list names them)",
    )
    add("--list", action="store_true", help="print the factors with the base's level and the others, and stop")
    add(
        "--grid",
        action="store_true",
        help="every combination of the factors' levels, at most 64: main effects and interactions",
    )
    add("--preset", choices=[TABLE_2], help="the rows of the paper's Table 2 instead of --factors")
    add("--seeds", type=int, default=5, help="runs of each variant on each fold, with seeds 0, 1, ... (default: 5)")
    add(
        "--folds",
        default=None,
        metavar="1,2|all",
        help=f"test folds, where the data has folds (default: {DEFAULT_FOLD})",
    )
    add("--data", metavar="FOLDER", help="as for studies.run")
    add("--subset", help="as for studies.run")
    add("--recipe", default="short", help=f"the base's: one of {', '.join(RECIPES)} (default: short)")
    add_options(parser)
    add_changes(parser)
    add("--budget", type=count_of, metavar="CLIPS", help="clips that each run sees (short: as for studies.run)")
    add(
        "--train-input",
        type=size_of,
        metavar="TxF",
        help="frames x mels that the base trains on; costs count at full size (default: full size, but for short)",
    )
    add("--name", help="the folder's name below --runs (default: ablate-<data>)")
    add("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs lie (default: runs)")
    add("--workers", type=int, help="processes that train (default: one to four a GPU, or one a core up to 8)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add(
        "--effect",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="say how many seeds an effect of this size would need (default: 1)",
    )
    add("--test", action="store_true", help="score every finished run once on test; nothing is chosen by it")
    add("--retry-failed", action="store_true", help="train again what this code has failed to train")
    add("--accept-code", action="store_true", help="take finished runs that other code has made as they are")
    for kind, what in _FORMS.items():
        add(f"--{kind}", type=Path, metavar="FILE", help=f"write {what} here as well")
    add("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    return parser


_FORMS = {
    "csv": "the table's numbers",
    "markdown": "the table",
    "latex": "the table (booktabs)",
    "html": "the forest plot",
}


def _check(options: argparse.Namespace) -> None:
    """Raises `UserError` for options that contradict each other."""
    if (options.study is None) != (options.trial is None):
        raise UserError("--study and --trial go together: --study NAME --trial N; give both, or --base")
    if options.storage is not None and options.study is None:
        raise UserError("--storage says where a --study lies; give --study and --trial, or leave it out")
    if options.study is not None and options.base is not None:
        raise UserError("the base is --base, or a trial of --study; give one of them")
    if options.study is not None and options.data is None and options.subset is not None:
        raise UserError(
            "--subset is a part of --data; the base's study has its own data, so give --data as well, or leave --subset out"
        )
    if not options.effect > 0:
        raise UserError(f"--effect is more than 0 points, not {options.effect:g}")
    if options.preset and (options.factors is not None or options.grid):
        raise UserError(f"--preset {options.preset} has its own rows; leave --factors and --grid out")
    if options.grid and options.factors is None:
        raise UserError("--grid takes the factors that it is to cross, such as --factors operator=sc,distillation")
    if options.seeds < 1:
        raise UserError(f"--seeds is at least 1, not {options.seeds}")
    if options.grid and options.seeds < 2:
        raise UserError("--grid takes at least 2 seeds: its effects are nothing without their noise")


def _base(options: argparse.Namespace) -> tuple[Network, dict[str, Any] | None]:
    """The base's network, and what its study is about, where it is a trial of one."""
    if options.study is None:
        default = TABLE_2_BASE if options.preset == TABLE_2 else "dssdn-middle"
        return resolve(options.base or default), None
    study = open_study(options.study, options.runs, options.storage)
    trials = study.trials()
    named = trials[(trials["trial"] == options.trial) & trials["architecture"].notna()]
    if named.empty:
        raise UserError(
            f"study {options.study!r} has no network in trial {options.trial}; its trials are 0 to {len(trials) - 1}"
        )
    return resolve(named.iloc[0]["architecture"]), study.info


def _numbers(front_end: FrontEnd) -> dict[str, int]:
    return {"mels": front_end.n_mels, "n_fft": front_end.n_fft, "hop": front_end.hop_length}


def _variants(
    options: argparse.Namespace, base: Setting, dataset: Dataset
) -> tuple[list[Variant], Grid | None, list[str]]:
    """The variants, the factorial where there is one, and what is said of inactive factors."""
    if options.preset == TABLE_2:
        return table2(base), None, []
    chosen = choose(factors(base, _recorders(dataset), dataset.classes), options.factors)
    skipped = [f"{factor.name} is inactive: {factor.inactive}" for factor in chosen.values() if factor.inactive]
    if not options.grid:
        return one_change(base, chosen), None, skipped
    grid = factorial(base, chosen)
    return [variant for variant in grid.cells.values() if variant.changes], grid, skipped


def _recorders(dataset: Dataset) -> int:
    return len({dataset.clips[i].recorder for i in dataset.splits.train} - {""})


def _first_fold(text: str | None) -> int:
    return DEFAULT_FOLD if text in (None, "all") else _fold_numbers(text or "")[0]


def _fold_numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise UserError(f"--folds is 'all' or test folds such as 5 or 1,2, not {text!r}")
    return list(dict.fromkeys(map(int, parts)))


def _open_folds(console: Console, text: str | None, source: str | None, subset: str | None, first: Fold) -> list[Fold]:
    """The folds that are asked for, the first of which is open already. Raises `UserError` for one that the data has not."""
    if text == "all":
        known = sorted({clip.fold for clip in first.dataset.clips if clip.fold is not None})
        numbers = known or [first.number]
    else:
        numbers = [first.number] if text is None else _fold_numbers(text)
    return [
        first if number == first.number else Fold(number, *open_data(console, source, subset, number))
        for number in numbers
    ]


def _length(
    options: argparse.Namespace,
    recipe: Recipe,
    dataset: Dataset,
    full: tuple[int, int],
    of_study: dict[str, Any] | None,
) -> tuple[int, tuple[int, int]]:
    """Clips that each run sees, and the frames x mels that the base trains on: those of its study, of a short budget, or the recipe's own."""
    quick = recipe.name == short().name  # made for a study's budget and input
    if of_study is not None and quick and options.data is None:
        budget, train_input = of_study["budget"], (of_study["train_input"][0], of_study["train_input"][1])
    elif quick:
        budget, train_input = default_budget(len(dataset.classes)), default_train_input(full)
    else:
        budget, train_input = recipe.epochs * len(dataset.splits.train), full
    return options.budget or budget, options.train_input or train_input


def _check_front_end(ablation: Ablation, variant: Variant) -> None:
    """Raises `UserError` where a variant's front end can not be."""
    fold = ablation.folds[0]
    front_end = ablation.front_end(variant, fold)
    if front_end.samples(fold.dataset.duration_s) <= front_end.n_fft // 2:
        raise UserError(
            f"{variant.label}: clips of {fold.dataset.duration_s:g} s have no more samples than half a window; name a smaller n_fft"
        )
    if front_end.hop_length > front_end.n_fft:
        raise UserError(
            f"{variant.label}: a hop of {front_end.hop_length} leaves sound out between windows of {front_end.n_fft}; name a smaller one"
        )


def _print(console: Console, report: dict[str, Any]) -> None:
    console.print(contrasts.table(report["rows"], report["title"]))
    if report["effects"]:
        console.print(contrasts.effects_table(report["effects"]))
    for note in report["notes"]:
        console.print(note, soft_wrap=True)
    console.print(
        f"written: {Path(report['files']['csv']).parent} ({', '.join(FILES.values())}, ablation.json)", soft_wrap=True
    )


def _list(
    console: Console, network: Network, recipe: Recipe, source: str | None, subset: str | None, as_json: bool
) -> int:
    """Print the factors; of the data the headers are read, nothing else."""
    with progress_bar(console, "headers") as report:
        dataset = open_dataset(source, subset=subset, progress=report)
    front_end = front_end_for(dataset.sample_rate, dataset.duration_s)
    known = factors(Setting(network, recipe, _numbers(front_end)), _recorders(dataset), dataset.classes)
    if as_json:
        listed = [
            {
                "factor": f.name,
                "kind": f.kind,
                "level": f.level,
                "options": list(f.options),
                "inactive": f.inactive or None,
            }
            for f in known.values()
        ]
        json.dump(
            {"base": name_of(network), "data": dataset.name, "synthetic": dataset.synthetic, "factors": listed},
            sys.stdout,
        )
        print()
        return 0
    table = Table(
        title=f"what can be changed in {name_of(network)}, recipe {recipe.name}, on {dataset.name}{' (synthetic data)' * dataset.synthetic}"
    )
    for heading in ("factor", "kind", "the base's", "others"):
        table.add_column(heading)
    for factor in known.values():
        table.add_row(
            factor.name,
            factor.kind,
            factor.level,
            f"inactive: {factor.inactive}" if factor.inactive else _options(factor),
        )
    console.print(table)
    return 0


def _options(factor: Factor) -> str:
    return " | ".join(factor.options) + (f" or any other {factor.other}" if factor.number else "")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    run_command(main)
