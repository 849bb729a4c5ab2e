"""One network, shown: what it is, what it costs, how it learned, what it confuses, its neighbours, and how to have it."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.choice import choose_trial, keep, pick
from dashboard.listen import show_listen, show_try
from dashboard.parts import part, show_text
from dashboard.reading import read_trials
from dashboard.taking import show_taking
from search_space import Architecture, count, get_space, resolve
from search_space.families import Network
from search_space.mobile import Mobile
from search_space.rounding import rounded
from studies import jobs
from studies.charts import CONFIG, confusion_figure, curve_figure, duration, per_cent, quantity
from studies.drawings import cost_by_part, cost_figure, network_svg
from studies.jobs import is_retraining
from studies.mistakes import accuracy_by_recorder, accuracy_by_scene, val_predictions
from studies.neighbours import nearest
from studies.records import Run, StudyRecords

_ROWS = 12  # of a table that is shown whole
_SECTIONS = ("Structure", "Accuracy", "Listen", "Try", "Neighbours", "Take it along")


def show_network(study: StudyRecords, row: dict[Any, Any]) -> None:
    """The network of one complete trial (`row` of the study's trials), a section at a time: what is not looked at is not made."""
    run = _chosen_run(study, int(row["trial"]))
    again = is_retraining(run)
    choices = _choices(study, row)
    row = _as_retrained(row, run) if again else row
    show_text(row["architecture"])
    accuracy, params, macs, seconds = st.columns(4)
    budget = "after the full retraining" if again else "after the study's short budget"
    accuracy.metric("Validation accuracy", per_cent(row["val_accuracy"]), help=budget)
    params.metric("Parameters", quantity(row["params"]), help=f"{row['params']:,.0f} trainable numbers")
    macs.metric("MACs", quantity(row["macs"]), help=f"{row['macs']:,.0f} multiply-accumulates for one clip")
    seconds.metric("Trained in", duration(row["seconds"]) if again else f"{row['seconds']:.0f} s")
    st.caption(" · ".join(choices))
    if again and (became := _became(run)):
        st.caption(became)

    asked = st.query_params.get("section")
    if asked in _SECTIONS and "section" not in st.session_state:
        st.session_state["section"] = asked
    sections = st.tabs(_SECTIONS, key="section", on_change="rerun")
    opened = next((name for name, section in zip(_SECTIONS, sections, strict=True) if section.open), _SECTIONS[0])
    keep("section", "" if opened == _SECTIONS[0] else opened)
    shows = (_show_structure, _show_accuracy, show_listen, show_try, _show_neighbours, show_taking)
    for section, show in zip(sections, shows, strict=True):
        if section.open:
            with section, part():
                show(study, row, run)


def _chosen_run(study: StudyRecords, trial: int) -> Run:
    """The training whose weights are looked at: the search's own, or a finished retraining, where there is one."""
    rows = jobs.retrained(study)
    known = {str(row["run"]): row for row in rows[rows["trial"] == trial].to_dict("records")}
    if not known:
        return study.run(trial)

    def describe(name: str) -> str:
        if not name:
            return "of the search, after its short budget"
        row = known[name]
        return f"retrained: recipe {row['recipe']}, {row['epochs']} epochs, seed {row['seed']} (test {per_cent(row['test_accuracy'])})"

    name = pick("weights", "Weights", {name: describe(name) for name in ("", *known)}, in_a_list=True)
    return Run(study.path / "retrain" / name) if name else study.run(trial)


def _as_retrained(row: dict[Any, Any], run: Run) -> dict[Any, Any]:
    """The trial's row with the network that a retraining made of its own, what that scored on val and how long it took."""
    curve, final = run.metrics(), run.final
    return row | {
        "architecture": str(final["architecture"]),
        "params": int(final["params"]),
        "macs": int(final["macs"]),
        "val_accuracy": float(curve[-1]["val_accuracy"]) if curve else math.nan,
        "seconds": sum(float(epoch.get("seconds", 0)) for epoch in curve),
    }


def _became(run: Run) -> str:
    """What a retraining made of its network, in a line; nothing where that is the network it began with, in floats."""
    final, scores, said = run.final, run.scores or {}, []
    if steps := final.get("steps"):
        number = "1 step" if len(steps) == 1 else f"{len(steps)} steps"
        said.append(
            f"Pruned in {number} while it trained, from {run.config['params']:,} parameters; the choices above are what it began with."
        )
    if "precision" in final:
        floats = {
            "val": final.get("float32", {}).get("val_accuracy"),
            "test": scores.get("float32", {}).get("accuracy"),
        }
        told = ", ".join(f"{split} {per_cent(accuracy)}" for split, accuracy in floats.items() if accuracy is not None)
        before = f"; in float32 it scored {told}" if told else ""
        said.append(f"Its weights are int8 ({final['param_bytes']:,} bytes of parameters){before}.")
    return " ".join(said)


def _choices(study: StudyRecords, row: dict[Any, Any]) -> list[str]:
    """The options that make the network, in the space's words; those that mean nothing for it are left out."""
    known = [name for name in get_space(study.info["space"]["name"]).choices if name in row]
    names = [name for name in known if pd.notna(row[name])]
    values = [row[name] if isinstance(row[name], str) else f"{row[name]:g}" for name in names]
    return [f"{name.replace('_', ' ')} **{value}**" for name, value in zip(names, values, strict=True)]


def _show_structure(study: StudyRecords, row: dict[Any, Any], run: Run) -> None:
    """The diagram, and beside it what it costs by block and by layer."""
    frames, mels = study.info["input"]
    architecture, n_classes = resolve(row["architecture"]), study.info["n_classes"]
    cost = count(architecture, (frames, mels), n_classes)
    drawn, counted = st.columns([5, 6], gap="large")
    with drawn:
        st.markdown("**Diagram**")
        drawing = network_svg(architecture, (frames, mels), n_classes, dark=st.context.theme.type == "dark")
        st.image(drawing, width="stretch", alt=f"diagram of {architecture}: its costs stand in the tables beside it")
        st.caption(f"Shapes are channels × frames × mel bins. {_legend(architecture)}")
    with counted:
        st.markdown(f"**Cost by block, for one clip of {frames} × {mels} frames × mels**")
        parts = cost_by_part(cost, architecture)
        st.plotly_chart(cost_figure(parts), key="cost", config=CONFIG, height=70 + 42 * len(parts))
        st.markdown(f"**Layers, for one clip of {frames} × {mels} frames × mels**")
        layers = pd.DataFrame(cost.layers)
        layers["shape"] = [" × ".join(map(str, shape)) for shape in layers["shape"]]
        layers["share"] = rounded(100 * layers["macs"] / max(cost.macs, 1))
        columns = {
            "name": st.column_config.TextColumn("Layer", width=205),
            "kind": st.column_config.TextColumn("Kind", width=80),
            "shape": st.column_config.TextColumn("Output", width=100, help="channels × frames × mel bins"),
            "params": st.column_config.NumberColumn("Params", format="localized", width=60),
            "macs": st.column_config.NumberColumn("MACs", format="localized", width=80),
            "share": st.column_config.NumberColumn("Share", help="of the MACs", width=60, format="%.1f %%"),
        }
        st.dataframe(layers, key="layers", hide_index=True, column_config=columns, height=420)


def _legend(network: Network) -> str:
    """What the diagram's lines and colours mean."""
    if isinstance(network, Mobile):
        return (
            "The form that is deployed and counted: batch norm is part of the convolution before it. Blue is channel-wise; a green line at the side "
            "of a block adds its input (its 3 × 3 average where the map shrinks) after the last convolution."
        )
    if not isinstance(network, Architecture):
        return (
            "The form that is trained and counted, batch norm included. Blue is channel-wise; a green line at the side of a block adds its input to its "
            "output."
            + " Half of the channels go along the mels, the other half along the frames, each added to itself."
            * (network.kind == "tfs")
        )
    cut = "The dashed line cuts the mel axis, low bins to the left; blue is the heavy part. "
    return (
        f"{cut * any(block.cut for block in network.blocks)}Green lines at the side of a block are what is distilled; the green rail is what the "
        "head sees."
    )


def _show_accuracy(study: StudyRecords, row: dict[Any, Any], run: Run) -> None:
    """How it learned, what it confuses, and which scenes and recorders it knows."""
    data = study.info["data"]
    learned, confused = st.columns(2, gap="large")
    with learned, part("Learning curve"):
        figure = curve_figure(run.metrics(), synthetic=data["synthetic"])
        st.plotly_chart(figure, key="curve", config=CONFIG, height=400)
    with confused, part("Confusion of the validation clips, % of the true class, rounded"):
        predictions = val_predictions(run, data["classes"])
        dark = st.context.theme.type == "dark"
        figure = confusion_figure(predictions, data["classes"], synthetic=data["synthetic"], dark=dark)
        st.plotly_chart(figure, key="confusion", config=CONFIG, height=400)
    scenes, recorders = st.columns(2, gap="large")
    with scenes, part("Accuracy by scene, validation clips"):
        _show_shares("Scene", accuracy_by_scene(val_predictions(run, data["classes"]), data["classes"]))
    with recorders, part():
        shares = accuracy_by_recorder(val_predictions(run, data["classes"]))
        if not shares.empty:  # most data names none
            st.markdown("**Accuracy by recorder, validation clips**")
            _show_shares("Recorder", shares)


def _show_shares(kind: str, shares: pd.DataFrame) -> None:
    columns = {
        "name": st.column_config.TextColumn(kind),
        "clips": st.column_config.NumberColumn("Clips", width=70),
        "accuracy": st.column_config.ProgressColumn("Accuracy", format="%.1f %%", min_value=0, max_value=100),
    }
    height: Any = "content" if len(shares) <= _ROWS else 400
    shares = shares.assign(accuracy=rounded(100 * shares["accuracy"]))
    st.dataframe(shares, key=f"by-{kind}", hide_index=True, column_config=columns, height=height)


def _show_neighbours(study: StudyRecords, row: dict[Any, Any], run: Run) -> None:
    """The trained networks that differ in the fewest choices; a click opens one."""
    trial = int(row["trial"])
    found = nearest(read_trials(study), trial, get_space(study.info["space"]["name"]))
    if found.empty:
        st.caption("No other network of this study is trained, or its space has changed since.")
        return
    key = f"neighbours-{trial}"
    numbers = [int(number) for number in found["trial"]]

    def open_picked() -> None:
        rows = st.session_state[key]["selection"]["rows"]
        choose_trial(numbers[rows[0]] if rows else None)

    st.caption(
        "Trained networks of this study with the fewest other choices, the nearest first. Select one to open it."
    )
    shown = found.assign(
        difference=rounded(100 * found["difference"]), val_accuracy=rounded(100 * found["val_accuracy"].astype(float))
    )
    columns = {
        "what": st.column_config.TextColumn("What differs", width="large"),
        "difference": st.column_config.NumberColumn("Difference", format="%+.1f points", width=110),
        "val_accuracy": st.column_config.NumberColumn("Accuracy", format="%.1f %%", width=90),
        "params": st.column_config.NumberColumn("Params", format="compact", width=80),
        "macs": st.column_config.NumberColumn("MACs", format="compact", width=80),
        "trial": st.column_config.NumberColumn("Trial", width=70),
    }
    st.dataframe(
        shown,
        key=key,
        on_select=open_picked,
        selection_mode="single-row",
        hide_index=True,
        column_order=list(columns),
        column_config=columns,
    )
    st.caption("One seed each on a short budget: differences of a few points may be chance.")
