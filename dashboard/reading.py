"""Studies as the pages read them. The one place that knows what is kept between two looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from studies.records import StudyRecords, list_studies, open_study


def runs_folder() -> Path:
    """Where studies lie, as the command said."""
    return Path(st.session_state["runs"])


def study_names() -> list[str]:
    """The studies that exist, the latest first."""
    return list_studies(runs_folder())


def read_study(name: str) -> StudyRecords:
    """A study's records. Raises `UserError` and what a torn record raises."""
    return open_study(name, runs_folder(), st.session_state.get("storage"))


def read_trials(study: StudyRecords) -> pd.DataFrame:
    """Every trial, a row each (`StudyRecords.trials`). The frame is shared: pages copy what they change."""
    return study.trials()


def trained_rows(trials: pd.DataFrame) -> dict[int, dict[Any, Any]]:
    """The fully trained networks' rows by trial."""
    return {int(row["trial"]): row for row in trials[trials["state"] == "complete"].to_dict("records")}
