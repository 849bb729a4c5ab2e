"""The Compare page: networks beside one another, and studies."""

from __future__ import annotations

import json

import pytest
from pages import change_study, main_module_is_given_back, page, rename_study, runs, texts

from dashboard.comparing import incomparable
from studies import open_study

__all__ = ["main_module_is_given_back", "page", "runs"]


def table(app, place=0):
    return app.dataframe[place].value


def test_without_a_baseline_it_says_how_to_make_one(page, runs):
    rename_study(runs, "tiny", "other")
    app = page("compare", studies="tiny,other")
    assert not app.exception
    assert "--sampler random --study NAME" in [code.value for code in app.code]
    change_study(runs, "other", provenance={"command": "python -m studies.run --sampler random"})
    app = page("compare", studies="tiny,other")
    assert "Drawn at random, the baseline: other." in texts(app)
    assert "--sampler random --study NAME" not in [code.value for code in app.code]


def test_of_several_studies_those_on_synthetic_data_are_named(page, runs):
    rename_study(runs, "tiny", "made")
    change_study(runs, "made", data=open_study("made", runs).info["data"] | {"synthetic": True})
    figures = page("compare", studies="tiny,made").get("plotly_chart")
    titles = [json.loads(figure.proto.spec)["layout"]["title"]["text"] for figure in figures]
    assert titles == ["synthetic data: made"] * 2


class TestNetworks:
    def test_nothing_is_chosen_at_first(self, page):
        app = page("compare")
        assert not app.exception
        assert app.multiselect(key="compare-trials").value == []
        assert "Choose two or more networks" in texts(app)

    def test_only_what_differs_is_in_the_table(self, page, runs):
        rows = open_study("tiny", runs).trials().set_index("trial").loc[[0, 2]]
        app = page("compare", trials="0,2")
        assert not app.exception
        shown = table(app).set_index(" Network")
        assert list(shown.columns) == ["trial 0", "trial 2"]
        assert shown.loc["Notation"].tolist() == rows["architecture"].tolist()
        assert "Operator" in shown.index
        assert "Depth" not in shown.index
        assert any("depth 5" in code.value for code in app.code)
        assert len(app.get("plotly_chart")) == 2  # the curves, and what two networks confuse

    def test_the_list_writes_the_address(self, page):
        app = page("compare").multiselect(key="compare-trials").set_value([1, 2, 3]).run()
        assert not app.exception
        assert app.query_params["trials"] == "1,2,3"
        assert len(app.get("plotly_chart")) == 1

    def test_words_and_enter_take_one_network(self, page):
        """With an entry for all matches on top of the list, Enter takes all of them."""
        assert not page("compare").multiselect(key="compare-trials").proto.select_all

    def test_a_torn_run_leaves_the_rest(self, page, runs):
        (runs / "tiny" / "trials" / "00001" / "predictions-val.npz").write_bytes(b"torn")
        (runs / "tiny" / "trials" / "00001" / "metrics.jsonl").write_bytes(b"\xff\xfe")
        app = page("compare", trials="1,2")
        assert not app.exception
        assert [warning.value for warning in app.warning] == ["This part of the record can not be shown."] * 2
        assert table(app).shape[0] > 2

    def test_a_record_that_is_a_folder_and_flipped_bits_leave_the_rest(self, page, runs):
        folder = runs / "tiny" / "trials" / "00001"
        content = bytearray((folder / "predictions-val.npz").read_bytes())
        content[60:160] = bytes(100)
        (folder / "predictions-val.npz").write_bytes(content)
        (folder / "metrics.jsonl").unlink()
        (folder / "metrics.jsonl").mkdir()
        app = page("compare", trials="1,2")
        assert not app.exception
        assert [warning.value for warning in app.warning] == ["This part of the record can not be shown."] * 2
        assert table(app).shape[0] > 2

    @pytest.mark.parametrize("trials", ["1", "1,99", "<b>,1", "1,1", "0" * 3000])
    def test_strange_lists_are_passed_over(self, page, trials):
        app = page("compare", study="tiny", trials=trials)
        assert not app.exception
        assert "Choose two or more networks" in texts(app)


class TestStudies:
    def test_two_are_compared_and_the_random_one_is_named(self, page, runs):
        rename_study(runs, "tiny", "chance")
        change_study(runs, "chance", provenance={"command": "python -m studies.run --sampler random --trials 4"})
        app = page("compare", study="tiny", studies="tiny,chance")
        assert not app.exception
        assert not app.warning
        assert list(table(app).columns) == [" Study", "tiny", "chance"]
        settings = table(app, 1).set_index(" Settings")
        assert settings.loc["Sampler"].tolist() == ["–", "random"]
        assert "Budget" not in settings.index
        fronts, courses = (json.loads(chart.proto.spec)["data"] for chart in app.get("plotly_chart"))
        assert [trace["name"] for trace in courses] == ["tiny", "chance (random baseline)"]
        assert any(trace.get("name") == "chance (random baseline)" for trace in fronts)
        assert "Drawn at random, the baseline: chance." in texts(app)

    def test_volumes_that_do_not_compare_are_said_to_be_so(self, page, runs):
        rename_study(runs, "tiny", "other")
        change_study(runs, "other", budget=960)
        app = page("compare", study="tiny", studies="tiny,other")
        assert not app.exception
        assert ["do not compare" in warning.value for warning in app.warning] == [True]
        assert "different budgets" in app.warning[0].value

    def test_what_makes_volumes_comparable(self, runs):
        info = open_study("tiny", runs).info
        assert incomparable({"a": info, "b": info}) == []
        other = info | {
            "reference_point": info["reference_point"] | {"accuracy": 0.9},
            "data": info["data"] | {"digest": "x"},
        }
        [said] = incomparable({"a": info, "b": other})
        assert "data and reference points" in said

    def test_the_list_writes_the_address(self, page, runs):
        rename_study(runs, "tiny", "second")
        app = page("compare", study="tiny", what="studies")
        assert "Choose another study" in texts(app)
        app = app.multiselect(key="compare-studies").set_value(["tiny", "second"]).run()
        assert not app.exception
        assert app.query_params["studies"] == "tiny,second"
        assert len(app.get("plotly_chart")) == 2

    def test_one_that_can_not_be_read_leaves_the_others(self, page, runs):
        rename_study(runs, "tiny", "second")
        (runs / "torn").mkdir()
        (runs / "torn" / "journal.log").write_text("torn\ntorn\n")
        app = page("compare", study="tiny", studies="tiny,torn,second")
        assert not app.exception
        assert list(table(app).columns) == [" Study", "tiny", "second"]
        assert "This part of the record can not be shown." in texts(app)

    def test_studies_called_like_a_heading_are_studies(self, page, runs):
        for name in ("Study", "Settings"):
            rename_study(runs, "tiny", name)
        app = page("compare", study="tiny", studies="Study,Settings")
        assert not app.exception
        assert "can not be shown" not in texts(app)
        assert list(table(app).columns) == [" Study", "Study", "Settings"]

    @pytest.mark.parametrize("studies", [",,", "../tiny,x", "<b>", "tiny,tiny", "x," * 3000])
    def test_strange_lists_are_passed_over(self, page, studies):
        app = page("compare", study="tiny", studies=studies)
        assert not app.exception
        assert "Not all of the studies in the address are shown" in texts(app)
        assert list(table(app).columns) == [" Study", "tiny"]
