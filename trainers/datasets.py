"""Clips in three leak-free splits, and a way to their sound: `open_dataset`. Nothing here imports torch."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from search_space.errors import UserError
from trainers import esc, own, tau
from trainers.audio import BadAudio, Scan, Sound, bad_audio, file_key, read_sound, scan, why_missing
from trainers.clips import DEFAULT_FOLD, SPLITS, Clip, Listing, Split, Splits, check_splits, first

__all__ = ["DEFAULT_FOLD", "SPLITS", "BadAudio", "Clip", "DataSpec", "Dataset", "FolderDataset", "Sound", "Split"]
__all__ += ["Splits", "bad_audio", "open_dataset", "read_listing"]

LAYOUTS = (
    "ESC-50's layout (meta/esc50.csv, audio/), TAU Urban Acoustic Scenes' (meta.csv, evaluation_setup/, audio/), "
    "a folder per class, or a csv with the columns filename and label"
)


class DataSpec(NamedTuple):
    """What `open_dataset` was asked for: "synthetic" or the data's full path, the named part or csv, the test fold."""

    source: str
    subset: str | None
    fold: int


@dataclass(frozen=True)
class Dataset(ABC):
    """Clips, their splits, and a way to their sound.

    `classes` are sorted; `sample_rate` (Hz) is the rate that features are made at; every clip is padded or trimmed to
    `duration_s`; `notices` are the sentences that a person should read before trusting a number. `spec` opens it again.
    """

    spec: DataSpec
    name: str
    synthetic: bool
    classes: tuple[str, ...]
    sample_rate: int
    duration_s: float
    clips: tuple[Clip, ...]
    notices: tuple[str, ...]

    @abstractmethod
    def load(self, clip: Clip) -> Sound:
        """The clip's sound, mono, full scale 1: neither resampled nor padded.

        Raises: BadAudio when the clip has no usable sound.
        """

    @abstractmethod
    def row_keys(self) -> list[str]:
        """For every clip a text that changes when its sound may have: cheap, independent of labels and splits."""

    @property
    @abstractmethod
    def source_key(self) -> str:
        """The place or the generator that the sound comes from."""

    @cached_property
    def splits(self) -> Splits:
        names = np.array([clip.split for clip in self.clips])
        return Splits(*(np.flatnonzero(names == split) for split in SPLITS))

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The class number (n,) of every clip, an index into `classes`."""
        number = {scene: k for k, scene in enumerate(self.classes)}
        return np.array([number[clip.scene] for clip in self.clips], dtype=np.int64)


@dataclass(frozen=True)
class FolderDataset(Dataset):
    """Recordings as files below one folder, `audio`, each under its clip's `filename`."""

    audio: Path

    def load(self, clip: Clip) -> Sound:
        return read_sound(self.audio / clip.filename, clip.filename)

    def row_keys(self) -> list[str]:
        return [file_key(self.audio / clip.filename, clip.filename) for clip in self.clips]

    @property
    def source_key(self) -> str:
        return os.path.realpath(self.audio)


def open_dataset(
    data: str | None = None,
    *,
    subset: str | None = None,
    fold: int = DEFAULT_FOLD,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """The dataset that `data` names: "synthetic", or a folder (or csv) of recordings in one of `LAYOUTS`.

    Without `data` it is the folder in the environment variable DSSDN_DATA, else "synthetic". `subset` is a part that the
    layout knows or the path of a csv whose column `filename` names the clips to keep. `fold` is the test fold.
    `progress(done, total)` hears of the headers read.

    Raises: UserError for anything that would make training pointless: it is found here, from headers, in seconds.
    Damage that only decoding shows is found by `features.prepare`.
    """
    if data is None:
        data = os.environ.get("DSSDN_DATA") or "synthetic"
        origin = "from DSSDN_DATA" if os.environ.get("DSSDN_DATA") else "neither --data nor DSSDN_DATA names a folder"
        dataset = open_dataset(data, subset=subset, fold=fold, progress=progress)
        return replace(dataset, notices=(f"data: {data} ({origin})", *dataset.notices))
    if data == "synthetic":
        from trainers.synthetic import SyntheticDataset

        if subset is not None:
            raise UserError(f"subset {subset!r}: the synthetic data has no named parts; leave --subset out")
        if fold != DEFAULT_FOLD:
            raise UserError(f"fold {fold}: the synthetic data has one split, as TAU has; leave --fold out")
        return SyntheticDataset.generate()
    listing = read_listing(Path(data).expanduser(), subset, fold)
    if not listing.labelled:
        raise UserError(
            f"{str(listing.source)!r} is an evaluation set without labels: nothing can be trained on it; "
            f"python -m trainers.predict RUN {listing.source} predicts its scenes"
        )
    check_splits(listing)
    used = [clip.filename for clip in listing.clips if clip.split != "unused"]
    scanned = scan(listing.audio, used, progress)
    check_files(listing, scanned, len(used))
    sample_rate, duration_s, format_notices = scanned.format()
    return FolderDataset(
        spec=DataSpec(str(listing.source), listing.subset, fold),
        name=listing.name,
        synthetic=listing.synthetic,
        classes=listing.classes,
        sample_rate=sample_rate,
        duration_s=duration_s,
        clips=listing.clips,
        notices=(*listing.notices, *format_notices),
        audio=listing.audio,
    )


def check_files(listing: Listing, scanned: Scan, total: int) -> None:
    """Raises: UserError listing all files that cannot be used, with the likely cause of missing ones."""
    if scanned.problems:
        n_missing = sum(problem.fault == "missing" for problem in scanned.problems)
        cause = why_missing(listing.source, listing.audio, n_missing, total) if n_missing else ""
        raise bad_audio(scanned.problems, total, cause)


def read_listing(path: Path, subset: str | None = None, fold: int = DEFAULT_FOLD) -> Listing:
    """What the lists in a folder, or a csv, say; the layout is recognised by looking.

    Raises: UserError when there is no such folder, no layout fits (with the nearest folder that does), or lists are wrong.
    """
    if not path.exists():
        raise UserError(
            f"no folder {str(path)!r} (seen from {Path.cwd()}); --data takes a folder in {LAYOUTS}; known names: ['synthetic']"
        )
    try:
        if path.is_file():
            if path.suffix.lower() not in (".csv", ".tsv", ".txt"):
                raise UserError(f"{str(path)!r} is a file; --data takes a folder or a csv: {LAYOUTS}")
            return own.read(path, subset, fold)
        if path.name == "evaluation_setup" and tau.recognises(path.parent):
            raise UserError(
                f"{str(path)!r} holds the lists of a data set, not the set; did you mean {str(path.parent)!r}?"
            )
        for recognises, read in ((_is_esc, esc.read), (tau.recognises, tau.read), (own.recognises, own.read)):
            if recognises(path):
                return read(path, subset, fold)
        near = [
            folder for folder in (path.parent, *sorted(path.glob("*/"))) if _is_esc(folder) or tau.recognises(folder)
        ]
        hint = f"; did you mean {str(near[0])!r}?" if near else ""
        zips = sorted(found.name for found in path.glob("*.zip"))
        hint += f"; {len(zips)} zip archives lie there ({first(zips, 3)}): unpack them" if zips else ""
        raise UserError(
            f"{str(path)!r} is not a data folder: expected {LAYOUTS}; found "
            f"{first(sorted(found.name for found in path.iterdir())) or 'nothing'}{hint}"
        )
    except OSError as error:
        raise UserError(f"{error.filename or path!r} cannot be read ({error.strerror}): check its rights") from error


def _is_esc(folder: Path) -> bool:
    return (folder / esc.LIST).is_file()
