"""The page, run by streamlit's own `AppTest`: without a study, with one, with hostile addresses and torn records."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.trial import TrialState, create_trial
from pages import ROOT, main_module_is_given_back, metrics, page, runs, texts

from studies import open_study
from studies.jobs import Job
from studies.storage import open_storage

__all__ = ["main_module_is_given_back", "page", "runs"]


def retraining(runs: Path, **fields: object) -> Path:
    """The folder of a retraining of trial 1 whose status is this."""
    path = Job("tiny", runs, trial=1).run.path
    path.mkdir(parents=True)
    (path / "status.json").write_text(json.dumps({"epoch": 3, "epochs": 60, "eta_s": 90.0, **fields}))
    return path


def test_without_a_study_it_says_how_to_make_one(page, tmp_path):
    app = page(folder=tmp_path / "empty")
    assert not app.exception
    assert f"python -m studies.run --trials 200 --runs {tmp_path / 'empty'}" in texts(app)


def test_a_study_is_summed_up_and_no_network_is_chosen(page, runs):
    app = page()
    assert not app.exception
    study = open_study("tiny", runs)
    found = metrics(app)
    assert (found["Networks trained"], found["On the front"]) == ("4", str(len(study.front())))
    assert found["Best validation accuracy"] == f"{100 * study.trials()['val_accuracy'].max():.1f} %"
    assert float(found["Hypervolume"]) > 0
    assert "Trials: 4 trained" in texts(app)
    assert "synthetic" not in texts(app)
    assert app.selectbox(key="network").value is None
    assert "Parameters" not in found


def test_the_address_chooses_the_network(page, runs):
    app = page("network", study="tiny", trial="2")
    assert not app.exception
    row = open_study("tiny", runs).trials().set_index("trial").loc[2]
    assert row["architecture"] in [code.value for code in app.code]
    assert app.selectbox(key="network").value == 2
    assert metrics(app)["Validation accuracy"] == f"{100 * row['val_accuracy']:.1f} %"
    assert "operator **osc**" in texts(app)
    layers = app.dataframe[1].value
    assert layers["params"].sum() == row["params"]
    assert layers["macs"].sum() == row["macs"]
    assert f"python -m trainers.retrain --study tiny --trial 2 --runs {runs} --epochs 60" in texts(app)


def test_the_list_writes_the_choice_into_the_address(page):
    app = page().selectbox(key="network").set_value(1).run()
    assert not app.exception
    assert app.query_params["trial"] == "1"
    assert "Learning curve" in texts(app)


def test_another_study_starts_without_a_network(page, runs):
    shutil.copytree(runs / "tiny", runs / "second")
    journal = runs / "second" / "journal.log"
    journal.write_text(journal.read_text().replace('"study_name": "tiny"', '"study_name": "second"'))
    app = page("network", study="tiny", trial="1").selectbox(key="study").set_value("second").run()
    assert not app.exception
    assert app.title[0].value == "second"
    assert "trial" not in app.query_params


@pytest.mark.parametrize(
    "study",
    ["../tiny", "/etc", "nothing", "", "<script>alert(1)</script>", "tiny/../tiny", "%2e%2e", "x" * 5000],
)
def test_a_strange_study_in_the_address_is_refused(page, study):
    app = page(study=study)
    assert not app.exception
    assert [warning.value for warning in app.warning] == ["There is no such study; this is the latest one."]
    assert app.title[0].value == "tiny"


@pytest.mark.parametrize("trial", ["99", "-1", "x", "1; rm", "../1", "", "1.0", "²", "9" * 400])
def test_a_strange_trial_in_the_address_is_refused(page, trial):
    app = page("network", study="tiny", trial=trial)
    assert not app.exception
    assert [warning.value for warning in app.warning] == ["There is no such trained network in this study."]
    assert app.selectbox(key="network").value is None


def test_synthetic_data_is_called_so(page, runs):
    study = optuna.load_study(study_name="tiny", storage=open_storage(runs / "tiny"))
    study.set_user_attr("data", study.user_attrs["data"] | {"synthetic": True})
    assert "synthetic data" in texts(page())


def test_failures_are_told_with_their_words(page, runs):
    study = optuna.load_study(study_name="tiny", storage=open_storage(runs / "tiny"))
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"architecture": "x", "error": "<b>no memory</b>"}))
    app = page()
    assert not app.exception
    assert "4 trained · 1 failed" in texts(app)
    assert app.dataframe[-1].value["error"].tolist() == ["<b>no memory</b>"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("predictions-val.npz", b"torn"),
        ("predictions-val.npz", b"PK\x03\x04torn"),
        ("predictions-val.npz", None),
        ("metrics.jsonl", b"\xff\xfe"),
        ("metrics.jsonl", b"[3]\n"),
    ],
)
def test_a_torn_part_is_said_to_be_so_and_the_rest_is_shown(page, runs, name, content):
    path = runs / "tiny" / "trials" / "00001" / name
    path.unlink() if content is None else path.write_bytes(content)
    app = page("network", trial="1")
    assert not app.exception
    assert [warning.value for warning in app.warning] == ["This part of the record can not be shown."]
    assert "Layers, for one clip" in texts(app)
    assert "trainers.retrain" in texts(app)


def test_a_torn_journal_is_said_to_be_so(page, runs):
    (runs / "tiny" / "journal.log").write_text("torn\ntorn\n")
    app = page()
    assert not app.exception
    assert "This part of the record can not be shown." in texts(app)
    assert app.title[0].value == "tiny"


def test_a_retraining_whose_process_is_gone_is_stopped_and_can_be_resumed(page, runs):
    retraining(runs, state="running", pid=psutil.Process().pid, pid_started=1.0)
    app = page("network", trial="1")
    assert not app.exception
    assert "stopped: its process is gone" in texts(app)
    assert app.button(key="resume-00001-strong-e60-s0")


def test_a_retraining_of_a_recipe_that_is_gone_is_shown_with_the_reason(page, runs):
    retraining(runs, state="interrupted").rename(runs / "tiny" / "retrain" / "00001-long-e60-s0")
    app = page("network", study="tiny", trial="1")
    assert not app.exception
    assert "**long** recipe" in texts(app)
    assert "its recipe 'long' does not exist any more" in texts(app)
    assert not [button for button in app.button if button.label == "Resume"]


def test_the_epochs_follow_the_recipe(page):
    app = page("network", study="tiny", trial="1")
    assert app.number_input(key="epochs-strong").value == 60
    app = app.selectbox(key="recipe").set_value("paper").run()
    assert not app.exception
    assert "--epochs 200 --recipe paper" in texts(app)
    assert "--epochs 60 --recipe strong" in texts(app.selectbox(key="recipe").set_value("strong").run())


def test_a_running_retraining_tells_its_progress_and_can_be_cancelled(page, runs):
    me = psutil.Process()
    retraining(runs, state="running", pid=me.pid, pid_started=me.create_time())
    app = page("network", trial="1")
    assert not app.exception
    assert app.get("progress")[0].proto.text == "epoch 3 of 60, about 1 min 30 s left"
    assert app.button(key="cancel-00001-strong-e60-s0")


@pytest.mark.parametrize("text", ["{", '{"state": "dancing"}', '{"state": "running", "epoch": []}'])
def test_a_torn_retraining_is_corrupt_and_the_others_are_shown(page, runs, text):
    path = retraining(runs, state="interrupted")
    shutil.copytree(path, path.with_name("00001-short-e9-s1"))
    (path / "status.json").write_text(text)
    app = page("network", trial="1")
    assert not app.exception
    assert "corrupt record" in texts(app)
    assert "cancelled" in texts(app)


def test_scores_of_another_shape_do_not_hide_the_rest(page, runs):
    path = retraining(runs, state="finished")
    (path / "scores.json").write_text('{"accuracy": "high"}')
    app = page("network", trial="1")
    assert not app.exception
    assert "This part of the record can not be shown." in texts(app)


@pytest.mark.parametrize("address", [None, "0.0.0.0", "192.168.1.7", "::"])
def test_it_serves_this_machine_only(page, address):
    app = page(address=address)
    assert not app.exception
    assert "serves this machine only" in app.error[0].value
    assert not app.title
    assert not app.metric


def test_the_shipped_settings_keep_it_on_this_machine():
    settings = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())
    assert settings["server"]["address"] == "127.0.0.1"
    assert set(settings["server"]["allowedHosts"]) == {"localhost", "127.0.0.1"}
    assert settings["server"]["enableXsrfProtection"]
    assert settings["server"]["enableCORS"]
    assert settings["browser"]["gatherUsageStats"] is False


def test_a_page_loads_no_torch(runs):
    code = (
        "import sys; from streamlit.testing.v1 import AppTest\n"
        "app = AppTest.from_file('dashboard/app.py', default_timeout=60); app.query_params['trial'] = '1'\n"
        "app.run(); assert not app.exception, app.exception; assert app.metric\n"
        "assert 'torch' not in sys.modules and 'torchaudio' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, "--runs", str(runs)], cwd=ROOT, check=True)
