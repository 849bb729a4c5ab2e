"""The network page: one architecture, seen."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboard.choice import chosen_trial
from dashboard.front import show_list
from dashboard.network import show_network
from dashboard.page import show_page
from dashboard.parts import part
from dashboard.reading import trained_rows
from studies.records import StudyRecords


def show(study: StudyRecords, trials: pd.DataFrame) -> None:
    """The chosen network, or how to choose one."""
    trained = trained_rows(trials)
    if not trained:
        st.info("No network is trained yet. Reload this page in a minute.", icon=":material/hourglass_top:")
        return
    trial = chosen_trial(trained)
    show_list(trained, trial)
    if trial is None:
        st.info("Choose a network here, or click one on the Pareto page.", icon=":material/account_tree:")
        return
    with part():
        show_network(study, trained[trial])


show_page("Network", show)
