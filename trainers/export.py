"""Any data written out in TAU 2020 Mobile's layout, with simulated recorders where it names none.

    audio/<scene>-<city>-<location>-<segment>-<recorder>.wav      24-bit PCM, mono
    meta.csv, evaluation_setup/fold1_{train,test,evaluate}.csv    TAU's lists; test of the source is test, the rest train
    dataset.json                                                  what this is: it is never called TAU
    sources.csv                                                   the clip that every file was made from, and its state then
    README.txt, and the source's LICENSE and ATTRIBUTION files

A location is a group of the source, so none is in both folds; a segment is what all recorders of it recorded at the same
time. Recorder a is the recording as it is. In train, b, c, s1, s2 and s3 recorded a share of what a did; in test all nine
recorded every segment, and s4, s5 and s6 are heard there alone.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import math
import os
import re
import shlex
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table
from scipy.signal import resample_poly  # type: ignore[import-untyped]

from search_space.errors import UserError
from trainers import tau
from trainers.audio import SUFFIXES, BadAudio, bad_audio, header
from trainers.clips import DEFAULT_FOLD, SPLITS, Clip, Listing, check_splits, first, read_rows, write_rows
from trainers.datasets import Dataset, open_dataset
from trainers.opening import progress_bar
from trainers.recorders import RECORDERS, record
from trainers.runs import available_cores, check_seed, held, write_atomic
from trainers.tau import UNSEEN

# TAU's share is 0.075 (Source: 1,080 of 14,400 segments). Assumed: sets that need simulated recorders are small, and of 32
# segments a scene, as ESC-10 has, TAU's share would leave 2 for a recorder to be learned from; this one leaves 8.
DEFAULT_SHARE = 0.25
DEFAULT_SEED = 0
# Source: TAU 2020 Mobile's fold 1.
REFERENCE = "a"

LICENCES = re.compile(r"(licen[cs]e|attribution)", re.IGNORECASE)
_SOURCES = "sources.csv"
_WAV_HEADER_BYTES = 44
_DISK_BLOCK_BYTES = 4096


@dataclass(frozen=True)
class Take:
    """A file to write: what one recorder makes of a segment. `clip` is where its sound comes from."""

    clip: Clip
    scene: str
    place: str
    segment: int
    recorder: str
    simulated: bool

    @property
    def filename(self) -> str:
        """Its name in audio/."""
        return f"{self.scene}-{self.place}-{self.segment}-{self.recorder}.wav"

    @property
    def is_test(self) -> bool:
        return self.clip.split == "test"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("data", metavar="DATA", help="what --data takes elsewhere: a folder, a csv, or 'synthetic'")
    parser.add_argument("dest", metavar="DEST", type=Path, help="a new or empty folder; an export broken off goes on")
    parser.add_argument("--subset", help="a named part of the data, or a csv with a column 'filename'")
    parser.add_argument(
        "--share",
        type=float,
        help=f"the share of train that each of b, c, s1, s2 and s3 records too, 0 to 1 (default: {DEFAULT_SHARE}; TAU's "
        f"own is 0.075, which leaves a small set too little of each); s4 to s6 are in test only",
    )
    parser.add_argument("--seed", type=int, help=f"of the simulated recorders (default: {DEFAULT_SEED})")
    parser.add_argument(
        "--clips", type=int, metavar="N", help="at most N clips a scene and split, for trying things out"
    )


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Do what the command's arguments ask for; the record of what was written."""
    dataset = open_dataset(options.data, subset=options.subset)
    for notice in dataset.notices:
        console.print(f"* {notice}", soft_wrap=True, markup=False)
    wanted = {"--subset": options.subset, "--share": options.share, "--seed": options.seed, "--clips": options.clips}
    flags = [word for flag, value in wanted.items() if value is not None for word in (flag, str(value))]
    command = shlex.join(["python", "-m", "trainers.data", "export", options.data, str(options.dest), *flags])
    with progress_bar(console, "files") as progress:
        report = export(
            dataset,
            options.dest,
            share=options.share,
            seed=options.seed,
            clips=options.clips,
            command=command,
            progress=progress,
        )
    _print_report(console, report)
    return report


def export(
    dataset: Dataset,
    dest: Path,
    *,
    share: float | None = None,
    seed: int | None = None,
    clips: int | None = None,
    command: str = "",
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write the clips of a dataset's three splits to `dest`, and say what is there then, as one record.

    `share` and `seed` are of the simulated recorders; `clips` is the most to take a scene and split. A file that is there
    whole, made of a clip that has not changed since, is not written again; lists are written last: what was broken off goes
    on. The same values give the same bytes, but for the keys in sources.csv: they change with the date of a source file.
    `progress(done, total)` hears of files.

    Raises: UserError for values out of range, names that would become one, a `dest` that holds something else or has no
    room, and for clips that have no usable sound, all of them at once, when all others are written.
    """
    takes = plan(dataset, share=share, seed=seed, clips=clips)
    simulated = any(take.simulated for take in takes)
    origin: dict[str, Any] = {
        "name": f"{dataset.name[:54]}-recorders",
        "title": f"{dataset.name} in TAU 2020's layout, {'simulated' if simulated else 'its own'} recorders",
        "source": dataset.name,
        "synthetic": dataset.synthetic,
        "simulated_recorders": simulated,
        "command": command,
        "clips": clips,
        "share": (DEFAULT_SHARE if share is None else share) if simulated else None,
        "seed": (DEFAULT_SEED if seed is None else seed) if simulated else None,
        "digest": hashlib.sha256(json.dumps([(t.filename, t.clip.filename) for t in takes]).encode()).hexdigest(),
    }
    listing = _preview(takes, origin)
    source = Path(dataset.spec.source)
    _check_dest(dest, origin, source)
    keys, made_from = _source_keys(dataset), _made_from(dest)
    missing = [
        take
        for take in takes
        if made_from.get(f"audio/{take.filename}") != keys[take.clip.filename]
        or not _is_whole(dest / "audio" / take.filename)
    ]
    _check_room(dest, len(missing), dataset)
    dest.mkdir(parents=True, exist_ok=True)
    lock = dest / ".lock"
    with held(lock, f"{str(dest)!r} is being written by another process: wait for it, or name another folder"):
        _write_json(dest / tau.ORIGIN, origin)
        (dest / "audio").mkdir(exist_ok=True)
        for torn in (dest / "audio").glob(".*.wav.*"):  # of a process that was killed
            torn.unlink(missing_ok=True)
        for take in missing:  # what is there from here on was made of the sources as sources.csv has them
            (dest / "audio" / take.filename).unlink(missing_ok=True)
        write_rows(
            dest / _SOURCES,
            ("filename", "source", "key"),
            [(f"audio/{take.filename}", take.clip.filename, keys[take.clip.filename]) for take in takes],
        )
        _write_takes(
            dataset, dest / "audio", missing, origin["seed"], workers, lambda done: progress(done, len(missing))
        )
        _write_about(dest, origin, source)
        _write_lists(dest, takes)
        lock.unlink(missing_ok=True)
    counts = Counter(clip.split for clip in listing.clips)
    return {
        **origin,
        "folder": str(dest),
        "files": len(takes),
        "written": len(missing),
        "counts": {split: counts[split] for split in SPLITS},
        "recorders": {
            split: dict(sorted(Counter(clip.recorder for clip in listing.clips if clip.split == split).items()))
            for split in SPLITS
        },
        "bytes": sum((dest / "audio" / take.filename).stat().st_size for take in takes),
        "left_out": sum(clip.split == "unused" for clip in dataset.clips),
    }


# ----------------------------------------------------------------------------------------------------------------- plan


def plan(
    dataset: Dataset, *, share: float | None = None, seed: int | None = None, clips: int | None = None
) -> list[Take]:
    """What to write, by segment and recorder: the clips of the three splits, named as TAU names them.

    Numbers of locations and segments do not depend on `clips`. Raises: UserError for values out of range or that would
    do nothing, recorders named for some clips only, scenes or recorders whose names would become one.
    """
    used = [clip for clip in dataset.clips if clip.split != "unused"]
    named = [clip for clip in used if clip.recorder]
    if named and len(named) < len(used):
        raise UserError(
            f"{len(used) - len(named):,} of {len(used):,} clips name no recorder, and the others do: name all, or none "
            f"and let them be simulated"
        )
    if named and (share is not None or seed is not None):
        raise UserError("the data names its recorders, and none is simulated: leave --share and --seed out")
    share, seed = DEFAULT_SHARE if share is None else share, DEFAULT_SEED if seed is None else seed
    if not 0 <= share <= 1:
        raise UserError(f"--share is from 0 to 1, not {share:g}")
    check_seed(seed)
    if clips is not None and clips < 1:
        raise UserError(f"--clips is 1 or more, not {clips}")

    scenes = _safe_names("scenes", [clip.scene for clip in used])
    own_recorders = _safe_names("recorders", [clip.recorder for clip in named])
    # The city of clips that name none.
    home = re.sub(r"[^A-Za-z0-9]", "", dataset.name) or "own"
    locations: dict[str, int] = {}
    segments: dict[tuple[str, str], int] = {}
    taken: set[tuple[int, str]] = set()
    takes = []
    for clip in used:
        key = (clip.group, _segment(clip))
        number = segments.setdefault(key, len(segments))
        if (number, clip.recorder) in taken:  # one name in two formats
            number = segments[clip.group, clip.filename] = len(segments)
        taken.add((number, clip.recorder))
        city = re.sub(r"\W|_", "", clip.city) or home
        place = f"{city}-{locations.setdefault(clip.group, len(locations))}"
        recorder = own_recorders[clip.recorder] if clip.recorder else REFERENCE
        takes.append(Take(clip, scenes[clip.scene], place, number, recorder, False))
    if clips is not None:
        takes = _thinned(takes, clips)
    if not named:
        takes = [*takes, *_simulated(takes, share, seed)]
    order = list(RECORDERS)
    return sorted(takes, key=lambda t: (t.segment, order.index(t.recorder) if t.recorder in order else -1, t.recorder))


def _safe_names(kind: str, names: Sequence[str]) -> dict[str, str]:
    """Every name as it can stand in a file name between two '-': other characters become '_'."""
    safe = {name: re.sub(r"\W+", "_", name) for name in sorted(set(names))}
    owners: dict[str, list[str]] = defaultdict(list)
    for name, written in safe.items():
        owners[written].append(name)
    for written, several in owners.items():
        if len(several) > 1:
            raise UserError(f"the {kind} {several} would all be written {written!r}: give them names that differ more")
    return safe


def _segment(clip: Clip) -> str:
    """What the recorders of one segment have in common in their file names: what stands before '-<recorder>'."""
    path, dot, suffix = clip.filename.rpartition(".")
    stem = path if dot and f".{suffix.lower()}" in SUFFIXES else clip.filename
    return stem.removesuffix(f"-{clip.recorder}") if clip.recorder else stem


def _thinned(takes: Sequence[Take], n: int) -> list[Take]:
    """At most `n` clips of every scene and split: recorders in the shares that they have there, and places spread.

    What a share lacks of a whole clip, or has too much, goes over to the next scene: small shares are in some scenes.
    """
    parts: dict[str, dict[str, dict[str, list[Take]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for take in takes:
        parts[take.clip.split][take.scene][take.recorder].append(take)
    kept = []
    for scenes in parts.values():
        due: dict[str, float] = defaultdict(float)
        for scene in sorted(scenes):
            of_recorder, counts = scenes[scene], Counter[str]()
            size = sum(map(len, of_recorder.values()))
            for recorder, taken in of_recorder.items():
                due[recorder] += min(n, size) * len(taken) / size
            for _ in range(min(n, size)):
                left = [recorder for recorder in sorted(of_recorder) if counts[recorder] < len(of_recorder[recorder])]
                most = max(left, key=lambda recorder: round(due[recorder], 9))
                counts[most] += 1
                due[most] -= 1
            for turn, (recorder, count) in enumerate(sorted(counts.items())):
                # Clips of one place are next to each other: recorder after recorder begins further behind.
                taken, phase = of_recorder[recorder], (turn + 0.5) / len(counts)
                kept += [taken[int((k + phase) * len(taken) / count)] for k in range(count)]
    return kept


def _simulated(takes: Sequence[Take], share: float, seed: int) -> Iterator[Take]:
    """What the other recorders make of the segments of a: all of test, of train a share of every scene."""
    others = [recorder for recorder in RECORDERS if recorder != REFERENCE]
    learned: dict[str, list[Take]] = defaultdict(list)
    for take in takes:
        if take.is_test:
            yield from (_by(take, recorder) for recorder in others)
        else:
            learned[take.scene].append(take)
    for number, scene in enumerate(sorted(learned)):
        for recorder in others:
            if recorder not in UNSEEN:
                rng = np.random.default_rng((seed, 1, number, list(RECORDERS).index(recorder)))
                some = rng.choice(len(learned[scene]), round(share * len(learned[scene])), replace=False)
                yield from (_by(learned[scene][k], recorder) for k in sorted(some))


def _by(take: Take, recorder: str) -> Take:
    return Take(take.clip, take.scene, take.place, take.segment, recorder, True)


def _preview(takes: Sequence[Take], origin: dict[str, Any]) -> Listing:
    """What the lists will be read as. Raises: UserError when nothing could be trained on it, before anything is made."""
    with tempfile.TemporaryDirectory() as folder:
        _write_json(Path(folder) / tau.ORIGIN, origin)
        _write_lists(Path(folder), takes)
        try:
            listing = tau.read(Path(folder), None, DEFAULT_FOLD)
            check_splits(listing)
        except UserError as error:
            raise UserError(
                f"nothing could be trained on what would be written: {error}; write more clips of more groups "
                f"(--clips, --subset)"
            ) from None
    return listing


# ---------------------------------------------------------------------------------------------------------------- write


def _check_dest(dest: Path, origin: dict[str, Any], source: Path) -> None:
    """Raises: UserError unless `dest` is new, empty, or holds the same export, whole or broken off."""
    if dest.exists() and not dest.is_dir():
        raise UserError(f"{str(dest)!r} is a file: name a new or empty folder")
    if source.is_absolute() and source in [dest.resolve(), *dest.resolve().parents]:
        raise UserError(f"{str(dest)!r} lies within the data that it would be made of: name a folder beside it")
    path = dest / tau.ORIGIN
    if not dest.is_dir() or not any(entry.name != ".lock" for entry in dest.iterdir()):
        return
    found: Any = None
    if path.is_file():
        try:
            found = json.loads(path.read_text("utf-8"))
        except ValueError:
            found = None
    if not isinstance(found, dict):
        holds = first(sorted(entry.name for entry in dest.iterdir()))
        raise UserError(f"{str(dest)!r} holds something else ({holds}): name a new or empty folder")
    differ = [key for key in origin if key not in ("command", "digest") and found.get(key) != origin[key]]
    if differ or found.get("digest") != origin["digest"]:
        listed = ", ".join(f"{key} {found.get(key)!r}, not {origin[key]!r}" for key in differ) or "other clips"
        raise UserError(f"{str(dest)!r} holds an export of other values ({listed}): name a new folder")


def _check_room(dest: Path, n_files: int, dataset: Dataset) -> None:
    """Raises: UserError when the files that are missing do not fit."""
    file_bytes = 3 * math.ceil(dataset.duration_s * dataset.sample_rate) + _WAV_HEADER_BYTES
    needed = n_files * math.ceil(file_bytes / _DISK_BLOCK_BYTES) * _DISK_BLOCK_BYTES
    place = next(path for path in (dest.absolute(), *dest.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"{n_files:,} files need {decimal(needed)}, and {decimal(free)} are free in {str(place)!r}: name a folder "
            f"with more room, or write less (--clips, --subset, --share)"
        )


def _source_keys(dataset: Dataset) -> dict[str, str]:
    """For every clip, by its filename, a text that changes when what is made of it may: it tells of no path and no time."""
    same = [dataset.source_key, dataset.sample_rate, dataset.duration_s]
    return {
        clip.filename: hashlib.sha256(json.dumps([*same, key]).encode()).hexdigest()[:32]
        for clip, key in zip(dataset.clips, dataset.row_keys(), strict=True)
    }


def _made_from(dest: Path) -> dict[str, str]:
    """The keys of what the files in `dest` were made from, as an earlier export left them; empty where none did."""
    rows: list[dict[str, str]] = []
    if (dest / _SOURCES).is_file():
        with contextlib.suppress(UserError):
            rows = read_rows(dest / _SOURCES, ("filename", "key"))
    return {row["filename"]: row["key"] for row in rows}


def _is_whole(path: Path) -> bool:
    try:
        header(path, path.name)
    except BadAudio:
        return False
    return True


def _write_takes(
    dataset: Dataset,
    audio: Path,
    takes: Sequence[Take],
    seed: int | None,
    workers: int | None,
    progress: Callable[[int], None],
) -> None:
    """Write the files, every clip's sound read once. Raises: UserError naming every clip without usable sound."""
    of_clip: dict[str, list[Take]] = defaultdict(list)
    for take in takes:
        of_clip[take.clip.filename].append(take)

    def write(several: list[Take]) -> BadAudio | None:
        try:
            waveform_N, sample_rate, _ = dataset.load(several[0].clip)
        except BadAudio as problem:
            return problem
        sound_N = _fitted(waveform_N, sample_rate, dataset)
        for take in several:
            taken_N = sound_N
            if take.simulated:
                number = list(RECORDERS).index(take.recorder)
                rng = np.random.default_rng((seed or 0, 3, take.segment, number))
                taken_N = record(sound_N, take.recorder, dataset.sample_rate, seed or 0, rng)
            _write_wav(audio / take.filename, taken_N, dataset.sample_rate)
        return None

    problems, done = [], 0
    with ThreadPoolExecutor(workers or available_cores()) as pool:
        try:
            for several, problem in zip(of_clip.values(), pool.map(write, of_clip.values()), strict=True):
                problems += [problem] if problem else []
                done += len(several)
                progress(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if problems:
        raise bad_audio(problems, len(of_clip))


def _fitted(waveform_N: NDArray[np.float32], sample_rate: int, dataset: Dataset) -> NDArray[np.float32]:
    """The sound (N,) at the dataset's rate, what is behind its length cut off; shorter clips stay short."""
    if sample_rate != dataset.sample_rate:
        common = math.gcd(sample_rate, dataset.sample_rate)
        waveform_N = resample_poly(waveform_N, dataset.sample_rate // common, sample_rate // common).astype(np.float32)
    return waveform_N[: round(dataset.duration_s * dataset.sample_rate)]


def _write_wav(path: Path, waveform_N: NDArray[np.float32], sample_rate: int) -> None:
    content = io.BytesIO()
    soundfile.write(content, waveform_N, sample_rate, format="WAV", subtype="PCM_24")
    write_atomic(path, lambda file: file.write(content.getbuffer()))


def _write_lists(dest: Path, takes: Sequence[Take]) -> None:
    """TAU's lists, tabs between columns, the one without which the folder cannot be opened last."""
    setup = dest / "evaluation_setup"
    test = [take for take in takes if take.is_test]
    train = [take for take in takes if not take.is_test]
    labelled = ("filename", "scene_label")
    write_rows(
        dest / "meta.csv",
        (*labelled, "identifier", "source_label"),
        [(f"audio/{take.filename}", take.scene, take.place, take.recorder) for take in takes],
    )
    write_rows(setup / "fold1_test.csv", ("filename",), [(f"audio/{take.filename}",) for take in test])
    for name, rows in (("fold1_evaluate.csv", test), ("fold1_train.csv", train)):
        write_rows(setup / name, labelled, [(f"audio/{take.filename}", take.scene) for take in rows])


def _write_about(dest: Path, origin: dict[str, Any], source: Path) -> None:
    """README.txt, and the licences and attributions that lie with the source."""
    of_recorders = (
        f"Recorder a is the recording as it is; the other recorders are simulated (response, compression, level, noise).\n"
        f"In train, each of b, c, s1, s2 and s3 recorded {origin['share']:g} of the segments of a; s4, s5 and s6 are in test only.\n"
        if origin["simulated_recorders"]
        else "The recorders are those that the data names.\n"
    )
    synthetic = "The recordings are synthetic: generated, not recorded.\n" if origin["synthetic"] else ""
    text = (
        f"{origin['title']}: not a TAU data set.\n\nMade from the data called {origin['source']} by\n  {origin['command']}\n\n"
        f"{synthetic}{of_recorders}"
        "audio/<scene>-<city>-<location>-<segment>-<recorder>.wav; a location is a group of clips that no two folds share.\n"
        "sources.csv names the clip that every file was made from; licences and attributions of these clips hold here too.\n"
    )
    write_atomic(dest / "README.txt", lambda file: file.write(text.encode()))
    folder = source if source.is_dir() else source.parent
    for path in sorted(folder.iterdir()) if source.is_absolute() else []:
        if path.is_file() and LICENCES.match(path.name):
            write_atomic(dest / path.name, partial(_copy, path))


def _copy(path: Path, file: BinaryIO) -> None:
    file.write(path.read_bytes())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomic(path, lambda file: file.write(json.dumps(content, indent=1).encode() + b"\n"))


# --------------------------------------------------------------------------------------------------------------- screen


def _print_report(console: Console, report: dict[str, Any]) -> None:
    console.print(
        f"[bold]{escape(report['title'])}[/]: {report['files']:,} files ({decimal(report['bytes'])}), {report['written']:,} of them "
        f"written now, in {escape(report['folder'])}",
        soft_wrap=True,
        markup=True,
    )
    recorders = sorted({recorder for found in report["recorders"].values() for recorder in found})
    table = Table("", "clips", *recorders, title="clips by split and recorder")
    for split, found in report["recorders"].items():
        table.add_row(split, f"{report['counts'][split]:,}", *(f"{found.get(recorder, 0):,}" for recorder in recorders))
    console.print(table)
    if report["left_out"]:
        console.print(f"{report['left_out']:,} clips that are in no split of the source are left out")
    console.print(f"open it: --data {shlex.quote(os.fspath(report['folder']))}", soft_wrap=True, markup=False)
