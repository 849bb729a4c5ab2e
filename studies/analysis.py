"""What trials say together: the Pareto front, its hypervolume, and whether a search had a signal to follow. Pure, no plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from search_space.errors import UserError

OBJECTIVES = {"val_accuracy": "maximize", "params": "minimize", "macs": "minimize"}
"""A trial's objectives in their order, each with its direction in Optuna's words."""

_AT_ONCE = 128  # trials that are compared with the front at once


def non_dominated(values: np.ndarray, minimise: np.ndarray) -> np.ndarray:
    """Which rows of `values` (n, m) no other row dominates: a mask (n,), whatever the order of the rows.

    `minimise` (m,) says which columns are better when smaller. Equal rows do not dominate each other: all or none of them stay.
    A row with a NaN is on no front and dominates nothing.
    """
    losses = np.where(minimise, values, -np.asarray(values, dtype=float))
    comparable = np.flatnonzero(np.isfinite(losses).all(axis=1))
    # Sorted and without repetition, the first row left is on the front, and whatever is nowhere below it is dominated by it.
    unique, position = np.unique(losses[comparable], axis=0, return_inverse=True)
    best = np.zeros(len(unique), dtype=bool)
    left = np.arange(len(unique))
    while left.size:
        best[left[0]] = True
        left = left[(unique[left] < unique[left[0]]).any(axis=1)]
    mask = np.zeros(len(losses), dtype=bool)
    mask[comparable] = best[position.reshape(-1)]
    return mask


def front(trials: pd.DataFrame) -> pd.DataFrame:
    """The rows of `trials` that no other complete trial dominates (accuracy up, params and MACs down), most accurate first.

    Only trials with `state` 'complete' count: they alone were scored at the study's full budget.
    """
    complete = trials[trials["state"] == "complete"]
    minimise = np.array([direction == "minimize" for direction in OBJECTIVES.values()])
    rows = complete[non_dominated(complete[list(OBJECTIVES)].to_numpy(dtype=float), minimise)]
    by = [*OBJECTIVES, "trial"]
    return rows.sort_values(by, ascending=[False, True, True, True], ignore_index=True)


def shortfall(trials: pd.DataFrame) -> pd.Series:
    """How much accuracy (0 to 1) each complete trial lacks to the best one that costs no more, in params and in MACs: 0 on the front.

    What the front would gain of a trial that is not on it begins above that. NaN for a trial that is not complete.
    """
    complete = trials[trials["state"] == "complete"]
    best = front(complete)
    costs_N2, costs_M2 = (rows[["params", "macs"]].to_numpy(dtype=float) for rows in (complete, best))
    no_dearer_NM = np.all(costs_M2[None] <= costs_N2[:, None], axis=2)
    reached_N = np.where(no_dearer_NM, best["val_accuracy"].to_numpy(dtype=float), -np.inf).max(axis=1, initial=-np.inf)
    return (reached_N - complete["val_accuracy"].astype(float)).reindex(trials.index)


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """The exact volume that `points` (n, 3), every column minimised, dominate below `reference` (3,): 0.0 where there is none.

    The third axis is cut into slabs at the points' values; within a slab the dominated area is a staircase. A point that is not
    below the reference in every column contributes nothing.

    Source: the definition (Zitzler and Thiele 1998, "size of the space covered"), by dimension sweep; checked against Optuna's.
    """
    points = np.asarray(points, dtype=float).reshape(-1, 3)
    x_end, y_end, z_end = np.asarray(reference, dtype=float)
    points = points[(points < (x_end, y_end, z_end)).all(axis=1)]
    points = points[non_dominated(points, np.ones(3, dtype=bool))]
    points = points[np.argsort(points[:, 0], kind="stable")]
    volume = 0.0
    for bottom, top in pairwise([*np.unique(points[:, 2]), z_end]):
        x, y, _ = points[points[:, 2] <= bottom].T
        widths = np.diff(x, append=x_end)
        volume += float(widths @ (y_end - np.minimum.accumulate(y))) * (top - bottom)
    return volume


def hypervolume_of(trials: pd.DataFrame, reference_point: Mapping[str, float]) -> float:
    """The hypervolume of the complete trials: accuracy above chance (0 to 1) x decades of params x decades of MACs saved.

    `reference_point` holds `accuracy` (chance, 0 to 1), `log10_params` and `log10_macs` (the most params and the most MACs in the
    space, of two networks perhaps); it is fixed by the study, so that volumes of one study can be compared over time. Accuracy 1 at a
    tenth of the params and a tenth of the MACs of the reference alone is worth 1 - chance. Trials that are no better than chance contribute nothing.
    """
    complete = trials[trials["state"] == "complete"]
    losses = np.column_stack(
        [
            -complete["val_accuracy"].to_numpy(dtype=float),
            np.log10(complete["params"].to_numpy(dtype=float)),
            np.log10(complete["macs"].to_numpy(dtype=float)),
        ]
    )
    reference = [-reference_point["accuracy"], reference_point["log10_params"], reference_point["log10_macs"]]
    return hypervolume(losses, np.array(reference))


def hypervolume_course(trials: pd.DataFrame, reference_point: Mapping[str, float]) -> pd.DataFrame:
    """How the hypervolume grew: `hypervolume` after so many networks `trials` (complete or stopped) and `clips` seen by them.

    A row for every trial that raised it, in the order of their numbers, and one for the last trial. A stopped trial costs its clips and
    adds nothing; an interrupted one is not counted: its clips are those of the trial that went on from it.
    """
    counted = trials[trials["state"].isin(["complete", "stopped"])].sort_values("trial")
    costs = np.log10(counted[["params", "macs"]].to_numpy(dtype=float))
    losses = np.column_stack([-counted["val_accuracy"].to_numpy(dtype=float), costs])
    complete = (counted["state"] == "complete").to_numpy()
    reference = np.array([-reference_point["accuracy"], reference_point["log10_params"], reference_point["log10_macs"]])
    clips = counted["clips"].cumsum().to_numpy()
    able = np.flatnonzero(complete & (losses < reference).all(axis=1))
    best, volume, rows = np.empty((0, 3)), 0.0, []
    for some in np.split(able, range(_AT_ONCE, len(able), _AT_ONCE)):
        below = np.asarray(best[None] <= losses[some][:, None]).all(axis=2)
        beaten = np.asarray(below).any(axis=1)  # most are, by what came long before them
        for row in some[~beaten]:
            if (best <= losses[row]).all(axis=1).any():
                continue
            # What it adds: its own box less what the others dominate of it.
            shared = hypervolume(np.maximum(best, losses[row]), reference)
            volume += float(np.prod(reference - losses[row])) - shared
            best = np.vstack([best[(best < losses[row]).any(axis=1)], losses[row]])
            rows.append({"trials": int(row) + 1, "clips": int(clips[row]), "hypervolume": volume})
    if len(counted) and (not rows or rows[-1]["trials"] < len(counted)):
        rows.append({"trials": len(counted), "clips": int(clips[-1]), "hypervolume": volume})
    return pd.DataFrame(rows, columns=["trials", "clips", "hypervolume"])


def clips_seen(trials: pd.DataFrame, budget: int) -> tuple[int, int]:
    """Training clips that the complete and the stopped trials have seen, and those that stopping early has saved of their `budget` each."""
    counted = trials[trials["state"].isin(["complete", "stopped"])]
    seen = int(counted["clips"].sum())
    return seen, len(counted) * budget - seen


def best_up_to(trials: pd.DataFrame, cost: str, budgets: Sequence[float]) -> pd.DataFrame:
    """The most accurate complete trial of up to each budget of a `cost` ('params' or 'macs'), the cheaper one of equals: the trials' columns and `budget`.

    A budget that buys no more accuracy than the one before it has no row.
    """
    complete = trials[trials["state"] == "complete"].sort_values(["val_accuracy", cost], ascending=[False, True])
    rows, before = [], None
    for budget in sorted(budgets):
        within = complete[complete[cost] <= budget]
        if len(within) and within["trial"].iloc[0] != before:
            rows.append(within.iloc[[0]].assign(budget=budget))
            before = within["trial"].iloc[0]
    return pd.concat(rows, ignore_index=True) if rows else complete.iloc[:0].assign(budget=[])


@dataclass(frozen=True)
class Signal:
    """How much of the differences between scores is the architectures' and how much the seeds' (accuracies 0 to 1).

    `between_sd`: standard deviation between architectures, the seeds' share taken off; `seed_sd`: between seeds of one architecture;
    `ratio` of the two (infinite without noise, 0 without signal); `rank_correlation`: mean Spearman correlation between pairs of seeds.
    """

    between_sd: float
    seed_sd: float
    ratio: float
    rank_correlation: float


def signal(accuracies: np.ndarray) -> Signal:
    """The signal in `accuracies` (n_architectures, n_seeds): the variance components of a one-way random model.

    between_sd = sqrt(max(0, var(means) - seed_var / n_seeds)), where seed_var is the mean variance within an architecture. A seed under
    which every architecture scores the same orders nothing: its correlations count as 0.

    Raises: `UserError` with fewer than two architectures or seeds.
    Source: Searle, Casella and McCulloch, Variance Components (1992), ANOVA estimators, truncated at 0.
    """
    accuracies = np.asarray(accuracies, dtype=float)
    n_architectures, n_seeds = accuracies.shape
    if n_architectures < 2 or n_seeds < 2:
        raise UserError(
            f"a signal takes at least 2 architectures and 2 seeds, not {n_architectures} and {n_seeds}; train more of them"
        )
    seed_variance = accuracies.var(axis=1, ddof=1).mean()
    between_sd = np.sqrt(max(0.0, accuracies.mean(axis=1).var(ddof=1) - seed_variance / n_seeds))
    seed_sd = np.sqrt(seed_variance)
    ratio = between_sd / seed_sd if seed_sd else (np.inf if between_sd else 0.0)
    correlations = pd.DataFrame(accuracies).corr(method="spearman").fillna(0.0).to_numpy()
    pairs = correlations[np.triu_indices(n_seeds, k=1)]
    return Signal(float(between_sd), float(seed_sd), float(ratio), float(pairs.mean()))
