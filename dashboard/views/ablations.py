"""The ablations page: what a change does, by experiment; what a study's trials say of it, which is none; how far short budgets are to be trusted."""

from __future__ import annotations

import shlex
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.choice import pick
from dashboard.page import show_page
from dashboard.parts import part, show_text
from dashboard.reading import KeptStudy, runs_folder
from search_space.errors import UserError
from studies import contrasts
from studies.charts import CONFIG, effects_figure, fidelity_figure, forest_figure, importance_figure
from studies.records import StudyRecords
from studies.reports import Report, ablations, fidelities, lies_inside

_KINDS = {
    "ablations": "Experiments",
    "effects": "What the study's trials say",
    "fidelity": "Is the short budget to be trusted?",
}
_OBJECTIVES = {"val_accuracy": "Validation accuracy", "params": "Parameters", "macs": "MACs", "front": "The front"}


def show(study: KeptStudy, trials: pd.DataFrame) -> None:
    """One of the three, as the URL says (`?show=effects`)."""
    kind = pick("show", "Show", _KINDS)
    if kind == "ablations":
        show_ablations(study)
    elif kind == "effects":
        show_effects(study)
    else:
        show_fidelity(study)


def show_ablations(study: KeptStudy) -> None:
    """The reports of `studies.ablate` in this runs folder, one of them in full."""
    found = ablations(runs_folder())
    whole = {report.key: report for report in found if not report.error}
    for report in found:
        if report.error:
            st.warning("This ablation's report can not be read.", icon=":material/broken_image:")
            show_text(f"{report.key}: {report.error}")
    if not whole:
        st.markdown("An ablation changes one thing at a time, with several seeds, and tells effect from noise:")
        _show_command("studies.ablate", "--base", "dssdn-middle", *data_options(study))
        st.caption(
            "It tries every factor, with five seeds: about 200 trainings. `--factors operator` asks of one alone."
        )
        return
    key = pick("ablation", "Ablation", {key: _label(report) for key, report in whole.items()}, in_a_list=True)
    st.query_params["ablation"] = key  # another one may be the latest at the next look
    with part():
        show_ablation(whole[key])


def data_options(study: StudyRecords) -> list[str]:
    """The words that give a command the data of this study; none for the synthetic data, which it makes itself."""
    data = study.info["data"]
    if data["synthetic"] and data["source"] == "synthetic":
        return []
    words = ["--data", str(data["source"])]
    words += ["--folds", str(data["fold"])] if data.get("fold") is not None else []
    return words + (["--subset", str(data["subset"])] if data.get("subset") else [])


def _show_command(module: str, *options: str) -> None:
    """A command for a shell, which finds this server's runs folder."""
    runs = runs_folder()
    more = [] if str(runs) == "runs" else ["--runs", str(runs)]
    st.code(shlex.join(["python", "-m", module, *options, *more]), language="bash")


def _label(report: Report) -> str:
    of = report.content
    variants = len(of["rows"]) - 1
    changed = f"{variants} {'variant' if variants == 1 else 'variants'} × {len(of['seeds']) * len(of['folds'])} runs"
    kind = "" if of["kind"] == "one change" else f" · {of['kind']}"
    return f"{of['base']} on {of['data']['name']}{' (synthetic data)' * of['data']['synthetic']} · {changed}{kind} · {of['written'][:16]}"


def show_ablation(report: Report) -> None:
    """One ablation: its forest plot, its table, what one must know to read it, and its files."""
    content = report.content
    synthetic = bool(content["data"]["synthetic"])
    if synthetic:
        st.badge("synthetic data", icon=":material/science:", color="orange", help="generated, not recorded")
    rows = contrasts.forest_rows(content)
    figure = forest_figure(rows, content["title"], synthetic)
    st.plotly_chart(figure, key=f"forest-{report.key}", config=CONFIG, height=figure.layout.height)
    st.dataframe(pd.DataFrame(contrasts.as_records(content["rows"])), hide_index=True, key=f"rows-{report.key}")
    if content["effects"]:
        st.dataframe(pd.DataFrame(contrasts.effects_records(content["effects"])), hide_index=True)
    for note in content["notes"]:
        st.text(note)
    _downloads(report)


def _downloads(report: Report) -> None:
    """The table in each form that was written."""
    kinds = {"ablation.csv": "CSV", "ablation.md": "Markdown", "ablation.tex": "LaTeX", "ablation.json": "JSON"}
    columns = st.columns(len(kinds) + 4)
    for column, (name, label) in zip(columns, kinds.items(), strict=False):
        path = report.path.with_name(name)
        if path.is_file() and lies_inside(path, runs_folder()):
            column.download_button(
                label, path.read_bytes(), name, key=f"{label}-{report.key}", icon=":material/download:", width="stretch"
            )


@st.cache_data(show_spinner="Asking the trials", max_entries=8)
def _effects(version: tuple[Any, ...], _study: KeptStudy) -> dict[str, Any] | str:
    """The effects of a study as it is at this version, or why there are none yet."""
    from studies.observed import effects_report

    try:
        return effects_report(_study)
    except UserError as error:
        return str(error)


def show_effects(study: KeptStudy) -> None:
    """What each choice went with in the study's own trials."""
    report = _effects(study.version, study)
    if isinstance(report, str):
        st.info(report, icon=":material/hourglass_top:")
        return
    synthetic = study.info["data"]["synthetic"]
    st.markdown(
        "**Observational.** A search draws what it believes in, each network once: what differs here may be the company a choice keeps. "
        "This experiment settles it:"
    )
    st.code(report["ablation"], language="bash", wrap_lines=True)
    name = pick("objective", "Objective", _OBJECTIVES)
    of = report["front"] if name == "front" else report["objectives"][name]
    figure = importance_figure(of, f"importance for {_OBJECTIVES[name].lower()}", synthetic)
    st.plotly_chart(figure, key=f"importance-{study.name}-{name}", config=CONFIG)
    if name != "front":
        figure = effects_figure(name, of, f"what each option went with: {_OBJECTIVES[name].lower()}", synthetic)
        rows = -(-sum(bool(choice["options"]) for choice in of["choices"]) // 4)
        st.plotly_chart(figure, key=f"effects-{study.name}-{name}", config=CONFIG, height=160 + 220 * max(1, rows))


def show_fidelity(study: StudyRecords) -> None:
    """The reports of `studies.fidelity` about this study."""
    found = fidelities(study.path)
    if not found:
        st.markdown("Networks of this study trained for longer tell whether its short budget ranks them rightly:")
        _show_command("studies.fidelity", "--study", study.name)
    for report in found:
        with part():
            if report.error:
                raise UserError(f"{report.key}: {report.error}")
            of = report.content
            plotted, said = st.columns([3, 2], gap="large")
            figure = fidelity_figure(of, f"{of['study']} on {of['data']['name']}", of["data"]["synthetic"])
            plotted.plotly_chart(figure, key=f"fidelity-{report.key}", config=CONFIG, height=420)
            said.dataframe(
                pd.DataFrame(
                    {
                        "ranked by": [_predictor(row) for row in of["correlations"]],
                        "Kendall's tau": [row["tau"] for row in of["correlations"]],
                        "from": [row["low"] for row in of["correlations"]],
                        "to": [row["high"] for row in of["correlations"]],
                    }
                ).round(2),
                hide_index=True,
            )
            said.text(of["reading"])


def _predictor(row: dict[str, Any]) -> str:
    if row["clips"]:
        return f"accuracy after {row['clips']:,} clips"
    return {"params": "parameters alone", "macs": "MACs alone"}.get(row["predictor"], str(row["predictor"]))


show_page("Ablations", show)
