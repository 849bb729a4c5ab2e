"""Recordings on disk, or made up, as clips in three leak-free splits. Nothing here imports torch.

Legend of array suffixes: N samples.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import struct
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from search_space.errors import UserError

Split = Literal["train", "val", "test", "unused"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

# Source: ESC-50's README reports with the official folds; the fifth is this project's test fold by default.
DEFAULT_FOLD = 5
# Source: the paper's front end is at 44.1 kHz; what is sampled faster is brought down to it.
HIGHEST_SAMPLE_RATE = 44_100
# Assumed: what a person would call another length; encoders add or drop some milliseconds.
NOTEWORTHY_S = 0.05


@dataclass(frozen=True)
class Clip:
    """One recording and what is known of it.

    `group` is what must never stand in two splits: the source recording (ESC) or the place (scene data). `recorder`,
    `city` and `location` are empty where the data names none. `split` is "unused" for a clip that is in no split
    because the rest of its group is in another.
    """

    filename: str
    scene: str
    group: str
    split: Split
    fold: int | None = None
    recorder: str = ""
    city: str = ""
    location: str = ""


@dataclass(frozen=True)
class Splits:
    """Row numbers into `Dataset.clips`, ascending: learn from train, choose on val, score once on test."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]


class DataSpec(NamedTuple):
    """What `open_dataset` was asked for: "synthetic" or the folder's full path, the named part or csv, the test fold."""

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
    def load(self, clip: Clip) -> tuple[NDArray[np.float32], int]:
        """The waveform (N,), mono, full scale 1, and its own sample rate in Hz: neither resampled nor padded.

        Raises: BadAudio when the clip has no usable sound.
        """

    @abstractmethod
    def signature(self) -> str:
        """What decides whether features made earlier are still right; cheap, and independent of labels and splits."""

    @abstractmethod
    def digest(self, clip: Clip) -> str:
        """What the clip is made of, as a hash that is the same on every machine and under every path."""

    @cached_property
    def splits(self) -> Splits:
        names = np.array([clip.split for clip in self.clips])
        return Splits(*(np.flatnonzero(names == split) for split in SPLITS))

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The class number (n,) of every clip, an index into `classes`."""
        number = {scene: k for k, scene in enumerate(self.classes)}
        return np.array([number[clip.scene] for clip in self.clips], dtype=np.int64)


class BadAudio(UserError):
    """One file that cannot be used, and its fault, one of `FAULTS`."""

    def __init__(self, filename: str, fault: str):
        super().__init__(f"{filename}: {fault}")
        self.filename, self.fault = filename, fault


MISSING = "missing"
EMPTY = "empty"
TRUNCATED = "truncated (they end before their own header says)"
UNREADABLE = "not readable as audio"
NOT_FINITE = "with NaN or infinite samples"
FAULTS = (MISSING, EMPTY, TRUNCATED, UNREADABLE, NOT_FINITE)


def bad_audio(problems: Sequence[BadAudio], total: int) -> UserError:
    """One error for all files that cannot be used: how many of each fault, the first few names, what to do."""
    names: dict[str, list[str]] = defaultdict(list)
    for problem in problems:
        names[problem.fault].append(problem.filename)
    listed = "; ".join(f"{len(files):,} {fault}: {_first(files)}" for fault, files in names.items())
    hint = " (is the archive unpacked as a whole, and does the csv belong to it?)" if MISSING in names else ""
    return UserError(
        f"{len(problems):,} of {total:,} audio files cannot be used: {listed}{hint}. Copy or download them again, "
        f"or leave them out: --subset FILE.csv with the names to keep in a column 'filename'"
    )


def open_dataset(data: str | None = None, *, subset: str | None = None, fold: int = DEFAULT_FOLD) -> Dataset:
    """The dataset that `data` names: "synthetic", or a folder in ESC-50's layout (`meta/esc50.csv`, `audio/`).

    Without `data` it is the folder in the environment variable DSSDN_DATA, else "synthetic". `subset` is "esc10" or the
    path of a csv whose column `filename` names the clips to keep. `fold` is the test fold.

    Raises: UserError for anything that would make training pointless: it is found here, from headers, in seconds.
    Damage that only decoding shows is found by `features.prepare`.
    """
    if data is None:
        data = os.environ.get("DSSDN_DATA") or "synthetic"
        origin = "from DSSDN_DATA" if os.environ.get("DSSDN_DATA") else "neither --data nor DSSDN_DATA names a folder"
        dataset = open_dataset(data, subset=subset, fold=fold)
        return replace(dataset, notices=(f"data: {data} ({origin})", *dataset.notices))
    if data == "synthetic":
        from trainers.synthetic import SyntheticDataset

        if subset is not None:
            raise UserError(f"subset {subset!r}: the synthetic data has no named parts; leave --subset out")
        if fold != DEFAULT_FOLD:
            raise UserError(f"fold {fold}: the synthetic data has one split, as TAU has; leave --fold out")
        return SyntheticDataset.generate()
    return _open_esc(Path(data).expanduser(), subset, fold)


# ---------------------------------------------------------------------------------------------- a folder of recordings


@dataclass(frozen=True)
class FolderDataset(Dataset):
    """Recordings as files in one folder, `audio`, each under its clip's `filename`."""

    audio: Path

    def load(self, clip: Clip) -> tuple[NDArray[np.float32], int]:
        path = self.audio / clip.filename
        expected, sample_rate = _header(path)
        try:
            waveform_NC, _ = soundfile.read(path, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            raise BadAudio(clip.filename, TRUNCATED) from None  # its header could be read
        if len(waveform_NC) < expected:
            raise BadAudio(clip.filename, TRUNCATED)
        if not np.isfinite(waveform_NC).all():
            raise BadAudio(clip.filename, NOT_FINITE)
        return waveform_NC.mean(axis=1, dtype=np.float32), sample_rate

    def signature(self) -> str:
        """Names, sizes and times of the files. The time of the last status change is in it because, other than the
        time of writing, no copying tool sets it: a file replaced under the same name, size and date is noticed.
        """
        stats = [(clip.filename, (self.audio / clip.filename).stat()) for clip in self.clips]
        return _sha256(json.dumps([(name, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in stats]).encode())

    def digest(self, clip: Clip) -> str:
        return _sha256((self.audio / clip.filename).read_bytes())


def _open_esc(folder: Path, subset: str | None, fold: int) -> FolderDataset:
    rows = _read_esc_csv(_find_esc_csv(folder))
    n_classes = len({row["category"] for row in rows})
    rows, part = _subset(rows, subset)
    is_esc10 = all(row["esc10"].lower() == "true" for row in rows)
    known = "esc10" if is_esc10 else f"esc50{part}" if n_classes == 50 else f"{folder.resolve().name}{part}"

    classes = tuple(sorted({row["category"] for row in rows}))
    if len(classes) < 2:
        raise UserError(f"one class only ({classes[0]!r}): a classifier needs clips of at least two classes")
    clips, notices = _split_by_fold(rows, fold)
    _check_splits(clips, classes)
    sample_rate, duration_s, format_notices = _scan(folder / "audio", clips)
    part_path = str(Path(subset).resolve()) if subset and subset != "esc10" else subset
    return FolderDataset(
        spec=DataSpec(str(folder.resolve()), part_path, fold),
        name=known,
        synthetic=False,
        classes=classes,
        sample_rate=sample_rate,
        duration_s=duration_s,
        clips=clips,
        notices=(*notices, *format_notices),
        audio=folder / "audio",
    )


def _find_esc_csv(folder: Path) -> Path:
    """Where the folder's csv is. Raises: UserError when the folder is not in ESC-50's layout, with the nearest that is."""
    layout = "a data folder holds meta/esc50.csv and audio/ (ESC-50's layout)"
    if not folder.exists():
        raise UserError(f"no folder {str(folder)!r} (seen from {Path.cwd()}); {layout}; known names: ['synthetic']")
    if not folder.is_dir():
        raise UserError(f"{str(folder)!r} is a file; --data takes a folder: {layout}")
    path = folder / "meta" / "esc50.csv"
    if not path.is_file():
        near = [folder.parent / "meta" / "esc50.csv", *sorted(folder.glob("*/meta/esc50.csv"))]
        hints = [f"; did you mean {str(other.parent.parent)!r}?" for other in near if other.is_file()]
        raise UserError(
            f"no {str(path)!r}: {layout}; found {_first([p.name for p in folder.iterdir()])}{''.join(hints[:1])}"
        )
    if not (folder / "audio").is_dir():
        raise UserError(f"no folder {str(folder / 'audio')!r}: {layout}; unpack the audio there")
    return path


def _read_csv(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a comma-separated file with a header. Raises: UserError unless every row has every one of `columns`."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{str(path)!r} is not UTF-8 text (byte {error.start:,}): export it as a UTF-8 csv") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
    try:
        rows = list(reader)
    except csv.Error as error:
        raise UserError(f"{str(path)!r} is not a csv (line {reader.line_num}: {error})") from None
    missing = [column for column in columns if column not in (reader.fieldnames or [])]
    if missing:
        raise UserError(
            f"{str(path)!r} lacks the columns {missing}; its first line names {list(reader.fieldnames or [])}: "
            f"separate columns by commas and name them in the first line"
        )
    if not rows:
        raise UserError(f"{str(path)!r} has a header and no rows: it should name one clip a line")
    for line, row in enumerate(rows, start=2):
        for column in columns:
            if not row[column]:
                raise UserError(f"{str(path)!r}, row {line}: no {column!r}; every row needs one")
    return rows


def _read_esc_csv(path: Path) -> list[dict[str, str]]:
    rows = _read_csv(path, ("filename", "fold", "category", "src_file"))
    for line, row in enumerate(rows, start=2):
        row.setdefault("esc10", "")
        if not row["fold"].isdecimal():
            raise UserError(f"{str(path)!r}, row {line}: fold {row['fold']!r} is not a whole number")
        if Path(row["filename"]).name != row["filename"]:
            raise UserError(f"{str(path)!r}, row {line}: filename {row['filename']!r} is not a plain name in audio/")
    twice = [name for name, count in Counter(row["filename"] for row in rows).items() if count > 1]
    if twice:
        raise UserError(f"{str(path)!r} names {len(twice):,} files more than once: {_first(twice)}; keep one row each")
    return rows


def _subset(rows: list[dict[str, str]], subset: str | None) -> tuple[list[dict[str, str]], str]:
    """The rows to keep, and what the dataset's name gains by leaving the others out."""
    if subset is None:
        return rows, ""
    if subset == "esc10":
        kept = [row for row in rows if row["esc10"].lower() == "true"]
        if not kept:
            raise UserError("subset 'esc10': no row of meta/esc50.csv has True in a column 'esc10'")
        return kept, ""
    path = Path(subset).expanduser()
    if not path.is_file():
        raise UserError(f"unknown subset {subset!r}; known: ['esc10'] or the path of a csv with a column 'filename'")
    wanted = {row["filename"] for row in _read_csv(path, ("filename",))}
    strangers = sorted(wanted - {row["filename"] for row in rows})
    if strangers:
        raise UserError(
            f"{str(path)!r} names {len(strangers):,} clips that meta/esc50.csv does not: {_first(strangers)}"
        )
    return [row for row in rows if row["filename"] in wanted], f"-{path.stem}"


def _split_by_fold(rows: list[dict[str, str]], fold: int) -> tuple[tuple[Clip, ...], list[str]]:
    """Test is `fold`, val the fold before it (the last before the first), train the rest.

    A source recording that stands in several splits stays in test, else in val: the official test fold stays whole, and
    the clips left out are named in a notice. ESC-50 has four such sources.
    """
    folds = sorted({int(row["fold"]) for row in rows})
    if len(folds) < 3:
        raise UserError(f"folds {folds}: train, val and test need at least three folds in column 'fold'")
    if fold not in folds:
        raise UserError(f"fold {fold} is not in the data; known: {folds}")
    val_fold = folds[folds.index(fold) - 1]
    rank: dict[Split, int] = {"test": 0, "val": 1, "train": 2}
    home: dict[str, Split] = {}
    clips = []
    for row in rows:
        number, source = int(row["fold"]), row["src_file"]
        split: Split = "test" if number == fold else "val" if number == val_fold else "train"
        home[source] = min(split, home.get(source, split), key=rank.__getitem__)
        clips.append(Clip(row["filename"], row["category"], source, split, number))

    straddlers = [clip for clip in clips if clip.split != home[clip.group]]
    if not straddlers:
        return tuple(clips), []
    sources = sorted({clip.group for clip in straddlers})
    notice = (
        f"{len(straddlers)} clips left out of train or val: their source recordings ({_first(sources)}) are also in "
        f"val or test"
    )
    left_out = set(straddlers)
    return tuple(replace(clip, split="unused") if clip in left_out else clip for clip in clips), [notice]


def _check_splits(clips: tuple[Clip, ...], classes: tuple[str, ...]) -> None:
    """Raises: UserError unless every class has a clip in every split."""
    present = {(clip.split, clip.scene) for clip in clips}
    for split in SPLITS:
        absent = [scene for scene in classes if (split, scene) not in present]
        if absent:
            raise UserError(
                f"too few clips to split: {split} has none of {len(absent)} of the {len(classes)} classes "
                f"({_first(absent)}); every class needs a clip in train, val and test: add clips or choose another --fold"
            )


def _scan(audio: Path, clips: tuple[Clip, ...]) -> tuple[int, float, list[str]]:
    """The common sample rate (Hz) and length (s) of the files, from their headers, and notices of what departs from them.

    Raises: UserError naming all files that are missing, empty, truncated or no audio.
    """
    rates: Counter[int] = Counter()
    lengths: list[float] = []
    problems: list[BadAudio] = []
    for clip in clips:
        try:
            frames, rate = _header(audio / clip.filename)
        except BadAudio as problem:
            problems.append(problem)
        else:
            rates[rate] += 1
            lengths.append(frames / rate)
    if problems:
        raise bad_audio(problems, len(clips))

    counts = Counter(round(length, 1) for length in lengths)
    duration_s = max(counts, key=lambda length: (counts[length], length))
    if duration_s == 0:
        raise UserError("most clips are shorter than 0.05 s: too short for a spectrogram")
    sample_rate = min(*rates, HIGHEST_SAMPLE_RATE)
    notices = []
    if set(rates) != {sample_rate}:
        listed = ", ".join(f"{count:,} at {rate:,} Hz" for rate, count in sorted(rates.items()))
        notices.append(f"files are resampled to {sample_rate:,} Hz ({listed})")
    n_padded = sum(length < duration_s - NOTEWORTHY_S for length in lengths)
    n_trimmed = sum(length > duration_s + NOTEWORTHY_S for length in lengths)
    if n_padded or n_trimmed:
        notices.append(
            f"clips are brought to {duration_s:g} s: {n_padded:,} padded with zeros, {n_trimmed:,} trimmed "
            f"({min(lengths):.2f} to {max(lengths):.2f} s)"
        )
    if sample_rate < HIGHEST_SAMPLE_RATE:
        notices.append(f"sampled at {sample_rate:,} Hz: nothing above {sample_rate // 2:,} Hz is in the features")
    return sample_rate, duration_s, notices


def _header(path: Path) -> tuple[int, int]:
    """Frames and sample rate (Hz) of an audio file. Raises: BadAudio for what the outside of a file shows to be wrong."""
    if not path.is_file():
        raise BadAudio(path.name, MISSING)
    if path.stat().st_size == 0:
        raise BadAudio(path.name, EMPTY)
    try:
        if _is_cut(path):
            raise BadAudio(path.name, TRUNCATED)
        header = soundfile.info(path)
    except (soundfile.LibsndfileError, OSError):
        raise BadAudio(path.name, UNREADABLE) from None
    if header.frames == 0:
        raise BadAudio(path.name, EMPTY)
    return header.frames, header.samplerate


def _is_cut(path: Path) -> bool:
    """Whether the end of a wav or Ogg file is missing, which libsndfile takes for a shorter recording.

    Source: RIFF's chunk size (bytes 4 to 7; 0 and 2^32 - 1 are what streaming writers leave there); RFC 3533, page
    header (flag 4 marks the last page; 27 bytes, then the segment table, whose entries add up to the page's body).
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start[:4] == b"RIFF" and len(start) == 8:
            (body,) = struct.unpack("<I", start[4:])
            return body not in (0, 2**32 - 1) and body + 8 > size + 1  # some writers forget the pad byte
        if start[:4] != b"OggS":
            return False
        file.seek(max(0, size - 65_307))  # no page is longer
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return True
    return not page[5] & 4 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])


def _first(names: Sequence[str], n: int = 5) -> str:
    """The first `n` names, and how many follow."""
    rest = f" and {len(names) - n:,} more" if len(names) > n else ""
    return ", ".join(names[:n]) + rest


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
