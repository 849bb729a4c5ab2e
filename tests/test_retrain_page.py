"""The retraining page, run by streamlit's own `AppTest`: what it queues, what it says of jobs whole, torn and foreign."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.trial import TrialState, create_trial
from pages import main_module_is_given_back, metrics, page, runs, texts

from studies import jobs
from studies.jobs import Job
from studies.storage import open_storage
from trainers.runs import Run

__all__ = ["main_module_is_given_back", "page", "runs"]

TORN = "This part of the record can not be shown."


def retraining(runs: Path, trial: int = 1, **fields: object) -> Path:
    """The folder of a retraining whose status is this."""
    path = Job("tiny", runs, trial=trial).run.path
    path.mkdir(parents=True)
    (path / "status.json").write_text(json.dumps({"epoch": 3, "epochs": 60, "eta_s": 90.0, **fields}))
    return path


class TestForm:
    def test_without_a_choice_there_is_nothing_to_start(self, page):
        app = page("retrain", study="tiny")
        assert not app.exception
        assert app.multiselect(key="networks").value == []
        assert not [button for button in app.button if button.key == "retrain"]
        assert "No network of this study has been retrained yet." in texts(app)

    def test_without_a_study_it_says_how_to_make_one(self, page, tmp_path):
        app = page("retrain", folder=tmp_path / "empty")
        assert not app.exception
        assert "python -m studies.run" in texts(app)

    def test_the_address_chooses_one_or_several(self, page):
        app = page("retrain", study="tiny", trial="2", trials="3,1")
        assert not app.exception
        assert app.multiselect(key="networks").value == [2, 3, 1]
        assert "**3 trainings: about" in texts(app)
        assert "the search's own training" in texts(app)

    def test_a_choice_is_written_into_the_address(self, page):
        app = page("retrain", study="tiny", trial="2").multiselect(key="networks").set_value([3, 0]).run()
        assert not app.exception
        assert app.query_params["trials"] == "3,0"
        assert "trial" not in app.query_params
        assert app.multiselect(key="networks").set_value([]).run().multiselect(key="networks").value == []

    @pytest.mark.parametrize("trials", ["99", "-1,x", "1; rm -r /", "../1", "9" * 4000, "<b>"])
    def test_strange_trials_in_the_address_are_refused(self, page, trials):
        app = page("retrain", study="tiny", trials=trials)
        assert not app.exception
        assert app.warning
        assert app.multiselect(key="networks").value == []

    def test_the_epochs_follow_the_recipe_and_the_seeds_multiply(self, page):
        app = page("retrain", study="tiny", trial="1")
        assert app.number_input(key="epochs-strong").value == 60
        app = app.selectbox(key="recipe").set_value("paper").run()
        assert not app.exception
        assert "--epochs 200 --recipe paper" in texts(app)
        app = app.selectbox(key="recipe").set_value("strong").run().number_input(key="seeds").set_value(2).run()
        assert "--epochs 60 --recipe strong --seed 0\npython" in texts(app)
        assert "--recipe strong --seed 1" in texts(app)

    def test_a_teacher_pruning_and_int8_are_words_of_the_command(self, page, runs):
        weights = runs / "tiny" / "trials" / "00002" / "weights.safetensors"
        weights.parent.mkdir(parents=True, exist_ok=True)
        if not weights.exists():
            weights.write_bytes(b"weights")
        app = page("retrain", study="tiny", trial="1")
        assert "taught" not in app.selectbox(key="recipe").options
        app = app.selectbox(key="teacher").set_value(str(weights.parent)).run()
        assert "taught" in app.selectbox(key="recipe").options
        app.number_input(key="prune").set_value(0.5)
        app = app.selectbox(key="precision").set_value("int8-ptq").run()
        assert not app.exception
        told = texts(app)
        assert f"--teacher {weights.parent} --prune 0.5 --prune-steps 8 --precision int8-ptq" in told
        app = app.selectbox(key="features").set_value("gram").run()
        assert "leave --features and --multitask out" in texts(app)

    def test_what_is_there_is_not_begun_again(self, page, runs):
        retraining(runs, state="interrupted")
        app = page("retrain", study="tiny", trial="1")
        assert not app.exception
        assert "1 of 1 is in the list below already" in texts(app)
        assert app.button(key="retrain").disabled

    def test_a_torn_trial_can_be_asked_for_without_a_guess(self, page, runs):
        (runs / "tiny" / "trials" / "00001" / "run.json").write_text("{")
        app = page("retrain", study="tiny", trial="1")
        assert not app.exception
        assert "how long that takes is not known" in texts(app)
        assert not app.button(key="retrain").disabled

    def test_what_can_not_be_queued_is_said_not_to_be_done(self, page, runs):
        app = page("retrain", study="tiny", trial="1")
        (Job("tiny", runs, trial=1).run.path / "job.lock").mkdir(parents=True)
        app.button(key="retrain").click().run()
        assert not app.exception
        assert [warning.value for warning in app.warning] == ["That could not be done."]
        assert "can not be written" in texts(app)

    def test_the_guess_names_its_device_and_what_comes_before(self, page, runs):
        me = psutil.Process()
        retraining(runs, state="running", pid=me.pid, pid_started=me.create_time())
        app = page("retrain", study="tiny", trial="2")
        assert not app.exception
        assert " on cpu, estimated from the search's own training" in texts(app)
        assert "1 other comes before, for about 1 min 30 s more." in texts(app)
        assert "nothing of this study was measured" not in texts(app)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dashboard.retraining._devices", lambda: ["auto", "cpu", "cuda:0"])
            app = page("retrain", study="tiny", trial="2").selectbox(key="device").set_value("cuda:0").run()
        assert "On cuda:0 nothing of this study was measured." in texts(app)

    def test_failed_trials_are_not_offered(self, page, runs):
        study = optuna.load_study(study_name="tiny", storage=open_storage(runs / "tiny"))
        study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"architecture": "<b>x</b>", "error": "x"}))
        app = page("retrain", study="tiny", trials="4")
        assert not app.exception
        assert len(app.multiselect(key="networks").options) == 4
        assert app.multiselect(key="networks").value == []


class TestJobs:
    def test_one_whose_process_is_gone_is_stopped_and_can_be_resumed(self, page, runs):
        retraining(runs, state="running", pid=psutil.Process().pid, pid_started=1.0)
        app = page("retrain", trial="1")
        assert not app.exception
        assert "stopped: its process is gone" in texts(app)
        assert app.button(key="resume-00001-strong-e60-s0")

    def test_what_can_not_be_resumed_is_said_not_to_be_done(self, page, runs):
        path = retraining(runs, state="interrupted")
        app = page("retrain", trial="1")
        (path / "job.lock").mkdir()
        app.button(key="resume-00001-strong-e60-s0").click().run()
        assert not app.exception
        assert [warning.value for warning in app.warning] == ["That could not be done."]
        assert "can not be written" in texts(app)

    def test_one_of_a_recipe_that_is_gone_is_shown_with_the_reason(self, page, runs):
        retraining(runs, state="interrupted").rename(runs / "tiny" / "retrain" / "00001-long-e60-s0")
        app = page("retrain", study="tiny", trial="1")
        assert not app.exception
        assert "**long** recipe" in texts(app)
        assert "its recipe 'long' does not exist any more" in texts(app)
        assert not [button for button in app.button if button.label == "Resume"]

    def test_a_running_one_tells_its_progress_and_can_be_cancelled(self, page, runs):
        me = psutil.Process()
        retraining(runs, state="running", pid=me.pid, pid_started=me.create_time())
        app = page("retrain", trial="1")
        assert not app.exception
        assert app.get("progress")[0].proto.text == "epoch 3 of 60, about 1 min 30 s left"
        assert app.button(key="cancel-00001-strong-e60-s0")

    def test_the_chosen_networks_come_first(self, page, runs):
        retraining(runs, trial=1, state="interrupted")
        retraining(runs, trial=2, state="interrupted")
        for trial in (1, 2):
            app = page("retrain", study="tiny", trial=str(trial))
            named = [element.value for element in app.markdown if "**strong** recipe" in element.value]
            assert [f"trial {number} " in name for number, name in zip((trial, 3 - trial), named, strict=True)] == [
                True,
                True,
            ]

    def test_one_that_waits_can_be_cancelled(self, page, runs):
        me = psutil.Process()
        retraining(runs, trial=1, state="running", pid=me.pid, pid_started=me.create_time())
        jobs.enqueue(Job("tiny", runs, trial=2))
        app = page("retrain", study="tiny")
        assert not app.exception
        assert "queued" in texts(app)
        app = app.button(key="cancel-00002-strong-e60-s0").click().run()
        assert not app.exception
        assert "queued" not in texts(app)
        assert jobs.queued(runs) == []

    def test_a_resumption_waits_for_its_turn_and_a_second_tab_sees_it(self, page, runs):
        me = psutil.Process()
        retraining(runs, trial=1, state="running", pid=me.pid, pid_started=me.create_time())
        retraining(runs, trial=2, state="interrupted")
        app = page("retrain", study="tiny").button(key="resume-00002-strong-e60-s0").click().run()
        assert not app.exception
        other = page("retrain", study="tiny")
        assert [job.trial for job in jobs.queued(runs)] == [2]
        for tab in (app, other):
            assert "queued" in texts(tab)
            assert tab.button(key="cancel-00002-strong-e60-s0")
        other.button(key="cancel-00002-strong-e60-s0").click().run()
        assert "cancelled" in texts(app.run())

    @pytest.mark.parametrize("text", ["{", '{"state": "dancing"}', '{"state": "running", "epoch": []}', "[" * 100_000])
    @pytest.mark.parametrize("name", ["status.json", "job.json"])
    def test_a_torn_one_is_corrupt_and_the_others_are_shown(self, page, runs, text, name):
        path = retraining(runs, state="interrupted")
        shutil.copytree(path, path.with_name("00001-short-e9-s1"))
        (path / name).write_text(text)
        app = page("retrain", trial="1")
        assert not app.exception
        assert "corrupt record" in texts(app)
        assert "cancelled" in texts(app)

    @pytest.mark.parametrize("text", ['{"accuracy": "high"}', "{", "[1]", '{"accuracy": 0.5}'])
    def test_scores_of_another_shape_do_not_hide_the_rest(self, page, runs, text):
        path = retraining(runs, state="finished")
        (path / "scores.json").write_text(text)
        app = page("retrain", trial="1")
        assert not app.exception
        assert TORN in texts(app)
        assert "**strong** recipe" in texts(app)

    def test_scores_that_are_a_folder_do_not_hide_the_rest(self, page, runs):
        (retraining(runs, state="finished") / "scores.json").mkdir()
        app = page("retrain", trial="1")
        assert not app.exception
        assert TORN in texts(app)
        assert "**strong** recipe" in texts(app)

    def test_foreign_folders_and_markup_do_no_harm(self, page, runs):
        path = retraining(runs, state="failed", error="<script>alert(1)</script> **bold**")
        (path / "log.txt").write_bytes(b"\xff\xfe<img src=x onerror=alert(1)>\n" * 9)
        (runs / "tiny" / "retrain" / "<b>mine").mkdir()
        (runs / "tiny" / "retrain" / "00009-strong-e60-s0").mkdir()
        (runs / "tiny" / "retrain" / "00008-strong-e60-s0").write_text("a file")
        app = page("retrain", study="tiny", trial="1")
        assert not app.exception
        assert "<script>alert(1)</script> **bold**" in [code.value for code in app.code]
        assert not [element for element in app.markdown if "<script" in element.value or "mine" in element.value]
        assert len([element for element in app.markdown if "recipe" in element.value]) == 1


def test_a_click_trains_and_the_score_is_on_the_page(page, runs):
    """The whole way, by real processes: a click queues, the queue's worker starts, the training scores test, the page shows it."""
    app = page("retrain", study="tiny", trial="1").number_input(key="epochs-strong").set_value(1).run()
    app = app.button(key="retrain").click().run()
    assert not app.exception
    assert "1 of 1 is in the list below already" in texts(app)
    run = Job("tiny", runs, trial=1, epochs=1).run
    end = time.monotonic() + 90
    while jobs.state(run).name in ("queued", "starting", "running"):
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.1)
    assert jobs.state(run).name == "finished", jobs.last_words(run)
    app = page("retrain", study="tiny", trial="1")
    assert not app.exception
    scores = Run(run.path).scores
    assert scores is not None
    assert metrics(app)["Test accuracy"] == f"{100 * scores['accuracy']:.1f} %"
    results = next(found.value for found in app.dataframe if "test_sd" in found.value.columns)
    assert results[["trial", "seeds", "epochs"]].to_numpy().tolist() == [[1, 1, 1]]
    assert results["test"][0] == round(100 * scores["accuracy"], 1)
