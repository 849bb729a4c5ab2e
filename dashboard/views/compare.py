"""The compare page: networks of a study, or whole studies, side by side."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboard.choice import pick
from dashboard.comparing import show_networks, show_studies
from dashboard.page import show_page
from dashboard.reading import KeptStudy

_WHAT = {"networks": "Networks", "studies": "Studies"}


def show(study: KeptStudy, trials: pd.DataFrame) -> None:
    """One of the two."""
    several = "studies" in st.query_params and "trials" not in st.query_params
    if pick("what", "What is compared", _WHAT, otherwise="studies" if several else "networks") == "studies":
        show_studies(study)
    else:
        show_networks(study, trials)


show_page("Compare", show)
