"""Recordings as files: what their headers say, and what is wrong with them. Nothing here imports torch.

Legend of array suffixes: N samples, C channels; n files.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import platformdirs
import soundfile
from numpy.typing import NDArray

from search_space.errors import UserError
from trainers.clips import first
from trainers.runs import available_cores, write_atomic

# Source: the paper's front end is at 44.1 kHz; what is sampled faster is brought down to it.
HIGHEST_SAMPLE_RATE = 44_100
# Assumed: what a person would call another length; encoders add or drop some milliseconds.
NOTEWORTHY_S = 0.05
# Assumed: so few files below the sample rate of the others are an oversight, which should not cost the others their high end.
FEW = 0.05
# Source: the formats that soundfile reads from these names.
SUFFIXES = (".wav", ".flac", ".ogg", ".aif", ".aiff", ".mp3")
# Assumed: as many headers are read in about a second, which is worth keeping.
_WORTH_KEEPING = 5_000

MISSING = "missing"
EMPTY = "empty"
TRUNCATED = "truncated (they end before their own header says)"
UNREADABLE = "not readable as audio"
NO_RIGHTS = "not readable for lack of rights"
NOT_FINITE = "with NaN or infinite samples"
FAULTS = (MISSING, EMPTY, TRUNCATED, UNREADABLE, NO_RIGHTS, NOT_FINITE)


class BadAudio(UserError):
    """One file that cannot be used, and its fault, one of `FAULTS`."""

    def __init__(self, filename: str, fault: str):
        super().__init__(f"{filename}: {fault}")
        self.filename, self.fault = filename, fault


class Sound(NamedTuple):
    """A clip's waveform (N,), mono, full scale 1, its own sample rate in Hz, and a hash of what it was read from."""

    waveform_N: NDArray[np.float32]
    sample_rate: int
    digest: str


def bad_audio(problems: Sequence[BadAudio], total: int, cause: str = "") -> UserError:
    """One error for all files that cannot be used: how many of each fault, the first few names, what to do."""
    cause = cause or "is the archive unpacked as a whole, and does the csv belong to it?"
    damaged = any(problem.fault != NO_RIGHTS for problem in problems)
    return UserError(
        f"{len(problems):,} of {total:,} audio files cannot be used: {by_fault(problems, cause)}. "
        f"{'Copy or download them again' if damaged else 'Give yourself these rights'}, or leave them out: "
        f"--subset FILE.csv with the names to keep in a column 'filename'"
    )


def by_fault(problems: Sequence[BadAudio], cause: str = "") -> str:
    """How many files have each fault, and the first few names; `cause` is that of missing ones. A clause."""
    names: dict[str, list[str]] = defaultdict(list)
    for problem in problems:
        names[problem.fault].append(problem.filename)
    why = {MISSING: cause, NO_RIGHTS: "chmod -R u+rX FOLDER, or ask who owns them"}
    return "; ".join(
        f"{len(files):,} {fault}: {first(files)}" + f" ({why.get(fault)})" * bool(why.get(fault))
        for fault, files in names.items()
    )


def why_missing(folder: Path, audio: Path, n_missing: int, total: int) -> str:
    """The likely cause of missing files, as a clause."""
    archives = sorted({path.name for place in (folder, audio, folder.parent) for path in place.glob("*.zip")})
    if archives:
        return f"{len(archives)} zip archives lie beside the data, perhaps not unpacked: {first(archives, 3)}"
    if not audio.is_dir():
        return f"there is no folder {audio.name}/ beside the lists: unpack the audio archives into {str(folder)!r}"
    if n_missing == total:
        return f"{str(audio)!r} holds none of the files: do the lists belong to this audio?"
    return "only a part is there: a download or an unpacking of the audio archives has not finished"


def read_sound(path: Path, filename: str) -> Sound:
    """The sound of a file, read once. Raises: BadAudio, under `filename`, when it has no usable sound."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadAudio(filename, _fault(error)) from None
    expected, sample_rate = _header(io.BytesIO(content), len(content), filename)
    try:
        waveform_NC, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        raise BadAudio(filename, TRUNCATED) from None  # its header could be read
    if len(waveform_NC) < expected:
        raise BadAudio(filename, TRUNCATED)
    waveform_N: NDArray[np.float32] = np.asarray(
        waveform_NC[:, 0] if waveform_NC.shape[1] == 1 else waveform_NC.mean(axis=1), dtype=np.float32
    )
    if not np.isfinite(waveform_N).all():
        raise BadAudio(filename, NOT_FINITE)
    return Sound(waveform_N, sample_rate, hashlib.sha256(content).hexdigest())


@dataclass(frozen=True)
class Scan:
    """Names, lengths (s) and sample rates (Hz) of the files that can be used, (n,) each, and what is wrong with the others."""

    filenames: tuple[str, ...]
    lengths_s: NDArray[np.float64]
    rates: NDArray[np.int64]
    problems: tuple[BadAudio, ...]

    def format(self) -> tuple[int, float, list[str]]:
        """The common sample rate (Hz) and length (s), and notices of what departs from them.

        The length is the most frequent one. The rate is the highest, up to 44.1 kHz, that fewer than `FEW` of the files fall
        short of: what one file lacks, no other may have, or a network tells them apart by it, but a stray one should not
        take the high end from all. Strays are resampled up and named.

        Raises: UserError for clips that are too short for anything.
        """
        rates = Counter(self.rates.tolist())
        counts = Counter(self.lengths_s.round(1).tolist())
        duration_s = max(counts, key=lambda length: (counts[length], length))
        if duration_s == 0:
            raise UserError("most clips are shorter than 0.05 s: too short for a spectrogram")
        capped_n = np.minimum(self.rates, HIGHEST_SAMPLE_RATE)
        sample_rate = max(rate for rate in set(capped_n.tolist()) if (capped_n < rate).mean() < FEW)
        notices = []
        if set(rates) != {sample_rate}:
            listed = ", ".join(f"{count:,} at {rate:,} Hz" for rate, count in sorted(rates.items()))
            notices.append(f"files are resampled to {sample_rate:,} Hz ({listed})")
        slow = np.flatnonzero(capped_n < sample_rate).tolist()
        if slow:
            notices.append(
                f"{len(slow):,} files are sampled below {sample_rate:,} Hz ({first([self.filenames[i] for i in slow])}): "
                f"nothing above {min(rates) // 2:,} Hz is in the slowest, which a network may take for a sign of their class; "
                f"record them again or leave them out"
            )
        n_padded = int((self.lengths_s < duration_s - NOTEWORTHY_S).sum())
        n_trimmed = int((self.lengths_s > duration_s + NOTEWORTHY_S).sum())
        if n_padded or n_trimmed:
            notices.append(
                f"clips are brought to {duration_s:g} s: {n_padded:,} padded with zeros, {n_trimmed:,} trimmed "
                f"({self.lengths_s.min():.2f} to {self.lengths_s.max():.2f} s)"
            )
        if sample_rate < HIGHEST_SAMPLE_RATE:
            notices.append(f"sampled at {sample_rate:,} Hz: nothing above {sample_rate // 2:,} Hz is in the features")
        return sample_rate, duration_s, notices


def scan(audio: Path, filenames: Sequence[str], progress: Callable[[int, int], None] | None = None) -> Scan:
    """The headers of files below `audio`. Those of thousands are kept in the cache, so that only changed files are read again.

    `progress(done, total)` hears how many are read.
    """
    place = hashlib.sha256(os.path.realpath(audio).encode()).hexdigest()[:32]
    kept_path = cache_folder() / "headers" / f"{place}.json"
    kept: dict[str, list[int]] = {}
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(kept_path.read_text())
    states = {name: _state(audio / name) for name in filenames}
    faults = {name: state for name, state in states.items() if isinstance(state, str)}
    unread = [name for name, state in states.items() if name not in faults and kept.get(name, [])[:3] != list(state)]

    def read(name: str) -> tuple[int, int] | BadAudio:
        try:
            return header(audio / name, name)
        except BadAudio as problem:
            return problem

    problems = {name: BadAudio(name, fault) for name, fault in faults.items()}
    with ThreadPoolExecutor(min(16, 4 * available_cores())) as pool:
        for done, (name, result) in enumerate(zip(unread, pool.map(read, unread), strict=True), start=1):
            if isinstance(result, BadAudio):
                problems[name] = result
            else:
                kept[name] = [*states[name], *result]
            if progress:
                progress(done, len(unread))
    if len(unread) >= _WORTH_KEEPING:
        with contextlib.suppress(OSError):
            write_atomic(kept_path, lambda file: file.write(json.dumps(kept).encode()))
    names = tuple(name for name in filenames if name not in problems)
    good = [kept[name][3:] for name in names]
    return Scan(
        names,
        np.array([frames / rate for frames, rate in good]),
        np.array([rate for _, rate in good], dtype=np.int64),
        tuple(problems[name] for name in filenames if name in problems),
    )


def file_key(path: Path, filename: str) -> str:
    """A text that changes with the file: name, size, times; its fault where there are none.

    The time of the last status change is in it because, other than the time of writing, no copying tool sets it: a file
    replaced under the same name, size and date is noticed.
    """
    state = _state(path)
    return f"{filename} {state if isinstance(state, str) else ' '.join(map(str, state))}"


def _state(path: Path) -> tuple[int, int, int] | str:
    """Size and times of a file, or its fault where they cannot be had."""
    try:
        stat = os.stat(path)
    except OSError as error:
        return _fault(error)
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def header(path: Path, filename: str) -> tuple[int, int]:
    """Frames and sample rate (Hz) of an audio file. Raises: BadAudio for what the outside of a file shows to be wrong."""
    try:
        if not path.is_file():
            raise BadAudio(filename, MISSING)
        with path.open("rb") as file:
            return _header(file, path.stat().st_size, filename)
    except OSError as error:
        raise BadAudio(filename, _fault(error)) from None


def _fault(error: OSError) -> str:
    """What is wrong with a file that the system does not give."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return MISSING
    return NO_RIGHTS if isinstance(error, PermissionError) else UNREADABLE


def _header(file: BinaryIO, size: int, filename: str) -> tuple[int, int]:
    if size == 0:
        raise BadAudio(filename, EMPTY)
    if _is_cut(file, size):
        raise BadAudio(filename, TRUNCATED)
    file.seek(0)
    try:
        info = soundfile.info(file)
    except soundfile.LibsndfileError:
        raise BadAudio(filename, UNREADABLE) from None
    if info.frames == 0:
        raise BadAudio(filename, EMPTY)
    return info.frames, info.samplerate


def cache_folder() -> Path:
    """Where what can be made again is kept: the folder in DSSDN_CACHE, else the user's cache folder."""
    return Path(os.environ.get("DSSDN_CACHE") or platformdirs.user_cache_path("dssdn-explorer"))


def _is_cut(file: BinaryIO, size: int) -> bool:
    """Whether the end of a wav or Ogg file is missing, which libsndfile takes for a shorter recording.

    Source: RIFF's chunk size (bytes 4 to 7; 0 and 2^32 - 1 are what streaming writers leave there); RFC 3533, page
    header (flag 4 marks the last page; 27 bytes, then the segment table, whose entries add up to the page's body).
    """
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
