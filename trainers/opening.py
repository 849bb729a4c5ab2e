"""Opening data as every command does: notices printed, disk need stated first, progress shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from trainers.clips import DEFAULT_FOLD
from trainers.datasets import Dataset, open_dataset
from trainers.features import Features, describe, disk_need, prepare

# Assumed: less than this is not worth a line.
_WORTH_SAYING_BYTES = 200_000_000


def open_data(
    console: Console, source: str | None, subset: str | None = None, fold: int = DEFAULT_FOLD
) -> tuple[Dataset, Features]:
    """The data set that a person names, and its log-mels. Raises what `open_dataset` and `prepare` raise."""
    with progress_bar(console, "headers") as report:
        dataset = open_dataset(source, subset=subset, fold=fold, progress=report)
    for notice in dataset.notices:
        console.print(notice, markup=False, soft_wrap=True)
    need = disk_need(dataset)
    if need.bytes >= _WORTH_SAYING_BYTES:
        console.print(str(need), markup=False, soft_wrap=True)
    with progress_bar(console, "log-mels") as report:
        features = prepare(dataset, progress=report)
    for notice in (describe(features.front_end, dataset.duration_s), *features.notices):
        console.print(notice, markup=False, soft_wrap=True)
    return dataset, features


@contextmanager
def progress_bar(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A function of (done, total) that moves a bar; nothing is shown before it is called, or where there is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task(what, total=None, visible=False)
        yield lambda done, total: bars.update(bar, completed=done, total=total, visible=True)
