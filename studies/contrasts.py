"""What the runs of a base and its variants say: a row a variant, with what is inside the noise called so, and the same rows as text, csv, Markdown
and LaTeX. Pure functions.

Accuracies are 0 to 1, differences points (hundredths of accuracy), relative changes shares of the base's accuracy: the paper's "15.97 %" is
the last of these, its 10.57 points the one before.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.table import Table

from studies.charts import quantity
from studies.differences import POWER, Difference, bootstrap_interval, factorial_effects, holm, paired, seeds_for
from studies.statistics import CONFIDENCE

INSIDE, BETTER, WORSE, ONE_RUN, NO_NOISE = "inside the noise", "better", "worse", "one run", "no noise measured"
"""What is said of a difference. Better and worse take an adjusted p below 0.05; where all runs differ by the same there is none."""

_LONGEST_LABEL = 34  # characters, in a terminal's table without a break


class Arm(NamedTuple):
    """One side of a comparison: val accuracies of its runs in an order that all arms share, the same of test, and what it is and costs."""

    variant: str
    changes: tuple[tuple[str, str, str], ...]
    facts: dict[str, Any]
    params: int
    macs: int
    val: list[float]
    test: list[dict[str, Any]]


def build_rows(
    base: Arm, others: Sequence[Arm], overlap: float = 0.0, folds: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """A row an arm, the base's first: means and deviations over its runs, and the difference to the base run by run (points) with its interval and
    its p, adjusted after Holm for as many variants as there are. `overlap` and `folds` are as for `differences.paired`."""
    rows = [_row(base, base, None)]
    differences = [_difference(arm.val, base.val, overlap, folds) for arm in others]
    adjusted = iter(holm([found["p"] for found in differences if found["p"] is not None]))
    for arm, found in zip(others, differences, strict=True):
        if found["p"] is not None:
            found["p_holm"] = float(next(adjusted))
        rows.append(_row(arm, base, found))
    return rows


def build_effects(
    val_by_cell: Mapping[tuple[str, ...], Sequence[float]],
    levels: Mapping[str, Sequence[str]],
    overlap: float = 0.0,
    folds: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """A factorial's main effects and two-way interactions in points, each with its interval and Holm's p over all of them."""
    points = {cell: [100 * accuracy for accuracy in val] for cell, val in val_by_cell.items()}
    effects = factorial_effects(points, levels, overlap, folds)
    differences = [_told(effect.difference) for effect in effects]
    adjusted = iter(holm([found["p"] for found in differences if found["p"] is not None]).tolist())
    rows = []
    for effect, found in zip(effects, differences, strict=True):
        if found["p"] is not None:
            found["p_holm"] = next(adjusted)
        label = " x ".join(f"{name}={level}" for name, level in zip(effect.factors, effect.levels, strict=True))
        rows.append({"effect": label, "difference_points": found, "verdict": _verdict(found)})
    return rows


def noise(rows: Iterable[Mapping[str, Any]], effect: float = 1.0, several_folds: bool = False) -> dict[str, Any]:
    """The deviation of the paired differences pooled over all variants (points), and the seeds with which an effect of so many points shows with
    a probability of `POWER`: in one test alone, and after Holm as the smallest p of as many as there are rows.

    None where no noise was measured, and for the seeds with several folds: runs on folds that share clips are no independent ones, and more seeds
    do not make them so.
    """
    found = [row["difference_points"] for row in rows if row["difference_points"]]
    deviations = [of["std"] for of in found if of["std"]]
    pooled = math.sqrt(statistics.fmean(std**2 for std in deviations)) if deviations else None
    alone = corrected = None
    if pooled is not None and not several_folds:
        alone, corrected = (seeds_for(effect, pooled, alpha=(1 - CONFIDENCE) / tests) for tests in (1, len(found)))
    return {
        "pooled_std_points": pooled,
        "effect_points": effect,
        "tests": len(found),
        "seeds_alone": alone,
        "seeds_after_holm": corrected,
        "several_folds": several_folds,
    }


def say_noise(of: Mapping[str, Any]) -> str:
    """That, as a sentence."""
    if of["pooled_std_points"] is None:
        return "No noise was measured (more seeds would): nothing here tells an effect from chance."
    begin = f"Paired differences deviate by {of['pooled_std_points']:.2f} points (pooled over the variants)"
    if of["several_folds"]:
        return f"{begin}; how many runs an effect would need is not said for folds that share clips: more seeds do not make them independent."
    alone, corrected = (
        "more than 100,000" if of[key] is None else f"{of[key]:,}" for key in ("seeds_alone", "seeds_after_holm")
    )
    return (
        f"{begin}: to show with a probability of {POWER:g}, an effect of {of['effect_points']:g} point{'s' * (of['effect_points'] != 1)} would need "
        f"{alone} seeds in one test alone, and {corrected} as the clearest of these {of['tests']} after Holm."
    )


def _difference(
    val: Sequence[float], base: Sequence[float], overlap: float, folds: Sequence[int] | None
) -> dict[str, Any]:
    points = [100 * (mine - theirs) for mine, theirs in zip(val, base, strict=True)]
    if len(points) < 2:
        unknown: dict[str, Any] = dict.fromkeys((*Difference._fields, "bootstrap", "p_holm"))
        return {**unknown, "n": 1, "mean": points[0]}
    found = _told(paired(points, overlap, folds_N=folds))
    if overlap == 0 and found["p"] is not None:  # the bootstrap draws runs as if they were independent
        found["bootstrap"] = bootstrap_interval(points)
    return found


def _told(difference: Difference) -> dict[str, Any]:
    """A difference as a record; JSON has no NaN."""
    found = {key: None if math.isnan(value) else value for key, value in difference._asdict().items()}
    return {**found, "bootstrap": None, "p_holm": None}


def _row(arm: Arm, base: Arm, found: dict[str, Any] | None) -> dict[str, Any]:
    base_mean = statistics.fmean(base.val)

    def mean_of(key: str) -> float | None:
        known = [scores[key] for scores in arm.test if scores.get(key) is not None]
        return statistics.fmean(known) if known else None

    return {
        "variant": arm.variant,
        "changes": [{"factor": factor, "from": level, "to": to} for factor, level, to in arm.changes],
        **arm.facts,
        "params": arm.params,
        "params_difference": arm.params - base.params,
        "macs": arm.macs,
        "macs_difference": arm.macs - base.macs,
        "n": len(arm.val),
        "val": arm.val,
        "val_mean": statistics.fmean(arm.val),
        "val_std": statistics.stdev(arm.val) if len(arm.val) > 1 else None,
        "difference_points": found,
        "relative": None if found is None or base_mean == 0 else found["mean"] / 100 / base_mean,
        "test": [scores["accuracy"] for scores in arm.test],
        "test_mean": mean_of("accuracy"),
        "seen_mean": mean_of("seen"),
        "unseen_mean": mean_of("unseen"),
        "verdict": None if found is None else _verdict(found),
    }


def _verdict(found: Mapping[str, Any]) -> str:
    if found.get("p_holm") is None:
        return ONE_RUN if found["n"] == 1 else NO_NOISE
    if found["p_holm"] >= 1 - CONFIDENCE:
        return INSIDE
    return BETTER if found["mean"] > 0 else WORSE


# ------------------------------------------------------------------------------------------------------------- as text


def changed(row: Mapping[str, Any]) -> str:
    """What a row changed: operator: spc -> conv."""
    return "; ".join(f"{of['factor']}: {of['from']} -> {of['to']}" for of in row["changes"]) or "(the base)"


def _headings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    headings = ["variant", "n", "val accuracy, %", "difference, points [95 %]"]
    headings += ["bootstrap [95 %]"] if _any(rows, "bootstrap") else []
    headings += ["relative, %", "p (Holm)", "params", "MACs"]
    headings += ["test, %"] if any(row["test_mean"] is not None for row in rows) else []
    headings += ["seen, %", "unseen, %"] if any(row["unseen_mean"] is not None for row in rows) else []
    return [*headings, "verdict"]


def _any(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(row["difference_points"] and row["difference_points"][key] for row in rows)


def _cells(row: Mapping[str, Any], headings: Sequence[str]) -> list[str]:
    found = row["difference_points"]
    also = f" (= {', '.join(row['also'])})" if row.get("also") else ""
    written = {
        "variant": changed(row) + also,
        "n": f"{row['n']}",
        "val accuracy, %": f"{100 * row['val_mean']:.1f}"
        + ("" if row["val_std"] is None else f" ± {100 * row['val_std']:.1f}"),
        "difference, points [95 %]": interval_text(found) if found else "",
        "bootstrap [95 %]": "[{:+.1f}, {:+.1f}]".format(*found["bootstrap"]) if found and found["bootstrap"] else "",
        "relative, %": "" if row["relative"] is None else f"{100 * row['relative']:+.1f}",
        "p (Holm)": p_text(found["p_holm"]) if found else "",
        "params": f"{quantity(row['params'])}" + (f" ({_signed(row['params_difference'])})" if found else ""),
        "MACs": f"{quantity(row['macs'])}" + (f" ({_signed(row['macs_difference'])})" if found else ""),
        "test, %": _share(row["test_mean"]),
        "seen, %": _share(row["seen_mean"]),
        "unseen, %": _share(row["unseen_mean"]),
        "verdict": row["verdict"] or "",
    }
    return [written[heading] for heading in headings]


def interval_text(found: Mapping[str, Any]) -> str:
    """A difference with its interval in points: -3.2 [-5.1, -1.3]; without one where there is none."""
    text = f"{found['mean']:+.1f}"
    return text if found["low"] is None else f"{text} [{found['low']:+.1f}, {found['high']:+.1f}]"


def p_text(p: float | None) -> str:
    """A p-value to three places, or that it is below them."""
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _signed(number: int) -> str:
    return "=" if number == 0 else f"{'+' if number > 0 else '-'}{quantity(abs(number))}"


def as_records(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The rows as text by heading, for a table on a page."""
    headings = _headings(rows)
    return [dict(zip(headings, _cells(row, headings), strict=True)) for row in rows]


def effects_records(effects: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """A factorial's effects as text by heading."""
    return [dict(zip(_EFFECT_HEADINGS, _effect_cells(row), strict=True)) for row in effects]


def table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """The rows for a terminal."""
    headings = _headings(rows)
    cells = [_cells(row, headings) for row in rows]
    drawn = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for number, heading in enumerate(headings):
        short = heading != "verdict" and max(len(row[number]) for row in cells) <= _LONGEST_LABEL
        lines = heading.replace(", ", ",\n").replace(" [", "\n[")
        drawn.add_column(lines, justify="left" if heading in ("variant", "verdict") else "right", no_wrap=short)
    for row in cells:
        drawn.add_row(*(cell if number == 0 else cell.replace(" (", "\n(") for number, cell in enumerate(row)))
    return drawn


def effects_table(effects: Sequence[Mapping[str, Any]]) -> Table:
    """A factorial's effects for a terminal."""
    drawn = Table(
        box=box.SIMPLE_HEAD,
        title="effects over all combinations: one factor moved from the base's level, or two beyond the sum of both",
    )
    for heading in _EFFECT_HEADINGS:
        drawn.add_column(heading, justify="left" if heading in ("effect", "verdict") else "right")
    for row in effects:
        drawn.add_row(*_effect_cells(row))
    return drawn


_EFFECT_HEADINGS = ("effect", "n", "difference, points [95 %]", "p (Holm)", "verdict")


def _effect_cells(row: Mapping[str, Any]) -> list[str]:
    found = row["difference_points"]
    return [row["effect"], f"{found['n']}", interval_text(found), p_text(found["p_holm"]), row["verdict"]]


def forest_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What `studies.charts.forest_figure` draws of a report: its rows but for the base, then the effects of a factorial."""
    rows = [
        {
            "label": changed(row),
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


def as_csv(rows: Sequence[Mapping[str, Any]], synthetic: bool) -> str:
    """The rows as numbers, a line each: accuracies 0 to 1, differences in points, `relative` a share of the base's accuracy."""
    of_difference = ("mean", "std", "low", "high", "p", "p_holm")
    plain = ("n", "val_mean", "val_std", "relative", "params", "params_difference", "macs", "macs_difference")
    last = ("test_mean", "seen_mean", "unseen_mean", "verdict", "network", "recipe")
    points = [f"points_{key}" for key in (*of_difference, "bootstrap_low", "bootstrap_high")]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["variant", "changed", *plain, *points, *last, "synthetic_data"])
    for row in rows:
        found = row["difference_points"] or {}
        numbers = [found.get(key) for key in of_difference]
        numbers += list(found.get("bootstrap") or (None, None))
        facts = [row[key] for key in plain], [row.get(key) for key in last]
        writer.writerow([row["variant"], changed(row), *facts[0], *numbers, *facts[1], synthetic])
    return file.getvalue()


def as_markdown(
    rows: Sequence[Mapping[str, Any]], effects: Sequence[Mapping[str, Any]], title: str, notes: Sequence[str]
) -> str:
    """The rows, the effects and the notes as Markdown."""

    def lines(headings: Sequence[str], cells: Iterable[Sequence[str]]) -> list[str]:
        escaped = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
        return ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings), *escaped, ""]

    headings = _headings(rows)
    parts = [f"**{title}**", "", *lines(headings, (_cells(row, headings) for row in rows))]
    if effects:
        parts += lines(_EFFECT_HEADINGS, map(_effect_cells, effects))
    return "\n".join([*parts, *(f"{note}\n" for note in notes)])


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "±": r"$\pm$",
        "→": r"$\to$",
        "<": "$<$",
        ">": "$>$",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{mark: f"\\{mark}" for mark in "%&#_${}"},
    }
)


def as_latex(
    rows: Sequence[Mapping[str, Any]], effects: Sequence[Mapping[str, Any]], title: str, notes: Sequence[str]
) -> str:
    r"""The rows and the effects as a table of LaTeX's booktabs (`\usepackage{booktabs}`), with the notes below."""

    def escape(text: str) -> str:
        return text.replace("->", "→").translate(_LATEX)

    def tabular(headings: Sequence[str], cells: Iterable[Sequence[str]]) -> list[str]:
        columns = "".join("l" if heading in ("variant", "effect", "verdict") else "r" for heading in headings)
        rule = [r"\begin{tabular}{" + columns + "}", r"\toprule", _joined(map(escape, headings)), r"\midrule"]
        return [*rule, *(_joined(map(escape, row)) for row in cells), r"\bottomrule", r"\end{tabular}"]

    headings = _headings(rows)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{escape(title)}}}"]
    lines += tabular(headings, (_cells(row, headings) for row in rows))
    if effects:
        lines += [r"\par\bigskip", *tabular(_EFFECT_HEADINGS, map(_effect_cells, effects))]
    lines += [r"\par\smallskip\footnotesize", *(rf"{escape(note)}\par" for note in notes), r"\end{table}", ""]
    return "\n".join(lines)


def _joined(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"
