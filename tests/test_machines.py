"""Many workers and machines on one study, on a journal and on a real PostgreSQL: kills, two machines, heartbeats, a database that goes away.

Trainings are `benchmarks.stand_in`'s, which sleep and train nothing, where it is the machinery that is asked about.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import psutil
import pytest
import sqlalchemy
from conftest import tiny_arguments

from benchmarks.stand_in import no_estimate, open_empty_pool, postgresql, sleep_instead_of_training, write_noise
from search_space.errors import UserError
from search_space.presets import PRESETS
from search_space.space import get_space
from studies import list_studies, open_study, owners
from studies import run as studies_run
from studies.owners import owner
from studies.records import encode
from studies.search import Search, SearchOptions, Told
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
    """Exactly `total` networks finished, none twice, and none of those that were begun or queued for the study is missing."""
    complete = trials[trials["state"] == "complete"]
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
        words = command(noise, runs, storage, trials=trials, workers=workers, seconds=0.5, heartbeat=1, sampler="random")
        process: subprocess.Popen[str] | None = None
        began, ended = 0.0, time.monotonic() + 900
        try:
            while time.monotonic() < ended:
                if process is None or process.poll() is not None:
                    if process is not None and process.returncode == 0:
                        return killed
                    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, text=True, cwd=ROOT)
                    began = time.monotonic()
                time.sleep(rng.uniform(0.2, 0.6))
                if killed.total() >= kills:
                    continue
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

    @pytest.mark.parametrize("where", ["journal", "postgresql"])
    @pytest.mark.parametrize(
        ("trials", "workers", "kills"), [(16, 2, 6), pytest.param(60, 4, 30, marks=pytest.mark.slow)]
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
        print(where, dict(killed), dict(frame["state"].value_counts()))
