"""The retraining page: networks trained fully, each by a process of its own."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboard.choice import MOST_TRIALS, chosen_trial, chosen_trials
from dashboard.page import show_page
from dashboard.reading import trained_rows
from dashboard.retraining import show_retraining
from studies.records import StudyRecords


def show(study: StudyRecords, trials: pd.DataFrame) -> None:
    """The form for the chosen networks, and the jobs of all."""
    trained = trained_rows(trials)
    if not trained:
        st.info("No network is trained yet. Reload this page in a minute.", icon=":material/hourglass_top:")
        return
    trial = chosen_trial(trained)
    one = [] if trial is None else [trial]
    show_retraining(study, trained, list(dict.fromkeys([*one, *chosen_trials(trained)]))[:MOST_TRIALS])


show_page("Retrain", show)
