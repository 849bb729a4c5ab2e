"""Figures as plain functions: records in, plotly figure out. The one home of colours, axis titles and the way quantities are written; those of
all networks of a study are in `studies.fronts`.

Colours are told apart with any colour vision, and every trace colour has at least 3:1 contrast against white and against near-black,
so that one figure serves a light and a dark page. Source: Okabe and Ito, Color Universal Design (2008); blue lightened for the dark.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from search_space.rounding import per_cent as per_cent
from search_space.rounding import rounded
from trainers.metrics import confusion
from trainers.runs import Predictions, write_atomic

BLUE, VERMILLION, GREEN, GREY = "#2b84c6", "#d55e00", "#009e73", "#8a8f98"
"""The front and what is chosen on; what is marked; training; everything else."""

PURPLE, AMBER = "#b0629a", "#b38600"
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, AMBER)
"""What is told apart by name alone, in this order."""

SCALE = ["#3f6be0", "#7a80a6", "#a5845a", "#c08a00"]
"""Few to many, from blue to yellow, which colour blindness leaves apart; at 3:1 against white and near-black throughout."""

MARKED_WORDS, PRINTED_WORDS = "#b65000", "#94487f"
"""Words in vermillion and in purple on white, at 4.5:1 at least; `dress` has those for a dark page."""

_ON_DARK = {MARKED_WORDS: "#ff8a3d", PRINTED_WORDS: "#d493c3"}

_SHARES = {
    False: ["#eef4fa", "#7fb0dc"],
    True: ["#17293a", "#2b6aa3"],
}
"""None to all, by whether the page is dark; the page's words are read on all of it, at 4.5:1 at least, and on `_DIFFERENCES`."""

_DIFFERENCES = {
    False: ["#f0a875", "#f4f6f8", "#7fb0dc"],
    True: ["#8f4000", "#17222c", "#2b6aa3"],
}
"""Less, the same, more."""

_CELL_WORDS = {False: "#1d2733", True: "#ffffff"}

_PAGE = {
    False: ("#1d2733", "#5b6672", "#dfe5ea", "#ffffff"),
    True: ("#e4eaf0", "#9aa6b2", "#2b3743", "#11171e"),
}
"""Words, faint words, lines and ground of a page, by whether it is dark: those of `.streamlit/config.toml`, a test asserts it."""

CONFIG = {
    "showSendToCloud": False,
    "displaylogo": False,
    "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"],
}
"""Plotly's own settings for every figure shown: nothing leaves the machine, and only the buttons that help."""

_LEGEND = 28
"""Pixels for a legend between a title and its figure."""

_PANEL = 48
"""Pixels for the name of a panel, in two lines, between a title and its figure."""

_LINE = 44
"""Characters of a title in a line: what a window of 390 pixels has room for."""

BENEATH = {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0, "itemsizing": "constant"}
"""A legend under the figure."""

COSTS = {"params": "parameters", "macs": "MACs (multiply-accumulates per clip)"}
"""A trial's costs, each with the title of its axis."""


def quantity(number: float, figures: int = 3) -> str:
    """A count to some figures with its SI prefix: 31.7 k, 125 M, 1.20 G; below a thousand as it is."""
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * size:
            decimals = max(0, figures - len(f"{abs(number) / size:.0f}"))
            return f"{number / size:.{decimals}f} {prefix}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """Seconds for people: 42 s, 3 min 5 s, 1 h 20 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def curve_figure(rows: Sequence[Mapping[str, Any]], title: str = "", synthetic: bool = False) -> go.Figure:
    """A run's learning curve by epoch: accuracy (per cent) above, loss (nats) below; of training and, where it was measured, val."""
    curve = pd.DataFrame(list(rows), columns=["epoch", "train_accuracy", "val_accuracy", "loss", "val_loss"])
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    panels = (
        (1, 100, "train_accuracy", "val_accuracy", "%{y:.1f} %"),
        (2, 1, "loss", "val_loss", "%{y:.3f}"),
    )
    for row, unit, train, val, written in panels:
        for name, column, colour, dash in (("train", train, GREEN, "dot"), ("val", val, BLUE, "solid")):
            known = curve.dropna(subset=[column])
            trace = go.Scatter(
                x=known["epoch"].tolist(),
                y=(known[column].astype(float) * unit).tolist(),
                name=name,
                legendgroup=name,
                showlegend=row == 1,
                mode="lines+markers",
                marker={"color": colour, "size": 6},
                line={"color": colour, "width": 2, "dash": dash},
                hovertemplate=f"epoch %{{x}}: {written}",
            )
            figure.add_trace(trace, row=row, col=1)
    figure.update_yaxes(title="accuracy (%)", row=1, col=1)
    figure.update_yaxes(title="loss (nats)", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(dtick=1 if len(curve) <= 12 else None)
    figure.update_xaxes(title="epoch", row=2, col=1)
    figure.update_layout(layout(title, synthetic), legend={"orientation": "h", "y": 1.12, "x": 1, "xanchor": "right"})
    return figure


def confusion_figure(
    predictions: Predictions,
    classes: Sequence[str],
    title: str = "",
    synthetic: bool = False,
    dark: bool = False,
) -> go.Figure:
    """What was said (columns) of the clips that are in truth a class (rows), in per cent of the row; written out up to 20 classes.

    `dark` fits the scale to a dark page.
    """
    counts_KK = confusion(predictions.labels_N, predictions.probabilities_NK.argmax(1), len(classes))
    shares_KK = 100 * counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    names = [html.escape(name) for name in classes]
    figure = px.imshow(shares_KK, x=names, y=names, color_continuous_scale=_SHARES[dark], zmin=0, zmax=100)
    if len(names) <= 20:
        text = [[f"{rounded(share, 0):.0f}" if share else "" for share in row] for row in shares_KK]
        figure.update_traces(text=text, texttemplate="%{text}", textfont={"color": _CELL_WORDS[dark]})
    hover = "in truth %{y}<br>said %{x}<br>%{customdata} clips, %{z:.1f} % of the class<extra></extra>"
    figure.update_traces(customdata=counts_KK.tolist(), hovertemplate=hover, xgap=1, ygap=1)
    figure.update_xaxes(title="said", tickangle=-45, showgrid=False)
    figure.update_yaxes(title="in truth", showgrid=False)
    figure.update_layout(layout(title, synthetic), coloraxis_showscale=False)
    return figure


def curves_figure(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], title: str = "", synthetic: bool = False
) -> go.Figure:
    """Learning curves of several runs over the clips that they saw, a colour a run: val accuracy (per cent) as a line, of training dotted."""
    figure = go.Figure()
    for index, (name, rows) in enumerate(runs.items()):
        colour = SERIES[index % len(SERIES)]
        curve = pd.DataFrame(list(rows), columns=["clips_seen", "train_accuracy", "val_accuracy"])
        for column, dash, said in (("train_accuracy", "dot", "training"), ("val_accuracy", "solid", "validation")):
            known = curve.dropna(subset=[column])
            figure.add_trace(
                go.Scatter(
                    x=known["clips_seen"].tolist(),
                    y=(100 * known[column].astype(float)).tolist(),
                    name=html.escape(name),
                    legendgroup=str(index),
                    showlegend=said == "validation",
                    mode="lines+markers",
                    marker={"color": colour, "size": 5 if said == "training" else 8},
                    line={"color": colour, "width": 1.5, "dash": dash},
                    hovertemplate=f"{html.escape(name)}<br>{said}, %{{x:,}} clips: %{{y:.1f}} %<extra></extra>",
                )
            )
    figure.update_xaxes(title="training clips seen")
    figure.update_yaxes(title="accuracy (%), training dotted")
    figure.update_layout(layout(title, synthetic), legend=BENEATH, hovermode="closest")
    return figure


def confusion_difference_figure(
    first: Predictions,
    second: Predictions,
    classes: Sequence[str],
    title: str = "",
    synthetic: bool = False,
    dark: bool = False,
) -> go.Figure:
    """How much more often `first` said a class (columns) of the clips of a class (rows) than `second`, in points of the row's per cent.

    On the diagonal more is better, beside it worse. `dark` fits the middle of the scale to a dark page."""
    shares = []
    for predictions in (first, second):
        counts_KK = confusion(predictions.labels_N, predictions.probabilities_NK.argmax(1), len(classes))
        shares.append(100 * counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1))
    difference_KK = shares[0] - shares[1]
    names = [html.escape(name) for name in classes]
    most = max(1.0, float(np.abs(difference_KK).max()))
    figure = px.imshow(
        difference_KK, x=names, y=names, color_continuous_scale=_DIFFERENCES[dark], zmin=-most, zmax=most
    )
    if len(names) <= 20:
        text = [[f"{rounded(share, 0):+.0f}" if rounded(share, 0) else "" for share in row] for row in difference_KK]
        figure.update_traces(text=text, texttemplate="%{text}", textfont={"color": _CELL_WORDS[dark]})
    figure.update_traces(hovertemplate="in truth %{y}<br>said %{x}<br>%{z:+.1f} points<extra></extra>", xgap=1, ygap=1)
    figure.update_xaxes(title="said", tickangle=-45, showgrid=False)
    figure.update_yaxes(title="in truth", showgrid=False)
    figure.update_layout(layout(title, synthetic), coloraxis_showscale=False)
    return figure


def effects_figure(
    objective: str, of: Mapping[str, Any], title: str = "", synthetic: bool = False, across: int = 4
) -> go.Figure:
    """What each option of each choice went with, a panel a choice, with 95 % intervals, from `studies.effects`: `of` is one of its `objectives`.

    Val accuracy is in points, a cost in per cent, against the mean of the trials that were asked. The title says that it is observational.
    """
    shown = [choice for choice in of["choices"] if choice["options"]]
    rows = max(1, -(-len(shown) // across))
    figure = make_subplots(
        rows=rows,
        cols=min(across, max(1, len(shown))),
        shared_yaxes="all",
        subplot_titles=[html.escape(choice["choice"]).replace("_", "<br>") for choice in shown] or None,
    )
    unit = "points of val accuracy" if objective == "val_accuracy" else f"% of {COSTS[objective].split(' ')[0]}"

    def scaled(number: float) -> float:
        return 100 * number if objective == "val_accuracy" else 100 * (number - 1)

    for place, choice in enumerate(shown):
        told = [option for option in choice["options"] if option["effect"] is not None]
        middle = [scaled(option["effect"]) for option in told]
        trace = go.Scatter(
            x=[str(option["option"]) for option in told],
            y=middle,
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [scaled(option["high"]) - m for option, m in zip(told, middle, strict=True)],
                "arrayminus": [m - scaled(option["low"]) for option, m in zip(told, middle, strict=True)],
                "color": GREY,
            },
            mode="markers",
            marker={"color": BLUE, "size": 8},
            customdata=[[option["trials"], scaled(option["low"]), scaled(option["high"])] for option in told],
            hovertemplate=f"{html.escape(choice['choice'])} %{{x}}: %{{y:+.1f}} {unit}<br>95 %: %{{customdata[1]:+.1f}} to "
            "%{customdata[2]:+.1f}, %{customdata[0]} trials<extra></extra>",
            showlegend=False,
        )
        figure.add_trace(trace, row=place // across + 1, col=place % across + 1)
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(zeroline=True, zerolinecolor=GREY)
    figure.update_yaxes(title=unit, col=1)
    shared = layout(" · ".join(filter(None, (title, "observational, no experiment"))), synthetic)
    shared["margin"]["t"] += _PANEL  # the names of the panels, in up to two lines
    figure.update_annotations(font_size=13)  # that of the panels' names, for a window of 390 pixels
    figure.update_layout(shared)
    if not shown:
        text = "an additive model explains nothing of trials that it did not see"
        figure.add_annotation(text=text, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    return figure


def importance_figure(of: Mapping[str, Any], title: str = "", synthetic: bool = False) -> go.Figure:
    """How much each choice mattered for one objective (a share of 1 between them), the most important on top, each beside what shuffled results give.

    `of` is one of the objectives of `studies.effects`, or its front.
    """
    known = sorted((row for row in of["choices"] if row["importance"] is not None), key=lambda row: row["importance"])
    names = [html.escape(row["choice"]) for row in known]
    clear = [row["importance"] > row["noise"] for row in known]
    bars = go.Bar(
        x=[row["importance"] for row in known],
        y=names,
        orientation="h",
        marker={"color": [BLUE if above else GREY for above in clear]},
        name="importance",
        showlegend=False,
        hovertemplate="%{y}: %{x:.2f}<extra></extra>",
    )
    noise = go.Scatter(
        x=[row["noise"] for row in known],
        y=names,
        mode="markers",
        marker={"symbol": "line-ns", "size": 14, "line": {"width": 2, "color": VERMILLION}},
        name="of shuffled results",
        hovertemplate="%{y}, shuffled: %{x:.2f}<extra></extra>",
    )
    figure = go.Figure([bars, noise])
    figure.update_xaxes(title="importance (PED-ANOVA, shares of 1)", rangemode="tozero")
    figure.update_yaxes(type="category", automargin=True, showgrid=False)
    shared = layout(" · ".join(filter(None, (title, "observational, no experiment"))), synthetic)
    shared["margin"]["t"] += _LEGEND
    figure.update_layout(
        shared,
        height=_LEGEND + 190 + 24 * len(known),
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 1, "xanchor": "right"},
    )
    if not known:
        text = "too few trials to say"
        figure.add_annotation(text=text, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    return figure


def fidelity_figure(report: Mapping[str, Any], title: str = "", synthetic: bool = False) -> go.Figure:
    """Val accuracy (per cent) after a study's short budget (x) and after a longer one (y), a network a point, from a report of `studies.fidelity`."""
    rows = report["networks"]
    points = go.Scatter(
        x=[100 * row["study_val"] for row in rows],
        y=[100 * row["val_mean"] for row in rows],
        mode="markers",
        marker={"color": BLUE, "size": 9},
        customdata=[[row["trial"]] for row in rows],
        hovertext=[f"trial {row['trial']}<br>{html.escape(row['architecture'])}" for row in rows],
        hovertemplate="%{hovertext}<br>%{x:.1f} %, then %{y:.1f} %<extra></extra>",
    )
    figure = go.Figure(points)
    figure.update_xaxes(title=f"after {report['study_budget']:,} clips (% val accuracy)", ticksuffix=" %")
    figure.update_yaxes(title=f"after {report['budget']:,} clips (% val accuracy)", ticksuffix=" %")
    figure.update_layout(layout(title, synthetic), showlegend=False, hovermode="closest")
    return figure


def forest_figure(rows: Sequence[Mapping[str, Any]], title: str = "", synthetic: bool = False) -> go.Figure:
    """Differences to the base in points of accuracy, a row each from the top down, with their intervals, the line of no difference, and a colour for
    what is said of each.

    A row has `label`, `mean`, `low`, `high` (points; the last two None where nothing was repeated), `verdict`, and `hover`, shown under the pointer.
    """
    figure = go.Figure()
    colours = {"better": BLUE, "worse": VERMILLION}
    for verdict in dict.fromkeys(row["verdict"] for row in rows):
        shown = [row for row in rows if row["verdict"] == verdict]
        spread = [0.0 if row["low"] is None else row["high"] - row["mean"] for row in shown]
        below = [0.0 if row["low"] is None else row["mean"] - row["low"] for row in shown]
        trace = go.Scatter(
            x=[row["mean"] for row in shown],
            y=[html.escape(row["label"]) for row in shown],
            name=verdict,
            mode="markers",
            marker={"color": colours.get(verdict, GREY), "size": 9, "symbol": "square"},
            error_x={"type": "data", "array": spread, "arrayminus": below, "color": colours.get(verdict, GREY)},
            hovertext=[html.escape(row["hover"]) for row in shown],
            hovertemplate="%{y}: %{x:+.2f} points<br>%{hovertext}<extra></extra>",
        )
        figure.add_trace(trace)
    figure.add_vline(x=0, line={"color": GREY, "width": 1, "dash": "dash"})
    labels = [html.escape(row["label"]) for row in rows]
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=labels[::-1], automargin=True)
    figure.update_xaxes(title="difference to the base<br>(points of val accuracy, 95 % interval)", zeroline=False)
    shared = layout(title, synthetic)
    shared["margin"]["t"] += _LEGEND
    figure.update_layout(
        shared,
        height=_LEGEND + 200 + 26 * len(rows),
        showlegend=True,
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 1, "xanchor": "right"},
        hovermode="closest",
    )
    return figure


def dress(figure: go.Figure, dark: bool, height: int) -> go.Figure:
    """The figure in the page's own colours and at the height (pixels) that it will have, to be shown without streamlit's theme.

    A plot of thousands of points is to be drawn once. Streamlit hands over its theme, and the height, after the first drawing, each of which
    draws everything anew; so does plotly where a label needs more margin than the figure has. Measured: `benchmarks.page`, 10,000 trials, three
    drawings before and one now, a fifth of what the browser does until the page is there.
    """
    words, faint, lines, ground = _PAGE[dark]
    axis = {"gridcolor": lines, "linecolor": lines, "zeroline": False, "tickfont": {"color": faint, "size": 12}}
    axis |= {"title": {"font": {"color": faint, "size": 13}, "standoff": 12}}
    figure.update_xaxes(**axis, showgrid=False)
    figure.update_yaxes(**axis, showgrid=True)
    figure.update_layout(
        height=height,
        datarevision=1,  # the data of a figure never changes: what streamlit hands over again is the same
        font={"family": '"Source Sans", sans-serif', "color": words, "size": 13},
        title={"font": {"color": words, "size": 15, "weight": 600}, "x": 0, "xanchor": "left"},
        legend={"font": {"color": words, "size": 12}, "bgcolor": "rgba(0,0,0,0)"},
        paper_bgcolor=ground,
        plot_bgcolor=ground,
        hoverlabel={"bgcolor": ground, "bordercolor": lines, "font": {"color": words, "size": 13}},
    )
    if dark:
        for note in figure.layout.annotations:
            note.font.color = _ON_DARK.get(note.font.color, note.font.color)
        for trace in figure.data:
            if "text" in (trace.mode or ""):
                trace.textfont.color = _ON_DARK.get(trace.textfont.color, trace.textfont.color)
    halo = f"0 0 3px {ground}, 0 0 3px {ground}, 0 0 5px {ground}"  # a name that lies over markers can be read
    figure.update_traces(textfont={"shadow": halo}, selector=lambda trace: "text" in (trace.mode or ""))
    figure.layout.template = None  # an empty one would count as another one at every look
    return figure


def write_html(figures: go.Figure | Sequence[go.Figure], path: Path) -> None:
    """Write figures, one below the other, as one page that needs no network: plotly.js is inside, the button that uploads to plotly's cloud is not."""
    shown = [figures] if isinstance(figures, go.Figure) else list(figures)
    parts = [of.to_html(full_html=False, include_plotlyjs=i == 0, config=CONFIG) for i, of in enumerate(shown)]
    page = "\n".join(['<!doctype html><html><head><meta charset="utf-8"></head><body>', *parts, "</body></html>\n"])
    write_atomic(path, lambda file: file.write(page.encode()))


def layout(title: str = "", synthetic: bool = False) -> dict[str, Any]:
    """What all figures share: the title, with the word that the data is synthetic, and narrow margins."""
    words = [title] if title else []
    words += ["synthetic data"] if synthetic else []
    lines = textwrap.wrap(" · ".join(words), _LINE)
    return {
        "template": "plotly_white",
        "title": {"text": "<br>".join(map(html.escape, lines))},
        "margin": {"t": 26 + 22 * len(lines) if lines else 16, "r": 16, "b": 16, "l": 16},
    }


def ticks(costs: pd.Series) -> list[float]:
    """Round costs for a log axis: 1, 2 and 5 times powers of ten, and more where all costs lie close together."""
    if costs.empty:
        return []
    low, high = np.log10(costs.min()), np.log10(costs.max())
    steps = (1, 2, 5) if high - low > 1 else (1, 2, 3, 4, 5, 7)
    return [step * 10.0**decade for decade in range(int(low), int(high) + 2) for step in steps]
