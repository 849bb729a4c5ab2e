"""Waveforms to log-mel spectrograms, made once and kept where every process can map them.

Legend of array suffixes: B batch, N samples (or clips, of a dataset), Q FFT bins, T frames, F mel bins, R rows of the store.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import sys
import time
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from search_space.errors import UserError
from trainers.clips import first
from trainers.datasets import BadAudio, Clip, Dataset, bad_audio
from trainers.runs import available_cores, write_atomic
from trainers.store import CRC_BYTES, LogmelStore, row_key, sha256

try:
    import torchaudio
except OSError:
    # Its compiled extension is linked against CUDA and does not load beside a CPU torch. What is used here is plain
    # Python: a stand-in module that says so lets the package come in without the extension.
    extension = ModuleType("torchaudio._extension")
    vars(extension).update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        _IS_RIR_AVAILABLE=False,
        fail_if_no_align=lambda function: function,
    )
    sys.modules["torchaudio._extension"] = extension
    import torchaudio

# Source: the paper's front end (DSSDN, section 3): 44.1 kHz, FFT 2048, hop 1024, 256 mel bins.
SAMPLE_RATE = 44_100
N_FFT = 2048
HOP_LENGTH = 1024
N_MELS = 256
# Source: DSMN's released front end for 1 s clips: FFT 4096, hop 1024 (44 frames).
SHORT_CLIP_S = 1.5
SHORT_CLIP_N_FFT = 4096

# Measured: by hand, on a 10 s clip, one thread: the mel filters in bands of 32 take 0.4 ms, of 8 or 128 1.2 ms, as one dense
# matrix 2.4 ms; a filter is zero on nearly all FFT bins.
MELS_PER_BAND = 32

# Assumed: a row file that is written to in blocks of this size, or of this many seconds of work, is written to at the
# disk's own speed, and a killed process loses seconds.
BLOCK_BYTES = 16_000_000
BLOCK_S = 2.0

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class FrontEnd:
    """How a waveform becomes a log-mel spectrogram: ln(mel power + `log_floor`), Hann window, centred frames.

    The paper names no mel scale. Slaney's (librosa's default) is the default here, because with 256 bins at FFT 2048
    and 44.1 kHz the HTK scale leaves a filter without any FFT bin, and Slaney's leaves none.
    Measured: by hand, `empty_mels` of both: HTK 1 of 256 (5 at 22.05 kHz / FFT 1024), Slaney 0.
    """

    sample_rate: int = SAMPLE_RATE
    n_fft: int = N_FFT
    win_length: int = N_FFT
    hop_length: int = HOP_LENGTH
    n_mels: int = N_MELS
    f_min: float = 0.0
    f_max: float = SAMPLE_RATE / 2
    mel_scale: str = "slaney"
    log_floor: float = 1e-5

    def frames(self, duration_s: float) -> int:
        """Number of frames T of a clip of `duration_s`."""
        return 1 + self.samples(duration_s) // self.hop_length

    def samples(self, duration_s: float) -> int:
        """Number of samples N of a clip of `duration_s`."""
        return round(duration_s * self.sample_rate)

    @property
    def name(self) -> str:
        """Its name in `FRONT_ENDS`, also where it is that one's form for a lower sample rate; "custom" for any other."""
        names = (name for name, preset in FRONT_ENDS.items() if _adapted(preset, self.sample_rate) == self)
        return next(names, "custom")


PAPER = FrontEnd()
ONE_SECOND = FrontEnd(n_fft=SHORT_CLIP_N_FFT, win_length=SHORT_CLIP_N_FFT)
FRONT_ENDS = {"paper": PAPER, "one-second": ONE_SECOND}
"""The published front ends: 431x256 frames x mels for 10 s, and 44x256 for the 1 s clips of TAU 2022."""


def front_end_for(sample_rate: int, duration_s: float) -> FrontEnd:
    """The front end for clips of `duration_s` sampled at `sample_rate` Hz.

    The paper's at 44.1 kHz (431 x 256 for 10 s, 216 x 256 for 5 s); DSMN's for clips of about a second (44 x 256).
    At a lower rate the hop keeps the paper's 23.2 ms, so that the frames are as many; the window is the power of two at
    or above its 46.4 ms, and longer where a mel bin would stay empty; `f_max` is half the rate.

    Raises: UserError for clips of no more than half a window, which cannot be framed.
    """
    front_end = _adapted(ONE_SECOND if duration_s <= SHORT_CLIP_S else PAPER, sample_rate)
    if front_end.samples(duration_s) <= front_end.n_fft // 2:
        shortest_s = front_end.n_fft / 2 / sample_rate
        raise UserError(
            f"clips of {duration_s:g} s are too short for this front end: more than {shortest_s:.3f} s needed"
        )
    return front_end


@lru_cache(maxsize=64)
def _adapted(preset: FrontEnd, sample_rate: int) -> FrontEnd:
    """A published front end as it is at `sample_rate` Hz."""
    n_fft = 2 ** math.ceil(math.log2(preset.n_fft * sample_rate / preset.sample_rate))
    front_end = replace(
        preset,
        sample_rate=sample_rate,
        n_fft=n_fft,
        win_length=n_fft,
        hop_length=round(sample_rate * preset.hop_length / preset.sample_rate),
        f_max=sample_rate / 2,
    )
    while empty_mels(front_end):
        n_fft *= 2
        front_end = replace(front_end, n_fft=n_fft, win_length=n_fft)
    return front_end


def describe(front_end: FrontEnd, duration_s: float) -> str:
    """For people: how large the log-mel of a clip of `duration_s` is, and how it is made."""
    return (
        f"log-mels {front_end.frames(duration_s)}x{front_end.n_mels} (frames x mels; front end {front_end.name}: "
        f"{front_end.sample_rate:,} Hz, FFT {front_end.n_fft}, hop {front_end.hop_length})"
    )


def mel_filters(front_end: FrontEnd) -> Tensor:
    """The mel filters (Q, F), triangles of height 1."""
    with warnings.catch_warnings():  # of zero filters: `empty_mels` names them
        warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
        return torchaudio.functional.melscale_fbanks(
            front_end.n_fft // 2 + 1,
            front_end.f_min,
            front_end.f_max,
            front_end.n_mels,
            front_end.sample_rate,
            norm=None,
            mel_scale=front_end.mel_scale,
        )


@lru_cache(maxsize=8)
def _window_and_bands(front_end: FrontEnd) -> tuple[Tensor, tuple[tuple[slice, Tensor], ...]]:
    """The window (N), and the filters in bands of neighbours: the FFT bins that a band hears, and its weights (Q, F)."""
    bands = []
    for filters_QF in mel_filters(front_end).split(MELS_PER_BAND, dim=1):
        heard = torch.nonzero(filters_QF.amax(dim=1)).flatten().tolist() or [0]
        bins = slice(heard[0], heard[-1] + 1)
        bands.append((bins, filters_QF[bins].contiguous()))
    return torch.hann_window(front_end.win_length), tuple(bands)


def logmel(waveform: NDArray[np.float32] | Tensor, front_end: FrontEnd) -> Tensor:
    """The log-mel spectrogram (T, F) float32 of a waveform (N,), or (B, T, F) of (B, N), natural logarithm of power.

    It is torchaudio's MelSpectrogram (power 2, no norm) and its logarithm, to about 1e-6, but not its way there.
    Measured: by hand, 2.3 against 6.6 ms for 10 s at 44.1 kHz, one thread: squares without a square root between, and
    filters in bands.
    """
    window_N, bands = _window_and_bands(front_end)
    spectrum_QT = torch.stft(
        torch.as_tensor(waveform),
        n_fft=front_end.n_fft,
        hop_length=front_end.hop_length,
        win_length=front_end.win_length,
        window=window_N,
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    spectrum_TQ = spectrum_QT.transpose(-1, -2)
    power_TQ = spectrum_TQ.real.square() + spectrum_TQ.imag.square()
    mel_TF = torch.cat([power_TQ[..., bins] @ filters_QF for bins, filters_QF in bands], dim=-1)
    return mel_TF.add_(front_end.log_floor).log_()


def fitted_logmel(waveform_N: NDArray[np.float32], sample_rate: int, front_end: FrontEnd, duration_s: float) -> Tensor:
    """The log-mel (T, F) of a waveform resampled to the front end's rate, and padded with zeros or trimmed at its end."""
    samples = resampled(torch.from_numpy(waveform_N), sample_rate, front_end.sample_rate)
    wanted = front_end.samples(duration_s)
    samples = torch.nn.functional.pad(samples[:wanted], (0, max(0, wanted - len(samples))))
    return logmel(samples, front_end)


def resampled(waveform_N: Tensor, sample_rate: int, wanted: int) -> Tensor:
    """The waveform at another sample rate (Hz), or as it is where that is its own."""
    return waveform_N if sample_rate == wanted else torchaudio.functional.resample(waveform_N, sample_rate, wanted)


def empty_mels(front_end: FrontEnd) -> tuple[int, ...]:
    """The mel bins whose filter lies between two FFT bins and is zero everywhere: such a bin carries nothing."""
    return tuple(torch.nonzero(mel_filters(front_end).amax(dim=0) == 0).flatten().tolist())


# ---------------------------------------------------------------------------------------------------- a data set's features

# Assumed: a mel bin that moves less than this over all of train (log units) says nothing and is left as it is.
FLAT = 1e-3


@dataclass(frozen=True)
class Features:
    """The log-mel spectrograms of a dataset's clips, those in no split left out, on the disk: `read` reads some.

    `rows_N` is the row of every clip of `Dataset.clips` in `store_RTF` (float16, mapped from the disk), -1 for the unused.
    `mean_F` and `std_F` (F,) are of the training clips alone, over clips and frames. `digest` names the data (sound,
    labels and splits), not the place they lie in, the front end, or the order of the rows. `notices` belong to what a
    person is told, as those of the dataset.
    """

    rows_N: NDArray[np.int64]
    store_RTF: NDArray[np.float16] = field(repr=False)
    mean_F: NDArray[np.float32]
    std_F: NDArray[np.float32]
    digest: str
    front_end: FrontEnd
    path: Path
    notices: tuple[str, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Frames x mels of one clip."""
        return int(self.store_RTF.shape[1]), int(self.store_RTF.shape[2])

    def read(self, index_N: ArrayLike) -> NDArray[np.float16]:
        """The log-mels (n, T, F) of these clips (row numbers into `Dataset.clips`), read from the disk now.

        Raises: ValueError for a clip that is in no split: it has none.
        """
        rows_N = self.rows_N[np.atleast_1d(np.asarray(index_N))]
        if (rows_N < 0).any():
            raise ValueError("a clip that is in no split has no log-mel")
        return self.store_RTF[rows_N]


def prepare(
    dataset: Dataset,
    front_end: FrontEnd | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Features:
    """The features of every clip of train, val and test: from the store, or computed now by `workers` threads and kept.

    Only what is missing is computed (by default by one thread a core): another fold or subset, a repaired file, a process
    that was killed cost no more than what they add. `progress(done, total)` is called in this thread while clips are
    computed; `say` hears a sentence before that, of the room that they need, and one before a second process that wants
    clips of the same store waits for the first. The store is in the folder DSSDN_CACHE, else in the user's cache folder, and
    never stale: a clip is looked up under what changes with its file.

    Raises: UserError listing every clip that cannot be decoded (the others are kept), when files change while they are
    read, or when the disk is full or closed (what was written whole is kept).
    """
    front_end = front_end or front_end_for(dataset.sample_rate, dataset.duration_s)
    store = _Store(dataset, front_end)
    say = say or (lambda line: None)
    used = _used(dataset)
    keys = _row_keys(dataset, used)
    rows, n_looked = store.look_up(keys)
    if (rows < 0).any():
        with store.locked(say):
            rows, n_looked = store.look_up(keys, rows, n_looked)
            missing = np.flatnonzero(rows < 0)
            if len(missing):
                clips = [dataset.clips[used[i]] for i in missing]
                _compute(store, dataset, clips, [keys[i] for i in missing], workers or available_cores(), progress, say)
        if len(missing) and _row_keys(dataset, used) != keys:
            raise UserError(f"files of {dataset.name!r} changed while they were read: run again when they are complete")
        rows, _ = store.look_up(keys, rows, n_looked)
        if (rows < 0).any():
            raise UserError(f"the features in {str(store.folder)!r} were removed while they were made: run again")

    records = store.records()
    rows_N = np.full(len(dataset.clips), -1)
    rows_N[used] = rows
    mean_F, std_F = _statistics(records, np.sort(rows_N[dataset.splits.train]))
    digests = _hex(records["digest"][rows])
    said = sorted(
        (dataset.clips[i].filename, dataset.clips[i].scene, dataset.clips[i].split, digest)
        for i, digest in zip(used.tolist(), digests, strict=True)
    )
    return Features(
        rows_N=rows_N,
        store_RTF=store.logmels(len(records)),
        mean_F=mean_F.astype(np.float32),
        std_F=np.where(std_F < FLAT, 1, std_F).astype(np.float32),
        digest=sha256([dataset.sample_rate, dataset.duration_s, said]),
        front_end=front_end,
        path=store.folder,
        notices=(*_say_empty(front_end), *_say_twins([dataset.clips[i] for i in used.tolist()], digests)),
    )


def _say_empty(front_end: FrontEnd) -> Iterator[str]:
    """The notice of mel bins without an FFT bin, where there are any."""
    if empty := empty_mels(front_end):
        yield f"{len(empty)} of {front_end.n_mels} mel bins carry nothing (no FFT bin inside): {empty}"


def _say_twins(clips: Sequence[Clip], digests: Sequence[str]) -> Iterator[str]:
    """The notice of recordings that are the same to the bit in two splits, where there are any."""
    heard: dict[str, Clip] = {}
    twins: dict[str, str] = {}
    for clip, digest in zip(clips, digests, strict=True):
        other = heard.setdefault(digest, clip)
        if other.split != clip.split:
            twins.setdefault(digest, f"{other.filename} ({other.split}) = {clip.filename} ({clip.split})")
    if twins:
        yield (
            f"{len(twins):,} recordings stand in two splits under different names ({first(list(twins.values()))}): some are "
            f"learned and scored as well, and accuracy looks better than it is; leave one of each out (--subset FILE.csv "
            f"names those to keep)"
        )


def _used(dataset: Dataset) -> NDArray[np.int64]:
    """The row numbers of the clips that are in a split, ascending."""
    return np.sort(np.concatenate([dataset.splits.train, dataset.splits.val, dataset.splits.test]))


def _row_keys(dataset: Dataset, index_N: NDArray[np.int64]) -> list[bytes]:
    """What these clips' rows are found under, 16 bytes each."""
    keys = dataset.row_keys()
    return [row_key(keys[i]) for i in index_N.tolist()]


def _statistics(records: NDArray[np.void], rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation (F,) over all frames of these rows, from every clip's own, in float64.

    The variance of all is the mean of the clips' variances and the variance of their means (all clips are as long): unlike
    the mean of squares less the square of the mean it loses no digits.
    """
    chunks = np.array_split(rows, max(1, len(rows) // 4096))
    moments = sum(records["moments"][chunk].sum(axis=0, dtype=np.float64) for chunk in chunks) / len(rows)
    squares = sum(((records["moments"][chunk, 0] - moments[0]) ** 2).sum(axis=0) for chunk in chunks) / len(rows)
    return moments[0], np.sqrt(moments[1] + squares)


# ------------------------------------------------------------------------------------------------------------ the store


class _Row(NamedTuple):
    """One clip as it lies in the store: its log-mel and its record in the journal."""

    logmel: bytes
    record: bytes


class _Store(LogmelStore):
    """The store of a data set's log-mels, to be appended to. What is behind the last whole record, left by a process that was
    killed, is cut off by the next one that appends. Rows of files that are not there any more stay; the folder may be deleted
    whenever nobody is using it.
    """

    def __init__(self, dataset: Dataset, front_end: FrontEnd) -> None:
        super().__init__(dataset.source_key, dataset.duration_s, asdict(front_end))
        self.front_end = front_end

    def row(self, key: bytes, digest: str, logmel_TF: Tensor) -> _Row:
        """A clip (float16) as it is to lie in the store."""
        exact_TF = logmel_TF.double()
        mean_F = exact_TF.mean(dim=0)
        record = np.zeros((), self.record)
        record["key"], record["digest"] = np.void(key), np.void(bytes.fromhex(digest))
        record["moments"] = mean_F, (exact_TF - mean_F).square_().mean(dim=0)
        record["crc"] = zlib.crc32(record.tobytes()[:-CRC_BYTES])
        return _Row(logmel_TF.numpy().tobytes(), record.tobytes())

    @contextmanager
    def locked(self, say: Callable[[str], None]) -> Iterator[None]:
        """Alone in appending, among all processes. Waits for the one that is, and says so."""
        lock = FileLock(self.folder / "lock")
        with ExitStack() as stack:
            with self._disk_errors():
                self.folder.mkdir(parents=True, exist_ok=True)
                try:
                    stack.enter_context(lock.acquire(blocking=False))
                except Timeout:
                    say("waiting for another process that writes the same log-mels")
                    stack.enter_context(lock)
            yield

    @contextmanager
    def appending(self) -> Iterator[Callable[[_Row], None]]:
        """A function that appends a row; only under the lock. Rows are written in blocks, the last one at the end, which may
        also be an error or Ctrl-C: what is computed is kept."""
        with ExitStack() as stack:
            with self._disk_errors():
                about = json.dumps(self.about, indent=1).encode()
                write_atomic(self.folder / "store.json", lambda file: file.write(about))
                n = self.n_whole()
                rows = stack.enter_context(_opened_at(self.rows_path, n * self.row_bytes))
                journal = stack.enter_context(_opened_at(self.journal_path, n * self.record.itemsize))
            block: list[_Row] = []
            began = time.monotonic()

            def write() -> None:
                nonlocal began
                whole, began = tuple(block), time.monotonic()
                block.clear()  # should the disk be full now, nothing is written behind the torn end
                with self._disk_errors():
                    _append(rows, [row.logmel for row in whole])
                    _append(journal, [row.record for row in whole])

            def append(row: _Row) -> None:
                block.append(row)
                if len(block) * self.row_bytes >= BLOCK_BYTES or time.monotonic() - began >= BLOCK_S:
                    write()

            try:
                yield append
            finally:
                if block:
                    write()

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """A disk that is full or closed to us, said in one sentence."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"the features cannot be written under {str(self.folder.parent)!r} ({error}): make room or name another "
                f"folder in the environment variable DSSDN_CACHE; what was written whole is kept"
            ) from error


@contextmanager
def _opened_at(path: Path, size: int) -> Iterator[BinaryIO]:
    """The file to be appended to, cut to `size` bytes, unbuffered."""
    with open(path, "ab", buffering=0) as file:
        if file.tell() > size:
            file.truncate(size)
        yield file


def _append(file: BinaryIO, parts: Sequence[bytes]) -> None:
    """Write all of it and wait until it is on the disk."""
    data = memoryview(b"".join(parts))
    while data:
        data = data[file.write(data) :]
    os.fsync(file.fileno())


def _compute(
    store: _Store,
    dataset: Dataset,
    clips: Sequence[Clip],
    keys: Sequence[bytes],
    workers: int,
    progress: Callable[[int, int], None] | None,
    say: Callable[[str], None],
) -> None:
    """Append the rows of these clips, which have none. Only under the store's lock."""
    place, size = store.folder.parent, store.size
    need = len(clips) * (store.row_bytes + store.record.itemsize)
    free = shutil.disk_usage(place).free
    if need > free:
        raise UserError(
            f"the features need {_amount(need)} in {str(place)!r}, where {_amount(free)} are free: make room, or name "
            f"another folder in the environment variable DSSDN_CACHE"
        )
    say(f"log-mels of {len(clips):,} clips at {size[0]}x{size[1]}: {_amount(need)} in {place}")

    def extract(item: tuple[Clip, bytes]) -> _Row | BadAudio:
        clip, key = item
        try:
            sound = dataset.load(clip)
        except BadAudio as problem:
            return problem
        logmel_TF = fitted_logmel(sound.waveform_N, sound.sample_rate, store.front_end, dataset.duration_s)
        return store.row(key, sound.digest, logmel_TF.half())

    _window_and_bands(store.front_end)  # once, before there are threads
    problems: list[BadAudio] = []
    with store.appending() as append, closing(in_order(extract, zip(clips, keys, strict=True), workers)) as results:
        for done, (_, result) in enumerate(results, start=1):
            if isinstance(result, BadAudio):
                problems.append(result)
            else:
                append(result)
            if progress:
                progress(done, len(clips))
    if problems:
        raise bad_audio(problems, sum(clip.split != "unused" for clip in dataset.clips))


def in_order(
    function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int
) -> Generator[tuple[_Item, _Result]]:
    """Every item with what `function` makes of it, in their order, from threads that are a bounded number of items ahead.

    Threads, because decoding, FFT and matrix product all leave the interpreter: no start-up, no copies. Each computes
    with one torch thread. To be closed where it is not read to its end (`contextlib.closing`).
    """
    n_threads, items = torch.get_num_threads(), iter(items)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            waiting: deque[tuple[_Item, Future[_Result]]] = deque()
            try:
                waiting.extend((item, pool.submit(function, item)) for item in itertools.islice(items, 4 * workers))
                while waiting:
                    item, future = waiting.popleft()
                    yield item, future.result()
                    waiting.extend((item, pool.submit(function, item)) for item in itertools.islice(items, 1))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    finally:
        torch.set_num_threads(n_threads)  # some of what a thread of the pool sets is the process's


def _hex(digests: NDArray[np.void]) -> list[str]:
    """The digests, 64 hexadecimal digits each."""
    text = digests.tobytes().hex()
    return [text[start : start + 64] for start in range(0, len(text), 64)]


def _amount(n_bytes: int) -> str:
    """Bytes for people."""
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e9 else f"{math.ceil(n_bytes / 1e6):,} MB"
