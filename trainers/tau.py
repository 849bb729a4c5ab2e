"""TAU Urban Acoustic Scenes, exactly: the lists of 2019, 2020 Mobile and 2022 Mobile, their official split, their traps.

    meta.csv                                      filename scene_label identifier source_label
    evaluation_setup/fold1_{train,evaluate}.csv   filename scene_label
    evaluation_setup/fold1_test.csv               filename
    audio/<scene>-<city>-<location>-<segment>[-<part>]-<recorder>.wav

Test is the official one. Val is carved out of the official training fold by location. What is in neither official list
is in no split: of 2020's 6,105 such rows 3,790 are at places of the test fold, and the others are of recorders s4 to s6,
which only test may hear, or at places of the training fold.

Source of names, counts and formats: the sets' own lists (Zenodo records 2589280, 3819968, 6337421).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from search_space.errors import UserError, unknown
from trainers.clips import (
    DEFAULT_FOLD,
    Clip,
    Listing,
    Split,
    carve,
    check_unique,
    first,
    read_rows,
    record_name,
    separator,
)

# Assumed: val is a seventh of the official training fold (about 2,000 clips of 2020), leaving six sevenths to learn from.
VAL_PARTS = 7
# Source: recorders of TAU 2020 and 2022 Mobile that only the test fold may hear.
UNSEEN = ("s4", "s5", "s6")
# What `trainers.data export` leaves beside the lists: this is not TAU, and what it is.
ORIGIN = "dataset.json"

_META, _TRAIN, _EVALUATE, _TEST = "meta.csv", "fold1_train.csv", "fold1_evaluate.csv", "fold1_test.csv"
_THREE_CLASSES = {"indoor", "outdoor", "transportation"}


@dataclass(frozen=True)
class Edition:
    """One published set: its title, and rows of meta.csv, the official training fold and the official test fold."""

    title: str
    meta: int
    train: int
    test: int


# Source: the sets' own lists, counted; 2019's as its README prints them.
EDITIONS = {
    "tau2019": Edition("TAU Urban Acoustic Scenes 2019, development", 14_400, 9_185, 4_185),
    "tau2020": Edition("TAU Urban Acoustic Scenes 2020 Mobile, development", 23_035, 13_962, 2_968),
    "tau2022": Edition("TAU Urban Acoustic Scenes 2022 Mobile, development", 230_350, 139_620, 29_680),
}
# Source: the older release of 2020 has five files more (lists in circulation since; papers print 13,965 and 2,970).
OLDER_2020 = Edition(EDITIONS["tau2020"].title, 23_040, 13_965, 2_970)
OLDER_FILES = (
    "airport-barcelona-1-87-c.wav",
    "public_square-barcelona-108-3109-b.wav",
    "shopping_mall-london-131-3930-c.wav",
    "airport-barcelona-203-6132-b.wav",
    "tram-barcelona-275-8394-c.wav",
)
# Source: rows of the sets' fold1_test.csv.
EVALUATIONS = {
    1_200: "TAU Urban Acoustic Scenes 2019, leaderboard",
    7_200: "TAU Urban Acoustic Scenes 2019, evaluation",
    11_880: "TAU Urban Acoustic Scenes 2020 Mobile, evaluation",
}
# Source: rows of the DCASE 2024 subsets of the 2022 set.
SUBSETS = {"split5": 6_980, "split10": 13_960, "split25": 34_900, "split50": 69_800, "split100": 139_620}
SUBSETS_FROM = "https://github.com/CPJKU/dcase2024_task1_baseline/releases/tag/files"


def is_evaluation(folder: Path) -> bool:
    """Whether the folder's only list of TAU's is the unlabelled one of an evaluation set."""
    return _find(folder, _TEST) is not None and not any(_find(folder, name) for name in (_TRAIN, _EVALUATE, _META))


def recognises(folder: Path) -> bool:
    """Whether the folder holds TAU's lists: those of the development set, or an evaluation set's."""
    return any(_find(folder, name) for name in (_TRAIN, _EVALUATE, _TEST)) or _is_meta(_find(folder, _META))


def read(folder: Path, subset: str | None, fold: int) -> Listing:
    """What the lists of a development or an evaluation set say.

    `subset` is one of `SUBSETS`, when its csv lies in the folder, or the path of a csv with the names to keep: names of
    the training fold alone leave the test fold whole.

    Raises: UserError for lists that are missing, mixed up or damaged; each message names the likely cause.
    """
    if fold != DEFAULT_FOLD:
        raise UserError(f"fold {fold}: TAU has one official fold; leave --fold out")
    train_path, notices = _find(folder, _TRAIN), list[str]()
    if is_evaluation(folder):
        return _evaluation(folder, subset)
    if train_path is None:
        archives = sorted(path.name for path in folder.glob("*.zip"))
        hint = f"; not unpacked yet? {first(archives, 3)}" if archives else ""
        raise UserError(
            f"{str(folder)!r} lacks evaluation_setup/{_TRAIN}, the official training fold: unpack the archive "
            f"'...meta.zip' of the set there{hint}"
        )
    train = _names(train_path, notices)
    test = _test_fold(folder, notices)
    meta = _meta(folder, [*train.items(), *test.items()], notices)
    _check_consistent(train_path, train, test, meta)

    origin = _origin(folder)
    audio, audio_notices = _audio_folder(folder, meta)
    notices += audio_notices
    absent = {name for name in OLDER_FILES if (name in train or name in test) and not (audio / name).exists()}
    rows = _split(meta, train, test, absent, notices)
    edition = None if origin else _edition(meta, len(train), len(test))
    if not origin:
        notices += _compare(edition, len(meta), len(train), len(test), absent, audio)
    rows, part, wanted = _subset(folder, rows, subset, edition, notices)
    name = origin["name"] if origin else edition or folder.resolve().name
    title = (
        origin["title"]
        if origin
        else EDITIONS[edition].title
        if edition
        else f"{name} (TAU's layout, not an official set)"
    )
    if origin and origin["simulated_recorders"]:
        notices.append(f"{name}: {origin['source']} written out in TAU's layout; its recorders are simulated")
    if origin and origin["synthetic"]:
        notices.append("the recordings are synthetic: accuracies on them say nothing about real scenes")
    return Listing(
        name=record_name(f"{name}{part}"),
        title=title,
        source=folder.resolve(),
        subset=wanted,
        audio=audio,
        clips=tuple(rows),
        notices=tuple(notices),
        synthetic=bool(origin and origin["synthetic"]),
    )


# --------------------------------------------------------------------------------------------------------------- lists


def _find(folder: Path, name: str) -> Path | None:
    """Where a list lies: in evaluation_setup/ or flat, as it is or gzipped."""
    places = [folder / "evaluation_setup", folder] if name != _META else [folder, folder / "evaluation_setup"]
    for place in places:
        for path in (place / name, place / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def _is_meta(path: Path | None) -> bool:
    """Whether a meta.csv is TAU's: other people's lists are called so too."""
    if path is None:
        return False
    try:
        return {"filename", "scene_label"} <= set(read_rows(path, ())[0])
    except UserError:
        return True  # `read` says what is wrong with it


def _names(path: Path, notices: list[str]) -> dict[str, str]:
    """File name, without the folder audio/, to scene, in the order of a labelled list."""
    rows = read_rows(path, ("filename", "scene_label"))
    names = [_plain(row["filename"]) for row in rows]
    _check_names(path, names)
    _say_format(path, [row["filename"] for row in rows], notices)
    return dict(zip(names, (row["scene_label"] for row in rows), strict=True))


def _plain(filename: str) -> str:
    """The name below the folder of the recordings: lists prefix it by audio/, some twice, some not at all."""
    name = filename.replace("\\", "/").removeprefix("./")
    while name.startswith("audio/"):
        name = name.removeprefix("audio/")
    return name


def _check_names(path: Path, names: list[str]) -> None:
    """Raises: UserError for names that stand twice or lead out of the folder of the recordings."""
    check_unique(path, names)
    outside = [name for name in names if name.startswith("/") or ".." in name.split("/")]
    if outside:
        raise UserError(
            f"{str(path)!r} names {len(outside):,} files outside of audio/: {first(outside)}; take the official list"
        )


def _fields(name: str) -> list[str]:
    """What stands between the '-' of a file name: scene, city, location, segment, (part,) recorder."""
    return name.rpartition(".")[0].split("-")


def _say_format(path: Path, filenames: list[str], notices: list[str]) -> None:
    prefixes = Counter(name.replace("\\", "/").count("audio/") for name in filenames)
    odd = sum(count for n, count in prefixes.items() if n != 1)
    if odd:
        notices.append(
            f"{path.name}: {odd:,} names without the prefix audio/, or with it twice; read as if they had it"
        )
    if path.suffix != ".gz" and separator(path.read_text("utf-8-sig", errors="replace")) == ",":
        notices.append(f"{path.name} is separated by commas, the official one by tabs: a repacked copy")


def _test_fold(folder: Path, notices: list[str]) -> dict[str, str]:
    """The official test fold with its labels: of fold1_evaluate.csv, else fold1_test.csv's names with the labels of meta.csv."""
    path, unlabelled = _find(folder, _EVALUATE), _find(folder, _TEST)
    if path is not None and "scene_label" in read_rows(path, ("filename",))[0]:
        return _names(path, notices)
    meta = _find(folder, _META)
    if unlabelled is None or meta is None:
        if path is not None:
            raise UserError(
                f"{str(path)!r} has no column 'scene_label': it is a copy of {_TEST}, whose labels are left out on purpose; "
                f"put the official {_EVALUATE} there"
            )
        raise UserError(
            f"{str(folder)!r} lacks evaluation_setup/{_EVALUATE}, the labelled test fold: unpack '...meta.zip' there"
        )
    labels = {_plain(row["filename"]): row["scene_label"] for row in read_rows(meta, ("filename", "scene_label"))}
    names = [_plain(row["filename"]) for row in read_rows(unlabelled, ("filename",))]
    strangers = [name for name in names if name not in labels]
    if strangers:
        raise UserError(
            f"{str(unlabelled)!r} names {len(strangers):,} files that meta.csv does not: {first(strangers)}"
        )
    notices.append(
        f"{_EVALUATE} is {'without labels' if path else 'missing'}: the test fold is {_TEST} with the labels of {_META}"
    )
    return {name: labels[name] for name in names}


def _meta(folder: Path, listed: Iterable[tuple[str, str]], notices: list[str]) -> dict[str, Clip]:
    """Every file of the set as a clip of no split yet: of meta.csv, else of the names in the official lists."""
    path = _find(folder, _META)
    if path is None:
        notices.append(f"{_META} is missing: cities, locations and recorders are read from the file names")
        return {name: _clip(name, scene, None, None, folder) for name, scene in listed}
    rows = read_rows(path, ("filename", "scene_label", "identifier", "source_label"))
    _check_names(path, [_plain(row["filename"]) for row in rows])
    _say_format(path, [row["filename"] for row in rows], notices)
    clips = {}
    for row in rows:
        name = _plain(row["filename"])
        clips[name] = _clip(name, row["scene_label"], row["identifier"], row["source_label"], path)
    odd = []
    for name, clip in clips.items():
        fields = _fields(name)
        if len(fields) in (5, 6) and (clip.group != f"{fields[1]}-{fields[2]}" or clip.recorder != fields[-1]):
            odd.append(name)
    if odd:
        clip = clips[odd[0]]
        raise UserError(
            f"{str(path)!r}: {len(odd):,} rows contradict their file names, the first: {odd[0]} with identifier {clip.group!r} and "
            f"source_label {clip.recorder!r}; the identifier is <city>-<location>, the source_label the recorder, and a wrong one "
            f"would put one place into two splits: take the official {_META}, or leave it out"
        )
    return clips


def _clip(name: str, scene: str, identifier: str | None, recorder: str | None, path: Path) -> Clip:
    """A clip from its row, or from its name alone (five fields, six where 10 s are cut into parts)."""
    fields = _fields(name)
    if identifier is None and len(fields) not in (5, 6):
        raise UserError(
            f"{str(path)!r}: {name!r} has {len(fields)} fields between '-'; TAU's names have 5 (10 s) or 6 (1 s): "
            f"<scene>-<city>-<location>-<segment>[-<part>]-<recorder>"
        )
    group = identifier or f"{fields[1]}-{fields[2]}"
    city, _, location = group.rpartition("-")
    return Clip(name, scene, group, "unused", recorder=recorder or fields[-1], city=city, location=location)


def _check_consistent(path: Path, train: dict[str, str], test: dict[str, str], meta: dict[str, Clip]) -> None:
    """Raises: UserError for lists that do not belong together or leak."""
    scenes = {clip.scene for clip in meta.values()}
    both = [name for name in train if name in test]
    if both:
        raise UserError(f"{len(both):,} files stand in both {_TRAIN} and {_EVALUATE}, a leak: {first(both)}")
    for name, rows in ((path.name, train), (_EVALUATE, test)):
        foreign = sorted(set(rows.values()) - scenes)
        if foreign:
            of_1b = _THREE_CLASSES.issuperset(foreign)
            hint = (
                ": the lists of the 3-class set (DCASE 2020 Task 1B) beside the meta.csv of the 10-class set"
                if of_1b
                else ""
            )
            raise UserError(
                f"{name} has scenes that {_META} does not name: {first(foreign)}{hint}; known: {sorted(scenes)}"
            )
        strangers = [file for file in rows if file not in meta and file not in OLDER_FILES]
        if strangers:
            fields = {len(_fields(strangers[0])), len(_fields(next(iter(meta))))}
            hint = " (one is of 1 s clips, six name fields, the other of 10 s clips, five)" if fields == {5, 6} else ""
            raise UserError(
                f"{name} names {len(strangers):,} files that {_META} does not: {first(strangers, 3)}; they belong to "
                f"different sets{hint}: take all lists from one release"
            )
        wrong = [file for file, scene in rows.items() if file in meta and meta[file].scene != scene]
        if wrong:
            raise UserError(f"{name} and {_META} disagree about the scene of {len(wrong):,} files: {first(wrong)}")
    if _THREE_CLASSES.issuperset(scenes):
        raise UserError(
            "these are the lists of the 3-class set (DCASE 2020 Task 1B: indoor, outdoor, transportation); take the 10-class set"
        )


def _edition(meta: dict[str, Clip], n_train: int, n_test: int) -> str | None:
    """Which published set the lists are, by the counts of its folds and the fields of its names; None for anything else."""
    fields = {len(_fields(name)) for name in meta}
    counts = {(n_train, n_test)}
    for name, edition in EDITIONS.items():
        older = {(OLDER_2020.train, OLDER_2020.test)} if name == "tau2020" else set()
        if counts <= {(edition.train, edition.test)} | older and fields == ({6} if name == "tau2022" else {5}):
            return name
    return None


def _compare(edition: str | None, n_meta: int, n_train: int, n_test: int, absent: set[str], audio: Path) -> list[str]:
    """What departs from the published counts."""
    if edition is None:
        official = ", ".join(f"{known.train:,} and {known.test:,} ({name})" for name, known in EDITIONS.items())
        return [
            f"{n_train:,} training and {n_test:,} test clips: no official set ({official}); figures on this split compare "
            f"with nobody's"
        ]
    known = EDITIONS[edition]
    if (n_train, n_test) == (known.train, known.test):
        return [] if n_meta == known.meta else [f"{_META} has {n_meta:,} rows, the published one {known.meta:,}"]
    if not audio.is_dir():
        rest = "whether the audio has the five more files cannot be seen, for there is none"
    elif absent:
        rest = f"{len(absent)} of the five more files are not in the audio and are left out, as in the current release"
    else:
        rest = "the five more files are in the audio and are used"
    return [
        f"lists of the older 2020 release: {n_train:,} training and {n_test:,} test clips, where the current one has "
        f"{known.train:,} and {known.test:,}; {rest}"
    ]


# -------------------------------------------------------------------------------------------------------------- splits


def _split(
    meta: dict[str, Clip], train: dict[str, str], test: dict[str, str], absent: set[str], notices: list[str]
) -> list[Clip]:
    """All clips in their splits: official test, val by location out of the training fold, the rest of it train.

    No clip at a place of the test fold and none of a recorder that only test may hear is ever learned from, whatever the
    lists say. The older release's five files follow their places, so that both releases have one val.
    """
    for name, scene in (*train.items(), *test.items()):  # the older release's lists beside the current meta.csv
        if name not in meta:
            meta[name] = _clip(name, scene, None, None, Path(_TRAIN))
    places = {meta[name].group for name in test}
    listed = [meta[name] for name in train if name not in absent]
    shared = [clip for clip in listed if clip.group in places]
    unseen = [clip for clip in listed if clip.recorder in UNSEEN and clip.group not in places]
    if shared:
        groups = sorted({clip.group for clip in shared})
        notices.append(
            f"{len(shared):,} clips left out of train: their {len(groups):,} locations ({first(groups)}) are also in test"
        )
    if unseen:
        recorders = sorted({clip.recorder for clip in unseen})
        notices.append(
            f"{len(unseen):,} clips of {first(recorders)} left out of train: these recorders are for test alone, to be unseen there"
        )
    dropped = {clip.filename for clip in (*shared, *unseen)}
    learning = [clip for clip in listed if clip.filename not in dropped]
    lasting = [clip for clip in learning if clip.filename not in OLDER_FILES]
    strata = [(f"{clip.scene} {clip.recorder}", clip.city) for clip in lasting]
    val_places: set[str] = set()
    if lasting:
        is_val = carve([clip.group for clip in lasting], strata, VAL_PARTS)
        val_places = {clip.group for clip, val in zip(lasting, is_val, strict=True) if val}
    split: dict[str, Split] = {name: "test" for name in test if name not in absent}
    split |= {clip.filename: "val" if clip.group in val_places else "train" for clip in learning}
    n_val = sum(clip.group in val_places for clip in learning)
    notices.append(
        f"val: {n_val:,} of the {len(learning):,} clips of the training fold ({_TRAIN}), all of {len(val_places)} of its "
        f"{len({clip.group for clip in learning})} locations, stratified by scene, recorder and city"
    )
    return [replace(clip, split=split.get(name, "unused")) for name, clip in meta.items()]


def _subset(
    folder: Path, clips: list[Clip], subset: str | None, edition: str | None, notices: list[str]
) -> tuple[list[Clip], str, str | None]:
    """The clips with those that a subset leaves out in no split, what the name gains, and how to ask for it again."""
    if subset is None:
        return clips, "", None
    path = _find(folder, f"{subset}.csv") if subset in SUBSETS else Path(subset).expanduser()
    if path is None:
        raise UserError(
            f"subset {subset!r}: no {subset}.csv in {str(folder)!r} or its evaluation_setup/; get it from {SUBSETS_FROM}"
        )
    if not path.is_file():
        raise unknown("subset", subset, SUBSETS, "the path of a csv with a column 'filename'")
    rows = read_rows(path, ("filename",))
    wanted = {_plain(row["filename"]) for row in rows}
    by_name = {clip.filename: clip for clip in clips}
    strangers = sorted(wanted - by_name.keys())
    if strangers:
        fields = {len(_fields(name)) for name in (strangers[0], next(iter(by_name)))}
        hint = " (names of 1 s clips and of 10 s clips: the list is of the 2022 set)" if fields == {5, 6} else ""
        raise UserError(
            f"{str(path)!r} names {len(strangers):,} clips that the data does not: {first(strangers, 3)}{hint}"
        )
    outside = sorted(name for name in wanted if by_name[name].split == "unused")
    if outside:
        raise UserError(
            f"{str(path)!r} names {len(outside):,} clips of neither official fold, at places of the test fold or of "
            f"recorders that only test may hear: {first(outside, 3)}; leave them out"
        )
    published = SUBSETS.get(subset)
    if published and edition == "tau2022" and len(rows) != published:
        notices.append(f"{path.name} has {len(rows):,} rows, the published one {published:,}")
    names_test = any(by_name[name].split == "test" for name in wanted)
    if names_test:
        notices.append(f"the test fold is the part of it that {path.name} names: its figures compare with nobody's")
    kept = [
        clip if clip.filename in wanted or (clip.split == "test" and not names_test) else replace(clip, split="unused")
        for clip in clips
    ]
    counts = Counter(clip.split for clip in kept)
    notices.append(
        f"subset {path.name}: {counts['train']:,} train and {counts['val']:,} val clips; the locations of val stay the same"
    )
    return kept, f"-{path.name.partition('.')[0]}", subset if subset in SUBSETS else str(path.resolve())


# --------------------------------------------------------------------------------------------------------------- files


def _audio_folder(folder: Path, meta: dict[str, Clip]) -> tuple[Path, list[str]]:
    """Where the recordings lie: audio/, or where unpacking one level too deep or too high has put them."""
    some = list(meta)[:: max(1, len(meta) // 200)]
    standard = folder / "audio"
    for place in (standard, standard / "audio", folder):
        if any((place / name).exists() for name in (*some, *OLDER_FILES)) or _holds_any(place, meta):
            if place == standard:
                return place, []
            where = "audio/audio/" if place != folder else "the folder of the lists"
            return place, [f"the recordings lie in {where}, not in audio/; read from there"]
    return standard, []


def _holds_any(place: Path, meta: dict[str, Clip]) -> bool:
    """Whether a folder holds any of the recordings, found by listing it (a half-downloaded set holds few)."""
    return place.is_dir() and any(path.name in meta for path in place.iterdir())


def _origin(folder: Path) -> dict[str, Any]:
    """What `trainers.data export` says that the folder is; empty for anything else. Raises: UserError when it is damaged."""
    path = folder / ORIGIN
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
        return {key: content[key] for key in ("name", "title", "source", "synthetic", "simulated_recorders")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{str(path)!r} is damaged ({type(error).__name__}: {error}): write the data out again"
        ) from None


def _evaluation(folder: Path, subset: str | None) -> Listing:
    """An evaluation set: names without labels, for prediction only."""
    path = _find(folder, _TEST)
    if path is None:
        raise UserError(f"{str(folder)!r} holds no list of TAU's")
    if subset is not None:
        raise UserError(f"subset {subset!r}: an evaluation set has no parts; leave --subset out")
    names = [_plain(row["filename"]) for row in read_rows(path, ("filename",))]
    _check_names(path, names)
    clips = tuple(Clip(name, "", name.rpartition(".")[0], "unused") for name in names)
    audio, notices = _audio_folder(folder, {clip.filename: clip for clip in clips})
    title = EVALUATIONS.get(len(names), f"an evaluation set of {len(names):,} clips")
    return Listing(folder.resolve().name, title, folder.resolve(), None, audio, clips, tuple(notices), labelled=False)
