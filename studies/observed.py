"""What each choice of a space went with, as a study's trials saw it: pure functions of a frame of trials. Observational, no experiment.

N trials, P columns of a model, K options of a choice. A choice is empty (NaN) in the trials that were not asked for it;
what is said of it is said of the others.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import re
import shlex
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial
from scipy import stats  # type: ignore[import-untyped]

from search_space.errors import UserError
from search_space.families import FAMILIES
from search_space.presets import resolve
from search_space.space import get_space
from studies import analysis
from studies.differences import holm
from studies.factors import Setting, factors
from studies.records import StudyRecords, encode, ordered
from studies.statistics import CONFIDENCE
from trainers.config import get_recipe

Choices = Mapping[str, Sequence[Any]]
"""Every choice by its name with its options, as `Space.choices`."""

OBSERVATIONAL = "what this search saw, not an experiment"

CODINGS = {
    "line": "a straight line over ordered options",
    "curve": "a parabola over ordered options",
    "step": "a step for every option",
}
"""How an additive model describes an ordered choice, by falling stiffness; named options have a step each in all of them."""

# Assumed: with fewer the deviation that intervals rest on is not known (Student's t of 10 degrees of freedom is 2.2).
LEAST_SPARE = 10
LEAST = 20
# Assumed: with fewer trials an option's place on a line is that of its neighbours, whatever it scored itself.
LEAST_OF_OPTION = 5

# Assumed: the best tenth is Optuna's own default; its documentation asks for at least five trials in it.
_TOP_SHARE, TOP_LEAST = 0.1, 5
# The largest of 19 shuffled results and the one seen is the one seen in 1 of 20 cases where there is nothing to see.
_SHUFFLES = 19
# Assumed: five times ten folds leave R2 within about 0.01 of the mean of more of them.
_FOLDS, _REPEATS = 10, 5
_INTERACTIONS = 3

_COUNTED = ("complete", "stopped", "over_cap")
"""States whose networks were drawn and counted once: their costs are exact, however far they were trained."""


class _Columns(NamedTuple):
    """A choice in a model: its columns (N, P), centred over the trials asked for it and 0 elsewhere; the options seen;
    and what each of them has in the columns beyond the mean of those trials (K, P), so that K effects are `contrasts @ coefficients`."""

    values_NP: np.ndarray
    options: list[Any]
    trials_K: np.ndarray
    contrasts_KP: np.ndarray


class Model(NamedTuple):
    """An additive model of one objective: `coding` of ordered choices, R2 out of sample, and its `effects`.

    `effects` has a row for every option seen of every choice that varied: `choice`, `option`, `trials` with it, `effect` against the
    mean of the trials that were asked, `low` and `high` of its interval; NaN where these trials can not tell it from another choice.
    """

    n: int
    coding: str
    columns: int
    r2: float
    effects: pd.DataFrame


def importance(trials: pd.DataFrame, choices: Choices, losses_N: np.ndarray, top: int) -> pd.DataFrame:
    """How much each choice sets the `top` trials of lowest loss apart from all others: `choice`, `importance` (shares of 1), `noise`.

    `noise` is the largest importance, in the same shares, of 19 times that the losses were shuffled among the trials: a choice without effect is
    above it in one case of 20. Both are NaN where no choice varies or ties leave all trials at the top.

    Source: Optuna's PED-ANOVA (Watanabe et al., 2023; with conditional choices arXiv 2601.20800), which takes lower for better; the
    trials are those of the search, so that what the sampler preferred is taken off (`evaluate_on_local`).
    """
    losses_N = np.asarray(losses_N, dtype=float)
    names = [name for name in choices if trials[name].notna().any()]
    frame = pd.DataFrame({"choice": names, "importance": np.nan, "noise": np.nan})
    number = len(losses_N)
    if not 0 < top < number or (losses_N <= np.sort(losses_N)[top - 1]).all():
        return frame
    with _quiet():
        study = optuna.create_study(directions=["minimize"])
    rows = trials[list(choices)].to_dict("records")
    study.add_trials([_optuna_trial({str(name): of for name, of in row.items()}, choices) for row in rows])
    evaluator = PedAnovaImportanceEvaluator(target_quantile=(top - 0.5) / number)  # whose ceiling is `top`

    def evaluate(losses: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():
            for kind in (UserWarning, ExperimentalWarning):  # of the sign, which is right; of few trials in a regime
                warnings.simplefilter("ignore", kind)
            found = get_param_importances(
                study, evaluator=evaluator, target=lambda trial: float(losses[trial.number]), normalize=False
            )
        return np.array([found[name] for name in names])

    seen = evaluate(losses_N)
    rng = np.random.default_rng(0)
    shuffled = np.array([evaluate(rng.permutation(losses_N)) for _ in range(_SHUFFLES)])
    if (total := seen.sum()) > 0:
        frame["importance"] = seen / total
        frame["noise"] = shuffled.max(axis=0) / total
    return frame


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's lines are about a study that only the importance sees."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _optuna_trial(row: Mapping[str, Any], choices: Choices) -> optuna.trial.FrozenTrial:
    asked = {name: option for name, option in row.items() if not pd.isna(option)}
    options = {name: tuple(choices[name]) for name in asked}
    return create_trial(
        value=0.0,  # the losses are looked up by the trial's number
        params={name: encode(options[name], option) for name, option in asked.items()},
        distributions={name: _distribution(options[name]) for name in asked},
    )


def _distribution(options: tuple[Any, ...]) -> BaseDistribution:
    return IntDistribution(0, len(options) - 1) if ordered(options) else CategoricalDistribution(options)


def additive_model(trials: pd.DataFrame, choices: Choices, y_N: np.ndarray) -> Model:
    """What each option goes with in `y_N` (in its unit), with all other choices as they were, by least squares; and R2 out of sample.

    An additive model's partial dependence is its coefficients. It is preferred to a forest because its intervals have a closed form that
    holds what it says (tests), it is not shrunk to the mean with few trials, and it takes conditional choices: their columns
    are 0 where they were not asked, so that their parent's effect is that over their options as tried. What it leaves out, two choices that do more
    together, is looked for by `interactions`. Intervals are mean ± t s, with one deviation for all trials.
    Of the `CODINGS` that leave `LEAST_SPARE` degrees of freedom it is the one with the largest R2 out of sample.

    Raises `UserError` for fewer trials than `least_trials`.
    Source: ordinary least squares; R2 of ten-fold cross-validation, five times, against the mean of the other nine folds.
    """
    y_N = np.asarray(y_N, dtype=float)
    if len(y_N) < (least := least_trials(trials, choices)):
        raise UserError(
            f"effects of these choices take at least {least} trials, and {len(y_N)} can be used; "
            f"`python -m studies.run --study NAME --trials N` goes on with a study"
        )
    tried: dict[str, tuple[float, dict[str, _Columns]]] = {}
    for name in CODINGS:
        blocks = _blocks(trials, choices, name)
        if len(y_N) - np.linalg.matrix_rank(_design(blocks, len(y_N))) >= LEAST_SPARE:
            tried[name] = _r2(_design(blocks, len(y_N)), y_N), blocks
    best = max(tried, key=lambda name: tried[name][0])
    r2, blocks = tried[best]
    x_NP = _design(blocks, len(y_N))
    fit = _fit(x_NP, y_N)
    rows, start = [], 1
    for name, block in blocks.items():
        width = block.contrasts_KP.shape[1]
        contrasts_KP = np.zeros((len(block.options), x_NP.shape[1]))
        contrasts_KP[:, start : start + width] = block.contrasts_KP
        start += width
        for option, number, estimate in zip(block.options, block.trials_K, fit.estimates(contrasts_KP), strict=True):
            rows.append((name, option, int(number), *estimate))
    effects = _frame(rows, ["choice", "option", "trials", "effect", "low", "high"], whole=["trials"])
    return Model(len(y_N), best, x_NP.shape[1], r2, effects)


def least_trials(trials: pd.DataFrame, choices: Choices) -> int:
    """The fewest trials that can say anything of the choices that vary in these: `LEAST_SPARE` more than the stiffest model has columns."""
    return max(LEAST, _design(_blocks(trials, choices, "line"), len(trials)).shape[1] + LEAST_SPARE)


def interactions(trials: pd.DataFrame, choices: Choices, y_N: np.ndarray, coding: str) -> pd.DataFrame:
    """The strongest pairs of choices, by what they do together beyond the sum of both (in the unit of `y_N`), by rising p.

    Columns: `first` and `second` choice; `from_first`, `to_first`, `from_second`, `to_second`, the options moved, and `beyond`, `low`, `high` of moving both; `p` of
    no interaction, by Holm over all pairs; `r2_gain`, what the pair adds to R2 out of sample. Ordered choices are moved from their first option
    to their last along a line, so that a pair costs few degrees of freedom; of named options the clearest is shown.
    """
    y_N = np.asarray(y_N, dtype=float)
    base_NP = _design(_blocks(trials, choices, coding), len(y_N))
    lines = _blocks(trials, choices, "line")
    q_NR = _basis(base_NP)
    rest_N = y_N - q_NR @ (q_NR.T @ y_N)
    found: list[tuple[float, str, str, np.ndarray]] = []
    for first, second in combinations(lines, 2):
        pair_NP = _products(lines[first].values_NP, lines[second].values_NP)
        new_NR = _basis(pair_NP - q_NR @ (q_NR.T @ pair_NP), scale=np.abs(pair_NP).max(initial=0.0))
        spare = len(y_N) - q_NR.shape[1] - new_NR.shape[1]
        if new_NR.shape[1] == 0 or spare < LEAST_SPARE:
            continue
        explained = float(((new_NR.T @ rest_N) ** 2).sum())
        left = max(float(rest_N @ rest_N) - explained, 0.0)
        f = (explained / new_NR.shape[1]) / (left / spare) if left else math.inf
        found.append((float(stats.f.sf(f, new_NR.shape[1], spare)), first, second, pair_NP))
    rows = []
    adjusted = holm([p for p, *_ in found]) if found else np.array([])
    r2 = _r2(base_NP, y_N)
    for place in np.argsort(adjusted, kind="stable")[:_INTERACTIONS]:
        _, first, second, pair_NP = found[place]
        x_NP = np.column_stack([base_NP, pair_NP])
        unit_KP = np.eye(x_NP.shape[1])[base_NP.shape[1] :]
        estimates = _fit(x_NP, y_N).estimates(unit_KP)
        sure = [-math.inf if math.isnan(e) else abs(e) / max(high - e, 1e-300) for e, _, high in estimates]
        clearest = int(np.argmax(sure))
        a, b = divmod(clearest, lines[second].values_NP.shape[1])
        moved = (*_moved(lines[first], choices[first], a), *_moved(lines[second], choices[second], b))
        rows.append((first, second, *moved, *estimates[clearest], float(adjusted[place]), _r2(x_NP, y_N) - r2))
    columns = ["first", "second", "from_first", "to_first", "from_second", "to_second", "beyond", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "p", "r2_gain"], dtype=object)


def _products(a_NP: np.ndarray, b_NP: np.ndarray) -> np.ndarray:
    """Every column of one side times every one of the other."""
    return np.einsum("na,nb->nab", a_NP, b_NP).reshape(len(a_NP), -1)


def _moved(block: _Columns, options: Sequence[Any], column: int) -> tuple[Any, Any]:
    """The options that a column of a stiff model leads from and to."""
    return block.options[0], block.options[-1 if ordered(tuple(options)) else column + 1]


def on_front(trials: pd.DataFrame, choices: Choices) -> pd.DataFrame:
    """How often each option was on the Pareto front of the complete trials: `choice`, `option`, `trials`, `on_front`, `share`, `low`, `high`.

    The share (0 to 1) has Wilson's interval, which takes trials for independent draws; a search's are not quite, and on a front they crowd out
    one another.
    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference (1927), by scipy.
    """
    complete = trials[trials["state"] == "complete"]
    best_N = _on_front(complete)
    rows = []
    for name, options in choices.items():
        for option in options:
            with_it_N = (complete[name] == option).to_numpy()
            if number := int(with_it_N.sum()):
                hits = int(best_N[with_it_N].sum())
                interval = stats.binomtest(hits, number).proportion_ci(CONFIDENCE, method="wilson")
                rows.append((name, option, number, hits, hits / number, float(interval.low), float(interval.high)))
    columns = ["choice", "option", "trials", "on_front", "share", "low", "high"]
    return _frame(rows, columns, whole=["trials", "on_front"])


def _frame(rows: list[tuple[Any, ...]], columns: list[str], whole: list[str]) -> pd.DataFrame:
    """Rows of options as they are (pandas would make 4 a 4.0 beside 0.5), with the columns behind them as numbers."""
    kinds = {name: int if name in whole else float for name in columns[2:]}
    return pd.DataFrame(rows, columns=columns, dtype=object).astype(kinds)


def _on_front(complete: pd.DataFrame) -> np.ndarray:
    """Which of the complete trials (N,) stand on their front."""
    minimise = np.array([direction == "minimize" for direction in analysis.OBJECTIVES.values()])
    return analysis.non_dominated(complete[list(analysis.OBJECTIVES)].to_numpy(dtype=float), minimise)


def study_effects(trials: pd.DataFrame, choices: Choices) -> dict[str, Any]:
    """All of it as plain values: `objectives`, each with its model, importances, effects and interactions, and `front`.

    Accuracies are from complete trials alone, effects on them in accuracy (0 to 1). Costs are exact and from every network counted,
    stopped ones and those over the caps too; effects on them are ratios: 1.1 is a tenth more than the geometric mean. A model with no R2 out of sample
    has no effects and no interactions: they would be noise.

    Raises `UserError` for fewer complete trials than can say anything.
    """
    complete = trials[(trials["state"] == "complete") & trials["val_accuracy"].notna()]
    counted = trials[trials["state"].isin(_COUNTED) & trials["params"].notna()].drop_duplicates(list(choices))
    if len(complete) < (least := least_trials(complete, choices)):
        raise UserError(
            f"effects of these {sum(complete[name].nunique() > 1 for name in choices)} choices take at least {least} complete trials, and "
            f"there are {len(complete)}; go on with the study: `python -m studies.run --study NAME --trials N`"
        )
    objectives = {}
    for name, direction in analysis.OBJECTIVES.items():
        rows = complete if name == "val_accuracy" else counted
        values_N = rows[name].to_numpy(dtype=float)
        losses_N = values_N if direction == "minimize" else -values_N
        top = max(math.ceil(_TOP_SHARE * len(rows)), TOP_LEAST)
        of_importance = importance(rows, choices, losses_N, top)
        scale: Callable[[float], float] = float if name == "val_accuracy" else _ratio
        y_N = values_N if name == "val_accuracy" else np.log10(values_N)
        model = additive_model(rows, choices, y_N)
        says = model.r2 > 0
        pairs = interactions(rows, choices, y_N, model.coding) if says else pd.DataFrame()
        scaled = ["effect", "low", "high"]
        objectives[name] = {
            "unit": "accuracy (0 to 1)" if name == "val_accuracy" else "ratio",
            "trials": len(rows),
            "top": top,
            "model": {"coding": model.coding, "columns": model.columns, "r2": model.r2, "says_something": says},
            "choices": _drawn(_by_choice(model.effects, of_importance, scaled, scale), model.coding, choices)
            if says
            else _by_choice(None, of_importance),
            "interactions": [
                {key: _plain(scale(value) if key in ("beyond", "low", "high") else value) for key, value in row.items()}
                for row in pairs.to_dict("records")
            ],
        }
    best_N = _on_front(complete)
    front = importance(complete, choices, 1.0 - best_N, int(best_N.sum()))
    if best_N.sum() < TOP_LEAST:
        front[["importance", "noise"]] = np.nan
    return {
        "unvaried": {
            name: next(option for option in options if option in set(complete[name].dropna()))
            for name, options in choices.items()
            if complete[name].nunique() == 1
        },
        "objectives": objectives,
        "front": {
            "trials": len(complete),
            "on_front": int(best_N.sum()),
            "share": float(best_N.mean()),
            "choices": _by_choice(on_front(complete, choices), front),
        },
    }


def _ratio(log10: float) -> float:
    return float(10**log10)


def _by_choice(
    options: pd.DataFrame | None,
    of_importance: pd.DataFrame,
    scaled: Sequence[str] = (),
    scale: Callable[[float], float] = float,
) -> list[dict[str, Any]]:
    """A record for every choice, the most important first, with its options' rows."""
    records = []
    for of in of_importance.sort_values("importance", ascending=False, kind="stable").to_dict("records"):
        rows = [] if options is None else options[options["choice"] == of["choice"]].to_dict("records")
        if options is not None and not rows:
            continue  # it did not vary
        of_options = [
            {key: _plain(scale(row[key]) if key in scaled else row[key]) for key in row if key != "choice"}
            for row in rows
        ]
        records.append({key: _plain(value) for key, value in of.items()} | {"options": of_options})
    return records


def _drawn(records: list[dict[str, Any]], coding: str, choices: Choices) -> list[dict[str, Any]]:
    """The same, with `by_the_others` ('line' or 'curve') at every option of few trials whose effect is read off the fit through all options."""
    for record in records:
        fitted = coding != "step" and ordered(tuple(choices[record["choice"]])) and len(record["options"]) > 2
        for option in record["options"]:
            option["by_the_others"] = coding if fitted and option["trials"] < LEAST_OF_OPTION else None
    return records


def _plain(value: Any) -> Any:
    """A value for JSON: no numpy scalar, None for NaN, whole numbers without a point."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class _Fit(NamedTuple):
    """A least-squares fit: what is needed to estimate any contrast of its coefficients."""

    coefficients_P: np.ndarray
    covariance_PP: np.ndarray
    row_space_PP: np.ndarray
    spare: int

    def estimates(self, contrasts_KP: np.ndarray) -> list[tuple[float, float, float]]:
        """Estimate, low and high end of each contrast; NaN where the design does not determine it."""
        t = float(stats.t.ppf((1 + CONFIDENCE) / 2, self.spare))
        found = []
        for contrast_P in contrasts_KP:
            if np.abs(contrast_P - contrast_P @ self.row_space_PP).max() > 1e-6:
                found.append((math.nan, math.nan, math.nan))
                continue
            middle = float(contrast_P @ self.coefficients_P)
            half = t * math.sqrt(max(float(contrast_P @ self.covariance_PP @ contrast_P), 0.0))
            found.append((middle, middle - half, middle + half))
        return found


def _fit(x_NP: np.ndarray, y_N: np.ndarray) -> _Fit:
    inverse_PN = np.linalg.pinv(x_NP, rcond=1e-10)
    coefficients_P = inverse_PN @ y_N
    spare = len(y_N) - int(np.linalg.matrix_rank(x_NP))
    rest_N = y_N - x_NP @ coefficients_P
    variance = float(rest_N @ rest_N) / spare
    return _Fit(coefficients_P, variance * inverse_PN @ inverse_PN.T, inverse_PN @ x_NP, spare)


def _r2(x_NP: np.ndarray, y_N: np.ndarray) -> float:
    """The share of variance explained in trials left out of the fit; below 0 where their mean says more."""
    missed = spread = 0.0
    for held_N in _held_out(len(y_N)):
        kept_y_N = y_N[~held_N]
        coefficients_P = np.linalg.lstsq(x_NP[~held_N], kept_y_N, rcond=1e-10)[0]
        missed += float(((y_N[held_N] - x_NP[held_N] @ coefficients_P) ** 2).sum())
        spread += float(((y_N[held_N] - kept_y_N.mean()) ** 2).sum())
    return 1 - missed / spread if spread else 0.0


def _held_out(number: int) -> Iterator[np.ndarray]:
    """Masks (N,) of the trials of each fold; always the same ones."""
    rng = np.random.default_rng(0)
    for _ in range(_REPEATS):
        fold_N = rng.permutation(number) % _FOLDS
        yield from (fold_N == fold for fold in range(_FOLDS))


def _basis(x_NP: np.ndarray, scale: float | None = None) -> np.ndarray:
    """An orthonormal basis (N, R) of the columns; what is tiny beside `scale` (the largest singular value) is none."""
    u_NR, s_R, _ = np.linalg.svd(x_NP, full_matrices=False)
    return np.asarray(u_NR[:, s_R > 1e-8 * max(scale if scale is not None else s_R.max(initial=0.0), 1e-300)])


def _design(blocks: Mapping[str, _Columns], number: int) -> np.ndarray:
    """(N, P): a column of ones, then those of all choices."""
    return np.column_stack([np.ones(number), *(block.values_NP for block in blocks.values())])


def _blocks(trials: pd.DataFrame, choices: Choices, coding: str) -> dict[str, _Columns]:
    """The columns of every choice that varied."""
    blocks = {name: _columns(trials[name], tuple(options), coding) for name, options in choices.items()}
    return {name: block for name, block in blocks.items() if block is not None}


def _columns(values: pd.Series, options: tuple[Any, ...], coding: str) -> _Columns | None:
    places = {option: place for place, option in enumerate(options)}
    place_N = np.array([-1 if pd.isna(value) else places[value] for value in values], dtype=int)
    asked_N = place_N >= 0
    seen_K, level_N, trials_K = np.unique(place_N[asked_N], return_inverse=True, return_counts=True)
    if len(seen_K) < 2:
        return None
    if coding == "step" or not ordered(options):
        levels_KP = np.eye(len(seen_K))[:, 1:]
    else:
        powers = np.arange(1, min({"line": 1, "curve": 2}[coding], len(seen_K) - 1) + 1)
        levels_KP = ((seen_K - seen_K[0]) / (seen_K[-1] - seen_K[0]))[:, None] ** powers
    mean_P = trials_K @ levels_KP / trials_K.sum()
    values_NP = np.zeros((len(values), levels_KP.shape[1]))
    values_NP[asked_N] = (levels_KP - mean_P)[level_N.reshape(-1)]
    return _Columns(values_NP, [options[place] for place in seen_K], trials_K, levels_KP - mean_P)


def effects_report(records: StudyRecords) -> dict[str, Any]:
    """`study_effects` with what the study is about, and the ablation to ask for next."""
    trials, info = records.trials(), records.info
    places = list(trials.columns)
    names = places[places.index("same_as") + 1 :]
    if not names:
        raise UserError(
            f"study {records.name!r} was made with another version of space {info['space']['name']!r}, so that its choices can not be read; "
            f"go back to revision {info['provenance'].get('git')}"
        )
    choices = get_space(info["space"]["name"]).choices
    place = "" if records.path.parent == Path("runs") else f" --runs {shlex.quote(str(records.path.parent))}"
    try:
        found = study_effects(trials, choices)
    except UserError as error:
        named = str(error).replace("python -m studies.run --study NAME --trials N", records.going_on())
        raise UserError(named) from error
    states = trials["state"].value_counts()
    best = int(analysis.front(trials)["trial"].iloc[0])
    chosen = _factors(found["objectives"]["val_accuracy"]["choices"], _active(trials, best))
    return {
        "study": records.name,
        "evidence": f"observational: {OBSERVATIONAL}",
        "ablation": f"python -m studies.ablate --study {records.name} --trial {best} --factors {','.join(chosen)}{place}",
        "data": {key: info["data"][key] for key in ("name", "synthetic", "counts", "digest", "fold")},
        "space": info["space"]["name"],
        "sampler": info.get("sampler") or _sampler(info["provenance"]["command"]),
        "states": {str(state): int(number) for state, number in states.items()},
        "confidence": CONFIDENCE,
        **found,
    }


def _factors(choices: Sequence[Mapping[str, Any]], active: Sequence[str], most: int = 3) -> list[str]:
    """What to ablate of what is `active`: the choices above the noise, or else the first; a block's choice under the name that all blocks share, a
    family's without its family."""
    begins = "|".join(family.begins for family in FAMILIES.values())

    def known(rows: Iterable[Mapping[str, Any]]) -> list[str]:
        names = (re.sub(rf"^(b\d+|{begins})_", "", of["choice"]) for of in rows)
        return list(dict.fromkeys(name for name in names if name in active))

    clear = known(of for of in choices if of["importance"] is not None and of["importance"] > of["noise"])
    return clear[:most] or known(choices)[:1] or ["operator" if "operator" in active else active[0]]


def _active(trials: pd.DataFrame, number: int) -> list[str]:
    """What an ablation can change in a trial's network; the front end, which is no choice of a space, is any."""
    network = resolve(str(trials.set_index("trial").loc[number, "architecture"]))
    setting = Setting(network, get_recipe("short"), {"mels": 256, "n_fft": 2048, "hop": 1024})
    return [name for name, of in factors(setting).items() if not of.inactive]


def _sampler(command: str) -> str | None:
    """The sampler of the command that began a study which does not record it; None where another program did."""
    words = shlex.split(command)
    if "studies.run" not in words:
        return None
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--sampler", default="tpe")
    return str(parser.parse_known_args(words[words.index("studies.run") + 1 :])[0].sampler)
