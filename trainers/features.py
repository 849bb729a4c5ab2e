"""Waveforms to log-mel spectrograms, made once and kept where every process can map them.

Legend of array suffixes: B batch, N samples, T frames, F mel bins; n clips.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import shutil
import sys
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import numpy as np
import platformdirs
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from search_space.errors import UserError
from trainers.datasets import BadAudio, Clip, Dataset, bad_audio
from trainers.runs import available_cores

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

# To be raised whenever the same dataset and front end would give other features, or the files here change their form.
CACHE_VERSION = 1

# Source: the paper's front end (DSSDN, section 3): 44.1 kHz, FFT 2048, hop 1024, 256 mel bins.
SAMPLE_RATE = 44_100
N_FFT = 2048
HOP_LENGTH = 1024
N_MELS = 256
# Source: DSMN's released front end for 1 s clips: FFT 4096, hop 1024 (44 frames).
SHORT_CLIP_S = 1.5
SHORT_CLIP_N_FFT = 4096


@dataclass(frozen=True)
class FrontEnd:
    """How a waveform becomes a log-mel spectrogram: ln(mel power + `log_floor`), Hann window, centred frames.

    The paper names no mel scale. Slaney's (librosa's default) is the default here, because with 256 bins at FFT 2048
    and 44.1 kHz the HTK scale leaves a filter without any FFT bin, and Slaney's leaves none.
    Measured: `empty_mels` of both: HTK 1 of 256 (5 at 22.05 kHz / FFT 1024), Slaney 0.
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
    def digest(self) -> str:
        return _sha256(asdict(self))


def front_end_for(sample_rate: int, duration_s: float) -> FrontEnd:
    """The front end for clips of `duration_s` sampled at `sample_rate` Hz.

    The paper's at 44.1 kHz (431 x 256 for 10 s, 216 x 256 for 5 s); DSMN's for clips of about a second (44 x 256).
    At a lower rate the hop keeps the paper's 23.2 ms, so that the frames are as many; the window is the power of two at
    or above its 46.4 ms, and longer where a mel bin would stay empty; `f_max` is half the rate.

    Raises: UserError for clips of no more than half a window, which cannot be framed.
    """
    n_fft = SHORT_CLIP_N_FFT if duration_s <= SHORT_CLIP_S else N_FFT
    n_fft = 2 ** math.ceil(math.log2(n_fft * sample_rate / SAMPLE_RATE))
    front_end = FrontEnd(
        sample_rate=sample_rate,
        n_fft=n_fft,
        win_length=n_fft,
        hop_length=round(sample_rate * HOP_LENGTH / SAMPLE_RATE),
        f_max=sample_rate / 2,
    )
    while empty_mels(front_end):
        n_fft *= 2
        front_end = replace(front_end, n_fft=n_fft, win_length=n_fft)
    if front_end.samples(duration_s) <= n_fft // 2:
        shortest_s = n_fft / 2 / sample_rate
        raise UserError(
            f"clips of {duration_s:g} s are too short for this front end: more than {shortest_s:.3f} s needed"
        )
    return front_end


@contextmanager
def _silent_about_empty_filters() -> Iterator[None]:
    """Without torchaudio's warning of zero filters: `empty_mels` names them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
        yield


@lru_cache(maxsize=8)
def _transform(front_end: FrontEnd) -> torchaudio.transforms.MelSpectrogram:
    with _silent_about_empty_filters():
        return torchaudio.transforms.MelSpectrogram(
            sample_rate=front_end.sample_rate,
            n_fft=front_end.n_fft,
            win_length=front_end.win_length,
            hop_length=front_end.hop_length,
            f_min=front_end.f_min,
            f_max=front_end.f_max,
            n_mels=front_end.n_mels,
            mel_scale=front_end.mel_scale,
            norm=None,
        )


def logmel(waveform: NDArray[np.float32] | Tensor, front_end: FrontEnd) -> Tensor:
    """The log-mel spectrogram (T, F) float32 of a waveform (N,), or (B, T, F) of (B, N), natural logarithm of power."""
    mel_FT = _transform(front_end)(torch.as_tensor(waveform))
    return (mel_FT + front_end.log_floor).log().transpose(-1, -2)


def empty_mels(front_end: FrontEnd) -> tuple[int, ...]:
    """The mel bins whose filter lies between two FFT bins and is zero everywhere: such a bin carries nothing."""
    with _silent_about_empty_filters():
        filters_QF = torchaudio.functional.melscale_fbanks(
            front_end.n_fft // 2 + 1,
            front_end.f_min,
            front_end.f_max,
            front_end.n_mels,
            front_end.sample_rate,
            norm=None,
            mel_scale=front_end.mel_scale,
        )
    return tuple(torch.nonzero(filters_QF.amax(dim=0) == 0).flatten().tolist())


# Assumed: a mel bin that moves less than this over all of train (log units) says nothing and is left as it is.
FLAT = 1e-3


@dataclass(frozen=True)
class Features:
    """The log-mel spectrograms of a dataset, row by row in the order of `Dataset.clips`.

    `logmel` (n, T, F) float16 is mapped from the disk: reading a row reads a row. `mean_F` and `std_F` (F,) are of the
    training clips alone, over clips and frames. `digest` names the data (sound, labels and splits), not the place they
    lie in or the front end. `notices` belong to what a person is told, as those of the dataset.
    """

    logmel: NDArray[np.float16]
    mean_F: NDArray[np.float32]
    std_F: NDArray[np.float32]
    digest: str
    front_end: FrontEnd
    n_empty_mels: int
    path: Path
    notices: tuple[str, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Frames x mels of one clip."""
        return int(self.logmel.shape[1]), int(self.logmel.shape[2])


def prepare(
    dataset: Dataset,
    front_end: FrontEnd | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """The features of every clip: from the cache, or computed now by `workers` threads (default: one a core) and kept.

    The cache is keyed by what decides the numbers (files with sizes and times or the generator's version, rate, length,
    front end), so it is never stale; splits and labels are not in the key, so another fold computes nothing. It appears
    whole or not at all, and a second process that wants the same waits for the first. `progress(done, total)` is called
    in this thread while clips are computed. The folder is DSSDN_CACHE, else the user's cache folder.

    Raises: UserError listing every clip that cannot be decoded, or when the cache's folder is full or closed.
    """
    front_end = front_end or front_end_for(dataset.sample_rate, dataset.duration_s)
    key = _sha256([CACHE_VERSION, dataset.signature(), dataset.duration_s, front_end.digest])[:32]
    root = Path(os.environ.get("DSSDN_CACHE") or platformdirs.user_cache_path("dssdn-explorer")) / "features"
    folder = root / key
    digests = _cached_digests(folder)
    if digests is None:
        with _disk_errors(root):
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / f"{key}.lock"):
                digests = _cached_digests(folder)
                if digests is None:
                    digests = _compute(dataset, front_end, folder, workers or available_cores(), progress)

    moments = np.load(folder / "moments.npy")[dataset.splits.train].mean(axis=0)
    std_F = np.sqrt(np.maximum(moments[1] - moments[0] ** 2, 0))
    used = sorted(
        (clip.filename, clip.scene, clip.split, digest)
        for clip, digest in zip(dataset.clips, digests, strict=True)
        if clip.split != "unused"
    )
    empty = empty_mels(front_end)
    return Features(
        logmel=np.load(folder / "logmel.npy", mmap_mode="r"),
        mean_F=moments[0].astype(np.float32),
        std_F=np.where(std_F < FLAT, 1, std_F).astype(np.float32),
        digest=_sha256([dataset.sample_rate, dataset.duration_s, used]),
        front_end=front_end,
        n_empty_mels=len(empty),
        path=folder,
        notices=(f"{len(empty)} of {front_end.n_mels} mel bins carry nothing (no FFT bin inside): {empty}",)
        * bool(empty),
    )


def _cached_digests(folder: Path) -> list[str] | None:
    """The clips' digests of a finished cache folder; None where there is none or it is damaged."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        whole = all((folder / name).stat().st_size == size for name, size in manifest["bytes"].items())
        return manifest["digests"] if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _compute(
    dataset: Dataset,
    front_end: FrontEnd,
    folder: Path,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> list[str]:
    """Write the features of all clips beside `folder` and put them in its place. Only under the folder's lock."""
    for leftover in folder.parent.glob(f"{folder.name}.*.partial"):  # of a process that was killed: nobody else is here
        shutil.rmtree(leftover)
    n, shape = len(dataset.clips), (front_end.frames(dataset.duration_s), front_end.n_mels)
    needed = n * math.prod(shape) * np.dtype(np.float16).itemsize
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise UserError(
            f"the features need {needed / 1e6:,.0f} MB in {str(folder.parent)!r}, where {free / 1e6:,.0f} MB are free: "
            f"make room, or name another folder in the environment variable DSSDN_CACHE"
        )
    signature = dataset.signature()
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        digests: list[str] = []
        moments = np.zeros((n, 2, front_end.n_mels))
        problems: list[BadAudio] = []
        # A mapped file would end in a bus error on a full disk; a written one ends in an OSError.
        with (partial / "logmel.npy").open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False}
            np.lib.format.write_array_header_1_0(file, {**header, "shape": (n, *shape)})
            for done, result in enumerate(_in_order(dataset, front_end, workers), start=1):
                if isinstance(result, BadAudio):
                    problems.append(result)
                else:
                    logmel_TF, digest = result
                    file.write(logmel_TF.tobytes())
                    digests.append(digest)
                    exact_TF = logmel_TF.astype(np.float64)
                    moments[done - 1] = exact_TF.mean(axis=0), (exact_TF**2).mean(axis=0)
                if progress:
                    progress(done, n)
        if problems:
            raise bad_audio(problems, n)
        if dataset.signature() != signature:
            raise UserError(f"files of {dataset.name!r} changed while they were read: run again when they are complete")
        np.save(partial / "moments.npy", moments)
        sizes = {file.name: file.stat().st_size for file in partial.iterdir()}
        manifest = {
            "dataset": dataset.name,
            "front_end": asdict(front_end),
            "bytes": sizes,
            "digests": digests,
        }
        (partial / "manifest.json").write_text(json.dumps(manifest))
        if folder.exists():  # damaged, or it would not be made again
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return digests


def _in_order(
    dataset: Dataset, front_end: FrontEnd, workers: int
) -> Iterator[tuple[NDArray[np.float16], str] | BadAudio]:
    """The log-mel (T, F) and digest of every clip, or what is wrong with it, in the order of the clips.

    Threads, because decoding, FFT and matrix product all leave the interpreter: no start-up, no copies. Each computes
    with one torch thread. A bounded number of results waits to be taken.
    """

    def extract(clip: Clip) -> tuple[NDArray[np.float16], str] | BadAudio:
        try:
            waveform_N, sample_rate = dataset.load(clip)
            digest = dataset.digest(clip)
        except BadAudio as problem:
            return problem
        return _fitted_logmel(waveform_N, sample_rate, front_end, dataset.duration_s).numpy().astype(np.float16), digest

    _transform(front_end)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            clips = iter(dataset.clips)
            waiting: deque[Future[tuple[NDArray[np.float16], str] | BadAudio]] = deque()
            try:
                waiting.extend(pool.submit(extract, clip) for clip in itertools.islice(clips, 8 * workers))
                while waiting:
                    yield waiting.popleft().result()
                    waiting.extend(pool.submit(extract, clip) for clip in itertools.islice(clips, 1))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    finally:
        torch.set_num_threads(n_threads)


def _fitted_logmel(waveform_N: NDArray[np.float32], sample_rate: int, front_end: FrontEnd, duration_s: float) -> Tensor:
    """The log-mel (T, F) of a waveform resampled to the front end's rate, and padded with zeros or trimmed at its end."""
    samples = torch.from_numpy(waveform_N)
    if sample_rate != front_end.sample_rate:
        samples = torchaudio.functional.resample(samples, sample_rate, front_end.sample_rate)
    wanted = front_end.samples(duration_s)
    samples = torch.nn.functional.pad(samples[:wanted], (0, max(0, wanted - len(samples))))
    return logmel(samples, front_end)


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    """A disk that is full or closed to us, said in one sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the features cannot be written under {str(root)!r} ({error}): make room or name another "
            f"folder in the environment variable DSSDN_CACHE"
        ) from error


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
