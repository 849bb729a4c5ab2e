"""The scenes of recordings: `python -m trainers.predict RUN WAV|FOLDER [--csv OUT]`, with the table that DCASE asks for.

Recordings go through what the run's training did with its own: resampled, padded or trimmed to the training's clip
length, log-mel kept in float16, averaged down to the size it was trained at, normalised by its training clips. One longer
than one and a half training clips is cut into windows of a clip's length, each taken as a clip of its own, and its
probabilities are the mean over them.

Nothing is judged here: no label is read and no accuracy computed, on no data. The test split is scored once, by
`trainers.retrain`, and a second score by a side door would make the first worthless.

The table of --csv, separated by tabs: filename, scene_label, and a probability for every class in alphabetical order.
Source: the submission validators of DCASE 2020 to 2024, Task 1 (github.com/toni-heittola/dcase2020_task1_submission_validator
and its successors: header, number of fields, labels, numbers, every file once; only the last part of the file name is
looked at, and its ending must be .wav); file names without the folder audio/ as in the 2024 baseline's own output
(github.com/CPJKU/dcase2024_task1_baseline, run_training.py).

Legend of array suffixes: B batch, C channels, N samples, T frames, F mel bins, K classes; n files.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch.nn.functional import adaptive_avg_pool2d

from search_space.errors import Parser, UserError, open_console, run_command
from search_space.inference import inference_form
from search_space.rounding import per_cent
from trainers import esc, own, tau
from trainers.audio import (
    MISSING,
    NO_RIGHTS,
    NOT_FINITE,
    SUFFIXES,
    TRUNCATED,
    BadAudio,
    by_fault,
    read_sound,
    scan,
    why_missing,
)
from trainers.clips import first, write_rows
from trainers.datasets import read_listing
from trainers.features import FrontEnd, fitted_logmel, in_order
from trainers.loop import resolve_device
from trainers.memory import kept_memory
from trainers.opening import progress_bar
from trainers.recorded import load_model
from trainers.runs import Run, available_cores

# Source: the fields and labels of DCASE's validators (2020 to 2024).
DCASE_SCENES = (
    "airport",
    "bus",
    "metro",
    "metro_station",
    "park",
    "public_square",
    "shopping_mall",
    "street_pedestrian",
    "street_traffic",
    "tram",
)
# Assumed: up to here a clip's end is cut off as in training; beyond, its rest is worth a window of its own.
LONG = 1.5
_BATCH = 32  # as in `trainers.loop.predict`
_WINDOWS_AT_ONCE = 4  # of one long recording, in one thread: a bound on memory, and work for every core
# Measured: by hand, decoded from its middle, the first 2,970 samples of an MP3 are wrong (`soundfile`, 44.1 kHz): its frames
# of 1,152 samples lean on those before. Source: ISO 11172-3, main_data_begin: on no more than 511 bytes, five frames at 32 kbit/s.
_LEAD = 16 * 1152
_ROWS = 20


@dataclass(frozen=True)
class Recordings:
    """Files below `folder` in the order that they are predicted in. `title` says what they are.

    `lists` is the folder of an evaluation set, whose list says what must be there; None for what was found by looking.
    """

    folder: Path
    filenames: tuple[str, ...]
    title: str
    lists: Path | None = None
    labelled: bool = False


@dataclass(frozen=True)
class Prediction:
    """What a network said of one recording: a probability (0 to 1, their sum is 1) by scene, a mean over its windows."""

    filename: str
    probabilities: dict[str, float]
    windows: int

    @property
    def scene(self) -> str:
        """The most probable scene; of equals the first."""
        return max(self.probabilities, key=self.probabilities.__getitem__)


@dataclass(frozen=True)
class Predicted:
    """The predictions in the order of the recordings, the files left out and why, and what a person should know of them."""

    files: tuple[Prediction, ...]
    skipped: tuple[BadAudio, ...]
    notices: tuple[str, ...]


def predict_files(
    run: Run | Path | str,
    paths: Path | str | Sequence[Path | str],
    *,
    device: str = "auto",
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Predicted:
    """What a run's network says of a file, of all recordings in a folder, or of a list of files.

    Raises: what `predict_recordings` and `find_recordings` raise.
    """
    if isinstance(paths, Path | str):
        recordings = find_recordings(Path(paths))
    else:
        recordings = Recordings(Path(), tuple(str(path) for path in paths), f"{len(paths):,} files")
    return predict_recordings(Run(run) if isinstance(run, Path | str) else run, recordings, device, skip_bad, progress)


def predict_recordings(
    run: Run,
    recordings: Recordings,
    device: str = "auto",
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
    scanning: Callable[[int, int], None] | None = None,
) -> Predicted:
    """What the run's network says of every recording, in their order.

    All cores decode and make log-mels, a few windows ahead of the network, so that memory does not grow with the number
    or the length of the files. `progress(done, total)` counts files, `scanning` the headers read before. With `skip_bad` unusable files are left out.

    Raises: UserError when the run has no weights, or listing every file that cannot be used: those that their headers give
    away before anything is computed, those that only decoding does at the end.
    """
    data, target = run.config["data"], resolve_device(device)
    model = inference_form(load_model(run)).to(target)
    front_end, duration_s = FrontEnd(**data["front_end"]), _duration_s(run)
    size = tuple(run.config["train_input"])

    names = recordings.filenames
    scanned = scan(recordings.folder, names, scanning)
    bad = {problem.filename: problem for problem in scanned.problems}
    _check_usable(bad, recordings, skip_bad)
    names = tuple(name for name in names if name not in bad)
    rates = scanned.rates.tolist()
    n_samples = [round(length_s * rate) for length_s, rate in zip(scanned.lengths_s.tolist(), rates, strict=True)]
    windows = [_n_windows(n, round(duration_s * rate)) for n, rate in zip(n_samples, rates, strict=True)]

    def logmels(piece: _Piece) -> NDArray[np.float16] | BadAudio:
        name, rate = names[piece.file], rates[piece.file]
        try:
            if windows[piece.file] == 1:
                waveforms = [read_sound(recordings.folder / name, name).waveform_N]
            else:
                waveforms = _read_windows(
                    recordings.folder, name, piece, round(duration_s * rate), n_samples[piece.file]
                )
        except BadAudio as problem:
            return problem
        logmel_BTF = torch.stack([fitted_logmel(wave_N, rate, front_end, duration_s) for wave_N in waveforms]).half()
        if logmel_BTF.shape[1:] != size:
            logmel_BTF = adaptive_avg_pool2d(logmel_BTF.float(), size).half()
        return logmel_BTF.numpy()

    sums_nK = np.zeros((len(names), len(data["classes"])))
    with kept_memory(), closing(in_order(logmels, _pieces(windows), available_cores())) as made:
        waiting = _single(made, names, bad)
        while batch := list(itertools.islice(waiting, _BATCH)):
            logmel_BTF = torch.from_numpy(np.stack([logmel_TF for _, logmel_TF in batch])).to(target).float()
            with torch.inference_mode():
                logits_BK = model(logmel_BTF.unsqueeze(1).contiguous(memory_format=torch.channels_last))
                probabilities_BK = logits_BK.float().softmax(1).cpu().numpy()
            np.add.at(sums_nK, [file for file, _ in batch], probabilities_BK)
            if progress:
                progress(batch[-1][0] + 1, len(names))
    _check_usable(bad, recordings, skip_bad)
    files = tuple(
        Prediction(name, dict(zip(data["classes"], mean_K.tolist(), strict=True)), n)
        for name, mean_K, n in zip(
            names, (sums_nK / np.array(windows)[:, None]).astype(np.float32), windows, strict=True
        )
        if name not in bad
    )
    heard_n = np.array([name not in bad for name in names])
    lengths_s, heard_rates = scanned.lengths_s[heard_n], scanned.rates[heard_n]
    return Predicted(
        files=files,
        skipped=tuple(bad[name] for name in recordings.filenames if name in bad),
        notices=_notices(lengths_s, heard_rates, np.array(windows)[heard_n], duration_s, front_end),
    )


def find_recordings(path: Path) -> Recordings:
    """The recording `path`, all recordings below the folder `path` (sorted), or, of an evaluation set, those of its list.

    Hidden files are no recordings: macOS leaves one beside every file that it packs.

    Raises: UserError when there are none, or a folder cannot be read.
    """
    try:
        return _find_recordings(path)
    except OSError as error:
        place = os.fspath(error.filename or path)
        raise UserError(f"{place!r} cannot be read ({error.strerror}): check its rights") from error


def _find_recordings(path: Path) -> Recordings:
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{str(path)!r} is no recording; known endings: {', '.join(SUFFIXES)}")
        return Recordings(path.parent, (path.name,), path.name)
    if not path.is_dir():
        raise UserError(
            f"no file or folder {str(path)!r} (seen from {Path.cwd()}): name a recording, or a folder of them"
        )
    if tau.is_evaluation(path):
        listing = read_listing(path)
        names = tuple(clip.filename for clip in listing.clips)
        return Recordings(listing.audio, names, listing.title, listing.source)
    names = tuple(sorted(file.relative_to(path).as_posix() for file in own.audio_files(path)))
    if not names:
        there = sorted(entry.name for entry in path.iterdir())
        zips = [name for name in there if name.endswith(".zip")]
        hint = f"; {len(zips)} zip archives lie there ({first(zips, 3)}): unpack them" if zips else ""
        raise UserError(
            f"no recordings below {str(path)!r} (endings {', '.join(SUFFIXES)}); found {first(there) or 'nothing'}{hint}"
        )
    labelled = tau.recognises(path) or (path / esc.LIST).is_file()
    return Recordings(path, names, f"{len(names):,} recordings below {path}", labelled=labelled)


def write_csv(path: Path, classes: Sequence[str], predictions: Iterable[Prediction]) -> None:
    """Write DCASE's table, whole or not at all: tabs, a header, a file a row, probabilities of `classes` in alphabetical order.

    They have nine digits, which is all that float32 holds: the largest stays the largest.
    """
    scenes = sorted(classes)
    rows = (
        [said.filename, said.scene, *(f"{said.probabilities[scene]:.9g}" for scene in scenes)] for said in predictions
    )
    write_rows(path, ["filename", "scene_label", *scenes], rows)


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = Parser(prog="python -m trainers.predict", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run's folder: a study's trial or a full retraining")
    add("input", type=Path, metavar="WAV|FOLDER", help="a recording, a folder of them, or DCASE's evaluation set")
    add("--csv", type=Path, metavar="OUT", help="also write the table that DCASE asks for")
    add("--force", action="store_true", help="overwrite OUT")
    add("--skip-bad", action="store_true", help="predict the rest where files cannot be used")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    options = parser.parse_args(argv)
    console, stderr = open_console(stderr=options.json), open_console(stderr=True)

    run = _open_run(options.run, options.input)
    if options.csv:
        _check_writable(options.csv, options.force)
    recordings = find_recordings(options.input)
    console.print(_about(run), markup=False, soft_wrap=True)
    with progress_bar(stderr, "recordings") as bar:  # twice: headers, which are quick, then predictions
        predicted = predict_recordings(run, recordings, options.device, options.skip_bad, bar, bar)
    notices = [*predicted.notices, *_notices_of_set(recordings, predicted, run.config["data"]["classes"])]
    for problem in predicted.skipped[:_ROWS]:
        stderr.print(f"left out {problem}", markup=False, soft_wrap=True)
    if len(predicted.skipped) > _ROWS:
        stderr.print(f"and {len(predicted.skipped) - _ROWS:,} more")
    if options.csv:
        write_csv(options.csv, run.config["data"]["classes"], predicted.files)
    if options.json:
        json.dump(_document(run, recordings, predicted, notices, options.csv), sys.stdout)
        print()
        return 0
    if options.input.is_file():
        _print_scenes(console, predicted.files[0])
    else:
        _print_files(console, recordings, predicted.files)
    for notice in notices:
        console.print(notice, markup=False, soft_wrap=True)
    if options.csv:
        console.print(f"written: {options.csv} ({len(predicted.files):,} rows)", markup=False, soft_wrap=True)
    return 0


# ------------------------------------------------------------------------------------------------------------- windows


class _Piece(NamedTuple):
    """The windows from `start` to before `stop` of a file (an index)."""

    file: int
    start: int
    stop: int


def _n_windows(n_samples: int, window: int) -> int:
    """Windows of a recording: 1 up to `LONG` windows, else all whole ones and a rest of at least half a window."""
    whole, rest = divmod(n_samples, window)
    return 1 if n_samples <= LONG * window else whole + (2 * rest >= window)


def _pieces(windows: Sequence[int]) -> Iterator[_Piece]:
    for file, n in enumerate(windows):
        for start in range(0, n, _WINDOWS_AT_ONCE):
            yield _Piece(file, start, min(n, start + _WINDOWS_AT_ONCE))


def _read_windows(folder: Path, name: str, piece: _Piece, window: int, n_samples: int) -> list[NDArray[np.float32]]:
    """The waveforms (N,) of a piece of a long recording, at its own rate; the last one of all may be short.

    Only they are read, for a recording may last a day. In the last page of an Ogg file libsndfile 1.2 begins 128 samples off.

    Raises: BadAudio when the file ends before its header said, or has samples that are no numbers.
    """
    begin, end = piece.start * window, min(piece.stop * window, n_samples)
    lead = min(begin, _LEAD)
    try:
        with soundfile.SoundFile(folder / name) as file:
            file.seek(begin - lead)
            waveform_NC = file.read(lead + end - begin, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        raise BadAudio(name, TRUNCATED) from None  # its header could be read
    if len(waveform_NC) < lead + end - begin:
        raise BadAudio(name, TRUNCATED)
    if not np.isfinite(waveform_NC).all():
        raise BadAudio(name, NOT_FINITE)
    waveform_N = waveform_NC[lead:].mean(axis=1, dtype=np.float32)
    return [waveform_N[start : start + window] for start in range(0, end - begin, window)]


def _single(
    made: Iterator[tuple[_Piece, NDArray[np.float16] | BadAudio]], names: Sequence[str], bad: dict[str, BadAudio]
) -> Iterator[tuple[int, NDArray[np.float16]]]:
    """Window by window: its file (an index) and its log-mel (T, F). What cannot be used is put into `bad`."""
    for piece, result in made:
        if isinstance(result, BadAudio):
            bad.setdefault(names[piece.file], result)
        else:
            yield from ((piece.file, logmel_TF) for logmel_TF in result)


# ------------------------------------------------------------------------------------------------------------- checks


def _open_run(path: Path, recordings: Path) -> Run:
    """The run in a folder. Raises: UserError where there is none, naming those that are near."""
    if (path / "run.json").is_file():
        return Run(path)
    if (recordings / "run.json").is_file():
        swapped = shlex.join(["python", "-m", "trainers.predict", str(recordings), str(path)])
        raise UserError(f"the run comes first, then what it predicts: {swapped}")
    near = _runs_near(path)
    hint = (
        f"runs with weights near it: {first([str(found) for found in near])}"
        if near
        else "name a trial's folder (runs/NAME/trials/00006) or a full retraining's (runs/NAME/retrain/00006-strong-e60-s0)"
    )
    raise UserError(f"{str(path)!r} holds no run (run.json is missing); {hint}")


def _runs_near(path: Path) -> list[Path]:
    """Runs with weights in a folder (a study's, or one of studies), in the study of that name, or beside the path:
    full retrainings before trials."""
    for place in (path, Path("runs") / path, *path.parents):
        for kinds in (("retrain/*", "trials/*", "*"), ("*/retrain/*", "*/trials/*")):
            found = [file.parent for kind in kinds for file in sorted(place.glob(f"{kind}/weights.safetensors"))]
            if found:
                return found
    return []


def _duration_s(run: Run) -> float:
    """The length (s) of the run's training clips. Raises: UserError for a run of before it was recorded."""
    duration_s = run.config["data"].get("duration_s")
    if duration_s is None:
        raise UserError(
            f"{run.path} does not say how long its training clips are ('duration_s' in the 'data' of run.json): "
            f"it is of an earlier version; train it again, or add the seconds there"
        )
    return float(duration_s)


def _check_usable(bad: dict[str, BadAudio], recordings: Recordings, skip_bad: bool) -> None:
    """Raises: UserError listing all files that cannot be used, unless they are to be left out and others remain."""
    total = len(recordings.filenames)
    if not bad or (skip_bad and len(bad) < len(set(recordings.filenames))):
        return
    faults = Counter(problem.fault for problem in bad.values())
    cause = ""
    if recordings.lists and MISSING in faults:
        cause = why_missing(recordings.lists, recordings.folder, faults[MISSING], total)
    fix = "give yourself these rights" if set(faults) == {NO_RIGHTS} else "copy them again"
    rest = "" if skip_bad else ", or predict the rest with --skip-bad"
    raise UserError(
        f"{len(bad):,} of {total:,} recordings cannot be used: {by_fault(list(bad.values()), cause)}; {fix}{rest}"
    )


def _check_writable(path: Path, force: bool) -> None:
    """Raises: UserError, before any work, when the table could not be written in the end."""
    if path.is_dir():
        raise UserError(f"--csv {str(path)!r} is a folder; name a file in it")
    if path.exists() and not force:
        raise UserError(f"--csv {str(path)!r} exists; name another file, or overwrite it with --force")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UserError(f"--csv {str(path)!r} cannot be written ({error.strerror}); name a file elsewhere") from None


# ------------------------------------------------------------------------------------------------- what a person is told


def _about(run: Run) -> str:
    """Which network this is and what it was trained on, in one line."""
    config = run.config
    trained = "fully retrained" if config.get("kind") == "retrain" else "a study's candidate, briefly trained"
    return f"{run.path}: {config['architecture']}, {trained} on {_data_name(run)}"


def _data_name(run: Run) -> str:
    data = run.config["data"]
    return f"{data['name']}{' (synthetic data)' if data['synthetic'] else ''}"


def _notices(
    lengths_s: NDArray[np.float64],
    rates: NDArray[np.int64],
    windows: NDArray[np.int64],
    duration_s: float,
    front_end: FrontEnd,
) -> tuple[str, ...]:
    """What departs from the training's clips and makes predictions less trustworthy, or other than one would think."""
    notices = []
    if n_long := int((windows > 1).sum()):
        notices.append(
            f"{n_long:,} of {len(windows):,} files are longer than {LONG:g} training clips of {duration_s:g} s: cut into "
            f"windows of {duration_s:g} s (up to {int(windows.max()):,} a file), their probabilities averaged"
        )
    if n_short := int((lengths_s < duration_s / 2).sum()):
        notices.append(
            f"{n_short:,} of {len(windows):,} files are shorter than half a training clip of {duration_s:g} s: padded with "
            f"zeros (the shortest has {lengths_s.min():.2f} s)"
        )
    if n_dull := int((rates < math.floor(2 * front_end.f_max)).sum()):
        notices.append(
            f"{n_dull:,} of {len(windows):,} files are sampled at less than {math.floor(2 * front_end.f_max):,} Hz: they lack "
            f"the high end that the network was trained with"
        )
    return tuple(notices)


def _notices_of_set(recordings: Recordings, predicted: Predicted, classes: Sequence[str]) -> list[str]:
    """What a table for DCASE lacks, and what is not done with labels."""
    notices = []
    if recordings.labelled:
        notices.append(
            "this folder is a labelled dataset: its recordings are predicted, never compared with their labels"
        )
    if recordings.lists and predicted.skipped:
        notices.append(f"{len(predicted.skipped):,} files of the list have no row; DCASE asks for every one")
    if recordings.lists and sorted(classes) != list(DCASE_SCENES):
        notices.append(f"the network's {len(classes)} classes are not DCASE's ten scenes: such a table is not accepted")
    return notices


def _print_scenes(console: Console, said: Prediction) -> None:
    table = Table("scene", "probability", title=said.filename, title_justify="left")
    ranked = sorted(said.probabilities.items(), key=lambda item: -item[1])
    for scene, probability in ranked[:_ROWS]:
        table.add_row(scene, per_cent(probability))
    console.print(table)
    if len(ranked) > _ROWS:
        console.print(f"and {len(ranked) - _ROWS} less probable ones; --json has all")


def _print_files(console: Console, recordings: Recordings, predictions: Sequence[Prediction]) -> None:
    table = Table("file", "scene", "probability", title=recordings.title, title_justify="left")
    for said in predictions[:_ROWS]:
        table.add_row(said.filename, said.scene, per_cent(said.probabilities[said.scene]))
    console.print(table)
    if len(predictions) > _ROWS:
        console.print(f"and {len(predictions) - _ROWS:,} more; --csv OUT or --json has all")
    counts = Table("predicted scene", "files", "share")
    for scene, count in Counter(said.scene for said in predictions).most_common():
        counts.add_row(scene, f"{count:,}", per_cent(count / len(predictions)))
    console.print(counts)


def _document(
    run: Run, recordings: Recordings, predicted: Predicted, notices: list[str], csv_path: Path | None
) -> dict[str, Any]:
    """The JSON document."""
    config, data = run.config, run.config["data"]
    return {
        "run": str(run.path),
        "kind": config.get("kind"),
        "architecture": run.final["architecture"],
        "data": data["name"],
        "synthetic": data["synthetic"],
        "front_end": data["front_end"],
        "duration_s": data["duration_s"],
        "train_input": config["train_input"],
        "classes": data["classes"],
        "recordings": recordings.title,
        "csv": str(csv_path) if csv_path else None,
        "notices": notices,
        "files": [
            {
                "filename": said.filename,
                "scene": said.scene,
                "probabilities": said.probabilities,
                "windows": said.windows,
            }
            for said in predicted.files
        ],
        "skipped": [{"filename": problem.filename, "fault": problem.fault} for problem in predicted.skipped],
    }


if __name__ == "__main__":
    run_command(main)
