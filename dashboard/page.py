"""What every page of a study has: its head, the study that one chooses, and what to do where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.choice import chosen_study, keep_address, open_address
from dashboard.parts import part, show_text
from dashboard.reading import KeptStudy, find_studies, read_study, read_trials, runs_folder, study_names, trained_rows
from studies.kept import first_command

_LOOK_S = 5  # between two looks for a first study


def show_page(title: str, show: Callable[[KeptStudy, pd.DataFrame], None]) -> None:
    """A page about one study: its head, then what `show` makes of the study and its trials. A record that can not be read is said to be so."""
    open_address()
    names = study_names()
    if not names:
        show_how_to_begin()
        return
    heading, choice = st.columns([3, 1], vertical_alignment="bottom")
    with choice:
        name = chosen_study(names)
    with heading:
        st.title(name, anchor=False)
    with part():
        study = read_study(name)
        trials = read_trials(study)
        with heading:
            show_kind(study)
        show(study, trials)
    keep_address()


def show_trained(trials: pd.DataFrame) -> dict[int, dict[Any, Any]]:
    """The fully trained networks' rows by trial; where there is none yet, that is said."""
    trained = trained_rows(trials)
    if not trained:
        st.info("No network is trained yet. Reload this page in a minute.", icon=":material/hourglass_top:")
    return trained


def show_kind(study: KeptStudy) -> None:
    """That the data is synthetic, where it is."""
    if study.info["data"]["synthetic"]:
        st.badge("synthetic data", icon=":material/science:", color="orange", help="generated, not recorded")


def show_how_to_begin() -> None:
    """What to do where there is no study yet."""
    runs, storage = runs_folder(), st.session_state.get("storage")
    known = not find_studies()[1]
    st.title("No study yet" if known else "No study in the runs folder", anchor=False)
    first = "the first one" if known else "one, as soon as the database answers"
    st.markdown(f"A study tries networks on a data set and keeps what it finds. This command makes {first}:")
    st.code(first_command(runs, storage), language="bash")
    st.markdown(
        "Without `--data` it makes a synthetic data set, so nothing has to be downloaded; with `--data FOLDER` it reads recordings "
        "in one of the layouts that the README names. This page shows the study as soon as it runs."
    )
    st.caption("Studies are looked for in this folder:")
    show_text(str(runs.resolve()))
    st.fragment(_wait_for_a_study, run_every=_LOOK_S)()


def _wait_for_a_study() -> None:
    if find_studies()[0]:
        st.rerun()
