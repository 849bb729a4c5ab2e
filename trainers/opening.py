"""Opening data as every command does: notices printed, disk need stated first, progress shown."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from search_space.errors import UserError
from trainers.clips import DEFAULT_FOLD
from trainers.datasets import Dataset, open_dataset
from trainers.features import Features, FrontEnd, describe, front_end_for, prepare

# Assumed: often enough to see that something happens, in a file as well.
LINE_EVERY_S = 30.0


Early = Callable[[Dataset, FrontEnd, tuple[int, int]], None]
"""Hears of the data, its front end and the input's frames x mels before any log-mel is made, and raises `UserError` for what can not be."""


def open_data(
    console: Console,
    source: str | None,
    subset: str | None = None,
    fold: int = DEFAULT_FOLD,
    early: Early = lambda dataset, front_end, size: None,
) -> tuple[Dataset, Features]:
    """The data set that a person names, and its log-mels. Raises what `open_dataset`, `early` and `prepare` raise."""
    with progress_bar(console, "headers") as report:
        dataset = open_dataset(source, subset=subset, fold=fold, progress=report)
    for notice in dataset.notices:
        console.print(notice, markup=False, soft_wrap=True)
    front_end = front_end_for(dataset.sample_rate, dataset.duration_s)
    early(dataset, front_end, (front_end.frames(dataset.duration_s), front_end.n_mels))
    return dataset, make_features(console, dataset)


def make_features(console: Console, dataset: Dataset, front_end: FrontEnd | None = None) -> Features:
    """The data set's log-mels by this front end, or its own; notices printed. Raises what `prepare` raises."""

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    with progress_bar(console, "log-mels") as report:
        features = prepare(dataset, front_end, progress=report, say=say)
    for notice in (describe(features.front_end, dataset.duration_s), *features.notices):
        say(notice)
    return features


def reopen_data(
    console: Console, record: dict[str, Any], early: Early = lambda dataset, front_end, size: None
) -> tuple[Dataset, Features]:
    """The data of a recorded run or study (`trainers.inputs.data_record`). Raises what `open_data` raises, and `UserError` when the data, or the
    front end, is not what it was."""
    dataset, features = open_data(console, record["source"], record["subset"], record["fold"], early)
    if features.digest != record["digest"]:
        raise UserError(
            f"the data in {record['source']!r} is not what the study was made on (digest {features.digest[:12]}, then "
            f"{record['digest'][:12]}); restore it, or run a new study"
        )
    if dataclasses.asdict(features.front_end) != record["front_end"]:
        raise UserError("log-mels are made another way than when the study was made; run a new study")
    return dataset, features


@contextmanager
def progress_bar(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A function of (done, total) that moves a bar, or, where there is no terminal, prints a line every half minute.

    Nothing is shown before it is called.
    """
    with bars(console) as shown:
        bar, last = shown.add_task(what, total=None, visible=False), time.monotonic()

        def report(done: int, total: int) -> None:
            nonlocal last
            shown.update(bar, completed=done, total=total, visible=True)
            if not console.is_terminal and time.monotonic() - last >= LINE_EVERY_S:
                last = time.monotonic()
                console.print(f"{what}: {done:,} of {total:,}", markup=False, soft_wrap=True)

        yield report


def bars(console: Console) -> Progress:
    """Bars that go away when they are done; nothing where there is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def about(seconds: float) -> str:
    """Seconds that are estimated, for people, no finer than an estimate knows them: 'less than 10 s', 'about 45 s', '53 min', '2 h 50 min', '14 h'."""
    if seconds < 10:
        return "less than 10 s"
    if seconds < 90:
        return f"about {5 * round(seconds / 5)} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"about {minutes} min"
    hours, minutes = divmod(10 * round(minutes / 10), 60)
    return f"about {hours} h {minutes} min" if minutes and hours < 10 else f"about {round(seconds / 3600)} h"
