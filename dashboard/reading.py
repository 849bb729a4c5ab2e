"""Studies as the pages read them. The one place that knows what a server keeps between two looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from search_space.errors import UserError
from studies.kept import Database, Keeper, KeptStudy
from studies.records import StudyRecords, list_studies
from studies.reports import lies_inside
from studies.storage import JOURNAL

__all__ = ["KeptStudy", "read_study", "read_trials", "rows_of", "runs_folder", "study_names", "trained_rows"]


def runs_folder() -> Path:
    """Where studies lie, as the command said."""
    return Path(st.session_state["runs"])


def study_names() -> list[str]:
    """The studies that exist, the latest first, behind them those of the database alone. A folder that leads out of the runs is none."""
    runs, storage = runs_folder(), st.session_state.get("storage")
    names = [name for name in list_studies(runs) if lies_inside(runs / name, runs)]
    if storage is None:
        return names
    try:
        found = _database(storage).names()
    except UserError as error:
        found = []
        st.warning("The studies of `--storage` can not be listed.", icon=":material/cloud_off:")
        st.code(str(error), language=None, wrap_lines=True)
    return [*names, *(name for name in found if name not in names)]


def read_study(name: str) -> KeptStudy:
    """A study's records as they are now. Raises `UserError` and what a torn record raises."""
    runs, storage = runs_folder(), st.session_state.get("storage")
    if (runs / name / JOURNAL).exists():
        storage = None
    return _keeper(name, str(runs.resolve()), storage).look()


def read_trials(study: StudyRecords) -> pd.DataFrame:
    """Every trial, a row each (`StudyRecords.trials`). The frame is shared: pages copy what they change."""
    return study.trials()


def trained_rows(trials: pd.DataFrame) -> dict[int, dict[Any, Any]]:
    """The fully trained networks' rows by trial."""
    return rows_of(trials[trials["state"] == "complete"])


def rows_of(trials: pd.DataFrame) -> dict[int, dict[Any, Any]]:
    """Rows by trial."""
    return {int(row["trial"]): row for row in trials.to_dict("records")}


@st.cache_resource(max_entries=16, show_spinner=False)
def _keeper(name: str, runs: str, storage: str | None) -> Keeper:
    return Keeper(name, runs, storage)


@st.cache_resource(max_entries=4, show_spinner=False)
def _database(url: str) -> Database:
    return Database(url)
