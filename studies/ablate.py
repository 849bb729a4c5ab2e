"""What one change does: `python -m studies.ablate --base dssdn-middle --factors operator,split_ratio`, told apart from noise by paired runs.

Every variant differs from the base in one thing. Runs of one seed see the same clips in the same order with the same augmentation draws, and begin
with the base's weights wherever shapes agree, so that their difference is the change and not the seed. All have one code, budget and, but for what
is changed, one recipe; nothing is chosen by a score. Runs lie in `runs/ablate-<data>/<network>-<digest>-f<fold>-s<seed>`: one that has finished is not
trained again, by this ablation or another one.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import re
import shutil
import signal
import statistics
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from search_space.architecture import Architecture
from search_space.complexity import Cost, count
from search_space.errors import UserError, open_console, run_command
from search_space.presets import NETWORKS, preset_name, resolve
from search_space.tables import DSSDN
from studies import contrasts
from studies.charts import forest_figure, write_html
from studies.code import code_digest
from studies.grid import Hands, Planned, check_budget, choose_hands, train_all
from studies.interrupts import interrupt
from studies.records import open_study
from studies.run import count_of, size_of
from studies.search import check_train_input
from studies.variants import Factor, Grid, Setting, Variant, choose, factorial, factors, one_change, table2
from trainers.clips import DEFAULT_FOLD
from trainers.config import RECIPES, Recipe, default_budget, default_train_input, get_recipe, short
from trainers.datasets import Dataset, open_dataset
from trainers.features import Features, FrontEnd, front_end_for
from trainers.inputs import data_record
from trainers.loop import resolve_device
from trainers.opening import make_features, open_data, progress_bar
from trainers.runs import Run, held, now, provenance, study_folder, write_atomic
from trainers.scoring import score_test
from trainers.workers import WorkerTask

TABLE_2 = "table2"
TABLE_2_BASE = "dssdn-large"
_LONGEST_NOTATION = 120


class Fold(NamedTuple):
    """One test fold of the data, opened, with the data's own log-mels."""

    number: int
    dataset: Dataset
    features: Features


class Job(NamedTuple):
    """One training of one variant: on which fold, with which seed, where it lies, what it records."""

    variant: Variant
    fold: Fold
    seed: int
    run: Run
    config: dict[str, Any]


@dataclass(frozen=True)
class Ablation:
    """A base, its variants, and all that their runs have in common."""

    folder: Path
    base: Variant
    variants: list[Variant]
    folds: list[Fold]
    seeds: int
    budget: int
    share: tuple[float, float]
    """Of the full log-mel's frames and mels, what is trained on: of every front end the same."""
    command: str
    _opened: dict[tuple[FrontEnd, int], Features] = field(default_factory=dict, repr=False)

    @cached_property
    def arms(self) -> list[Variant]:
        """The base, then the variants."""
        return [self.base, *self.variants]

    def front_end(self, variant: Variant, fold: Fold) -> FrontEnd:
        """What makes a variant's log-mels."""
        numbers, own = variant.setting.front_end, fold.features.front_end
        window = numbers["n_fft"] if numbers["n_fft"] != own.n_fft else own.win_length
        return dataclasses.replace(
            own, n_mels=numbers["mels"], n_fft=numbers["n_fft"], win_length=window, hop_length=numbers["hop"]
        )

    def input(self, variant: Variant, fold: Fold) -> tuple[int, int]:
        """Frames x mels of a variant's full log-mel, at which its cost counts."""
        front_end = self.front_end(variant, fold)
        return front_end.frames(fold.dataset.duration_s), front_end.n_mels

    def train_input(self, variant: Variant, fold: Fold) -> tuple[int, int]:
        """Frames x mels that a variant trains on: the same share of its full log-mel."""
        frames, mels = self.input(variant, fold)
        return max(1, round(frames * self.share[0])), max(1, round(mels * self.share[1]))

    def features(self, console: Console, variant: Variant, fold: Fold) -> Features:
        """A variant's log-mels, made where they are not the data's own."""
        key = self.front_end(variant, fold), fold.number
        if key[0] == fold.features.front_end:
            return fold.features
        if key not in self._opened:
            self._opened[key] = make_features(console, fold.dataset, key[0])
        return self._opened[key]

    def cost(self, variant: Variant) -> Cost:
        """A variant's params and MACs at its full input."""
        fold = self.folds[0]
        return count(variant.setting.network, self.input(variant, fold), len(fold.dataset.classes))

    @cached_property
    def jobs(self) -> list[list[Job]]:
        """Every arm's runs, in an order that all arms share."""
        pairs = [(fold, seed) for fold in self.folds for seed in range(self.seeds)]
        return [[self._job(variant, fold, seed) for fold, seed in pairs] for variant in self.arms]

    def _job(self, variant: Variant, fold: Fold, seed: int) -> Job:
        network, recipe = variant.setting.network, variant.setting.recipe
        base = self.base.setting.network
        front_end, cost = dataclasses.asdict(self.front_end(variant, fold)), self.cost(variant)
        decisive: dict[str, Any] = {
            "architecture": str(network),
            "like": None if network == base else str(base),
            "recipe": dataclasses.asdict(recipe),
            "clips": self.budget,
            "train_input": list(self.train_input(variant, fold)),
            "data": {**data_record(fold.dataset, fold.features), "front_end": front_end},
        }
        unnamed = {key: value for key, value in decisive["recipe"].items() if key not in ("name", "epochs")}
        identity = {**decisive, "recipe": unnamed, "data": [fold.features.digest, front_end]}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        name = f"{str(network)[:_LONGEST_NOTATION]}-{digest}-f{fold.number}-s{seed}"
        config = {
            "kind": "ablate",
            "study": self.folder.name,
            "preset": preset_name(network),
            **decisive,
            "params": cost.params,
            "macs": cost.macs,
            "input": list(self.input(variant, fold)),
            "seed": seed,
            "code": code_digest(),
            "command": self.command,
        }
        return Job(variant, fold, seed, Run(self.folder / name), config)


def main(argv: list[str] | None = None) -> int:
    """The command."""
    options = _parser().parse_args(argv)
    console = open_console(stderr=options.json)
    _check(options)
    network, of_study = _base(options)
    recipe = get_recipe(options.recipe)
    source, subset = options.data, options.subset
    if of_study is not None and source is None:
        source, subset = of_study["data"]["source"], of_study["data"]["subset"]
    if options.list:
        return _list(console, network, recipe, source, subset, options.json)

    hands = choose_hands(options.workers, options.device)
    dataset, features = open_data(console, source, subset, _first_fold(options.folds))
    base = Setting(network, recipe, _numbers(features.front_end))
    variants, grid, skipped = _variants(options, base, dataset)
    folds = _open_folds(console, options.folds, source, subset, Fold(dataset.spec.fold, dataset, features))
    budget, train_input = _length(options, recipe, dataset, features.size, of_study)
    check_train_input(train_input, features.size)
    check_budget(budget, recipe.batch_size)
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
        others = _train(console, ablation, hands, options.accept_code)
        if options.test:
            _score(console, ablation, hands)
    report = _report(ablation, grid, skipped, others, options)
    report["files"] = _write(ablation, report, options)
    if options.json:
        json.dump(report, sys.stdout)
        print()
    else:
        _print(console, report)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.ablate", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--base", help="a network by name or notation (default: dssdn-middle; of --preset table2 dssdn-large)")
    add(
        "--study",
        metavar="NAME",
        help="with --trial: the base is a trial of this study, on its data unless --data says otherwise",
    )
    add("--trial", type=int, metavar="N", help="which one")
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
    add("--test", action="store_true", help="score every finished run once on test; nothing is chosen by it")
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
_FILES = {"csv": "ablation.csv", "markdown": "ablation.md", "latex": "ablation.tex", "html": "forest.html"}


def _check(options: argparse.Namespace) -> None:
    """Raises `UserError` for options that contradict each other."""
    if (options.study is None) != (options.trial is None):
        raise UserError("--study and --trial go together: --study NAME --trial N; give both, or --base")
    if options.study is not None and options.base is not None:
        raise UserError("the base is --base, or a trial of --study; give one of them")
    if options.preset and (options.factors is not None or options.grid):
        raise UserError(f"--preset {options.preset} has its own rows; leave --factors and --grid out")
    if options.grid and options.factors is None:
        raise UserError("--grid takes the factors that it is to cross, such as --factors operator=sc,distillation")
    if options.seeds < 1:
        raise UserError(f"--seeds is at least 1, not {options.seeds}")
    if options.grid and options.seeds < 2:
        raise UserError("--grid takes at least 2 seeds: its effects are nothing without their noise")


def _base(options: argparse.Namespace) -> tuple[Architecture, dict[str, Any] | None]:
    """The base's network, and what its study is about, where it is a trial of one."""
    if options.study is None:
        default = TABLE_2_BASE if options.preset == TABLE_2 else "dssdn-middle"
        return resolve(options.base or default), None
    study = open_study(options.study, options.runs)
    trials = study.trials()
    named = trials[(trials["trial"] == options.trial) & trials["architecture"].notna()]
    if named.empty:
        raise UserError(
            f"study {options.study!r} has no network in trial {options.trial}; its trials are 0 to {len(trials) - 1}"
        )
    return Architecture.parse(named.iloc[0]["architecture"]), study.info


def _numbers(front_end: FrontEnd) -> dict[str, int]:
    return {"mels": front_end.n_mels, "n_fft": front_end.n_fft, "hop": front_end.hop_length}


def _variants(
    options: argparse.Namespace, base: Setting, dataset: Dataset
) -> tuple[list[Variant], Grid | None, list[str]]:
    """The variants, the factorial where there is one, and what is said of inactive factors."""
    if options.preset == TABLE_2:
        return table2(base), None, []
    chosen = choose(factors(base, _recorders(dataset)), options.factors)
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


# ---------------------------------------------------------------------------------------------------------------- training


def _train(console: Console, ablation: Ablation, hands: Hands, accept_code: bool) -> int:
    """Train what is missing, a pool for all that share recipe, front end and fold; how many of the finished runs other code has made."""
    jobs = [job for of_arm in ablation.jobs for job in of_arm]
    finished = [job for job in jobs if job.run.status.get("state") == "finished"]
    others = [job for job in finished if job.run.config.get("code") != code_digest()]
    if others and not accept_code:
        run = others[0].run
        before = run.config.get("code")
        said = "not recorded" if before is None else before[:12]
        raise UserError(
            f"{len(others)} of the finished runs in {ablation.folder} were made by other code of search_space and trainers ({run.path.name}: "
            f"digest {said}, revision {run.provenance.get('git')}; now {code_digest()[:12]}, {provenance()['git']}): their scores may not "
            f"compare. Go back to that revision, give another --name to train them again, or take them as they are with --accept-code"
        )
    done = {job.run.path for job in finished}
    waiting = [job for job in jobs if job.run.path not in done]
    first, data = ablation.folds[0], ablation.folds[0].dataset
    frames, mels = ablation.train_input(ablation.base, first)
    console.print(
        f"{len(jobs)} runs (the base {_name(ablation.base.setting.network)} and {_of(len(ablation.variants), 'variant')}, {_of(ablation.seeds, 'seed')}, test "
        f"fold{'s' * (len(ablation.folds) > 1)} {', '.join(str(fold.number) for fold in ablation.folds)}) on {data.name}"
        f"{' (synthetic data)' if data.synthetic else ''}, each of {ablation.budget:,} clips at {frames}x{mels} with recipe "
        f"{ablation.base.setting.recipe.name}; {len(finished)} have finished already",
        soft_wrap=True,
    )
    groups: dict[tuple[Recipe, FrontEnd, int], list[Job]] = {}
    for job in sorted(waiting, key=lambda job: job.seed):
        key = (job.variant.setting.recipe, ablation.front_end(job.variant, job.fold), job.fold.number)
        groups.setdefault(key, []).append(job)
    for number, ((recipe, front_end, fold_number), group) in enumerate(groups.items(), start=1):
        fold = group[0].fold
        if len(groups) > 1:
            console.print(
                f"part {number} of {len(groups)}: recipe {recipe.name}, test fold {fold_number}, {group[0].variant.label}",
                soft_wrap=True,
            )
        ablation.features(console, group[0].variant, fold)  # made once here, and not by every worker
        task = WorkerTask(
            *(fold.dataset, fold.features.digest, ablation.train_input(group[0].variant, fold), recipe),
            *(ablation.budget, hands.threads),
            front_end=None if front_end == fold.features.front_end else front_end,
        )
        where = f" on fold {fold_number}" if len(ablation.folds) > 1 else ""
        planned = [Planned(job.variant.label + where, job.run, job.config) for job in group]
        train_all(console, planned, task, hands)
    return len(others)


def _score(console: Console, ablation: Ablation, hands: Hands) -> None:
    """Score every run that has no test scores yet, once."""
    device = resolve_device(hands.devices[0])
    groups: dict[tuple[FrontEnd, int], list[Job]] = {}
    for job in (job for of_arm in ablation.jobs for job in of_arm):
        if job.run.scores is None:
            groups.setdefault((ablation.front_end(job.variant, job.fold), job.fold.number), []).append(job)
    for group in groups.values():
        variant, fold = group[0].variant, group[0].fold
        features = ablation.features(console, variant, fold)
        with progress_bar(console, "test scores") as progress:
            runs, size = [job.run for job in group], ablation.train_input(variant, fold)
            score_test(runs, fold.dataset, features, size, device, progress)


# ---------------------------------------------------------------------------------------------------------------- the report


def _of(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _name(network: Architecture) -> str:
    return preset_name(network) or str(network)


def _arm(ablation: Ablation, jobs: list[Job], tested: bool) -> contrasts.Arm:
    variant, runs = jobs[0].variant, [job.run for job in jobs]
    setting, fold, cost = variant.setting, ablation.folds[0], ablation.cost(variant)
    facts = {
        "also": list(variant.also),
        "network": str(setting.network),
        "preset": preset_name(setting.network),
        "recipe": setting.recipe.name,
        "front_end": dict(setting.front_end),
        "input": list(ablation.input(variant, fold)),
        "train_input": list(ablation.train_input(variant, fold)),
        "runs": [run.path.name for run in runs],
    }
    return contrasts.Arm(
        variant=variant.label if variant.changes else _name(setting.network),
        changes=variant.changes,
        facts=facts,
        params=cost.params,
        macs=cost.macs,
        val=[run.metrics()[-1]["val_accuracy"] for run in runs],
        test=[run.scores or {} for run in runs] if tested else [],
    )


def _overlap(ablation: Ablation) -> float:
    """Val clips over training clips where there are several folds, whose training sets share clips; 0 for one fold."""
    if len(ablation.folds) == 1:
        return 0.0
    splits = [fold.dataset.splits for fold in ablation.folds]
    return statistics.fmean(len(of.val) / min(len(of.train), ablation.budget) for of in splits)


def _report(
    ablation: Ablation,
    grid: Grid | None,
    skipped: list[str],
    others: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Everything that the ablation says, ready for JSON."""
    overlap = _overlap(ablation)
    arms = [_arm(ablation, jobs, options.test) for jobs in ablation.jobs]
    rows = contrasts.build_rows(arms[0], arms[1:], overlap)
    effects: list[dict[str, Any]] = []
    if grid is not None:
        val = {arm.changes: arm.val for arm in arms}
        effects = contrasts.build_effects(
            {cell: val[variant.changes] for cell, variant in grid.cells.items()}, grid.levels, overlap
        )
    noise = contrasts.noise(rows[1:])
    first = ablation.folds[0]
    data = data_record(first.dataset, first.features)
    report = {
        "ablation": ablation.folder.name,
        "base": _name(ablation.base.setting.network),
        "kind": "grid" if grid is not None else options.preset or "one change",
        "data": {key: data[key] for key in ("name", "synthetic", "counts", "digest")},
        "recipe": ablation.base.setting.recipe.name,
        "budget": ablation.budget,
        "input": list(ablation.input(ablation.base, first)),
        "train_input": list(ablation.train_input(ablation.base, first)),
        "seeds": list(range(ablation.seeds)),
        "folds": [fold.number for fold in ablation.folds],
        "overlap": overlap,
        "code": code_digest(),
        "runs_of_other_code": others,
        "inactive": skipped,
        "rows": rows,
        "effects": effects,
        "noise": noise,
        "written": now(),
    }
    return {**report, "title": _title(report), "notes": _notes(report)}


def _title(report: dict[str, Any]) -> str:
    data, changes = report["data"], {"grid": "every combination of changes", TABLE_2: "each row of the paper's Table 2"}
    return (
        f"{data['name']}{' (synthetic data)' if data['synthetic'] else ''}: what {changes.get(report['kind'], 'one change')} does to "
        f"{report['base']}, validation accuracy"
    )


def _notes(report: dict[str, Any]) -> list[str]:
    """What one must know to read the table."""
    folds, seeds, counts = report["folds"], len(report["seeds"]), report["data"]["counts"]
    frames, mels = report["input"]
    notes = [
        f"{_of(seeds, 'seed')}, test fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))} ({counts['val']} val clips), "
        f"{report['budget']:,} clips at {report['train_input'][0]}x{report['train_input'][1]}, recipe {report['recipe']}; params and MACs "
        f"at {frames}x{mels}.",
        "Differences are absolute points of val accuracy, variant minus base, run by run with the same seed (order of the clips, "
        "augmentation draws, initial weights where shapes agree); relative is that difference over the base's accuracy, another number. "
        "p is adjusted after Holm over the rows of the table; what is not below 0.05 is inside the noise.",
    ]
    if report["data"]["synthetic"]:
        notes.insert(
            0,
            "The data is synthetic: a generated stand-in, not recordings. What differs here need not differ on recordings.",
        )
    if len(folds) == 1:
        notes.append("The interval speaks of other seeds on this split, not of other clips: one fold was used.")
    else:
        notes.append(
            f"The folds' training sets share clips: intervals and p are corrected after Nadeau and Bengio, with val over training clips = "
            f"{report['overlap']:.2f}."
        )
    notes.append(contrasts.say_noise(report["noise"]))
    if report["rows"][0]["test"]:
        notes.append("Test was scored once a run; no row, order or verdict depends on it.")
    if report["runs_of_other_code"]:
        notes.append(f"{report['runs_of_other_code']} of the runs were made by other code, as --accept-code allows.")
    if report["kind"] == TABLE_2:
        notes += _published(report)
    return [*notes, *report["inactive"]]


def _published(report: dict[str, Any]) -> list[str]:
    """What the paper prints for these rows."""
    base = DSSDN[TABLE_2_BASE][0].accuracy
    assert base is not None
    said = []
    for name in ("dl-o", "dl-b"):
        accuracy, row = DSSDN[name][0].accuracy, _row_of(report, name)
        if accuracy is None or row is None:
            continue
        points = accuracy - base
        said.append(
            f"{name}: the paper prints {points:+.2f} points ({100 * points / base:+.1f} % relative), here {contrasts.interval_text(row['difference_points'])} "
            f"points ({row['verdict']})"
        )
    if report["base"] != TABLE_2_BASE or not said:
        return []
    return [
        f"The paper's Table 2 has one run a row, on TAU 2020 Mobile, the best epoch on test. {'; '.join(said)}.",
        "DL-B changes block, operators and down-sampling at once; dl-b-pooled keeps the down-sampling, plain the operators as well.",
    ]


def _row_of(report: dict[str, Any], name: str) -> dict[str, Any] | None:
    return next((row for row in report["rows"][1:] if row["network"] == str(NETWORKS[name])), None)


def _forest_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [
        {
            "label": contrasts.changed(row),
            **{key: row["difference_points"][key] for key in ("mean", "low", "high")},
            "verdict": row["verdict"],
            "hover": row["network"],
        }
        for row in report["rows"][1:]
    ]
    effects = [
        {
            "label": f"effect: {row['effect']}",
            **{key: row["difference_points"][key] for key in ("mean", "low", "high")},
            "verdict": row["verdict"],
            "hover": "over all combinations",
        }
        for row in report["effects"]
    ]
    return [*rows, *effects]


def _write(ablation: Ablation, report: dict[str, Any], options: argparse.Namespace) -> dict[str, str]:
    """Write the table in all forms into the ablation's folder, and where the options say; where each lies."""
    of = {key: report[key] for key in ("base", "kind", "recipe", "budget", "train_input", "seeds", "folds")}
    of["variants"] = [row["variant"] for row in report["rows"]]
    digest = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:8]
    folder = ablation.folder / "reports" / f"{report['base'][:_LONGEST_NOTATION]}-{digest}"
    rows, effects, title, notes = (report[key] for key in ("rows", "effects", "title", "notes"))
    synthetic = report["data"]["synthetic"]
    texts = {
        "csv": contrasts.as_csv(rows, synthetic),
        "markdown": contrasts.as_markdown(rows, effects, title, notes),
        "latex": contrasts.as_latex(rows, effects, title, notes),
    }
    for kind, text in texts.items():
        _write_text(folder / _FILES[kind], text)
    write_html(
        forest_figure(_forest_rows(report), f"{report['data']['name']}: {report['base']}", synthetic),
        folder / _FILES["html"],
    )
    _write_text(folder / "ablation.json", json.dumps(report, indent=1) + "\n")
    files = {kind: str(folder / name) for kind, name in _FILES.items()}
    for kind in _FORMS:
        if (to := getattr(options, kind)) is not None:
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(files[kind], to)
    return {**files, "json": str(folder / "ablation.json")}


def _write_text(path: Path, text: str) -> None:
    write_atomic(path, lambda file: file.write(text.encode()))


def _print(console: Console, report: dict[str, Any]) -> None:
    console.print(contrasts.table(report["rows"], report["title"]))
    if report["effects"]:
        console.print(contrasts.effects_table(report["effects"]))
    for note in report["notes"]:
        console.print(note, soft_wrap=True)
    console.print(
        f"written: {Path(report['files']['csv']).parent} ({', '.join(_FILES.values())}, ablation.json)", soft_wrap=True
    )


def _list(
    console: Console, network: Architecture, recipe: Recipe, source: str | None, subset: str | None, as_json: bool
) -> int:
    """Print the factors; of the data the headers are read, nothing else."""
    with progress_bar(console, "headers") as report:
        dataset = open_dataset(source, subset=subset, progress=report)
    front_end = front_end_for(dataset.sample_rate, dataset.duration_s)
    known = factors(Setting(network, recipe, _numbers(front_end)), _recorders(dataset))
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
            {"base": _name(network), "data": dataset.name, "synthetic": dataset.synthetic, "factors": listed},
            sys.stdout,
        )
        print()
        return 0
    table = Table(
        title=f"what can be changed in {_name(network)}, recipe {recipe.name}, on {dataset.name}{' (synthetic data)' * dataset.synthetic}"
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
    return " | ".join(factor.options) + (" or any other number" if factor.number else "")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    run_command(main)
