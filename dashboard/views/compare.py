"""The compare page."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboard.page import show_page
from studies.records import StudyRecords


def show(study: StudyRecords, trials: pd.DataFrame) -> None:
    """Not written yet."""
    st.info("Nothing here yet.")


show_page("Compare", show)
