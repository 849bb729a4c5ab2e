"""Clips, the lists that name them, and their sharing out into splits that leak nothing. Nothing here imports torch."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from search_space.errors import UserError
from trainers.runs import write_atomic

Split = Literal["train", "val", "test", "unused"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

# Source: ESC-50's README reports with the official folds; the fifth is this project's test fold by default.
DEFAULT_FOLD = 5


@dataclass(frozen=True)
class Clip:
    """One recording and what is known of it.

    `filename` is its path below the folder of the recordings. `group` is what must never stand in two splits: the source
    recording (ESC), the place (scene data), the clip alone where nothing is known. `recorder`, `city` and `location` are
    empty where the data names none. `split` is "unused" for a clip that is in no split because the rest of its group is
    in another, because a subset leaves it out, or because the dataset's own lists do.
    """

    filename: str
    scene: str
    group: str
    split: Split
    fold: int | None = None
    recorder: str = ""
    city: str = ""
    location: str = ""


@dataclass(frozen=True)
class Splits:
    """Row numbers into `Dataset.clips`, ascending: learn from train, choose on val, score once on test."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True)
class Listing:
    """What the lists of a folder say, before any recording is looked at.

    `name` is what the data is called in records, `title` for people. `audio` is the folder below which the clips' files
    lie. `source` and `subset` open it again. A list without labels (`labelled` false) is for prediction only: its clips
    have no scene. `unsplit` is why its clips cannot be split, where the layout can say it better than `check_splits`.
    """

    name: str
    title: str
    source: Path
    subset: str | None
    audio: Path
    clips: tuple[Clip, ...]
    notices: tuple[str, ...]
    synthetic: bool = False
    labelled: bool = True
    unsplit: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """The scenes, sorted."""
        return tuple(sorted({clip.scene for clip in self.clips}))


def read_rows(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a list with a header, separated by tabs or commas, gzipped or not.

    Any line end will do, at the end of the last line too. Raises: UserError unless every row has every one of `columns`.
    """
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{str(path)!r} is not UTF-8 text (byte {error.start:,}): export it as a UTF-8 csv") from None
    except (OSError, EOFError) as error:
        raise UserError(f"{str(path)!r} cannot be read ({error}): check its rights, or copy it again") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator(text), restval="")
    try:
        rows = list(reader)
    except csv.Error as error:
        raise UserError(f"{str(path)!r} is not a csv (line {reader.line_num}: {error})") from None
    missing = [column for column in columns if column not in (reader.fieldnames or [])]
    if missing:
        raise UserError(
            f"{str(path)!r} lacks the columns {missing}; its first line names {list(reader.fieldnames or [])}: "
            f"separate columns by commas or tabs and name them in the first line"
        )
    if not rows:
        raise UserError(f"{str(path)!r} has a header and no rows: it should name one clip a line")
    for line, row in enumerate(rows, start=2):
        for column in columns:
            if not row[column]:
                raise UserError(f"{str(path)!r}, row {line}: no {column!r}; every row needs one")
    return rows


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a list with a header, separated by tabs, whole or not at all."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows([columns, *rows])
    write_atomic(path, lambda file: file.write(text.getvalue().encode()))


def separator(text: str) -> str:
    """What separates the columns of a list: a tab where its first line has one, else a comma."""
    return "\t" if "\t" in text.partition("\n")[0] else ","


def check_unique(path: Path, filenames: Sequence[str]) -> None:
    """Raises: UserError when a list names a file twice."""
    twice = [name for name, count in Counter(filenames).items() if count > 1]
    if twice:
        raise UserError(f"{str(path)!r} names {len(twice):,} files more than once: {first(twice)}; keep one row each")


def check_splits(listing: Listing) -> None:
    """Raises: UserError unless there are two classes and every class has a clip in every split."""
    classes = listing.classes
    if len(classes) < 2:
        raise UserError(f"one class only ({classes[0]!r}): a classifier needs clips of at least two classes")
    if listing.unsplit:
        raise UserError(listing.unsplit)
    for split, absent in lacking(listing.clips).items():
        hint = " or choose another --fold" if any(clip.fold is not None for clip in listing.clips) else ""
        raise UserError(
            f"too few clips to split: {split} has none of {len(absent)} of the {len(classes)} classes ({first(absent)}); "
            f"every class needs a clip in train, val and test: add clips{hint}"
        )


def lacking(clips: Sequence[Clip]) -> dict[Split, list[str]]:
    """The classes that a split has no clip of, for every split that lacks any."""
    classes = sorted({clip.scene for clip in clips})
    present = {(clip.split, clip.scene) for clip in clips}
    absent = {split: [scene for scene in classes if (split, scene) not in present] for split in SPLITS}
    return {split: scenes for split, scenes in absent.items() if scenes}


def share_out(groups: Sequence[str], strata: Sequence[str | tuple[str, ...]], n_parts: int) -> NDArray[np.int64]:
    """The part (n,), 0 to `n_parts` - 1, of every clip: a group lies in one part, and every stratum in equal shares.

    A clip is in one stratum or in several (scene and recorder, city). Shares are as equal as whole groups allow: the
    groups, large ones first, go one after the other where their strata are scarcest so far. Nothing is drawn: the same
    groups lie in the same parts everywhere, whatever the order of the clips.
    Source: the greedy rule of Sechidis et al., 2011 (iterative stratification), on whole groups.
    """
    names, group_of = np.unique(np.array(groups, dtype=np.str_), return_inverse=True)
    counts_GS = _counts(group_of, len(names), strata)
    share_GS = counts_GS / counts_GS.sum(axis=0)
    size_G = np.bincount(group_of, minlength=len(names))
    shuffled = [hashlib.sha256(name.encode()).digest() for name in names.tolist()]
    order = sorted(range(len(names)), key=lambda g: (-size_G[g], shuffled[g]))
    held_PS, size_P = np.zeros((n_parts, counts_GS.shape[1])), np.zeros(n_parts)
    part_of_group = np.zeros(len(names), dtype=np.int64)
    for group in order:
        active = np.flatnonzero(share_GS[group])
        crowded_P = held_PS[:, active] @ share_GS[group, active]
        part = int(np.lexsort((size_P, crowded_P.round(12)))[0])
        held_PS[part] += share_GS[group]
        size_P[part] += size_G[group]
        part_of_group[group] = part
    return part_of_group[group_of]


def carve(groups: Sequence[str], strata: Sequence[str | tuple[str, ...]], n_parts: int) -> NDArray[np.bool_]:
    """Which clips (n,) make up the best of `n_parts` parts: the one whose strata come nearest to their equal share."""
    part_of = share_out(groups, strata, n_parts)
    counts_PS = _counts(part_of, n_parts, strata)
    error_P = ((counts_PS / counts_PS.sum(axis=0) - 1 / n_parts) ** 2).sum(axis=1)
    return part_of == int(error_P.argmin())


def _counts(row_of: NDArray[np.int64], n_rows: int, strata: Sequence[str | tuple[str, ...]]) -> NDArray[np.float64]:
    """How many clips of every row are in every stratum (rows, strata)."""
    several = [stratum if isinstance(stratum, tuple) else (stratum,) for stratum in strata]
    columns = {name: column for column, name in enumerate(sorted({name for names in several for name in names}))}
    counts = np.zeros((n_rows, len(columns)))
    rows = np.repeat(row_of, [len(names) for names in several])
    np.add.at(counts, (rows, np.array([columns[name] for names in several for name in names])), 1)
    return counts


def record_name(text: str) -> str:
    """What data is called in records: the text with letters, digits, '.', '_' and '-' alone, at most 64; "data" if nothing is left."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")[:64] or "data"


def first(names: Sequence[str], n: int = 5) -> str:
    """The first `n` names, and how many follow."""
    rest = f" and {len(names) - n:,} more" if len(names) > n else ""
    return ", ".join(names[:n]) + rest
