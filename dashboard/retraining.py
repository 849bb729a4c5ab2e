"""Retraining networks: the form that queues jobs, what has become of every job, kept true while one runs, and what finished ones scored."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import streamlit as st

from dashboard.choice import choose_trials
from dashboard.front import show_several
from dashboard.parts import NOT_DONE, part, show_text
from search_space.rounding import rounded
from studies import jobs
from studies.charts import CONFIG, curve_figure, duration, per_cent
from studies.estimates import Estimate, Queue, estimate, queue
from studies.jobs import Job, State
from studies.records import StudyRecords

# Seconds between two looks at the jobs: while one is about to change, while one trains (it says where it is every 5 s), else.
_CHANGING_S, _TRAINING_S, _IDLE_S = 2, 5, 10
_MOST_LISTED, _MOST_OFFERED, _MOST_SEEDS = 30, 500, 10
_BADGES: dict[str, tuple[str, Literal["blue", "green", "gray", "orange", "red", "violet"], str]] = {
    "queued": ("queued", "violet", ":material/hourglass_empty:"),
    "starting": ("preparing", "blue", ":material/hourglass_top:"),
    "running": ("running", "blue", ":material/play_arrow:"),
    "finished": ("finished", "green", ":material/check:"),
    "interrupted": ("cancelled", "gray", ":material/pause:"),
    "stopped": ("stopped: its process is gone", "orange", ":material/stop:"),
    "failed": ("failed", "red", ":material/error:"),
    "corrupt": ("corrupt record", "red", ":material/broken_image:"),
}
_LIVE = ("queued", "starting", "running")
Looks = dict[str, str]
"""The state's name of every job by its folder's."""


def show_retraining(study: StudyRecords, trained: dict[int, dict[Any, Any]], trials: list[int]) -> None:
    """How the networks of these trials can be retrained, and every retraining of the study, looked at anew every few seconds."""
    _show_choice(trained, trials)
    if trials:
        with part():
            _show_form(study, trials)
    st.subheader("Jobs", anchor=False)
    found = sorted(jobs.all_retrainings(study), key=lambda job: job.trial not in trials)
    looks = {job.run.path.name: jobs.state(job.run).name for job in found}
    live = [job for job in found if looks[job.run.path.name] in _LIVE]
    trains, changes = "running" in looks.values(), "starting" in looks.values()
    every_s = _CHANGING_S if changes or (live and not trains) else _TRAINING_S if trains else _IDLE_S
    st.fragment(_show_live, run_every=every_s)(study, live, trials, looks)
    _show_ended(study, [job for job in found if job not in live], trials)
    with part():
        _show_results(study)


def _show_choice(trained: dict[int, dict[Any, Any]], trials: list[int]) -> None:
    """Which networks; the most accurate ones are offered, any other one can be chosen on the other pages."""

    def change() -> None:
        choose_trials(st.session_state["networks"])
        st.query_params.pop("trial", None)  # all that is chosen stands in the list now

    show_several(
        "Networks to retrain",
        "networks",
        trained,
        trials,
        _MOST_OFFERED,
        change,
        "choose networks here, or on the Pareto page",
    )


def _show_form(study: StudyRecords, trials: Sequence[int]) -> None:
    recipe, epochs, seed, seeds, device = st.columns(5, vertical_alignment="bottom")
    taught = st.session_state.get("teacher") is not None
    names = [name for name in jobs.RECIPES if taught or name in jobs.UNTAUGHT]
    name = recipe.selectbox("Recipe", names, names.index(Job.recipe), key="recipe")
    # A field for each recipe, so that choosing one shows its own length.
    length = int(epochs.number_input("Epochs", 1, 2000, jobs.RECIPES[name], key=f"epochs-{name}"))
    first = int(seed.number_input("First seed", 0, 2**31 - 1 - _MOST_SEEDS, Job.seed, key="seed"))
    number = int(seeds.number_input("Seeds", 1, _MOST_SEEDS, 1, key="seeds", help="so many trainings of each network"))
    where = str(device.selectbox("Device", _devices(), key="device"))
    options = _options(study)
    wanted = [
        Job(
            study.name,
            study.path.parent,
            trial,
            recipe=name,
            epochs=length,
            seed=first + i,
            device=where,
            options=options,
        )
        for trial in trials
        for i in range(number)
    ]
    new = [job for job in wanted if not jobs.is_begun(job)]
    told, start = st.columns([4, 1], vertical_alignment="center")
    told.caption(_told(study, wanted, new, where))
    if start.button(
        "Retrain", type="primary", icon=":material/model_training:", key="retrain", width="stretch", disabled=not new
    ):
        with part(said=NOT_DONE):
            for job in new:
                jobs.enqueue(job)
            st.rerun()
    with st.expander("The same from a shell"):
        st.code("\n".join(job.shell() for job in wanted), language="bash", wrap_lines=True)


def _options(study: StudyRecords) -> tuple[str, ...]:
    """What is chosen beyond the recipe, as words of the command: a teacher, pruning, a precision."""
    with st.expander("A teacher, pruning, int8"):
        teacher, features, prune, steps, precision = st.columns([2, 1, 1, 1, 1], vertical_alignment="bottom")
        teachers = jobs.teachers(study)
        who = teacher.selectbox(
            "Teacher",
            list(teachers),
            None,
            format_func=lambda path: teachers.get(path, path),
            placeholder="none",
            key="teacher",
            help="a finished training of this study, whose answers are learned beside the labels",
        )
        form = str(
            features.selectbox(
                "Features",
                jobs.FEATURES,
                key="features",
                help="of the teacher; it must not read more than the student",
                disabled=who is None,
            )
        )
        share = float(
            prune.number_input(
                "Prune", 0.0, 0.9, 0.0, 0.05, key="prune", help="the share of the params that goes while it trains"
            )
        )
        many = int(steps.number_input("In steps", 1, 32, 8, key="prune-steps", disabled=not share))
        number = str(
            precision.selectbox("Precision", jobs.PRECISIONS, key="precision", help="int8 needs the package torchao")
        )
    words = ["--teacher", str(who)] if who is not None else []
    words += ["--features", form] if who is not None and form != "none" else []
    words += ["--prune", f"{share:g}", "--prune-steps", str(many)] if share else []
    words += ["--precision", number] if number != "float32" else []
    return tuple(words)


def _told(study: StudyRecords, wanted: Sequence[Job], new: Sequence[Job], device: str) -> str:
    """What a click would do, and how long that will take on the device that is chosen."""
    words = (
        "At full input size, on all training clips; the test clips are scored once, at the end. Each is a process of its own, which goes on "
        "when this page is closed; one at a time, the others wait."
    )
    if there := len(wanted) - len(new):
        words += f" {there} of {len(wanted)} {'is' if there == 1 else 'are'} in the list below already."
    if new:
        count = "1 training" if len(new) == 1 else f"{len(new)} trainings"
        try:
            guess, before = estimate(study, new), queue(study)
        except (OSError, KeyError, TypeError, ValueError):  # a torn record of a trial: no reason not to ask
            guess, before = Estimate(math.nan, ""), Queue(0, 0.0)
        if math.isfinite(guess.seconds):
            on = f" on {' and '.join(guess.devices)}" if guess.devices else ""
            words += f" **{count}: about {duration(guess.seconds)}**{on}, estimated from {guess.basis}."
            if guess.devices and device not in ("auto", *guess.devices):
                words += f" On {device} nothing of this study was measured."
        else:
            words += f" **{count}**; how long that takes is not known."
        if before.number:
            turn = "1 other comes" if before.number == 1 else f"{before.number} others come"
            words += f" {turn} before, for " + (
                f"about {duration(before.seconds)} more."
                if math.isfinite(before.seconds)
                else "a time that is not known."
            )
    return words


def _devices() -> list[str]:
    """Where a training can run: torch would know, and is not asked."""
    found = sorted(
        int(path.name.removeprefix("nvidia")) for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()
    )
    return ["auto", "cpu", *(f"cuda:{number}" for number in found)]


def _show_live(study: StudyRecords, live: Sequence[Job], trials: Sequence[int], before: Looks) -> None:
    """The jobs that wait or are at work; the page is made anew where any job has come to another state, or is new."""
    with part(said=NOT_DONE):
        jobs.attend(study.path.parent)
    if not before:
        st.caption("No network of this study has been retrained yet.")
    waiting = [job.run.path for job in jobs.queued(study.path.parent)]
    for job in live:
        turn = waiting.index(job.run.path) if job.run.path in waiting else 0
        _show_job(study, job, unfolded=job.trial in trials, turn=turn)
    if {job.run.path.name: jobs.state(job.run).name for job in jobs.all_retrainings(study)} != before:
        st.rerun()


def _show_ended(study: StudyRecords, ended: Sequence[Job], trials: Sequence[int]) -> None:
    """The jobs that nothing works on: made once, so that they stay still while others are looked at."""
    for place, job in enumerate(ended[:_MOST_LISTED]):
        _show_job(study, job, unfolded=place == 0 and job.trial in trials)
    if len(ended) > _MOST_LISTED:
        st.caption(f"and {len(ended) - _MOST_LISTED} older ones in {study.path / 'retrain'}")


def _show_job(study: StudyRecords, job: Job, unfolded: bool, turn: int = 0) -> None:
    """One job, its details unfolded or not; `turn` is how many wait before it."""
    key, synthetic = job.run.path.name, study.info["data"]["synthetic"]
    with st.container(key=f"job-{key}"), part():
        state = jobs.state(job.run)
        _show_state(job, state, key, turn)
        if state.name in ("corrupt", "queued"):
            return
        details = st.expander(
            "Curve, scores, log", expanded=unfolded, key=f"more-{key}", type="compact", on_change="rerun"
        )
        if details.open:
            with details:
                with part():
                    _show_scores(job, synthetic)
                if words := jobs.last_words(job.run):
                    st.caption("The end of its log")
                    show_text(words)


def _show_state(job: Job, state: State, key: str, turn: int) -> None:
    """What it is, where it stands, and what can be done about it."""
    label, colour, icon = _BADGES[state.name]
    name, badge, action = st.columns([4, 2, 1], vertical_alignment="center")
    epochs = f"{job.epochs} epochs" if job.epochs > 1 else "1 epoch"
    name.markdown(f"trial {job.trial} · **{job.label}** recipe · {epochs} · seed {job.seed}")
    badge.badge(f"{label}{f', {turn} before it' if turn else ''}{_score(job, state)}", color=colour, icon=icon)
    if state.name in _LIVE and action.button("Cancel", key=f"cancel-{key}", width="stretch"):
        with part(said=NOT_DONE):
            jobs.cancel(job.run)
            st.rerun()
    if state.resumable and action.button("Resume", key=f"resume-{key}", width="stretch"):
        with part(said=NOT_DONE):
            jobs.enqueue(job, resume=True)
            st.rerun()
    if state.active or (state.name not in ("queued", "corrupt") and 0 < state.epoch < state.epochs):
        st.progress(state.done, text=_progress(state))
    if state.error:
        show_text(state.error)
    if state.barred:
        show_text(state.barred)


def _score(job: Job, state: State) -> str:
    """The accuracy on test, where it has one that can be read."""
    if state.name == "finished":
        with contextlib.suppress(OSError, KeyError, TypeError, ValueError):
            return f", test {per_cent(float((job.run.scores or {})['accuracy']))}"
    return ""


def _progress(state: State) -> str:
    if state.name == "starting":
        return "getting the data ready"
    left = f", about {duration(state.eta_s)} left" if state.active and state.eta_s is not None else ""
    return f"epoch {state.epoch} of {state.epochs}{left}"


def _show_scores(job: Job, synthetic: bool) -> None:
    """The learning curve as far as it goes, and the test split's scores once there are some."""
    scores, rows = job.run.scores, job.run.metrics()
    if scores:
        _show_totals(scores)
    tables = {"Scene": scores["per_scene"], "Recorder": scores["per_recorder"]} if scores else {}
    tables = {kind: shares for kind, shares in tables.items() if len(shares) > 1}
    *beside, last = st.columns([*(1 for _ in tables), 2])
    for column, (kind, shares) in zip(beside, tables.items(), strict=True):
        with column:
            _show_shares(kind, shares, f"{kind}-{job.run.path.name}")
    if rows:
        figure = _curve(str(job.run.path), len(rows), json.dumps(rows[-1]), synthetic, rows)
        last.plotly_chart(figure, key=f"figure-{job.run.path.name}", config=CONFIG, height=360)


@st.cache_resource(max_entries=64, show_spinner=False)
def _curve(folder: str, n_rows: int, last_row: str, synthetic: bool, _rows: list[dict[str, Any]]) -> Any:
    """The figure of a run's curve, which is told by its last row; drawn once, for looking at it every other second would cost the training.

    Measured: by hand, 53 ms of the processor for a figure, and that every few seconds while a page is open.
    """
    return curve_figure(_rows, synthetic=synthetic)


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


def _show_shares(kind: str, shares: dict[str, float], key: str) -> None:
    """Accuracy by scene or recorder, the worst first."""
    table = pd.DataFrame(
        {kind: list(shares), "accuracy": [rounded(100 * share) for share in shares.values()]}
    ).sort_values("accuracy")
    accuracy = st.column_config.ProgressColumn("Accuracy", format="%.1f %%", min_value=0, max_value=100)
    height = min(360, 38 + 35 * len(table))
    st.dataframe(table, key=key, hide_index=True, column_config={"accuracy": accuracy}, height=height)


def _show_results(study: StudyRecords) -> None:
    """What finished retrainings scored, a row for each network, recipe and length, with mean and deviation over the seeds."""
    rows = jobs.retrained(study)
    if rows.empty:
        return
    st.subheader("Results", anchor=False)
    grouped = rows.groupby(["trial", "recipe", "epochs"], as_index=False)
    table = grouped.agg(
        seeds=("seed", "count"),
        test=("test_accuracy", "mean"),
        test_sd=("test_accuracy", "std"),
        val=("val_accuracy", "mean"),
        val_sd=("val_accuracy", "std"),
        params=("params", "mean"),  # pruning with another seed may end with others
        macs=("macs", "mean"),
        architecture=("architecture", "first"),
    ).sort_values("test", ascending=False)
    for name in ("test", "val"):
        table[name] = rounded(100 * table[name])
        spread = rounded(100 * table[f"{name}_sd"])
        table[f"{name}_sd"] = ["" if math.isnan(sd) else f"± {sd:.1f}" for sd in spread]  # one seed has none
    columns = {
        "trial": st.column_config.NumberColumn("Trial", width=60),
        "recipe": st.column_config.TextColumn("Recipe", width=80),
        "epochs": st.column_config.NumberColumn("Epochs", width=70),
        "seeds": st.column_config.NumberColumn("Seeds", width=60),
        "test": st.column_config.NumberColumn(
            "Test", format="%.1f %%", width=80, help="mean accuracy on the test clips"
        ),
        "test_sd": st.column_config.TextColumn("± sd", width=60, help="standard deviation over seeds, points"),
        "val": st.column_config.NumberColumn(
            "Val", format="%.1f %%", width=80, help="mean accuracy on the validation clips"
        ),
        "val_sd": st.column_config.TextColumn("± sd", width=60, help="standard deviation over seeds, points"),
        "params": st.column_config.NumberColumn("Params", format="compact", width=70),
        "macs": st.column_config.NumberColumn("MACs", format="compact", width=70),
        "architecture": st.column_config.TextColumn("Network"),
    }
    st.dataframe(table, key="results", hide_index=True, column_order=list(columns), column_config=columns)
    synthetic = " The data is synthetic." if study.info["data"]["synthetic"] else ""
    st.caption(
        f"Test clips are scored once a training. Who chooses by these figures needs other clips to trust them.{synthetic}"
    )
