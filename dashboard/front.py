"""The networks of a study, to look at and to choose from: a plot for the pointer, tables and a searchable list for the keyboard."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from dashboard.choice import MOST_TRIALS, choose_trial, choose_trials, keep
from dashboard.filters import score
from dashboard.parts import part
from dashboard.reading import KeptStudy
from search_space.errors import UserError
from search_space.rounding import rounded
from studies.charts import CONFIG, COSTS, dress, per_cent, quantity
from studies.fronts import caps_of, front_figure, parallel_figure, space_figure
from studies.jobs import retrained
from studies.published import published_on
from studies.records import known_choices

if TYPE_CHECKING:
    import plotly.graph_objects as go

AXES = {"params": "Parameters", "macs": "MACs"}
DRAWN = ("complete", "stopped", "over_cap", "failed")
"""The states of the networks that are drawn, where their costs are known, and listed: a duplicate is none, a queued one has not been seen."""
VIEWS = {"plot": "Plot", "space": "3-D", "parallel": "All choices"}

_CONFIG = CONFIG | {"modeBarButtonsToRemove": ["select2d", "autoScale2d"]}
_HEIGHT = 520
_MARGIN = {"t": 44, "r": 12, "b": 150, "l": 76}  # pixels; what a label or the legend needs beyond these draws all anew
_PICKED = "picked"
_LONG = 1_000  # rows
_CONFIRMED = ("trial", "architecture", "val_mean", "val_low", "val_high")  # what the plot needs of a confirmed network


def show_networks(
    study: KeptStudy, trials: pd.DataFrame, on_front: set[int], x: str, view: str, colour: str | None, chosen: set[int]
) -> None:
    """The trials that are to be shown, in one of `VIEWS`. `on_front` is the front of the whole study; `chosen` are marked."""
    synthetic = study.info["data"]["synthetic"]
    key = f"{view}-{study.name}-{x}-{colour}-{st.query_params.get('filter', '')}"
    what = (study.version, st.query_params.get("filter", ""))
    if view == "plot":
        selection = _selection(key)
        marked = _marked(key, _numbers(selection), chosen)
        again, full = _confirmed_by(study), retrained(study)
        results = (tuple(again.get("written", ())), tuple(full["run"]))
        dark = st.context.theme.type == "dark"
        drawn = int((trials["state"].isin(DRAWN) & trials[x].notna()).sum())
        figure = _plot(what, x, colour, tuple(sorted(marked)), results, dark, study, trials, on_front, again, full)
        st.plotly_chart(
            figure,
            key=key,
            theme=None,  # `dress` says why
            on_select=lambda: _choose(*choice_of(_selection(key), trials), len(_numbers(_selection(key)))),
            selection_mode=("points", "lasso"),
            config=_CONFIG,
            height=_HEIGHT,
            alt=f"Validation accuracy against {AXES[x]} of {drawn:,} networks, which the table beneath lists",
        )
        here, third = (COSTS[name].split(" ")[0] for name in (x, *(name for name in AXES if name != x)))
        st.caption(
            f"The front has three objectives: a network of it may stand under the line, where what is as accurate with no more {here} "
            f"has more {third}."
        )
    elif view == "space":
        figure = _space(what, colour, synthetic, trials)
        st.plotly_chart(figure, key=key, config=_CONFIG, height=_HEIGHT, alt="Parameters, MACs and accuracy in 3-D")
        st.caption("Turn it with the pointer. Networks are chosen in the flat plot or in the tables.")
    else:
        dark = st.context.theme.type == "dark"
        figure = _parallel(what, synthetic, dark, trials, list(known_choices(study.info)))
        st.plotly_chart(
            figure, key=f"{key}-{dark}", config=_CONFIG, height=_HEIGHT, alt="Every choice of every network"
        )
        st.caption(
            "A line is a network. Drag along an axis to keep the lines that pass there; drag a label to move its axis."
        )


def show_front_table(front: pd.DataFrame, key: str, chosen: set[int]) -> None:
    """The networks on the front, the most accurate first; a chosen row is a chosen network."""
    columns = {
        "trial": st.column_config.NumberColumn("Trial", width=60),
        "val_accuracy": st.column_config.NumberColumn("Accuracy", format="%.1f %%", width=80),
        "params": st.column_config.NumberColumn("Params", format="compact", width=70),
        "macs": st.column_config.NumberColumn("MACs", format="compact", width=70),
        "architecture": st.column_config.TextColumn("Network", width=420),
    }
    rows = front.assign(val_accuracy=rounded(100 * front["val_accuracy"].astype(float)))
    _show_table(rows, key, chosen, columns, height=min(440, 38 + 35 * len(rows)))


def show_table(study: KeptStudy, trials: pd.DataFrame, on_front: set[int], chosen: set[int]) -> None:
    """All trials that are shown, to be sorted by any column, chosen from and taken along as CSV; a long table is made where it is asked for."""
    heading, download = st.columns([4, 1], vertical_alignment="bottom")
    heading.subheader(f"{len(trials):,} networks" if len(trials) != 1 else "1 network", anchor=False)
    download.download_button(
        "CSV",
        lambda: trials.to_csv(index=False).encode(),
        f"{study.name}.csv",
        "text/csv",
        key=f"csv-{study.name}",
        on_click="ignore",
        icon=":material/download:",
        width="stretch",
        help="these networks with all columns",
    )
    if len(trials) > _LONG:
        table = st.expander("Table of all", key=f"table-{study.name}", on_change="rerun", icon=":material/table_rows:")
        if not table.open:
            return
        with table:
            _show_rows(study, trials, on_front, chosen)
    else:
        _show_rows(study, trials, on_front, chosen)


def _show_rows(study: KeptStudy, trials: pd.DataFrame, on_front: set[int], chosen: set[int]) -> None:
    choices = list(known_choices(study.info))
    rows = trials.assign(accuracy=100 * score(trials), front=trials["trial"].isin(on_front))
    rows = rows.sort_values("accuracy", ascending=False, na_position="last", kind="stable")
    rows["accuracy"] = rounded(rows["accuracy"])
    columns: dict[str, Any] = {
        "trial": st.column_config.NumberColumn("Trial", width=60),
        "state": st.column_config.TextColumn("State", width=90),
        "front": st.column_config.CheckboxColumn("Front", width=60),
        "accuracy": st.column_config.NumberColumn(
            "Accuracy", format="%.1f %%", width=80, help="validation; of a stopped network at its last rung"
        ),
        "params": st.column_config.NumberColumn("Params", format="localized", width=90),
        "macs": st.column_config.NumberColumn("MACs", format="localized", width=110),
        "clips": st.column_config.NumberColumn("Clips seen", format="localized", width=90),
        "seconds": st.column_config.NumberColumn("Seconds", format="%.1f", width=80),
        "architecture": st.column_config.TextColumn("Network", width=420),
        **{name: st.column_config.Column(name.replace("_", " ").capitalize(), width="small") for name in choices},
    }
    key = f"rows-{study.name}-{st.query_params.get('filter', '')}"
    _show_table(rows[list(columns)], key, chosen, columns, height=min(420, 38 + 35 * len(rows)))


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
        placeholder="choose a network, or type a part of its notation",
    )


def show_several(
    label: str,
    key: str,
    trained: dict[int, dict[Any, Any]],
    chosen: list[int],
    most: int,
    on_change: Callable[[], None],
    placeholder: str,
) -> int:
    """A list of the `chosen` networks to add to and to take from, `most` of the most accurate ones offered; how many are."""
    best = sorted(trained, key=lambda number: trained[number]["val_accuracy"], reverse=True)
    offered = list(dict.fromkeys([*chosen, *best[:most]]))

    def describe(number: int) -> str:
        row = trained[number]
        return f"trial {number} · {per_cent(row['val_accuracy'])} · {quantity(row['params'])} params · {row['architecture']}"

    st.session_state[key] = chosen
    st.multiselect(
        label,
        offered,
        key=key,
        format_func=describe,
        on_change=on_change,
        max_selections=MOST_TRIALS,
        select_all=False,  # typed words and Enter would take all that is like them, and not the network they name
        placeholder=placeholder,
    )
    return len(offered)


def _confirmed_by(study: KeptStudy) -> pd.DataFrame:
    """What `studies.confirm` found; a report that can not be read is said to be so, and leaves the plot without it."""
    found = pd.DataFrame(columns=["trial"])
    with part():
        confirmed = study.confirmed()
        if len(confirmed):
            if missing := sorted({*_CONFIRMED} - {*confirmed.columns}):
                raise UserError(f"the report of `studies.confirm` has not {', '.join(missing)}; make it again")
            # A number that is none is told here, and does not cost the plot.
            numbers = {name: float for name in _CONFIRMED if name.startswith("val_")}
            found = confirmed.astype({**numbers, "trial": int})
    return found


@st.cache_resource(max_entries=24, show_spinner=False)
def _plot(
    what: tuple[Any, ...],
    x: str,
    colour: str | None,
    marked: tuple[int, ...],
    results: tuple[Any, ...],
    dark: bool,
    _study: KeptStudy,
    _trials: pd.DataFrame,
    _front: set[int],
    _confirmed: pd.DataFrame,
    _retrained: pd.DataFrame,
) -> go.Figure:
    known = _trials.set_index("trial")[["params", "macs"]]
    shown = _confirmed[_confirmed["trial"].isin(known.index)].reset_index(drop=True)
    costs = known.loc[shown["trial"]].reset_index(drop=True)
    figure = front_figure(
        _trials,
        x,
        synthetic=_study.info["data"]["synthetic"],
        marked=marked,
        colour=colour,
        caps=caps_of(_study.info),
        published=published_on(_study.info["data"]),
        confirmed=shown.assign(params=costs["params"], macs=costs["macs"]),
        retrained=_retrained[_retrained["trial"].isin(known.index)],
        front=_front,
        budget=_study.info["budget"],
    )
    figure.update_layout(margin=_MARGIN)
    return dress(figure, dark, _HEIGHT)


@st.cache_resource(max_entries=8, show_spinner=False)
def _space(what: tuple[Any, ...], colour: str | None, synthetic: bool, _trials: pd.DataFrame) -> go.Figure:
    return space_figure(_trials, synthetic=synthetic, colour=colour)


@st.cache_resource(max_entries=8, show_spinner=False)
def _parallel(
    what: tuple[Any, ...], synthetic: bool, dark: bool, _trials: pd.DataFrame, _choices: list[str]
) -> go.Figure:
    return parallel_figure(_trials, _choices, synthetic=synthetic, dark=dark)


def choice_of(selection: dict[str, Any], trials: pd.DataFrame) -> tuple[int | None, list[int]]:
    """What is chosen by a plot's selection: one network by a click; several by a lasso or by clicks with shift held, the most accurate of them where
    they are too many; nothing by a click beside the points."""
    numbers = _numbers(selection)
    if len(numbers) == 1 and not selection.get("lasso"):
        return next(iter(numbers)), []
    return None, most_accurate(numbers, trials)


def picked_more(several: list[int]) -> int | None:
    """How many networks were picked where these are only the most accurate ones of them; None where they are all."""
    best, number = st.session_state.get(_PICKED, ([], 0))
    return number if several and best == several and number > len(several) else None


def most_accurate(numbers: Iterable[int], trials: pd.DataFrame) -> list[int]:
    """These trials, the most accurate first, as many as one can look at."""
    rows = trials[trials["trial"].isin(list(numbers))]
    best = score(rows).sort_values(ascending=False, kind="stable").index[:MOST_TRIALS]
    return [int(trial) for trial in rows.loc[best, "trial"]]


def _choose(trial: int | None, several: list[int], number: int = 0) -> None:
    """Write a choice into the URL; a single network stays where nothing takes its place. `number` were picked, of which `several` are the best."""
    st.session_state[_PICKED] = (several, number)
    if several:
        keep("trial", "")
    choose_trial(trial)
    choose_trials(several)


def _show_table(rows: pd.DataFrame, key: str, chosen: set[int], columns: dict[str, Any], height: int) -> None:
    numbers = [int(number) for number in rows["trial"]]

    def picked(widget: str) -> set[int]:
        places = _selection(widget).get("rows", [])
        return {numbers[place] for place in places if place < len(numbers)}

    def change(widget: str) -> None:
        found = [number for number in numbers if number in picked(widget)]  # the rows' order: the most accurate first
        if not found:
            keep("trial", "")
        _choose(found[0] if len(found) == 1 else None, found[:MOST_TRIALS] if len(found) > 1 else [], len(found))

    current = f"{key}-{_words(st.session_state.get(f'{key}-marked'))}"
    by_itself = picked(current)
    # A long table stays as it is when the choice came from elsewhere: to draw it anew takes longer than a click may.
    marked = _marked(key, by_itself, chosen & set(numbers) if len(rows) <= _LONG else by_itself)
    widget = f"{key}-{_words(marked)}"
    places = {number: place for place, number in enumerate(numbers)}
    st.dataframe(
        rows,
        key=widget,
        on_select=lambda: change(widget),
        selection_mode="multi-row",
        selection_default={"selection": {"rows": sorted(places[trial] for trial in marked)}},
        hide_index=True,
        height=height,
        column_order=list(columns),
        column_config=columns,
    )


def _words(numbers: Iterable[int] | None) -> str:
    return ",".join(map(str, sorted(numbers or [])))


def _selection(widget: str) -> dict[str, Any]:
    """What is selected in a plot or table, as of the last time it was drawn."""
    return dict(st.session_state.get(widget, {}).get("selection", {}))


def _numbers(selection: dict[str, Any]) -> set[int]:
    """The trials of the points in a plot's selection."""
    return {int(point["customdata"][0]) for point in selection.get("points", []) if point.get("customdata")}


def _marked(key: str, picked: set[int], chosen: set[int]) -> set[int]:
    """The trials that a plot or table is drawn with as chosen.

    Drawn with others it becomes a new widget, without the old one's zoom and the keyboard's focus. So it stays as it is while
    what was picked in it is what is chosen, and is drawn anew only when the choice came from elsewhere.
    """
    if picked != chosen:
        st.session_state[f"{key}-marked"] = frozenset(chosen)
    return set(st.session_state.get(f"{key}-marked", ()))
