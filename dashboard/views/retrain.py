"""The retraining page: networks trained fully, each by a process of its own."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboard.choice import chosen_trial
from dashboard.front import show_list
from dashboard.page import show_page
from dashboard.reading import trained_rows
from dashboard.retraining import show_retraining
from studies.records import StudyRecords


def show(study: StudyRecords, trials: pd.DataFrame) -> None:
    """The form and the jobs of the chosen network."""
    trained = trained_rows(trials)
    trial = chosen_trial(trained)
    show_list(trained, trial)
    if trial is None:
        st.info("Choose a network here, or click one on the Pareto page.", icon=":material/model_training:")
        return
    show_retraining(study, trial)


show_page("Retrain", show)
