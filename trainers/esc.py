"""ESC-50's layout: `meta/esc50.csv` and `audio/`, official folds, source recordings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from search_space.errors import UserError, unknown
from trainers.clips import Clip, Listing, Split, check_unique, first, read_rows, record_name

LIST = Path("meta") / "esc50.csv"


def read(folder: Path, subset: str | None, fold: int) -> Listing:
    """What the folder's csv says. `subset` is "esc10" or the path of a csv with the names to keep; `fold` is test.

    Raises: UserError for a csv that breaks a rule, an unknown subset or fold.
    """
    audio = folder / "audio"
    if not audio.is_dir():
        raise UserError(f"no folder {str(audio)!r} beside {str(LIST)!r} (ESC-50's layout): unpack the audio there")
    rows = _read_rows(folder / LIST)
    n_classes = len({row["category"] for row in rows})
    rows, part = _subset(rows, subset)
    is_esc10 = all(row["esc10"].lower() == "true" for row in rows)
    known = "esc10" if is_esc10 else f"esc50{part}" if n_classes == 50 else f"{folder.resolve().name}{part}"
    titles = {"esc10": "ESC-10", "esc50": "ESC-50"}
    clips, notices = by_fold(
        [(row["filename"], row["category"], row["src_file"], int(row["fold"])) for row in rows], fold
    )
    return Listing(
        name=record_name(known),
        title=titles.get(known, f"{known} (ESC-50's layout)"),
        source=folder.resolve(),
        subset=str(Path(subset).expanduser().resolve()) if subset and subset != "esc10" else subset,
        audio=audio,
        clips=clips,
        notices=tuple(notices),
    )


def by_fold(rows: list[tuple[str, str, str, int]], fold: int) -> tuple[tuple[Clip, ...], list[str]]:
    """Clips of (filename, scene, group, fold) and notices: test is `fold`, val the fold before it (the last before the
    first), train the rest.

    A group that stands in several splits stays in test, else in val: the official test fold stays whole, and the clips
    left out are named in a notice. ESC-50 has four such source recordings. Raises: UserError for an unknown fold.
    """
    folds = sorted({number for *_, number in rows})
    if len(folds) < 3:
        raise UserError(f"folds {folds}: train, val and test need at least three folds in column 'fold'")
    if fold not in folds:
        raise UserError(f"fold {fold} is not in the data; known: {folds}")
    val_fold = folds[folds.index(fold) - 1]
    rank: dict[Split, int] = {"test": 0, "val": 1, "train": 2}
    home: dict[str, Split] = {}
    clips = []
    for filename, scene, group, number in rows:
        split: Split = "test" if number == fold else "val" if number == val_fold else "train"
        home[group] = min(split, home.get(group, split), key=rank.__getitem__)
        clips.append(Clip(filename, scene, group, split, number))

    straddlers = [clip for clip in clips if clip.split != home[clip.group]]
    if not straddlers:
        return tuple(clips), []
    sources = sorted({clip.group for clip in straddlers})
    notice = (
        f"{len(straddlers)} clips left out of train or val: their source recordings ({first(sources)}) are also in "
        f"val or test"
    )
    left_out = set(straddlers)
    return tuple(replace(clip, split="unused") if clip in left_out else clip for clip in clips), [notice]


def _read_rows(path: Path) -> list[dict[str, str]]:
    rows = read_rows(path, ("filename", "fold", "category", "src_file"))
    for line, row in enumerate(rows, start=2):
        row.setdefault("esc10", "")
        if not row["fold"].isdecimal():
            raise UserError(f"{str(path)!r}, row {line}: fold {row['fold']!r} is not a whole number")
        if Path(row["filename"]).name != row["filename"]:
            raise UserError(f"{str(path)!r}, row {line}: filename {row['filename']!r} is not a plain name in audio/")
    check_unique(path, [row["filename"] for row in rows])
    return rows


def _subset(rows: list[dict[str, str]], subset: str | None) -> tuple[list[dict[str, str]], str]:
    """The rows to keep, and what the dataset's name gains by leaving the others out."""
    if subset is None:
        return rows, ""
    if subset == "esc10":
        kept = [row for row in rows if row["esc10"].lower() == "true"]
        if not kept:
            raise UserError("subset 'esc10': no row of meta/esc50.csv has True in a column 'esc10'")
        return kept, ""
    path = Path(subset).expanduser()
    if not path.is_file():
        raise unknown("subset", subset, ["esc10"], "the path of a csv with a column 'filename'")
    wanted = {row["filename"] for row in read_rows(path, ("filename",))}
    strangers = sorted(wanted - {row["filename"] for row in rows})
    if strangers:
        raise UserError(
            f"{str(path)!r} names {len(strangers):,} clips that meta/esc50.csv does not: {first(strangers)}"
        )
    return [row for row in rows if row["filename"] in wanted], f"-{path.stem}"
