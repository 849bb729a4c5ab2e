"""What is looked at. The URL alone says it (`?study=NAME&trial=17`), so a reload and a link that is passed on show the same.

It is a stranger's text: it only ever picks from the studies and trials that exist, and no path is made of it.
"""

from __future__ import annotations

import re
from collections.abc import Container

import streamlit as st


def chosen_study(names: list[str]) -> str:
    """The study that the URL names if it exists, else the first of `names`; a select box changes it."""
    asked = st.query_params.get("study")
    name = asked if asked in names else names[0]
    if asked not in (None, name):
        st.warning("There is no such study; this is the latest one.")
    st.session_state["study"] = name

    def change() -> None:
        st.query_params.from_dict({"study": st.session_state["study"]})

    st.selectbox("Study", names, key="study", on_change=change)
    return name


def chosen_trial(trained: Container[int]) -> int | None:
    """The trial that the URL names if it was trained, else None."""
    asked = st.query_params.get("trial")
    if asked is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", asked) and int(asked) in trained:
        return int(asked)
    st.warning("There is no such trained network in this study.")
    return None


def choose_trial(trial: int | None) -> None:
    """Make a trial the chosen one. None, as from a click beside the points, changes nothing."""
    if trial is not None:
        st.query_params["trial"] = str(trial)
