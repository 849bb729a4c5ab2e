"""Does a training go on? Asynchronous successive halving with several objectives, as a pure function.

A training is scored at rungs: fixed numbers of clips seen. Whoever comes to one is ranked by (val accuracy there, params, MACs) among all
that ever came to it, and goes on if it stands in the top share. Nobody waits: the first to arrive goes on, and a decision is never taken back.

Source: asynchronous successive halving of the stopping kind (Li et al., MLSys 2020; Klein et al., 2020), ranked as MOASHA ranks (Schmucker
et al., 2021, arXiv 2106.12639): by non-domination, and within a front by
how much a point adds to the hypervolume of those before it, where MOASHA takes an epsilon-net.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from studies.analysis import hypervolume, non_dominated

KEEP = (0.48, 0.6)
"""The shares of the trainings at the first and at the second rung that go on.

Measured: `python -m benchmarks.search` (studies/LOG.md, "Early stopping"): a third saves more clips and loses more of the front."""

# Assumed: so many say more than the mean of the few before.
_ENOUGH = 6
_BEYOND = 0.1  # Assumed: the usual tenth; with less, the cheapest and the most accurate network would add nothing.


class Reached(NamedTuple):
    """One network at a rung: `val_accuracy` there (0 to 1), and its costs at the study's input."""

    val_accuracy: float
    params: float
    macs: float


def goes_on(newcomer: Reached, others: Iterable[Reached], keep: float) -> bool:
    """Whether `newcomer` stands in the top share `keep` of itself and the `others` at the same rung, in whatever order they came.

    The first one does, and whoever beats all others in everything. Equals of the newcomer do not count against it.
    """
    everyone = np.array([newcomer, *others], dtype=float)
    return place(everyone) < max(1, math.ceil(keep * len(everyone)))


def place(everyone: np.ndarray, newcomer: int = 0) -> int:
    """How many rows of `everyone` (n, 3: accuracy, params, MACs) stand before the one at `newcomer`: 0 is the best place.

    Fronts come one after the other. Within a front comes first whatever adds most to the hypervolume of those before it, so that what is
    kept of a front is spread along it. Costs count in decades and every axis is scaled to the spread of the whole rung; the reference lies
    a tenth of it beyond the worst. Equal rows share the first place of them.
    """
    losses = np.column_stack([-everyone[:, 0], np.log10(everyone[:, 1:])])
    unique, which = np.unique(losses, axis=0, return_inverse=True)
    which = which.reshape(-1)
    counts = np.bincount(which)
    spread = np.ptp(unique, axis=0)
    scaled = (unique - unique.min(axis=0)) / np.where(spread > 0, spread, 1.0)
    mine, left, before = which[newcomer], np.arange(len(unique)), 0
    while True:
        first = non_dominated(unique[left], np.ones(3, dtype=bool))
        if mine in left[first]:
            ahead = _ahead(scaled[left[first]], int(np.flatnonzero(left[first] == mine)[0]))
            return before + int(counts[left[first][ahead]].sum())
        before += int(counts[left[first]].sum())
        left = left[~first]


def mean_share(cycles: Iterable[float], keep: Sequence[float] = KEEP) -> float:
    """The share of its budget that a training sees on average when these shares of those at the rungs go on; `cycles` are the rungs as
    shares of the budget, the last one 1."""
    steps = pairwise([0.0, *cycles])
    return sum(math.prod(keep[:number]) * (end - begin) for number, (begin, end) in enumerate(steps))


def at_rung(trials: Iterable[FrozenTrial], rung: int) -> dict[int, Reached]:
    """Those of a study's trials that came to the rung (in clips), by number; of an interrupted one its successor counts."""
    key = str(rung)
    return {
        trial.number: Reached(scores[key], trial.user_attrs["params"], trial.user_attrs["macs"])
        for trial in trials
        if trial.state != TrialState.FAIL and key in (scores := _scores(trial))
    }


def expected(trials: Iterable[FrozenTrial]) -> dict[int, float]:
    """The val accuracy (0 to 1) to be expected of every stopped trial, had it gone on, by number: for samplers, never for a front or a
    decision at a rung.

    What is known at its last rung foretells it: a ridge regression of the finished trials' accuracies on their scores up to there and the
    logarithms of their costs, since networks of more params and MACs gain more after a rung, and a score there holds noise. Until `_ENOUGH` have finished it
    is the score, and what the finished ones gained on average.
    Measured: studies/LOG.md, "Early stopping": TPE finds better networks by it than by the mean gain; decisions by it are worse.
    """
    trials = list(trials)
    stopped: dict[int, list[FrozenTrial]] = {}
    for trial in trials:
        if trial.state == TrialState.PRUNED and (scores := _scores(trial)):
            stopped.setdefault(max(map(int, scores)), []).append(trial)
    found: dict[int, float] = {}
    for rung, of in stopped.items():
        finished = [trial for trial in trials if trial.state == TrialState.COMPLETE and str(rung) in _scores(trial)]
        seen, known = (np.array([_known(trial, rung) for trial in group]) for group in (finished, of))
        ends = np.array([trial.values[0] for trial in finished])
        if len(finished) >= _ENOUGH:
            centre, spread = seen.mean(axis=0), seen.std(axis=0)
            spread[spread == 0] = 1.0
            x, y = (seen - centre) / spread, ends - ends.mean()
            weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ y)
            foretold = ends.mean() + (known - centre) / spread @ weights
        else:
            foretold = known[:, 0] + ((ends - seen[:, 0]).mean() if finished else 0.0)
        found |= dict(zip([trial.number for trial in of], foretold.tolist(), strict=True))
    return found


def _known(trial: FrozenTrial, rung: int) -> list[float]:
    """Its score at this rung, those before, decades of params and MACs."""
    until = sorted((int(clips) for clips in _scores(trial) if int(clips) <= rung), reverse=True)
    costs = (trial.user_attrs["params"], trial.user_attrs["macs"])
    return [*(_scores(trial)[str(clips)] for clips in until), *map(math.log10, costs)]


def _scores(trial: FrozenTrial) -> dict[str, float]:
    return trial.user_attrs.get("rungs", {})


def _ahead(front: np.ndarray, mine: int) -> list[int]:
    """The rows of a front (n, 3: minimised, 0 to 1) that come before the row `mine`, when next is always the one that adds most to the
    hypervolume of those before it (of several, the first row).

    What a row adds only shrinks as others come before it, so only rows that could still be the best are counted again.
    """
    reference = np.full(3, 1 + _BEYOND)
    adds = [hypervolume(front[[row]], reference) for row in range(len(front))]
    order: list[int] = []
    volume = 0.0
    while True:
        fresh: set[int] = set()
        while (best := int(np.argmax(adds))) not in fresh:
            adds[best] = hypervolume(front[[*order, best]], reference) - volume
            fresh.add(best)
        if best == mine:
            return order
        order.append(best)
        volume += adds[best]
        adds[best] = -np.inf
