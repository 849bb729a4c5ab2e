"""Search: `python -m studies.run --trials 200 [--data FOLDER]`. The same command again continues to the total."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shlex
import signal
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from search_space.complexity import parse_input
from search_space.errors import Parser, UserError, open_console, run_command, unknown
from search_space.rounding import per_cent
from studies.analysis import clips_seen, hypervolume_course, hypervolume_of
from studies.candidates import SAMPLERS
from studies.charts import duration, write_html
from studies.fronts import front_figure
from studies.interrupts import interrupt
from studies.plans import SearchOptions, planned
from studies.records import StudyRecords
from studies.search import Search, Told
from studies.storage import DATABASE_ERRORS
from trainers.datasets import DEFAULT_FOLD, Dataset
from trainers.features import FrontEnd
from trainers.loop import resolve_device, rung_clips
from trainers.opening import about, bars, open_data
from trainers.teachers import get_ready
from trainers.teaching import add_options

_FRONT_ROWS = 30
# Assumed: a table does not break off for so few rows, which the line that says so would hardly shorten.
_FEW_MORE = 10
_FAILED_ROWS = 10
_COUNT = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)([kKmMgG]?)")
_FACTOR = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = _parser()
    given, _ = parser.parse_known_args(argv)
    if given.config is not None:
        parser.set_defaults(**_from_toml(given.config, parser))
    options = vars(parser.parse_args(argv))
    as_json, source = options.pop("json"), options.pop("data")
    subset, fold = options.pop("subset"), options.pop("fold")
    options.pop("config")
    console = open_console(stderr=as_json)

    chosen = SearchOptions(**options)
    began = time.monotonic()

    def early(dataset: Dataset, front_end: FrontEnd, size: tuple[int, int]) -> None:
        planned(chosen, len(dataset.classes), front_end, size)

    dataset, features = open_data(console, source, subset, fold, early)

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    search = Search(chosen, dataset, features, say=say)
    get_ready(console, search.recipe, dataset, features, search.train_input, resolve_device(chosen.device))
    with search.opened() as records:
        _introduce(console, search)
        interrupted = False
        try:
            ended_early = _run(console, search, records)
        except KeyboardInterrupt:
            interrupted, ended_early = (
                True,
                "interrupted; what is finished stays, and the same command goes on to the total",
            )
        summary = _summary(search, records, time.monotonic() - began)
        _write_front(records)
    if as_json:
        json.dump(summary, sys.stdout)
        print()
    else:
        _print_front(console, records, summary)
    if ended_early:
        console.print(ended_early)
    return 130 if interrupted else 0


def _parser() -> argparse.ArgumentParser:
    defaults = SearchOptions()
    parser = Parser(prog="python -m studies.run", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add(
        "--trials",
        type=int,
        default=defaults.trials,
        help="distinct networks trained in the whole study (default: 200)",
    )
    add(
        "--data",
        metavar="FOLDER",
        help="a folder (TAU, ESC-50, one per class), a csv, or 'synthetic' (default: $DSSDN_DATA, else synthetic)",
    )
    add(
        "--subset",
        help="a named part of the data (esc10; split5 to split50 of TAU 2022) or a csv with a column 'filename'",
    )
    add("--fold", type=int, default=DEFAULT_FOLD, help="the test fold; the one before it is val (default: 5)")
    add("--study", metavar="NAME", help="the study's name (default: the data's name)")
    add("--runs", type=Path, default=defaults.runs, metavar="DIR", help="where studies lie (default: runs)")
    add(
        "--storage",
        metavar="URL",
        help="postgresql://user@host/database instead of the journal in the study's folder: the same command on any number of machines "
        "joins the study",
    )
    add(
        "--artifacts",
        metavar="PLACE",
        help="with --storage: a folder or s3://bucket/prefix that keeps the files of every run for the other machines (default: they stay "
        "in --runs)",
    )
    add(
        "--heartbeat",
        type=int,
        default=defaults.heartbeat,
        metavar="SECONDS",
        help="how often a machine shows that it lives; silent for six times as long it counts as dead (default: 10)",
    )
    add(
        "--space",
        default=defaults.space,
        help="dssdn (one operator and split for the network), dssdn-blocks (one a block), dssdn-wide (all options), cp-mobile, rep-mobile, cp-resnet, "
        "bc-resnet, tf-sepnet, or all (dssdn and these five)",
    )
    add("--sampler", default=defaults.sampler, help=f"one of {', '.join(SAMPLERS)} (default: tpe)")
    add("--seed", type=int, default=defaults.seed, help="of sampling and of every training (default: 0)")
    add("--workers", type=int, help="processes that train (default: one to four a GPU, or one a core up to 8)")
    add("--device", default=defaults.device, help="auto, cpu, cuda or cuda:N (default: auto)")
    add(
        "--budget",
        type=count_of,
        metavar="CLIPS",
        help="clips a candidate sees (default: 192 a class, at least 4800; half as many again with --halving, of which stopped ones see a part)",
    )
    add(
        "--train-input",
        type=size_of,
        metavar="TxF",
        help="frames x mels that candidates train on; costs count at full size",
    )
    add(
        "--max-params",
        type=count_of,
        metavar="N",
        help="networks with more are recorded, not trained (100k, 0.1M)",
    )
    add("--max-macs", type=count_of, metavar="N", help="likewise, at the full input (600M, 0.6G)")
    add(
        "--limits",
        metavar="NAME",
        help="a challenge's limits as hard caps, counted by its rules: dcase2024 (128,000 bytes, 30 MMACs for 1 s)",
    )
    add(
        "--max-bytes",
        type=count_of,
        metavar="N",
        help="likewise, of params kept as --precision (128k)",
    )
    add(
        "--precision",
        help="what params are kept as under --limits and --max-bytes: float32, float16 or int8 (default: float16)",
    )
    add(
        "--retry-failed",
        action="store_true",
        help="train again what failed by itself (diverged, out of memory, killed too often)",
    )
    add("--accept-code", action="store_true", help="go on with a study that other code has made")
    add(
        "--halving",
        action=argparse.BooleanOptionalAction,
        default=defaults.halving,
        help="stop trainings early that stand too low at a rung (default: yes, unless --budget is too small for rungs)",
    )
    add_options(parser)
    add("--config", type=Path, metavar="FILE.toml", help="any of these options as keys; flags win")
    add("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    return parser


def count_of(text: str) -> int:
    """A whole number with an optional k, M or G behind it, at least 1."""
    match = _COUNT.fullmatch(text)
    value = float(match[1]) * _FACTOR[match[2].lower()] if match else 0.0
    if value < 1 or value != int(value):
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 such as 3200, 100k or 0.6G, not {text!r}")
    return int(value)


def size_of(text: str) -> tuple[int, int]:
    """Frames x mels from text such as 108x64."""
    try:
        return parse_input(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _from_toml(path: Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The file's options as the parser's defaults, checked like flags. Raises `UserError` that names the key."""
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path} is not valid TOML: {error}") from error
    actions = {
        action.option_strings[0][2:]: action for action in parser._actions if action.dest not in ("help", "config")
    }
    values: dict[str, Any] = {}
    for key, value in content.items():
        action = actions.get(key.replace("_", "-"))
        if action is None:
            raise unknown(f"option in {path}", key, actions)
        if key == "teacher" and isinstance(value, list) and all(isinstance(name, str) for name in value):
            values[action.dest] = list(value)
            continue
        if isinstance(value, bool) != (action.nargs == 0) or not isinstance(value, str | int | float):
            raise UserError(
                f"--config {path}: {key} can not be {value!r}; write it as the flag --{key.replace('_', '-')} takes it"
            )
        try:
            convert = action.type if callable(action.type) else str
            one = value if action.nargs == 0 else convert(str(value))
            values[action.dest] = [one] if key == "teacher" else one  # which may be given several times
        except (argparse.ArgumentTypeError, ValueError) as error:
            raise UserError(f"--config {path}: {key} = {value!r}: {error}") from error
    return values


def _introduce(console: Console, search: Search) -> None:
    data = search.data
    synthetic = " [bold yellow](synthetic data: a generated stand-in, not recordings)[/]" if data["synthetic"] else ""
    console.print(
        f"study [bold]{search.name}[/] on {data['name']}{synthetic}: {data['counts']['train']} train, {data['counts']['val']} val clips, "
        f"{search.n_classes} classes",
        markup=True,
    )
    console.print(
        f"{search.space.size:,} networks in space {search.space.name}; each sees {search.budget:,} clips{_share(search)}{_rungs(search)} at "
        f"{search.train_input[0]}x{search.train_input[1]}; params and MACs count at {search.input[0]}x{search.input[1]} frames x mels"
    )
    if search.recipe.teachers:
        console.print(f"all are taught by {', '.join(search.recipe.teachers)}", markup=False, soft_wrap=True)


def _rungs(search: Search) -> str:
    """Where trainings may be stopped."""
    if not search.halving:
        return ""
    *rungs, _ = rung_clips(search.recipe, search.budget)
    return f", or is stopped at {' or '.join(f'{clips:,}' for clips in rungs)}"


def _share(search: Search) -> str:
    """How the budget compares with the training clips."""
    n_train = search.data["counts"]["train"]
    if search.budget < n_train:
        return f" (a fixed, stratified part of the {n_train:,} in train)"
    return f" ({search.budget / n_train:.3g} times the {n_train:,} in train)"


def _run(console: Console, search: Search, records: StudyRecords) -> str | None:
    best = records.trials()["val_accuracy"].max()
    state = {"here": 0.0, "front": 0.0, "best": 0.0 if pd.isna(best) else float(best), "began": time.monotonic()}
    with bars(console) as progress:
        bar = progress.add_task("estimating", total=search.options.trials)

        def on_start(seconds: float, remaining: int) -> None:
            done = search.options.trials - remaining
            if remaining:
                each = seconds / remaining * search.workers
                workers = f"{search.workers} worker{'s' * (search.workers > 1)} of {search.threads} thread{'s' * (search.threads > 1)}"
                console.print(
                    f"{remaining} networks to train by {workers}, {about(each)} for each on one worker: {about(seconds)} in all",
                    soft_wrap=True,
                )
            progress.update(bar, completed=max(0, done), description="trials")

        def on_told(told: Told) -> None:
            if told.val_accuracy is None:
                line = f"trial {told.trial}  {told.architecture}  {(told.error or '').splitlines()[0]}"
                console.print(line, style="bold red", markup=False, soft_wrap=True)
                return
            if told.stopped_at is None:
                state["best"] = max(state["best"], told.val_accuracy)
            elapsed = time.monotonic() - state["began"]
            before, complete = progress.tasks[bar].completed or 0, search.complete()
            state["here"] += complete - before  # with the trials of other machines
            left = elapsed / max(1, state["here"]) * (search.options.trials - complete)
            with contextlib.suppress(*DATABASE_ERRORS):  # one that is gone for a moment: the old number stays
                state["front"] = len(records.front())
            status = f"best {per_cent(state['best'])}  front {state['front']:.0f}  {about(left)} left"
            progress.update(bar, completed=complete, description=status)
            if not console.is_terminal:
                stopped = "" if told.stopped_at is None else f" at {told.stopped_at:,} clips, stopped"
                console.print(
                    f"trial {told.trial}  {told.architecture}  val {per_cent(told.val_accuracy)}{stopped}  "
                    f"{complete:.0f}/{search.options.trials}  {status}",
                    soft_wrap=True,
                )

        return search.run(on_start, on_told)


def _summary(search: Search, records: StudyRecords, seconds: float) -> dict[str, Any]:
    trials = records.trials()
    info = records.info
    front = records.front()
    clips, saved = clips_seen(trials, info["budget"])
    course = hypervolume_course(trials, info["reference_point"])
    return {
        "study": records.name,
        "data": {key: info["data"][key] for key in ("name", "synthetic", "counts", "digest", "fold")},
        "trials": {str(state): int(number) for state, number in trials["state"].value_counts().items()},
        "clips_seen": clips,
        "clips_saved": saved,
        "halving": info.get("halving"),
        "budget": info["budget"],
        "input": info["input"],
        "train_input": info["train_input"],
        "space": info["space"],
        "hypervolume": hypervolume_of(trials, info["reference_point"]),
        "hypervolume_course": course.to_dict("records"),
        "reference_point": info["reference_point"],
        "seconds": round(seconds, 1),
        "training_seconds": round(float(trials["seconds"].astype(float).sum()), 1),
        "failed": [
            {"trial": row["trial"], "architecture": row["architecture"], "error": str(row["error"]).splitlines()[0]}
            for row in trials[trials["state"] == "failed"].to_dict("records")
        ],
        "front": front[["trial", "architecture", "val_accuracy", "params", "macs"]].to_dict("records"),
    }


def _write_front(records: StudyRecords) -> None:
    trials = records.trials()
    if (trials["state"] != "complete").all():
        return
    data = records.info["data"]
    figure = front_figure(trials, x="macs", title=f"{records.name}: {data['name']}", synthetic=data["synthetic"])
    write_html(figure, records.path / "front.html")
    records.front().to_csv(records.path / "front.csv", index=False)


def _print_front(console: Console, records: StudyRecords, summary: dict[str, Any]) -> None:
    front = summary["front"]
    data = summary["data"]
    table = Table(
        *("trial", "network", "val accuracy", "params", "MACs"),
        title=f"Pareto front of {records.name}" + (" (synthetic data)" if data["synthetic"] else ""),
    )
    shown = len(front) if len(front) <= _FRONT_ROWS + _FEW_MORE else _FRONT_ROWS
    for row in front[:shown]:
        table.add_row(
            *(
                str(row["trial"]),
                row["architecture"],
                per_cent(row["val_accuracy"]),
                f"{row['params']:,}",
                f"{row['macs'] / 1e6:,.1f} M",
            )
        )
    console.print(table)
    if len(front) > shown:
        console.print(f"and {len(front) - shown} more in {records.path / 'front.csv'}")
    states = ", ".join(f"{number} {state.replace('_', ' ')}" for state, number in summary["trials"].items())
    console.print(
        f"trials: {states}; hypervolume {summary['hypervolume']:.4f}; this call took {duration(summary['seconds'])}"
    )
    if summary["training_seconds"] > 0:
        console.print(
            f"all trainings of the study, over all calls and workers: {duration(summary['training_seconds'])}"
        )
    for failed in summary["failed"][:_FAILED_ROWS]:
        console.print(
            f"failed: trial {failed['trial']}  {failed['architecture']}  {failed['error']}",
            markup=False,
            soft_wrap=True,
        )
    if summary["failed"]:
        console.print(f"{len(summary['failed'])} failed by themselves; --retry-failed trains them again")
    if summary["halving"]:
        whole = summary["clips_seen"] + summary["clips_saved"]
        console.print(
            f"{summary['clips_seen']:,} clips seen, {summary['clips_saved']:,} saved by stopping early "
            f"({summary['clips_saved'] / max(1, whole):.0%} of what all of them would have seen)",
            soft_wrap=True,
        )
    runs = records.path.parent
    elsewhere = "" if runs == SearchOptions.runs else f" --runs {shlex.quote(str(runs))}"
    page = f" --{elsewhere}" if elsewhere else ""
    console.print(f"see {records.path / 'front.html'}, or: streamlit run dashboard/app.py{page}", soft_wrap=True)
    if front:
        command = f"python -m trainers.retrain --study {records.name} --trial {front[0]['trial']}{elsewhere}"
        console.print(f"train one fully: {command}", soft_wrap=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    run_command(main)
