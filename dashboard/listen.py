"""What a network got wrong, to be heard and seen, and a recording of one's own to try it with."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.parts import NOT_DONE, part, show_text
from search_space import Architecture, resolve
from search_space.errors import UserError
from search_space.families import Network
from studies import answers
from studies.charts import CONFIG, per_cent
from studies.drawings import logmel_figure, mel_cuts
from studies.jobs import is_retraining
from studies.mistakes import Clips, Mistake, val_predictions, worst_mistakes
from studies.records import Run, StudyRecords

_SHOWN, _MORE = 4, 12
_LARGEST_MB = 25
_ENDINGS = ("wav", "flac", "ogg", "mp3")
_WAIT_S = 1
_PREFIX, _LEFT_S = "dssdn-try-", 3600


def show_listen(study: StudyRecords, row: dict[Any, Any], run: Run) -> None:
    """The validation clips that the network most surely took for something else, each with its sound and its log-mel."""
    data = study.info["data"]
    found = worst_mistakes(val_predictions(run, data["classes"]), data["classes"], _MORE)
    if not found:
        st.caption("It has all validation clips right.")
        return
    architecture = resolve(row["architecture"])
    cuts = isinstance(architecture, Architecture) and any(block.cut for block in architecture.blocks)
    cut = " The dashed line is where the network cuts the mel axis." * cuts
    st.caption(f"The validation clips that it most surely took for another class, the surest first.{cut}")
    clips = _open_clips(json.dumps(data))
    mels = study.info["input" if is_retraining(run) else "train_input"][1]
    shown = found if st.session_state.get("all-mistakes") else found[:_SHOWN]
    for first in range(0, len(shown), 2):
        for place, column in enumerate(st.columns(2, gap="large"), start=first):
            if place < len(shown):
                with column, part():
                    _show_mistake(study, architecture, mels, clips, shown[place], place)
    if len(found) > _SHOWN:
        st.toggle(f"Show {len(found)}", key="all-mistakes")


@st.cache_resource(max_entries=4, show_spinner="Reading the data's lists")
def _open_clips(record: str) -> Clips:
    """The clips of a study's data (its record as JSON)."""
    return Clips(json.loads(record))


def _show_mistake(
    study: StudyRecords, architecture: Network, mels: int, clips: Clips, mistake: Mistake, place: int
) -> None:
    """One clip; `mels` is how many bins the network reads of it."""
    data = study.info["data"]
    recorder = f" · recorder {mistake.recorder}" if mistake.recorder else ""
    st.text(
        f"Said {mistake.said} ({per_cent(mistake.confidence)}), right is {mistake.truth} ({per_cent(mistake.right)})\n"
        f"{mistake.filename}{recorder}"
    )
    with part():
        waveform_N, sample_rate = clips.sound(mistake.filename)
        st.audio(waveform_N, sample_rate=sample_rate)
    with part():
        logmel_TF = clips.logmel(mistake.filename)
        if logmel_TF is None:
            raise UserError(
                f"the log-mel of {mistake.filename} is not in the store (the file or the cache has changed since); any training on this "
                f"data makes it again"
            )
        figure = logmel_figure(
            logmel_TF,
            data["front_end"],
            mel_cuts(architecture, mels, logmel_TF.shape[1]),
            architecture.heavy if isinstance(architecture, Architecture) else "low",
            synthetic=data["synthetic"],
            dark=st.context.theme.type == "dark",
        )
        st.plotly_chart(figure, key=f"logmel-{place}", config=CONFIG, height=260, alt=f"log-mel of {mistake.filename}")


def show_try(study: StudyRecords, row: dict[Any, Any], run: Run) -> None:
    """A recording of one's own, and the scene that the network hears in it, by a process of its own."""
    _sweep()
    budget = (
        "" if is_retraining(run) else "It was trained on a short budget, so it errs as often as its accuracy says. "
    )
    st.caption(
        f"A recording of your own ({', '.join(_ENDINGS)}; up to {_LARGEST_MB} MB): which of its {study.info['n_classes']} classes does this network "
        f"hear? {budget}The recording stays on this machine and is "
        f"deleted when it has been heard."
    )
    uploaded = st.file_uploader(
        "Recording",
        type=list(_ENDINGS),
        max_upload_size=_LARGEST_MB,
        key=f"recording-{study.name}-{run.path.name}",
        label_visibility="collapsed",
    )
    heard = st.session_state.setdefault("heard", {})
    if uploaded is None:
        _forget(heard)
        return
    asked = (study.name, run.path.name, uploaded.file_id)
    if heard.get("asked") != asked:
        _forget(heard)
        with part(said=NOT_DONE):
            heard.update(asked=asked, folder=_ask(run, uploaded.name, uploaded.getbuffer()))
    if "asked" not in heard:
        return
    st.audio(uploaded)
    waiting = "answer" not in heard
    st.fragment(_show_answer, run_every=_WAIT_S if waiting else None)(heard, waiting)


def _ask(run: Run, name: str, content: memoryview) -> Path:
    """The folder of a prediction that has been started. Of the file's name its ending alone is used, if it is a known one."""
    ending = Path(name).suffix.lower().removeprefix(".")
    if ending not in _ENDINGS:
        raise UserError(f"a recording ends in one of {list(_ENDINGS)}, not in {ending!r}")
    if len(content) > _LARGEST_MB * 1_000_000 * 1.1:
        raise UserError(f"a recording has at most {_LARGEST_MB} MB; cut it shorter")
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        recording = folder / f"recording.{ending}"
        recording.write_bytes(content)
        answers.ask(
            folder / "answer",
            ["-m", "trainers.predict", str(run.path.resolve()), str(recording), "--device", "cpu", "--json"],
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _sweep() -> None:
    """Delete this user's recordings that a page left behind: its tab was closed before they were heard."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and time.time() - found.st_mtime > _LEFT_S:
                answers.cancel(folder / "answer")
                shutil.rmtree(folder, ignore_errors=True)


def _forget(heard: dict[str, Any]) -> None:
    """Delete the recording that was tried before."""
    if "folder" in heard:
        answers.cancel(heard["folder"] / "answer")
        shutil.rmtree(heard["folder"], ignore_errors=True)
    heard.clear()


def _show_answer(heard: dict[str, Any], was_waiting: bool) -> None:
    if "answer" not in heard:
        answer = answers.look(heard["folder"] / "answer")
        if answer.name == "running":
            st.caption("Listening …")
            return
        heard["answer"] = answer
        shutil.rmtree(heard["folder"], ignore_errors=True)
    if was_waiting:
        st.rerun()
    with part():
        answer = heard["answer"]
        if answer.name != "finished":
            st.warning("This recording could not be heard.", icon=":material/hearing_disabled:")
            show_text(answer.log or "its process is gone without a word")
            return
        [file] = answer.document["files"]
        table = pd.DataFrame(
            sorted(file["probabilities"].items(), key=lambda item: -item[1])[:20], columns=["scene", "probability"]
        )
        st.text(f"{file['scene']}, {per_cent(file['probabilities'][file['scene']])}")
        bar = st.column_config.ProgressColumn("Probability", format="percent", min_value=0, max_value=1)
        st.dataframe(table, key="heard-table", hide_index=True, column_config={"scene": "Scene", "probability": bar})
        for notice in answer.document["notices"]:
            st.text(notice)
