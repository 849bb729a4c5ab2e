"""Figures: what is drawn is what the records say, in the units the axes name."""

import tomllib
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest

from search_space.rounding import rounded
from studies import charts, fronts
from studies.published import published_on
from trainers.runs import Predictions


@pytest.fixture
def trials() -> pd.DataFrame:
    """Four complete trials, two of them on the front, one a preset, and one that failed."""
    return pd.DataFrame(
        {
            "trial": [0, 1, 2, 3, 4],
            "state": ["complete", "complete", "complete", "complete", "failed"],
            "architecture": [f"dssdn_c{width}" for width in (8, 12, 16, 20, 24)],
            "preset": ["dssdn-large", None, None, None, None],
            "val_accuracy": [0.8, 0.9, 0.7, 0.6, None],
            "params": [20_000, 40_000, 10_000, 10_000, 5_000],
            "macs": [10**7, 10**8, 10**9, 10**9, 10**5],
            "clips": [900, 900, 900, 900, 0],
            "rung_accuracy": [None] * 5,
            "operator": ["sc", "osc", "sc", "spc", None],
            "depth": [2, 3, 4, 5, None],
        }
    )


def make_predictions(labels: list[int], said: list[int]) -> Predictions:
    """Certain predictions of three classes."""
    names = [f"{i}.wav" for i in range(len(labels))]
    return Predictions(np.eye(3, dtype=np.float32)[said], np.array(labels), names, [""] * len(labels))


def clickable(figure):
    """The traces whose points are networks that were scored."""
    floor = ("failed", "over a cap")
    return [trace for trace in figure.data if trace.customdata is not None and not trace.name.startswith(floor)]


def test_quantities_have_three_figures_and_a_prefix():
    numbers = (7, 999, 31_741, 124_600_000, 999_600, 1.2e9, 100_000)
    written = ["7", "999", "31.7 k", "125 M", "1.00 M", "1.20 G", "100 k"]
    assert [charts.quantity(number) for number in numbers] == written
    assert charts.per_cent(0.8816) == "88.2 %"


def test_halves_are_rounded_away_from_zero_wherever_a_share_is_written():
    assert [charts.per_cent(clips / 80) for clips in (71, 73, 77)] == ["88.8 %", "91.3 %", "96.3 %"]
    assert list(rounded(100 * pd.Series([73 / 80 - 0.9, 0.9 - 73 / 80, 0.0]))) == [1.3, -1.3, 0.0]
    predictions = make_predictions(labels=[0] * 8 + [1, 2], said=[0] * 5 + [1] * 3 + [1, 2])
    assert list(charts.confusion_figure(predictions, ["a", "b", "c"]).data[0].text[0]) == ["63", "38", ""]


@pytest.mark.parametrize("x", charts.COSTS)
def test_front_figure_draws_complete_trials_once_with_their_numbers(trials, x):
    figure = fronts.front_figure(trials, x, title="Front")
    others, front, presets = clickable(figure)
    assert others.customdata == ([3],)
    assert front.customdata == ([0], [1], [2])
    assert presets.customdata == ([0],)
    assert isinstance(front.customdata[0], list)
    assert list(front.x) == trials[x].tolist()[:3]
    assert list(front.y) == pytest.approx([80, 90, 70])
    assert [note.text for note in figure.layout.annotations] == ["dssdn-large"]
    assert (figure.layout.xaxis.type, figure.layout.yaxis.title.text) == ("log", "validation accuracy (%)")


def test_the_staircase_joins_the_best_up_to_each_cost(trials):
    line = fronts.front_figure(trials, "params").data[0]
    assert line.line.shape == "hv"
    assert (list(line.x), list(line.y)) == ([10_000, 20_000, 40_000], pytest.approx([70, 80, 90]))
    # At MACs the best is the second cheapest; its level is drawn on to the dearest.
    line = fronts.front_figure(trials, "macs").data[0]
    assert (list(line.x), list(line.y)) == ([10**7, 10**8, 10**9], pytest.approx([80, 90, 90]))


def test_marker_size_is_the_other_cost(trials):
    _, front, _ = clickable(fronts.front_figure(trials, "params"))
    assert front.marker.size == pytest.approx((8.0, 16.0, 24.0))  # 10^7, 10^8, 10^9 MACs
    assert "MACs" in fronts.front_figure(trials, "params").layout.legend.title.text


def test_hover_says_who_a_point_is_and_never_runs_what_it_says(trials):
    trials.loc[1, "architecture"] = "<img src=x onerror=alert(1)>"
    _, front, _ = clickable(fronts.front_figure(trials))
    assert front.hovertext[0] == "<b>trial 0 · dssdn-large</b><br>dssdn_c8<br>80.0 % · 20.0 k params · 10.0 M MACs"
    assert "<img" not in front.hovertext[1]


def test_synthetic_data_is_called_so(trials):
    assert fronts.front_figure(trials, title="Front", synthetic=True).layout.title.text == "Front · synthetic data"
    assert charts.curve_figure([], synthetic=True).layout.title.text == "synthetic data"
    assert (
        charts.confusion_figure(make_predictions([0, 1], [0, 1]), ["a", "b", "c"], synthetic=True).layout.title.text
        == "synthetic data"
    )
    assert not fronts.front_figure(trials).layout.title.text


def test_names_of_presets_stand_above_all_points_on_lines_of_their_own(trials):
    trials.loc[:2, "preset"] = ["dssdn-large", "<b>middle", "dssdn-small"]
    notes = fronts.front_figure(trials).layout.annotations
    assert [note.text for note in notes] == [
        "dssdn-small",
        "dssdn-large",
        "&lt;b&gt;middle",
    ]  # so that no line crosses a name
    heights = [note.ay for note in notes]
    assert min(heights) > 90.0
    assert heights == sorted(set(heights))
    assert [round(10**note.x) for note in notes] == [10_000, 20_000, 40_000]


def test_names_of_presets_stand_above_what_lies_beside_the_trials_too(trials):
    trials.loc[0, "preset"] = "dssdn-large"
    full = pd.DataFrame(
        [
            {
                "trial": 0,
                "recipe": "strong",
                "epochs": 60,
                "architecture": "a",
                "params": 5000,
                "macs": 9,
                "test_accuracy": 0.9,
            }
        ]
    ).assign(val_accuracy=0.95)
    [note] = fronts.front_figure(trials, retrained=full).layout.annotations
    assert note.ay > 95.0
    sure = trials.loc[[0], ["trial", "architecture", "params", "macs"]].assign(val_mean=0.9, val_low=0.8, val_high=0.97)
    [note] = fronts.front_figure(trials, confirmed=sure).layout.annotations
    assert note.ay > 97.0


def test_a_pruned_retraining_stands_at_its_own_cost_and_seeds_are_one_point(trials):
    rows = [("strong", 20_000, 0.6), ("strong-pruned0.5x8", 9_000, 0.5), ("strong-pruned0.5x8", 11_000, 0.7)]
    full = pd.DataFrame(
        [
            {
                "trial": 0,
                "recipe": label,
                "epochs": 60,
                "architecture": "a",
                "params": params,
                "macs": 5,
                "val_accuracy": val,
            }
            for label, params, val in rows
        ]
    ).assign(test_accuracy=0.5)
    figure = fronts.front_figure(trials, retrained=full)
    [drawn] = [trace for trace in figure.data if (trace.name or "").startswith("retrained")]
    assert drawn.name == "retrained, 60 epochs (2)"
    assert dict(zip(drawn.x, drawn.y, strict=True)) == pytest.approx({20_000: 60.0, 10_000: 60.0})
    assert "2 seeds" in drawn.hovertext[1]


def test_the_words_of_the_first_axis_have_room(trials):
    words = trials.assign(family="rep-mobile")
    words.loc[0, "family"] = "dssdn"
    wide, narrow = (
        fronts.parallel_figure(frame, ["family"]).layout.margin.l for frame in (words, trials.assign(family=1))
    )
    assert wide >= 8 * len("rep-mobile") > narrow


def test_a_long_title_is_broken_and_has_room(trials):
    short, long = (charts.layout(title, synthetic=True) for title in ("<b>", "a title that says a lot " * 4))
    assert short["title"]["text"] == "&lt;b&gt; · synthetic data"
    lines = long["title"]["text"].split("<br>")
    assert len(lines) == 3
    assert max(map(len, lines)) <= 44
    assert long["margin"]["t"] - short["margin"]["t"] == 2 * 22


@pytest.mark.parametrize("dark", [False, True])
def test_a_dressed_figure_has_the_colours_of_the_page(trials, dark):
    with (Path(__file__).parent.parent / ".streamlit" / "config.toml").open("rb") as file:
        theme = tomllib.load(file)["theme"]["dark" if dark else "light"]
    layout = charts.dress(fronts.front_figure(trials), dark, 400).layout
    assert (layout.font.color, layout.paper_bgcolor) == (theme["textColor"], theme["backgroundColor"])
    assert layout.yaxis.gridcolor == theme["borderColor"]


def contrast(first: str, second: str) -> float:
    """The contrast of two colours as the WCAG has it, 1 to 21."""

    def luminance(colour: str) -> float:
        shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


class TestWordsCanBeRead:
    """Contrasts of 4.5:1 at least on a light and on a dark page."""

    @pytest.mark.parametrize("dark", [False, True])
    def test_in_the_cells_of_a_confusion(self, dark):
        told = make_predictions(labels=[0, 1, 2], said=[0, 0, 2])
        other = make_predictions(labels=[0, 1, 2], said=[0, 1, 1])
        for figure in (
            charts.confusion_figure(told, ["a", "b", "c"], dark=dark),
            charts.confusion_difference_figure(told, other, ["a", "b", "c"], dark=dark),
        ):
            words = figure.data[0].textfont.color
            assert all(contrast(words, colour) >= 4.5 for _, colour in figure.layout.coloraxis.colorscale)

    @pytest.mark.parametrize("dark", [False, True])
    def test_beside_presets_and_caps(self, trials, dark):
        caps = [fronts.Cap("params", 30_000, "at most")]
        figure = charts.dress(fronts.front_figure(trials, caps=caps), dark, 400)
        assert len(figure.layout.annotations) == 2
        for note in figure.layout.annotations:
            assert contrast(note.font.color, figure.layout.paper_bgcolor) >= 4.5
            assert note.opacity in (None, 1)


def test_a_marked_trial_is_selected_in_every_trace(trials):
    others, front, presets = clickable(fronts.front_figure(trials, marked={1}))
    assert [others.selectedpoints, front.selectedpoints, presets.selectedpoints] == [(), (1,), ()]


@pytest.mark.parametrize(
    ("macs", "labels"), [([10**6, 10**8], {"2 M", "50 M", "100 M"}), ([10**8, 3 * 10**8], {"100 M", "300 M"})]
)
def test_the_cost_axis_has_round_labels(trials, macs, labels):
    axis = fronts.front_figure(trials[:2].assign(macs=macs), "macs").layout.xaxis
    assert labels <= set(axis.ticktext)
    assert axis.tickvals[0] <= macs[0]
    assert axis.tickvals[-1] >= macs[1]


@pytest.mark.parametrize("rows", [0, 1])
def test_front_figure_of_few_trials(trials, rows):
    figure = fronts.front_figure(trials[:rows])
    assert sum(len(trace.x) for trace in clickable(figure)) == 2 * rows
    said = [note.text for note in figure.layout.annotations]
    assert said == (["dssdn-large"] if rows else ["no scored network"])


class TestAllTrials:
    @pytest.fixture
    def mixed(self, trials):
        """The four complete trials, one that was stopped, one over a cap, the failed one, and a duplicate."""
        more = trials.iloc[[0, 0, 0]].assign(
            trial=[5, 6, 7],
            state=["stopped", "over_cap", "duplicate"],
            preset=None,
            val_accuracy=None,
            rung_accuracy=[0.4, None, None],
            clips=[300, 0, 0],
        )
        return pd.concat([trials, more], ignore_index=True)

    def test_each_state_is_a_trace_of_its_own_and_counted(self, mixed):
        figure = fronts.front_figure(mixed)
        names = [trace.name for trace in figure.data]
        assert "stopped early (1)" in names
        assert "over a cap (1)" in names
        assert "failed (1)" in names
        stopped = next(trace for trace in figure.data if trace.name.startswith("stopped"))
        assert (list(stopped.y), stopped.customdata) == ([40.0], ([5],))
        assert "stopped after 300 clips" in stopped.hovertext[0]
        over = next(trace for trace in figure.data if trace.name.startswith("over"))
        assert over.customdata == ([6],)
        assert over.y[0] < 40
        staircase = next(trace for trace in figure.data if trace.mode == "lines")
        assert min(staircase.y) == pytest.approx(70)  # a rung's score is no part of it

    def test_words_have_a_colour_each_and_numbers_a_scale(self, mixed):
        coloured = fronts.front_figure(mixed, colour="operator")
        named = {trace.name: trace.marker.color for trace in clickable(coloured)}
        words = [name for name in named if name.startswith("operator")]
        assert words == ["operator osc (1)", "operator sc (2)", "operator spc (1)"]
        assert len({named[name] for name in words}) == 3
        numbers = next(trace for trace in fronts.front_figure(mixed, colour="depth").data if trace.name == "depth (4)")
        assert sorted(numbers.marker.color) == [2, 3, 4, 5]
        assert numbers.marker.colorbar.title.text == "depth"

    def test_caps_are_lines_on_their_own_axis(self, mixed):
        info = {"max_params": 30_000, "max_macs": None, "max_bytes": 128_000, "precision": "float16", "limits": None}
        caps = fronts.caps_of(info)
        assert [(cap.cost, cap.most) for cap in caps] == [("params", 30_000), ("params", 64_000)]
        assert [shape.x0 for shape in fronts.front_figure(mixed, "params", caps=caps).layout.shapes] == [30_000, 64_000]
        assert not fronts.front_figure(mixed, "macs", caps=caps).layout.shapes
        assert fronts.caps_of({}) == []

    def test_confirmed_means_have_intervals(self, mixed):
        confirmed = pd.DataFrame(
            {"trial": [1], "architecture": ["<b>"], "params": [40_000], "macs": [10**8]}
            | {"val_mean": [0.85], "val_low": [0.8], "val_high": [0.87]}
        )
        figure = fronts.front_figure(mixed, confirmed=confirmed)
        [trace] = [trace for trace in figure.data if (trace.name or "").startswith("confirmed")]
        assert (trace.y, trace.customdata) == (pytest.approx((85.0,)), ([1],))
        assert (trace.error_y.array, trace.error_y.arrayminus) == (pytest.approx((2.0,)), pytest.approx((5.0,)))
        assert trace.name == "confirmed: mean of new seeds, 95 % (1)"
        assert "<b>&lt;b&gt;" not in trace.hovertext[0]
        assert "&lt;b&gt;" in trace.hovertext[0]

    @pytest.mark.parametrize(("budget", "said"), [(900, "confirmed:"), (7_200, "confirmed after 900 clips:")])
    def test_a_confirmation_of_another_budget_says_so_in_the_legend(self, mixed, budget, said):
        confirmed = mixed.loc[[1], ["trial", "architecture", "params", "macs"]]
        confirmed = confirmed.assign(val_mean=0.85, val_low=0.8, val_high=0.87, budget=900)
        figure = fronts.front_figure(mixed, confirmed=confirmed, budget=budget)
        [trace] = [trace for trace in figure.data if (trace.name or "").startswith("confirmed")]
        assert trace.name.startswith(said)
        assert "mean after 900 clips 85.0 %" in trace.hovertext[0]

    def test_all_choices_are_axes_in_the_parallel_plot(self, mixed):
        figure = fronts.parallel_figure(mixed, ["operator", "depth", "preset"])
        labels = [axis.label for axis in figure.data[0].dimensions]
        assert labels == ["operator", "depth", "preset", "params", "MACs", "val accuracy (%)"]
        assert figure.data[0].dimensions[0].ticktext == ("osc", "sc", "spc")
        assert figure.data[0].dimensions[2].ticktext == ("–", "dssdn-large")

    def test_three_dimensions_hold_the_complete_trials(self, mixed):
        figure = fronts.space_figure(mixed, synthetic=True)
        assert sum(len(trace.x) for trace in figure.data) == 4
        assert figure.layout.title.text == "synthetic data"


class TestPublished:
    DATA = MappingProxyType(
        {"name": "tau2020", "synthetic": False, "counts": {"train": 11_993, "val": 1_969, "test": 2_968}}
    )

    def test_the_official_set_has_the_papers_networks(self):
        marks = {mark.name: mark for mark in published_on(self.DATA)}
        assert marks["dssdn-large"].val_accuracy == pytest.approx(0.662)
        assert "mobilenet-v2" in marks
        assert "dsmn-1" not in marks  # printed for 2022

    @pytest.mark.parametrize(
        "change",
        [{"name": "esc50"}, {"synthetic": True}, {"counts": {"train": 9, "val": 9, "test": 9}}, {"counts": {}}],
    )
    def test_other_data_has_none(self, change):
        assert published_on({**self.DATA, **change}) == []

    def test_they_are_stars_beside_the_front(self, trials):
        figure = fronts.front_figure(trials, "macs", published=published_on(self.DATA))
        [stars] = [trace for trace in figure.data if trace.marker.symbol == "star"]
        assert "dssdn-small" in stars.text
        assert max(stars.y) < 100


def test_several_courses_are_told_apart_and_the_random_one_is_grey():
    course = pd.DataFrame({"trials": [1, 9], "clips": [100, 400], "hypervolume": [0.5, 0.75]})
    figure = fronts.course_figure({"a<b": course, "chance": course}, "clips", baselines={"chance"})
    first, random = figure.data
    assert (first.x, first.y) == ((0, 100, 400), (0.0, 0.5, 0.75))
    assert first.name == "a&lt;b"
    assert (random.name, random.line.dash, random.line.color) == ("chance (random baseline)", "dash", charts.GREY)
    assert figure.layout.xaxis.title.text == "training clips seen"


def test_fronts_lie_over_one_another(trials):
    figure = fronts.fronts_figure({"one": trials, "two": trials[:1]})
    points = clickable(figure)
    assert [len(trace.x) for trace in points] == [3, 1]
    assert points[0].marker.color != points[1].marker.color


def test_learning_curves_lie_over_one_another():
    rows = [{"clips_seen": 100, "train_accuracy": 0.5, "val_accuracy": None}, {"clips_seen": 200, "val_accuracy": 0.4}]
    figure = charts.curves_figure({"trial 1": rows, "trial 2": rows})
    training, validation, *_ = figure.data
    assert (training.x, training.y) == ((100,), (50.0,))
    assert (validation.x, validation.y) == ((200,), (40.0,))


def test_a_difference_of_confusions_is_in_points():
    first = make_predictions(labels=[0, 0, 0, 0, 1, 1], said=[0, 0, 0, 1, 1, 1])
    second = make_predictions(labels=[0, 0, 0, 0, 1, 1], said=[0, 1, 1, 1, 1, 0])
    (cells,) = charts.confusion_difference_figure(first, second, ["bus", "tram", "park"]).data
    assert np.allclose(cells.z, [[50, -50, 0], [-50, 50, 0], [0, 0, 0]])


def test_curve_leaves_out_what_was_not_measured():
    rows = [
        {"epoch": 1, "clips_seen": 100, "loss": 2.0, "train_accuracy": 0.3},
        {
            "epoch": 2,
            "clips_seen": 200,
            "loss": 1.5,
            "train_accuracy": 0.5,
            "val_accuracy": 0.45,
            "val_loss": 1.6,
        },
    ]
    train, val, loss, val_loss = charts.curve_figure(rows).data
    assert (train.x, train.y) == ((1, 2), (30.0, 50.0))
    assert (val.x, val.y) == ((2,), (45.0,))
    assert (loss.y, val_loss.y) == ((2.0, 1.5), (1.6,))


def test_confusion_is_per_cent_of_the_true_class():
    predictions = make_predictions(labels=[0, 0, 0, 0, 2, 2, 2, 2], said=[0, 0, 0, 1, 0, 1, 2, 2])
    (cells,) = charts.confusion_figure(predictions, ["airport", "bus", "<b>tram"]).data
    assert np.allclose(cells.z, [[75, 25, 0], [0, 0, 0], [25, 25, 50]])
    assert list(cells.y) == ["airport", "bus", "&lt;b&gt;tram"]
    assert np.array_equal(cells.customdata, [[3, 1, 0], [0, 0, 0], [1, 1, 2]])


def test_a_written_figure_needs_no_network(trials, tmp_path):
    path = tmp_path / "study" / "front.html"
    charts.write_html(fronts.front_figure(trials), path)
    page = path.read_text("utf-8")
    assert "<script src=" not in page
    assert '"showSendToCloud": false' in page
    assert len(page) > 1_000_000  # plotly.js itself


class TestForest:
    ROWS = (
        {
            "label": "operator: sc -> conv",
            "mean": -10.0,
            "low": -12.0,
            "high": -8.5,
            "verdict": "worse",
            "hover": "net<1>",
        },
        {
            "label": "taps: later -> last",
            "mean": 0.5,
            "low": -1.0,
            "high": 2.0,
            "verdict": "inside the noise",
            "hover": "net2",
        },
        {"label": "hop: 1024 -> 512", "mean": 3.0, "low": None, "high": None, "verdict": "one run", "hover": "net3"},
    )

    def test_every_row_is_drawn_with_its_interval_and_says_its_network(self):
        figure = charts.forest_figure(self.ROWS, title="Forest")
        assert [trace.name for trace in figure.data] == ["worse", "inside the noise", "one run"]
        worse, inside, once = figure.data
        assert (worse.x, worse.error_x.array, worse.error_x.arrayminus) == ((-10.0,), (1.5,), (2.0,))
        assert (once.error_x.array, once.error_x.arrayminus) == ((0.0,), (0.0,))
        assert worse.hovertext == ("net&lt;1&gt;",)
        assert worse.marker.color != inside.marker.color == once.marker.color
        first, *_ = figure.layout.yaxis.categoryarray[::-1]
        assert first == "operator: sc -&gt; conv"  # the first row stands at the top
        assert "points of val accuracy" in figure.layout.xaxis.title.text

    def test_the_line_of_no_difference_is_there_and_synthetic_data_is_named(self):
        figure = charts.forest_figure(self.ROWS, title="Forest", synthetic=True)
        [line] = figure.layout.shapes
        assert (line.x0, line.x1) == (0, 0)
        assert figure.layout.title.text == "Forest · synthetic data"
