"""Hand a network out: `python -m studies.export RUN --to onnx|onnx-int8|pt2|csv|card [--out DEST]`, as a program, tables or a model card.

    onnx       network.onnx: raw log-mel in, logits out; compared with torch in onnxruntime before it is written
    onnx-int8  network-int8.onnx: the same of a run that made an int8 network; onnx and pt2 are then of the floats that it was made of
    pt2        network.pt2: the same as a torch.export program
    csv        curve.csv, predictions-val.csv and, where test was scored, predictions-test.csv
    card       card.md: what the network is, on which data, what it scored, how it came to be, what it is not

They go into RUN/export. Of a study, instead of a run, csv gives the table of all trials. No path of this machine stands in
what is written: data goes by its folder's name.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from rich.console import Console

from search_space.errors import Parser, UserError, open_console, run_command, unknown
from search_space.rounding import per_cent
from studies.card import bullets, card
from studies.records import ADDRESS, open_study
from studies.storage import JOURNAL
from trainers.runs import Predictions, Run, provenance, write_atomic

FORMATS = ("onnx", "onnx-int8", "pt2", "csv", "card")
_PROGRAMS = {"onnx": "network.onnx", "onnx-int8": "network-int8.onnx", "pt2": "network.pt2"}
_SUFFIXES = (".onnx", ".pt2", ".csv", ".md")
_NEEDED_KEYS = ("architecture", "data", "input", "train_input", "recipe", "seed")


@dataclass
class Exported:
    """What an export found out on the way: `files` by their path, parity by program, latency by runtime, and why a program is `refused`."""

    run: Run
    files: dict[Path, bytes] = field(default_factory=dict)
    formats: dict[Path, str] = field(default_factory=dict)
    parity: dict[str, dict[str, Any]] = field(default_factory=dict)
    latency: dict[str, Any] | None = None
    refused: dict[str, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def add(self, format: str, path: Path, content: bytes) -> None:
        """Keep a file, to be written when all of them are made."""
        self.files[path], self.formats[path] = content, format


def main(argv: list[str] | None = None) -> int:
    """The command."""
    options = _parser().parse_args(argv)
    console = open_console(stderr=options.json)
    formats = _formats(options.to)
    study = _study_folder(options.run, options.runs)
    if study is not None:
        document = _export_study(study, formats, options.out, options.force)
    else:
        run = open_run(options.run, options.runs)
        document = _export_run(console, run, formats, options.out, options.force)
    if options.json:
        json.dump(document, sys.stdout)
        print()
    else:
        for file in document["files"]:
            rows = f", {file['rows']:,} rows" if "rows" in file else ""
            console.print(f"written: {file['path']} ({file['bytes']:,} bytes{rows})", markup=False, soft_wrap=True)
    if refused := document.get("refused"):
        raise UserError("; ".join(f"{format}: {why}" for format, why in refused.items()))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m studies.export",
        description=(__doc__ or "").split("\n")[0],
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run's folder (a trial, a full retraining, a comparison), or a study")
    add("--to", required=True, metavar="A,B", help=f"any of {', '.join(FORMATS)}; of a study, csv")
    add("--out", type=Path, metavar="DEST", help="a folder, or a file for a single one (default: RUN/export)")
    add("--force", action="store_true", help="overwrite files outside of RUN/export")
    add("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where a study is looked up by name")
    add("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    return parser


# ------------------------------------------------------------------------------------------------------------- checks


def _formats(text: str) -> tuple[str, ...]:
    formats = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not formats:
        raise UserError(f"--to names at least one format; known: {list(FORMATS)}")
    for name in formats:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS)
    return formats


def _study_folder(path: Path, runs: Path) -> Path | None:
    """The folder of the study that the path, or the name below `runs`, is; None when it is none."""
    candidates = (path, runs / path) if len(path.parts) == 1 else (path,)
    return next(
        (folder for folder in candidates if any((folder / name).is_file() for name in (JOURNAL, ADDRESS))), None
    )


def open_run(path: Path, runs: Path) -> Run:
    """The finished run in a folder.

    Raises: UserError where there is none (naming those that are near), it has no weights, or its record is another program's.
    """
    study = path.parent.parent
    if not (path / "run.json").is_file() and path.name.isdigit() and (study / ADDRESS).is_file():
        open_study(study.name, study.parent).run(int(path.name))  # fetches it where another machine trained it
    if not (path / "run.json").is_file():
        near = [str(found) for found in _near(path, runs)]
        shown = ", ".join(near[:3]) + (f" and {len(near) - 3} more" if len(near) > 3 else "")
        raise UserError(
            f"{str(path)!r} holds no run (run.json is missing) and no study; "
            + (
                f"runs with weights near it: {shown}"
                if near
                else "name a trial's folder, such as runs/NAME/trials/00006"
            )
        )
    run = Run(path)
    missing = [key for key in _NEEDED_KEYS if key not in run.config]
    if missing:
        raise UserError(f"{path / 'run.json'} lacks {missing}: it is no run of this project, or of an earlier version")
    if not run.weights_path.is_file():
        status = run.status
        epochs = f", epoch {status['epoch']} of {status['epochs']}" if "epochs" in status else ""
        raise UserError(
            f"{path} has no weights: its training is {status.get('state', 'not begun')}{epochs}; let it finish "
            f"(a full retraining goes on with --resume)"
        )
    return run


def _near(path: Path, runs: Path) -> list[Path]:
    for place in (path, runs / path, path.parent):
        for kinds in (("retrain/*", "trials/*", "*"), ("*/retrain/*", "*/trials/*")):
            found = [file.parent for kind in kinds for file in sorted(place.glob(f"{kind}/weights.safetensors"))]
            if found:
                return found
    return []


def _destinations(home: Path, out: Path | None, names: Mapping[str, Sequence[str]], force: bool) -> dict[str, Path]:
    """Where every file goes, by its name; `names` are those of each format.

    Raises: UserError, before any work, for a place that cannot be written, or files of others that lie there.
    """
    files = [name for of_format in names.values() for name in of_format]
    own = home / "export"
    folder, paths = out or own, {name: (out or own) / name for name in files}
    if out is not None and out.suffix in _SUFFIXES and not out.is_dir():
        if len(files) != 1 or Path(files[0]).suffix != out.suffix:
            raise UserError(
                f"--out {str(out)!r} names one file, and --to {','.join(names)} writes {', '.join(files)}; name a folder"
            )
        folder, paths = out.parent, {files[0]: out}
    elif folder.is_file():
        raise UserError(f"{str(folder)!r} is a file; name a folder with --out")
    for path in paths.values():
        if path.is_dir():
            raise UserError(f"{str(path)!r} is a folder; move it away or name another --out")
        if path.exists() and not force and path.parent.resolve() != own.resolve():
            raise UserError(f"{str(path)!r} exists; name another --out, or overwrite it with --force")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            f"{str(folder)!r} cannot be written ({error.strerror}); name another place with --out"
        ) from None
    return paths


# ------------------------------------------------------------------------------------------------------- what is done


def _export_study(folder: Path, formats: tuple[str, ...], out: Path | None, force: bool) -> dict[str, Any]:
    if formats != ("csv",):
        near = _near(folder, folder.parent)
        hint = f", such as {near[0]}" if near else ""
        raise UserError(
            f"{str(folder)!r} is a study, and --to {','.join(formats)} is of one run: name its folder{hint}"
        )
    folder = folder.resolve() if folder.name in ("", "..") else folder
    records = open_study(folder.name, folder.parent)
    path = _destinations(folder, out, {"csv": ["trials.csv"]}, force)["trials.csv"]
    trials = records.trials()
    content = _csv(trials)
    write_atomic(path, lambda file: file.write(content))
    return {
        "study": records.name,
        "files": [{"format": "csv", "path": str(path), "bytes": len(content), "rows": len(trials)}],
    }


def _export_run(console: Console, run: Run, formats: tuple[str, ...], out: Path | None, force: bool) -> dict[str, Any]:
    tables = {"curve.csv": pd.DataFrame(run.metrics())} if "csv" in formats else {}
    if "csv" in formats:
        for split in ("val", "test"):
            if (said := run.predictions(split)) is not None:
                tables[f"predictions-{split}.csv"] = _predictions_frame(said, run.config["data"]["classes"])
    names: dict[str, list[str]] = {**{format: [name] for format, name in _PROGRAMS.items()}, "card": ["card.md"]}
    names = {format: list(tables) if format == "csv" else names[format] for format in formats}
    if {"onnx", "onnx-int8"} & set(formats):
        from trainers.programs import check_onnx_installed

        check_onnx_installed()
    if "onnx-int8" in formats and not run.final.get("precision"):
        raise UserError(
            f"{run.path} made no int8 network; `python -m trainers.quantise {run.path}` quantises what it trained and writes the same file, "
            f"or train it again with --precision int8-qat"
        )
    paths = _destinations(run.path, out, names, force)
    done = Exported(run)
    for name, frame in tables.items():
        done.add("csv", paths[name], _csv(frame, "%.9g" if name.startswith("predictions") else None))
    if set(formats) - {"csv"}:
        _make_programs(console, done, [format for format in formats if format in _PROGRAMS], paths)
    if "card" in formats:
        done.add("card", paths["card.md"], card(run, list(_measured(done))).encode())
    for path, content in done.files.items():
        write_atomic(path, lambda file, content=content: file.write(content))  # type: ignore[misc]
    data = run.config["data"]
    n_rows = {paths[name]: len(frame) for name, frame in tables.items()}
    return {
        "run": str(run.path),
        "architecture": run.final["architecture"],
        "data": data["name"],
        "synthetic": data["synthetic"],
        "parity": done.parity,
        "latency": done.latency,
        "notices": done.notices,
        "refused": done.refused,
        "files": [
            {"format": done.formats[path], "path": str(path), "bytes": len(content)}
            | ({"rows": n_rows[path]} if path in n_rows else {})
            for path, content in done.files.items()
        ],
    }


def _make_programs(console: Console, done: Exported, formats: list[str], paths: Mapping[str, Path]) -> None:
    """Make and check the programs, and time one clip, in torch and what ONNX there is."""
    from search_space.inference import inference_form
    from trainers import programs
    from trainers.recorded import is_int8, load_model

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    network = load_model(done.run)
    probe = programs.find_probe(done.run, network)
    torch_call = programs.as_call(network)
    if probe.why:
        done.notices.append(f"compared on random inputs: {probe.why}")
        say(done.notices[-1])
    again = programs.probabilities_difference(torch_call, probe)
    if again is not None:
        say(f"{probe.title}: probabilities differ from those that the run recorded by at most {again:.2g}")
    calls = {"torch": programs.as_call(inference_form(network))}
    notes = programs.metadata(done.run)
    floats = load_model(done.run, "float32") if is_int8(done.run) else network
    for format in formats:
        try:
            if format == "onnx-int8":
                many = programs.find_probe(done.run, network, programs.INT8_PROBES)
                program = programs.make_onnx_int8(network, many, notes)
            else:
                program = programs.PROGRAMS[format](floats, probe, notes)
        except programs.Refused as error:  # the others, and the card, are worth having all the same
            done.refused[format] = str(error)
            paths[_PROGRAMS[format]].unlink(missing_ok=True)  # what an earlier export left is refused, too
            continue
        done.add(format, paths[_PROGRAMS[format]], program.content)
        if format == "onnx-int8":
            calls["onnxruntime int8"] = program.call
            done.parity[format] = {"agreement": program.agreement, "input": many.title, "clips": list(many.filenames)}
            say(f"{format}: onnxruntime decides like torch on {per_cent(program.agreement)} of {many.title}")
            continue
        done.parity[format] = {
            "greatest_difference": program.greatest_difference,
            "tolerance": programs.TOLERANCE,
            "input": probe.title if probe.why == "" else f"{len(probe.logmel_BCTF)} random inputs",
            "clips": list(probe.filenames),
            "recorded_difference": again,
        }
        say(
            f"{format}: logits differ from torch's by at most {program.greatest_difference:.2g} on "
            f"{done.parity[format]['input']} (allowed: {programs.TOLERANCE:g})"
        )
        if format == "onnx":
            calls["onnxruntime"] = program.call
    if formats == ["pt2"] and "card.md" not in paths:
        return
    found = programs.latency_ms(calls, probe.logmel_BCTF)
    done.latency = {
        "ms": found,
        "threads": programs.THREADS,
        "load": round(psutil.getloadavg()[0], 1),
        "input": done.run.config["train_input"],
        "machine": provenance()["machine"],
    }
    say(_latency_line(done.latency))


def _latency_line(latency: Mapping[str, Any]) -> str:
    frames, mels = latency["input"]
    each = ", ".join(f"{name} {ms:,.2f} ms" for name, ms in latency["ms"].items())
    return (
        f"one clip of {frames}x{mels} on {latency['threads']} thread of the CPU, median of alternating runs: {each} (load of the "
        f"machine: {latency['load']:g} on {latency['machine']['cores']} cores)"
    )


def _predictions_frame(said: Predictions, classes: Sequence[str]) -> pd.DataFrame:
    """A row a clip: filename, recorder, label, predicted, and a column `p_<class>` for the probability of every class."""
    names = pd.Index(classes)
    about = {
        "filename": said.filenames,
        "recorder": said.recorders,
        "label": names[said.labels_N],
        "predicted": names[said.probabilities_NK.argmax(1)],
    }
    probabilities = pd.DataFrame(said.probabilities_NK, columns=[f"p_{name}" for name in classes])
    return pd.concat([pd.DataFrame(about), probabilities], axis=1)


def _csv(frame: pd.DataFrame, float_format: str | None = None) -> bytes:
    file = io.StringIO(newline="")
    frame.to_csv(file, index=False, float_format=float_format, lineterminator="\n")
    return file.getvalue().encode()


def _measured(done: Exported) -> Iterable[str]:
    """What the card says of latency and of how near the programs are."""
    if done.latency:
        machine = done.latency["machine"]
        yield (
            f"{_latency_line(done.latency)}; {machine['processor']}, {machine['system']}, making the log-mel not included."
        )
    lines = [
        f"`{_PROGRAMS[name]}`: logits differ from torch's by at most {found['greatest_difference']:.2g} on {found['input']}"
        if "greatest_difference" in found
        else f"`{_PROGRAMS[name]}`: decides like torch on {per_cent(found['agreement'])} of {found['input']}"
        for name, found in done.parity.items()
    ]
    lines += [f"`{_PROGRAMS[name]}` is refused: {why}" for name, why in done.refused.items()]
    if lines:
        yield bullets(lines)


if __name__ == "__main__":
    run_command(main)
