"""The Pareto page: accuracy against cost, and the networks that one picks there."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboard.cards import SCORED, show_cards
from dashboard.choice import chosen_trial, chosen_trials, pick
from dashboard.filters import show_filters
from dashboard.front import AXES, DRAWN, VIEWS, picked_more, show_front_table, show_networks, show_table
from dashboard.page import show_page
from dashboard.parts import part
from dashboard.reading import KeptStudy, rows_of
from studies.analysis import front
from studies.records import known_choices


def show_pareto(study: KeptStudy, trials: pd.DataFrame) -> None:
    """The plot, what is chosen in it beside it, and the table beneath."""
    scored = trials[trials["state"].isin(SCORED)]
    if scored.empty:
        st.info("No network has been scored yet. The Study page shows how far it is.", icon=":material/hourglass_top:")
        return
    choices = known_choices(study.info)
    best = front(trials)
    on_front = {int(number) for number in best["trial"]}
    views, axis, by, chosen_by = st.columns([3, 2, 2, 2], vertical_alignment="bottom")
    x, colour = "params", "front"
    with views:
        view = pick("view", "View", VIEWS)
    if view == "plot":
        with axis:
            x = pick("x", "Cost", AXES)
    if view != "parallel":
        with by:
            names = {"front": "the front", **{name: name.replace("_", " ") for name in choices}}
            colour = pick("colour", "Colour by", names, in_a_list=True)
    with chosen_by:
        filters = show_filters(scored, choices)
    mask = filters.mask(trials)
    shown = trials[mask] if len(filters.text) else trials

    drawn = trials[trials["state"].isin(DRAWN) & trials["params"].notna()]
    known = {int(number) for number in drawn["trial"]}
    trial, several = chosen_trial(known), chosen_trials(known)
    chosen = set(several) | ({trial} if trial is not None else set())
    plotted, beside = st.columns([5, 3], gap="medium")
    with plotted, part():
        show_networks(study, shown, on_front, x, view, None if colour == "front" else colour, chosen)
    with beside, part():
        if chosen:
            order = [*([trial] if trial is not None and trial not in several else []), *several]
            rows = rows_of(drawn[drawn["trial"].isin(chosen)])
            show_cards(study, [rows[number] for number in order], on_front)
            if number := picked_more(several):
                st.caption(f"{number:,} networks were picked; these are the {len(several)} most accurate of them.")
        else:
            st.subheader("The front", anchor=False)
            show_front_table(best[best["trial"].isin(shown["trial"])], f"front-{study.name}", chosen)
            where = "Click a point" if view == "plot" else "Choose a row"
            several_too = "; take the lasso for several" if view == "plot" else ", or several"
            st.caption(f"{where} to open the network here{several_too}.")
    with part():
        listed = shown[shown["state"].isin(DRAWN)]
        show_table(study, listed, on_front, chosen)


show_page("Pareto", show_pareto)
