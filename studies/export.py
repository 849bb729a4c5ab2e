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
import contextlib
import io
import json
import math
import re
import shlex
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pandas as pd
import psutil
from rich.console import Console

from search_space.complexity import count_network
from search_space.errors import UserError, open_console, run_command, unknown
from studies.records import ADDRESS, open_study
from studies.storage import JOURNAL
from trainers.metrics import scores
from trainers.runs import Predictions, Run, provenance, write_atomic
from trainers.teaching import words_of

FORMATS = ("onnx", "onnx-int8", "pt2", "csv", "card")
_PROGRAMS = {"onnx": "network.onnx", "onnx-int8": "network-int8.onnx", "pt2": "network.pt2"}
_SUFFIXES = (".onnx", ".pt2", ".csv", ".md")
_NEEDED_KEYS = ("architecture", "data", "input", "train_input", "recipe", "seed")

# Source: ESC-50's README; the clips of ESC-10 are by their own licences. TAU's and what it forbids: trainers/archives.json.
_LICENCES = (
    ("esc10", "ESC-10: CC BY 3.0 or CC0, clip by clip; the clips' authors must be named."),
    ("esc50", "ESC-50: Creative Commons Attribution-NonCommercial 3.0 (CC BY-NC)."),
    (
        "tau20",
        "TAU Urban Acoustic Scenes: Tampere University, non-commercial; this is not an open licence, and selling or "
        "distributing results obtained with it commercially is forbidden.",
    ),
)


@dataclass
class Exported:
    """What an export found out on the way: `files` by their path, parity by program, latency by runtime."""

    run: Run
    files: dict[Path, bytes] = field(default_factory=dict)
    formats: dict[Path, str] = field(default_factory=dict)
    parity: dict[str, dict[str, Any]] = field(default_factory=dict)
    latency: dict[str, Any] | None = None
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
        return 0
    for file in document["files"]:
        rows = f", {file['rows']:,} rows" if "rows" in file else ""
        console.print(f"written: {file['path']} ({file['bytes']:,} bytes{rows})", markup=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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
        done.add("card", paths["card.md"], card(run, done).encode())
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
        if format == "onnx-int8":
            many = programs.find_probe(done.run, network, programs.INT8_PROBES)
            program = programs.make_onnx_int8(network, many, notes)
        else:
            program = programs.PROGRAMS[format](floats, probe, notes)
        done.add(format, paths[_PROGRAMS[format]], program.content)
        if format == "onnx-int8":
            calls["onnxruntime int8"] = program.call
            done.parity[format] = {"agreement": program.agreement, "input": many.title, "clips": list(many.filenames)}
            say(f"{format}: onnxruntime decides like torch on {program.agreement:.1%} of {many.title}")
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


# --------------------------------------------------------------------------------------------------------- model card


def card(run: Run, done: Exported | None = None) -> str:
    """The run's model card, Markdown; with what an export measured, if one did."""
    config, data = run.config, run.config["data"]
    synthetic = " (synthetic data, no recordings)" if data["synthetic"] else ""
    sections = [
        f"# {run.final['architecture']}",
        f"An acoustic scene classifier of {len(data['classes'])} classes, trained on {data['name']}{synthetic}: "
        f"{_kind(config)}.",
        "## Network",
        _network(run),
        "## Data",
        _data(config),
        "## Scores",
        *_scores(run),
        "## Training",
        _training(run),
        "## Latency and exports" if done else "",
        *(_measured(done) if done else ()),
        "## Provenance",
        *_provenance(run),
        "## Limits",
        _bullets(_limits(run)),
        "## Licence of the data",
        licence(data["name"], data["synthetic"]),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def licence(name: str, synthetic: bool) -> str:
    """What is known of the licence of data of this name, a sentence."""
    if synthetic:
        return "The data is generated; nobody's recordings are in it, and it has no licence of its own."
    known = next((text for start, text in _LICENCES if name.startswith(start) and "-recorders" not in name), None)
    if known is None:
        return "Not recorded: see the files LICENSE or ATTRIBUTION beside the data, or ask who made it."
    return f"{known} What it asks of the data may bind what is made with it too."


def without_paths(command: str) -> str:
    """A command line with every path cut down to its last name: a machine's folders are nobody else's business.

    A storage's URL is replaced altogether.
    """
    return shlex.join(_last_name(word) for word in shlex.split(command))


def _last_name(word: str) -> str:
    start, equals, value = word.partition("=")
    if equals and start.startswith("--"):
        return f"{start}={_last_name(value)}"
    if "://" in word:
        return "URL"
    pure = PureWindowsPath(word) if re.match(r"[A-Za-z]:[\\/]|\\\\", word) else PurePosixPath(word)
    outside = pure.is_absolute() or word.startswith("~") or ".." in pure.parts
    return pure.name or "." if outside else word


def _kind(config: Mapping[str, Any]) -> str:
    kinds = {
        "trial": "a study's candidate, briefly trained",
        "retrain": "fully trained",
        "compare": "one of several networks compared under one budget",
    }
    return kinds.get(str(config.get("kind")), "a single training")


def _pruned(final: Mapping[str, Any]) -> str:
    steps = final["steps"]
    return f"in {len(steps)} step{'s' * (len(steps) != 1)}, the last after {steps[-1]['clips']:,} clips"


def _int8_rows(final: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    if final.get("precision"):
        floats = final["float32"]
        yield (
            "precision",
            f"{final['precision']}: weights of convolutions and linear layers in int8, their inputs in 7 bits",
        )
        yield (
            "bytes in int8",
            f"{final['param_bytes']:,}, biases and what else stays float32 with four bytes each; {final['scale_bytes']:,} of scales besides",
        )
        yield (
            "val in float32",
            f"{floats['val_accuracy']:.1%} by the same weights, which decide alike on {floats['agreement']:.1%} of the clips",
        )


def _network(run: Run) -> str:
    config, final = run.config, run.final
    classes, full, own = config["data"]["classes"], tuple(config["input"]), tuple(config["train_input"])
    network = final["architecture"]
    cost = count_network(network, full, len(classes))
    rows = [
        ("notation", f"`{network}`"),
        *([("pruned from", f"`{config['architecture']}`, {_pruned(final)}")] if final.get("steps") else []),
        *(
            [("name", f"`{config['preset']}`")]
            if config.get("preset") not in (None, network) and network == config["architecture"]
            else []
        ),
        ("input", f"raw log-mel (B, 1, {own[0]}, {own[1]}): B x 1 x frames x mels; normalised inside the network"),
        ("output", "logits (B, K), K the classes in the order below"),
        ("classes", ", ".join(map(_cell, classes))),
        ("params", f"{cost.params:,}"),
        (
            "bytes of params",
            ", ".join(f"{cost.param_bytes(dtype):,} as {dtype}" for dtype in ("float32", "float16", "int8")),
        ),
        *_int8_rows(final),
        (f"MACs at {full[0]}x{full[1]}", f"{cost.macs:,}"),
    ]
    if own != full:
        at_own = count_network(network, own, len(classes))
        rows.append((f"MACs at {own[0]}x{own[1]}, the size it was trained at", f"{at_own.macs:,}"))
    return _table(("", ""), rows) + (
        "\n\nParams are all trainable numbers. MACs are the multiply-accumulates of convolutions and linear layers for one "
        "clip; normalisation, activations, pooling and biases are not counted (convention `conv+linear`). "
        + ", ".join(f"{name}: {macs:,}" for name, macs in cost.macs_by.items() if name != "conv+linear")
        + f" at {full[0]}x{full[1]} by other conventions."
    )


def _data(config: Mapping[str, Any]) -> str:
    data, full, own = config["data"], tuple(config["input"]), tuple(config["train_input"])
    front_end = ", ".join(f"{name} {value}" for name, value in data["front_end"].items())
    source = data["source"] if data["source"] == "synthetic" else _file_name(data["source"])
    area = f", brought to {own[0]}x{own[1]} by area average" if own != full else ""
    counts = ", ".join(f"{number:,} {split}" for split, number in data["counts"].items())
    rows = [
        ("name", _cell(data["name"])),
        ("synthetic", "yes: generated, not recorded" if data["synthetic"] else "no"),
        ("folder", _cell(source)),
        *([("part", _cell(_file_name(data["subset"])))] if data.get("subset") else []),
        ("clips", f"{counts}; none of the groups that the data names (source recordings, places) is in two splits"),
        ("test fold", f"{data['fold']}, where the data has folds"),
        ("clip length", f"{data['duration_s']:g} s" if data.get("duration_s") else "not recorded"),
        ("front end", front_end),
        ("log-mel", f"{full[0]} frames x {full[1]} mels{area}; ln(mel power + log_floor), Hann window, centred frames"),
        ("digest", f"`{data['digest']}`"),
    ]
    return _table(("", ""), rows)


def _scores(run: Run) -> Iterable[str]:
    classes = tuple(run.config["data"]["classes"])
    val = run.predictions("val")
    rows = []
    if val is not None:
        rows.append(_score_row("val", scores(val, classes, set())))
    test = run.scores
    if test is not None:
        rows.append(_score_row("test, scored once", test))
        if "tta" in test:
            rows.append(_score_row(f"test, over {test['tta']['draws']} draws of masks", test["tta"]))
    if rows:
        headings = ("split", "clips", "accuracy", "macro accuracy", "log loss", "calibration error")
        width = len(headings) - all(row[-1] == "" for row in rows)  # runs of before it was measured lack the last
        yield _table(headings[:width], [row[:width] for row in rows])
        yield "Accuracy is given with the sampling error of that many clips, sqrt(p (1 - p) / n). Log loss is in nats."
    if test is None:
        if run.config.get("kind") == "retrain":
            yield (
                "The test split is not scored yet: this training has not finished. Its command, below, goes on and scores it "
                "when `--resume` is added."
            )
        else:
            yield "The test split was not scored: that is for full trainings, once."
        return
    if test.get("seen") is not None and test.get("unseen") is not None:
        yield (
            f"Test clips of recorders that training had heard: {test['seen']:.1%}; of recorders that it had not: "
            f"{test['unseen']:.1%}."
        )
    yield _table(("scene", "test accuracy"), [(_cell(name), f"{p:.1%}") for name, p in test["per_scene"].items()])
    if set(test["per_recorder"]) != {""}:
        by_recorder = [(_cell(name) or "(not named)", f"{p:.1%}") for name, p in test["per_recorder"].items()]
        yield _table(("recorder", "test accuracy"), by_recorder)


def _score_row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    p, n = found["accuracy"], found["n_clips"]
    accuracy = f"{p:.1%} ± {math.sqrt(p * (1 - p) / n):.1%}"
    calibration = f"{found['calibration_error']:.1%}" if "calibration_error" in found else ""
    return name, f"{n:,}", accuracy, f"{found['macro_accuracy']:.1%}", f"{found['log_loss']:.3f}", calibration


def _training(run: Run) -> str:
    config, rows = run.config, run.metrics()
    recipe = ", ".join(f"{name} {value}" for name, value in config["recipe"].items() if name not in ("name", "epochs"))
    clips = f"{config['clips']:,}" if "clips" in config else "not recorded"
    seconds = sum(row.get("seconds", 0.0) for row in rows)
    device = config.get("device") or run.provenance.get("device") or "not recorded"
    threads = config.get("threads", run.provenance.get("threads"))
    return _table(
        ("", ""),
        [
            ("recipe", f"{config['recipe']['name']}: {recipe}"),
            ("epochs", f"{len(rows)}, {clips} clips seen"),
            ("weights", "those of the last epoch; nothing was chosen by a score"),
            ("seed", f"{config['seed']}"),
            ("device", str(device)),
            *([("threads", str(threads))] if threads is not None else []),
            *([("parts that a batch passes in", str(config["accumulate"]))] if "accumulate" in config else []),
            ("time", f"{seconds:,.0f} s"),
        ],
    )


def _measured(done: Exported) -> Iterable[str]:
    if done.latency:
        machine = done.latency["machine"]
        yield (
            f"{_latency_line(done.latency)}; {machine['processor']}, {machine['system']}, making the log-mel not included."
        )
    lines = [
        f"`{_PROGRAMS[name]}`: logits differ from torch's by at most {found['greatest_difference']:.2g} on {found['input']}"
        if "greatest_difference" in found
        else f"`{_PROGRAMS[name]}`: decides like torch on {found['agreement']:.1%} of {found['input']}"
        for name, found in done.parity.items()
    ]
    if lines:
        yield _bullets(lines)


def _provenance(run: Run) -> Iterable[str]:
    kept = run.provenance
    machine = kept.get("machine", {})
    packages = ", ".join(f"{name} {version}" for name, version in kept.get("packages", {}).items())
    started = str(kept.get("started", "not recorded"))
    times = [("started", started)]
    if before := kept.get("resumed_from"):
        times = [("started", str(before[0].get("started", "not recorded")))]
        count = f"{len(before)} time{'s' * (len(before) > 1)}"
        times.append(("resumed", f"{count}, last {started}; revision, packages and machine are those of that time"))
    yield _table(
        ("", ""),
        [
            (
                "git revision",
                f"`{kept.get('git') or 'not recorded'}`" + " (with changes)" * str(kept.get("git")).endswith("+"),
            ),
            ("packages", f"python {kept.get('python', '?')}, {packages}"),
            ("machine", ", ".join(f"{value}" for value in machine.values()) + " cores" * ("cores" in machine)),
            *times,
        ],
    )
    command = _retrain_command(run) or kept.get("command") or run.config.get("command")
    if command:
        of = {"trial": f"The study that this was trial {run.config.get('trial')} of", "compare": "The comparison"}
        yield f"{of.get(str(run.config.get('kind')), 'The training')}, folders by their names alone:"
        yield f"```\n{without_paths(command)}\n```"


def _retrain_command(run: Run) -> str | None:
    """The command that makes a full retraining anew, None for a run of another kind.

    Of what was trained, not of the process that came last: that one may have gone on with it, or have trained other seeds too.
    """
    config, data = run.config, run.config["data"]
    if config.get("kind") != "retrain":
        return None
    values: dict[str, Any] = {"study": config.get("study"), "trial": config.get("trial")}
    if config.get("study") is None:
        values = {"architecture": config.get("preset") or config["architecture"], "data": data["source"]}
        values |= {"subset": data.get("subset"), "fold": data.get("fold")}
    recipe = config["recipe"]
    values |= {"recipe": recipe["name"], "epochs": config.get("epochs"), "seed": config["seed"]}
    values |= {"device": config.get("device"), "accumulate": config.get("accumulate")}
    values |= {"tta": config.get("tta") or (run.scores or {}).get("tta", {}).get("draws")}
    options = [word for name, value in values.items() if value is not None for word in (f"--{name}", str(value))]
    with contextlib.suppress(UserError):  # of a recipe that does not exist any more the name is all there is to say
        options += words_of(recipe)
    return shlex.join(["python", "-m", "trainers.retrain", *options])


def _limits(run: Run) -> Iterable[str]:
    config, data, test = run.config, run.config["data"], run.scores
    own, full = tuple(config["train_input"]), tuple(config["input"])
    if data["synthetic"]:
        yield "Trained and scored on generated sound: its figures say nothing about real scenes."
    if config.get("kind") == "trial":
        yield (
            "A study's candidate: trained on a short budget to be told apart from others, not to be used. It was compared with "
            "others on val, so the val accuracy of the best of them flatters."
        )
    if config.get("kind") == "compare":
        yield "Trained on a budget that all compared networks share: not the best that this network can do."
    if own != full:
        yield f"It reads {own[0]}x{own[1]}, an area average of the full {full[0]}x{full[1]} log-mel."
    if test is None:
        yield "No test score: how it does on clips that nobody chose by is not known."
    else:
        yield (
            f"One split and one seed: {test['n_clips']:,} test clips. Not comparable with means over several folds or seeds, "
            f"as papers on data with folds print them."
        )
    yield (
        f"It knows {len(data['classes'])} classes and answers with one of them whatever it hears; clips are of "
        f"{data['duration_s']:g} s."
        if data.get("duration_s")
        else f"It knows {len(data['classes'])} classes."
    )
    yield "The front end must be the one above; recordings at a low sample rate or of recorders unlike those of training do worse."


# ----------------------------------------------------------------------------------------------------------- markdown


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)


def _cell(text: str) -> str:
    """Text that a table's cell holds as it is."""
    return text.replace("|", "\\|")


def _file_name(path: str) -> str:
    return PureWindowsPath(path).name if "\\" in path else PurePosixPath(path).name


if __name__ == "__main__":
    run_command(main)
