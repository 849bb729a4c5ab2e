"""What a change does to a score, told apart from noise: paired differences, their intervals, and how many seeds an effect needs.

Pure functions on arrays. A difference is that of two runs which share all but the change: seed, fold, order of the clips. N differences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats  # type: ignore[import-untyped]

from search_space.errors import UserError
from studies.statistics import CONFIDENCE, DRAWS

# Assumed: below this many differences a bootstrap knows too little of the tails to be shown.
BOOTSTRAP_FROM = 10
POWER = 0.8
_MOST_SEEDS = 100_000


# Assumed: far below any difference of accuracies and far above what rounding leaves of equal ones.
_EQUAL = 1e-9


class Difference(NamedTuple):
    """A mean difference in the scores' own unit, the deviation of the differences, its interval, and the two-sided p of no difference."""

    n: int
    mean: float
    std: float
    low: float
    high: float
    p: float


def paired(
    differences_N: ArrayLike, overlap: float = 0.0, confidence: float = CONFIDENCE, folds_N: ArrayLike | None = None
) -> Difference:
    """The mean of paired differences with Student's interval: mean ± t sqrt(var (1 / N + overlap)), t with N - 1 degrees of freedom.

    `overlap` is test clips over training clips where the differences come from folds whose training sets share clips, which are then
    no independent samples; 0 for seeds on one split. `folds_N` says of which fold each is: where several seeds share a fold they share its
    clips too, so the error is the larger one of all runs' and of the folds' means, with one degree of freedom less than there are folds.
    That is at least as wide as it has to be. Differences that are all equal measure no noise: interval and p are NaN.

    Raises `UserError` with fewer than two differences, or one that is no number.
    Source: Student, 1908; Nadeau and Bengio, Inference for the Generalization Error (2003), corrected resampled t. Assumed: the larger of two
    errors for seeds within folds, for which neither one alone covers (tests/test_differences.py).
    """
    values = np.asarray(differences_N, dtype=float)
    if values.ndim != 1 or len(values) < 2:
        raise UserError(f"an interval takes at least 2 paired runs, not {values.size}; train more seeds")
    if not np.isfinite(values).all():
        raise UserError("a difference is no number; leave that run out")
    n, mean, std = len(values), float(values.mean()), float(values.std(ddof=1))
    if std <= _EQUAL * max(1.0, float(np.abs(values).max())):
        return Difference(n, mean, 0.0, np.nan, np.nan, np.nan)
    error, freedom = std * np.sqrt(1 / n + overlap), n - 1
    names = np.unique(np.asarray(folds_N)) if folds_N is not None else np.arange(n)
    if 1 < len(names) < n:
        means = [values[np.asarray(folds_N) == name].mean() for name in names]
        error = max(error, float(np.std(means, ddof=1)) * np.sqrt(1 / len(names) + overlap))
        freedom = len(names) - 1
    half = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, freedom))
    return Difference(n, mean, std, mean - half, mean + half, p)


def bootstrap_interval(differences_N: ArrayLike, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """The bias-corrected and accelerated bootstrap interval of the mean, None for fewer than `BOOTSTRAP_FROM` differences.

    Source: Efron, Better Bootstrap Confidence Intervals (1987); scipy.stats.bootstrap, always the same draws.
    """
    values = np.asarray(differences_N, dtype=float)
    if len(values) < BOOTSTRAP_FROM:
        return None
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = stats.bootstrap(
        (values,), np.mean, n_resamples=DRAWS, confidence_level=confidence, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(found.low), float(found.high)


def holm(p_N: ArrayLike) -> np.ndarray:
    """Holm's adjusted p-values (N,), in the order given: the probability of any false finding among all of them stays below what is asked.

    Raises `UserError` for a value outside 0 to 1.
    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979).
    """
    p_N = np.asarray(p_N, dtype=float)
    if not ((p_N >= 0) & (p_N <= 1)).all():
        raise UserError(f"p-values are 0 to 1, not {p_N.tolist()}")
    order = np.argsort(p_N, kind="stable")
    stepped = np.maximum.accumulate((len(p_N) - np.arange(len(p_N))) * p_N[order])
    adjusted = np.empty(len(p_N))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def power(effect: float, std: float, n: int, alpha: float = 1 - CONFIDENCE) -> float:
    """The probability, 0 to 1, that `n` paired differences of this deviation show an effect of this size (two-sided t test at alpha).

    Source: the noncentral t distribution; Cohen, Statistical Power Analysis (1988), chapter 2.
    """
    if std == 0:
        return 1.0 if effect else alpha
    shift, critical = abs(effect) / std * np.sqrt(n), stats.t.ppf(1 - alpha / 2, n - 1)
    return float(stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift))


def seeds_for(effect: float, std: float, wanted: float = POWER, alpha: float = 1 - CONFIDENCE) -> int | None:
    """The fewest seeds with which an effect of this size shows with probability `wanted`; None where no number of them is enough.

    `std` is the deviation of the paired differences, in the unit of the effect. Raises `UserError` for a probability that is not within
    alpha to 1.
    """
    if not alpha < wanted < 1:
        raise UserError(f"the power wanted is between {alpha:g} and 1, not {wanted!r}")
    if effect == 0:
        return None
    low, high = 1, 2
    while power(effect, std, high, alpha) < wanted:
        low, high = high, 2 * high
        if high > _MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, std, middle, alpha) >= wanted else (middle, high)
    return high


class Effect(NamedTuple):
    """What moving one factor, or two at once, from its base level does: main effects name one factor, interactions two."""

    factors: tuple[str, ...]
    levels: tuple[Any, ...]
    difference: Difference


def factorial_effects(
    scores: Mapping[tuple[Any, ...], Sequence[float]],
    factors: Mapping[str, Sequence[Any]],
    overlap: float = 0.0,
    folds: Sequence[int] | None = None,
) -> list[Effect]:
    """Main effects and two-way interactions of a full factorial: `scores` holds, for every combination of levels, a score per seed.

    A main effect is the mean over all levels of the other factors of the difference to the factor's first level. An interaction is what
    moving two factors together does beyond the sum of what each does alone, likewise averaged. Both are computed seed by seed, so the
    interval is that of paired differences. `overlap` and `folds` are as for `paired`.

    Raises `UserError` where a combination is missing, or seeds differ in number.
    """
    names = list(factors)
    shape = tuple(len(factors[name]) for name in names)
    missing = [key for key in _combinations(factors) if key not in scores]
    if missing:
        raise UserError(f"a factorial takes every combination; missing: {missing[0]} and {len(missing) - 1} more")
    numbers = {len(scores[key]) for key in _combinations(factors)}
    if len(numbers) != 1:
        raise UserError(f"every combination takes the same number of seeds, not {sorted(numbers)}")
    seeds = numbers.pop()
    cube = np.array([scores[key] for key in _combinations(factors)], dtype=float).reshape(*shape, seeds)
    effects = []
    for i, name in enumerate(names):
        marginal = cube.mean(axis=tuple(k for k in range(len(names)) if k != i))  # (levels, seeds)
        effects += [
            Effect((name,), (factors[name][level],), paired(marginal[level] - marginal[0], overlap, folds_N=folds))
            for level in range(1, shape[i])
        ]
    for i, j in combinations(range(len(names)), 2):
        marginal = cube.mean(axis=tuple(k for k in range(len(names)) if k not in (i, j)))  # (levels i, levels j, seeds)
        for a in range(1, shape[i]):
            for b in range(1, shape[j]):
                beyond = marginal[a, b] - marginal[a, 0] - marginal[0, b] + marginal[0, 0]
                levels = factors[names[i]][a], factors[names[j]][b]
                effects.append(Effect((names[i], names[j]), levels, paired(beyond, overlap, folds_N=folds)))
    return effects


def _combinations(factors: Mapping[str, Sequence[Any]]) -> list[tuple[Any, ...]]:
    keys: list[tuple[Any, ...]] = [()]
    for levels in factors.values():
        keys = [(*key, level) for key in keys for level in levels]
    return keys
