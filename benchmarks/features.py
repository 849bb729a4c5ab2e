"""How fast are log-mels made? `python -m benchmarks.features [--data FOLDER | --hours H]`: beside torchaudio's own, and beside bare decoding.

In every round the same threads take the same files three times: decoded and nothing else (`soundfile.read`); decoded and brought to log-mels
by `torchaudio.transforms.MelSpectrogram`, kept nowhere (the reference); and through `features.prepare` into an empty store: reading, hashing,
decoding, log-mel, moments, writing, waiting for the disk. They take turns, so that what else the machine does falls on all. A first round,
which does not count, brings the files into memory: the speed of the disk that they lie on is not measured.
"""

from __future__ import annotations

import json
import math
import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
import wave
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from benchmarks.speed import copy_bandwidth, matmul_rate
from search_space.errors import Parser, UserError, open_console, run_command
from trainers.datasets import FolderDataset, open_dataset
from trainers.features import FrontEnd, describe, front_end_for, prepare
from trainers.runs import available_cores

from torchaudio.transforms import MelSpectrogram  # isort: skip (trainers.features brings torchaudio in)

# Source: the format of TAU Urban Acoustic Scenes 2020 Mobile.
CLIP_S, SAMPLE_RATE = 10, 44_100
LOG_FLOOR = FrontEnd().log_floor


def write_noise(folder: Path, hours: float) -> None:
    """Clips as TAU's, mono and 24 bits, of noise, in two class folders."""
    rng = np.random.default_rng(0)
    for number in range(max(20, round(hours * 3600 / CLIP_S))):
        path = folder / ("even", "odd")[number % 2] / f"place-{number // 4}" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples_N = rng.integers(-(2**20), 2**20, CLIP_S * SAMPLE_RATE, dtype="<i4")
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 3, SAMPLE_RATE, 0, "NONE", ""))
            file.writeframes(samples_N.view(np.uint8).reshape(-1, 4)[:, :3].tobytes())


def measure(dataset: FolderDataset, workers: int, rounds: int) -> dict[str, Any]:
    """Hours of audio a minute of both, the ratio of every round, bytes a clip in the store, and peak memory (MB)."""
    clips = [clip for clip in dataset.clips if clip.split != "unused"]
    paths = [dataset.audio / clip.filename for clip in clips]
    minutes = len(clips) * dataset.duration_s / 60
    seconds: dict[str, list[float]] = {"ours": [], "reference": [], "decoding": []}
    transform = _torchaudio(front_end_for(dataset.sample_rate, dataset.duration_s))
    for number in range(rounds + 1):
        decoding = _timed(_decode, paths, workers)
        reference = _timed(
            lambda path: torch.log(transform(torch.from_numpy(_decode(path))) + LOG_FLOOR), paths, workers
        )
        with tempfile.TemporaryDirectory() as cache:
            os.environ["DSSDN_CACHE"] = cache
            began = time.perf_counter()
            features = prepare(dataset, workers=workers)
            ours = time.perf_counter() - began
            stored = sum(file.stat().st_size for file in features.path.iterdir())
        if number:
            for name, taken in (("ours", ours), ("reference", reference), ("decoding", decoding)):
                seconds[name].append(taken)
    pairs = list(zip(seconds["reference"], seconds["ours"], seconds["decoding"], strict=True))
    return {
        "clips": len(clips),
        "hours": minutes / 60,
        "log_mels": describe(features.front_end, dataset.duration_s),
        "threads": workers,
        "rounds": rounds,
        **{f"{name}_ms": 1e3 * statistics.median(taken) / len(clips) for name, taken in seconds.items()},
        "ratio": statistics.median(reference / ours for reference, ours, _ in pairs),
        **_floors_ms(features.front_end, dataset.duration_s),
        "ratio_to_decoding": statistics.median(decoding / ours for _, ours, decoding in pairs),
        "hours_a_minute": minutes / statistics.median(seconds["ours"]),
        "bytes_a_clip": stored / len(clips),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10),
    }


def _floors_ms(front_end: FrontEnd, duration_s: float) -> dict[str, float]:
    """The least milliseconds a clip takes one thread by what log-mels must move (waveform and spectrogram once, the log-mel twice) and what
    they must compute: the transform's 2.5 N log2 N a frame (source: radix-2, real input), power, and each bin's two triangles."""
    frames, bins = front_end.frames(duration_s), front_end.n_fft // 2 + 1
    moved = 4 * (front_end.samples(duration_s) + 2 * frames * bins + 2 * frames * front_end.n_mels)
    operations = frames * (2.5 * front_end.n_fft * math.log2(front_end.n_fft) + 3 * bins + 4 * bins)
    return {
        "memory_floor_ms": 1e3 * moved / copy_bandwidth(),
        "arithmetic_floor_ms": 1e3 * operations / matmul_rate(torch.float32),
    }


def _torchaudio(front_end: FrontEnd) -> Callable[[torch.Tensor], torch.Tensor]:
    """torchaudio's mel power spectrogram of the same front end."""
    with warnings.catch_warnings():  # of a mel bin without an FFT bin, which ours reports elsewhere
        warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
        return MelSpectrogram(
            sample_rate=front_end.sample_rate,
            n_fft=front_end.n_fft,
            win_length=front_end.win_length,
            hop_length=front_end.hop_length,
            f_min=front_end.f_min,
            f_max=front_end.f_max,
            n_mels=front_end.n_mels,
            mel_scale=front_end.mel_scale,
        )


def _timed(function: Callable[[Path], object], paths: list[Path], workers: int) -> float:
    """Seconds that this many threads take for all paths, each with one torch thread."""
    began = time.perf_counter()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in pool.map(function, paths):
            pass
    return time.perf_counter() - began


def _decode(path: Path) -> NDArray[np.float32]:
    """The waveform (N,), of several channels the mean."""
    waveform, _ = soundfile.read(path, dtype="float32")
    return np.asarray(waveform if waveform.ndim == 1 else waveform.mean(axis=1), dtype=np.float32)


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = Parser(prog="python -m benchmarks.features", description=(__doc__ or "").split("\n")[0])
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data", metavar="FOLDER", help="recordings, as in studies.run (default: noise in TAU's format)"
    )
    source.add_argument("--hours", type=float, default=0.5, help="of noise (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=available_cores(), help="threads (default: one a core)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="that count, after one that does not (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    options = parser.parse_args(argv)
    if options.hours <= 0 or options.workers < 1 or options.rounds < 1:
        raise UserError("--hours is above 0, --workers and --rounds are at least 1")
    console = open_console(stderr=options.json)

    with nullcontext(options.data) if options.data else tempfile.TemporaryDirectory() as folder:
        if not options.data:
            write_noise(Path(folder), options.hours)
        dataset = open_dataset(folder)
        if not isinstance(dataset, FolderDataset):
            raise UserError(f"--data {options.data}: nothing is decoded there; name a folder of recordings")
        report = measure(dataset, options.workers, options.rounds)
    if options.json:
        json.dump(report, sys.stdout, indent=1)
        print()
        return 0
    console.print(
        f"{report['clips']:,} clips, {report['hours']:.2f} hours, {report['threads']} threads, median of {report['rounds']} "
        f"rounds; {report['log_mels']}"
    )
    console.print(
        f"ms a clip: ours {report['ours_ms']:.1f}, torchaudio {report['reference_ms']:.1f} (ratio {report['ratio']:.2f}), bare decoding "
        f"{report['decoding_ms']:.1f} (ratio {report['ratio_to_decoding']:.2f}); {report['hours_a_minute']:.1f} hours of audio a minute",
        soft_wrap=True,
    )
    console.print(f"{report['bytes_a_clip']:,.0f} bytes a clip; peak memory {report['peak_bytes'] / 2**20:,.0f} MB")
    return 0


if __name__ == "__main__":
    run_command(main)
