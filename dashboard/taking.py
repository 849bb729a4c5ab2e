"""How to have a network: the commands that make it again, its weights, and what a process makes of them for elsewhere."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import streamlit as st

from dashboard.parts import NOT_DONE, part, show_text
from search_space.errors import UserError
from studies import answers
from studies.jobs import Job, is_retraining, job_of
from studies.records import Run, StudyRecords
from studies.reports import lies_inside

_FILES = {
    "network.onnx": ("ONNX", "application/octet-stream"),
    "card.md": ("Model card", "text/markdown"),
}
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_LOOK_S = 2


def show_taking(study: StudyRecords, row: dict[Any, Any], run: Run) -> None:
    """Commands on the one hand, files on the other."""
    trial = int(row["trial"])
    again, files = st.columns(2, gap="large")
    with again:
        with part("Train it fully, from a shell"):
            show_text((job_of(run) if is_retraining(run) else Job(study.name, study.path.parent, trial)).shell())
            st.page_link("views/retrain.py", label="Or on the page Retrain", icon=":material/model_training:")
            st.caption(
                "Seeded: the same command gives the same weights to the bit on one machine, with as many threads."
            )
        with part("Use it from Python"):
            st.code(_snippet(study, trial, run), language="python", wrap_lines=True)
        with part("How these weights came to be"):
            show_text(_how(run))
    with files, part("Files"):
        name = f"{study.name}-{run.path.name}"
        if not lies_inside(run.path, study.path.parent):
            raise UserError(f"{run.path} leads out of the runs folder, so its files are not handed out")
        _show_weights(run.path, name)
        exporting = answers.look(_folder(run.path)).name == "running"
        st.fragment(_show_export, run_every=_LOOK_S if exporting else None)(run.path, name, exporting)


def _snippet(study: StudyRecords, trial: int, run: Run) -> str:
    frames, mels = study.info["input" if is_retraining(run) else "train_input"]
    shapes = f"raw log-mel (B, 1, {frames}, {mels}) to logits (B, {study.info['n_classes']})"
    if is_retraining(run):
        return (
            f"from trainers.recorded import load_model\nfrom trainers.runs import Run\n\n"
            f"model = load_model(Run({str(run.path)!r}))  # {shapes}"
        )
    opened = f"open_study({study.name!r}, runs={str(study.path.parent)!r})"
    return f"from studies import open_study\n\nstudy = {opened}\nmodel = study.model({trial})  # {shapes}"


def _how(run: Run) -> str:
    config, made = run.config, run.provenance
    frames, mels = config["train_input"]
    lines = [
        f"{config['clips']:,} clips of {config['data']['name']} at {frames} × {mels}, recipe {config['recipe']['name']}, seed {config['seed']}"
    ]
    lines += [str(made["command"])] if made.get("command") else []
    lines += [f"revision {made['git']}"] if made.get("git") else []
    return "\n".join(lines)


def _show_weights(folder: Path, name: str) -> None:
    path = _inside(folder, folder / "weights.safetensors")
    if path is None:
        st.caption("There are no weights in this run's folder.")
        return
    st.download_button(
        "Weights (safetensors)",
        path.read_bytes,
        f"{name}.safetensors",
        "application/octet-stream",
        key="weights",
        icon=":material/download:",
        on_click="ignore",
    )


def _folder(run: Path) -> Path:
    """Where an export's process keeps its words."""
    return run / "export" / "job"


def _show_export(run: Path, name: str, was_running: bool) -> None:
    """ONNX and model card: made by a process of its own, then handed out."""
    answer = answers.look(_folder(run))
    running = answer.name == "running"
    if running != was_running:
        st.rerun()
    with part():
        if running:
            st.caption("Making ONNX and model card; this takes about half a minute …")
            if st.button("Cancel", key="cancel-export"):
                answers.cancel(_folder(run))
        elif answer.name in ("failed", "corrupt"):
            st.warning("The export did not succeed.", icon=":material/error:")
        if not running and st.button("Make ONNX and model card", key="export", icon=":material/package_2:"):
            missing = [package for package in _PACKAGES if importlib.util.find_spec(package) is None]
            formats = "card" if missing else "onnx,card"
            with part(said=NOT_DONE):
                answers.ask(_folder(run), ["-m", "studies.export", str(run.resolve()), "--to", formats, "--json"])
                st.rerun()
        for file, (label, mime) in _FILES.items():
            path = _inside(run, run / "export" / file)
            if path is not None and not running:
                suffix = Path(file).suffix
                st.download_button(
                    label,
                    path.read_bytes,
                    f"{name}{suffix}",
                    mime,
                    key=file,
                    icon=":material/download:",
                    on_click="ignore",
                )
        if answer.log:
            with st.expander("What it said"):
                show_text(answer.log)


def _inside(folder: Path, path: Path) -> Path | None:
    """The file, if it is one and lies in this very folder: what a link points to elsewhere is not handed out."""
    return path if path.is_file() and lies_inside(path, folder) else None
