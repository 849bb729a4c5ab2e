"""Downloads from a real server on this machine that breaks off, stalls, refuses and lies, and the unpacking of what came."""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import filelock
import numpy as np
import pytest
from rich.console import Console
from rich.filesize import decimal

from search_space.errors import UserError
from trainers.download import SETS, ArchiveSet, add_arguments, download, read_sets, run

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data" / "tau-archives.json"
BASE = "tiny-set"
CHUNK = 64 * 1024
"""What may be lost of a file when the connection breaks off."""


# The server


@dataclass
class Fault:
    """What goes wrong with one answer: after `after` bytes of the body it breaks off or stalls; or another status is sent."""

    kind: str
    after: int = 0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Seen:
    """One request, and how much of the body was sent."""

    file: str
    range: str | None
    agent: str
    sent: int = 0

    @property
    def start(self) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", self.range or "bytes=0-")
        assert match, self.range
        return int(match[1])


class Server(ThreadingHTTPServer):
    """Serves `files`. The next of `faults` befalls every request; `ranges` says whether it can begin in the middle of a file."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: Iterator[Fault | None] = iter(())
        self.seen: list[Seen] = []
        self.ranges = self.lengths = True
        self.released = threading.Event()
        self.asked: Callable[[str], None] = lambda file: None
        self.url = f"http://127.0.0.1:{self.server_port}"

    def fail(self, faults: Iterable[Fault | None]) -> None:
        self.faults = iter(faults)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what these tests are about: no traceback."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server, file = self.server, self.path.rsplit("/", 1)[-1].split("?")[0]
        seen = Seen(file, self.headers.get("Range"), self.headers.get("User-Agent", ""))
        server.seen.append(seen)
        server.asked(file)
        fault = next(server.faults, None) or Fault("none")
        if fault.kind.isdecimal() or file not in server.files:
            self.send_response(int(fault.kind) if fault.kind.isdecimal() else 404)
            for name, value in fault.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = server.files[file]
        start = seen.start if server.ranges else 0
        if start:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if server.lengths:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:] if fault.kind == "none" else content[start : start + fault.after]
        seen.sent = len(body)  # before the client has it and the test looks
        self.wfile.write(body)
        self.wfile.flush()
        if fault.kind == "stall":
            server.released.wait(30)
        if fault.kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


# A set of small archives


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip of stored files, so that its size is about theirs."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target.getvalue()


def noise(n_bytes: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(n_bytes)


FILES: dict[str, dict[str, bytes]] = {
    "doc": {f"{BASE}/README.md": b"about"},
    "meta": {
        f"{BASE}/meta.csv": b"filename\tscene_label\n",
        f"{BASE}/evaluation_setup/fold1_train.csv": b"filename\n",
    },
    "audio.1": {f"{BASE}/audio/{n}.wav": noise(50_000, n) for n in range(8)},
    "audio.2": {f"{BASE}/audio/{n}.wav": noise(50_000, n) for n in range(8, 14)},
}


def write_sets(path: Path, archives: dict[str, bytes]) -> ArchiveSet:
    """A set of these archives, described in a file in the manner of archives.json."""
    parts = {part: [len(content), hashlib.md5(content).hexdigest()] for part, content in archives.items()}
    entry = {"title": "A tiny set", "record": "https://record.invalid/1", "base": BASE, "parts": parts}
    licence = {"name": "a licence", "terms": ["for tests only"]}
    path.write_text(json.dumps({"licence": licence, "sets": {"tiny": entry}}))
    return read_sets(path)["tiny"]


@pytest.fixture
def make_set(server: Server, tmp_path: Path) -> Callable[[dict[str, bytes]], ArchiveSet]:
    """Publishes archives on the server."""

    def make(archives: dict[str, bytes]) -> ArchiveSet:
        server.files = {f"{BASE}.{part}.zip": content for part, content in archives.items()}
        return write_sets(tmp_path / "sets.json", archives)

    return make


@pytest.fixture
def tiny(make_set: Callable[[dict[str, bytes]], ArchiveSet]) -> ArchiveSet:
    return make_set({part: zipped(files) for part, files in FILES.items()})


class Client:
    """Downloads into one folder from the server, and keeps what was printed."""

    def __init__(self, server: Server, destination: Path) -> None:
        self.server, self.destination, self.printed = server, destination, io.StringIO()

    def __call__(self, chosen: ArchiveSet, retries: int = 1, timeout_s: float = 20, **options: object) -> dict:
        console = Console(file=self.printed, width=120, highlight=False)
        options = {"mirror": self.server.url, **options}
        return download(chosen, self.destination, console, retries=retries, timeout_s=timeout_s, **options)

    def unpacked(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.destination)): path.read_bytes()
            for path in sorted((self.destination / BASE).rglob("*"))
            if path.is_file()
        }

    def left(self) -> list[str]:
        """The archives, and parts of them, in the folder."""
        return sorted(path.name for path in self.destination.glob("*.zip*"))


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Client:
    return Client(server, tmp_path / "data")


def content_of(parts: Iterable[str]) -> dict[str, bytes]:
    return {name: content for part in parts for name, content in FILES[part].items()}


AUDIO_1 = f"{BASE}.audio.1.zip"


class TestPublishedSets:
    @pytest.mark.parametrize(
        ("name", "n_archives", "n_bytes", "record", "base"),
        [
            ("tau2019", 23, 35_622_537_482, "2589280", "TAU-urban-acoustic-scenes-2019-development"),
            ("tau2020", 18, 27_364_817_167, "3819968", "TAU-urban-acoustic-scenes-2020-mobile-development"),
            ("tau2020-evaluation", 10, 13_139_235_954, "3685828", "TAU-urban-acoustic-scenes-2020-mobile-evaluation"),
            ("tau2022", 18, 27_503_592_469, "6337421", "TAU-urban-acoustic-scenes-2022-mobile-development"),
            ("tau2022-evaluation", 10, 13_249_195_806, "6591203", "TAU-urban-acoustic-scenes-2022-mobile-evaluation"),
        ],
    )
    def test_each_has_the_published_number_and_size(self, name, n_archives, n_bytes, record, base):
        chosen = SETS[name]
        assert chosen.name == name
        assert len(chosen.archives) == n_archives
        assert sum(archive.bytes for archive in chosen.archives) == n_bytes
        assert chosen.record == f"https://zenodo.org/record/{record}"
        assert chosen.base == base

    def test_there_are_no_others(self):
        assert sorted(SETS) == ["tau2019", "tau2020", "tau2020-evaluation", "tau2022", "tau2022-evaluation"]
        assert len(SETS) == 5

    @pytest.mark.parametrize("name", sorted(SETS))
    def test_every_archive_has_a_part_a_name_and_its_own_md5(self, name):
        archives = SETS[name].archives
        audio = [f"audio.{n}" for n in range(1, len(archives) - 1)]
        assert [archive.part for archive in archives] == ["doc", "meta", *audio]
        assert all(archive.file == f"{SETS[name].base}.{archive.part}.zip" for archive in archives)
        assert all(re.fullmatch(r"[0-9a-f]{32}", archive.md5) for archive in archives)
        assert len({archive.md5 for archive in archives}) == len(archives)

    def test_the_address_is_the_records_or_a_mirrors(self):
        chosen = SETS["tau2020"]
        meta = chosen.archives[1]
        file = "TAU-urban-acoustic-scenes-2020-mobile-development.meta.zip"
        assert chosen.url(meta) == f"https://zenodo.org/record/3819968/files/{file}?download=1"
        assert chosen.url(meta, "https://mirror.invalid/tau/") == f"https://mirror.invalid/tau/{file}"

    def test_sizes_and_md5s_agree_with_the_list_of_archives(self):
        if not SHARED.is_file():
            pytest.skip(f"no {SHARED.name} beside the project")
        listed = {
            (entry["url"], package["file"], package["bytes"], package["md5"])
            for entry in json.loads(SHARED.read_text()).values()
            for package in entry["packages"]
        }
        ours = {(f"{s.record}/files/", a.file, a.bytes, a.md5) for s in SETS.values() for a in s.archives}
        assert ours == listed


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


class TestCommand:
    @pytest.mark.parametrize("name", sorted(SETS))
    def test_without_acceptance_it_prints_the_terms_and_asks_for_nothing(self, name, server, tmp_path):
        console = Console(file=io.StringIO(), width=120)
        options = parse([name, str(tmp_path / "data"), "--url", server.url])
        with pytest.raises(UserError, match=f"licence of {name} is not accepted.*--accept-licence"):
            run(options, console)
        printed = console.file.getvalue()
        assert SETS[name].title in printed
        assert "Tampere University" in printed
        assert "non-commercial purposes only" in printed
        assert "whole copyright notice" in printed
        assert f"full terms are those of {SETS[name].record}" in printed
        assert server.seen == []
        assert not (tmp_path / "data").exists()

    def test_with_acceptance_it_fetches_and_says_what_to_do_next(self, server, tiny, tmp_path, monkeypatch):
        monkeypatch.setattr("trainers.download.SETS", {"tiny": tiny})
        console = Console(file=io.StringIO(), width=80)
        folder = tmp_path / "my [data]"
        arguments = ["tiny", str(folder), "--accept-licence", "--url", server.url, "--only", "doc, meta"]
        report = run(parse(arguments), console)
        assert "for tests only" in console.file.getvalue()
        assert f"\npython -m trainers.data check '{folder / BASE}'\n" in console.file.getvalue()
        assert report["set"] == "tiny"
        assert report["folder"] == str(folder / BASE)
        assert report["archives"] == [
            {"file": archive.file, "bytes": archive.bytes, "state": "fetched"} for archive in tiny.archives[:2]
        ]
        assert report["seconds"] >= 0
        assert json.loads(json.dumps(report)) == report

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["tau2021"], "unknown set 'tau2021'; .*known: .*'tau2020', 'tau2020-evaluation'"),
            (
                ["tau2020", "--accept-licence", "--only", "meta,audio.17"],
                "unknown part 'audio.17'; .*known: .*'audio.16'",
            ),
            (["tau2020", "--accept-licence", "--only", ""], "unknown part ''; known"),
            (["tau2020", "--accept-licence", "--retries", "-1"], "--retries is at least 0.*not -1"),
            (["tau2020", "--accept-licence", "--timeout", "0"], "--timeout more than 0 s, not .* 0"),
            (["tau2020", "--accept-licence", "--timeout", "nan"], "--timeout more than 0 s, not .* nan"),
        ],
    )
    def test_wrong_options_are_named(self, arguments, message, server, tmp_path):
        arguments = [arguments[0], str(tmp_path / "data"), "--url", server.url, *arguments[1:]]
        with pytest.raises(UserError, match=message):
            run(parse(arguments), Console(file=io.StringIO()))
        assert server.seen == []

    def test_the_published_md5_is_what_counts(self, server, tmp_path):
        doc = SETS["tau2020"].archives[0]
        server.files = {doc.file: noise(doc.bytes, 0)}
        arguments = ["tau2020", str(tmp_path / "data"), "--url", server.url, "--accept-licence", "--only", "doc"]
        with pytest.raises(UserError, match=f"expected {doc.md5}, got [0-9a-f]{{32}}"):
            run(parse(arguments), Console(file=io.StringIO()))

    def test_a_dest_that_is_a_file_or_below_one_is_refused(self, tiny, client):
        client.destination.write_text("a file")
        with pytest.raises(UserError, match="data' is a file: DEST is a folder"):
            client(tiny)
        client.destination = client.destination / "below"
        with pytest.raises(UserError, match="data' is a file: DEST is a folder"):
            client(tiny)

    def test_the_datasets_own_folder_is_not_taken_for_dest(self, tiny, client):
        client.destination = client.destination / BASE
        with pytest.raises(UserError, match=r"not that folder itself: give '.*data'"):
            client(tiny)

    def test_two_downloads_do_not_write_one_file(self, tiny, client, server):
        (client.destination / f".{BASE}").mkdir(parents=True)
        with (
            filelock.FileLock(client.destination / f".{BASE}" / "lock"),
            pytest.raises(UserError, match=r"another download of tiny into .* is running"),
        ):
            client(tiny)
        assert server.seen == []


class TestWhatComes:
    def test_every_file_of_every_archive(self, tiny, client, server):
        report = client(tiny)
        assert client.unpacked() == content_of(FILES)
        assert [archive["state"] for archive in report["archives"]] == ["fetched"] * 4
        assert [seen.file for seen in server.seen] == [archive.file for archive in tiny.archives]
        assert client.left() == sorted(archive.file for archive in tiny.archives)

    @pytest.mark.parametrize(
        ("only", "parts"),
        [(["meta"], ["meta"]), (["audio.2", "doc"], ["doc", "audio.2"]), (["audio"], ["audio.1", "audio.2"])],
    )
    def test_only_some_parts(self, only, parts, tiny, client, server):
        client(tiny, only=only)
        assert client.unpacked() == content_of(parts)
        assert [seen.file for seen in server.seen] == [f"{BASE}.{part}.zip" for part in parts]

    def test_the_server_hears_who_asks(self, tiny, client, server):
        client(tiny, only=["doc"])
        assert server.seen[0].agent.startswith("dssdn-explorer")

    def test_lines_without_control_characters_where_there_is_no_terminal(self, tiny, client):
        client(tiny)
        lines = client.printed.getvalue().splitlines()
        assert f"audio.1 (3 of 4): {decimal(tiny.archives[2].bytes)} from {client.server.url}/{AUDIO_1}" in lines
        assert "audio.1 (3 of 4): the md5 is right, 8 files unpacked" in lines
        assert "\x1b" not in client.printed.getvalue()

    def test_bars_for_one_and_for_all_on_a_terminal(self, tiny, server, tmp_path):
        console = Console(file=io.StringIO(), width=120, force_terminal=True)
        download(tiny, tmp_path / "data", console, mirror=server.url, retries=0)
        printed = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", console.file.getvalue())
        one, whole = (decimal(n) for n in (tiny.archives[3].bytes, sum(archive.bytes for archive in tiny.archives)))
        assert re.search(rf"audio.2 \(4 of 4\) ━+ +\S+/{one} ", printed)
        assert re.search(rf"all archives +━+ {whole.split()[0]}/{whole} ", printed)


class TestConnection:
    @pytest.mark.parametrize("kind", ["break", "reset"])
    def test_that_breaks_off_is_gone_on_with(self, kind, tiny, client, server):
        server.fail([Fault(kind, 200_000)])
        client(tiny, only=["audio.1"])
        first, second = server.seen
        assert first.range is None
        assert 200_000 - CHUNK <= second.start <= 200_000 if kind == "break" else second.start <= 200_000
        assert second.sent == tiny.archives[2].bytes - second.start
        assert client.unpacked() == content_of(["audio.1"])
        assert re.search(r"broke off at \S+ kB; try 1 of 1", client.printed.getvalue())

    def test_that_breaks_off_again_and_again_gets_through_while_it_gains(self, make_set, client, server):
        chosen = make_set({"audio.1": zipped({f"{BASE}/audio/long.wav": noise(5_000_000, 0)})})
        server.fail(itertools.repeat(Fault("break", 1_200_000)))
        client(chosen, retries=1)
        starts = [seen.start for seen in server.seen]
        assert starts == sorted(set(starts))
        assert len(starts) == 5

    def test_that_gains_nothing_is_given_up_and_keeps_what_came(self, tiny, client, server):
        server.fail([Fault("break", 200_000), *itertools.repeat(Fault("break", 0), 9)])
        with pytest.raises(UserError, match=r"broke off|ended early") as error:
            client(tiny, only=["audio.1"])
        assert len(server.seen) == 2
        size = (client.destination / f"{AUDIO_1}.part").stat().st_size
        assert 200_000 - CHUNK <= size <= 200_000
        assert f"{size:,} of {tiny.archives[2].bytes:,} bytes are here, and the same command goes on" in str(
            error.value
        )
        assert client.left() == [f"{AUDIO_1}.part"]

        server.fail([])
        client(tiny, only=["audio.1"])
        assert server.seen[-1].start == size
        assert client.unpacked() == content_of(["audio.1"])

    def test_that_stalls_is_given_up_and_tried_again(self, tiny, client, server):
        server.fail([Fault("stall", 200_000)])
        client(tiny, only=["audio.1"], timeout_s=0.3)
        assert [seen.start > 0 for seen in server.seen] == [False, True]
        assert client.unpacked() == content_of(["audio.1"])

    def test_that_stalls_every_time_ends_in_an_error(self, tiny, client, server):
        server.fail(itertools.repeat(Fault("stall", 0)))
        with pytest.raises(
            UserError, match=r"nothing came from the server for 0.2 s; given up after 2 failures in a row"
        ):
            client(tiny, only=["audio.1"], timeout_s=0.2)
        assert len(server.seen) == 2

    def test_that_cannot_be_made_ends_in_an_error(self, tiny, client, server):
        server.server_close()
        with pytest.raises(
            UserError, match=rf"no connection for {server.url}/{AUDIO_1} \(.*refused\); given up after 2 failures"
        ):
            client(tiny, only=["audio.1"])

    def test_an_address_that_is_none_is_not_tried_again(self, tiny, client):
        with pytest.raises(
            UserError, match=r"ftps:tau/tiny-set.doc.zip' is no address: --url is a folder such as https"
        ):
            client(tiny, mirror="ftps:tau", retries=50)

    @pytest.mark.parametrize("after", [0, 200_000])
    def test_an_answer_of_no_stated_length_that_ends_early(self, after, tiny, client, server):
        server.lengths = False
        server.fail([Fault("break", after)])
        client(tiny, only=["audio.1"])
        assert [seen.start for seen in server.seen] == [0, after]
        assert client.unpacked() == content_of(["audio.1"])


class TestServer:
    def test_404_names_the_address_and_the_ways_out_and_is_asked_once(self, tiny, client, server):
        del server.files[AUDIO_1]
        with pytest.raises(UserError) as error:
            client(tiny, only=["audio.1"], retries=50)
        assert f"the server answers 404 Not Found for {server.url}/{AUDIO_1}" in str(error.value)
        assert f"see whether {tiny.record} still has it, name a mirror with --url" in str(error.value)
        assert len(server.seen) == 1
        assert client.unpacked() == {}

    @pytest.mark.parametrize("status", ["429", "500", "503"])
    def test_that_is_busy_or_out_of_order_is_asked_again(self, status, tiny, client, server):
        server.fail([Fault(status, headers={"Retry-After": "0"})])
        client(tiny, only=["doc"])
        assert len(server.seen) == 2
        assert client.unpacked() == content_of(["doc"])

    def test_the_wait_that_it_asks_for_is_kept(self, tiny, client, server):
        server.fail([Fault("429", headers={"Retry-After": "1"})])
        client(tiny, only=["doc"])
        assert "429 Too Many Requests at 0 bytes; try 1 of 1 in 1 s" in client.printed.getvalue()

    def test_a_redirect_keeps_the_place_to_go_on_from(self, tiny, client, server):
        moved = Fault("301", headers={"Location": f"{server.url}/elsewhere/{AUDIO_1}"})
        server.fail([Fault("break", 200_000), moved])
        client(tiny, only=["audio.1"])
        assert len(server.seen) == 3
        assert server.seen[2].start == server.seen[1].start > 0
        assert client.unpacked() == content_of(["audio.1"])

    def test_that_cannot_begin_in_the_middle_starts_the_file_again(self, tiny, client, server):
        server.ranges = False
        server.fail([None, Fault("break", 200_000)])
        client(tiny, only=["doc", "audio.1"])
        assert [(seen.file, seen.sent) for seen in server.seen] == [
            (tiny.archives[0].file, tiny.archives[0].bytes),
            (AUDIO_1, 200_000),
            (AUDIO_1, tiny.archives[2].bytes),
        ]
        assert "does not go on in the middle of a file" in client.printed.getvalue()
        assert client.unpacked() == content_of(["doc", "audio.1"])

    def test_that_starts_again_and_breaks_off_every_time_is_given_up(self, make_set, client, server):
        chosen = make_set({"audio.1": zipped({f"{BASE}/audio/long.wav": noise(3_000_000, 0)})})
        server.ranges = False
        server.fail(itertools.repeat(Fault("break", 2_000_000)))
        with pytest.raises(UserError, match="given up after 2 failures in a row"):
            client(chosen)
        assert len(server.seen) == 2

    @pytest.mark.parametrize("other", [noise(500_000, 1), b"<html>Please log in</html>"])
    def test_a_file_of_another_size_is_refused_at_its_first_byte(self, other, tiny, client, server):
        server.files[AUDIO_1] = other
        with pytest.raises(UserError) as error:
            client(tiny, only=["audio.1"], retries=50)
        assert (
            f"another size than the published archive: {len(other)} bytes instead of {tiny.archives[2].bytes}"
            in str(error.value)
        )
        assert len(server.seen) == 1

    def test_a_file_of_no_stated_size_that_is_too_long_is_refused(self, tiny, client, server):
        server.lengths = False
        server.files[AUDIO_1] += b"more"
        with pytest.raises(UserError, match="another size than the published archive: more bytes instead of"):
            client(tiny, only=["audio.1"])

    def test_a_wrong_md5_is_neither_kept_nor_unpacked_and_fetched_anew_the_next_time(self, tiny, client, server):
        right = server.files[AUDIO_1]
        server.files[AUDIO_1] = wrong = noise(len(right), 1)
        with pytest.raises(UserError) as error:
            client(tiny, only=["audio.1"])
        expected = f"expected {tiny.archives[2].md5}, got {hashlib.md5(wrong).hexdigest()}"
        assert expected in str(error.value)
        assert len(server.seen) == 1
        assert client.left() == []
        assert client.unpacked() == {}

        server.files[AUDIO_1] = right
        client(tiny, only=["audio.1"])
        assert server.seen[-1].range is None
        assert client.unpacked() == content_of(["audio.1"])

    def test_what_came_before_the_failure_is_kept(self, tiny, client, server):
        del server.files[AUDIO_1]
        with pytest.raises(UserError, match="404"):
            client(tiny)
        assert client.unpacked() == content_of(["doc", "meta"])


SCRIPT = """
import sys
from pathlib import Path
from search_space.errors import open_console, run_command
from trainers.download import download, read_sets

sets, destination, url = sys.argv[1:]
run_command(lambda: download(read_sets(Path(sets))["tiny"], Path(destination), open_console(), mirror=url) and 0)
"""


class TestKilled:
    def start(self, client: Client, tmp_path: Path) -> subprocess.Popen[bytes]:
        arguments = [str(tmp_path / "sets.json"), str(client.destination), client.server.url]
        return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)

    def wait_for(self, condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
    def test_in_the_middle_of_an_archive_it_goes_on_from_there(self, how, code, tiny, client, server, tmp_path):
        server.fail([None, None, Fault("stall", 200_000)])
        part = client.destination / f"{AUDIO_1}.part"
        process = self.start(client, tmp_path)
        self.wait_for(lambda: part.is_file() and part.stat().st_size >= 200_000 - CHUNK, process)
        process.send_signal(how)
        assert process.wait(30) == code
        size = part.stat().st_size
        assert size >= 200_000 - CHUNK

        assert self.start(client, tmp_path).wait(60) == 0
        assert [(seen.file, seen.start) for seen in server.seen[2:]] == [
            (AUDIO_1, 0),
            (AUDIO_1, size),
            (f"{BASE}.audio.2.zip", 0),
        ]
        assert client.unpacked() == content_of(FILES)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    def test_in_the_middle_of_unpacking_it_unpacks_the_rest(self, tiny, client, server, tmp_path):
        before, pipe = (client.destination / BASE / "audio" / name for name in ("3.wav", "4.wav.part"))
        pipe.parent.mkdir(parents=True)
        os.mkfifo(pipe)  # opening it for writing waits for a reader, who never comes
        process = self.start(client, tmp_path)
        self.wait_for(before.is_file, process)
        process.kill()
        process.wait()
        pipe.unlink()
        pipe.write_bytes(b"half a file")
        kept = before.stat().st_mtime_ns
        n_asked = len(server.seen)

        report = client(tiny)
        assert [archive["state"] for archive in report["archives"]] == ["there", "there", "unpacked", "fetched"]
        assert [seen.file for seen in server.seen[n_asked:]] == [f"{BASE}.audio.2.zip"]
        assert client.unpacked() == content_of(FILES)
        assert before.stat().st_mtime_ns == kept


class TestAgain:
    @pytest.mark.parametrize("remove_archives", [False, True])
    def test_nothing_is_fetched_twice(self, remove_archives, tiny, client, server):
        client(tiny, remove_archives=remove_archives)
        n_asked = len(server.seen)
        report = client(tiny, remove_archives=remove_archives)
        assert [archive["state"] for archive in report["archives"]] == ["there"] * 4
        assert len(server.seen) == n_asked

    def test_lost_files_come_back_out_of_the_archive(self, tiny, client, server):
        client(tiny)
        n_asked = len(server.seen)
        (client.destination / BASE / "audio" / "3.wav").unlink()
        (client.destination / BASE / "audio" / "4.wav").write_bytes(b"cut")
        report = client(tiny)
        assert [archive["state"] for archive in report["archives"]] == ["there", "there", "unpacked", "there"]
        assert len(server.seen) == n_asked
        assert client.unpacked() == content_of(FILES)

    def test_lost_files_are_fetched_where_the_archive_is_gone(self, tiny, client, server):
        client(tiny, remove_archives=True)
        (client.destination / BASE / "audio" / "3.wav").unlink()
        report = client(tiny)
        assert [archive["state"] for archive in report["archives"]] == ["there", "there", "fetched", "there"]
        assert [seen.file for seen in server.seen[4:]] == [AUDIO_1]
        assert client.unpacked() == content_of(FILES)

    def test_a_list_of_what_was_unpacked_that_is_spoilt_costs_an_unpacking(self, tiny, client, server):
        client(tiny, only=["meta"])
        (client.destination / f".{BASE}" / "meta.tsv").write_text(f"{tiny.archives[1].md5}\nnonsense")
        assert client(tiny, only=["meta"])["archives"][0]["state"] == "unpacked"
        assert len(server.seen) == 1

    def test_an_archive_put_there_by_hand_is_taken(self, tiny, client, server):
        client.destination.mkdir()
        (client.destination / AUDIO_1).write_bytes(server.files[AUDIO_1])
        assert client(tiny, only=["audio.1"])["archives"][0]["state"] == "unpacked"
        assert server.seen == []
        assert client.unpacked() == content_of(["audio.1"])

    def test_half_an_archive_put_there_by_hand_is_gone_on_with(self, tiny, client, server):
        client.destination.mkdir()
        (client.destination / AUDIO_1).write_bytes(server.files[AUDIO_1][:123_456])
        client(tiny, only=["audio.1"])
        assert [seen.start for seen in server.seen] == [123_456]
        assert client.unpacked() == content_of(["audio.1"])

    def test_a_spoilt_archive_or_part_is_fetched_anew(self, tiny, client, server):
        client.destination.mkdir()
        size = tiny.archives[2].bytes
        (client.destination / AUDIO_1).write_bytes(noise(size, 1))
        (client.destination / f"{BASE}.audio.2.zip.part").write_bytes(noise(size, 1))  # longer than the archive
        client(tiny, only=["audio"])
        assert "audio.1.zip is not the published archive" in client.printed.getvalue()
        assert [seen.range for seen in server.seen] == [None, None]
        assert client.unpacked() == content_of(["audio.1", "audio.2"])

    def test_a_part_that_is_complete_is_only_checked(self, tiny, client, server):
        client.destination.mkdir()
        (client.destination / f"{AUDIO_1}.part").write_bytes(server.files[AUDIO_1])
        client(tiny, only=["audio.1"])
        assert server.seen == []
        assert client.unpacked() == content_of(["audio.1"])


class TestRemoving:
    def test_each_archive_goes_before_the_next_is_asked_for(self, tiny, client, server):
        found: dict[str, tuple[list[str], int]] = {}
        server.asked = lambda file: found.update({file: (client.left(), len(client.unpacked()))})
        client(tiny, remove_archives=True)
        assert found[f"{BASE}.meta.zip"] == ([f"{BASE}.meta.zip.part"], 1)
        assert found[f"{BASE}.audio.2.zip"] == ([f"{BASE}.audio.2.zip.part"], 11)
        assert client.left() == []
        assert client.unpacked() == content_of(FILES)

    def test_later_also(self, tiny, client, server):
        client(tiny)
        n_asked = len(server.seen)
        client(tiny, remove_archives=True)
        assert client.left() == []
        assert client.unpacked() == content_of(FILES)
        assert len(server.seen) == n_asked


class TestSpace:
    PETABYTE = 10**15

    @pytest.fixture
    def huge(self, tmp_path: Path) -> ArchiveSet:
        parts = {f"audio.{n}": [self.PETABYTE, "0" * 32] for n in (1, 2)}
        entry = {"title": "huge", "record": "https://record.invalid/1", "base": BASE, "parts": parts}
        path = tmp_path / "huge.json"
        path.write_text(json.dumps({"licence": {"name": "", "terms": []}, "sets": {"huge": entry}}))
        return read_sets(path)["huge"]

    def test_is_looked_at_before_anything_is_fetched_or_made(self, huge, client, server):
        with pytest.raises(UserError) as error:
            client(huge)
        message = str(error.value)
        # Two archives, each with 1.25 times its size beside it; the first archive is gone before the second comes.
        assert re.search(r"huge needs 4\.5 PB on the file system of '.*', where \S+ [kMGT]B are free", message)
        assert "(2.0 PB to fetch, about 2.5 PB when unpacked)" in message
        assert "add --remove-archives, which lowers the need to 3.5 PB" in message
        assert server.seen == []
        assert not client.destination.exists()

    def test_is_less_where_archives_are_removed_or_left_out(self, huge, client):
        with pytest.raises(UserError, match=r"huge needs 3\.5 PB") as error:
            client(huge, remove_archives=True)
        assert "--remove-archives" not in str(error.value)
        with pytest.raises(UserError, match=r"huge needs 2\.2 PB"):
            client(huge, only=["audio.2"])

    def test_counts_what_is_here_already(self, huge, client):
        client.destination.mkdir()
        with (client.destination / f"{AUDIO_1}.part").open("wb") as file:
            try:
                file.truncate(10**12)  # a hole, not a terabyte
            except OSError as problem:
                pytest.skip(f"the file system has no file of a terabyte: {problem}")
        with pytest.raises(UserError, match=r"\(999\.0 TB to fetch, about 1\.2 PB when unpacked\)"):
            client(huge, only=["audio.1"])


class TestUnpacking:
    @pytest.mark.parametrize(
        "name",
        ["../outside.txt", f"{BASE}/../../outside.txt", "/tmp/outside.txt", "..\\outside.txt", "C:\\outside.txt"],
    )
    def test_no_path_leads_out_of_the_folder(self, name, make_set, client, tmp_path):
        chosen = make_set({"audio.1": zipped({f"{BASE}/audio/0.wav": b"0", name: b"1"})})
        before = sorted(tmp_path.iterdir())
        with pytest.raises(UserError, match="which leads out of the folder: nothing of it is unpacked"):
            client(chosen)
        assert client.unpacked() == {}
        assert sorted(tmp_path.iterdir()) == [client.destination, *before]
        assert not list(client.destination.rglob("*outside*"))

    def test_a_link_in_a_zip_becomes_a_plain_file(self, make_set, client, tmp_path):
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w") as archive:
            link = zipfile.ZipInfo(f"{BASE}/audio")
            link.create_system, link.external_attr = 3, 0o120777 << 16
            archive.writestr(link, str(tmp_path))
        client(make_set({"audio.1": target.getvalue()}))
        path = client.destination / BASE / "audio"
        assert not path.is_symlink()
        assert path.read_text() == str(tmp_path)

    def test_an_archive_with_a_spoilt_file_is_said_to_be_broken(self, make_set, client, server):
        content = bytearray(zipped(FILES["audio.1"]))
        content[content.index(FILES["audio.1"][f"{BASE}/audio/3.wav"]) + 100] ^= 1
        chosen = make_set({"audio.1": bytes(content)})
        with pytest.raises(UserError, match=r"published md5 and cannot be unpacked \(tiny-set/audio/3.wav: Bad CRC-32"):
            client(chosen)
        assert sorted(client.unpacked()) == [f"{BASE}/audio/{n}.wav" for n in range(3)]
        with pytest.raises(UserError, match="cannot be unpacked"):
            client(chosen, remove_archives=True)
        assert client.left() == [AUDIO_1]
        assert len(server.seen) == 1

    @pytest.mark.parametrize("content", [noise(5_000, 0), zipped(FILES["audio.1"])[:-100]])
    def test_an_archive_that_is_no_whole_zip_is_said_to_be_broken(self, content, make_set, client):
        with pytest.raises(UserError, match=r"published md5 and cannot be unpacked \(File is not a zip file\).*7z x"):
            client(make_set({"audio.1": content}))

    def test_compressed_files_and_empty_folders(self, make_set, client):
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{BASE}/audio/", b"")
            archive.writestr(f"{BASE}/meta.csv", b"filename\n" * 10_000)
            archive.writestr(f"{BASE}/empty.csv", b"")
        client(make_set({"meta": target.getvalue()}))
        assert client.unpacked() == {f"{BASE}/empty.csv": b"", f"{BASE}/meta.csv": b"filename\n" * 10_000}
