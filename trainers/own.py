"""The user's own recordings: a folder per class, or a csv `filename,label[,group][,recorder][,split]`.

What was recorded together (one place, one session) is a group, and a group is in one split. A folder says so by
sub-folders, `<class>/<place>/x.wav`, a csv by its column `group`. Without a column `split` the groups lie in five folds
of equal shares; nothing is drawn, so the same recordings lie in the same folds everywhere, whatever their order.
Where all files are named as TAU's are, the names say the place and the recorder.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from search_space.errors import UserError
from trainers import esc, tau
from trainers.audio import SUFFIXES
from trainers.clips import (
    DEFAULT_FOLD,
    SPLITS,
    Clip,
    Listing,
    Split,
    carve,
    check_unique,
    first,
    lacking,
    read_rows,
    record_name,
    share_out,
)

COLUMNS = ("filename", "label")
# Source: ESC-50 has five folds; what holds for it then holds here.
FOLDS = 5
# Assumed: as for TAU, val is a seventh of what is there to learn from.
VAL_PARTS = 7
SPLIT_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "validation", "valid", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "evaluate", "evaluation"), "test"),
}
# What published sets are called in records.
_TAKEN = {"esc10", "esc50", "synthetic", *tau.EDITIONS}
# Source: TAU's READMEs: <scene>-<city>-<location>-<segment>[-<part>]-<recorder>.
_NAMED_BY_TAU = re.compile(r"\w+-(?P<place>[^\W\d_][^\W_]*-\d+)-\d+(-\d+)?-(?P<recorder>[^\W_]+)")
_FIX = "name groups in a csv `filename,label,group`, or put what was recorded together into <class>/<place>/"


@dataclass(frozen=True)
class _Recording:
    """A row: the file below the folder of the recordings, its class, what it was recorded together with, and by."""

    filename: str
    scene: str
    group: str = ""
    recorder: str = ""
    split: Split | None = None


def recognises(folder: Path) -> bool:
    """Whether the folder holds a list of recordings, or folders of recordings: a folder per class.

    Not so a lone `audio/`, which some list is missing for, nor a folder of data sets.
    """
    if _lists(folder):
        return True
    inside = _class_folders(folder)
    if any((path / esc.LIST).is_file() or tau.recognises(path) or _lists(path) for path in inside):
        return False
    return any(path.name.lower() != "audio" and next(audio_files(path), None) for path in inside)


def read(path: Path, subset: str | None, fold: int) -> Listing:
    """What a csv of recordings, or the folder that it or the classes lie in, says.

    `subset` is the path of a csv with the names to keep: they stay in the splits of the whole. `fold` is the test fold.
    Groups too few for splits are in `unsplit`. Raises: UserError for lists that break a rule, classes or groups that look
    misspelt, groups in two splits.
    """
    path = (
        path.parent.resolve() / path.name if path.is_file() else path.resolve()
    )  # beside a link to a csv, not its target
    table = path if path.is_file() else _the_list(path)
    if table is None:
        audio, (recordings, notices) = path, _walk(path)
    else:
        audio, recordings = _read_table(table)
        notices = []
    recordings = sorted(recordings, key=lambda recording: recording.filename)
    _check_spellings("class", "classes", {recording.scene for recording in recordings})
    recordings, grouping = _grouped(recordings, from_folders=table is None)
    _check_spellings("group", "groups", {recording.group for recording in recordings})
    named = path.stem if path.is_file() else path.name
    clips, split_notices, unsplit = _split(recordings, fold)
    clips, part, wanted = _subset(clips, subset)
    name = record_name(named + part)
    return Listing(
        name=f"own-{name}"[:64] if name.lower() in _TAKEN else name,
        title=f"own recordings in {named}{part and f', subset {part[1:]}'}",
        source=path,
        subset=wanted,
        audio=audio,
        clips=tuple(clips),
        notices=(*notices, grouping, *split_notices),
        unsplit=unsplit or _say_uncovered(clips),
    )


# --------------------------------------------------------------------------------------------------- a folder per class


def _class_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not _is_hidden(path.name))


def _files(folder: Path) -> Iterator[Path]:
    """Every file below a folder that is not hidden, in order of names. A folder linked to twice is read once."""
    seen = set()
    for place, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = sorted(name for name in folders if not _is_hidden(name)) if real not in seen else []
        if real not in seen:
            yield from (Path(place) / name for name in sorted(names) if not _is_hidden(name))
        seen.add(real)


def _raise(error: OSError) -> None:
    raise error


def audio_files(folder: Path) -> Iterator[Path]:
    """Every file below the folder that has a recording's ending, without hidden ones. Raises: OSError where it cannot be read."""
    return (path for path in _files(folder) if path.suffix.lower() in SUFFIXES)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _walk(folder: Path) -> tuple[list[_Recording], list[str]]:
    """The recordings in class folders, and notices of what else lies there and of how they are grouped."""
    recordings, others, empty = list[_Recording](), Counter[str](), list[str]()
    for place in _class_folders(folder):
        n_before = len(recordings)
        for path in _files(place):
            if path.suffix.lower() not in SUFFIXES:
                others[path.suffix.lower() or "no suffix"] += 1
                continue
            name = path.relative_to(folder).as_posix()
            inner = PurePosixPath(name).parts[1:-1]
            recordings.append(_Recording(name, _plain(place.name), _plain(f"{place.name}/{inner[0]}") if inner else ""))
        if len(recordings) == n_before:
            empty.append(place.name)
    loose = [path.name for path in sorted(folder.iterdir()) if path.is_file() and path.suffix.lower() in SUFFIXES]
    loose = [name for name in loose if not _is_hidden(name)]
    _check_are_classes(folder, recordings)
    notices = []
    if loose:
        notices.append(f"{len(loose):,} recordings lie in no class's folder and are left out: {first(loose)}")
    if empty:
        notices.append(f"{len(empty):,} folders without a recording are left out: {first(empty)}")
    if others:
        kinds = [f"{count:,} {kind}" for kind, count in sorted(others.items())]
        notices.append(f"files of other kinds are left out ({first(kinds)}); recordings end in {', '.join(SUFFIXES)}")
    sizes = Counter(recording.group for recording in recordings if recording.group)
    if max(sizes.values(), default=0) < 2:  # sub-folders of one file each say nothing that the files do not
        recordings = [replace(recording, group="") for recording in recordings]
    return recordings, notices


def _check_are_classes(folder: Path, recordings: Sequence[_Recording]) -> None:
    """Raises: UserError for folders that are the splits, or one folder around the classes."""
    classes = sorted({recording.scene for recording in recordings})
    if not recordings:
        raise UserError(
            f"{str(folder)!r} has no folder with recordings ({', '.join(SUFFIXES)}): one per class is needed"
        )
    inner = sorted({PurePosixPath(recording.filename).parts[1] for recording in recordings if recording.group})
    if all(name.lower() in SPLIT_WORDS for name in classes):
        raise UserError(
            f"{str(folder)!r} holds folders of splits ({first(classes)}), not of classes: name the recordings in a csv "
            f"`filename,label,split` there"
        )
    if len(classes) == 1 and len(inner) > 1:
        raise UserError(
            f"{str(folder)!r} holds one class only, {classes[0]!r}, with the folders {first(inner)}; if these are the "
            f"classes: --data {folder / classes[0]}"
        )


# ------------------------------------------------------------------------------------------------------------------ csv


def _lists(folder: Path) -> list[Path]:
    """The csv files in a folder whose first line names the columns of a list of recordings."""
    tables = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".csv", ".tsv"))
    return [path for path in tables if not _is_hidden(path.name) and path.is_file() and _has_columns(path)]


def _has_columns(path: Path) -> bool:
    """Whether the first line names both columns, however it separates them: `read_rows` says what is wrong with it."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        line = file.readline(10_000)
    return set(COLUMNS) <= {word.strip().strip("\"'") for word in re.split(r"[,;\t]", line)}


def _the_list(folder: Path) -> Path | None:
    """The one list of recordings in a folder, or None. Raises: UserError when there are several."""
    tables = _lists(folder)
    if len(tables) > 1:
        raise UserError(
            f"{str(folder)!r} holds {len(tables)} lists of recordings ({first([path.name for path in tables])}): name one, "
            f"--data {tables[0]}"
        )
    return tables[0] if tables else None


def _read_table(path: Path) -> tuple[Path, list[_Recording]]:
    """The folder of the recordings, and the rows of a list.

    Raises: UserError for a row without a name, a label or a known split, a path out of the folder, a file named twice.
    """
    rows = read_rows(path, COLUMNS)
    has_split = "split" in rows[0]
    recordings = []
    for line, row in enumerate(rows, start=2):
        cells = {column: _plain(row.get(column) or "") for column in ("label", "group", "recorder", "split")}
        filename = _relative(row["filename"])
        pure = PurePosixPath(filename)
        if not row["filename"].strip() or not cells["label"]:
            raise UserError(f"{str(path)!r}, row {line}: 'filename' or 'label' is blank; every row needs both")
        if pure.is_absolute() or ".." in pure.parts or re.match(r"[A-Za-z]:", filename):
            raise UserError(
                f"{str(path)!r}, row {line}: {filename!r} leaves the folder of the list; name files relative to it "
                f"and put the list above the recordings"
            )
        split = SPLIT_WORDS.get(cells["split"].lower())
        if has_split and split is None:
            raise UserError(
                f"{str(path)!r}, row {line}: unknown split {cells['split']!r}; known: {list(SPLIT_WORDS)}; or leave the "
                f"column out, and five folds are made"
            )
        recordings.append(_Recording(filename, cells["label"], cells["group"], cells["recorder"], split))
    names = [recording.filename for recording in recordings]
    some = sorted(names)[:: max(1, len(names) // 100)]
    places = [path.parent, path.parent / "audio"]
    place = max(places, key=lambda place: sum((place / name).is_file() for name in _on_disk(place, some)))
    names = _on_disk(place, names)
    check_unique(path, names)
    return place, [replace(recording, filename=name) for recording, name in zip(recordings, names, strict=True)]


def _on_disk(place: Path, names: Sequence[str]) -> list[str]:
    """The names as the files below `place` have them: another Unicode form of one name is another file to most systems."""
    lost = {name for name in names if not name.isascii() and not (place / name).is_file()}
    if not lost or not place.is_dir():
        return list(names)
    found = [path.relative_to(place).as_posix() for path in _files(place)]
    by_form = {_composed(name): name for name in found}
    return [by_form.get(_composed(name), name) if name in lost else name for name in names]


def _relative(filename: str) -> str:
    """A file name of a list as a path: '/' between folders, no './' before it."""
    return PurePosixPath(filename.strip().replace("\\", "/")).as_posix()


def _composed(text: str) -> str:
    """A name in one Unicode form: file systems and lists differ in it."""
    return unicodedata.normalize("NFC", text)


def _plain(text: str) -> str:
    """A name in one Unicode form, without blanks around it."""
    return _composed(text).strip()


def _check_spellings(one: str, several: str, names: Iterable[str]) -> None:
    """Raises: UserError for names that differ by case or blanks alone: almost surely one, misspelt."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        # Between digits a blank tells numbers apart: 1 12 is not 11 2.
        alike[re.sub(r"(?<!\d)_|_(?!\d)", "", re.sub(r"[\s_]+", "_", name)).casefold()].append(name)
    for spellings in alike.values():
        if len(spellings) > 1:
            raise UserError(
                f"the {several} {spellings} differ by case, blanks or '_' alone: give one {one} one name, or two "
                f"{several} names that differ more"
            )


# --------------------------------------------------------------------------------------------------------------- splits


def _split(recordings: Sequence[_Recording], fold: int) -> tuple[list[Clip], list[str], str]:
    """The recordings in their splits, notices of the sizes, and why there are no splits ("" where there are)."""
    # Without its suffix: one recording in two formats is one recording.
    groups = [r.group or _composed(PurePosixPath(r.filename).with_suffix("").as_posix()) for r in recordings]
    strata = [_strata(recording) for recording in recordings]
    if recordings[0].split is not None:
        splits, carved = _given_splits(recordings, groups, strata, fold)
        pairs = zip(recordings, groups, splits, strict=True)
        clips = [Clip(r.filename, r.scene, group, split, recorder=r.recorder) for r, group, split in pairs]
        return clips, carved, ""
    if len(set(groups)) < FOLDS:
        clips = [
            Clip(r.filename, r.scene, g, "unused", recorder=r.recorder) for r, g in zip(recordings, groups, strict=True)
        ]
        return clips, [], f"{len(set(groups))} groups of recordings only: five folds need five of every class; {_FIX}"
    folds = (share_out(groups, strata, FOLDS) + 1).tolist()
    rows = [(r.filename, r.scene, group, k) for r, group, k in zip(recordings, groups, folds, strict=True)]
    by_fold, _ = esc.by_fold(rows, fold)
    counts = Counter(clip.split for clip in by_fold)
    notice = (
        f"five folds of whole groups, alike in {'classes and recorders' if any(r.recorder for r in recordings) else 'classes'}: "
        f"{counts['train']:,} train, {counts['val']:,} val (fold {fold - 1 or FOLDS}), {counts['test']:,} test (fold {fold}) clips"
    )
    return [replace(clip, recorder=r.recorder) for clip, r in zip(by_fold, recordings, strict=True)], [notice], ""


def _strata(recording: _Recording) -> tuple[str, ...]:
    """What folds should be alike in: the class, and the class on every recorder."""
    scene = recording.scene
    return (scene, f"{scene}\t{recording.recorder}") if recording.recorder else (scene,)


def _grouped(recordings: list[_Recording], *, from_folders: bool) -> tuple[list[_Recording], str]:
    """The recordings, with places and recorders of names as TAU gives them, and the notice of how they are grouped."""
    stems = [_NAMED_BY_TAU.fullmatch(PurePosixPath(recording.filename).stem) for recording in recordings]
    matches = [match for match in stems if match]
    if len(matches) < len(recordings) or (not from_folders and any(r.group for r in recordings)):
        return recordings, _say_groups(recordings, from_folders)
    recordings = [
        replace(recording, group=match["place"], recorder=recording.recorder or match["recorder"])
        for recording, match in zip(recordings, matches, strict=True)
    ]
    places, recorders = {r.group for r in recordings}, sorted({r.recorder for r in recordings})
    return recordings, (
        f"{len(places):,} places <city>-<location> in the file names, all of them TAU's, are groups: none is in two splits; "
        f"what stands last in the file names is the recorder: {first(recorders, 9)}"
    )


def _say_groups(recordings: Sequence[_Recording], from_folders: bool) -> str:
    """The notice of how clips are grouped; a warning where nothing says what was recorded together."""
    named = {recording.group for recording in recordings if recording.group}
    alone = sum(not recording.group for recording in recordings)
    rest = f"; {alone:,} clips in none are a group each" if alone else ""
    if not named:
        return (
            "no groups are named: every clip is taken for a recording of its own. If several are of one place or one session, "
            f"some are learned and others scored, and every accuracy here looks better than it is: {_FIX}"
        )
    if from_folders:
        return f"{len(named):,} sub-folders <class>/<place>/ are groups: none is in two splits{rest}"
    return f"{len(named):,} groups in column 'group': none is in two splits{rest}"


def _given_splits(
    recordings: Sequence[_Recording], groups: Sequence[str], strata: Sequence[tuple[str, ...]], fold: int
) -> tuple[list[Split], list[str]]:
    """The splits of column 'split', val carved out of train where it names none, and notices of their sizes.

    Raises: UserError for a fold, a split that is missing, a group in two splits.
    """
    if fold != DEFAULT_FOLD:
        raise UserError(f"fold {fold}: the column 'split' decides what is test; leave --fold out")
    splits: list[Split] = [recording.split or "unused" for recording in recordings]
    for needed in ("test", "train"):
        if needed not in splits:
            raise UserError(
                f"column 'split' names no {needed} clip; known words: {list(SPLIT_WORDS)}; mark whole groups of every class "
                f"as {needed}, or leave the column out, and five folds are made"
            )
    homes: dict[str, set[str]] = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        homes[group].add(split)
    straddlers = sorted(group for group, home in homes.items() if len(home) > 1)
    if straddlers:
        raise UserError(
            f"{len(straddlers):,} groups stand in two splits ({first(straddlers)}), which makes accuracy look better than it "
            f"is: give all rows of a group one word in column 'split'"
        )
    notices = []
    if "val" not in splits:
        rows = [row for row, split in enumerate(splits) if split == "train"]
        learning = [groups[row] for row in rows]
        fewest = min(_count_groups((recordings[row].scene, groups[row]) for row in rows).values())
        is_val = carve(learning, [strata[row] for row in rows], min(VAL_PARTS, max(2, fewest)))
        for row in np.array(rows)[is_val]:
            splits[row] = "val"
        n_val, n_groups = int(is_val.sum()), len(set(np.array(learning)[is_val]))
        notices.append(
            f"column 'split' names no val: {n_val:,} of the {len(rows):,} train clips ({n_groups:,} of {len(set(learning)):,} "
            f"groups) are carved out of train for it"
        )
    counts = Counter(splits)
    notices.append(f"splits of column 'split': {', '.join(f'{counts[split]:,} {split}' for split in SPLITS)} clips")
    return splits, notices


def _count_groups(pairs: Iterable[tuple[str, str]]) -> Counter[str]:
    """The number of groups of every class, of (class, group)."""
    return Counter(scene for scene, _ in set(pairs))


def _say_uncovered(clips: Sequence[Clip]) -> str:
    """What to do about a class that some split has no clip of, with the number of its groups; "" where all have all."""
    absent = lacking(clips)
    if not absent:
        return ""
    split = max(absent, key=lambda split: len(absent[split]))
    groups = _count_groups((clip.scene, clip.group) for clip in clips)
    listed = first([f"{scene}: {groups[scene]:,} groups" for scene in absent[split]])
    said = f"{split} has no clip of {len(absent[split])} of the {len(groups)} classes ({listed})"
    if clips[0].fold is None:
        return f"{said}: mark a group of every class as {split} in column 'split' (val may be left out)"
    folds = {scene: {clip.fold for clip in clips if clip.scene == scene} for scene in groups}
    pairs = [(k, k - 1 or FOLDS) for k in range(1, FOLDS + 1)]
    others = [test for test, val in pairs if all({test, val} < held for held in folds.values())]
    hint = f", or choose --fold {others[0]}" if others else ""
    return (
        f"{said}; in five folds every class needs {FOLDS} groups: record at more places, split groups that are several "
        f"recordings, or name train and test yourself in the column 'split' of a csv, three groups a class at least{hint}"
    )


def _subset(clips: list[Clip], subset: str | None) -> tuple[list[Clip], str, str | None]:
    """The clips to keep, what the name gains by leaving the others out, and how to ask for them again."""
    if subset is None:
        return clips, "", None
    path = Path(subset).expanduser()
    if not path.is_file():
        raise UserError(
            f"unknown subset {subset!r}; known for own recordings: the path of a csv with a column 'filename'"
        )
    wanted = {_composed(_relative(row["filename"])) for row in read_rows(path, ("filename",))}
    strangers = sorted(wanted - {_composed(clip.filename) for clip in clips})
    if strangers:
        raise UserError(f"{str(path)!r} names {len(strangers):,} clips that the data does not: {first(strangers)}")
    return [clip for clip in clips if _composed(clip.filename) in wanted], f"-{path.stem}", str(path.resolve())
