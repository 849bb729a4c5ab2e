"""The study page: what a study is about, how far it is, what failed."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboard.page import show_page
from studies.analysis import front, hypervolume_of
from studies.charts import per_cent
from studies.records import StudyRecords

STATE_WORDS = {
    "complete": "trained",
    "stopped": "stopped early",
    "running": "running",
    "queued": "queued",
    "duplicate": "duplicate",
    "over_cap": "over a cap",
    "failed": "failed",
    "interrupted": "interrupted",
}


def show_study(study: StudyRecords, trials: pd.DataFrame) -> None:
    """A study from above."""
    show_summary(study, trials)
    if not len(trials[trials["state"] == "complete"]):
        st.info("No network is trained yet. Reload this page in a minute.", icon=":material/hourglass_top:")
    show_failures(trials)


def show_summary(study: StudyRecords, trials: pd.DataFrame) -> None:
    """What the study is about and how far it is."""
    info, data = study.info, study.info["data"]
    complete = trials[trials["state"] == "complete"]
    counts, trained_at, counted_at = (
        data["counts"],
        *(" × ".join(map(str, info[key])) for key in ("train_input", "input")),
    )
    *rungs, _ = (info.get("halving") or {}).get("rungs", [0])
    stopped = f" or is stopped at {' or '.join(f'{clips:,}' for clips in rungs)}" * bool(rungs)
    st.text(
        f"{data['name']}: {len(data['classes'])} classes, {counts['train']:,} training and {counts['val']:,} validation clips. "
        f"Each network sees {info['budget']:,} clips{stopped} at {trained_at}; costs are counted at {counted_at} (frames × mels)."
    )
    best = per_cent(complete["val_accuracy"].max()) if len(complete) else "–"
    volume = f"{hypervolume_of(trials, info['reference_point']):.4f}"
    unit = "accuracy above chance × decades of parameters saved × decades of MACs saved, against the largest network of the space"
    columns = st.columns(4)
    columns[0].metric("Networks trained", len(complete))
    columns[1].metric("On the front", len(front(trials)))
    columns[2].metric("Best validation accuracy", best)
    columns[3].metric("Hypervolume", volume, help=unit)
    states = trials["state"].value_counts()
    counted = [f"{states[state]} {words}" for state, words in STATE_WORDS.items() if state in states]
    st.caption(f"Trials: {' · '.join(counted)}")


def show_failures(trials: pd.DataFrame) -> None:
    """Failed trials with what they said, where there are any."""
    failed = trials[trials["state"] == "failed"]
    if len(failed):
        with st.expander(f"Failed trials ({len(failed)})"):
            st.dataframe(failed[["trial", "architecture", "error"]], hide_index=True)


show_page("Study", show_study)
