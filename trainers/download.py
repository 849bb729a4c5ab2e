"""The official archives of the TAU sets: fetched with pooch, gone on with after a break, checked by md5, unpacked.

What lies in DEST: the archives (`<base>.audio.1.zip`, or `.zip.part` while one grows), the dataset's folder `<base>`, and
`.<base>` with a list of the files of every archive that was unpacked whole. The lists tell the next run what is done, also
when the archives are gone. A file of the dataset appears under its name only when it is complete.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pooch
import requests
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from search_space.errors import UserError, unknown
from trainers.runs import held

UNPACKED = {"audio": 1.25, "meta": 20.0, "doc": 20.0}
"""Bytes on disk for one byte of an archive, by what is in it; an upper bound for the check of free space.

Source: 24-bit wavs of known length and number hardly compress (2020: 23,035 x 1,323,044 bytes, 1.11; 2022: 1.11; 2019: 1.16;
evaluation 2020: 1.20), the lists do (2020: 11; 2022: 17). Assumed: the documentation does no more than the lists.
"""

DEFAULT_RETRIES = 5
DEFAULT_TIMEOUT_S = 60.0

# Source: Zenodo answered 403 to the default name of the requests library in January 2026 (openego/eGon-data 1379).
# Anything but the bytes as they lie on the server would spoil both the size and the place to go on from.
_HEADERS = {"User-Agent": "dssdn-explorer (python, pooch)", "Accept-Encoding": "identity"}
_CHUNK = 64 * 1024
"""Bytes that a break may cost: what has been received of an unfinished chunk is lost."""
_GAIN = 1024 * 1024
"""Bytes that have to come before a failure counts as the first again: a line that breaks every 100 MB gets through."""
_LONGEST_WAIT_S = 600
_LINE_EVERY_S = 30.0


@dataclass(frozen=True)
class Archive:
    """One zip of a set: `part` is its name within the set (doc, meta, audio.1), which `--only` takes."""

    part: str
    file: str
    bytes: int
    md5: str


@dataclass(frozen=True)
class ArchiveSet:
    """A set as published: the page of its record, the folder `base` that its archives hold, the terms of its licence."""

    name: str
    title: str
    record: str
    base: str
    licence: str
    terms: tuple[str, ...]
    archives: tuple[Archive, ...]

    def url(self, archive: Archive, mirror: str | None = None) -> str:
        """Where an archive is fetched from: the record, or a folder of a mirror that has it under the same name."""
        return f"{mirror.rstrip('/')}/{archive.file}" if mirror else f"{self.record}/files/{archive.file}?download=1"


def read_sets(path: Path) -> dict[str, ArchiveSet]:
    """The sets that a file such as archives.json describes, by short name."""
    content = json.loads(path.read_text("utf-8"))
    licence = content["licence"]
    return {
        name: ArchiveSet(
            name=name,
            title=entry["title"],
            record=entry["record"],
            base=entry["base"],
            licence=licence["name"],
            terms=tuple(licence["terms"]),
            archives=tuple(
                Archive(part, f"{entry['base']}.{part}.zip", size, md5) for part, (size, md5) in entry["parts"].items()
            ),
        )
        for name, entry in content["sets"].items()
    }


class _PublishedSets(Mapping[str, ArchiveSet]):
    """The sets of archives.json, read when the first one is asked for."""

    @cached_property
    def _sets(self) -> dict[str, ArchiveSet]:
        return read_sets(Path(__file__).with_name("archives.json"))

    def __getitem__(self, name: str) -> ArchiveSet:
        return self._sets[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sets)

    def __len__(self) -> int:
        return len(self._sets)


SETS: Mapping[str, ArchiveSet] = _PublishedSets()
"""Every set that can be fetched, by its short name. Source: the records' own lists of files, sizes and md5s."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Gives a parser the options that `run` reads."""
    add = parser.add_argument
    add("set", metavar="SET", help=f"one of {', '.join(SETS)}")
    add("destination", type=Path, metavar="DEST", help="the folder that the dataset's own folder comes into")
    add("--accept-licence", action="store_true", help="you have read the terms, which the command prints, and agree")
    add("--only", metavar="PARTS", help="some archives: doc,meta,audio.1 or audio for all audio (default: all)")
    add("--remove-archives", action="store_true", help="delete each archive when its files are unpacked")
    add("--url", metavar="BASE", help="a mirror: BASE/<file name> is fetched instead of the official record")
    add(
        "--retries",
        type=int,
        default=DEFAULT_RETRIES,
        metavar="N",
        help=f"failures in a row after which to give up (default: {DEFAULT_RETRIES} and the first)",
    )
    add(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT_S,
        metavar="S",
        help=f"seconds without a byte that count as a failure (default: {DEFAULT_TIMEOUT_S:g})",
    )


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """What `download` returns for the options of a command line, after the licence was printed and accepted.

    Raises: UserError before any traffic unless `--accept-licence` is given.
    """
    if options.set not in SETS:
        raise unknown("set", options.set, SETS)
    if options.retries < 0 or not options.timeout > 0:
        raise UserError(
            f"--retries is at least 0 and --timeout more than 0 s, not {options.retries} and {options.timeout:g}"
        )
    chosen = SETS[options.set]
    lines = [f"{chosen.title}. Licence: {chosen.licence}", *(f"  {term}" for term in chosen.terms)]
    for line in [*lines, f"  This is a summary. The full terms are those of {chosen.record}"]:
        _say(console, line)
    if not options.accept_licence:
        raise UserError(
            f"the licence of {chosen.name} is not accepted: read the terms above and those of {chosen.record}, and if you "
            f"agree run the same command with --accept-licence"
        )
    try:
        return download(
            chosen,
            options.destination,
            console,
            only=[part.strip() for part in options.only.split(",")] if options.only is not None else (),
            remove_archives=options.remove_archives,
            mirror=options.url,
            retries=options.retries,
            timeout_s=options.timeout,
        )
    except KeyboardInterrupt:
        _say(console, "what has come so far stays, and the same command goes on from there")
        raise


def download(
    chosen: ArchiveSet,
    destination: Path,
    console: Console,
    *,
    only: Sequence[str] = (),
    remove_archives: bool = False,
    mirror: str | None = None,
    retries: int = DEFAULT_RETRIES,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> dict[str, Any]:
    """What was done, as one record: set, folder, seconds, and each archive's file, bytes and state.

    A state is `fetched` (and unpacked), `unpacked` (the archive was here) or `there` (its files were). One archive after
    the other, each unpacked before the next is fetched: so the peak on disk is low with `remove_archives`, and a broken
    archive is seen early. Raises: UserError for a place without room, for what a server does wrong after `retries`
    failures in a row, for a wrong md5 and for a zip that cannot be unpacked.
    """
    began = time.monotonic()
    destination = destination.expanduser().absolute()
    archives = _parts(chosen, only)
    standing = next(folder for folder in (destination, *destination.parents) if folder.exists())
    if not standing.is_dir():
        raise UserError(f"{str(standing)!r} is a file: DEST is a folder, which is made where it is not there")
    if destination.name == chosen.base:
        raise UserError(
            f"DEST is the folder that {chosen.base!r} comes into, not that folder itself: give {str(destination.parent)!r}"
        )
    notes = destination / f".{chosen.base}"
    works = [_look(archive, destination, notes) for archive in archives]
    _check_space(works, chosen, standing, remove_archives)
    notes.mkdir(parents=True, exist_ok=True)
    record = []
    with (
        held(notes / "lock", f"another download of {chosen.name} into {str(destination)!r} is running: wait for it"),
        _Display(console, sum(work.to_fetch for work in works)) as display,
    ):
        for number, work in enumerate(works, start=1):
            archive = work.archive
            count = f"{archive.part} ({number} of {len(works)})"
            state = "there"
            if work.whole:
                display.say(f"{count}: its files are there")
            else:
                place = _Place(chosen, archive, chosen.url(archive, mirror), retries, timeout_s)
                state = "fetched" if _fetch(place, work, count, display) else "unpacked"
                n_files = _unpack(work, destination, count, display)
                display.say(f"{count}: the md5 is right, {n_files:,} files unpacked")
            if remove_archives:
                work.zip.unlink(missing_ok=True)
            record.append({"file": archive.file, "bytes": archive.bytes, "state": state})
    folder = destination / chosen.base
    _say(console, f"{chosen.title}: in {folder}. See whether it is complete:")
    _say(console, f"python -m trainers.data check {shlex.quote(str(folder))}")
    seconds = round(time.monotonic() - began, 1)
    return {"set": chosen.name, "folder": str(folder), "archives": record, "seconds": seconds}


def _parts(chosen: ArchiveSet, only: Sequence[str]) -> list[Archive]:
    """The archives that a choice such as (meta, audio.1) or (audio) names, in the set's order; all for no choice."""
    known = [archive.part for archive in chosen.archives]
    kinds = {part.split(".")[0] for part in known}
    for part in only:
        if part not in {*known, *kinds}:
            raise unknown("part", part, {*known, *kinds})
    return [a for a in chosen.archives if not only or a.part in only or a.part.split(".")[0] in only]


# What is there, and what room the rest takes


@dataclass(frozen=True)
class _Work:
    """An archive, where it lies, and what is left to do: bytes to fetch, bytes to unpack (estimated until it is here)."""

    archive: Archive
    zip: Path
    part: Path
    note: Path
    whole: bool
    to_fetch: int
    to_unpack: int


def _look(archive: Archive, destination: Path, notes: Path) -> _Work:
    zip_path = destination / archive.file
    part, note = destination / f"{archive.file}.part", notes / f"{archive.part}.tsv"
    if _is_whole(note, archive, destination):
        return _Work(archive, zip_path, part, note, True, 0, 0)
    here = max(path.stat().st_size if path.is_file() else 0 for path in (zip_path, part))
    to_unpack = int(archive.bytes * UNPACKED.get(archive.part.split(".")[0], max(UNPACKED.values())))
    if zip_path.is_file():
        with suppress(UserError):  # not a whole zip: said when it is unpacked
            to_unpack = sum(info.file_size for info in _members(zip_path) if not _is_there(info, destination))
    return _Work(archive, zip_path, part, note, False, max(0, archive.bytes - here), to_unpack)


def _is_whole(note: Path, archive: Archive, destination: Path) -> bool:
    """Whether an archive was unpacked, and all its files are there with their sizes."""
    try:
        md5, *lines = note.read_text("utf-8").split("\n")
        return md5 == archive.md5 and all(
            (destination / name).stat().st_size == int(size)
            for size, _, name in (line.partition("\t") for line in lines)
        )
    except (OSError, ValueError):
        return False


def _check_space(works: Sequence[_Work], chosen: ArchiveSet, standing: Path, remove_archives: bool) -> None:
    """Raises: UserError, before anything is fetched, when the file system has less room than the rest will take."""
    free = shutil.disk_usage(standing).free
    needed = _peak_bytes(works, remove_archives)
    if needed <= free:
        return
    to_fetch, to_unpack = sum(work.to_fetch for work in works), sum(work.to_unpack for work in works)
    lower = _peak_bytes(works, True)
    ways = ["make room", "name another DEST", "fetch a part of it (--only)"]
    if not remove_archives:
        ways.insert(0, f"add --remove-archives, which lowers the need to {decimal(lower)}")
    raise UserError(
        f"{chosen.name} needs {decimal(needed)} on the file system of {str(standing)!r}, where {decimal(free)} are free "
        f"({decimal(to_fetch)} to fetch, about {decimal(to_unpack)} when unpacked): {', or '.join(ways)}"
    )


def _peak_bytes(works: Sequence[_Work], remove_archives: bool) -> int:
    """The most bytes that the rest of the work adds to the disk at any time."""
    added = peak = 0
    for work in works:
        added += work.to_fetch + work.to_unpack
        peak = max(peak, added)
        if remove_archives and not work.whole:
            added -= work.archive.bytes
    return peak


# The transfer


@dataclass(frozen=True)
class _Place:
    """Where an archive comes from, and how patient we are with it."""

    chosen: ArchiveSet
    archive: Archive
    url: str
    retries: int
    timeout_s: float

    @property
    def ways_out(self) -> str:
        return (
            f"see whether {self.chosen.record} still has it, name a mirror with --url, "
            f"or put {self.archive.file} into DEST yourself"
        )


class _Growing:
    """The file in which an archive grows: what pooch's downloader writes to, at the place where the last try ended."""

    def __init__(self, path: Path, place: _Place, display: _Display) -> None:
        self.place, self.display = place, display
        self.file = path.open("ab")
        self.size = self.file.tell()
        if self.size > place.archive.bytes:  # no beginning of this archive
            self._cut(0)

    def __enter__(self) -> _Growing:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def _cut(self, size: int) -> None:
        self.file.truncate(size)
        self.size = size

    def begin(self, response: requests.Response, *_: Any, **__: Any) -> None:
        """Hears of every answer's head before its body is read, and makes the file end where the body begins.

        Raises: UserError when the whole file is of another size than the archive: no need to fetch it to know better.
        """
        if response.status_code == 206:
            match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) > self.size:
                raise requests.exceptions.InvalidHeader("the server sent another part of the file than asked for")
            start, whole = int(match[1]), match[2]
        elif response.status_code == 200:
            start, whole = 0, response.headers.get("Content-Length", "*")
        else:
            return  # a redirect, or an error that pooch raises
        self._check_size(whole)
        if start < self.size:
            lost = self.size - start
            self.display.say(f"the server does not go on in the middle of a file: {decimal(lost)} are fetched again")
            self._cut(start)
            self.display.moved(-lost)

    def write(self, chunk: bytes) -> None:
        if self.size + len(chunk) > self.place.archive.bytes:
            self._check_size("more")
        self.file.write(chunk)
        self.size += len(chunk)
        self.display.moved(len(chunk))

    def flush(self) -> None:
        self.file.flush()

    def _check_size(self, whole: str) -> None:
        if whole not in ("*", str(self.place.archive.bytes)):
            raise UserError(
                f"{self.place.url} has another size than the published archive: {whole} bytes instead of "
                f"{self.place.archive.bytes}; {self.place.ways_out}"
            )


def _fetch(place: _Place, work: _Work, label: str, display: _Display) -> bool:
    """Whether anything had to be fetched to have the archive with the right md5 under its name.

    Raises: UserError for a wrong md5, after the bad file was deleted.
    """
    archive = place.archive
    if work.zip.is_file():
        here = work.zip.stat().st_size
        if here == archive.bytes and _md5(work.zip, label, display) == archive.md5:
            return False
        if here < archive.bytes:  # what another program left when it was stopped
            work.zip.replace(work.part)
        else:
            display.say(f"{archive.file} is not the published archive: it is fetched anew")
            work.zip.unlink()
    with _Growing(work.part, place, display) as growing:
        going_on = f", going on at {decimal(growing.size)}" if growing.size else ""
        display.say(f"{label}: {decimal(archive.bytes)} from {place.url}{going_on}")
        display.step(label, archive.bytes, growing.size)
        _transfer(place, growing, display)
    md5 = _md5(work.part, label, display)
    if md5 != archive.md5:
        work.part.unlink()
        raise UserError(
            f"{archive.file} came with a wrong md5: expected {archive.md5}, got {md5}. It is deleted and the same command "
            f"fetches it anew; if it happens again, {place.ways_out}"
        )
    work.part.replace(work.zip)
    return True


def _md5(path: Path, label: str, display: _Display) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    display.step(f"{label}: md5", path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(1024 * 1024):
            digest.update(chunk)
            display.moved(len(chunk), fetched=False)
    return digest.hexdigest()


def _transfer(place: _Place, growing: _Growing, display: _Display) -> None:
    """Fetches until the file has the archive's size. Raises: UserError for what trying again does not mend.

    A failure is a connection that breaks off, a server that is silent, busy or out of order. Only what has never been
    reached before counts as a gain, so that a server that starts every file again cannot keep us for ever.
    """
    failures, furthest = 0, growing.size
    while growing.size < place.archive.bytes:
        wait_s = 0
        going_on = {"Range": f"bytes={growing.size}-"} if growing.size else {}
        fetch = pooch.HTTPDownloader(
            chunk_size=_CHUNK,
            timeout=place.timeout_s,
            headers={**_HEADERS, **going_on},
            hooks={"response": growing.begin},
        )
        try:
            fetch(place.url, growing, None)
            problem = "the answer ended early"
        except requests.HTTPError as error:
            if error.response is None:
                raise
            status = error.response.status_code
            problem = f"the server answers {status} {error.response.reason}"
            if status not in (408, 429) and status < 500:
                raise UserError(f"{problem} for {place.url}: {place.ways_out}") from error
            asked = error.response.headers.get("Retry-After", "")
            wait_s = int(asked) if asked.isdecimal() else 0
        except (requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL):
            raise UserError(f"{place.url!r} is no address: --url is a folder such as https://host/folder") from None
        except requests.RequestException as error:
            problem = _said(error, place)
        if growing.size >= place.archive.bytes:
            return
        failures += 1
        if growing.size >= furthest + _GAIN:
            failures, furthest = 1, growing.size
        if failures > place.retries:
            raise UserError(
                f"{place.archive.file}: {problem}; given up after {failures} failures in a row. "
                f"{growing.size:,} of {place.archive.bytes:,} bytes are here, and the same command goes on from there; "
                f"if it keeps failing, {place.ways_out}"
            )
        # The first try again is at once, for a line that only broke off.
        wait_s = min(max(wait_s, 2 ** (failures - 1) if failures > 1 else 0), _LONGEST_WAIT_S)
        pause = f" in {wait_s} s" if wait_s else ""
        display.say(f"{problem} at {decimal(growing.size)}; try {failures} of {place.retries}{pause}")
        time.sleep(wait_s)


def _said(error: requests.RequestException, place: _Place) -> str:
    """A failure in a few words: the libraries' own texts are nested four deep."""
    if "timed out" in str(error):
        return f"nothing came from the server for {place.timeout_s:g} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.ConnectionError):
        cause: BaseException = error
        while inner := cause.__cause__ or cause.__context__:
            cause = inner
        return f"no connection for {place.url} ({cause})"
    return str(error)


# Unpacking


def _unpack(work: _Work, destination: Path, label: str, display: _Display) -> int:
    """The number of an archive's files, all of which are in `destination` now.

    Each file is written beside its place and then renamed, so that a file under its name is complete; those that are
    there with their size are left. Raises: UserError for a path that leads out of `destination` (before anything is
    written) and for a zip that cannot be read.
    """
    members = _members(work.zip)
    missing = [info for info in members if not _is_there(info, destination)]
    display.step(f"{label}: unpacking", sum(info.file_size for info in missing))
    with zipfile.ZipFile(work.zip) as packed:
        for info in missing:
            path = destination / info.filename
            path.parent.mkdir(parents=True, exist_ok=True)
            growing = path.with_name(f"{path.name}.part")
            try:
                with packed.open(info) as source, growing.open("wb") as target:
                    while chunk := source.read(1024 * 1024):
                        target.write(chunk)
                        display.moved(len(chunk), fetched=False)
            except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
                growing.unlink(missing_ok=True)
                raise _broken(work.zip, f"{info.filename}: {error}") from error
            growing.replace(path)
    _write(work.note, "\n".join([work.archive.md5, *(f"{info.file_size}\t{info.filename}" for info in members)]))
    return len(members)


def _members(path: Path) -> list[zipfile.ZipInfo]:
    """The files in a zip. Raises: UserError when it is none, or when one of them would not lie below the folder it goes to."""
    try:
        with zipfile.ZipFile(path) as packed:
            members = [info for info in packed.infolist() if not info.is_dir()]
    except zipfile.BadZipFile as error:
        raise _broken(path, error) from error
    for info in members:
        name = PurePosixPath(info.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or PureWindowsPath(info.filename).drive:
            raise UserError(
                f"{str(path)!r} names the file {info.filename!r}, which leads out of the folder: nothing of it is unpacked; "
                f"leave it out with --only"
            )
    return members


def _is_there(info: zipfile.ZipInfo, destination: Path) -> bool:
    path = destination / info.filename
    return path.is_file() and path.stat().st_size == info.file_size


def _broken(path: Path, problem: object) -> UserError:
    return UserError(
        f"{str(path)!r} has the published md5 and cannot be unpacked ({problem}): try another program on it (7z x), "
        f"or leave it out with --only"
    )


def _write(path: Path, text: str) -> None:
    """A text file that is there whole or not at all."""
    growing = path.with_name(f"{path.name}.part")
    growing.write_text(text, "utf-8")
    os.replace(growing, path)


# What people see


class _Display:
    """Bars for one archive and for all on a terminal; lines elsewhere, one every half minute while bytes come."""

    def __init__(self, console: Console, to_fetch: int) -> None:
        self._console = console
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._bars = Progress(
            TextColumn("{task.description}"), *columns, console=console, disable=not console.is_terminal
        )
        self._one = self._bars.add_task("", total=None, visible=False)
        self._all = self._bars.add_task("all archives", total=to_fetch, visible=to_fetch > 0)
        self._label, self._total, self._done, self._last = "", 0, 0, time.monotonic()

    def __enter__(self) -> _Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def step(self, label: str, total: int, done: int = 0) -> None:
        """A new thing begins: `total` bytes, of which `done` are behind us."""
        self._label, self._total, self._done, self._last = label, total, done, time.monotonic()
        self._bars.reset(self._one, total=total, completed=done, description=label, visible=True)

    def moved(self, n_bytes: int, fetched: bool = True) -> None:
        """More bytes are behind us, or fewer for a negative number."""
        self._done += n_bytes
        self._bars.update(self._one, advance=n_bytes)
        if fetched:
            self._bars.update(self._all, advance=n_bytes)
        if not self._console.is_terminal and time.monotonic() - self._last > _LINE_EVERY_S:
            self._last = time.monotonic()
            self.say(f"{self._label}: {decimal(self._done)} of {decimal(self._total)}")

    def say(self, line: str) -> None:
        _say(self._console, line)


def _say(console: Console, line: str) -> None:
    """One line as it is: paths may hold what rich takes for markup, and a command must not be broken in two."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)
