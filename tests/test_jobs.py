"""Jobs: what is said of a retraining is true, whatever became of its process."""

import dataclasses
import json
import math
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

from search_space import count
from search_space.errors import UserError
from studies import jobs, open_study
from studies.estimates import estimate, line, queue
from studies.jobs import Job, is_retraining, job_of, state
from trainers.config import RECIPES
from trainers.runs import Run
from trainers.teaching import parsed


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


def test_progress_grows_within_an_epoch(run, sleeper):
    write_status(run, "running", sleeper, clips_seen=350)
    assert jobs.state(run).done == 3 / 60  # how many clips there will be is not known
    run.write_json("run.json", {"clips": 6000})
    assert jobs.state(run).done == 350 / 6000
    write_status(run, "interrupted", sleeper, clips_seen=350)
    assert jobs.state(run).done == 3 / 60


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


def entry(**changes: object) -> dict[str, object]:
    """What stands in job.json of a job that waits."""
    return {"state": "queued", "since": 1.0, "resume": False, "device": "auto", "before": None, **changes}


class TestOptions:
    """A retraining with a teacher, pruning or int8 lies in a folder of its own and is gone on with as it began."""

    def test_its_folder_says_what_it_makes_of_the_network(self, tmp_path: Path) -> None:
        job = Job("s", tmp_path, 3, options=("--prune", "0.5", "--prune-steps", "8", "--precision", "int8-ptq"))
        assert job.run.path.name == "00003-strong-pruned0.5x8-int8-ptq-e60-s0"
        assert job.command()[-6:] == ["--prune", "0.5", "--prune-steps", "8", "--precision", "int8-ptq"]
        assert is_retraining(job.run)

    def test_its_options_come_from_its_record(self, tmp_path: Path) -> None:
        job = Job(
            "s",
            tmp_path,
            3,
            recipe="joint-gram",
            options=("--precision", "int8-ptq", "--teacher", str(_teacher(tmp_path))),
        )
        job.run.path.mkdir(parents=True)
        assert job_of(job.run).options == ()  # nothing says them
        recipe = parsed("joint-gram", job.options).record()
        job.run.write_json("run.json", {"recipe": recipe})
        again = job_of(job.run)
        assert (again.recipe, again.label, again.run.path) == ("joint-gram", job.label, job.run.path)
        assert parsed(again.recipe, again.options) == parsed(job.recipe, job.options)
        job.run.write_json("job.json", {"pid": 1, "pid_started": 0.0, "options": ["--runs", "/elsewhere"]})
        assert job_of(job.run).options == ()  # words of another kind are no options

    def test_one_whose_teacher_is_gone_is_barred(self, tmp_path: Path) -> None:
        teacher = _teacher(tmp_path)
        job = Job("s", tmp_path, 3, recipe="taught", options=("--teacher", str(teacher)))
        job.run.path.mkdir(parents=True)
        job.run.write_json("run.json", {"recipe": parsed("taught", job.options).record()})
        job.run.write_status("interrupted", epoch=1, epochs=2)
        assert state(job.run).barred is None
        (teacher / "weights.safetensors").unlink()
        assert "its teacher is gone" in (state(job.run).barred or "")

    def test_other_options_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="are no options of a training"):
            Job("s", tmp_path, 3, options=("--runs", "/elsewhere"))


def _teacher(folder: Path) -> Path:
    """What looks like a finished run from outside."""
    path = folder / "teacher"
    path.mkdir(exist_ok=True)
    (path / "run.json").write_text('{"architecture": "dssdn-small"}')
    (path / "weights.safetensors").write_bytes(b"weights")
    return path


class TestQueue:
    def test_a_job_waits_for_the_one_at_work_and_for_a_worker_that_lives(self, tmp_path, sleeper):
        busy, job = Job("study", tmp_path, trial=1), Job("study", tmp_path, trial=2, seed=3)
        busy.run.path.mkdir(parents=True)
        write_status(busy.run, "running", sleeper)
        jobs.enqueue(job)
        assert jobs.state(job.run) == jobs.State("queued")
        assert jobs.queued(tmp_path) == [job]
        with pytest.raises(UserError, match=r"is there already \(queued\)"):
            jobs.enqueue(job)
        wait_for(lambda: jobs._worker(tmp_path) is not None)
        first = jobs._worker(tmp_path)
        assert first is not None
        jobs.attend(tmp_path)
        assert jobs._worker(tmp_path) == first
        with pytest.raises(UserError, match=f"process {first} works on the queue"):
            jobs.work_off(tmp_path)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: jobs._worker(tmp_path) is None)
        jobs.attend(tmp_path)  # as any page does that looks
        second = jobs._worker(tmp_path)
        assert second not in (None, first)
        assert jobs.state(job.run).name == "queued"
        sleeper.kill()
        wait_for(lambda: jobs.state(job.run).name == "failed")
        assert "has no trained trial 2" in (jobs.state(job.run).error or "")
        wait_for(lambda: jobs._worker(tmp_path) is None)
        assert not (tmp_path / ".queue.json").exists()

    def test_what_is_cancelled_while_it_waits_was_never_there(self, run):
        run.write_json("job.json", entry())
        jobs.cancel(run)
        assert jobs.queued(run.path.parents[2]) == []
        assert jobs._runs(run.path.parents[1]) == []
        assert not jobs.is_begun(jobs.job_of(run))

    def test_one_that_waits_and_runs_from_a_shell_is_ended(self, run, sleeper):
        run.write_json("job.json", entry())
        write_status(run, "running", sleeper)
        jobs.cancel(run)
        assert sleeper.wait(5) == -signal.SIGTERM
        assert jobs.queued(run.path.parents[2]) == []

    def test_a_resumption_that_is_cancelled_leaves_what_was(self, run, sleeper):
        write_status(run, "interrupted", sleeper, pid=1, pid_started=1.0)
        run.write_json("job.json", entry(resume=True, before={"pid": 1, "pid_started": 1.0, "cancelled": True}))
        assert jobs.state(run) == jobs.State("queued", epoch=3, epochs=60, eta_s=12.5)
        jobs.cancel(run)
        assert jobs.state(run).name == "interrupted"
        assert jobs.state(run).resumable

    @pytest.mark.parametrize(("name", "seen"), [("running", "running"), ("finished", "finished"), ("failed", "queued")])
    def test_a_run_that_somebody_else_trains_does_not_wait(self, run, sleeper, name, seen):
        run.write_json("job.json", entry())
        write_status(run, name, sleeper)
        assert jobs.state(run).name == seen

    def test_turns_are_taken_in_the_order_of_asking_across_studies(self, tmp_path):
        for since, study, trial, device in ((3.0, "a", 1, "auto"), (1.0, "b", 2, "cuda:1"), (2.0, "a", 3, "cpu")):
            run = Job(study, tmp_path, trial).run
            run.path.mkdir(parents=True)
            run.write_json("job.json", entry(since=since, device=device))
        found = jobs.queued(tmp_path)
        assert [(job.study, job.trial, job.device) for job in found] == [
            ("b", 2, "cuda:1"),
            ("a", 3, "cpu"),
            ("a", 1, "auto"),
        ]

    @pytest.mark.parametrize(
        "text",
        [
            "{",
            "[1]",
            "3",
            "[" * 100_000,
            '{"state": "dancing"}',
            '{"state": "queued"}',
            '{"state": ["queued"], "since": 1.0}',
            '{"state": "queued", "since": 1.0, "resume": false, "before": null, "device": "cpu; rm -r /"}',
            '{"state": "queued", "since": "now", "resume": false, "before": null, "device": "cpu"}',
            '{"state": "queued", "since": 1.0, "resume": "yes", "before": null, "device": "cpu"}',
            '{"pid": -1, "pid_started": 1.0}',
            '{"pid": "1", "pid_started": 1.0}',
        ],
    )
    def test_a_record_of_another_shape_is_corrupt_and_starts_nothing(self, run, text):
        (run.path / "job.json").write_text(text)
        state = jobs.state(run)
        assert (state.name, state.active, state.resumable) == ("corrupt", False, False)
        assert state.error
        assert jobs.queued(run.path.parents[2]) == []
        assert jobs.work_off(run.path.parents[2]) == []

    def test_folders_of_others_are_left_alone(self, tmp_path):
        for name in ("notes", "00001-strong-e60-s0", "00001-strong-e60-s0.bak", "00002-strong-e0-s0", "..."):
            (tmp_path / "study" / "retrain" / name).mkdir(parents=True)
            (tmp_path / "study" / "retrain" / name / "job.json").write_text(json.dumps(entry()))
        (tmp_path / "study" / "retrain" / "00003-strong-e60-s0").write_text("a file")
        (tmp_path / ".hidden" / "retrain" / "00001-strong-e60-s0").mkdir(parents=True)
        assert [job.trial for job in jobs.queued(tmp_path)] == [1]
        assert [run.path.name for run in jobs._runs(tmp_path / "study")] == ["00001-strong-e60-s0"]

    @pytest.mark.parametrize("name", ["log.txt", "job.lock"])
    def test_one_whose_folder_can_not_be_written_does_not_hold_up_the_next(self, tmp_path, monkeypatch, name):
        monkeypatch.setattr(jobs, "_LOOK_S", 0.1)
        spoilt, whole = (Job("study", tmp_path, trial=trial) for trial in (1, 2))
        for since, job in enumerate((spoilt, whole)):
            job.run.path.mkdir(parents=True)
            job.run.write_json("job.json", entry(since=float(since)))
        (spoilt.run.path / name).mkdir()
        assert [job.trial for job in jobs.work_off(tmp_path)][-1] == 2
        wait_for(lambda: jobs.state(whole.run).name == "failed")
        assert "has no trained trial 2" in (jobs.state(whole.run).error or "")
        assert jobs.state(spoilt.run).name in ("failed", "queued")

    @pytest.mark.parametrize("linked", ["study", "study/retrain", "study/retrain/00001-strong-e60-s0"])
    def test_what_lies_elsewhere_is_not_started(self, tmp_path, linked):
        job = Job("study", tmp_path / "elsewhere", trial=1)
        job.run.path.mkdir(parents=True)
        job.run.write_json("job.json", entry())
        place = tmp_path / "runs" / linked
        place.parent.mkdir(parents=True)
        place.symlink_to(tmp_path / "elsewhere" / linked)
        assert jobs.queued(tmp_path / "runs") == []
        assert jobs._runs(tmp_path / "runs" / "study") == []
        assert jobs.queued(tmp_path / "elsewhere") == [job]

    @pytest.mark.parametrize("linked", ["study", "study/retrain", "study/retrain/00001-strong-e60-s0"])
    def test_what_lies_elsewhere_is_not_at_work(self, tmp_path, linked):
        job, me = Job("study", tmp_path / "elsewhere", trial=1), psutil.Process()
        job.run.path.mkdir(parents=True)
        job.run.write_json("status.json", {"state": "running", "pid": me.pid, "pid_started": me.create_time()})
        place = tmp_path / "runs" / linked
        place.parent.mkdir(parents=True)
        place.symlink_to(tmp_path / "elsewhere" / linked)
        assert jobs.at_work(tmp_path / "runs") == []
        assert jobs.at_work(tmp_path / "elsewhere") == [job]

    @pytest.mark.parametrize("device", ["gpu", "cpu --resume", "cuda:x", "", "cuda:1;ls"])
    def test_a_strange_device_is_refused(self, tmp_path, device):
        with pytest.raises(UserError, match="a device is auto, cpu"):
            jobs.enqueue(Job("study", tmp_path, trial=1, device=device))

    def test_the_command_ends_where_nothing_waits(self, tmp_path, capsys):
        assert jobs.main(["--runs", str(tmp_path), "--json"]) == 0
        assert capsys.readouterr().out == '{"started": []}\n'
        with pytest.raises(UserError, match="is no folder"):
            jobs.main(["--runs", str(tmp_path / "nothing")])
        with pytest.raises(UserError, match="--at-once is at least 1"):
            jobs.main(["--runs", str(tmp_path), "--at-once", "0"])


def write_finished(job: Job, val: float, test: object, seconds: float = 2.0) -> Run:
    """A finished retraining's folder, as far as it is read here."""
    run = job.run
    run.path.mkdir(parents=True)
    run.write_json("run.json", {"architecture": "dssdn_c8-8_r1_sc_h64", "params": 1000, "macs": 5000})
    for epoch in (1, 2):
        run.append_metrics({"epoch": epoch, "clips_seen": 10 * epoch, "seconds": seconds, "val_accuracy": val})
    run.write_json("scores.json", {"accuracy": test})
    run.write_status("finished", epoch=job.epochs, epochs=job.epochs)
    return run


class TestRetrained:
    def test_finished_retrainings_are_a_frame(self, own_study):
        study = open_study("tiny", own_study)
        assert jobs.retrained(study).columns.tolist() == jobs.RETRAINED
        for seed in (0, 1):
            write_finished(Job("tiny", own_study, 1, epochs=2, seed=seed), val=0.5, test=0.6 + 0.1 * seed)
        write_finished(Job("tiny", own_study, 2, epochs=2), val=0.5, test="high")
        write_finished(Job("tiny", own_study, 2, epochs=3), val=0.5, test=7.0)
        write_finished(Job("tiny", own_study, 3, epochs=2), val=0.5, test=0.5).write_status(
            "running", epoch=1, epochs=2
        )
        (write_finished(Job("tiny", own_study, 0, epochs=2), val=0.5, test=0.5).path / "scores.json").write_text("{")
        found = jobs.retrained(study)
        assert found[["trial", "seed", "epochs"]].to_numpy().tolist() == [[1, 0, 2], [1, 1, 2]]
        assert found["test_accuracy"].tolist() == pytest.approx([0.6, 0.7])
        assert found[["val_accuracy", "params", "macs"]].iloc[0].tolist() == [0.5, 1000, 5000]

    def test_what_comes_before_is_added_up(self, own_study):
        study = open_study("tiny", own_study)
        assert queue(study) == (0, 0.0)
        me = psutil.Process()
        run = Job("tiny", own_study, 0, epochs=2).run
        run.path.mkdir(parents=True)
        run.write_json(
            "status.json", {"state": "running", "pid": me.pid, "pid_started": me.create_time(), "eta_s": 90.0}
        )
        waits = Job("tiny", own_study, 1, epochs=10)
        entry = {"state": "queued", "since": time.time(), "resume": False, "device": "auto", "before": None}
        waits.run.path.mkdir(parents=True)
        waits.run.write_json("job.json", entry)
        assert queue(study) == (2, pytest.approx(90.0 + estimate(study, [waits]).seconds))
        other = Job("other", own_study, 0, epochs=10).run
        other.path.mkdir(parents=True)
        other.write_json("job.json", entry)
        found = queue(study)
        assert found.number == 3
        assert math.isnan(found.seconds)

    def test_a_guess_rests_on_the_search_then_on_what_was_retrained(self, own_study):
        study = open_study("tiny", own_study)
        job = Job("tiny", own_study, 1, epochs=10)
        searched = estimate(study, [job])
        assert searched.seconds > 0
        assert searched.devices == ("cpu",)
        assert "the search's own training" in searched.basis
        assert estimate(study, [job, Job("tiny", own_study, 1, epochs=20)]).seconds == pytest.approx(
            3 * searched.seconds
        )
        run = write_finished(Job("tiny", own_study, 2, epochs=2), val=0.5, test=0.5)
        other = estimate(study, [job])
        assert other.basis == "finished retrainings of this study"
        assert other.seconds != searched.seconds
        assert estimate(study, [Job("tiny", own_study, 2)]).basis == "finished retrainings of the same networks"
        (run.path / "metrics.jsonl").write_text("[]\n")
        for place in (own_study / "tiny" / "trials").glob("*/metrics.jsonl"):
            place.unlink()  # the trials' own seconds are left
        assert estimate(study, [job]).seconds > 0

    def test_what_a_clip_costs_beside_its_macs_does_not_grow_with_the_input(self, own_study):
        """Curves made up of 2 ms a clip and 1 ns a MAC, after a first epoch that took a hundred times as long."""
        study = open_study("tiny", own_study)
        info, macs = study.info, {}
        for trial, text in study.trials()[["trial", "architecture"]].itertuples(index=False):
            small, whole = (count(text, tuple(info[size]), 3).macs for size in ("train_input", "input"))
            macs[trial] = whole
            seconds = 20 * (2e-3 + 1e-9 * small)
            rows = [{"clips_seen": 20 * i, "seconds": 100 * seconds if i == 1 else seconds} for i in (1, 2, 3)]
            (study.run(trial).path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        counts = info["data"]["counts"]
        for trial, whole in macs.items():
            seconds = 10 * (counts["train"] + counts["val"] / 3) * (2e-3 + 1e-9 * whole)
            assert estimate(study, [Job("tiny", own_study, trial, epochs=10)]).seconds == pytest.approx(seconds)
        # A retraining of one network, three times as slow as that: the others will be, too.
        first, *others = macs
        run = write_finished(Job("tiny", own_study, first, epochs=2), val=0.5, test=0.5)
        run.write_json("run.json", {**run.config, "macs": macs[first]})
        took = 20 * 3 * (2e-3 + 1e-9 * macs[first])
        (run.path / "metrics.jsonl").write_text(
            "".join(
                json.dumps({**row, "clips_seen": 20 * i, "seconds": took}) + "\n"
                for i, row in enumerate(run.metrics(), 1)
            )
        )
        for trial in others:
            seconds = 3 * 10 * (counts["train"] + counts["val"] / 3) * (2e-3 + 1e-9 * macs[trial])
            assert estimate(study, [Job("tiny", own_study, trial, epochs=10)]).seconds == pytest.approx(seconds)

    def test_a_line_needs_three_networks_and_never_falls(self):
        assert line([(1.0, 5.0), (2.0, 7.0), (4.0, 11.0)]) == pytest.approx((3.0, 2.0))
        assert line([(1.0, 5.0), (2.0, 4.0), (4.0, 3.0)])[1] == 0.0
        assert line([(2.0, 6.0), (2.0, 8.0), (4.0, 16.0)]) == pytest.approx((0.0, 4.0))
        assert math.isnan(line([])[0])
