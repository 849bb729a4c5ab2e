"""The front, to look at and to choose from: a plot for the pointer, a table and a searchable list for the keyboard."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from dashboard.choice import choose_trial
from studies.analysis import front
from studies.charts import CONFIG, front_figure, per_cent, quantity

_AXES = {"params": "Parameters", "macs": "MACs"}


def show_front(study: str, trials: pd.DataFrame, synthetic: bool, trial: int | None) -> None:
    """Accuracy against cost of the trained networks of a study, and its front as a table; `trial` is the chosen one."""
    plotted, listed = st.columns([3, 2], gap="large")
    with plotted:
        st.subheader("Accuracy against cost", anchor=False)
        x = st.segmented_control(
            "Cost",
            list(_AXES),
            format_func=lambda cost: _AXES[cost],
            default="params",
            required=True,
            label_visibility="collapsed",
        )
        _show_plot(trials, str(x), f"plot-{study}-{x}", synthetic, trial)
    with listed:
        st.subheader("The front", anchor=False)
        _show_table(front(trials), f"table-{study}", trial)


def show_list(trained: dict[int, dict[Any, Any]], trial: int | None) -> None:
    """Every trained network (rows of the study's trials by number), the most accurate first, to search by notation."""

    def describe(number: int) -> str:
        row = trained[number]
        preset = [row["preset"]] if isinstance(row["preset"], str) else []
        words = [
            *preset,
            per_cent(row["val_accuracy"]),
            f"{quantity(row['params'])} params",
            row["architecture"],
        ]
        return " · ".join([f"trial {number}", *words])

    st.session_state["network"] = trial
    st.selectbox(
        "Network",
        sorted(trained, key=lambda number: trained[number]["val_accuracy"], reverse=True),
        format_func=describe,
        key="network",
        label_visibility="collapsed",
        on_change=lambda: choose_trial(st.session_state["network"]),
        placeholder="click a point, choose a row, or search here",
    )


def _show_plot(trials: pd.DataFrame, x: str, key: str, synthetic: bool, trial: int | None) -> None:
    def picked() -> int | None:
        points = _selection(key).get("points")
        return int(points[0]["customdata"][0]) if points else None

    figure = front_figure(trials, x, synthetic=synthetic, marked=_marked(key, picked(), trial))
    st.plotly_chart(
        figure,
        key=key,
        on_select=lambda: choose_trial(picked()),
        selection_mode="points",
        config=CONFIG,
        height=480,
    )


def _show_table(rows: pd.DataFrame, key: str, trial: int | None) -> None:
    numbers = [int(number) for number in rows["trial"]]

    def picked(widget: str) -> int | None:
        chosen = _selection(widget).get("rows")
        return numbers[chosen[0]] if chosen and chosen[0] < len(numbers) else None

    marked = _marked(key, picked(f"{key}-{st.session_state.get(f'{key}-marked')}"), trial)
    widget = f"{key}-{marked}"
    columns = {
        "trial": st.column_config.NumberColumn("Trial", width=60),
        "val_accuracy": st.column_config.NumberColumn("Accuracy", format="%.1f %%", width=80),
        "params": st.column_config.NumberColumn("Params", format="compact", width=70),
        "macs": st.column_config.NumberColumn("MACs", format="compact", width=70),
        "architecture": st.column_config.TextColumn("Network"),
    }
    st.dataframe(
        rows.assign(val_accuracy=(100 * rows["val_accuracy"].astype(float)).round(1)),
        key=widget,
        on_select=lambda: choose_trial(picked(widget)),
        selection_mode="single-row",
        selection_default={"selection": {"rows": [numbers.index(marked)] if marked in numbers else []}},
        hide_index=True,
        height=min(480, 38 + 35 * len(rows)),
        column_order=list(columns),
        column_config=columns,
    )


def _selection(widget: str) -> dict[str, Any]:
    """What is selected in a plot or table, as of the last time it was drawn."""
    return dict(st.session_state.get(widget, {}).get("selection", {}))


def _marked(key: str, picked: int | None, trial: int | None) -> int | None:
    """The trial that a plot or table is drawn with as chosen.

    Drawn with another one it becomes a new widget, without the old one's zoom and the keyboard's focus. So it stays as it is while
    what was picked in it is what is chosen, and is drawn anew only when the choice came from elsewhere.
    """
    if picked != trial:
        st.session_state[f"{key}-marked"] = trial
    return st.session_state.get(f"{key}-marked")
