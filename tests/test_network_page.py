"""The network page, run by streamlit's own `AppTest`: what one network is, what it got wrong, how to have it; torn and hostile records."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial
from pages import ROOT, add_trials, main_module_is_given_back, metrics, page, runs, texts
from streamlit.testing.v1 import AppTest

from dashboard import listen
from search_space.complexity import count
from search_space.errors import UserError
from studies import answers, open_study
from studies.charts import duration
from studies.jobs import Job
from studies.storage import open_storage
from trainers.runs import Predictions, Run

__all__ = ["main_module_is_given_back", "page", "runs"]

TORN = "This part of the record can not be shown."


@pytest.fixture
def section(page):
    """Opens a section of the page of a trial."""

    def open_section(name: str, **parameters: str) -> AppTest:
        app = page("network", **{"study": "tiny", "trial": "1", **parameters})
        app.session_state["section"] = name
        return app.run()

    return open_section


def table(app: AppTest, column: str):
    """The page's table that has this column."""
    return next(found.value for found in app.dataframe if column in found.value.columns)


def study_of(runs: Path) -> optuna.Study:
    return optuna.load_study(study_name="tiny", storage=open_storage(runs / "tiny"))


def rewrite_val(runs: Path, **changes: object) -> None:
    """Have trial 1 say something else of the validation clips."""
    run = Run(runs / "tiny" / "trials" / "00001")
    said = run.predictions("val")
    assert said is not None
    fields = {name: getattr(said, name) for name in ("probabilities_NK", "labels_N", "filenames", "recorders")}
    run.write_predictions("val", Predictions(**{**fields, **changes}))


class TestStructure:
    def test_the_address_chooses_the_network(self, page, runs):
        app = page("network", study="tiny", trial="2")
        assert not app.exception
        row = open_study("tiny", runs).trials().set_index("trial").loc[2]
        assert row["architecture"] in [code.value for code in app.code]
        assert app.selectbox(key="network").value == 2
        assert metrics(app)["Validation accuracy"] == f"{100 * row['val_accuracy']:.1f} %"
        assert "operator **osc**" in texts(app)
        layers = table(app, "kind")
        assert layers["params"].sum() == row["params"]
        assert layers["macs"].sum() == row["macs"]
        assert not app.warning

    def test_the_network_is_drawn(self, page):
        app = page("network", study="tiny", trial="1")
        [image] = app.get("image")
        assert "image/svg+xml" in image.proto.imgs[0].url

    def test_a_single_network_has_all_sections(self, page, runs):
        study = study_of(runs)
        one = optuna.create_study(study_name="one", storage=open_storage(runs / "one"), directions=study.directions)
        for name, value in study.user_attrs.items():
            one.set_user_attr(name, value)
        one.add_trial(study.trials[0])
        shutil.copytree(runs / "tiny" / "trials" / "00000", runs / "one" / "trials" / "00000")
        for name in ("Structure", "Accuracy", "Listen", "Try", "Neighbours", "Take it along"):
            app = page("network", study="one", trial="0")
            app.session_state["section"] = name
            app.run()
            assert not app.exception
            assert not app.warning
        assert "trial 0" in str(page("retrain", study="one", trial="0").multiselect(key="networks").options)

    def test_without_a_trained_network_it_says_so(self, page, runs, tmp_path):
        shutil.copytree(runs / "tiny", tmp_path / "other" / "tiny")
        study = study_of(tmp_path / "other")
        fresh = optuna.create_study(
            study_name="empty",
            storage=open_storage(tmp_path / "other" / "empty"),
            directions=study.directions,
        )
        for name, value in study.user_attrs.items():
            fresh.set_user_attr(name, value)
        app = page("network", folder=tmp_path / "other", study="empty", trial="1")
        assert not app.exception
        assert "No network is trained yet" in texts(app)

    @pytest.mark.parametrize("trial", ["99", "1; rm", "../1", "", "²", "9" * 400])
    def test_a_strange_trial_in_the_address_is_refused(self, page, trial):
        app = page("network", study="tiny", trial=trial)
        assert not app.exception
        assert [warning.value for warning in app.warning] == [
            "The network in the address is not trained to the end, or does not exist in this study."
        ]
        assert app.selectbox(key="network").value is None

    def test_failed_trials_are_no_networks(self, page, runs):
        study_of(runs).add_trial(create_trial(state=TrialState.FAIL, user_attrs={"architecture": "<b>", "error": "x"}))
        app = page("network", study="tiny", trial="4")
        assert not app.exception
        assert "is not trained to the end" in texts(app)


class TestAccuracy:
    def test_scenes_and_recorders_add_up(self, section, runs):
        app = section("Accuracy")
        assert not app.exception
        scenes = table(app, "clips")
        accuracy = (scenes["clips"] * scenes["accuracy"]).sum() / scenes["clips"].sum()
        assert f"{accuracy:.1f} %" == metrics(app)["Validation accuracy"]
        assert sorted(scenes["name"]) == ["high", "low", "noise"]
        assert "recorder" not in texts(app)

    def test_recorders_are_told_apart(self, section, runs):
        said = Run(runs / "tiny" / "trials" / "00001").predictions("val")
        rewrite_val(runs, recorders=["<b>a</b>" if i % 2 else "s1" for i in range(len(said.labels_N))])
        app = section("Accuracy")
        assert not app.exception
        assert {"<b>a</b>", "s1"} in [set(found.value["name"]) for found in app.dataframe]

    @pytest.mark.parametrize(
        ("name", "content", "parts"),
        [
            ("predictions-val.npz", b"torn", 3),
            ("predictions-val.npz", b"PK\x03\x04torn", 3),
            ("predictions-val.npz", None, 3),
            ("metrics.jsonl", b"\xff\xfe", 1),
            ("metrics.jsonl", b"[3]\n", 1),
        ],
    )
    def test_a_torn_part_is_said_to_be_so_and_the_rest_is_shown(self, section, runs, name, content, parts):
        path = runs / "tiny" / "trials" / "00001" / name
        path.unlink() if content is None else path.write_bytes(content)
        app = section("Accuracy")
        assert not app.exception
        assert [warning.value for warning in app.warning] == [TORN] * parts

    @pytest.mark.parametrize(
        "change",
        [
            {"labels_N": np.full(9, 7)},
            {"labels_N": np.zeros(3, dtype=int)},
            {"filenames": []},
            {"probabilities_NK": np.zeros((9, 2))},
        ],
    )
    def test_predictions_of_another_shape_are_refused(self, section, runs, change):
        rewrite_val(runs, **change)
        app = section("Accuracy")
        assert not app.exception
        assert "holds predictions of other classes or clips" in texts(app)

    def test_flipped_bytes_are_refused(self, section, runs):
        path = runs / "tiny" / "trials" / "00001" / "predictions-val.npz"
        content = bytearray(path.read_bytes())
        content[60:160] = bytes(100)
        path.write_bytes(content)
        app = section("Accuracy")
        assert not app.exception
        assert TORN in texts(app)


class TestListen:
    """Clip 0 of validation is taken for another class with the highest probability."""

    @pytest.fixture(autouse=True)
    def _one_mistake(self, runs):
        said = Run(runs / "tiny" / "trials" / "00001").predictions("val")
        probabilities = np.eye(3, dtype=np.float32)[said.labels_N]
        probabilities[0] = np.roll([0.75, 0.25, 0.0], said.labels_N[0] + 1)
        self.filename = said.filenames[0]
        rewrite_val(runs, probabilities_NK=probabilities)

    def test_a_mistake_is_played_and_seen(self, section):
        app = section("Listen")
        assert not app.exception
        assert not app.warning
        assert "(75.0 %), right is" in texts(app)
        assert self.filename in texts(app)
        assert len(app.get("audio")) == 1
        assert len(app.get("plotly_chart")) == 1

    @pytest.mark.parametrize("name", ["../../../secret.wav", "/etc/passwd", "<script>x</script>"])
    def test_a_clip_that_the_data_does_not_list_is_not_opened(self, section, runs, name):
        said = Run(runs / "tiny" / "trials" / "00001").predictions("val")
        rewrite_val(runs, filenames=[name, *said.filenames[1:]])
        app = section("Listen")
        assert not app.exception
        assert "the data's lists name no clip" in texts(app)
        assert not app.get("audio")

    def test_a_listed_clip_outside_of_the_folder_is_not_opened(self, section, runs, make_folder, tmp_path):
        folder = make_folder()
        shutil.move(folder / "audio" / self.filename, tmp_path / "outside.wav")
        (folder / "audio" / self.filename).symlink_to(tmp_path / "outside.wav")
        study = study_of(runs)
        study.set_user_attr("data", study.user_attrs["data"] | {"source": str(folder)})
        app = section("Listen")
        assert not app.exception
        assert "lies outside of the data's folder" in texts(app)
        assert not app.get("audio")

    @pytest.mark.parametrize("content", [b"", b"no sound at all"])
    def test_a_broken_clip_is_said_to_be_so(self, section, runs, make_folder, content):
        folder = make_folder()
        (folder / "audio" / self.filename).write_bytes(content)
        study = study_of(runs)
        study.set_user_attr("data", study.user_attrs["data"] | {"source": str(folder)})
        app = section("Listen")
        assert not app.exception
        assert self.filename in texts(app)
        assert not app.get("audio")
        assert "is not in the store" in texts(app)

    @pytest.mark.parametrize(
        "change",
        [
            {"source": "/nowhere"},
            {"front_end": {}},
            {"front_end": None},
            {"duration_s": "long"},
            {"fold": []},
            {"subset": 3},
        ],
    )
    def test_a_record_of_data_of_another_shape_is_said_to_be_so(self, section, runs, change):
        study = study_of(runs)
        study.set_user_attr("data", study.user_attrs["data"] | change)
        app = section("Listen")
        assert not app.exception
        assert TORN in texts(app)
        assert metrics(app)["Parameters"]

    def test_a_clip_that_stands_there_twice_is_shown_twice(self, section, runs):
        said = Run(runs / "tiny" / "trials" / "00001").predictions("val")
        rewrite_val(
            runs,
            probabilities_NK=np.roll(np.eye(3, dtype=np.float32)[said.labels_N], 1, axis=1),
            filenames=[self.filename] * len(said.labels_N),
        )
        app = section("Listen")
        assert not app.exception
        assert len(app.get("audio")) == 4
        app = app.toggle(key="all-mistakes").set_value(True).run()
        assert not app.exception
        assert len(app.get("audio")) == len(said.labels_N)

    def test_a_cut_is_spoken_of_where_there_is_one(self, section, runs):
        [uncut] = add_trials(runs, "tiny", ["complete"], architecture="dssdn_c8-8_r1_sc_h64")
        shutil.copytree(runs / "tiny" / "trials" / "00001", runs / "tiny" / "trials" / f"{uncut:05d}")
        for name in ("Structure", "Listen"):
            assert "dashed line" in texts(section(name))
            app = section(name, trial=str(uncut))
            assert not app.exception
            assert "dashed line" not in texts(app)

    def test_without_mistakes_there_is_nothing_to_hear(self, section, runs):
        said = Run(runs / "tiny" / "trials" / "00001").predictions("val")
        rewrite_val(runs, probabilities_NK=np.eye(3, dtype=np.float32)[said.labels_N])
        app = section("Listen")
        assert not app.exception
        assert "all validation clips right" in texts(app)


class TestNeighbours:
    def test_the_nearest_networks_are_listed(self, section, runs):
        app = section("Neighbours")
        assert not app.exception
        found = table(app, "what")
        assert set(found["trial"]) == {0, 2, 3}
        assert "→" in found["what"][0]
        assert (found["changes"].diff().dropna() >= 0).all()


def retrained(runs: Path) -> Run:
    """A finished retraining of trial 1, as far as the page reads it: what the search's own training left, with test scores."""
    run = Job("tiny", runs, trial=1, recipe="short", epochs=2).run
    shutil.copytree(runs / "tiny" / "trials" / "00001", run.path)
    run.write_json("run.json", run.config | {"kind": "retrain", "epochs": 2, "train_input": run.config["input"]})
    run.write_json("scores.json", {"accuracy": 0.75})
    run.write_status("finished", epoch=2, epochs=2)
    return run


class TestWeights:
    def test_those_of_a_retraining_can_be_looked_at(self, section, runs):
        run = retrained(runs)
        for name in ("Accuracy", "Listen", "Try", "Take it along"):
            app = section(name)
            assert app.selectbox(key="pick-weights").options[1].endswith("2 epochs, seed 0 (test 75.0 %)")
            app = app.selectbox(key="pick-weights").set_value(run.path.name).run()
            assert not app.exception
            assert not app.warning
        assert "load_model(Run(" in texts(app)
        assert "--epochs 2 --recipe short" in texts(app)

    def test_the_address_keeps_them_and_the_section(self, page, runs):
        run = retrained(runs)
        app = page("network", study="tiny", trial="1", section="Take it along", weights=run.path.name)
        assert not app.exception
        assert "load_model(Run(" in texts(app)
        app.switch_page("views/study.py").run()
        app.query_params.clear()
        app.switch_page("views/network.py").run()
        assert not app.exception
        assert (app.query_params["section"], app.query_params["weights"]) == ("Take it along", run.path.name)
        assert "load_model(Run(" in texts(app)

    def test_a_pruned_int8_network_is_shown_as_what_came_of_it(self, page, runs):
        run = retrained(runs)
        small = "dssdn_c8-12-16_r0.5_sc_h64"
        size, n_classes = tuple(run.config["input"]), len(run.config["data"]["classes"])
        cost = count(small, size, n_classes)
        final = {
            "architecture": small,
            "params": cost.params,
            "macs": cost.macs,
            "steps": [{}, {}],
            "precision": "int8-qat",
        }
        final |= {"param_bytes": 4321, "float32": {"val_accuracy": 0.5}}
        run.write_json("run.json", run.config | {"final": final})
        run.write_json("scores.json", {"accuracy": 0.75, "float32": {"accuracy": 0.25}})
        rows = [{"clips_seen": 8 * i, "seconds": 30.0, "val_accuracy": 0.625, "loss": 1.0, "epoch": i} for i in (1, 2)]
        run.write_metrics(rows)
        app = page("network", study="tiny", trial="1", weights=run.path.name)
        assert not app.exception
        assert not app.warning
        assert small in [code.value for code in app.code]
        layers = table(app, "kind")
        assert (layers["params"].sum(), layers["macs"].sum()) == (cost.params, cost.macs)
        shown = metrics(app)
        assert (shown["Validation accuracy"], shown["Trained in"]) == ("62.5 %", duration(60.0))
        assert "Pruned in 2 steps" in texts(app)
        assert "int8 (4,321 bytes of parameters); in float32 it scored val 50.0 %, test 25.0 %" in texts(app)
        own = page("network", study="tiny", trial="1")
        assert "Pruned" not in texts(own)
        assert small not in [code.value for code in own.code]

    def test_without_a_retraining_there_is_no_choice(self, page):
        app = page("network", study="tiny", trial="1")
        assert "pick-weights" not in [box.key for box in app.selectbox]


class TestTakingAlong:
    def test_commands_and_weights_are_handed_out(self, section, runs):
        app = section("Take it along")
        assert not app.exception
        assert f"python -m trainers.retrain --study tiny --trial 1 --runs {runs} --epochs 60" in texts(app)
        assert "study.model(1)" in texts(app)
        assert "recipe" in texts(app)
        assert [button.label for button in app.get("download_button")] == ["Weights (safetensors)"]

    def test_missing_weights_are_said_to_be_missing(self, section, runs):
        (runs / "tiny" / "trials" / "00001" / "weights.safetensors").unlink()
        app = section("Take it along")
        assert not app.exception
        assert "There are no weights" in texts(app)
        assert "trainers.retrain" in texts(app)

    @pytest.mark.parametrize("name", ["weights.safetensors", "export/card.md"])
    def test_a_link_to_elsewhere_is_not_handed_out(self, section, runs, tmp_path, name):
        (tmp_path / "secret").write_text("secret")
        path = runs / "tiny" / "trials" / "00001" / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(tmp_path / "secret")
        app = section("Take it along")
        assert not app.exception
        labels = [button.label for button in app.get("download_button")]
        assert labels == (["Weights (safetensors)"] if "card" in name else [])

    def test_a_run_that_lies_elsewhere_is_not_handed_out(self, section, runs, tmp_path):
        folder = runs / "tiny" / "trials" / "00001"
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
        app = section("Take it along")
        assert not app.exception
        assert "leads out of the runs folder" in texts(app)
        assert not app.get("download_button")

    @pytest.mark.parametrize(
        "text", ["{", "[]", "3", '{"pid": "x", "pid_started": 1}', '{"pid": 1e400}', "[" * 100_000]
    )
    def test_a_torn_record_of_an_export_does_no_harm(self, section, runs, text):
        folder = runs / "tiny" / "trials" / "00001" / "export" / "job"
        folder.mkdir(parents=True)
        (folder / "process.json").write_text(text)
        app = section("Take it along")
        assert not app.exception
        assert app.button(key="export")

    def test_an_export_that_can_not_be_asked_for_is_said_not_to_be_done(self, section, runs):
        app = section("Take it along")
        (runs / "tiny" / "trials" / "00001" / "export" / "job" / "lock").mkdir(parents=True)
        app = app.button(key="export").click().run()
        assert not app.exception
        assert [warning.value for warning in app.warning] == ["That could not be done."]
        assert "can not be written" in texts(app)

    @pytest.mark.slow
    def test_onnx_and_card_are_made_by_a_process_and_handed_out(self, section, runs):
        app = section("Take it along").button(key="export").click().run()
        folder = runs / "tiny" / "trials" / "00001" / "export" / "job"
        end = time.monotonic() + 120
        while answers.look(folder).name == "running":
            assert time.monotonic() < end, "waited for too long"
            time.sleep(0.5)
        app = section("Take it along")
        assert not app.exception
        labels = [button.label for button in app.get("download_button")]
        assert labels == ["Weights (safetensors)", "ONNX", "Model card"]

    def test_a_provenance_that_is_a_folder_leaves_the_files(self, section, runs):
        (runs / "tiny" / "trials" / "00001" / "provenance.json").unlink(missing_ok=True)
        (runs / "tiny" / "trials" / "00001" / "provenance.json").mkdir()
        app = section("Take it along")
        assert not app.exception
        assert TORN in texts(app)
        assert [button.label for button in app.get("download_button")] == ["Weights (safetensors)"]

    def test_a_torn_run_leaves_the_files(self, section, runs):
        (runs / "tiny" / "trials" / "00001" / "run.json").write_text("{")
        app = section("Take it along")
        assert not app.exception
        assert TORN in texts(app)
        assert [button.label for button in app.get("download_button")] == ["Weights (safetensors)"]


def test_html_in_a_name_stays_text(section, runs):
    study = study_of(runs)
    study.set_user_attr(
        "data", study.user_attrs["data"] | {"classes": ["<img src=x onerror=alert(1)>", "low", "noise"]}
    )
    for name in ("Accuracy", "Listen"):
        app = section(name)
        assert not app.exception
        assert not [element for element in app.markdown if "<img" in element.value]


def test_no_section_loads_torch(runs):
    code = (
        "import sys; from streamlit.testing.v1 import AppTest\n"
        "for view in ('network', 'retrain'):\n"
        "    app = AppTest.from_file('dashboard/router.py', default_timeout=60); app.query_params['trial'] = '1'\n"
        "    app.switch_page(f'views/{view}.py').run(); assert not app.exception, app.exception\n"
        "    for name in ('Accuracy', 'Listen', 'Try', 'Neighbours', 'Take it along') if view == 'network' else ():\n"
        "        app.session_state['section'] = name; app.run(); assert not app.exception, app.exception\n"
        "assert 'torch' not in sys.modules and 'torchaudio' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, "--runs", str(runs)], cwd=ROOT, check=True)


def test_the_record_that_the_page_reads_is_json(runs):
    """The store's name is a hash of the record's text: numbers come back as they were written."""
    data = open_study("tiny", runs).info["data"]
    assert json.loads(json.dumps(data)) == data


_LEFT = ("dssdn-try-old", "dssdn-try-new", "dssdn-try-link", "others")


class TestTry:
    def heard(self, section, name: str, content: bytes) -> AppTest:
        """The page when the process that listened to this upload has ended."""
        app = section("Try")
        app.file_uploader[0].upload(name, content).run()
        end = time.monotonic() + 60
        while "answer" not in app.session_state["heard"] and not app.warning:
            assert time.monotonic() < end, "waited for too long"
            time.sleep(0.2)
            app.run()
        assert not app.exception
        return app

    def test_a_recording_is_heard_and_nothing_of_it_stays(self, section, tiny_folder, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        content = next((tiny_folder / "audio").glob("5-*-0.wav")).read_bytes()
        app = self.heard(section, "../../<b>$(rm -r x);.wav", content)
        assert not app.warning
        said = table(app, "probability")
        assert set(said["scene"]) == {"low", "high", "noise"}
        assert said["probability"].sum() == pytest.approx(1, abs=1e-5)
        assert f"{said['scene'][0]}, {100 * said['probability'][0]:.1f} %" in texts(app)
        assert not list(tmp_path.glob("dssdn-try-*"))

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [("x.mp3", b"\x00no sound at all", "not readable as audio"), ("x.wav", b"", "empty")],
    )
    def test_what_is_no_audio_is_said_to_be_none(self, section, tmp_path, monkeypatch, name, content, said):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        app = self.heard(section, name, content)
        assert "This recording could not be heard." in texts(app)
        assert said in texts(app)
        assert not list(tmp_path.glob("dssdn-try-*"))

    def test_one_that_can_not_be_asked_about_is_said_not_to_be_done(self, section, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
        app = section("Try")
        app.file_uploader[0].upload("x.wav", b"x").run()
        assert not app.exception
        assert "That could not be done." in [warning.value for warning in app.warning]
        assert "can not be written" in texts(app)

    def test_one_that_a_closed_page_left_is_deleted(self, section, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        for name in ("dssdn-try-old", "dssdn-try-new", "others"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "recording.wav").write_bytes(b"x")
        (tmp_path / "dssdn-try-link").symlink_to(tmp_path / "others")
        for name in ("dssdn-try-old", "others"):
            os.utime(tmp_path / name, (1, 1))
        assert not section("Try").exception
        assert sorted(path.name for path in tmp_path.iterdir() if path.name in _LEFT) == sorted(_LEFT[1:])
        assert (tmp_path / "others" / "recording.wav").exists()

    def test_one_that_can_not_be_asked_about_is_deleted(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
        with pytest.raises(UserError, match="can not be written"):
            listen._ask(Run(tmp_path / "run"), "x.wav", memoryview(b"x"))
        assert not list(tmp_path.glob("dssdn-try-*"))

    @pytest.mark.parametrize("name", ["../../etc/passwd", "x.wav.exe"])
    def test_another_ending_starts_nothing(self, section, tmp_path, monkeypatch, name):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        app = section("Try")
        app.file_uploader[0].upload(name, b"x").run()
        assert "Invalid file extension" in app.exception[0].message  # no browser gets that far
        assert not list(tmp_path.glob("dssdn-try-*"))
