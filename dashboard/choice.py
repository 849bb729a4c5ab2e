"""What is looked at. The URL alone says it (`?study=NAME&trial=17&trials=3,8&x=macs`), so a reload and a link that is passed on show the same.

It is a stranger's text: it only ever picks from the studies and trials that exist, and no path is made of it. A click on another page's name
empties the URL; what was chosen in this tab is written into it again.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence

import streamlit as st

_KEPT = "kept address"
_CHOSEN = ("study", "trial", "trials", "studies", "filter")
_LOOKS = ("x", "colour", "view", "by", "what", "show", "ablation", "objective", "section", "weights")
_PARAMETERS = (*_CHOSEN, *_LOOKS)
MOST_TRIALS = 24
"""Assumed: more networks than that are not compared by eye."""
MOST_STUDIES = 4


def open_address() -> None:
    """Write what this tab last chose into a URL that says nothing; called first by every page."""
    if not any(name in st.query_params for name in _PARAMETERS):
        for name, value in st.session_state.get(_KEPT, {}).items():
            st.query_params[name] = value


def keep_address() -> None:
    """Remember what the URL says for the page that is opened next; called by every page once its choice stands."""
    st.session_state[_KEPT] = {name: st.query_params[name] for name in _PARAMETERS if name in st.query_params}


def chosen_study(names: list[str]) -> str:
    """The study that the URL names if it exists, else the first of `names`; a select box changes it."""
    asked = st.query_params.get("study")
    name = asked if asked in names else names[0]
    if asked not in (None, name):
        st.warning("There is no such study; this is the latest one.")
    if asked != name:  # another study may be the latest at the next look: the page stays with this one
        st.query_params["study"] = name
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
    st.warning("The network in the address is not trained to the end, or does not exist in this study.")
    return None


def choose_trial(trial: int | None) -> None:
    """Make a trial the chosen one. None, as from a click beside the points, changes nothing."""
    if trial is not None:
        st.query_params["trial"] = str(trial)


def chosen_trials(trained: Container[int]) -> list[int]:
    """The trials that the URL lists (`trials=3,8`) and that were trained, in its order, at most `MOST_TRIALS`."""
    asked = st.query_params.get("trials", "")
    words = [word for word in asked.split(",")[: 10 * MOST_TRIALS] if re.fullmatch(r"[0-9]{1,9}", word)]
    known = [int(word) for word in dict.fromkeys(words) if int(word) in trained]
    if asked and (len(known) != len(asked.split(",")) or len(known) > MOST_TRIALS):
        st.warning(
            "Not all of the networks in the address are shown: some are not trained to the end, do not exist, or are too many."
        )
    return known[:MOST_TRIALS]


def choose_trials(trials: Iterable[int]) -> None:
    """Make these trials the chosen ones; none at all empties the choice."""
    keep("trials", ",".join(str(trial) for trial in dict.fromkeys(trials)))


def chosen_studies(names: Sequence[str]) -> list[str]:
    """The studies that the URL lists (`studies=a,b`) and that exist, in its order, at most `MOST_STUDIES`."""
    asked = st.query_params.get("studies", "")
    words = asked.split(",")[: 10 * MOST_STUDIES]
    known = [word for word in dict.fromkeys(words) if word in names]
    if asked and (len(known) != len(asked.split(",")) or len(known) > MOST_STUDIES):
        st.warning("Not all of the studies in the address are shown: some do not exist, or they are too many.")
    return known[:MOST_STUDIES]


def choose_studies(names: Iterable[str]) -> None:
    """Make these studies the ones that are compared."""
    keep("studies", ",".join(names))


def keep(name: str, value: str) -> None:
    """Write one parameter into the URL; an empty one leaves it, and is not remembered either."""
    if value:
        st.query_params[name] = value
    else:
        st.query_params.pop(name, None)
        st.session_state.get(_KEPT, {}).pop(name, None)


def onward(**parameters: str) -> dict[str, str]:
    """What a link to another page says: these parameters, and how the Pareto page looks, so that it looks the same on the way back."""
    return {
        **{name: st.query_params[name] for name in ("filter", "x", "colour", "view") if name in st.query_params},
        **parameters,
    }


def pick(
    name: str, label: str, options: Mapping[str, str], in_a_list: bool = False, otherwise: str | None = None
) -> str:
    """One of `options` (what the URL says to what a person reads), a row of buttons or a list; `otherwise`, or the first, where the URL says none
    of them."""
    default = otherwise or next(iter(options))
    asked = st.query_params.get(name)
    key = f"pick-{name}"
    st.session_state[key] = asked if asked in options else default

    def change() -> None:
        value = st.session_state[key]
        keep(name, "" if value == default else value)

    if in_a_list:
        return str(st.selectbox(label, list(options), format_func=options.__getitem__, key=key, on_change=change))
    chosen = st.segmented_control(
        label,
        list(options),
        format_func=options.__getitem__,
        key=key,
        on_change=change,
        required=True,
        label_visibility="collapsed",
    )
    return str(chosen)
