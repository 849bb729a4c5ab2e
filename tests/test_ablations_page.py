"""The ablations page: experiments with their plot and table, what a study's trials say, and how far short budgets are to be trusted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pages import add_trials, change_study, main_module_is_given_back, page, runs, texts
from streamlit.testing.v1 import AppTest

from studies import ablate, open_study
from studies.observed import effects_report

__all__ = ["main_module_is_given_back", "page", "runs"]


@pytest.fixture(scope="module")
def ablation(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an ablation of two variants; not to be changed."""
    place = tmp_path_factory.mktemp("ablation") / "runs"
    arguments = ["--base", "dssdn_c4-6_r0.5_sc_h8", "--data", str(tiny_folder), "--runs", str(place), "--name", "tried"]
    arguments += ["--seeds", "2", "--workers", "1", "--budget", "32", "--train-input", "16x16"]
    assert ablate.main([*arguments, "--factors", "distillation,roll"]) == 0
    return place / "tried"


def report_of(runs: Path) -> Path:
    return next((runs / "tried").glob("reports/*/ablation.json"))


class TestExperiments:
    def test_without_one_it_says_how_to_make_one(self, page, runs) -> None:
        data = open_study("tiny", runs).info["data"]
        change_study(runs, "tiny", data=data | {"synthetic": True, "source": "synthetic"})
        app = page("ablations")
        assert not app.exception
        assert f"python -m studies.ablate --base dssdn-middle --runs {runs}" in texts(app)
        assert "about 200 trainings" in texts(app)

    def test_the_way_to_one_takes_the_data_of_the_study(self, page, runs) -> None:
        data = open_study("tiny", runs).info["data"]
        change_study(runs, "tiny", data=data | {"synthetic": False, "source": "my clips", "fold": 3, "subset": "esc10"})
        words = "--base dssdn-middle --data 'my clips' --folds 3 --subset esc10 --runs"
        assert f"python -m studies.ablate {words} {runs}" in texts(page("ablations"))

    def test_one_is_shown_with_its_table_plot_notes_and_files(self, page, runs, ablation) -> None:
        shutil.copytree(ablation, runs / "tried")
        app = page("ablations")
        assert not app.exception
        content = json.loads(report_of(runs).read_text())
        table = app.dataframe[0].value
        assert table["variant"].tolist() == ["(the base)", "distillation: on -> off", "roll: on -> off"]
        assert table["verdict"].tolist() == [row["verdict"] or "" for row in content["rows"]]
        assert all(note in texts(app) for note in content["notes"])
        assert len(app.get("plotly_chart")) == 1
        assert [button.proto.label for button in app.get("download_button")] == ["CSV", "Markdown", "LaTeX", "JSON"]
        assert "synthetic" not in texts(app)
        assert app.query_params["ablation"] == f"tried/reports/{report_of(runs).parent.name}"

    def test_synthetic_data_is_called_so(self, page, runs, ablation) -> None:
        shutil.copytree(ablation, runs / "tried")
        content = json.loads(report_of(runs).read_text())
        content["data"]["synthetic"] = True
        report_of(runs).write_text(json.dumps(content))
        app = page("ablations")
        assert "synthetic data" in texts(app)
        assert "(synthetic data)" in app.selectbox(key="pick-ablation").options[0]

    @pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, '{"base": "x"}'])
    def test_a_torn_report_is_said_to_be_so_and_the_others_are_shown(self, page, runs, ablation, text) -> None:
        shutil.copytree(ablation, runs / "tried")
        torn = runs / "torn" / "reports" / "x"
        torn.mkdir(parents=True)
        (torn / "ablation.json").write_text(text)
        app = page("ablations")
        assert not app.exception
        assert [warning.value for warning in app.warning] == ["This ablation's report can not be read."]
        assert len(app.dataframe) == 1

    def test_a_report_of_another_shape_does_not_hide_the_page(self, page, runs, ablation) -> None:
        shutil.copytree(ablation, runs / "tried")
        content = json.loads(report_of(runs).read_text())
        content["rows"][1]["difference_points"] = "much"
        report_of(runs).write_text(json.dumps(content))
        app = page("ablations")
        assert not app.exception
        assert "This part of the record can not be shown." in texts(app)

    def test_a_table_that_leads_elsewhere_is_not_handed_out(self, page, runs, ablation, tmp_path) -> None:
        shutil.copytree(ablation, runs / "tried")
        (tmp_path / "secret").write_text("secret")
        table = report_of(runs).with_name("ablation.md")
        table.unlink()
        table.symlink_to(tmp_path / "secret")
        app = page("ablations")
        assert not app.exception
        assert [button.proto.label for button in app.get("download_button")] == ["CSV", "LaTeX", "JSON"]

    @pytest.mark.parametrize("asked", ["../../etc", "<b>x</b>", "", "tried/reports/../reports"])
    def test_a_strange_ablation_in_the_address_is_refused(self, page, runs, ablation, asked) -> None:
        shutil.copytree(ablation, runs / "tried")
        app = page("ablations", ablation=asked, show="<script>")
        assert not app.exception
        assert app.query_params["ablation"] == f"tried/reports/{report_of(runs).parent.name}"
        assert app.session_state["pick-show"] == "ablations"


class TestLabel:
    def test_one_variant_is_one(self, page, runs, ablation) -> None:
        shutil.copytree(ablation, runs / "tried")
        content = json.loads(report_of(runs).read_text())
        report_of(runs).write_text(json.dumps(content | {"rows": content["rows"][:2]}))
        assert " 1 variant × " in page("ablations").selectbox(key="pick-ablation").options[0]


class TestEffects:
    def test_few_trials_say_what_is_missing(self, page: object) -> None:
        app = shown(page, "effects")
        assert not app.exception
        assert "trials" in app.info[0].value

    def test_they_are_asked_for_once_for_every_state_of_the_study(self, page, runs, monkeypatch, capfd) -> None:
        asked = []

        def counted(study):
            asked.append(study.version)
            return effects_report(study)

        monkeypatch.setattr("studies.observed.effects_report", counted)
        add_trials(runs, "tiny", ["complete"] * 24)
        for _ in range(2):
            app = page("ablations", show="effects")
            assert not app.exception
            assert "**Observational.**" in texts(app)
        assert len(asked) == 1
        assert "A new study created" not in capfd.readouterr().err
        add_trials(runs, "tiny", ["complete"])
        assert not page("ablations", show="effects").exception
        assert len(set(asked)) == 2

    def test_what_is_shown_survives_another_page(self, page) -> None:
        app = page("ablations", study="tiny", show="effects", objective="macs")
        app.switch_page("views/study.py").run()
        app.query_params.clear()
        app.switch_page("views/ablations.py").run()
        assert not app.exception
        assert (app.query_params["show"], app.query_params["objective"]) == ("effects", "macs")
        assert app.session_state["pick-show"] == "effects"


class TestFidelity:
    def test_without_one_it_says_how_to_make_one(self, page: object, runs) -> None:
        app = shown(page, "fidelity")
        assert not app.exception
        assert f"python -m studies.fidelity --study tiny --runs {runs}" in texts(app)

    def test_one_is_shown_and_a_torn_one_said_to_be_so(self, page, runs) -> None:
        folder = runs / "tiny" / "fidelity" / "short-128"
        folder.mkdir(parents=True)
        network = {"trial": 1, "architecture": "<i>a</i>", "study_val": 0.5, "val_mean": 0.6}
        ranked = [
            {"predictor": "study", "clips": 32, "tau": 0.4, "low": 0.1, "high": 0.7},
            {"predictor": "params", "clips": None, "tau": None, "low": None, "high": None},
        ]
        report = {
            "study": "tiny",
            "data": {"name": "esc", "synthetic": False},
            "networks": [network],
            "written": "2026",
        }
        report |= {"correlations": ranked, "reading": "32 clips rank these networks", "study_budget": 32, "budget": 128}
        (folder / "fidelity.json").write_text(json.dumps(report))
        torn = runs / "tiny" / "fidelity" / "torn"
        torn.mkdir()
        (torn / "fidelity.json").write_text("{")
        app = shown(page, "fidelity")
        assert not app.exception
        assert "32 clips rank these networks" in texts(app)
        assert app.dataframe[0].value["ranked by"].tolist() == ["accuracy after 32 clips", "parameters alone"]
        assert "This part of the record can not be shown." in texts(app)


def shown(page: object, kind: str) -> AppTest:
    app: AppTest = page("ablations", show=kind)  # type: ignore[operator]
    return app
