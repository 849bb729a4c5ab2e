"""Jobs: what is said of a retraining is true, whatever became of its process."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from search_space.errors import UserError
from studies import jobs
from studies.jobs import Job
from trainers.config import RECIPES
from trainers.runs import Run


def wait_for(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Look again until the condition holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.05)


@pytest.fixture
def run(tmp_path) -> Run:
    """The still empty folder of a retraining."""
    run = Job("study", tmp_path, trial=17).run
    run.path.mkdir(parents=True)
    return run


@pytest.fixture
def sleeper() -> Iterator[psutil.Process]:
    """A process that lives as long as the test, in the place of a training."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield psutil.Process(process.pid)
        process.kill()


def identity(process: psutil.Process) -> dict[str, float]:
    return {"pid": process.pid, "pid_started": process.create_time()}


def write_status(run: Run, state: str, process: psutil.Process, **fields: object) -> None:
    """A status as a training in another process writes it."""
    run.write_json(
        "status.json",
        {"state": state, "epoch": 3, "epochs": 60, "eta_s": 12.5, **identity(process), **fields},
    )


def test_a_job_names_its_folder_and_its_command(tmp_path):
    job = Job("esc10", tmp_path, trial=17, recipe="paper", epochs=60, seed=2)
    assert job.run.path == tmp_path / "esc10" / "retrain" / "00017-paper-e60-s2"
    assert jobs.job_of(job.run) == job
    assert job.shell(resume=True) == (
        f"python -m trainers.retrain --study esc10 --trial 17 --runs {tmp_path} --epochs 60 --recipe paper --seed 2 --resume"
    )
    chosen = dataclasses.replace(job, device="cuda:1")
    assert "--device cuda:1" in chosen.shell()
    assert "--device cuda:1" in chosen.shell(resume=True)


def test_a_job_is_as_long_as_its_recipe_is_made_for(tmp_path):
    assert [Job("s", tmp_path, 1, recipe=name).epochs for name in ("strong", "paper")] == [60, 200]
    assert list(jobs.RECIPES) == list(RECIPES)
    assert Job("s", tmp_path, 1, recipe="paper", epochs=7).run.path.name == "00001-paper-e7-s0"
    with pytest.raises(UserError, match="unknown recipe 'long'"):
        Job("s", tmp_path, 1, recipe="long")


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "", ".hidden", "x" * 65, "a;b"])
def test_a_job_stays_inside_its_runs(tmp_path, name):
    with pytest.raises(UserError, match="a study's name"):
        _ = Job(name, tmp_path, trial=0).run


def test_another_folder_is_no_job(tmp_path):
    with pytest.raises(UserError, match="no retraining's folder"):
        jobs.job_of(Run(tmp_path / "notes"))


def test_a_living_process_is_running(run, sleeper):
    write_status(run, "running", sleeper)
    assert jobs.state(run) == jobs.State("running", epoch=3, epochs=60, eta_s=12.5)
    assert jobs.state(run).active


def test_a_run_whose_process_is_gone_is_stopped_and_can_be_resumed(run, sleeper):
    write_status(run, "running", sleeper)
    sleeper.kill()
    wait_for(lambda: jobs.state(run).name == "stopped", timeout_s=5)
    assert jobs.state(run).resumable


def test_another_process_with_the_same_id_is_not_taken_for_the_run(run, sleeper):
    write_status(run, "running", sleeper, pid_started=sleeper.create_time() - 1000)
    assert jobs.state(run).name == "stopped"
    jobs.cancel(run)
    assert sleeper.is_running()


@pytest.mark.parametrize(("name", "resumable"), [("finished", False), ("interrupted", True), ("failed", True)])
def test_a_run_that_ended_says_how(run, sleeper, name, resumable):
    write_status(run, name, sleeper, error="no memory" if name == "failed" else None)
    state = jobs.state(run)
    assert (state.name, state.active, state.resumable) == (name, False, resumable)
    assert state.error == ("no memory" if name == "failed" else None)


def test_a_process_that_has_not_said_anything_yet_is_starting(run, sleeper):
    run.write_json("job.json", identity(sleeper))
    assert jobs.state(run).name == "starting"
    write_status(run, "stopped", psutil.Process())  # an earlier process's words do not count
    assert jobs.state(run).name == "starting"


def test_a_process_that_died_before_its_first_word_has_failed(run, sleeper):
    run.write_json("job.json", identity(sleeper) | {"pid_started": 1.0})
    (run.path / "log.txt").write_text("...\nerror: the data is gone\n")
    assert jobs.state(run) == jobs.State("failed", error="...\nerror: the data is gone")


@pytest.mark.parametrize("before", ["running", "interrupted", "failed"])
def test_a_resumed_process_that_died_before_its_first_word_has_failed(run, sleeper, before):
    """What stands in the status is of the process before it."""
    write_status(run, before, sleeper, pid=1, pid_started=1.0, error="no memory" if before == "failed" else None)
    (run.path / "log.txt").write_text("error: the data is not what it was\n")
    run.write_json("job.json", identity(sleeper))
    assert jobs.state(run).name == "starting"
    sleeper.kill()
    wait_for(lambda: not jobs.state(run).active, timeout_s=5)
    state = jobs.state(run)
    assert (state.name, state.epoch, state.error) == ("failed", 3, "error: the data is not what it was")
    assert state.resumable
    time.sleep(0.02)  # two files of one tick of the clock are in no order
    write_status(run, "interrupted", psutil.Process())  # then it was resumed from a shell
    assert jobs.state(run).name == "interrupted"


def test_a_resumed_process_does_not_unmake_a_finished_run(run):
    write_status(run, "finished", psutil.Process())
    run.write_json("job.json", {"pid": 1, "pid_started": 1.0})
    assert jobs.state(run).name == "finished"


def test_a_process_cancelled_before_its_first_word_is_interrupted(run, sleeper):
    write_status(run, "interrupted", sleeper, pid=1, pid_started=1.0)
    run.write_json("job.json", identity(sleeper))
    jobs.cancel(run)
    assert sleeper.wait(5) == -signal.SIGTERM
    assert jobs.state(run) == jobs.State("interrupted", epoch=3, epochs=60, eta_s=12.5)


@pytest.mark.parametrize("name", ["running", "interrupted", "stopped", "failed"])
def test_a_run_of_a_recipe_that_is_gone_is_shown_and_not_resumed(tmp_path, name):
    run = Run(tmp_path / "study" / "retrain" / "00017-long-e60-s0")
    write_status(run, name, psutil.Process(), pid_started=1.0)
    state = jobs.state(run)
    assert (state.epoch, state.resumable) == (3, False)
    assert "its recipe 'long' does not exist any more" in (state.barred or "")
    assert jobs.job_of(run).run.path == run.path
    with pytest.raises(UserError, match=r"is there already \(\w+\); it can not be resumed, for its recipe 'long'"):
        jobs.start_retrain(jobs.job_of(run), resume=True)
    write_status(run, "finished", psutil.Process())
    assert jobs.state(run).barred is None


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", '{"state": "dancing"}', '{"state": "running", "epoch": "x"}', '{"state": 3, "pid": "x"}'],
)
def test_a_torn_record_is_corrupt(run, text):
    (run.path / "status.json").write_text(text)
    state = jobs.state(run)
    assert state.name == "corrupt"
    assert state.error
    assert not state.active
    assert not state.resumable


def test_cancel_ends_the_process(run, sleeper):
    write_status(run, "running", sleeper)
    jobs.cancel(run)
    assert sleeper.wait(5) == -signal.SIGTERM
    jobs.cancel(run)


def test_a_job_at_work_is_not_started_twice(run, sleeper):
    write_status(run, "running", sleeper)
    with pytest.raises(UserError, match=r"is there already \(running\)"):
        jobs.start_retrain(jobs.job_of(run))
    write_status(run, "finished", sleeper)
    with pytest.raises(UserError, match=r"is there already \(finished\)"):
        jobs.start_retrain(jobs.job_of(run), resume=True)


def test_a_job_that_can_not_begin_fails_with_its_own_words(tmp_path):
    run = jobs.start_retrain(Job("nothing", tmp_path, trial=3))
    assert jobs.state(run).name in ("starting", "failed")
    wait_for(lambda: not jobs.state(run).active)
    state = jobs.state(run)
    assert state.name == "failed"
    assert "has no trained trial 3" in (state.error or "")


def test_a_job_outlives_its_starter_is_cancelled_and_resumed(tiny_study: tuple[Path, str], tmp_path):
    runs, name = tmp_path / "runs", tiny_study[1]
    shutil.copytree(tiny_study[0] / name, runs / name)
    starter = (
        "import sys; from pathlib import Path; from studies.jobs import *\n"
        "start_retrain(Job(sys.argv[1], Path(sys.argv[2]), trial=0, recipe='short', epochs=500))"
    )
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", starter, name, str(runs)], check=True, cwd=root)
    job = Job(name, runs, trial=0, recipe="short", epochs=500)
    wait_for(lambda: jobs.state(job.run).epoch >= 1)
    assert jobs.state(job.run).name == "running"
    jobs.cancel(job.run)
    wait_for(lambda: not jobs.state(job.run).active)
    ended = jobs.state(job.run)
    assert ended.name == "interrupted"
    jobs.start_retrain(job, resume=True)
    wait_for(lambda: jobs.state(job.run).epoch > ended.epoch)
    os.kill(job.run.status["pid"], signal.SIGKILL)
    wait_for(lambda: jobs.state(job.run).name == "stopped")
    epochs = [row["epoch"] for row in job.run.metrics()]
    assert epochs == list(range(1, len(epochs) + 1))
