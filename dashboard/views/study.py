"""The study page: what a study is about, how far it is, what failed."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboard.page import show_page
from dashboard.parts import part
from dashboard.progress import settings, show_progress
from dashboard.reading import KeptStudy


def show_study(study: KeptStudy, trials: pd.DataFrame) -> None:
    """A study from above."""
    with part():
        show_summary(study)
    show_progress(study)
    with st.expander("Settings", icon=":material/tune:"), part():
        table = pd.DataFrame(settings(study).items(), columns=["setting", "value"])
        columns = {
            "setting": st.column_config.TextColumn("Setting", width="small"),
            "value": st.column_config.TextColumn("Value"),
        }
        st.dataframe(table, key="settings", hide_index=True, column_config=columns, height="content")


def show_summary(study: KeptStudy) -> None:
    """What the study is about, in two sentences."""
    info, data = study.info, study.info["data"]
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


show_page("Study", show_study)
