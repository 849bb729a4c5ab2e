"""Which network comes next: asks Optuna's sampler, and keeps out what was trained already or costs more than the caps."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from search_space.complexity import Cost, count
from search_space.errors import UserError, unknown
from search_space.families import Network
from search_space.limits import Limits, usage
from search_space.space import AnySpace
from studies.halving import expected
from studies.owners import owner
from studies.records import encode, ordered

SAMPLERS = ("tpe", "nsga2", "gp", "random")

_MISSES_BEFORE_RANDOM = 10
_RANDOM_TRIES = 2000
_WALKABLE = 100_000


def make_sampler(name: str, seed: int, workers: int) -> optuna.samplers.BaseSampler:
    """Optuna's sampler of this name, taught by stopped trials too. TPE is told of the trials under way when there are several workers
    (constant liar).

    Raises `UserError` with the known names.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        match name:
            case "tpe":
                return Taught(optuna.samplers.TPESampler(seed=seed, constant_liar=workers > 1))
            case "nsga2":
                # Assumed: 20 instead of Optuna's 50, which would leave 200 trials four generations.
                return Taught(optuna.samplers.NSGAIISampler(seed=seed, population_size=20))
            case "gp":
                return Taught(optuna.samplers.GPSampler(seed=seed))
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
    raise unknown("sampler", name, SAMPLERS)


class Taught(optuna.samplers.BaseSampler):
    """A sampler that sees a stopped trial as a complete one with the accuracy to be expected of it (`halving.expected`).

    Of its own, NSGA-II reads complete trials alone, and TPE takes every stopped one for worse than any other. What is recorded stays as it
    is: the trial is stopped, has no values, and is on no front.
    """

    def __init__(self, sampler: optuna.samplers.BaseSampler) -> None:
        self.sampler = sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As the sampler does, as do all that follow."""
        return self.sampler.infer_relative_search_space(_Lessons.of(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """All choices at once."""
        return self.sampler.sample_relative(_Lessons.of(study), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """One choice."""
        return self.sampler.sample_independent(_Lessons.of(study), trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Before a trial's first choice."""
        self.sampler.before_trial(_Lessons.of(study), trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """At a trial's end."""
        self.sampler.after_trial(_Lessons.of(study), trial, state, values)

    def reseed_rng(self) -> None:
        """Draw other numbers from here on."""
        self.sampler.reseed_rng()


class _Lessons:
    """A study as `Taught` shows it; everything but its trials is the study's own."""

    def __init__(self, study: Study) -> None:
        self._study = study

    @classmethod
    def of(cls, study: Study) -> Study:
        return cast(Study, cls(study))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = self._study._get_trials(deepcopy=False, use_cache=use_cache)
        accuracies = expected(trials)
        seen = [
            _as_complete(trial, accuracies[trial.number]) if trial.number in accuracies else trial for trial in trials
        ]
        return [trial for trial in seen if states is None or trial.state in states]


def _as_complete(trial: FrozenTrial, val_accuracy: float) -> FrozenTrial:
    complete = copy.copy(trial)
    complete.state = TrialState.COMPLETE
    complete.values = [val_accuracy, trial.user_attrs["params"], trial.user_attrs["macs"]]
    return complete


@dataclass(frozen=True)
class Caps:
    """What a network may cost at most: params and MACs at the study's `input` (ours), a challenge's limits, counted as its rules say at
    `limits_input`, the frames of as much audio as they are for, and `bytes` of params kept as `precision`."""

    input: tuple[int, int]
    n_classes: int
    params: int | None = None
    macs: int | None = None
    limits: Limits | None = None
    limits_input: tuple[int, int] = (0, 0)
    bytes: int | None = None
    precision: str = "float16"

    def usage(self, architecture: Network, cost: Cost | None = None) -> dict[str, float]:
        """The share that a network uses of each cap, by name; more than 1 is too much. `cost` is its cost at `input`, if known."""
        cost = cost or count(architecture, self.input, self.n_classes)
        shares = {
            key: getattr(cost, key) / cap for key in ("params", "macs") if (cap := getattr(self, key)) is not None
        }
        if self.bytes is not None:
            shares["bytes"] = cost.param_bytes(self.precision) / self.bytes
        if self.limits is not None:
            counted = usage(count(architecture, self.limits_input, self.n_classes), self.limits)
            shares |= {f"limits_{key}": share for key, share in counted.items()}
        return shares

    def admits(self, architecture: Network) -> bool:
        """Whether a network is within every cap."""
        return all(share <= 1 for share in self.usage(architecture).values())

    def check(self, space: AnySpace) -> None:
        """Raises `UserError` when no network of the space is within the caps."""
        shares = [self.usage(architecture) for architecture in space.cheapest()]
        if any(all(share <= 1 for share in of.values()) for of in shares):
            return
        caps = {}
        if self.params is not None:
            caps["params"] = self.params, f"--max-params {self.params:,}"
        if self.macs is not None:
            caps["macs"] = self.macs, f"--max-macs {self.macs:,}"
        if self.bytes is not None:
            caps["bytes"] = self.bytes, f"--max-bytes {self.bytes:,} of {self.precision} params"
        if (limits := self.limits) is not None:
            caps["limits_param_bytes"] = limits.param_bytes, f"{limits.param_bytes:,} bytes of {limits.dtype} params"
            counted = f"{limits.macs:,} MACs for {limits.seconds:g} s ({limits.convention} counting)"
            caps["limits_macs"] = limits.macs, counted
        least = "; ".join(
            f"{named}: the least is {round(min(of[key] for of in shares) * cap):,}"
            for key, (cap, named) in caps.items()
        )
        raise UserError(
            f"no network of space {space.name!r} is within the caps at {self.input[0]}x{self.input[1]} ({least}); raise them"
        )


@dataclass
class Candidates:
    """The networks that a study still has to try. `seen` maps the notations trained or under way to their trials.

    A network over a cap is recorded as PRUNED with its constraint, which
    samplers learn from; a duplicate as FAIL, which they leave out: a copied score would count one training twice.

    `lock` gives the block that one coordinator of the study at a time is in, `on_ask` is called in it with every trial that is asked for.
    A trial is asked for and its network claimed under the lock; the sampler thinks without it. `full` says that `next` found no room.
    """

    study: optuna.Study
    space: AnySpace
    input: tuple[int, int]
    n_classes: int
    caps: Caps
    rng: random.Random
    seen: dict[str, int] = field(default_factory=dict)
    lock: Callable[[], AbstractContextManager[None]] = nullcontext
    on_ask: Callable[[Trial], None] = lambda trial: None
    full: bool = False

    def next(self, total: int | None = None) -> tuple[Trial, Network] | None:
        """A running trial whose network is new and within the caps, or None when the space has no other one, or when all of `total`
        trainings are done or under way.

        After a duplicate one of its unseen neighbours is tried, or any unseen network when the sampler draws at random anyway.
        """
        misses = 0
        self.full = False
        while True:
            if misses >= _MISSES_BEFORE_RANDOM:
                fresh = next(self._unseen(self._anywhere()), None)
                if fresh is None:
                    return None
                self.enqueue(fresh)
            with self.lock():
                if total is not None and taken(self.study.get_trials(deepcopy=False)) >= total:
                    self.full = True
                    return None
                with warnings.catch_warnings():
                    warnings.simplefilter(
                        "ignore", UserWarning
                    )  # heartbeats are recorded here, not by Optuna's own loop
                    trial = self.study.ask()
                self.on_ask(trial)
                trial.set_user_attr("owner", owner())
            architecture = self.space.sample(partial(_suggest, trial))
            text = str(architecture)
            cost = count(architecture, self.input, self.n_classes)
            trial.set_user_attr("params", cost.params)
            trial.set_user_attr("macs", cost.macs)
            shares = self.caps.usage(architecture, cost)
            for key, share in shares.items():
                trial.set_constraint(key, share - 1)
            if any(share > 1 for share in shares.values()):
                trial.set_user_attr("architecture", text)
                self.end(trial, "over_cap", TrialState.PRUNED)
                misses += 1
                continue
            with self.lock():
                self.look(besides=trial.number)
                trial.set_user_attr("architecture", text)  # claimed
                if text not in self.seen:
                    self.seen[text] = trial.number
                    return trial, architecture
                trial.set_user_attr("same_as", self.seen[text])
                self.end(trial, "duplicate", TrialState.FAIL)
            misses += 1
            if not isinstance(self.study.sampler, optuna.samplers.RandomSampler):
                near = self.space.neighbours(architecture)
                self.rng.shuffle(near)
                if (fresh := next(self._unseen(iter(near)), None)) is not None:
                    self.enqueue(fresh)

    def look(self, besides: int | None = None) -> None:
        """Learn what all coordinators have trained or are training, but for trial `besides`."""
        trials = self.study.get_trials(deepcopy=False)
        again = {trial.user_attrs.get("retry_of") for trial in trials} | {besides}
        self.seen = {}
        for trial in trials:
            text = trial.user_attrs.get("architecture")
            if text is not None and trial.number not in again and _holds(trial):
                self.seen.setdefault(text, trial.number)

    def enqueue(self, architecture: Network, **attributes: Any) -> None:
        """Have this network asked for next, with these attributes on its trial."""
        choices = self.space.choices
        chosen = self.space.encode(architecture)
        self.study.enqueue_trial({name: encode(choices[name], option) for name, option in chosen.items()}, attributes)

    def end(self, trial: Trial, outcome: str, state: TrialState) -> None:
        """Close a trial that has no score, saying why."""
        trial.set_user_attr("outcome", outcome)
        self.study.tell(trial, state=state)

    def _anywhere(self) -> Iterator[Network]:
        """Networks drawn at random, and when these run out every one of a space that can be walked, or the cheapest of a larger one."""
        for _ in range(_RANDOM_TRIES):
            yield self.space.sample(lambda _, options: self.rng.choice(options))
        rest = list(self.space if self.space.size <= _WALKABLE else self.space.cheapest())
        self.rng.shuffle(rest)
        yield from rest

    def _unseen(self, networks: Iterator[Network]) -> Iterator[Network]:
        """Those that are neither trained nor over a cap."""
        return (network for network in networks if str(network) not in self.seen and self.caps.admits(network))


def taken(trials: list[FrozenTrial]) -> int:
    """How many trainings of the total are done or under way."""
    return sum(trial.state == TrialState.RUNNING or trained(trial) for trial in trials)


def trained(trial: FrozenTrial) -> bool:
    """Whether a trial counts towards the total: it is complete, or was stopped early."""
    return trial.state == TrialState.COMPLETE or trial.user_attrs.get("outcome") == "stopped"


def _holds(trial: FrozenTrial) -> bool:
    """Whether nobody else is to train this trial's network: it has been, it is under way, or it failed by itself."""
    if trial.state in (TrialState.COMPLETE, TrialState.RUNNING):
        return True
    return trial.state.is_finished() and trial.user_attrs.get("outcome") not in ("duplicate", "over_cap", "interrupted")


def _suggest(trial: Trial, name: str, options: tuple[Any, ...]) -> Any:
    """An option chosen by Optuna; ordered options are suggested as their index."""
    if ordered(options):
        return options[trial.suggest_int(name, 0, len(options) - 1)]
    return trial.suggest_categorical(name, options)
