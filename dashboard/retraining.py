"""Retraining a network: the form that starts a job, and what has become of every job, kept true while one runs."""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd
import streamlit as st

from dashboard.parts import part, show_text
from studies import jobs
from studies.charts import CONFIG, curve_figure, duration, per_cent
from studies.jobs import Job, State
from studies.records import StudyRecords

_ACTIVE_S, _IDLE_S = 2, 10  # between two looks at the jobs
_BADGES: dict[str, tuple[str, Literal["blue", "green", "gray", "orange", "red"], str]] = {
    "starting": ("preparing", "blue", ":material/hourglass_top:"),
    "running": ("running", "blue", ":material/play_arrow:"),
    "finished": ("finished", "green", ":material/check:"),
    "interrupted": ("cancelled", "gray", ":material/pause:"),
    "stopped": ("stopped: its process is gone", "orange", ":material/stop:"),
    "failed": ("failed", "red", ":material/error:"),
    "corrupt": ("corrupt record", "red", ":material/broken_image:"),
}


def show_retraining(study: StudyRecords, trial: int) -> None:
    """How a trial's network can be retrained, and every retraining of it, looked at anew every few seconds."""
    st.subheader("Retrain", anchor=False)
    _show_form(study, trial)
    active = _any_active(study, trial)
    st.fragment(_show_jobs, run_every=_ACTIVE_S if active else _IDLE_S)(study, trial, active)


def _show_form(study: StudyRecords, trial: int) -> None:
    epochs, recipe, seed, start = st.columns(4, vertical_alignment="bottom")
    names = list(jobs.RECIPES)
    name = recipe.selectbox("Recipe", names, names.index(Job.recipe), key="recipe")
    job = Job(
        study.name,
        study.path.parent,
        trial,
        recipe=name,
        # A field for each recipe, so that choosing one shows its own length.
        epochs=int(epochs.number_input("Epochs", 1, 2000, jobs.RECIPES[name], key=f"epochs-{name}")),
        seed=int(seed.number_input("Seed", 0, 2**31 - 1, Job.seed, key="seed")),
    )
    if start.button("Retrain", type="primary", icon=":material/model_training:", key="retrain", width="stretch"):
        with part():
            jobs.start_retrain(job)
    st.caption(
        "At full input size, on all training clips; the test clips are scored once, at the end. It is a process of its own, which goes on "
        "when this page is closed. In a shell:"
    )
    st.code(job.shell(), language="bash", wrap_lines=True)


def _any_active(study: StudyRecords, trial: int) -> bool:
    return any(jobs.state(job.run).active for job in jobs.retrainings(study, trial))


def _show_jobs(study: StudyRecords, trial: int, was_active: bool) -> None:
    found = jobs.retrainings(study, trial)
    if not found:
        st.caption("This network has not been retrained yet.")
    for job in found:
        with st.container(border=True, key=f"job-{job.run.path.name}"), part():
            _show_job(job, jobs.state(job.run), study.info["data"]["synthetic"])
    if _any_active(study, trial) != was_active:
        st.rerun()


def _show_job(job: Job, state: State, synthetic: bool) -> None:
    key = job.run.path.name
    label, colour, icon = _BADGES[state.name]
    name, badge, action = st.columns([3, 2, 1], vertical_alignment="center")
    epochs = f"{job.epochs} epochs" if job.epochs > 1 else "1 epoch"
    name.markdown(f"**{job.recipe}** recipe · {epochs} · seed {job.seed}")
    badge.badge(label, color=colour, icon=icon)
    if state.active and action.button("Cancel", key=f"cancel-{key}", width="stretch"):
        jobs.cancel(job.run)
    if state.resumable and action.button("Resume", key=f"resume-{key}", width="stretch"):
        jobs.start_retrain(job, resume=True)
        st.rerun()
    if state.name not in ("finished", "corrupt"):
        st.progress(min(1.0, state.epoch / max(1, state.epochs)), text=_progress(state))
    if state.error:
        show_text(state.error)
    if state.barred:
        show_text(state.barred)
    if state.name != "corrupt":
        _show_results(job, synthetic)


def _progress(state: State) -> str:
    if state.name == "starting":
        return "getting the data ready"
    left = f", about {duration(state.eta_s)} left" if state.active and state.eta_s is not None else ""
    return f"epoch {state.epoch} of {state.epochs}{left}"


def _show_results(job: Job, synthetic: bool) -> None:
    """The learning curve as far as it goes, and the test split's scores once there are some."""
    scores, rows = job.run.scores, job.run.metrics()
    if scores:
        _show_totals(scores)
    tables = {"Scene": scores["per_scene"], "Recorder": scores["per_recorder"]} if scores else {}
    tables = {kind: shares for kind, shares in tables.items() if len(shares) > 1}
    *beside, last = st.columns([*(1 for _ in tables), 2])
    for column, (kind, shares) in zip(beside, tables.items(), strict=True):
        with column:
            _show_shares(kind, shares)
    if rows:
        figure = curve_figure(rows, synthetic=synthetic)
        last.plotly_chart(figure, key=f"figure-{job.run.path.name}", config=CONFIG, height=360)


def _show_totals(scores: dict[str, Any]) -> None:
    accuracy, scenes, loss, unseen = st.columns(4)
    accuracy.metric("Test accuracy", per_cent(scores["accuracy"]), help=f"of {scores['n_clips']} clips")
    scenes.metric("Mean over scenes", per_cent(scores["macro_accuracy"]))
    loss.metric(
        "Log loss",
        f"{scores['log_loss']:.3f}",
        help="mean negative log-probability of the right class, in nats",
    )
    if scores["unseen"] is not None and scores["seen"] is not None:
        seen = f"recorders that training had: {per_cent(scores['seen'])}"
        unseen.metric("Unseen recorders", per_cent(scores["unseen"]), help=seen)


def _show_shares(kind: str, shares: dict[str, float]) -> None:
    """Accuracy by scene or recorder, the worst first."""
    table = pd.DataFrame({kind: list(shares), "accuracy": list(shares.values())}).sort_values("accuracy")
    accuracy = st.column_config.ProgressColumn("Accuracy", format="percent", min_value=0, max_value=1)
    st.dataframe(table, hide_index=True, column_config={"accuracy": accuracy}, height=min(360, 38 + 35 * len(table)))
