"""What each choice did in a study: effects that are there are found, noise is called noise, and it is said to be no experiment."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from scipy import stats

from search_space.complexity import count
from search_space.errors import UserError
from search_space.space import get_space
from studies import charts, effects, observed
from studies.records import encode, ordered
from studies.storage import open_storage

CHOICES: dict[str, tuple[Any, ...]] = {
    "depth": (2, 3, 4, 5),
    "operator": ("sc", "osc", "spc"),
    "osc_mid": (4, 8, 16),
    "split_ratio": (0.25, 0.5, 1.0),
}


def draw(number: int, seed: int) -> pd.DataFrame:
    """Trials with choices at random; `osc_mid` is asked where the operator is osc."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({name: rng.choice(np.array(options), number) for name, options in CHOICES.items()})
    frame["osc_mid"] = frame["osc_mid"].where(frame["operator"] == "osc")
    return frame.assign(trial=range(number), state="complete")


def truth(trials: pd.DataFrame) -> np.ndarray:
    """A point a block, two more for osc, and with it one a doubling of its mid channels from 8 on."""
    osc = (trials["operator"] == "osc").to_numpy()
    mid = np.where(osc, np.log2(trials["osc_mid"].fillna(8).astype(float)) - 3, 0.0)
    return 0.5 + 0.01 * trials["depth"].to_numpy(dtype=float) + 0.02 * osc + 0.01 * mid


def true_effects(trials: pd.DataFrame) -> dict[tuple[str, Any], float]:
    """What each option of the truth does beyond the mean of the trials asked."""
    osc = trials[trials["operator"] == "osc"]
    mid_mean = (np.log2(osc["osc_mid"].astype(float)) - 3).mean()
    worth = {"sc": 0.0, "osc": 0.02 + 0.01 * mid_mean, "spc": 0.0}
    found = {("depth", depth): 0.01 * (depth - trials["depth"].mean()) for depth in CHOICES["depth"]}
    mean = trials["operator"].map(worth).mean()
    found |= {("operator", name): value - mean for name, value in worth.items()}
    found |= {("osc_mid", mid): 0.01 * (math.log2(mid) - 3 - mid_mean) for mid in CHOICES["osc_mid"]}
    return found | {("split_ratio", ratio): 0.0 for ratio in CHOICES["split_ratio"]}


def covered(model: observed.Model, of: dict[tuple[str, Any], float]) -> list[bool]:
    rows = model.effects.to_dict("records")
    return [row["low"] <= of[row["choice"], row["option"]] <= row["high"] for row in rows]


class TestAdditiveModel:
    def test_effects_without_noise_are_found_to_the_digit(self) -> None:
        """Those of a conditional choice are of its own trials, and its parent's hold its options as they were tried."""
        trials = draw(120, 0)
        model = observed.additive_model(trials, CHOICES, truth(trials))
        expected = true_effects(trials)
        rows = model.effects.to_dict("records")
        assert {(row["choice"], row["option"]) for row in rows} == set(expected)
        for row in rows:
            assert row["effect"] == pytest.approx(expected[row["choice"], row["option"]], abs=1e-9)
        assert model.r2 == pytest.approx(1.0)
        mid = model.effects[model.effects["choice"] == "osc_mid"]
        assert mid["trials"].sum() == (trials["operator"] == "osc").sum()

    def test_two_options_have_students_interval(self) -> None:
        rng = np.random.default_rng(0)
        y_N, choice = rng.normal(0, 1, 40), np.array(["a", "b"] * 20)
        model = observed.additive_model(pd.DataFrame({"x": choice}), {"x": ("a", "b")}, y_N)
        between = stats.ttest_ind(y_N[choice == "b"], y_N[choice == "a"]).confidence_interval()
        of_b = model.effects[model.effects["option"] == "b"].iloc[0]
        assert (2 * of_b["low"], 2 * of_b["high"]) == pytest.approx((between.low, between.high))

    def test_intervals_hold_known_effects(self) -> None:
        """Under a noise of three points, whichever coding is chosen by its R2."""
        held: list[bool] = []
        for seed in range(40):
            trials = draw(80, seed)
            y_N = truth(trials) + np.random.default_rng(seed).normal(0, 0.03, 80)
            held += covered(observed.additive_model(trials, CHOICES, y_N), true_effects(trials))
        assert 0.90 < np.mean(held) < 0.99

    def test_without_effect_intervals_hold_zero_and_the_model_says_that_it_explains_nothing(self) -> None:
        held, says = [], 0
        for seed in range(40):
            model = observed.additive_model(draw(60, seed), CHOICES, np.random.default_rng(seed).normal(0.7, 0.03, 60))
            held += covered(model, dict.fromkeys(true_effects(draw(60, seed)), 0.0))
            says += model.r2 > 0
        assert 0.90 < np.mean(held) < 0.99
        assert says <= 12

    def test_a_line_is_enough_for_a_line_and_a_jump_takes_steps(self) -> None:
        trials = draw(100, 0)
        noise_N = np.random.default_rng(0).normal(0, 0.002, 100)
        assert observed.additive_model(trials, CHOICES, truth(trials) + noise_N).coding != "step"
        jump_N = 0.1 * (trials["depth"].isin([2, 4])).to_numpy()
        assert observed.additive_model(trials, CHOICES, jump_N + noise_N).coding == "step"

    def test_choices_that_always_went_together_are_not_told_apart(self) -> None:
        trials = draw(60, 0)
        both = trials.assign(twin=trials["operator"].map({"sc": "a", "osc": "b", "spc": "c"}))
        choices = {"operator": CHOICES["operator"], "twin": ("a", "b", "c"), "depth": CHOICES["depth"]}
        model = observed.additive_model(both, choices, truth(trials))
        told = model.effects.groupby("choice")["effect"].apply(lambda of: of.notna().all())
        assert told.to_dict() == {"depth": True, "operator": False, "twin": False}

    def test_too_few_trials_are_refused_with_the_number_it_takes(self) -> None:
        """Six columns of the stiffest model (mean, depth, two for operators, osc_mid, split_ratio) and ten to spare are below 20."""
        trials = draw(19, 0)
        with pytest.raises(UserError, match="take at least 20 trials, and 19 can be used"):
            observed.additive_model(trials, CHOICES, truth(trials))
        many = {f"x{i}": (1, 2, 3) for i in range(15)}
        rng = np.random.default_rng(0)
        frame = pd.DataFrame({name: rng.choice([1, 2, 3], 25) for name in many})
        assert observed.least_trials(frame, many) == 26
        with pytest.raises(UserError, match="take at least 26 trials, and 25"):
            observed.additive_model(frame, many, np.zeros(25))


class TestImportance:
    def test_accuracy_is_asked_for_what_makes_it_high(self) -> None:
        """spc makes the worst tenth, depth 5 with the largest ratio the best: unsigned, PED-ANOVA puts the operator first."""
        trials = draw(200, 1).assign(params=1000, macs=1000)
        rng = np.random.default_rng(1)
        good = (trials["depth"] == 5).to_numpy()
        bad = (trials["operator"] == "spc").to_numpy()
        y_N = 0.5 + 0.2 * good * (1 - bad) - 0.2 * bad + rng.uniform(0, 0.01, 200)
        wrong = observed.importance(trials, CHOICES, y_N, 20).set_index("choice")["importance"]
        assert wrong.idxmax() == "operator"
        trials = trials.assign(
            val_accuracy=y_N, params=rng.integers(1000, 9000, 200), macs=rng.integers(1000, 9000, 200)
        )
        found = observed.study_effects(trials, CHOICES)["objectives"]["val_accuracy"]
        assert found["choices"][0]["choice"] == "depth"
        assert found["choices"][0]["importance"] > found["choices"][0]["noise"]

    def test_costs_are_asked_for_what_makes_them_low(self) -> None:
        trials = draw(100, 0)
        cost_N = 10.0 ** trials["depth"].to_numpy(dtype=float)
        found = observed.importance(trials, CHOICES, cost_N, 10).set_index("choice")
        assert found["importance"].idxmax() == "depth"
        assert found["importance"].sum() == pytest.approx(1.0)

    def test_noise_seldom_looks_important(self) -> None:
        above = []
        for seed in range(12):
            found = observed.importance(draw(40, seed), CHOICES, np.random.default_rng(seed).normal(0, 1, 40), 5)
            above += (found["importance"] > found["noise"]).tolist()
        assert np.mean(above) < 0.2

    def test_results_that_are_all_equal_have_no_importance(self) -> None:
        assert observed.importance(draw(30, 0), CHOICES, np.ones(30), 5)["importance"].isna().all()
        assert observed.importance(draw(30, 0), CHOICES, np.arange(30), 30)["importance"].isna().all()


class TestInteractions:
    def test_a_product_is_found_and_measured(self) -> None:
        """Five points for osc at full ratio, beyond the sum of both."""
        trials = draw(150, 0)
        ratio = trials["split_ratio"].map({0.25: 0.0, 0.5: 0.5, 1.0: 1.0}).to_numpy()
        y_N = truth(trials) + 0.05 * (trials["operator"] == "osc").to_numpy() * ratio
        y_N = y_N + np.random.default_rng(0).normal(0, 0.005, 150)
        found = observed.interactions(trials, CHOICES, y_N, "step").to_dict("records")[0]
        assert (found["first"], found["second"]) == ("operator", "split_ratio")
        assert (found["from_first"], found["to_first"]) == ("sc", "osc")
        assert (found["from_second"], found["to_second"]) == (0.25, 1.0)
        assert found["low"] < 0.05 < found["high"]
        assert found["p"] < 1e-6
        assert found["r2_gain"] > 0.02

    def test_a_sum_has_none(self) -> None:
        """Holm's p below 0.05 comes up by chance in about one of twenty studies, here in at most four of 20."""
        found = 0
        for seed in range(20):
            trials = draw(60, seed)
            y_N = truth(trials) + np.random.default_rng(seed).normal(0, 0.02, 60)
            found += observed.interactions(trials, CHOICES, y_N, "line")["p"].min() < 0.05
        assert found <= 4


class TestFront:
    def test_shares_have_wilsons_interval(self) -> None:
        """Of four trials with a, two are on the front; none of the six with b, whose interval ends at z^2 / (n + z^2)."""
        rows = [(0.9, 10, 10, "a"), (0.8, 5, 5, "a"), (0.7, 9, 9, "a"), (0.6, 9, 9, "a"), *[(0.5, 20, 20, "b")] * 6]
        trials = pd.DataFrame(rows, columns=["val_accuracy", "params", "macs", "x"]).assign(state="complete")
        running = trials.iloc[:1].assign(state="running", val_accuracy=1.0)
        found = observed.on_front(pd.concat([trials, running]), {"x": ("a", "b", "c")}).set_index("option")
        assert found[["trials", "on_front", "share"]].to_numpy().tolist() == [[4, 2, 0.5], [6, 0, 0.0]]
        z = stats.norm.ppf(0.975)
        half = z / (4 + z**2) * math.sqrt(4 * 0.5 * 0.5 + z**2 / 4)
        assert found.loc["a", ["low", "high"]].tolist() == pytest.approx([0.5 - half, 0.5 + half])
        assert found.loc["b", ["low", "high"]].tolist() == pytest.approx([0.0, z**2 / (6 + z**2)])


class TestStudyEffects:
    def test_stopped_trials_count_for_costs_alone(self) -> None:
        trials = draw(60, 0)
        params = 1000 * 2 ** trials["depth"]
        trials = trials.assign(val_accuracy=truth(trials), params=params, macs=params)
        trials.loc[40:, ["state", "val_accuracy"]] = ["stopped", np.nan]
        found = observed.study_effects(trials, CHOICES)
        assert found["objectives"]["val_accuracy"]["trials"] == found["front"]["trials"] == 40
        unlike = len(trials.drop_duplicates(list(CHOICES)))
        assert found["objectives"]["params"]["trials"] == unlike
        assert unlike > len(trials[:40].drop_duplicates(list(CHOICES)))
        with pytest.raises(UserError, match="these 4 choices take at least 20 complete trials, and there are 19"):
            observed.study_effects(trials.assign(state=["complete"] * 19 + ["stopped"] * 41), CHOICES)

    def test_costs_are_ratios_to_the_geometric_mean(self) -> None:
        trials = draw(80, 0)
        params = 1000 * 2 ** trials["depth"]
        found = observed.study_effects(trials.assign(val_accuracy=truth(trials), params=params, macs=params), CHOICES)
        unlike = trials.drop_duplicates(list(CHOICES))
        first = found["objectives"]["params"]["choices"][0]
        assert first["choice"] == "depth"
        for option in first["options"]:
            assert option["effect"] == pytest.approx(2 ** (option["option"] - unlike["depth"].mean()))

    def test_a_model_that_explains_nothing_shows_no_effects(self) -> None:
        trials = draw(60, 3)
        rng = np.random.default_rng(3)
        trials = trials.assign(val_accuracy=rng.uniform(0.5, 0.6, 60), params=rng.integers(1, 99, 60), macs=7)
        accuracy = observed.study_effects(trials, CHOICES)["objectives"]["val_accuracy"]
        assert accuracy["model"]["r2"] <= 0
        assert not accuracy["model"]["says_something"]
        assert all(not choice["options"] for choice in accuracy["choices"])
        assert accuracy["interactions"] == []


def write_study(runs: Path, number: int, sampler: str = "tpe") -> None:
    """A made-up study of the space dssdn in a journal: networks at random, a score that grows with depth."""
    rng, space = random.Random(0), get_space("dssdn")
    study = optuna.create_study(
        study_name="made", storage=open_storage(runs / "made"), directions=["maximize", "minimize", "minimize"]
    )
    trials = []
    for place in range(number):
        network = space.sample(lambda _, options: rng.choice(options))
        chosen, choices, cost = space.encode(network), space.choices, count(network, (431, 256), 10)
        stopped = place % 8 == 7
        score = 0.4 + 0.05 * len(network.blocks) + rng.gauss(0, 0.01)
        about = {"architecture": str(network), "params": cost.params, "macs": cost.macs}
        trials.append(
            create_trial(
                state=TrialState.PRUNED if stopped else TrialState.COMPLETE,
                values=None if stopped else [score, cost.params, cost.macs],
                params={name: encode(choices[name], option) for name, option in chosen.items()},
                distributions={
                    name: IntDistribution(0, len(choices[name]) - 1)
                    if ordered(choices[name])
                    else CategoricalDistribution(choices[name])
                    for name in chosen
                },
                user_attrs={**about, "outcome": "stopped"} if stopped else about,
            )
        )
    study.add_trials(trials)
    study.set_user_attr("data", {"name": "made-up", "synthetic": True, "counts": {"val": 50}, "digest": "0", "fold": 1})
    study.set_user_attr("space", {"name": space.name, "digest": space.digest, "size": space.size})
    study.set_user_attr("budget", 100)
    study.set_user_attr("provenance", {"command": f"python -m studies.run --study made --sampler {sampler}"})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 64 networks 8 were stopped."""
    place = tmp_path_factory.mktemp("effects") / "runs"
    write_study(place, 64)
    return place


class TestCommand:
    def test_it_says_what_it_is_and_what_would_test_it(self, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert effects.main(["--study", "made", "--runs", str(runs)]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert said.startswith("Observational: what this search saw, not an experiment.")
        assert "made-up (synthetic data), 56 complete trials" in said
        assert "left out of accuracy and front: 8 stopped" in said
        assert "sampler: tpe, which tries more of what scored well" in said
        assert said.count("(synthetic data)") == 5  # the headline and four tables
        assert "python -m studies.ablate --study made --trial " in said

    def test_an_option_of_few_trials_says_that_it_lies_on_a_line(
        self, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(observed, "LEAST_OF_OPTION", 1000)
        assert effects.main(["--study", "made", "--runs", str(runs), "--json"]) == 0
        parts = json.loads(capsys.readouterr().out)["objectives"].values()
        marks = {
            (part["model"]["coding"], choice["choice"] == "operator", option["by_the_others"])
            for part in parts
            for choice in part["choices"]
            for option in choice["options"]
        }
        assert any(mark for *_, mark in marks)
        assert all(mark == (None if named or coding == "step" else coding) for coding, named, mark in marks)
        assert effects.main(["--study", "made", "--runs", str(runs)]) == 0
        said = capsys.readouterr().out
        assert "trials had this option; its effect is a point of the" in said
        monkeypatch.setattr(observed, "LEAST_OF_OPTION", 1)
        assert effects.main(["--study", "made", "--runs", str(runs)]) == 0
        assert "trials had this option" not in capsys.readouterr().out

    def test_json_is_one_document_and_csv_has_a_row_for_every_option(
        self, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file, figures = tmp_path / "effects.csv", tmp_path / "effects.html"
        arguments = ["--study", "made", "--runs", str(runs), "--json", "--csv", str(file), "--html", str(figures)]
        assert effects.main(arguments) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["evidence"] == "observational: what this search saw, not an experiment"
        assert report["states"] == {"complete": 56, "stopped": 8}
        assert report["data"]["synthetic"] is True
        first = report["objectives"]["val_accuracy"]["choices"][0]
        assert first["choice"] == "depth"
        rise = [option["effect"] for option in first["options"]]
        assert rise == sorted(rise)
        assert report["ablation"].split("--factors ")[1].split(",")[0] == "depth"
        table = pd.read_csv(file)
        assert set(table["evidence"]) == {"observational"}
        assert table["synthetic"].all()
        page = figures.read_text()
        assert page.count("Plotly.newPlot(") == 3
        titles = page.replace("\\u003cbr\\u003e", " ")  # which are broken into lines
        assert titles.count("observational, no experiment \\u00b7 synthetic data") == 3
        assert set(table["objective"]) == {"val_accuracy", "params", "macs", "front"}
        depths = table[(table["objective"] == "params") & (table["choice"] == "depth")]
        assert depths["option"].tolist() == ["2", "3", "4", "5", "6"]

    def test_few_trials_and_another_space_are_refused(self, tmp_path: Path) -> None:
        write_study(tmp_path, 16)
        with pytest.raises(
            UserError,
            match=r"take at least 20 complete trials, and there are 14.*--study made --sampler tpe --runs .* --trials N",
        ):
            effects.main(["--study", "made", "--runs", str(tmp_path)])

    def test_a_study_whose_space_has_changed_is_refused(self, tmp_path: Path) -> None:
        write_study(tmp_path, 2)
        study = optuna.load_study(study_name="made", storage=open_storage(tmp_path / "made"))
        study.set_user_attr("space", {"name": "dssdn", "digest": "another"})
        with pytest.raises(UserError, match="made with another version of space 'dssdn'"):
            effects.main(["--study", "made", "--runs", str(tmp_path)])

    def test_the_sampler_is_read_off_the_command_that_began_the_study(self) -> None:
        begin = "python -m studies.run --study random"
        assert observed._sampler(begin) == "tpe"
        assert observed._sampler(f"{begin} --sampler random --trials 3") == "random"
        assert observed._sampler(f"{begin} --sampler=nsga2") == "nsga2"
        assert observed._sampler("python -m pytest") is None


class TestFigure:
    CHOICE: ClassVar[dict[str, Any]] = {
        "choice": "depth",
        "options": [
            {"option": 2, "trials": 9, "effect": 0.5, "low": 0.4, "high": 0.7},
            {"option": 3, "trials": 8, "effect": None, "low": None, "high": None},
        ],
    }

    def test_a_panel_has_effects_with_their_intervals_in_their_unit(self) -> None:
        figure = charts.effects_figure("params", {"choices": [self.CHOICE]}, "made", synthetic=True)
        (trace,) = figure.data
        assert list(trace.x) == ["2"]
        assert list(trace.y) == pytest.approx([-50])
        assert list(trace.error_y.array) == pytest.approx([20])
        assert list(trace.error_y.arrayminus) == pytest.approx([10])
        assert figure.layout.title.text == "made · observational, no experiment ·<br>synthetic data"
        (points,) = charts.effects_figure("val_accuracy", {"choices": [self.CHOICE]}).data
        assert list(points.y) == pytest.approx([50])

    def test_no_effects_are_said_to_be_none(self) -> None:
        figure = charts.effects_figure("macs", {"choices": [{"choice": "depth", "options": []}]})
        assert len(figure.data) == 0
        assert "explains nothing" in figure.layout.annotations[-1].text
