"""How far a study is, looked at anew every few seconds while it runs: what came of its trials, its hypervolume, what failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from dashboard.choice import pick
from dashboard.parts import part, show_text
from dashboard.reading import KeptStudy, read_study, read_trials
from search_space.rounding import rounded
from studies.analysis import best_up_to, clips_seen, front, hypervolume_course
from studies.charts import CONFIG, duration, per_cent, quantity
from studies.fronts import caps_of, course_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

_ACTIVE_S, _IDLE_S = 5.0, 20.0  # between two looks at a study that runs, and at one that does not
_A_TRIAL_S = 0.001  # a look at a large study takes longer, so it comes less often
STATE_WORDS = {
    "complete": "trained",
    "stopped": "stopped early",
    "running": "under way",
    "queued": "queued",
    "duplicate": "duplicate",
    "over_cap": "over a cap",
    "failed": "failed",
    "interrupted": "interrupted",
}
_MEANINGS = {
    "duplicate": "A duplicate is a network that the sampler drew again: it is not trained twice, and does not count.",
    "interrupted": "An interrupted trial ended with its process; a study that goes on trains its network again.",
}
"""What is not plain from the words of a state."""
_BUDGETS = (10_000, 20_000, 30_000, 50_000, 100_000, 200_000)
_TRACEBACKS = 10
_X = {"trials": "Over networks", "clips": "Over clips seen"}


def show_progress(study: KeptStudy) -> None:
    """The part of the page that is looked at again and again."""
    active = bool(study.owners)
    every_s = max(_ACTIVE_S, _A_TRIAL_S * len(study.trials())) if active else _IDLE_S
    st.fragment(_look, run_every=every_s)(study.name, active)


def _look(name: str, was_active: bool) -> None:
    with part():
        study = read_study(name)
        trials = read_trials(study)
        _show_now(study, trials)
        grown, bought = st.columns([5, 3], gap="large")
        with grown, part():
            st.subheader("Hypervolume", anchor=False)
            _show_course(study, trials)
        with bought, part():
            st.subheader("Best up to a size", anchor=False)
            _show_best(trials)
        with part():
            _show_failures(trials)
        if bool(study.owners) != was_active:
            st.rerun()


def _show_now(study: KeptStudy, trials: pd.DataFrame) -> None:
    """The numbers, and who works on it."""
    trials = trials[["trial", "state", "val_accuracy", "params", "macs", "clips", "seconds"]]  # few columns are quick
    complete = trials[trials["state"] == "complete"]
    seen, saved = clips_seen(trials, study.info["budget"])
    columns = st.columns(5)
    columns[0].metric(
        "Networks trained", f"{len(complete):,}", help="to the end of the budget; the others are counted below"
    )
    columns[1].metric("On the front", f"{len(front(trials)):,}")
    columns[2].metric(
        "Best accuracy", per_cent(complete["val_accuracy"].max()) if len(complete) else "–", help="validation"
    )
    columns[3].metric("Clips seen", quantity(seen), help=f"{seen:,} training clips, by all networks together")
    share = (
        f"{saved / (seen + saved):.0%} of what all networks to the end would have seen"
        if saved
        else "nothing was stopped early"
    )
    columns[4].metric("Clips saved", quantity(saved), help=f"{saved:,}: {share}")
    states = trials["state"].value_counts()
    counted = [f"{states[state]:,} {words}" for state, words in STATE_WORDS.items() if state in states]
    st.caption(
        f"Trials: {' · '.join(counted) or 'none yet'}",
        help=" ".join(words for state, words in _MEANINGS.items() if state in states) or None,
    )
    st.markdown(_at_work(study, trials))


def _at_work(study: KeptStudy, trials: pd.DataFrame) -> str:
    """Who works on the study, and how long it will take."""
    done = int(trials["state"].isin(["complete", "stopped"]).sum())
    total = wanted(study)
    if total is not None and done > total:  # it went on to more than it was begun with
        total = None
    of = f" {done:,} of {total:,} networks are done." if total else ""
    if not study.owners:
        if done == total:
            waiting = int((trials["state"] == "queued").sum())
            never = (
                f" Of the queued networks {waiting:,} {'was' if waiting == 1 else 'were'} not begun: the total was reached."
                if waiting
                else ""
            )
            return f":material/check_circle: The study is done: {done:,} of {total:,} networks.{never}"
        return f":material/pause_circle: Nothing works on this study now.{of}"
    machines = {(owner or {}).get("host") for owner in study.owners.values()}
    workers = f"{len(study.owners)} {'worker' if len(study.owners) == 1 else 'workers'}"
    where = f" on {len(machines)} machines" if len(machines) > 1 else ""
    left = time_left(trials, total, len(study.owners))
    said = f" About {duration(left)} left." if left is not None else " How long it will take is not known."
    return f":material/play_circle: {workers} training{where}.{of}{said}"


def wanted(study: KeptStudy) -> int | None:
    """How many networks the study is to try, as far as its record says."""
    text = study.asked("trials") or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else None


def time_left(trials: pd.DataFrame, total: int | None, workers: int) -> float | None:
    """Seconds until `total` networks are done by so many workers at the pace of those that are done; None where one of these is not known."""
    done = trials[trials["state"].isin(["complete", "stopped"])]
    seconds = done["seconds"].astype(float).mean()
    if total is None or total <= len(done) or not workers or pd.isna(seconds):
        return None
    return float(seconds) * (total - len(done)) / workers


def _show_course(study: KeptStudy, trials: pd.DataFrame) -> None:
    x = pick("by", "Over", _X)
    figure, reached = _course(study.version, x, study, trials)
    st.caption(
        f"{reached:.4f} now: accuracy above chance × decades of parameters saved × decades of MACs saved, "
        f"against the most parameters and the most MACs in the space"
    )
    st.plotly_chart(
        figure, key=f"course-{study.name}-{x}", config=CONFIG, height=320, alt=f"The hypervolume grew to {reached:.4f}"
    )


@st.cache_resource(max_entries=16, show_spinner=False)
def _course(version: tuple[Any, ...], x: str, _study: KeptStudy, _trials: pd.DataFrame) -> tuple[go.Figure, float]:
    course = hypervolume_course(_trials, _study.info["reference_point"])
    reached = float(course["hypervolume"].iloc[-1]) if len(course) else 0.0
    synthetic = _study.info["data"]["synthetic"]
    return course_figure({_study.name: course}, x, synthetic=synthetic), reached


def _show_best(trials: pd.DataFrame) -> None:
    best = best_up_to(trials[["trial", "state", "val_accuracy", "params", "macs"]], "params", _BUDGETS)
    if best.empty:
        st.caption("No network has been trained to the end yet.")
        return
    rows = best.assign(
        budget=[quantity(budget, figures=1) for budget in best["budget"]],
        val_accuracy=rounded(100 * best["val_accuracy"].astype(float)),
    )
    columns = {
        "budget": st.column_config.TextColumn("Params up to", width=80),
        "val_accuracy": st.column_config.NumberColumn("Accuracy", format="%.1f %%", width=80),
        "params": st.column_config.NumberColumn("Params", format="compact", width=70),
        "macs": st.column_config.NumberColumn("MACs", format="compact", width=70),
        "trial": st.column_config.NumberColumn("Trial", width=60),
    }
    st.dataframe(rows[list(columns)], key="best", hide_index=True, column_config=columns)
    st.caption("A size that buys nothing over the one before is left out.")


def _show_failures(trials: pd.DataFrame) -> None:
    """Failed trials with what they said, where there are any."""
    failed = trials[trials["state"] == "failed"].sort_values("trial", ascending=False)
    if failed.empty:
        return
    with st.expander(f"Failed trials ({len(failed):,})", icon=":material/error:"):
        for row in failed.head(_TRACEBACKS).to_dict("records"):
            st.markdown(f"**Trial {row['trial']}**")
            show_text(str(row["architecture"]))
            show_text(str(row["error"] or "it left no words"))
        if any("Diverged" in str(error) for error in failed.head(_TRACEBACKS)["error"]):
            st.caption(
                "A training that diverged has no traceback: no code failed, its loss or weights were not finite any more."
            )
        if len(failed) > _TRACEBACKS:
            st.caption(f"and {len(failed) - _TRACEBACKS:,} before these")
        st.caption("`python -m studies.run --retry-failed` with the study's options trains them again.")


def settings(study: KeptStudy) -> dict[str, str]:
    """What the study was asked to do, in words; what an older record lacks is left out."""
    info, data = study.info, study.info["data"]
    rungs = (info.get("halving") or {}).get("rungs", [])
    counts = data["counts"]
    rows = {
        "Data": f"{data['name']}{' (synthetic)' if data['synthetic'] else ''}, test fold {data.get('fold', '–')}",
        "Classes": f"{len(data['classes'])}: {', '.join(map(str, data['classes'][:12]))}{' …' if len(data['classes']) > 12 else ''}",
        "Clips": ", ".join(f"{number:,} {split}" for split, number in counts.items()),
        "Space": f"{info['space']['name']}, {info['space'].get('size', 0):,} networks",
        "Sampler": study.asked("sampler") or "",
        "Budget": f"{info['budget']:,} clips a network",
        "Rungs": ", ".join(f"{clips:,}" for clips in rungs[:-1]) + " clips"
        if rungs[:-1]
        else "none: every network is trained to the end",
        "Trained at": _size(info.get("train_input")),
        "Costs counted at": _size(info.get("input")),
        "Recipe": str((info.get("recipe") or {}).get("name", "")),
        "Caps": ", ".join(f"{cap.cost} {cap.label}" for cap in caps_of(info)),
        "Seed": str(info.get("seed", "")),
        "Begun": str(info["provenance"].get("started", "")),
        "Command": str(info["provenance"].get("command", "")),
        "Revision": str(info["provenance"].get("git") or ""),
    }
    return {name: text for name, text in rows.items() if text}


def _size(size: Any) -> str:
    return f"{' × '.join(map(str, size))} frames × mels" if size else ""
