"""Early stopping: who goes on at a rung, what samplers see of the stopped, and studies that stop trainings early."""

from __future__ import annotations

import dataclasses
import math
import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from search_space.errors import UserError
from studies import open_study
from studies.candidates import SAMPLERS, Taught, make_sampler
from studies.halving import KEEP, Reached, at_rung, expected, goes_on, mean_share, place
from studies.plans import SearchOptions
from studies.records import trial_state
from studies.search import Search, Told
from trainers.config import get_recipe
from trainers.datasets import open_dataset
from trainers.features import prepare
from trainers.inputs import load_inputs
from trainers.loop import Paused, rung_clips
from trainers.recorded import drop_checkpoints, move_checkpoint, train_recorded
from trainers.runs import Run

CPU = torch.device("cpu")
TINY = "dssdn_c8-12-16_r0.5_osc.m4_h16"


def _rung(n: int, seed: int) -> np.ndarray:
    """Networks at a rung, (n, 3): better ones cost more, with noise; two of them are equal."""
    rng = np.random.default_rng(seed)
    params, macs = 10 ** rng.uniform(3, 5, n), 10 ** rng.uniform(6, 8, n)
    accuracy = 0.1 * np.log10(params) + 0.05 * np.log10(macs) - 0.5 + rng.normal(0, 0.05, n)
    everyone = np.column_stack([accuracy, params, macs])
    if n > 1:
        everyone[1] = everyone[0]
    return everyone


@pytest.mark.parametrize("seed", range(5))
class TestPlace:
    def test_it_does_not_depend_on_the_order(self, seed: int) -> None:
        everyone = _rung(30, seed)
        places = [place(everyone, row) for row in range(30)]
        order = np.random.default_rng(seed).permutation(30)
        assert [place(everyone[order], row) for row in range(30)] == [places[row] for row in order]

    def test_every_place_is_taken_once_and_equals_share_one(self, seed: int) -> None:
        everyone = _rung(30, seed)
        places = [place(everyone, row) for row in range(30)]
        assert places[0] == places[1]
        assert sorted([*places[2:], places[0], places[0] + 1]) == list(range(30))

    def test_whoever_dominates_stands_before(self, seed: int) -> None:
        everyone = _rung(30, seed)
        places = [place(everyone, row) for row in range(30)]
        losses = everyone * [-1, 1, 1]
        pairs = [
            (a, b)
            for a in range(30)
            for b in range(30)
            if (losses[a] <= losses[b]).all() and (losses[a] < losses[b]).any()
        ]
        assert pairs
        assert all(places[a] < places[b] for a, b in pairs)

    def test_the_unit_of_a_cost_does_not_matter(self, seed: int) -> None:
        everyone = _rung(20, seed)
        in_thousands = everyone / [1, 1000, 1000]
        assert [place(everyone, row) for row in range(20)] == [place(in_thousands, row) for row in range(20)]

    @pytest.mark.parametrize("keep", [0.25, 0.5])
    def test_of_those_at_a_rung_the_share_would_go_on(self, seed: int, keep: float) -> None:
        rows = [Reached(*row) for row in _rung(31, seed)[1:]]  # all different
        on = [goes_on(row, [*rows[:at], *rows[at + 1 :]], keep) for at, row in enumerate(rows)]
        assert sum(on) == math.ceil(keep * 30)


def test_the_first_and_the_only_best_always_go_on() -> None:
    assert goes_on(Reached(0.0, 1e9, 1e9), [], 0.01)
    others = [Reached(*row) for row in _rung(50, 0)]
    best = Reached(1.0, 1.0, 1.0)
    assert goes_on(best, others, 0.01)
    assert not any(goes_on(other, [best, *others], 0.01) for other in others)


def test_of_two_alike_on_a_front_one_comes_last() -> None:
    """Written out: on a front of four, one of two neighbours adds least."""
    front = np.array([[0.2, 1e3, 1e6], [0.5, 1e4, 1e7], [0.5001, 1.0001e4, 1.0001e7], [0.8, 1e5, 1e8]])
    places = [place(front, row) for row in range(4)]
    assert max(places[1], places[2]) == 3


def _trial(number: int, state: TrialState, accuracy: float | None, **attributes: Any) -> FrozenTrial:
    kept = {"params": 10 + number, "macs": 100 + number, **attributes}
    values = None if accuracy is None else [accuracy, kept["params"], kept["macs"]]
    trial = create_trial(state=state, values=values, user_attrs=kept)
    trial.number = number
    return trial


def test_the_mean_share_of_a_budget() -> None:
    assert mean_share((1 / 9, 1 / 3, 1), (0.5, 0.5)) == pytest.approx(1 / 9 + (2 / 9) / 2 + (2 / 3) / 4)
    assert mean_share((1 / 9, 1 / 3, 1), (1.0, 1.0)) == pytest.approx(1.0)
    assert mean_share((1.0,), (0.5,)) == 1.0


class TestTrials:
    TRIALS = (
        _trial(0, TrialState.COMPLETE, 0.9, rungs={"10": 0.3, "30": 0.6}),
        _trial(1, TrialState.COMPLETE, 0.7, rungs={"10": 0.2, "30": 0.5}),
        _trial(2, TrialState.PRUNED, None, rungs={"10": 0.1}, outcome="stopped"),
        _trial(3, TrialState.PRUNED, None, rungs={"10": 0.2, "30": 0.4}, outcome="stopped"),
        _trial(4, TrialState.PRUNED, None, outcome="over_cap"),
        _trial(5, TrialState.FAIL, None, rungs={"10": 0.9}, outcome="interrupted"),
        _trial(6, TrialState.COMPLETE, 0.5),
    )

    def test_those_at_a_rung_are_whoever_came_to_it_and_is_not_counted_twice(self) -> None:
        assert at_rung(self.TRIALS, 10) == {
            0: (0.3, 10, 100),
            1: (0.2, 11, 101),
            2: (0.1, 12, 102),
            3: (0.2, 13, 103),
        }
        assert set(at_rung(self.TRIALS, 30)) == {0, 1, 3}

    def test_of_the_stopped_is_expected_what_the_finished_gained_since(self) -> None:
        assert expected(self.TRIALS) == {
            2: pytest.approx(0.1 + (0.6 + 0.5) / 2),
            3: pytest.approx(0.4 + (0.3 + 0.2) / 2),
        }
        assert expected(self.TRIALS[2:3]) == {2: pytest.approx(0.1)}

    def test_many_finished_tell_how_much_of_a_gain_is_its_costs(self) -> None:
        """The end is the score, and a tenth for every decade of params: made up without noise, so that a weak ridge hardly errs."""
        rng = np.random.default_rng(0)

        def one(number: int, done: bool) -> FrozenTrial:
            score, decades = float(rng.uniform(0.1, 0.4)), float(rng.uniform(3, 5))
            state, end = (TrialState.COMPLETE, score + decades / 10) if done else (TrialState.PRUNED, None)
            return _trial(number, state, end, rungs={"10": score}, params=round(10**decades), outcome="stopped")

        trials = [one(number, done=number < 400) for number in range(420)]
        found = expected(trials)
        assert set(found) == set(range(400, 420))
        for trial in trials[400:]:
            exact = trial.user_attrs["rungs"]["10"] + np.log10(trial.user_attrs["params"]) / 10
            assert found[trial.number] == pytest.approx(exact, abs=0.005)


class TestSamplers:
    """Accuracy is the mean of four numbers; nine of ten trials are stopped and never have values."""

    def _study(self, name: str) -> optuna.Study:
        directions = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE, StudyDirection.MINIMIZE]
        study = optuna.create_study(directions=directions, sampler=make_sampler(name, 0, workers=2))
        for _ in range(120):
            trial = study.ask()
            accuracy = sum(trial.suggest_int(f"x{axis}", 0, 9) for axis in range(4)) / 36
            for key, value in {"params": 5, "macs": 7, "rungs": {"10": accuracy / 2}}.items():
                trial.set_user_attr(key, value)
            if trial.number % 10 == 9:
                study.tell(trial, [accuracy, 5, 7])
            else:
                study.tell(trial, state=TrialState.PRUNED)
        return study

    @pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "gp"])
    def test_they_learn_from_stopped_trials_and_record_nothing(self, name: str) -> None:
        """At random the mean of the last 40 is 0.5 with a deviation of 0.025."""
        study = self._study(name)
        mean = np.mean([sum(trial.params.values()) / 36 for trial in study.trials[80:]])
        assert (mean > 0.6) == (name != "random")
        stopped = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
        assert len(stopped) == 108
        assert all(trial.values is None and not trial.intermediate_values for trial in stopped)

    @pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "random"])
    def test_without_stopped_trials_a_sampler_draws_what_it_would_alone(self, name: str) -> None:
        def drawn(sampler: optuna.samplers.BaseSampler) -> list[int]:
            study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
            xs = []
            for _ in range(15):
                trial = study.ask()
                xs.append(trial.suggest_int("x", 0, 1000))
                study.tell(trial, [xs[-1], 1000 - xs[-1]])
            return xs

        taught, alone = make_sampler(name, 3, 1), make_sampler(name, 3, 1)
        assert isinstance(taught, Taught)
        assert isinstance(alone, Taught)
        assert drawn(taught) == drawn(alone.sampler)


def _search(folder: Path, runs: Path, **changes: Any) -> Search:
    dataset = open_dataset(str(folder))
    options = SearchOptions(
        trials=7, study="tiny", workers=1, budget=288, train_input=(16, 16), device="cpu", runs=runs, halving=True
    )
    return Search(dataclasses.replace(options, **changes), dataset, prepare(dataset))


def _go(search: Search) -> list[Told]:
    told: list[Told] = []
    with search.opened():
        search.run(lambda seconds, remaining: None, told.append)
    return told


@pytest.fixture(scope="module")
def halved(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Told]]:
    """The runs folder of a study of seven networks with halving, and what it told; not to be changed."""
    runs = tmp_path_factory.mktemp("halved")
    return runs, _go(_search(tiny_folder, runs))


class TestStudy:
    def test_stopped_networks_count_for_the_total_and_are_on_no_front(self, halved: tuple[Path, list[Told]]) -> None:
        runs, told = halved
        study = open_study("tiny", runs)
        trials = study.trials().set_index("trial")
        assert study.info["halving"] == {"keep": list(KEEP), "rungs": [32, 96, 288]}
        assert set(trials["state"]) == {"complete", "stopped"}
        assert len(trials) == len(told) == 7
        stopped, complete = trials[trials["state"] == "stopped"], trials[trials["state"] == "complete"]
        assert set(complete["clips"]) == {288}
        assert set(stopped["clips"]) <= {32, 96}
        assert stopped["val_accuracy"].isna().all()
        assert stopped["rung_accuracy"].notna().all()
        assert set(study.front()["trial"]) <= set(complete.index)
        assert {(of.trial, of.stopped_at) for of in told if of.stopped_at} == set(stopped["clips"].items())

    def test_optuna_has_no_values_of_the_stopped_and_no_curves(self, halved: tuple[Path, list[Told]]) -> None:
        for trial in open_study("tiny", halved[0])._study.get_trials():
            assert not trial.intermediate_values
            assert (trial.state == TrialState.PRUNED) == (trial_state(trial) == "stopped")
            assert trial.state == TrialState.COMPLETE or trial.values is None

    def test_decisions_are_those_of_the_scores_in_the_order_of_arrival(self, halved: tuple[Path, list[Told]]) -> None:
        """One worker: trials come one after the other."""
        trials = open_study("tiny", halved[0])._study.get_trials()
        for rung, keep in zip((32, 96), KEEP, strict=True):
            arrived: list[Reached] = []
            for number, reached in at_rung(trials, rung).items():
                last = max(map(int, trials[number].user_attrs["rungs"]))
                further = trials[number].state == TrialState.COMPLETE or last > rung
                assert goes_on(reached, arrived, keep) == further
                arrived.append(reached)
            assert arrived

    def test_every_run_says_how_far_it_came_and_keeps_no_checkpoint(self, halved: tuple[Path, list[Told]]) -> None:
        study = open_study("tiny", halved[0])
        for trial in study._study.get_trials():
            run = study.run(trial.number)
            scored = {str(row["rung"]): row["val_accuracy"] for row in run.metrics() if "rung" in row}
            assert scored == trial.user_attrs["rungs"]
            assert run.status["state"] == ("stopped" if trial.state == TrialState.PRUNED else "finished")
            assert not list(run.path.glob("checkpoint*"))
            assert run.weights_path.exists() == (trial.state == TrialState.COMPLETE)

    def test_continuing_trains_no_network_twice_and_keeps_the_rule(
        self, halved: tuple[Path, list[Told]], tiny_folder: Path, tmp_path: Path
    ) -> None:
        runs = tmp_path / "runs"
        shutil.copytree(halved[0], runs)
        assert len(_go(_search(tiny_folder, runs, trials=8))) == 1
        trials = open_study("tiny", runs).trials()
        trained = trials[trials["state"].isin(["complete", "stopped"])]
        assert len(trained) == 8
        assert trained["architecture"].is_unique
        with (
            pytest.raises(UserError, match=r"halving: .* recipe: "),
            _search(tiny_folder, runs, halving=False).opened(),
        ):
            pass

    @pytest.mark.slow
    def test_what_was_interrupted_goes_on_from_its_rung(self, tiny_folder: Path, tmp_path: Path) -> None:
        """The trial has come to the first rung and its process is gone; the whole is as if nothing had happened."""
        search = _search(tiny_folder, tmp_path, trials=1)
        with search.opened():
            trial, network = search._candidates.next() or pytest.fail("no network")
            crew = search._crew()
            future: Future[dict[str, Any]] = search._submit(crew, trial, network)
            assert future.result()["clips"] == 32
            crew.close()
            assert search._tell(future, trial, network) is None
            seconds = trial.user_attrs["seconds"]
            search._interrupted(trial)
        _go(_search(tiny_folder, tmp_path, trials=3))  # the other presets were queued before
        study = open_study("tiny", tmp_path)
        first, *_, again = study._study.get_trials()
        assert again.user_attrs["architecture"] == first.user_attrs["architecture"]
        assert again.user_attrs["rungs"].items() > first.user_attrs["rungs"].items()
        assert again.user_attrs["seconds"] > seconds
        assert not list(study.run(0).path.glob("checkpoint*"))
        _go(_search(tiny_folder, tmp_path, trials=1, study="whole"))
        assert again.user_attrs["rungs"] == open_study("whole", tmp_path)._study.trials[0].user_attrs["rungs"]

    def test_it_is_done_wherever_the_budget_leaves_the_first_rung_a_batch(
        self, tiny_folder: Path, tmp_path: Path
    ) -> None:
        for budget, asked, done in ((288, None, True), (279, None, False), (288, False, False), (288, True, True)):
            search = _search(tiny_folder, tmp_path, budget=budget, halving=asked)
            assert (search.halving, search.recipe.name) == (done, "rungs" if done else "short")
        whole, stopping = (_search(tiny_folder, tmp_path, budget=None, halving=asked) for asked in (False, None))
        assert stopping.halving
        assert (whole.budget, stopping.budget) == (4800, 7200)

    def test_a_budget_without_room_for_rungs_is_refused(self, tiny_folder: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="the first rung, which is at 22 of --budget 200; give a larger"):
            _search(tiny_folder, tmp_path, budget=200, halving=True)


class TestSegments:
    """Training up to a rung, waiting in the folder, going on: what an undivided training gives, to the bit."""

    @pytest.mark.parametrize("clips", [288, 301])
    def test_they_add_up_to_the_undivided_training(self, clips: int, tiny_folder: Path, tmp_path: Path) -> None:
        """27 training clips: rungs lie within epochs and at their ends."""
        dataset = open_dataset(str(tiny_folder))
        inputs = load_inputs(dataset, prepare(dataset), size=(16, 16), splits=("train", "val"), train_clips=clips)
        recipe = get_recipe("rungs")
        run, other = Run(tmp_path / "a"), Run(tmp_path / "b")
        config = {"architecture": TINY, "recipe": recipe.name, "clips": clips, "seed": 3, "data": {"digest": "d"}}
        for path in (run.path, other.path):
            path.mkdir()
            Run(path).write_json("run.json", config)
        asked: list[tuple[int, float]] = []

        def wait(rung: int, val_accuracy: float) -> bool:
            asked.append((rung, val_accuracy))
            return True

        for number in range(2):
            with pytest.raises(Paused) as paused:
                train_recorded(run, TINY, inputs, recipe, clips, 3, CPU, resume=number > 0, pause=wait)
            assert (paused.value.clips, paused.value.val_accuracy) == asked[-1]
            assert run.status["state"] == "paused"
        moved = Run(tmp_path / "moved")
        assert move_checkpoint(run, moved)
        assert not move_checkpoint(run, moved)
        moved.write_json("run.json", config)
        model, said = train_recorded(moved, TINY, inputs, recipe, clips, 3, CPU, resume=True, pause=wait)
        whole, expected_said = train_recorded(other, TINY, inputs, recipe, clips, 3, CPU)
        assert [rung for rung, _ in asked] == list(rung_clips(recipe, clips)[:-1])
        same = whole.state_dict()
        assert all(torch.equal(value, same[name]) for name, value in model.state_dict().items())
        np.testing.assert_array_equal(said.probabilities_NK, expected_said.probabilities_NK)
        rows, undivided = ([{**row, "seconds": 0} for row in of.metrics()] for of in (moved, other))
        assert rows == undivided
        assert [row["clips_seen"] for row in rows] == sorted(row["clips_seen"] for row in rows)
        drop_checkpoints(moved)
        assert not list(moved.path.glob("checkpoint*"))
