"""Figures of all networks of a study: the front, in two and three dimensions, all choices at once, and how the hypervolume grew."""

from __future__ import annotations

import html
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from search_space.complexity import BYTES
from studies import analysis
from studies.charts import (
    BENEATH,
    BLUE,
    COSTS,
    GREEN,
    GREY,
    MARKED_WORDS,
    PRINTED_WORDS,
    PURPLE,
    SCALE,
    SERIES,
    VERMILLION,
    layout,
    per_cent,
    quantity,
    ticks,
)
from studies.published import Mark

_HOVER = ["trial", "preset", "architecture", "val_accuracy", "params", "macs"]
_SMALLEST, _LARGEST = 8.0, 24.0  # marker diameters in pixels
_CROWD = 1_500
"""Assumed: from so many networks on markers are smaller. WebGL draws 10,000 of them no sooner than SVG does (`benchmarks.page`)."""
_UNTRAINED = {"over_cap": ("over a cap", "line-ns-open"), "failed": ("failed", "x-thin-open")}


class Cap(NamedTuple):
    """The most a network may cost in one of `COSTS`, and what says so."""

    cost: str
    most: float
    label: str


def caps_of(info: Mapping[str, Any]) -> list[Cap]:
    """The caps of a study (`info` is the study's) that can be drawn: those on its own params and MACs, and bytes as the params they hold."""
    caps = [
        Cap(cost, info[f"max_{cost}"], f"at most {quantity(info[f'max_{cost}'])}")
        for cost in COSTS
        if info.get(f"max_{cost}")
    ]
    limits = info.get("limits") or {}
    for most, precision in (
        (info.get("max_bytes"), info.get("precision") or "float16"),
        (limits.get("param_bytes"), limits.get("dtype", "float16")),
    ):
        if most and precision in BYTES:
            caps.append(Cap("params", most / BYTES[precision], f"{most:,} bytes of {precision}"))
    return caps


def front_figure(
    trials: pd.DataFrame,
    x: str = "params",
    title: str = "",
    synthetic: bool = False,
    marked: Collection[int] = (),
    colour: str | None = None,
    caps: Sequence[Cap] = (),
    published: Sequence[Mark] = (),
    confirmed: pd.DataFrame | None = None,
    retrained: pd.DataFrame | None = None,
    front: Collection[int] | None = None,
    budget: int | None = None,
) -> go.Figure:
    """Validation accuracy (per cent) against `x` ('params' or 'macs', log axis) of the networks that were scored, the front drawn.

    A marker's size is the other cost, as in the paper's Fig. 1. The front is that of all three objectives (`front` names it where `trials` are a part
    of the study); the staircase joins the best accuracy reached up to each value of `x`. Networks that were stopped early are hollow, at the
    accuracy of their last rung, which is not what they would have reached. Those over a cap and those that failed stand on the floor.
    Presets carry a diamond and their name, `published` networks a star, `confirmed` ones (`StudyRecords.confirmed`) a square at the mean of the new
    seeds with its interval, `retrained` ones (`studies.jobs.retrained`) a triangle at the mean of their seeds. The legend says how long they were trained
    where that is not the `budget` (clips) of the trials. `colour` is a choice of the space; then the front's networks are the opaque ones. `customdata` is [trial number];
    `marked` are drawn as selected.
    """
    other = next(cost for cost in COSTS if cost != x)
    complete = trials[trials["state"] == "complete"].sort_values("trial")
    stopped = trials[trials["state"] == "stopped"].dropna(subset=["rung_accuracy"])
    stopped = stopped.assign(val_accuracy=stopped["rung_accuracy"])
    numbers = set(analysis.front(complete)["trial"]) if front is None else set(front)
    on_front = complete["trial"].isin(numbers)
    presets = complete[complete["preset"].fillna("") != ""]
    crowded = len(complete) + len(stopped) > _CROWD
    sizes = _sizes(pd.concat([complete[other], stopped[other]]), 0.6 if crowded else 1.0)

    figure = go.Figure()
    if len(stopped):
        ring = {"color": GREY, "symbol": "circle-open", "opacity": 0.5, "line": {"width": 1}}
        figure.add_trace(
            _networks(
                stopped,
                x,
                name=f"stopped early ({len(stopped):,})",
                mode="markers",
                marker=ring | {"size": (0.7 * sizes[stopped.index]).tolist()},
            )
        )
    figure.add_trace(_staircase(complete, x))
    if colour is None:
        groups = [("other networks", ~on_front, GREY), ("on the front", on_front, BLUE)]
        for name, mask, shade in groups:
            rows = complete[mask]
            marker = {"color": shade, "opacity": 0.9, "size": sizes[rows.index].tolist(), "line": {"width": 0}}
            figure.add_trace(_networks(rows, x, name=f"{name} ({len(rows):,})", mode="markers", marker=marker))
    else:
        for trace in _coloured(complete, x, colour, on_front, sizes):
            figure.add_trace(trace)
    outline = {"color": VERMILLION, "symbol": "diamond-open", "line": {"width": 2}}
    figure.add_trace(
        _networks(
            presets,
            x,
            name="presets",
            mode="markers",
            marker=outline | {"size": (sizes[presets.index] + 9).tolist()},
        )
    )
    for trace in (_confirmed(confirmed, x, budget), _retrained(retrained, x), _published(published, x)):
        if trace is not None:
            figure.add_trace(trace)
    for trace in _floor(trials, x, [*complete["val_accuracy"], *stopped["val_accuracy"]]):
        figure.add_trace(trace)
    if marked:
        for trace in figure.data:
            if trace.customdata is not None:
                trace.selectedpoints = [i for i, [trial] in enumerate(trace.customdata) if trial in marked]
    figure.update_traces(
        unselected={"marker": {"opacity": 0.4}}, selected={"marker": {"opacity": 1}}, selector=_is_networks
    )
    scores = [*complete["val_accuracy"], *stopped["val_accuracy"], *_reached(confirmed, retrained, published)]
    for note in _names(presets, x, scores):
        figure.add_annotation(note)

    shown = pd.concat([complete[x], stopped[x]])
    places = ticks(shown)
    figure.update_xaxes(
        title=COSTS[x], type="log", tickvals=places, ticktext=[quantity(tick, figures=1) for tick in places]
    )
    figure.update_yaxes(title="validation accuracy (%)", ticksuffix=" %")
    for cap in caps:
        if cap.cost == x:
            figure.add_vline(x=cap.most, line={"color": VERMILLION, "width": 1.5, "dash": "dash"})
            figure.add_annotation(
                x=np.log10(cap.most),
                y=0,
                yref="paper",
                text=html.escape(cap.label),
                textangle=-90,
                xanchor="right",
                yanchor="bottom",
                showarrow=False,
                font={"color": MARKED_WORDS},
            )
    sized_by = {"text": f"marker size: {'MACs' if other == 'macs' else other}", "side": "top"}
    figure.update_layout(
        layout(title, synthetic),
        legend=BENEATH | {"title": sized_by},
        hovermode="closest",
        clickmode="event+select",
        dragmode="zoom",
    )
    if complete.empty and stopped.empty:
        figure.add_annotation(text="no scored network", showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    return figure


def space_figure(
    trials: pd.DataFrame, title: str = "", synthetic: bool = False, colour: str | None = None
) -> go.Figure:
    """Params, MACs (both log) and validation accuracy (per cent) of the complete trials in three dimensions, to be turned."""
    complete = trials[trials["state"] == "complete"].sort_values("trial")
    on_front = complete["trial"].isin(analysis.front(complete)["trial"])
    figure = go.Figure()
    groups: list[tuple[str, pd.DataFrame, dict[str, Any]]]
    if colour is None:
        groups = [
            (f"other networks ({(~on_front).sum():,})", complete[~on_front], {"color": GREY, "opacity": 0.6}),
            (f"on the front ({on_front.sum():,})", complete[on_front], {"color": BLUE}),
        ]
    else:
        groups = [(name, rows, marker) for name, rows, marker in _groups(complete, colour)]
    for name, rows, marker in groups:
        figure.add_trace(
            go.Scatter3d(
                x=rows["params"].tolist(),
                y=rows["macs"].tolist(),
                z=(100 * rows["val_accuracy"].astype(float)).tolist(),
                customdata=[[int(trial)] for trial in rows["trial"]],
                hovertext=_hover(rows),
                hovertemplate="%{hovertext}<extra></extra>",
                mode="markers",
                name=name,
                marker={"size": 4, **marker},
            )
        )
    axes = {}
    for axis, cost in (("xaxis", "params"), ("yaxis", "macs")):
        places = ticks(complete[cost])[::2]
        axes[axis] = {
            "title": {"text": COSTS[cost].split(" ")[0]},
            "type": "log",
            "tickvals": places,
            "ticktext": [quantity(tick, figures=1) for tick in places],
        }
    figure.update_layout(
        layout(title, synthetic),
        scene={
            **axes,
            "zaxis": {"title": {"text": "validation accuracy (%)"}},
            "camera": {"eye": {"x": -1.6, "y": -1.6, "z": 0.7}},
        },
        legend=BENEATH | {"y": 0},
    )
    return figure


def parallel_figure(
    trials: pd.DataFrame, choices: Sequence[str], title: str = "", synthetic: bool = False, dark: bool = False
) -> go.Figure:
    """The complete trials as lines through an axis for every choice that differs among them, and one for every objective; coloured by accuracy.

    A choice that means nothing for a network stands at '–'. `dark` fits the axes to a dark page."""
    complete = trials[trials["state"] == "complete"].sort_values("val_accuracy")
    dimensions: list[dict[str, Any]] = []
    for choice in choices:
        values = complete[choice]
        options = sorted(values.dropna().unique().tolist())
        if len(options) + bool(values.isna().any()) < 2:
            continue
        written = [option_text(option) for option in options]
        places = values.map({option: place + 1 for place, option in enumerate(options)}).fillna(0)
        blank = [0] if values.isna().any() else []
        dimensions.append(
            {
                "label": html.escape(choice.replace("_", " ")),
                "values": places.astype(float).tolist(),
                "tickvals": [*blank, *range(1, len(options) + 1)],
                "ticktext": [*(["–"] * len(blank)), *map(html.escape, written)],
            }
        )
    for cost in COSTS:
        places_ = [tick for tick in ticks(complete[cost]) if complete[cost].min() <= tick <= complete[cost].max()]
        dimensions.append(
            {
                "label": "params" if cost == "params" else "MACs",
                "values": np.log10(complete[cost].to_numpy(dtype=float)).tolist(),
                "tickvals": np.log10(places_).tolist(),
                "ticktext": [quantity(tick, figures=1) for tick in places_],
            }
        )
    accuracy = (100 * complete["val_accuracy"].astype(float)).tolist()
    dimensions.append({"label": "val accuracy (%)", "values": accuracy})
    words = "#e4eaf0" if dark else "#1d2733"
    figure = go.Figure(
        go.Parcoords(
            dimensions=dimensions,
            line={
                "color": accuracy,
                "colorscale": SCALE,
                "showscale": True,
                "colorbar": {
                    "title": {"text": "accuracy (%)", "side": "right", "font": {"color": words, "size": 12}},
                    "tickfont": {"color": words, "size": 11},
                    "thickness": 12,
                    "outlinewidth": 0,
                },
            },
            labelfont={"color": words, "size": 12},
            tickfont={"color": words, "size": 11},
            rangefont={"color": "rgba(0,0,0,0)", "size": 1},
            labelangle=-25 if len(dimensions) > 7 else 0,
        )
    )
    widest = max(
        map(len, dimensions[0].get("ticktext", [""])), default=0
    )  # of the words that stand left of the first axis
    figure.update_layout(layout(title, synthetic), margin={"t": 106, "l": max(50, 16 + 8 * widest), "r": 50, "b": 20})
    return figure


def course_figure(
    courses: Mapping[str, pd.DataFrame],
    x: str = "trials",
    title: str = "",
    synthetic: bool = False,
    baselines: Collection[str] = (),
) -> go.Figure:
    """How the hypervolume of each study grew (`analysis.hypervolume_course`) over the networks or the clips seen (`x`: 'trials', 'clips').

    `baselines` are the studies that drew at random: grey and dashed."""
    figure = go.Figure()
    colours = iter(SERIES * len(courses))
    for name, course in courses.items():
        random = name in baselines
        line = {"color": GREY, "dash": "dash"} if random else {"color": next(colours)}
        figure.add_trace(
            go.Scatter(
                x=[0, *course[x]],
                y=[0.0, *course["hypervolume"]],
                name=html.escape(f"{name} (random baseline)" if random else name),
                mode="lines",
                line={**line, "width": 2, "shape": "hv"},
                hovertemplate=f"{html.escape(name)}<br>%{{x:,}} {x}: %{{y:.4f}}<extra></extra>",
                showlegend=len(courses) > 1,
            )
        )
    figure.update_xaxes(
        title="networks, complete or stopped" if x == "trials" else "training clips seen", rangemode="tozero"
    )
    figure.update_yaxes(title="hypervolume (accuracy × decades²)", rangemode="tozero")
    figure.update_layout(layout(title, synthetic), legend=BENEATH, hovermode="closest")
    return figure


def fronts_figure(
    studies: Mapping[str, pd.DataFrame],
    x: str = "params",
    title: str = "",
    synthetic: bool = False,
    baselines: Collection[str] = (),
) -> go.Figure:
    """The fronts of several studies (their trials by name) over one another: the networks on each, and the best accuracy up to each cost."""
    figure = go.Figure()
    colours = iter(SERIES * len(studies))
    everything = []
    for name, trials in studies.items():
        random = name in baselines
        colour = GREY if random else next(colours)
        complete = trials[trials["state"] == "complete"]
        front = analysis.front(complete)
        everything.append(front[x])
        stairs = _staircase(complete, x)
        stairs.update(line={"color": colour, "dash": "dash" if random else "solid"}, legendgroup=name)
        figure.add_trace(stairs)
        marker = {"color": colour, "size": 9, "symbol": "diamond" if random else "circle"}
        said = html.escape(f"{name} (random baseline)" if random else name)
        points = _networks(front, x, name=said, mode="markers", marker=marker, legendgroup=name)
        points.hovertext = [f"{html.escape(name)}<br>{text}" for text in points.hovertext]
        figure.add_trace(points)
    places = ticks(pd.concat(everything)) if everything else []
    figure.update_xaxes(
        title=COSTS[x], type="log", tickvals=places, ticktext=[quantity(tick, figures=1) for tick in places]
    )
    figure.update_yaxes(title="validation accuracy (%)", ticksuffix=" %")
    figure.update_layout(layout(title, synthetic), legend=BENEATH, hovermode="closest")
    return figure


def option_text(option: Any) -> str:
    """An option for people: 0.5, 4, sc; '–' for none."""
    if isinstance(option, str):
        return option
    return "–" if pd.isna(option) else f"{option:g}"


def _sizes(costs: pd.Series, scale: float = 1.0) -> pd.Series:
    """Marker diameters (pixels), linear in the logarithm of the cost, the middle one where all cost the same."""
    logs = costs.astype(float).map(np.log10)
    spread = logs.max() - logs.min()
    share = (logs - logs.min()) / spread if spread > 0 else logs * 0 + 0.5
    return ((share * (_LARGEST - _SMALLEST) + _SMALLEST) * scale).round(1)


def _hover(rows: pd.DataFrame) -> list[str]:
    return [
        f"<b>trial {trial}{' · ' + html.escape(preset) if isinstance(preset, str) and preset else ''}</b><br>{html.escape(architecture)}"
        f"<br>{per_cent(accuracy)} · {quantity(params)} params · {quantity(macs)} MACs"
        for trial, preset, architecture, accuracy, params, macs in rows[_HOVER].itertuples(index=False, name=None)
    ]


def _networks(rows: pd.DataFrame, x: str, **style: Any) -> go.Scatter:
    """The trials as points that say who they are under the pointer and hand on their number when clicked."""
    hover = _hover(rows)
    stopped = rows["state"].to_numpy() == "stopped" if "state" in rows else np.zeros(len(rows), dtype=bool)
    if stopped.any():
        seen = rows["clips"].tolist()
        hover = [
            f"{text}<br>stopped after {clips:,} clips" if early else text
            for text, clips, early in zip(hover, seen, stopped, strict=True)
        ]
    return go.Scatter(
        x=rows[x].tolist(),
        y=(100 * rows["val_accuracy"].astype(float)).round(3).tolist(),
        customdata=[[trial] for trial in rows["trial"].tolist()],
        hovertext=hover,
        hovertemplate="%{hovertext}<extra></extra>",
        **style,
    )


def _is_networks(trace: Any) -> bool:
    return trace.customdata is not None


def _groups(rows: pd.DataFrame, colour: str) -> list[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """The rows by what they chose, each with its name and colour: one of the series for a word, the scale for a number."""
    values, called = rows[colour], colour.replace("_", " ")
    words = [option for option in values.dropna().unique().tolist() if isinstance(option, str)]
    groups: list[tuple[str, pd.DataFrame, dict[str, Any]]] = []
    if words:
        for index, option in enumerate(sorted(words)):
            groups.append((f"{called} {option}", rows[values == option], {"color": SERIES[index % len(SERIES)]}))
    else:
        known = rows[values.notna()]
        options = sorted(known[colour].unique().tolist())
        bar = {"title": {"text": called}, "thickness": 12, "outlinewidth": 0}
        if len(options) <= 8:
            bar |= {"tickvals": options, "ticktext": [option_text(option) for option in options]}
        numbers = known[colour].astype(float).tolist()
        groups.append((called, known, {"color": numbers, "colorscale": SCALE, "colorbar": bar}))
    without = rows[values.isna()]
    return groups + ([(f"no {called}", without, {"color": GREY})] if len(without) else [])


def _coloured(complete: pd.DataFrame, x: str, colour: str, on_front: pd.Series, sizes: pd.Series) -> list[Any]:
    """The complete trials coloured by a choice, faint where they are not on the front."""
    traces = []
    for name, rows, marker in _groups(complete, colour):
        opacity = on_front[rows.index].map({True: 1.0, False: 0.45}).tolist()
        style = marker | {"opacity": opacity, "size": sizes[rows.index].tolist(), "line": {"width": 0}}
        traces.append(_networks(rows, x, name=html.escape(f"{name} ({len(rows):,})"), mode="markers", marker=style))
    return traces


def _confirmed(confirmed: pd.DataFrame | None, x: str, budget: int | None) -> go.Scatter | None:
    """The means of the new seeds with their intervals, and after how many clips; in the legend where the trials had another `budget`."""
    if confirmed is None or confirmed.empty:
        return None
    mean, high, low = (100 * confirmed[column].astype(float) for column in ("val_mean", "val_high", "val_low"))
    known = "budget" in confirmed
    after = [f" after {int(clips):,} clips" for clips in confirmed["budget"]] if known else [""] * len(confirmed)
    other = "".join(set(after)) if known and set(confirmed["budget"]) != {budget} and len(set(after)) == 1 else ""
    return go.Scatter(
        x=confirmed[x].tolist(),
        y=mean.tolist(),
        error_y={
            "type": "data",
            "symmetric": False,
            "array": (high - mean).tolist(),
            "arrayminus": (mean - low).tolist(),
            "color": GREEN,
            "thickness": 1.5,
        },
        name=f"confirmed{other}: mean of new seeds, 95 % ({len(confirmed):,})",
        mode="markers",
        marker={"color": GREEN, "symbol": "square", "size": 9},
        customdata=[[int(trial)] for trial in confirmed["trial"]],
        hovertext=[
            f"<b>trial {trial}, confirmed</b><br>{html.escape(str(architecture))}<br>mean{seen} {m:.1f} %, 95 %: {b:.1f} to {t:.1f} %"
            for trial, architecture, seen, m, b, t in zip(
                confirmed["trial"], confirmed["architecture"], after, mean, low, high, strict=True
            )
        ],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _retrained(retrained: pd.DataFrame | None, x: str) -> go.Scatter | None:
    """A point for every network, recipe and length: the mean of its seeds' val accuracy, with the deviation between them where there are several."""
    if retrained is None or retrained.dropna(subset=["val_accuracy"]).empty:
        return None
    by = ["trial", "recipe", "epochs"]  # where seeds pruned to different networks the point is at their mean cost
    grouped = retrained.groupby(by)
    found = grouped[["val_accuracy", "test_accuracy"]].agg(["mean", "std", "count"])
    networks = grouped.agg({"architecture": "first", x: "mean"})
    val, test, number = found["val_accuracy"], found["test_accuracy"]["mean"], found["val_accuracy"]["count"]
    spread = 100 * val["std"].fillna(0.0)
    rows: list[dict[Any, Any]] = networks.reset_index().to_dict("records")
    lengths = sorted({int(row["epochs"]) for row in rows})
    long = " to ".join(map(str, dict.fromkeys((lengths[0], lengths[-1])))) + (" epoch" if lengths == [1] else " epochs")
    return go.Scatter(
        x=[row[x] for row in rows],
        y=(100 * val["mean"]).tolist(),
        error_y={"type": "data", "array": spread.tolist(), "color": VERMILLION, "thickness": 1.5},
        name=f"retrained, {long} ({len(rows):,})",
        mode="markers",
        marker={"color": VERMILLION, "symbol": "triangle-up", "size": 11},
        customdata=[[int(row["trial"])] for row in rows],
        hovertext=[
            f"<b>trial {row['trial']}, retrained</b><br>{html.escape(row['architecture'])}<br>{html.escape(str(row['recipe']))}, {row['epochs']} epoch{'s' * (row['epochs'] > 1)}, "
            f"{seeds} seed{'s' * (seeds > 1)}: val {per_cent(mean)}, test {per_cent(tested)}"
            for row, seeds, mean, tested in zip(rows, number, val["mean"], test, strict=True)
        ],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _published(published: Sequence[Mark], x: str) -> go.Scatter | None:
    """What others printed, at its full training and on the official test fold."""
    if not published:
        return None
    return go.Scatter(
        x=[getattr(mark, x) for mark in published],
        y=[100 * mark.val_accuracy for mark in published],
        text=[html.escape(mark.name) for mark in published],
        name=f"as printed: fully trained, test fold ({len(published)})",
        mode="markers+text",
        textposition="top center",
        textfont={"color": PRINTED_WORDS},
        marker={"color": PURPLE, "symbol": "star", "size": 11},
        hovertemplate="%{text}, as printed: %{y:.1f} %<extra></extra>",
    )


def _floor(trials: pd.DataFrame, x: str, scores: Sequence[float]) -> list[go.Scatter]:
    """Networks that have a cost and no score, beneath the others."""
    known = [100 * score for score in scores if pd.notna(score)]
    floor = min(known) - 0.06 * max(max(known) - min(known), 1.0) if known else 0.0
    traces = []
    for state, (words, symbol) in _UNTRAINED.items():
        of = trials[(trials["state"] == state).to_numpy()]
        rows = of.dropna(subset=[x])
        if of.empty:
            continue
        traces.append(
            go.Scatter(
                x=rows[x].tolist(),
                y=[floor] * len(rows),
                name=f"{words} ({len(of):,})",
                mode="markers",
                customdata=[[trial] for trial in rows["trial"].tolist()],
                marker={
                    "symbol": symbol,
                    "color": PURPLE if state == "over_cap" else VERMILLION,
                    "size": 9,
                    "line": {"width": 1.5},
                },
                hovertext=[
                    f"<b>trial {trial}, {words}</b><br>{html.escape(str(architecture))}<br>{quantity(params)} params · {quantity(macs)} MACs"
                    for trial, architecture, params, macs in zip(
                        rows["trial"], rows["architecture"], rows["params"], rows["macs"], strict=True
                    )
                ],
                hovertemplate="%{hovertext}<extra></extra>",
            )
        )
    return traces


def _reached(confirmed: pd.DataFrame | None, retrained: pd.DataFrame | None, published: Sequence[Mark]) -> list[float]:
    """The accuracies (0 to 1) up to which what stands beside the trials is drawn, names and whiskers included."""
    reached = [mark.val_accuracy for mark in published]
    if confirmed is not None and len(confirmed):
        reached += confirmed["val_high"].astype(float).dropna().tolist()
    if retrained is not None and len(retrained):
        seeds = retrained.groupby(["trial", "recipe", "epochs"])["val_accuracy"]
        reached += (seeds.mean() + seeds.std().fillna(0.0)).dropna().tolist()
    return reached


def _names(presets: pd.DataFrame, x: str, scores: Sequence[float]) -> list[dict[str, Any]]:
    """The presets' names above all points, so that they lie over none, each on a line of its own and joined to its point."""
    if presets.empty:
        return []
    low, high = 100 * min(scores), 100 * max(scores)
    step = 0.07 * max(high - low, 5.0)
    return [
        {
            "text": html.escape(str(row["preset"])),
            "x": np.log10(row[x]),
            "y": 100 * row["val_accuracy"],
            "ax": np.log10(row[x]),
            "ay": high + (rank + 1.3) * step,
            "axref": "x",
            "ayref": "y",
            "xanchor": "right",
            "font": {"color": MARKED_WORDS, "size": 12},
            "arrowcolor": VERMILLION,
            "arrowwidth": 0.7,
            "arrowhead": 0,
            "standoff": 9,
        }
        for rank, row in enumerate(presets.sort_values(x).to_dict("records"))
    ]


def _staircase(complete: pd.DataFrame, x: str) -> go.Scatter:
    """The best accuracy among all networks up to each cost, drawn on to the dearest network."""
    best = complete.groupby(x)["val_accuracy"].max().sort_index().cummax() if len(complete) else pd.Series(dtype=float)
    steps = best[~best.duplicated() | (best.index == best.index.max())]
    return go.Scatter(
        x=steps.index.tolist(),
        y=(100 * steps.astype(float)).tolist(),
        mode="lines",
        line={"color": BLUE, "width": 1.5, "shape": "hv"},
        opacity=0.6,
        hoverinfo="skip",
        showlegend=False,
        name="best accuracy up to this cost",
    )
