"""An ablation: a base, variants that differ from it in one thing, and their paired runs, each trained once.

Runs of one seed see the same clips in the same order with the same augmentation draws, and begin with the base's weights wherever shapes agree,
so that their difference is the change and not the seed. All have one code, budget and, but for what is changed, one recipe; nothing is chosen by a
score. Runs lie in `<network>-<digest>-f<fold>-s<seed>`: one that has finished is not trained again, by this ablation or another one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from search_space.complexity import Cost, count
from search_space.errors import UserError
from search_space.families import Network
from search_space.presets import preset_name
from studies.code import code_digest
from studies.grid import Failures, Hands, Planned, train_all
from studies.variants import Variant
from trainers.changes import check_changeable
from trainers.config import Recipe
from trainers.datasets import Dataset
from trainers.features import Features, FrontEnd
from trainers.inputs import data_record
from trainers.loop import resolve_device
from trainers.opening import make_features, progress_bar
from trainers.runs import Run, provenance
from trainers.scoring import score_test
from trainers.teachers import check, get_ready
from trainers.workers import WorkerTask

TABLE_2 = "table2"
TABLE_2_BASE = "dssdn-large"

LONGEST_NOTATION = 120
"""Assumed: of a longer one a file's name keeps the beginning, and the digest tells it apart."""


def counted(number: int, what: str) -> str:
    """So many of them, in words: 1 run, 3 runs."""
    return f"{number} {what}{'s' * (number != 1)}"


def name_of(network: Network) -> str:
    """A network's published name where it has one, else its notation."""
    return preset_name(network) or str(network)


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


def is_finished(job: Job) -> bool:
    """Whether a job's run is there and whole."""
    return job.run.status.get("state") == "finished"


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

    def called(self, job: Job) -> str:
        """A training's variant, and its fold where there are several."""
        return job.variant.label + (f" on fold {job.fold.number}" if len(self.folds) > 1 else "")

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
            "recipe": recipe.record(),
            "clips": self.budget,
            "train_input": list(self.train_input(variant, fold)),
            "data": {**data_record(fold.dataset, fold.features), "front_end": front_end},
        }
        unnamed = {key: value for key, value in decisive["recipe"].items() if key not in ("name", "epochs")}
        identity = {**decisive, "recipe": unnamed, "data": [fold.features.digest, front_end]}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        name = f"{str(network)[:LONGEST_NOTATION]}-{digest}-f{fold.number}-s{seed}"
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


def train_missing(
    console: Console, ablation: Ablation, hands: Hands, accept_code: bool, retry_failed: bool
) -> tuple[int, dict[str, str]]:
    """Train what is missing, a pool for all that share recipe, front end and fold; how many of the finished runs other code has made, and
    what failed with its words.

    One that this code has failed to train is not tried again unless `retry_failed`. Raises `UserError` for runs of other code that are not accepted.
    """
    jobs = [job for of_arm in ablation.jobs for job in of_arm]
    finished = [job for job in jobs if is_finished(job)]
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
    failures: dict[str, str] = {}
    waiting = []
    for job in (job for job in jobs if job.run.path not in done):
        if not retry_failed and _has_failed(job.run):
            failures[f"{ablation.called(job)} with seed {job.seed}"] = str(job.run.status["error"])
        else:
            waiting.append(job)
    first, data = ablation.folds[0], ablation.folds[0].dataset
    frames, mels = ablation.train_input(ablation.base, first)
    console.print(
        f"{len(jobs)} runs (the base {name_of(ablation.base.setting.network)} and {counted(len(ablation.variants), 'variant')}, {counted(ablation.seeds, 'seed')}, test "
        f"fold{'s' * (len(ablation.folds) > 1)} {', '.join(str(fold.number) for fold in ablation.folds)}) on {data.name}"
        f"{' (synthetic data)' if data.synthetic else ''}, each of {ablation.budget:,} clips at {frames}x{mels} with recipe "
        f"{ablation.base.setting.recipe.name}{_taught_by(ablation.base)}; {len(finished)} have finished already",
        soft_wrap=True,
    )
    groups: dict[tuple[Recipe, FrontEnd, int], list[Job]] = {}
    for job in sorted(waiting, key=lambda job: job.seed):
        key = (job.variant.setting.recipe, ablation.front_end(job.variant, job.fold), job.fold.number)
        groups.setdefault(key, []).append(job)
    for (recipe, front_end, _), group in groups.items():  # all of them before the first one is trained
        variant, fold = group[0].variant, group[0].fold
        size = ablation.train_input(variant, fold)
        check(recipe, fold.dataset, front_end, fold.features.digest, size)
        for job in group:
            network = job.variant.setting.network
            check_changeable(network, recipe, size, len(fold.dataset.classes), ablation.budget)
    for number, ((recipe, front_end, fold_number), group) in enumerate(groups.items(), start=1):
        fold = group[0].fold
        if len(groups) > 1:
            console.print(
                f"part {number} of {len(groups)}: recipe {recipe.name}, test fold {fold_number}, {group[0].variant.label}",
                soft_wrap=True,
            )
        # Made once here, and not by every worker.
        own, train_input = (
            ablation.features(console, group[0].variant, fold),
            ablation.train_input(group[0].variant, fold),
        )
        get_ready(console, recipe, fold.dataset, own, train_input, resolve_device(hands.devices[0]))
        task = WorkerTask(
            *(fold.dataset, fold.features.digest, train_input, recipe),
            *(ablation.budget, hands.threads),
            front_end=None if front_end == fold.features.front_end else front_end,
        )
        planned = [Planned(ablation.called(job), job.run, job.config) for job in group]
        try:
            train_all(console, planned, task, hands)
        except Failures as failed:
            failures |= failed.failures
    return len(others), failures


def _taught_by(variant: Variant) -> str:
    """Who teaches it, in words."""
    teachers = variant.setting.recipe.teachers
    return f", taught by {', '.join(teachers)}" if teachers else ""


def _has_failed(run: Run) -> bool:
    """Whether this very code has already failed to train it: it would again."""
    status = run.status
    return status.get("state") == "failed" and bool(status.get("error")) and run.config.get("code") == code_digest()


def score_finished(console: Console, ablation: Ablation, hands: Hands) -> None:
    """Score every run that has no test scores yet, once."""
    device = resolve_device(hands.devices[0])
    groups: dict[tuple[FrontEnd, int], list[Job]] = {}
    for job in (job for of_arm in ablation.jobs for job in of_arm):
        if job.run.scores is None and is_finished(job):
            groups.setdefault((ablation.front_end(job.variant, job.fold), job.fold.number), []).append(job)
    for group in groups.values():
        variant, fold = group[0].variant, group[0].fold
        features = ablation.features(console, variant, fold)
        with progress_bar(console, "test scores") as progress:
            runs, size = [job.run for job in group], ablation.train_input(variant, fold)
            score_test(runs, fold.dataset, features, size, device, progress)
