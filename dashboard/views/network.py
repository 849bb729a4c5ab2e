"""The network page: one architecture, seen."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboard.choice import chosen_trial
from dashboard.front import show_list
from dashboard.network import show_network
from dashboard.page import show_page, show_trained
from dashboard.parts import part
from studies.records import StudyRecords


def show(study: StudyRecords, trials: pd.DataFrame) -> None:
    """The chosen network, or how to choose one."""
    trained = show_trained(trials)
    if not trained:
        return
    trial = chosen_trial(trained)
    show_list(trained, trial)
    if trial is None:
        st.info("Choose a network here, or click one on the Pareto page.", icon=":material/account_tree:")
        return
    with part():
        show_network(study, trained[trial])


show_page("Network", show)
