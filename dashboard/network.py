"""One network, shown: what it is, what it costs layer by layer, how it learned, what it confuses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pandas as pd
import streamlit as st

from search_space import Architecture, count, get_space
from search_space.errors import UserError
from studies.charts import CONFIG, confusion_figure, curve_figure, per_cent, quantity
from studies.records import StudyRecords


def show_network(study: StudyRecords, row: pd.Series) -> None:
    """The network of one complete trial (`row` of the study's trials). What its record does not give is said in its place."""
    run, data = study.run(int(row["trial"])), study.info["data"]
    st.code(row["architecture"], language=None)
    accuracy, params, macs, seconds = st.columns(4)
    accuracy.metric("Validation accuracy", per_cent(row["val_accuracy"]), help="of the last epoch, at the study's short budget")
    params.metric("Parameters", quantity(row["params"]), help=f"{row['params']:,.0f} trainable numbers")
    macs.metric("MACs", quantity(row["macs"]), help=f"{row['macs']:,.0f} multiply-accumulates a clip: convolutions and linear layers")
    seconds.metric("Trained in", f"{row['seconds']:.0f} s")
    st.caption(" · ".join(_choices(study, row)))

    learned, confused = st.columns(2, gap="large")
    with learned, _part("Learning curve"):
        st.plotly_chart(curve_figure(run.metrics(), synthetic=data["synthetic"]), key="curve", config=CONFIG, height=400)
    with confused, _part("Confusion of the validation clips, % of the true class"):
        predictions = run.predictions("val")
        if predictions is None:
            raise UserError(f"{run.path} kept no validation predictions")
        dark = st.context.theme.type == "dark"
        figure = confusion_figure(predictions, data["classes"], synthetic=data["synthetic"], dark=dark)
        st.plotly_chart(figure, key="confusion", config=CONFIG, height=400)
    frames, mels = study.info["input"]
    with _part(f"Layers, for one clip of {frames} × {mels} frames × mels"):
        _show_layers(Architecture.parse(row["architecture"]), (frames, mels), study.info["n_classes"])


def show_error(error: UserError) -> None:
    """A record's error as text: nothing in it is read as markup."""
    st.warning("This part of the record can not be shown.", icon=":material/broken_image:")
    st.code(str(error), language=None, wrap_lines=True)


@contextlib.contextmanager
def _part(heading: str) -> Iterator[None]:
    """A part of the page that may fail alone."""
    st.markdown(f"**{heading}**")
    try:
        yield
    except UserError as error:
        show_error(error)


def _choices(study: StudyRecords, row: pd.Series) -> list[str]:
    """The options that make the network, in the space's words; those that mean nothing for it are left out."""
    names = [name for name in get_space(study.info["space"]["name"]).choices if pd.notna(row[name])]
    values = [f"{row[name]:g}" if isinstance(row[name], int | float) else str(row[name]) for name in names]
    return [f"{name.replace('_', ' ')} **{value}**" for name, value in zip(names, values, strict=True)]


def _show_layers(architecture: Architecture, size: tuple[int, int], n_classes: int) -> None:
    cost = count(architecture, size, n_classes)
    layers = pd.DataFrame(cost.layers)
    layers["shape"] = [" × ".join(map(str, shape)) for shape in layers["shape"]]
    layers["share"] = layers["macs"] / cost.macs
    columns = {
        "name": st.column_config.TextColumn("Layer", width="medium"),
        "kind": "Kind",
        "shape": st.column_config.TextColumn("Output", help="channels × frames × mel bins"),
        "params": st.column_config.NumberColumn("Parameters", format="localized"),
        "macs": st.column_config.NumberColumn("MACs", format="localized"),
        "share": st.column_config.ProgressColumn("Share of MACs", format="percent", max_value=float(layers["share"].max())),
    }
    st.dataframe(layers, hide_index=True, column_config=columns, height=320)
