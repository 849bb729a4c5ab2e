"""The retraining page: networks trained fully, each by a process of its own."""

from __future__ import annotations

import pandas as pd

from dashboard.choice import MOST_TRIALS, chosen_trial, chosen_trials
from dashboard.page import show_page, show_trained
from dashboard.retraining import show_retraining
from studies.records import StudyRecords


def show(study: StudyRecords, trials: pd.DataFrame) -> None:
    """The form for the chosen networks, and the jobs of all."""
    trained = show_trained(trials)
    if not trained:
        return
    trial = chosen_trial(trained)
    one = [] if trial is None else [trial]
    show_retraining(study, trained, list(dict.fromkeys([*one, *chosen_trials(trained)]))[:MOST_TRIALS])


show_page("Retrain", show)
