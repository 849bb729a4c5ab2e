"""The Pareto page: accuracy against cost, and the networks that one picks there."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboard.choice import chosen_trial
from dashboard.front import show_front, show_list
from dashboard.network import show_network
from dashboard.page import show_page
from dashboard.parts import part
from dashboard.reading import trained_rows
from studies.records import StudyRecords


def show_pareto(study: StudyRecords, trials: pd.DataFrame) -> None:
    """The plot, the table beneath it, and the network that is chosen."""
    trained = trained_rows(trials)
    if not trained:
        st.info("No network is trained yet. Reload this page in a minute.", icon=":material/hourglass_top:")
        return
    trial = chosen_trial(trained)
    show_front(study.name, trials, study.info["data"]["synthetic"], trial)
    show_list(trained, trial)
    if trial is not None:
        with part():
            show_network(study, trained[trial])


show_page("Pareto", show_pareto)
