"""The Pareto page: what is chosen in its plot and tables, its filters, what strange addresses do to it."""

from __future__ import annotations

import json
from types import MappingProxyType

import pandas as pd
import pytest
from pages import add_trials, change_study, main_module_is_given_back, page, runs, texts

from dashboard.choice import MOST_TRIALS
from dashboard.filters import Filters, read_filters
from dashboard.front import choice_of, most_accurate
from studies import open_study

__all__ = ["main_module_is_given_back", "page", "runs"]


def plot(app):
    """The figure of the page's plot."""
    return json.loads(app.get("plotly_chart")[0].proto.spec)


def names(app):
    return [trace.get("name") for trace in plot(app)["data"]]


class TestPlot:
    def test_every_state_is_drawn_and_counted(self, page, runs):
        add_trials(runs, "tiny", ["stopped", "stopped", "over_cap", "failed", "duplicate"])
        app = page("pareto")
        assert not app.exception
        assert {"stopped early (2)", "over a cap (1)", "failed (1)"} <= set(names(app))
        assert "8 networks" in texts(app)  # a duplicate is none
        assert " of 8 networks" in app.get("plotly_chart")[0].proto.alt

    def test_the_address_says_which_cost_and_colour(self, page):
        app = page("pareto", x="macs", colour="operator")
        assert not app.exception
        assert plot(app)["layout"]["xaxis"]["title"]["text"].startswith("MACs")
        assert any(name and name.startswith("operator ") for name in names(app))

    def test_the_widgets_write_the_address(self, page):
        app = page("pareto").selectbox(key="pick-colour").set_value("depth").run()
        assert not app.exception
        assert app.query_params["colour"] == "depth"
        app = app.selectbox(key="pick-colour").set_value("front").run()
        assert "colour" not in app.query_params

    def test_the_plot_is_such_that_a_browser_draws_it_once(self, page):
        """No theme and no height that come after the first drawing, nor margins that a label has yet to widen: see `charts.dress`."""
        chart = page("pareto").get("plotly_chart")[0].proto
        layout = json.loads(chart.spec)["layout"]
        assert chart.theme == ""
        assert "template" not in layout
        assert (layout["height"], layout["datarevision"]) == (520, 1)
        assert layout["margin"]["l"] >= 70

    @pytest.mark.parametrize(("view", "kind"), [("space", "scatter3d"), ("parallel", "parcoords")])
    def test_other_views_draw_the_complete_networks(self, page, view, kind):
        app = page("pareto", view=view)
        assert not app.exception
        assert {trace["type"] for trace in plot(app)["data"]} == {kind}

    @pytest.mark.parametrize(
        ("view", "said"), [("plot", "Click a point"), ("space", "Choose a row"), ("parallel", "Choose a row")]
    )
    def test_the_way_to_a_network_is_that_of_the_view(self, page, view, said):
        ways = [text for text in texts(page("pareto", view=view)).split("\n") if "to open the network here" in text]
        assert len(ways) == 1
        assert ways[0].startswith(said)
        assert ("lasso" in ways[0]) == (view == "plot")

    @pytest.mark.parametrize(
        ("x", "said"), [("params", "no more parameters has more MACs"), ("macs", "no more MACs has")]
    )
    def test_it_says_why_a_network_of_the_front_stands_under_the_line(self, page, x, said):
        assert said in texts(page("pareto", x=x))

    def test_caps_are_drawn(self, page, runs):
        change_study(runs, "tiny", max_params=60_000)
        assert [shape["x0"] for shape in plot(page("pareto"))["layout"]["shapes"]] == [60_000]

    def test_published_networks_stand_beside_their_own_data_alone(self, page, runs):
        assert not any(name and name.startswith("as printed") for name in names(page("pareto")))
        data = open_study("tiny", runs).info["data"]
        counts = {"train": 11_993, "val": 1_969, "test": 2_968}
        change_study(runs, "tiny", data=data | {"name": "tau2020", "counts": counts})
        assert any(name and name.startswith("as printed") for name in names(page("pareto")))

    def test_confirmed_networks_have_intervals(self, page, runs):
        folder = runs / "tiny" / "confirm" / "short"
        folder.mkdir(parents=True)
        network = {"trial": 1, "architecture": "x", "study_val": 0.5, "val_mean": 0.6, "val_low": 0.5, "val_high": 0.7}
        beyond = network | {"trial": 999}
        report = {"written": "2026", "recipe": "short", "budget": 96, "networks": [network, beyond]}
        (folder / "confirm.json").write_text(json.dumps(report))
        app = page("pareto")
        assert not app.exception
        [trace] = [trace for trace in plot(app)["data"] if (trace.get("name") or "").startswith("confirmed")]
        assert (trace["y"], trace["customdata"]) == ([60.0], [[1]])
        assert "trial 1, confirmed" in trace["hovertext"][0]

    def test_a_torn_confirmation_leaves_the_rest(self, page, runs):
        folder = runs / "tiny" / "confirm" / "short"
        folder.mkdir(parents=True)
        (folder / "confirm.json").write_text("{")
        app = page("pareto", trial="1")
        assert not app.exception
        assert "This part of the record can not be shown." in texts(app)
        assert "Trial 1" in texts(app)
        assert "4 networks" in texts(app)

    def test_a_confirmation_that_lies_elsewhere_is_not_read(self, page, runs, tmp_path):
        network = {"trial": 1, "architecture": "x", "study_val": 0.5, "val_mean": 0.6, "val_low": 0.5, "val_high": 0.7}
        report = {"written": "2026", "recipe": "short", "budget": 96, "networks": [network]}
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "confirm.json").write_text(json.dumps(report))
        (runs / "tiny" / "confirm").mkdir()
        (runs / "tiny" / "confirm" / "short").symlink_to(tmp_path / "elsewhere")
        app = page("pareto")
        assert not app.exception
        assert not any((name or "").startswith("confirmed") for name in names(app))

    @pytest.mark.parametrize("change", [{"val_low": "low"}, {"trial": [1]}, None])
    def test_a_confirmation_of_another_version_leaves_the_plot(self, page, runs, change):
        folder = runs / "tiny" / "confirm" / "short"
        folder.mkdir(parents=True)
        network = {"trial": 1, "architecture": "x", "study_val": 0.5, "val_mean": 0.6}
        network |= {} if change is None else {"val_low": 0.5, "val_high": 0.7} | change
        report = {"written": "2026", "recipe": "short", "budget": 96, "networks": [network]}
        (folder / "confirm.json").write_text(json.dumps(report))
        app = page("pareto")
        assert not app.exception
        assert [warning.value for warning in app.warning] == ["This part of the record can not be shown."]
        assert plot(app)["data"]


class TestChoice:
    def test_a_network_of_the_address_is_opened_beside_the_plot(self, page, runs):
        row = open_study("tiny", runs).trials().set_index("trial").loc[2]
        app = page("pareto", trial="2")
        assert not app.exception
        assert row["architecture"] in [code.value for code in app.code]
        assert {metric.label: metric.value for metric in app.metric}["Accuracy"] == f"{100 * row['val_accuracy']:.1f} %"
        marked = [trace.get("selectedpoints") for trace in plot(app)["data"] if trace.get("customdata")]
        assert sum(len(points) for points in marked) >= 1

    def test_a_stopped_network_can_be_looked_at(self, page, runs):
        [number] = add_trials(runs, "tiny", ["stopped"])
        app = page("pareto", trial=str(number))
        assert not app.exception
        assert not app.warning
        assert "stopped after 32 clips" in texts(app)

    def test_a_failed_network_tells_its_error(self, page, runs):
        [number] = add_trials(runs, "tiny", ["failed"], error="<b>no memory</b>\nTraceback: made up")
        app = page("pareto", trial=str(number))
        assert not app.exception
        assert not app.warning
        [trace] = [trace for trace in plot(app)["data"] if (trace.get("name") or "").startswith("failed")]
        assert (trace["customdata"], trace["selectedpoints"]) == ([[number]], [0])
        assert f"**Trial {number}** · failed" in texts(app)
        assert "<b>no memory</b>\nTraceback: made up" in [code.value for code in app.code]
        assert [metric.label for metric in app.metric] == ["Params", "MACs"]

    def test_a_network_over_a_cap_tells_its_cost_and_the_cap(self, page, runs):
        change_study(runs, "tiny", max_params=60_000)
        one, other = add_trials(runs, "tiny", ["over_cap", "over_cap"])
        app = page("pareto", trial=str(one))
        assert not app.exception
        assert "It was not trained: the study's cap is params at most 60.0 k." in texts(app)
        row = open_study("tiny", runs).trials().set_index("trial").loc[one]
        assert row["architecture"] in [code.value for code in app.code]
        assert app.metric[0].label == "Params"
        app = page("pareto", trials=f"{one},{other},1")
        assert not app.exception
        assert f"**Trial {other}** · " in texts(app)
        assert "over a cap" in texts(app)

    def test_a_lasso_over_many_says_that_the_best_are_shown(self, page, runs):
        add_trials(runs, "tiny", ["complete"] * 40)
        trials = open_study("tiny", runs).trials()
        best = most_accurate(trials["trial"], trials)
        app = page("pareto", trials=",".join(map(str, best)))
        assert "were picked" not in texts(app)
        app.session_state["picked"] = (best, 44)
        assert "44 networks were picked; these are the 24 most accurate of them." in texts(app.run())

    def test_several_networks_are_listed(self, page):
        app = page("pareto", trials="0,2,3")
        assert not app.exception
        assert "3 networks" in [heading.value for heading in app.subheader]
        assert {f"**Trial {number}**" for number in (0, 2, 3)} <= {text.value[:11] for text in app.markdown}

    def test_closing_empties_the_choice(self, page):
        app = page("pareto", trials="0,2").button(key="close-cards").click().run()
        assert not app.exception
        assert "trials" not in app.query_params
        assert "The front" in texts(app)

    @pytest.mark.parametrize(
        "trials", [",", "x,y", "-1", "1,1,1", "../..", "²", ",".join(map(str, range(5000))), "9" * 9000]
    )
    def test_strange_lists_are_passed_over(self, page, trials):
        app = page("pareto", study="tiny", trials=trials)
        assert not app.exception
        assert app.title[0].value == "tiny"
        assert "Not all of the networks in the address are shown" in texts(app)

    TRIALS = pd.DataFrame(
        {"trial": range(100), "val_accuracy": [i / 100 for i in range(100)], "rung_accuracy": [None] * 100}
    )

    def test_a_click_is_one_network_and_a_lasso_the_best_of_many(self):
        def selected(*trials, **more):
            return {"points": [{"customdata": [trial]} for trial in trials], **more}

        assert choice_of(selected(7), self.TRIALS) == (7, [])
        assert choice_of(selected(7, 7), self.TRIALS) == (7, [])  # a preset is drawn twice
        assert choice_of(selected(3, 8, 5), self.TRIALS) == (None, [8, 5, 3])
        assert choice_of(selected(7, lasso=[{}]), self.TRIALS) == (None, [7])
        assert choice_of(selected(*range(100), lasso=[{}]), self.TRIALS)[1] == list(range(99, 99 - MOST_TRIALS, -1))
        assert choice_of({}, self.TRIALS) == (None, [])
        assert choice_of({"points": [{}]}, self.TRIALS) == (None, [])  # a star, which is no trial


class TestFilters:
    CHOICES = MappingProxyType({"depth": (2, 3, 4), "operator": ("sc", "osc"), "split_ratio": (0.25, 0.5, 1.0)})

    @pytest.mark.parametrize(
        "text",
        [
            "operator:sc,osc;depth:3",
            "split_ratio:0.25,1",
            "params:10000-50000",
            "macs:-2000000000",
            "accuracy:40-",
            "depth:2;params:1000-;accuracy:-90.5",
        ],
    )
    def test_an_address_is_read_and_written_alike(self, text):
        assert read_filters(text, self.CHOICES).text == text

    @pytest.mark.parametrize(
        "text",
        [
            "", ";;;", ":", "depth", "depth:9", "depth:", "__class__:sc", "state:complete", "params:5-1", "params:x-y", "params:-",
            "params:1e5-2e5", "params:nan-inf", "accuracy:" + "9" * 99 + "-", "<b>:<i>", "operator:" + "sc" * 5000, "macs:--5",
        ],
    )  # fmt: skip
    def test_nonsense_filters_nothing(self, text):
        assert read_filters(text, self.CHOICES) == Filters()

    def test_rows_must_fulfil_all(self):
        rows = pd.DataFrame(
            {
                "depth": [2, 3, 3, None],
                "operator": ["sc", "sc", "osc", None],
                "params": [100, 200, 300, 250],
                "val_accuracy": [0.5, 0.6, None, None],
                "rung_accuracy": [None, None, 0.3, None],
            }
        )
        assert Filters().mask(rows).tolist() == [True] * 4
        assert Filters({"depth": (3,)}).mask(rows).tolist() == [False, True, True, False]
        assert Filters({"depth": (3,), "operator": ("osc",)}).mask(rows).tolist() == [False, False, True, False]
        assert read_filters("params:200-300", self.CHOICES).mask(rows).tolist() == [False, True, True, True]
        # A stopped network counts by its rung; what has no score stays.
        assert read_filters("accuracy:40-", self.CHOICES).mask(rows).tolist() == [True, True, False, True]

    def test_the_address_filters_the_page(self, page, runs):
        trials = open_study("tiny", runs).trials()
        kept = (trials["operator"] == "sc").sum()
        app = page("pareto", filter="operator:sc")
        assert not app.exception
        assert f"{kept} networks" in texts(app) or f"{kept} network" in texts(app)
        assert app.multiselect(key="filter-operator").value == ["sc"]

    def test_the_widgets_write_the_address(self, page):
        app = page("pareto")
        app = app.multiselect(key="filter-by").set_value(["operator"]).run()
        app = app.multiselect(key="filter-operator").set_value(["osc", "sc"]).run()
        assert not app.exception
        assert sorted(app.query_params["filter"].partition(":")[2].split(",")) == ["osc", "sc"]
        app = app.selectbox(key="filter-accuracy-to").set_value(95.0).run()
        assert app.query_params["filter"].endswith(";accuracy:-95")
        app = app.button(key="filter-none").click().run()
        assert not app.exception
        assert "filter" not in app.query_params

    @pytest.mark.parametrize("end", ["params:12345-", "params:-54321.125", "accuracy:33.3-99.9"])
    def test_a_range_of_the_address_survives_to_the_digit(self, page, end):
        app = page("pareto", filter=end)
        app = app.multiselect(key="filter-by").set_value(["operator"]).run()
        app = app.multiselect(key="filter-operator").set_value(["sc", "osc"]).run()
        assert not app.exception
        assert app.query_params["filter"].endswith(f";{end}")

    def test_the_way_to_another_page_keeps_the_filters(self, page):
        app = page("pareto", trials="0,2", filter="accuracy:1-", x="macs")
        links = [link.proto.query_string for link in app.get("page_link")]
        assert len(links) == 4  # two networks, Retrain, Compare
        assert all("filter=accuracy%3A1-" in link and "x=macs" in link for link in links)

    def test_filters_that_leave_nothing_leave_the_page(self, page):
        for view in ("plot", "space", "parallel"):
            app = page("pareto", filter="params:1-2", view=view, colour="operator")
            assert not app.exception
            assert "can not be shown" not in texts(app)
            assert "0 networks" in texts(app)
