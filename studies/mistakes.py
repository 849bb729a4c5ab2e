"""What a network said of single clips: its accuracy by scene and recorder, its worst mistakes, and these clips' sound and log-mel.

Read without torch: sound from the data's own files, log-mels from their store. A file is opened only if the data set's lists name it and
it lies inside the folder of the recordings; what a run's record calls a clip's file is not believed.

Legend of array suffixes: N samples or clips, K classes, T frames, F mel bins.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search_space.errors import UserError
from trainers.audio import file_key, header, read_sound
from trainers.clips import Clip
from trainers.datasets import read_listing
from trainers.metrics import accuracy_by
from trainers.runs import Predictions, Run
from trainers.store import LogmelStore

# Assumed: no data set of scenes has longer clips, and decoding more would keep the page waiting.
LONGEST_S = 120.0


@dataclass(frozen=True)
class Mistake:
    """A clip that was taken for another class: what it is, what was said, and the probability (0 to 1) of either."""

    filename: str
    recorder: str
    truth: str
    said: str
    confidence: float
    right: float


def val_predictions(run: Run, classes: Sequence[str]) -> Predictions:
    """What a run's network said of the validation clips. Raises `UserError` where that is missing, torn, or of other classes."""
    try:
        predictions = run.predictions("val")
    except (zlib.error, EOFError, MemoryError) as error:
        raise UserError(f"{run.path} holds torn predictions ({error}); train this network again") from error
    if predictions is None:
        raise UserError(f"{run.path} holds no predictions of the validation clips")
    n = len(predictions.filenames)
    shapes = predictions.probabilities_NK.shape, predictions.labels_N.shape, (len(predictions.recorders),)
    known = (
        predictions.labels_N.dtype.kind == "i"
        and ((predictions.labels_N >= 0) & (predictions.labels_N < len(classes))).all()
    )
    if n == 0 or shapes != ((n, len(classes)), (n,), (n,)) or not known:
        raise UserError(f"{run.path} holds predictions of other classes or clips; train this network again")
    return predictions


def accuracy_by_scene(predictions: Predictions, classes: Sequence[str]) -> pd.DataFrame:
    """`name`, `clips` and `accuracy` (0 to 1) of every scene, the worst first."""
    return _shares(predictions, [classes[label] for label in predictions.labels_N])


def accuracy_by_recorder(predictions: Predictions) -> pd.DataFrame:
    """`name`, `clips` and `accuracy` (0 to 1) of every recorder, the worst first; empty where the data names none."""
    shares = _shares(predictions, predictions.recorders)
    return shares[(shares["name"] != "") | (len(shares) > 1)].reset_index(drop=True)


def _shares(predictions: Predictions, groups: list[str]) -> pd.DataFrame:
    correct_N = predictions.probabilities_NK.argmax(1) == predictions.labels_N
    shares, counts = accuracy_by(correct_N, groups), pd.Series(groups).value_counts()
    frame = pd.DataFrame({"name": list(shares), "accuracy": list(shares.values())})
    frame.insert(1, "clips", [int(counts[name]) for name in shares])
    return frame.sort_values(["accuracy", "name"], ignore_index=True)


def worst_mistakes(predictions: Predictions, classes: Sequence[str], n: int) -> list[Mistake]:
    """The `n` clips that were most surely taken for a wrong class, the surest first."""
    said_N, rows = predictions.probabilities_NK.argmax(1), np.arange(len(predictions.labels_N))
    confidence_N = predictions.probabilities_NK[rows, said_N]
    wrong = np.flatnonzero(said_N != predictions.labels_N)
    worst = wrong[np.argsort(-confidence_N[wrong], kind="stable")][:n]
    return [
        Mistake(
            predictions.filenames[i],
            predictions.recorders[i],
            classes[predictions.labels_N[i]],
            classes[said_N[i]],
            float(confidence_N[i]),
            float(predictions.probabilities_NK[i, predictions.labels_N[i]]),
        )
        for i in worst.tolist()
    ]


class Clips:
    """The clips of a study's or a run's data (its `data` record), to be heard and seen.

    Raises `UserError` where the data is not there any more, or its record is of another shape.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._duration_s = float(data["duration_s"])
        self._folder: Path | None = None
        self._by_name: dict[str, Clip] = {}
        if data["source"] == "synthetic":
            from trainers.synthetic import SyntheticDataset

            self._synthetic = SyntheticDataset.generate()
            clips, source_key = self._synthetic.clips, self._synthetic.source_key
        else:
            listing = read_listing(Path(str(data["source"])), data["subset"], int(data["fold"]))
            self._folder = listing.audio.resolve()
            clips, source_key = listing.clips, str(self._folder)
        self._by_name = {clip.filename: clip for clip in clips}
        try:
            # As it stands in the record, not as a number: the store's name is a hash of its text.
            self._store = LogmelStore(source_key, data["duration_s"], data["front_end"])
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise UserError(
                f"the record of the data's front end is corrupt ({type(error).__name__}: {error})"
            ) from error

    def sound(self, filename: str) -> tuple[NDArray[np.float32], int]:
        """The clip's waveform (N,), mono, full scale 1, cut to the length that training heard, and its sample rate in Hz.

        Raises `UserError` for a name that the data does not list, a file outside of its folder, and one that can not be played.
        """
        clip = self._clip(filename)
        if self._folder is None:
            sound = self._synthetic.load(clip)
        else:
            path = self._path(clip)
            frames, rate = header(path, clip.filename)
            if frames > LONGEST_S * rate:
                raise UserError(f"{clip.filename} is longer than {LONGEST_S:g} s; open it with a player")
            sound = read_sound(path, clip.filename)
        return sound.waveform_N[: round(self._duration_s * sound.sample_rate)], sound.sample_rate

    def logmel(self, filename: str) -> NDArray[np.float16] | None:
        """The clip's log-mel (T, F) at full size, natural logarithm of power, or None where the store has none (any more).

        Raises `UserError` for a name that the data does not list.
        """
        clip = self._clip(filename)
        return self._store.find(clip.filename if self._folder is None else file_key(self._path(clip), clip.filename))

    def _clip(self, filename: str) -> Clip:
        if filename not in self._by_name:
            raise UserError(f"the data's lists name no clip {filename!r}")
        return self._by_name[filename]

    def _path(self, clip: Clip) -> Path:
        assert self._folder is not None
        path = self._folder / clip.filename
        if not path.resolve().is_relative_to(self._folder):
            raise UserError(f"{clip.filename!r} lies outside of the data's folder and is not opened")
        return path
