"""What a visitor of the dashboard runs (`dashboard.app` serves it). This file only decides which page runs, and for whom."""

from __future__ import annotations

import gc

import streamlit as st

from dashboard.reading import asked

LOOPBACK = ("127.0.0.1", "localhost", "::1")

# No icons, nor those of pages: streamlit fetches the picture of the tab from the network.
st.set_page_config(page_title="DSSDN Explorer", layout="wide")

address = st.get_option("server.address")
# Without names of hosts any site's page could reach this one by a name of its own that leads here; statistics would leave the machine.
kept_in = st.get_option("server.allowedHosts") and not st.get_option("browser.gatherUsageStats")
if address not in LOOPBACK or not kept_in:
    said = f", not {address or 'every network'}" if address not in LOOPBACK else ""
    st.error(
        f"This page starts processes and reads files, so it serves this machine only{said}. "
        "Start it from the project's folder, which holds `.streamlit/config.toml`."
    )
    st.stop()

options = asked()
st.session_state["runs"], st.session_state["storage"] = options.runs, options.storage

pages = [
    st.Page("views/study.py", title="Study", default=True),
    st.Page("views/pareto.py", title="Pareto"),
    st.Page("views/network.py", title="Network"),
    st.Page("views/ablations.py", title="Ablations"),
    st.Page("views/compare.py", title="Compare"),
    st.Page("views/retrain.py", title="Retrain"),
]
st.navigation(pages, position="top").run()

# Streamlit collects garbage after every run of a page: what was imported is left out of that, once; where a study was read first, with it.
if not gc.get_freeze_count():
    gc.freeze()
