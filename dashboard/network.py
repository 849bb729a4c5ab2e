"""One network, shown: what it is, what it costs layer by layer, how it learned, what it confuses."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from dashboard.parts import part, show_text
from search_space import Architecture, count, get_space
from search_space.errors import UserError
from studies.charts import CONFIG, confusion_figure, curve_figure, per_cent, quantity
from studies.records import StudyRecords


def show_network(study: StudyRecords, row: dict[Any, Any]) -> None:
    """The network of one complete trial (`row` of the study's trials)."""
    run, data, (frames, mels) = study.run(int(row["trial"])), study.info["data"], study.info["input"]
    show_text(row["architecture"])
    accuracy, params, macs, seconds = st.columns(4)
    accuracy.metric("Validation accuracy", per_cent(row["val_accuracy"]), help="after the study's short budget")
    params.metric("Parameters", quantity(row["params"]), help=f"{row['params']:,.0f} trainable numbers")
    macs.metric("MACs", quantity(row["macs"]), help=f"{row['macs']:,.0f} multiply-accumulates for one clip")
    seconds.metric("Trained in", f"{row['seconds']:.0f} s")
    st.caption(" · ".join(_choices(study, row)))

    learned, confused = st.columns(2, gap="large")
    with learned, part("Learning curve"):
        figure = curve_figure(run.metrics(), synthetic=data["synthetic"])
        st.plotly_chart(figure, key="curve", config=CONFIG, height=400)
    with confused, part("Confusion of the validation clips, % of the true class"):
        predictions = run.predictions("val")
        if predictions is None:
            raise UserError(f"{run.path} holds no predictions of the validation clips")
        dark = st.context.theme.type == "dark"
        figure = confusion_figure(predictions, data["classes"], synthetic=data["synthetic"], dark=dark)
        st.plotly_chart(figure, key="confusion", config=CONFIG, height=400)
    with part(f"Layers, for one clip of {frames} × {mels} frames × mels"):
        _show_layers(Architecture.parse(row["architecture"]), (frames, mels), study.info["n_classes"])


def _choices(study: StudyRecords, row: dict[Any, Any]) -> list[str]:
    """The options that make the network, in the space's words; those that mean nothing for it are left out."""
    names = [name for name in get_space(study.info["space"]["name"]).choices if pd.notna(row[name])]
    values = [row[name] if isinstance(row[name], str) else f"{row[name]:g}" for name in names]
    return [f"{name.replace('_', ' ')} **{value}**" for name, value in zip(names, values, strict=True)]


def _show_layers(architecture: Architecture, size: tuple[int, int], n_classes: int) -> None:
    cost = count(architecture, size, n_classes)
    layers = pd.DataFrame(cost.layers)
    layers["shape"] = [" × ".join(map(str, shape)) for shape in layers["shape"]]
    layers["share"] = layers["macs"] / cost.macs
    largest = float(layers["share"].max())
    columns = {
        "name": st.column_config.TextColumn("Layer", width="medium"),
        "kind": st.column_config.TextColumn("Kind"),
        "shape": st.column_config.TextColumn("Output", help="channels × frames × mel bins"),
        "params": st.column_config.NumberColumn("Parameters", format="localized"),
        "macs": st.column_config.NumberColumn("MACs", format="localized"),
        "share": st.column_config.ProgressColumn("Share of MACs", format="percent", max_value=largest),
    }
    st.dataframe(layers, hide_index=True, column_config=columns, height=320)
