"""Data of all kinds: `python -m trainers.data check FOLDER | download SET DEST | export DATA DEST`."""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from search_space.errors import Parser, UserError, open_console, run_command
from trainers import download, export
from trainers.audio import MISSING, BadAudio, Scan, read_sound, scan, why_missing
from trainers.clips import DEFAULT_FOLD, SPLITS, Clip, Listing, check_splits, first
from trainers.datasets import read_listing
from trainers.features import describe, front_end_for
from trainers.opening import progress_bar
from trainers.runs import available_cores

_ROWS = 60
_CHUNK = 1024


def main(argv: list[str] | None = None) -> int:
    """The command: 0, or 1 when `check` finds files missing or broken."""
    parser = Parser(prog="python -m trainers.data", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="what", required=True, metavar="check | download | export")
    checking = commands.add_parser("check", help="what a folder is, what is missing, what is broken")
    checking.add_argument("folder", type=Path, metavar="FOLDER")
    checking.add_argument("--subset", help="a named part of the data, or a csv with a column 'filename'")
    checking.add_argument("--fold", type=int, default=DEFAULT_FOLD, help="the test fold, where the data has folds")
    checking.add_argument(
        "--deep", action="store_true", help="decode every file as well: minutes for 64 hours of audio"
    )
    downloading = commands.add_parser("download", help="the official archives of a TAU set")
    download.add_arguments(downloading)
    exporting = commands.add_parser(
        "export", help="any data written out in TAU 2020's layout, with simulated recorders"
    )
    export.add_arguments(exporting)
    for command in (checking, downloading, exporting):
        command.add_argument(
            "--json", action="store_true", help="print one JSON document on stdout, the rest on stderr"
        )
    options = parser.parse_args(argv)
    console = open_console(stderr=options.json)
    if options.what == "check":
        with progress_bar(console, "files") as progress:
            report = check(options.folder, options.subset, options.fold, deep=options.deep, progress=progress)
        if not options.json:
            _print_report(console, report)
    else:
        report = (download if options.what == "download" else export).run(options, console)
    if options.json:
        json.dump(report, sys.stdout)
        print()
    return int(not report.get("usable", True))


def check(
    folder: Path,
    subset: str | None = None,
    fold: int = DEFAULT_FOLD,
    *,
    deep: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """What a folder of recordings is, as one record: counts by split, recorder, scene and city; missing and broken files.

    `usable` says whether every file of train, val and test is there and whole, as far as was looked: headers, or with
    `deep` every sample. `progress(done, total)` hears of files read. Raises: UserError for lists that are wrong.
    """
    if str(folder) == "synthetic" and not folder.exists():
        raise UserError("the synthetic data is generated as it is read: there is nothing to check; name a folder")
    listing = read_listing(folder, subset, fold)
    names = [clip.filename for clip in listing.clips]
    scanned = scan(listing.audio, names, progress)
    problems = list(scanned.problems)
    if deep:
        bad = {problem.filename for problem in problems}
        problems += _decode(listing, [name for name in names if name not in bad], progress)
    faults: dict[str, list[str]] = defaultdict(list)
    for problem in problems:
        faults[problem.fault].append(problem.filename)
    missing = faults.pop(MISSING, [])
    bad = {problem.filename for problem in problems}
    unsplit = None
    if listing.labelled:
        try:
            check_splits(listing)
        except UserError as error:
            unsplit = str(error)
    used = [clip.filename for clip in listing.clips if clip.split != "unused" or not listing.labelled]
    return {
        "name": listing.name,
        "title": listing.title,
        "folder": str(listing.source),
        "synthetic": listing.synthetic,
        "labelled": listing.labelled,
        "notices": list(listing.notices),
        "clips": len(names),
        "counts": _counts(listing) if listing.labelled else {},
        "format": _format(scanned),
        "missing": {
            "count": len(missing),
            "used": len(set(used) & set(missing)),
            "first": missing[:5],
            "cause": why_missing(listing.source, listing.audio, len(missing), len(names)) if missing else None,
        },
        "broken": {fault: {"count": len(files), "first": files[:5]} for fault, files in faults.items()},
        "decoded": deep,
        "unsplit": unsplit,
        "usable": not bad & set(used) and unsplit is None,
    }


def _counts(listing: Listing) -> dict[str, Any]:
    """Clips and groups by split ("train + val" is what is learned from and chosen by, TAU's official training fold), and the clips of
    each by recorder, scene and city."""
    parts: dict[str, list[Clip]] = {
        split: [clip for clip in listing.clips if clip.split == split] for split in (*SPLITS, "unused")
    }
    parts = {"train + val": parts["train"] + parts["val"], **parts, "all": list(listing.clips)}
    order = ("train", "val", "train + val", "test", "unused", "all")
    return {
        name: {
            "clips": len(clips),
            "groups": len({clip.group for clip in clips}),
            "recorder": dict(sorted(Counter(clip.recorder for clip in clips).items())),
            "scene": dict(sorted(Counter(clip.scene for clip in clips).items())),
            "city": dict(sorted(Counter(clip.city for clip in clips).items())),
        }
        for name in order
        for clips in [parts[name]]
    }


def _format(scanned: Scan) -> dict[str, Any] | None:
    """Sample rate, length and the size of the log-mels of the files that are there; None when none is."""
    if not len(scanned.rates):
        return None
    sample_rate, duration_s, notices = scanned.format()
    front_end = front_end_for(sample_rate, duration_s)
    return {
        "sample_rate": sample_rate,
        "duration_s": duration_s,
        "hours": round(float(scanned.lengths_s.sum()) / 3600, 3),
        "input": [front_end.frames(duration_s), front_end.n_mels],
        "front_end": describe(front_end, duration_s),
        "notices": notices,
    }


def _decode(listing: Listing, names: list[str], progress: Callable[[int, int], None]) -> Iterator[BadAudio]:
    """What is wrong with the samples of files whose headers are right; a bounded number is decoded at a time."""

    def fault(name: str) -> BadAudio | None:
        try:
            read_sound(listing.audio / name, name)
        except BadAudio as problem:
            return problem
        return None

    waiting, done = iter(names), 0
    with ThreadPoolExecutor(available_cores()) as pool:
        while some := list(islice(waiting, _CHUNK)):
            for problem in pool.map(fault, some):
                done += 1
                progress(done, len(names))
                if problem:
                    yield problem


# -------------------------------------------------------------------------------------------------------------- screen


def _print_report(console: Console, report: dict[str, Any]) -> None:
    synthetic = " [bold yellow](synthetic data)[/]" if report["synthetic"] else ""
    console.print(
        f"[bold]{escape(report['title'])}[/] ({report['name']}){synthetic}, {report['clips']:,} clips, in {escape(report['folder'])}",
        soft_wrap=True,
        markup=True,
    )
    if report["counts"]:
        _print_counts(console, report["counts"])
    else:
        console.print("an evaluation set without labels: for prediction only")
    for notice in report["notices"]:
        console.print(f"* {notice}", soft_wrap=True)
    form, missing = report["format"], report["missing"]
    if form:
        console.print(
            f"{form['hours']:,.2f} hours at {form['sample_rate']:,} Hz, {form['duration_s']:g} s a clip; {form['front_end']}",
            soft_wrap=True,
        )
        for notice in form["notices"]:
            console.print(f"* {notice}", soft_wrap=True)
    if missing["count"]:
        needed = f", {missing['used']:,} of them in train, val or test" if report["labelled"] else ""
        console.print(
            f"[bold red]missing[/]: {missing['count']:,} of {report['clips']:,} files{needed}: "
            f"{escape(first(missing['first'] + [''] * (missing['count'] - len(missing['first']))))}\n"
            f"  likely cause: {escape(missing['cause'])}",
            soft_wrap=True,
            markup=True,
        )
    for fault, found in report["broken"].items():
        listed = first(found["first"] + [""] * (found["count"] - len(found["first"])))
        console.print(
            f"[bold red]broken[/]: {found['count']:,} {escape(fault)}: {escape(listed)}", soft_wrap=True, markup=True
        )
    if report["unsplit"]:
        console.print(f"[bold red]splits[/]: {escape(report['unsplit'])}", soft_wrap=True, markup=True)
    looked = "every file decoded" if report["decoded"] else "headers read; --deep decodes every file"
    verdict = "[bold green]ready to train on[/]" if report["usable"] else "[bold red]not usable as it is[/]"
    if report["usable"] and not report["labelled"]:
        verdict = "[bold green]ready to predict[/]"
    console.print(f"{verdict} ({looked})", markup=True)


def _print_counts(console: Console, counts: dict[str, Any]) -> None:
    """A table of clips by split and recorder, then by scene and by city."""
    named = [name for name in counts["all"]["recorder"] if name] and list(counts["all"]["recorder"])
    table = _table(
        "split", "clips", "groups", *(name or "(none)" for name in named), title="clips by split and recorder"
    )
    for name, part in counts.items():
        cells = (f"{part['recorder'].get(recorder, 0):,}" for recorder in named)
        table.add_row({"unused": "in no split"}.get(name, name), f"{part['clips']:,}", f"{part['groups']:,}", *cells)
    console.print(table)
    for kind in ("scene", "city"):
        values = list(counts["all"][kind])
        if values == [""]:
            continue
        table = _table(
            kind, *("in no split" if name == "unused" else name for name in counts), title=f"clips by {kind} and split"
        )
        for value in values[:_ROWS]:
            table.add_row(value or "(none)", *(f"{part[kind].get(value, 0):,}" for part in counts.values()))
        console.print(table)
        if len(values) > _ROWS:
            console.print(f"and {len(values) - _ROWS} more")


def _table(first_column: str, *columns: str, title: str) -> Table:
    table = Table(first_column, title=title)
    for column in columns:
        table.add_column(column, justify="right")
    return table


if __name__ == "__main__":
    run_command(main)
