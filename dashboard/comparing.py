"""Networks side by side, and studies side by side: only what differs, and what came of it in one figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.choice import (
    MOST_STUDIES,
    choose_studies,
    choose_trials,
    chosen_studies,
    chosen_trials,
    pick,
)
from dashboard.front import AXES, show_several
from dashboard.parts import part, show_text
from dashboard.progress import settings
from dashboard.reading import KeptStudy, read_study, read_trials, study_names, trained_rows
from studies.analysis import clips_seen, front, hypervolume_course, hypervolume_of
from studies.charts import CONFIG, SERIES, confusion_difference_figure, curves_figure, per_cent
from studies.fronts import course_figure, fronts_figure, option_text
from studies.mistakes import val_predictions
from studies.records import known_choices

_LISTED = 300
"""Assumed: a list of more networks than these, the most accurate ones, is not read to its end."""
_HEIGHT = 420


def show_networks(study: KeptStudy, trials: pd.DataFrame) -> None:
    """The networks of the URL beside one another."""
    trained = trained_rows(trials)
    numbers = chosen_trials(trained)
    offered = show_several(
        "Networks",
        "compare-trials",
        trained,
        numbers,
        _LISTED,
        lambda: choose_trials(st.session_state["compare-trials"]),
        "choose two or more, or take the lasso on the Pareto page",
    )
    if offered < len(trained):
        st.caption(f"Listed are the {_LISTED} most accurate of {len(trained):,}; the Pareto page has all of them.")
    if len(numbers) < 2:
        words = "Choose two or more networks" if len(trained) > 1 else "There are no two trained networks yet"
        st.info(f"{words} to see what differs between them.", icon=":material/difference:")
        return
    described = {f"trial {number}": _described(study, trained[number]) for number in numbers}
    with part():
        _show_differences(described, "Network")
    synthetic = study.info["data"]["synthetic"]
    learned, confused = st.columns(2, gap="large") if len(numbers) == 2 else (st.container(), None)
    with learned, part("Learning curves"):
        drawn = numbers[: len(SERIES)]
        curves = {f"trial {number}": study.run(number).metrics() for number in drawn}
        figure = curves_figure(curves, synthetic=synthetic)
        st.plotly_chart(figure, key="curves", config=CONFIG, height=_HEIGHT, alt="Learning curves of the networks")
        if len(drawn) < len(numbers):
            st.caption(f"The first {len(drawn)} of {len(numbers)}.")
    if confused is not None:
        with confused, part(f"Confusion: trial {numbers[0]} less trial {numbers[1]}, points of the true class"):
            _show_confusion(study, numbers, synthetic)


def _show_confusion(study: KeptStudy, numbers: list[int], synthetic: bool) -> None:
    classes = study.info["data"]["classes"]
    first, second = (val_predictions(study.run(number), classes) for number in numbers)
    dark = st.context.theme.type == "dark"
    figure = confusion_difference_figure(first, second, classes, synthetic=synthetic, dark=dark)
    st.plotly_chart(figure, key="difference", config=CONFIG, height=_HEIGHT, alt="Difference of two confusion matrices")


def _described(study: KeptStudy, row: dict[Any, Any]) -> dict[str, str]:
    return {
        "Accuracy": per_cent(row["val_accuracy"]),
        "Parameters": f"{row['params']:,.0f}",
        "MACs": f"{row['macs']:,.0f}",
        "Seconds": "" if pd.isna(row["seconds"]) else f"{row['seconds']:.0f}",
        "Preset": row["preset"] if isinstance(row["preset"], str) else "–",
        **{name.replace("_", " ").capitalize(): option_text(row[name]) for name in known_choices(study.info)},
        "Notation": row["architecture"],
    }


def show_studies(study: KeptStudy) -> None:
    """The studies of the URL beside one another; the page's own one where it names none."""
    names = study_names()
    chosen = chosen_studies(names) or [study.name]
    st.session_state["compare-studies"] = chosen
    st.multiselect(
        "Studies",
        names,
        key="compare-studies",
        max_selections=MOST_STUDIES,
        on_change=lambda: choose_studies(st.session_state["compare-studies"]),
        placeholder="choose two to four",
    )
    read: dict[str, tuple[KeptStudy, pd.DataFrame]] = {}
    for name in chosen:
        with part():
            of = read_study(name)
            settings(of), of.info["reference_point"]  # what is compared must be there
            read[name] = of, read_trials(of)
    if len(read) < 2:
        more = "Choose another study to compare this one with." if len(names) > 1 else "There is no other study yet."
        st.info(more, icon=":material/difference:")
        if not read:
            return
    made_up = [name for name, (of, _) in read.items() if of.info["data"]["synthetic"]]
    synthetic = len(made_up) == len(read)
    title = "" if synthetic or not made_up else f"synthetic data: {', '.join(made_up)}"
    baselines = {name for name, (of, _) in read.items() if of.asked("sampler") == "random"}
    with part():
        _show_differences({name: _summed_up(*of) for name, of in read.items()}, "Study", all_rows=True)
    if len(read) > 1:
        with part():
            _show_differences({name: settings(of) for name, (of, _) in read.items()}, "Settings")
        for warning in incomparable({name: of.info for name, (of, _) in read.items()}):
            st.warning(warning, icon=":material/warning:")
    left, right = st.columns(2, gap="large")
    with left, part("Fronts"):
        x = pick("x", "Cost", AXES)
        figure = fronts_figure({name: trials for name, (_, trials) in read.items()}, x, title, synthetic, baselines)
        st.plotly_chart(figure, key=f"fronts-{x}", config=CONFIG, height=_HEIGHT, alt="The fronts of the studies")
    with right, part("Hypervolume"):
        by = pick("by", "Over", {"trials": "Over networks", "clips": "Over clips seen"})
        courses = {name: _course(of.version, of, trials) for name, (of, trials) in read.items()}
        figure = course_figure(courses, by, title, synthetic, baselines)
        st.plotly_chart(figure, key=f"courses-{by}", config=CONFIG, height=_HEIGHT, alt="How the hypervolumes grew")
    if baselines:
        st.caption(f"Drawn at random, the baseline: {', '.join(sorted(baselines))}.")
    else:
        st.caption("None of these drew at random. The same search at random is the baseline: its command with")
        st.code("--sampler random --study NAME", language="bash")


def incomparable(infos: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Why the hypervolumes of these studies do not compare; nothing where they do."""

    def differ(what: Any) -> bool:
        return len({repr(what(info)) for info in infos.values()}) > 1

    reasons = [
        words
        for words, what in (
            ("data", lambda info: (info["data"]["digest"], info["data"].get("fold"))),
            ("budgets", lambda info: info["budget"]),
            ("training inputs", lambda info: info.get("train_input")),
            ("recipes", lambda info: info.get("recipe")),
            ("reference points", lambda info: sorted(info["reference_point"].items())),
        )
        if differ(what)
    ]
    if not reasons:
        return []
    return [f"These hypervolumes and accuracies do not compare: the studies have different {' and '.join(reasons)}."]


@st.cache_resource(max_entries=16, show_spinner=False)
def _course(version: tuple[Any, ...], _study: KeptStudy, _trials: pd.DataFrame) -> pd.DataFrame:
    return hypervolume_course(_trials, _study.info["reference_point"])


def _summed_up(study: KeptStudy, trials: pd.DataFrame) -> dict[str, str]:
    complete = trials[trials["state"] == "complete"]
    seen, saved = clips_seen(trials, study.info["budget"])
    return {
        "Networks trained": f"{len(complete):,}",
        "Stopped early": f"{(trials['state'] == 'stopped').sum():,}",
        "On the front": f"{len(front(trials)):,}",
        "Best accuracy": per_cent(complete["val_accuracy"].max()) if len(complete) else "–",
        "Hypervolume": f"{hypervolume_of(trials, study.info['reference_point']):.4f}",
        "Clips seen": f"{seen:,}",
        "Clips saved": f"{saved:,}",
    }


def _show_differences(described: Mapping[str, Mapping[str, str]], kind: str, all_rows: bool = False) -> None:
    """A column for each, a row for what differs; what is the same is named beneath."""
    names = list(dict.fromkeys(name for of in described.values() for name in of))
    rows = {name: [of.get(name, "–") for of in described.values()] for name in names}
    same = {name: values[0] for name, values in rows.items() if len(set(values)) == 1 and not all_rows}
    differing = [[name, *values] for name, values in rows.items() if name not in same]
    if differing:
        table = pd.DataFrame(differing, columns=[f" {kind}", *described])  # no study is called so
        config: dict[Any, Any] = {f" {kind}": st.column_config.TextColumn(kind, width=150)}
        st.dataframe(table, key=f"differences-{kind}", hide_index=True, column_config=config, height="content")
    said = [f"{name.lower()} {value}" for name, value in same.items() if value not in ("", "–")]
    if said:
        with st.expander("The same in all" if differing else "Nothing differs"):
            show_text(" · ".join(said))
