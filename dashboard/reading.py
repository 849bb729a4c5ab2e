"""Studies as the pages read them. The one place that knows what a server keeps between two looks."""

from __future__ import annotations

import argparse
import gc
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from search_space.errors import UserError
from studies.kept import Database, Keeper, KeptStudy
from studies.records import StudyRecords, list_studies
from studies.reports import lies_inside
from studies.storage import JOURNAL

__all__ = [
    "KeptStudy",
    "asked",
    "find_studies",
    "read_study",
    "read_trials",
    "rows_of",
    "runs_folder",
    "study_names",
    "trained_rows",
    "warm",
]


def asked() -> argparse.Namespace:
    """What the command that started the server said: `runs`, the folder with studies, and `storage`, a PostgreSQL or None."""
    parser = argparse.ArgumentParser(prog="streamlit run dashboard/app.py --")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="where studies lie (default: runs)"
    )
    parser.add_argument("--storage", metavar="URL", help="the PostgreSQL that holds studies, as in studies.run")
    return parser.parse_args()


def warm() -> None:
    """Import what a page is made of and read the latest study, so that the first who asks finds both. Raises what reading does."""
    import dashboard.cards
    import dashboard.filters
    import dashboard.front
    import dashboard.progress  # noqa: F401

    gc.freeze()  # what was imported is not looked through again and again while a large study is read
    options = asked()
    for name in list_studies(options.runs)[:1]:
        if lies_inside(options.runs / name, options.runs):
            storage = None if (options.runs / name / JOURNAL).exists() else options.storage
            _keeper(name, str(options.runs.resolve()), storage).look()
    gc.freeze()  # nor all of this after every run of a page, when Streamlit collects


def runs_folder() -> Path:
    """Where studies lie, as the command said."""
    return Path(st.session_state["runs"])


def study_names() -> list[str]:
    """The studies that exist (`find_studies`); a database that does not answer is said to be so on the page."""
    names, error = find_studies()
    if error:
        st.warning("The studies of `--storage` can not be listed.", icon=":material/cloud_off:")
        st.code(error, language=None, wrap_lines=True)
    return names


def find_studies() -> tuple[list[str], str]:
    """The studies that exist, the latest first, behind them those of the database alone, and why that could not be asked ('' where it could).

    A folder that leads out of the runs is none."""
    runs, storage = runs_folder(), st.session_state.get("storage")
    names = [name for name in list_studies(runs) if lies_inside(runs / name, runs)]
    if storage is None:
        return names, ""
    try:
        found = _database(storage).names()
    except UserError as error:
        return names, str(error)
    return [*names, *(name for name in found if name not in names)], ""


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
