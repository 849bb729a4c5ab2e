"""The chosen networks in brief, with the ways on from there."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from dashboard.choice import MOST_TRIALS, choose_trials, keep, onward
from dashboard.parts import show_text
from dashboard.progress import STATE_WORDS
from studies.charts import per_cent, quantity
from studies.fronts import caps_of, option_text
from studies.records import StudyRecords, known_choices

SCORED = ("complete", "stopped")
"""The states of a network that has an accuracy."""


def show_cards(study: StudyRecords, rows: list[dict[Any, Any]], on_front: set[int]) -> None:
    """The networks of these rows of the study's trials, one after the other."""
    complete = [int(row["trial"]) for row in rows if row["state"] == "complete"]
    heading, close = st.columns([3, 1], vertical_alignment="center")
    heading.subheader("The network" if len(rows) == 1 else f"{len(rows)} networks", anchor=False)
    close.button("Close", key="close-cards", on_click=_close, type="tertiary", width="stretch")
    if len(rows) == 1:
        _show_one(study, rows[0], on_front)
    else:
        with st.container(height=400, border=False):
            for row in rows:
                _show_briefly(study, row, on_front)
    links = st.columns(2)
    listed = ",".join(map(str, complete[:MOST_TRIALS]))
    if complete:
        links[0].page_link(
            "views/retrain.py",
            label="Retrain",
            icon=":material/model_training:",
            query_params=onward(
                study=study.name, **({"trial": str(complete[0])} if len(complete) == 1 else {"trials": listed})
            ),
        )
        links[1].page_link(
            "views/compare.py",
            label="Compare",
            icon=":material/difference:",
            query_params=onward(study=study.name, trials=listed),
        )


def _close() -> None:
    keep("trial", "")
    choose_trials([])


def _show_one(study: StudyRecords, row: dict[Any, Any], on_front: set[int]) -> None:
    st.markdown(f"**Trial {row['trial']}**{_said(row, on_front)}")
    show_text(row["architecture"])
    *scored, params, macs = st.columns(3 if row["state"] in SCORED else 2)
    stopped = row["state"] == "stopped"
    when = f"when it was stopped after {row['clips']:,} clips" if stopped else "after the study's short budget"
    reached = row["rung_accuracy"] if stopped else row["val_accuracy"]
    for place in scored:
        place.metric("Accuracy", per_cent(reached), help=f"validation, {when}")
    params.metric("Params", quantity(row["params"]), help=f"{row['params']:,.0f} trainable numbers")
    macs.metric("MACs", quantity(row["macs"]), help=f"{row['macs']:,.0f} multiply-accumulates for one clip")
    if row["state"] == "failed":
        show_text(str(row["error"] or "it left no words"))
    elif row["state"] == "over_cap":
        caps = " and ".join(f"{cap.cost} {cap.label}" for cap in caps_of(study.info))
        st.caption(
            f"It was not trained: the study's cap is {caps}." if caps else "It was not trained: it is over a cap."
        )
    chosen = [name for name in known_choices(study.info) if pd.notna(row[name])]
    st.caption(" · ".join(f"{name.replace('_', ' ')} **{option_text(row[name])}**" for name in chosen))
    _link(study, row)


def _show_briefly(study: StudyRecords, row: dict[Any, Any], on_front: set[int]) -> None:
    accuracy = row["rung_accuracy"] if row["state"] == "stopped" else row["val_accuracy"]
    reached = f" · {per_cent(accuracy)}" if row["state"] in SCORED else ""
    st.markdown(
        f"**Trial {row['trial']}**{reached} · {quantity(row['params'])} params · {quantity(row['macs'])} MACs"
        f"{_said(row, on_front)}"
    )
    show_text(row["architecture"])
    _link(study, row)


def _said(row: dict[Any, Any], on_front: set[int]) -> str:
    if row["state"] == "stopped":
        return f" · stopped after {row['clips']:,} clips"
    if row["state"] not in SCORED:
        return f" · {STATE_WORDS[row['state']]}"
    return " · on the front" if row["trial"] in on_front else ""


def _link(study: StudyRecords, row: dict[Any, Any]) -> None:
    if row["state"] == "complete":
        st.page_link(
            "views/network.py",
            label="Open this network",
            icon=":material/account_tree:",
            query_params=onward(study=study.name, trial=str(row["trial"])),
        )
