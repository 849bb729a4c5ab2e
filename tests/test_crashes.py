"""Whatever happens to a study on a journal: it opens, counts right and goes on; and what is a trial's own failure stays one."""

from __future__ import annotations

import ast
import ctypes
import dataclasses
import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import psutil
import pytest
from trainings import always_fail, die, fail, fill_the_disk

from benchmarks.stand_in import no_estimate, open_empty_pool, sleep_instead_of_training, write_noise
from search_space.errors import UserError
from search_space.presets import PRESETS
from search_space.space import get_space
from studies import open_study, owners
from studies.code import _shape, code_digest
from studies.crew import Crew
from studies.owners import owner
from studies.plans import SearchOptions
from studies.records import encode
from studies.search import MOST_DEATHS, Search, Told
from studies.storage import JOURNAL, TORN, mend_journal, open_storage
from trainers.datasets import open_dataset
from trainers.features import prepare

ROOT = Path(__file__).parent.parent
SLEEP = functools.partial(sleep_instead_of_training, seconds=0.0)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("noise") / "data")


@pytest.fixture(scope="module")
def made(noise: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with a study of four stand-ins; not to be changed."""
    runs = tmp_path_factory.mktemp("made")
    go(stand_in(noise, runs, trials=4))
    return runs


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    shutil.copytree(made / "crash", tmp_path / "runs" / "crash")
    return tmp_path / "runs"


def stand_in(noise: Path, runs: Path, train: Callable[..., dict[str, Any]] = SLEEP, **changes: Any) -> Search:
    """A search whose trainings are `train`."""
    say = changes.pop("say", lambda line: None)
    options = SearchOptions(
        trials=6, study="crash", workers=1, budget=32, train_input=(8, 8), device="cpu", heartbeat=1, sampler="random"
    )
    dataset = open_dataset(str(noise))
    return Search(
        *(dataclasses.replace(options, runs=runs, **changes), dataset, prepare(dataset)),
        say=say,
        train=train,
        measure=functools.partial(no_estimate, seconds=0.0),
        open_pool=open_empty_pool,
    )


def go(search: Search, on_told: Callable[[Told], None] = lambda told: None) -> pd.DataFrame:
    with search.opened() as records:
        search.run(lambda seconds, remaining: None, on_told)
        return records.trials()


def complete(trials: pd.DataFrame) -> int:
    assert trials[trials["state"] == "complete"]["architecture"].is_unique
    return int((trials["state"] == "complete").sum())


class TestOwnFailures:
    def test_they_keep_their_traceback_and_end_nothing(self, noise: Path, tmp_path: Path) -> None:
        failing = functools.partial(fail, trials=(1, 3, 4, 5, 6, 7))  # six in all, five in a row
        told: list[Told] = []
        trials = go(stand_in(noise, tmp_path, failing), told.append).set_index("trial")
        assert complete(trials) == 6
        assert trials.index[trials["state"] == "failed"].tolist() == [1, 3, 4, 5, 6, 7]
        error = trials.loc[3, "error"]
        assert error.startswith("RuntimeError: out of memory in trial 3\n")
        assert "in fail" in error
        assert "Traceback" in error
        assert [one.error for one in told if one.trial == 4] == ["RuntimeError: out of memory in trial 4"]

    def test_they_run_again_only_when_asked(self, noise: Path, tmp_path: Path) -> None:
        failing = functools.partial(fail, trials=(1,))
        go(stand_in(noise, tmp_path, failing))
        trials = go(stand_in(noise, tmp_path, trials=7)).set_index("trial")
        lost = trials.loc[1, "architecture"]
        assert (trials["architecture"] == lost).sum() == 1
        trials = go(stand_in(noise, tmp_path, functools.partial(fail, trials=(8,)), trials=8, retry_failed=True))
        assert trials[trials["architecture"] == lost]["state"].tolist() == ["failed", "failed"]
        trials = go(stand_in(noise, tmp_path, trials=9, retry_failed=True))
        again = trials[trials["architecture"] == lost]
        assert again["state"].tolist() == ["failed", "failed", "complete"]
        assert again["preset"].tolist() == ["dssdn-middle"] * 3
        assert complete(trials) == 9
        assert complete(go(stand_in(noise, tmp_path, trials=9, retry_failed=True))) == 9

    def test_where_everything_fails_the_study_stops_with_the_reason(self, noise: Path, tmp_path: Path) -> None:
        with pytest.raises(
            UserError, match="all of the first 5 trials here failed, the last with RuntimeError: no device"
        ):
            go(stand_in(noise, tmp_path, always_fail))
        assert complete(go(stand_in(noise, tmp_path))) == 6

    def test_a_disk_that_is_full_is_nobodys_failure(self, noise: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"trial 2 could not be written or read .*No space left"):
            go(stand_in(noise, tmp_path, functools.partial(fill_the_disk, trial=2)))
        trials = go(stand_in(noise, tmp_path))
        assert complete(trials) == 6
        assert set(trials["state"]) == {"complete", "interrupted"}


class TestDeaths:
    def test_a_network_that_ends_its_worker_is_given_up_after_some_deaths(self, noise: Path, tmp_path: Path) -> None:
        space = get_space("dssdn")
        deadly = space.neighbours(PRESETS["dssdn-small"])[0]
        search = stand_in(noise, tmp_path, functools.partial(die, of=str(deadly)), workers=2)
        with search.opened() as records:
            chosen = {name: encode(space.choices[name], option) for name, option in space.encode(deadly).items()}
            search._study.enqueue_trial(chosen, {"deaths": MOST_DEATHS - 2})
            search.run(lambda seconds, remaining: None, lambda told: None)
            trials = records.trials()
            tried = trials[trials["architecture"] == str(deadly)]
            assert tried["state"].tolist() == ["interrupted", "interrupted", "failed"]
            assert (
                tried["error"].iloc[-1].startswith(f"its worker process died {MOST_DEATHS + 1} times while it trained")
            )
            assert complete(trials) == 6  # the other worker's trainings are not touched
            assert (trials["state"] == "interrupted").sum() == 2
            counted = [trial.user_attrs.get("deaths") for trial in search._study.get_trials()]
            assert [number for number in counted if number is not None] == [
                MOST_DEATHS - 2,
                MOST_DEATHS - 1,
                MOST_DEATHS,
            ]

    def test_a_worker_that_died_while_idle_is_replaced(self) -> None:
        crew = Crew(lambda device: open_empty_pool(None, 1, [device]), ["cpu", "cpu"])
        try:
            first = crew.submit(os.getpid)
            pid = first.result()
            crew.done(first)
            os.kill(pid, signal.SIGKILL)
            while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
            time.sleep(0.2)
            assert crew.free() == 2
            again = crew.submit(os.getpid)
            assert again.result() != pid
        finally:
            crew.close()

    def test_a_coordinator_that_is_asked_to_end_queues_again_without_a_death(self, noise: Path, tmp_path: Path) -> None:
        words = [sys.executable, "-m", "benchmarks.stand_in", "--data", str(noise), "--runs", str(tmp_path)]
        words += ["--study", "crash", "--trials", "5", "--workers", "2", "--seconds", "1.5"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
        end = time.monotonic() + 60
        while len(list(tmp_path.glob("crash/trials/*"))) < 3 and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)  # in the middle of whatever it does
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 130, printed
        assert "Traceback" not in printed
        study = open_study("crash", tmp_path)
        assert not set(study.trials()["state"]) - {"complete", "interrupted", "queued"}
        assert {trial.user_attrs.get("deaths", 0) for trial in study._study.get_trials()} == {0}
        subprocess.run(words, check=True, cwd=ROOT, capture_output=True)
        assert complete(study.trials()) == 5


class TestOwners:
    """Whether a process lives, told without trusting a clock."""

    def test_a_clock_that_jumps_changes_nothing(self) -> None:
        assert owners.alive({**owner(), "started": 5.0, "at": "2001-01-01T00:00:00+00:00"})

    def test_another_process_with_the_same_id_is_not_taken_for_it(self) -> None:
        then = owner()
        assert owners.alive({**then, "ticks": then["ticks"] - 1000}) is False
        assert owners.alive({**then, "pid": 2**22 + 1}) is False
        assert owners.is_own(then)

    def test_what_can_not_be_seen_from_here_is_not_said_to_be_dead(self) -> None:
        then = owner()
        assert owners.alive({**then, "host": "elsewhere"}) is None
        boot, space = then["machine"].split()
        beside = {**then, "machine": f"{boot} pid:[1]"}
        assert (owners.alive(beside), owners.restarted(beside)) == (None, False)
        before = {**then, "machine": f"another-boot {space}"}
        assert (owners.alive(before), owners.restarted(before)) == (None, True)

    def test_a_record_of_an_earlier_version_is_read(self) -> None:
        process = psutil.Process()
        old = {"host": os.uname().nodename, "pid": process.pid, "started": process.create_time()}
        assert owners.alive(old)
        assert owners.alive({**old, "started": 1.0}) is False

    @pytest.mark.parametrize(
        "change",
        [
            {"pid": 2**22 + 1},  # killed
            {"ticks": 5},  # its id is another's now
            {"machine": "another-boot pid:[1]"},  # the machine was started again
            {"host": "elsewhere"},  # the folder was carried to another machine
        ],
    )
    def test_what_one_left_on_a_journal_is_queued_again(self, change: dict[str, Any], noise: Path, own: Path) -> None:
        search = stand_in(noise, own)
        with search.opened():
            asked = search._candidates.next(6)
            assert asked is not None
            asked[0].set_user_attr("owner", {**owner(), **change})
        if "host" not in change:
            assert open_study("crash", own).trials()["state"].tolist()[-1] == "interrupted"
        trials = go(stand_in(noise, own))
        assert complete(trials) == 6
        assert trials["architecture"].tolist().count(str(asked[1])) == 2
        assert (trials["state"] == "interrupted").sum() == 1

    def test_a_journal_whose_owner_shows_signs_of_life_elsewhere_is_left_alone(self, noise: Path, own: Path) -> None:
        search = stand_in(noise, own)
        with search.opened():
            asked = search._candidates.next(6)
            assert asked is not None
            asked[0].set_user_attr("owner", {**owner(), "host": "elsewhere"})
        ended = threading.Event()

        def touch() -> None:
            while not ended.wait(0.3):
                os.utime(own / "crash" / "lock")

        thread = threading.Thread(target=touch)
        thread.start()
        try:
            with pytest.raises(UserError, match="is being run on elsewhere"), stand_in(noise, own).opened():
                pass
        finally:
            ended.set()
            thread.join()
        assert open_study("crash", own).trials()["state"].tolist()[-1] == "running"


class TestJournal:
    def _lines(self, runs: Path) -> list[bytes]:
        return (runs / "crash" / JOURNAL).read_bytes().splitlines(keepends=True)

    def _spoil(self, runs: Path, number: int, line: bytes) -> None:
        lines = self._lines(runs)
        lines[number] = line
        (runs / "crash" / JOURNAL).write_bytes(b"".join(lines))

    def _find(self, runs: Path, op_code: int, nth: int) -> int:
        found = [number for number, line in enumerate(self._lines(runs)) if json.loads(line)["op_code"] == op_code]
        return found[nth]

    def test_a_whole_one_is_not_touched(self, own: Path) -> None:
        before = (own / "crash" / JOURNAL).read_bytes()
        assert mend_journal(own / "crash") == []
        assert (own / "crash" / JOURNAL).read_bytes() == before

    def test_a_record_behind_a_torn_one_is_kept(self, noise: Path, own: Path) -> None:
        """What a process did that wrote on after a full disk."""
        whole = self._lines(own)
        self._spoil(own, 20, whole[19][:30] + whole[20])
        with pytest.raises(UserError, match=r"is torn or no journal .*studies.run"):
            open_study("crash", own)
        said: list[str] = []
        trials = go(stand_in(noise, own, say=said.append))
        assert said[0].endswith(f"line 21 was torn; the record behind it is kept; the file as it was: {TORN}")
        assert self._lines(own)[: len(whole)] == whole
        assert complete(trials) == 6
        assert (own / "crash" / TORN).exists()

    @pytest.mark.parametrize("garbage", [b"\0" * 80 + b"\n", b'{"op_code":6,"trial_\n', b"[]\n"])
    def test_a_trial_whose_end_is_lost_is_trained_again(self, garbage: bytes, noise: Path, own: Path) -> None:
        before = open_study("crash", own).trials()
        ends = [
            number
            for number, line in enumerate(self._lines(own))
            if (record := json.loads(line)).get("state") == int(optuna.trial.TrialState.COMPLETE)
            and record.get("trial_id") == 1
        ]
        self._spoil(own, ends[-1], garbage)
        trials = go(stand_in(noise, own, trials=4))
        assert complete(trials) == 4
        assert trials.loc[1, "state"] == "interrupted"
        assert set(trials[trials["state"] == "complete"]["architecture"]) == set(before["architecture"])

    def test_a_trial_whose_beginning_is_lost_leaves_the_others_their_numbers(self, noise: Path, own: Path) -> None:
        before = open_study("crash", own).trials()
        self._spoil(own, self._find(own, 4, 1), b"\xff\xfe\n")
        trials = go(stand_in(noise, own, trials=4))
        columns = ["trial", "architecture", "val_accuracy", "params"]
        others = [0, 2, 3]
        assert trials.loc[others, columns].equals(before.loc[others, columns])
        assert complete(trials) == 4

    def test_a_disk_that_fills_up_leaves_it_whole(self, noise: Path, own: Path) -> None:
        path = own / "crash" / JOURNAL
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        search = stand_in(noise, own)
        try:
            with search.opened():
                resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 700, hard))
                with pytest.raises(OSError, match="File too large"):
                    search.run(lambda seconds, remaining: None, lambda told: None)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert all(json.loads(line) for line in path.read_bytes().splitlines())
        assert path.read_bytes().endswith(b"\n")
        assert complete(open_study("crash", own).trials()) >= 4
        assert complete(go(stand_in(noise, own))) == 6

    def test_a_lock_that_a_killed_writer_left_is_taken_away(self, noise: Path, own: Path) -> None:
        """Optuna's own would be waited for, half a minute."""
        (own / "crash" / f"{JOURNAL}.lock").symlink_to(JOURNAL)
        search = stand_in(noise, own)
        with search.opened():
            assert not (own / "crash" / f"{JOURNAL}.lock").is_symlink()
            search._study.set_user_attr("x", 1)

    def test_looking_changes_nothing(self, own: Path) -> None:
        def files() -> dict[str, tuple[bytes, int]]:
            return {
                str(path): (path.read_bytes(), path.stat().st_mtime_ns)
                for path in sorted((own / "crash").rglob("*"))
                if path.is_file()
            }

        before = files()
        study = open_study("crash", own)
        assert len(study.trials()) == 4
        study.front()
        assert study.run(0).config["trial"] == 0
        assert study.info["budget"] == 32
        assert files() == before
        assert {path.name for path in (own / "crash").iterdir()} == {JOURNAL, "lock", "trials"}

    def test_a_folder_that_can_not_be_written_can_be_looked_at(self, noise: Path, own: Path) -> None:
        """The command says which, without a traceback, and the study goes on when it can be written again."""
        folder = own / "crash"
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        words = ["-m", "benchmarks.stand_in", "--data", str(noise), "--runs", str(own), "--study", "crash"]
        words += ["--trials", "6", "--workers", "1", "--sampler", "random"]
        ran = subprocess.run(
            [sys.executable, *words], preexec_fn=_bound_by_permissions, capture_output=True, text=True, cwd=ROOT
        )
        code = f"from studies import open_study; print(len(open_study('crash', {str(own)!r}).front()))"
        looked = subprocess.run(
            [sys.executable, "-c", code], preexec_fn=_bound_by_permissions, capture_output=True, text=True, cwd=ROOT
        )
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        assert (ran.returncode, "Traceback" in ran.stderr) == (2, False), ran.stderr
        assert "Permission denied" in ran.stderr
        assert looked.returncode == 0, looked.stderr
        assert int(looked.stdout) >= 1
        assert complete(go(stand_in(noise, own))) == 6


def _bound_by_permissions() -> None:
    """Takes root's right to write anywhere (CAP_DAC_OVERRIDE) from the process that is about to start."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP


class TestCode:
    def test_a_study_of_other_code_is_refused_unless_that_is_accepted(self, noise: Path, own: Path) -> None:
        study = optuna.load_study(study_name="crash", storage=open_storage(own / "crash"))
        assert study.user_attrs["code"] == code_digest()
        study.set_user_attr("code", "0" * 64)
        words = r"made by other code .*digest 000000000000, revision .*--accept-code"
        with pytest.raises(UserError, match=words), stand_in(noise, own).opened():
            pass
        said: list[str] = []
        assert complete(go(stand_in(noise, own, accept_code=True, say=said.append))) == 6
        assert "goes on with other code: digest 000000000000" in said[0]
        with stand_in(noise, own).opened():
            pass

    def test_what_changes_no_result_changes_no_digest(self) -> None:
        one = 'def f(x: int) -> int:\n    """Twice."""\n    return 2 * x\n'
        other = "# twice\ndef f(\n    x: int,\n) -> int:\n    return 2 * x  # so\n"
        assert _shape(ast.parse(one)) == _shape(ast.parse(other))
        assert _shape(ast.parse(one)) != _shape(ast.parse(one.replace("2", "3")))
        assert _shape(ast.parse(one)) != _shape(ast.parse(one.replace("2 * x", "2 + x")))


def test_networks_of_too_many_bytes_are_recorded_and_not_trained(noise: Path, tmp_path: Path) -> None:
    trials = go(stand_in(noise, tmp_path, max_bytes=40_000, precision="int8"))
    assert set(trials[trials["preset"].notna()]["state"]) == {"over_cap"}
    assert trials[trials["state"] == "complete"]["params"].max() <= 40_000
    study = open_study("crash", tmp_path)
    first = study._study.trials[0]
    assert first.constraints == {"bytes": pytest.approx(first.user_attrs["params"] / 40_000 - 1)}
    assert (study.info["max_bytes"], study.info["precision"]) == (40_000, "int8")
    with pytest.raises(UserError, match="precision: 'int8', now 'float16'"):
        go(stand_in(noise, tmp_path, max_bytes=40_000))
    with pytest.raises(UserError, match=r"--max-bytes 100 of float32 params: the least is 6,"):
        stand_in(noise, tmp_path, max_bytes=100, precision="float32")
