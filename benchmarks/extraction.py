"""How fast are log-mels made? `python -m benchmarks.extraction [--data FOLDER | --hours H]`: hours of audio a minute, beside bare decoding.

In every round the same threads decode the same files, once with nothing else done (`soundfile.read`) and once through `features.prepare` into
an empty store: reading, hashing, decoding, log-mel, writing, waiting for the disk. The two take turns, so that what else the machine does falls
on both; their ratio says what log-mels cost beyond decoding. A first round, which does not count, brings the files into memory: the speed of
the disk that they lie on is not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
import wave
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from search_space.errors import UserError, open_console, run_command
from trainers.datasets import FolderDataset, open_dataset
from trainers.features import describe, prepare
from trainers.runs import available_cores

# Source: the format of TAU Urban Acoustic Scenes 2020 Mobile.
CLIP_S, SAMPLE_RATE = 10, 44_100


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
    rates: dict[str, list[float]] = {"extraction": [], "decoding": []}
    for number in range(rounds + 1):
        began = time.perf_counter()
        with ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(_decode, paths):
                pass
        decoding = time.perf_counter() - began
        with tempfile.TemporaryDirectory() as cache:
            os.environ["DSSDN_CACHE"] = cache
            began = time.perf_counter()
            features = prepare(dataset, workers=workers)
            extraction = time.perf_counter() - began
            stored = sum(file.stat().st_size for file in features.path.iterdir())
        if number:
            rates["extraction"].append(minutes / extraction)
            rates["decoding"].append(minutes / decoding)
    ratios = [ours / bare for ours, bare in zip(*rates.values(), strict=True)]
    return {
        "clips": len(clips),
        "hours": minutes / 60,
        "log_mels": describe(features.front_end, dataset.duration_s),
        "threads": workers,
        "rounds": rounds,
        "extraction_hours_a_minute": statistics.median(rates["extraction"]),
        "decoding_hours_a_minute": statistics.median(rates["decoding"]),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "bytes_a_clip": stored / len(clips),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        / (2**20 if sys.platform == "darwin" else 2**10),
    }


def _decode(path: Path) -> None:
    soundfile.read(path, dtype="float32")


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extraction", description=(__doc__ or "").split("\n")[0])
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
        f"extraction {report['extraction_hours_a_minute']:.1f} hours of audio a minute, bare decoding "
        f"{report['decoding_hours_a_minute']:.1f}: ratio {report['ratio']:.2f}"
    )
    console.print(f"{report['bytes_a_clip']:,.0f} bytes a clip; peak memory {report['peak_rss_mb']:,.0f} MB")
    return 0


if __name__ == "__main__":
    run_command(main)
