"""The study page: what a study found, the network that one chooses, and its retraining."""

from __future__ import annotations

import shlex
from pathlib import Path

import pandas as pd
import streamlit as st

from dashboard.choice import chosen_study, chosen_trial
from dashboard.front import show_front, show_list
from dashboard.network import show_network
from dashboard.parts import part, show_text
from dashboard.retraining import show_retraining
from studies.analysis import front, hypervolume_of
from studies.charts import per_cent
from studies.records import StudyRecords, list_studies, open_study

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


def main() -> None:
    """The page, from the top down."""
    runs = st.session_state["runs"]
    names = list_studies(runs)
    if not names:
        show_how_to_begin(runs)
        return
    heading, choice = st.columns([3, 1], vertical_alignment="bottom")
    with choice:
        name = chosen_study(names)
    heading.title(name, anchor=False)
    with part():
        study = open_study(name, runs)
        show_study(study, study.trials())


def show_how_to_begin(runs: Path) -> None:
    """What to do where there is no study yet."""
    command = ["python", "-m", "studies.run", "--trials", "200"]
    if runs != Path("runs"):
        command += ["--runs", str(runs)]
    st.title("No study yet", anchor=False)
    st.markdown("A study tries networks on a data set and keeps what it finds. This command makes the first one:")
    st.code(shlex.join(command), language="bash")
    st.markdown(
        "Without `--data` it makes a synthetic data set, so nothing has to be downloaded; with `--data FOLDER` it reads recordings "
        "in ESC-50's layout. Reload this page once it runs."
    )
    st.caption("Studies are looked for in this folder:")
    show_text(str(runs.resolve()))


def show_study(study: StudyRecords, trials: pd.DataFrame) -> None:
    """A study, from its summary down to the retraining of the network that is chosen."""
    show_summary(study, trials)
    trained = {int(row["trial"]): row for row in trials[trials["state"] == "complete"].to_dict("records")}
    if trained:
        trial = chosen_trial(trained)
        show_front(study.name, trials, study.info["data"]["synthetic"], trial)
        st.subheader("Network", anchor=False)
        show_list(trained, trial)
        if trial is not None:
            with part():
                show_network(study, trained[trial])
            with part():
                show_retraining(study, trial)
    else:
        st.info("No network is trained yet. Reload this page in a minute.", icon=":material/hourglass_top:")
    show_failures(trials)


def show_summary(study: StudyRecords, trials: pd.DataFrame) -> None:
    """What the study is about and how far it is."""
    info, data = study.info, study.info["data"]
    complete = trials[trials["state"] == "complete"]
    if data["synthetic"]:
        st.badge("synthetic data", icon=":material/science:", color="orange", help="generated, not recorded")
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


main()
