"""The front, the hypervolume and the signal: in closed form, invariant to row order, and against Optuna."""

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna._hypervolume import compute_hypervolume

from search_space.errors import UserError
from studies import analysis

MINIMISE_ALL = np.ones(3, dtype=bool)


def make_trials(rows: list[tuple[float, int, int]], state: str = "complete") -> pd.DataFrame:
    """A study's trials with these (val_accuracy, params, macs)."""
    trials = pd.DataFrame(rows, columns=["val_accuracy", "params", "macs"])
    return trials.assign(trial=range(len(rows)), state=state)


def random_rows(n: int, seed: int) -> list[tuple[float, int, int]]:
    """Coarse random trials, so that ties and duplicates occur."""
    rng = np.random.default_rng(seed)
    accuracy, params, macs = (
        rng.integers(1, 9, n) / 10,
        rng.integers(1, 9, n) * 1000,
        rng.integers(1, 9, n) * 10**6,
    )
    return list(zip(accuracy.tolist(), params.tolist(), macs.tolist(), strict=True))


def test_a_front_by_hand():
    trials = make_trials([(0.9, 3000, 30), (0.8, 2000, 40), (0.8, 2000, 20), (0.7, 1000, 50), (0.6, 4000, 60)])
    assert analysis.front(trials)["trial"].tolist() == [0, 2, 3]


def test_equal_trials_stay_together():
    trials = make_trials([(0.9, 1000, 10), (0.9, 1000, 10), (0.8, 2000, 20), (0.8, 2000, 20)])
    assert analysis.front(trials)["trial"].tolist() == [0, 1]


def test_only_complete_trials_count():
    trials = make_trials([(0.5, 2000, 20), (0.9, 1000, 10), (np.nan, 500, 5)])
    trials["state"] = ["complete", "running", "complete"]
    assert analysis.front(trials)["trial"].tolist() == [0]


def test_no_trials_have_an_empty_front_and_no_volume():
    trials = make_trials([])
    assert analysis.front(trials).empty
    assert analysis.hypervolume_of(trials, {"accuracy": 0.1, "log10_params": 5, "log10_macs": 8}) == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_optunas(seed):
    trials = make_trials(random_rows(60, seed))
    study = optuna.create_study(directions=list(analysis.OBJECTIVES.values()))
    values = trials[list(analysis.OBJECTIVES)].to_numpy(dtype=float).tolist()
    study.add_trials([optuna.trial.create_trial(values=row) for row in values])
    assert sorted(analysis.front(trials)["trial"]) == sorted(trial.number for trial in study.best_trials)


@pytest.mark.parametrize("seed", range(5))
def test_the_front_does_not_depend_on_row_order(seed):
    trials = make_trials(random_rows(60, seed))
    shuffled = trials.sample(frac=1, random_state=seed)
    pd.testing.assert_frame_equal(analysis.front(shuffled), analysis.front(trials))


def test_one_points_volume_is_its_box():
    assert analysis.hypervolume(np.array([[1, 2, 3]]), np.array([2, 4, 6])) == pytest.approx(1 * 2 * 3)


def test_a_staircases_volume():
    # Three steps, each a unit wider and a unit lower than the one before, all 5 deep: areas 3 + 2 + 1.
    steps = np.array([[0, 2, 0], [1, 1, 0], [2, 0, 0]])
    assert analysis.hypervolume(steps, np.array([3, 3, 5])) == pytest.approx(6 * 5)


def test_a_corner_of_three_boxes():
    # Three 1 x 2 x 2 boxes; each two share 1 x 1 x 2, all three a unit cube: inclusion and exclusion.
    points = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert analysis.hypervolume(points, np.array([2, 2, 2])) == pytest.approx(3 * 4 - 3 * 2 + 1)


def test_dominated_repeated_and_outside_points_add_nothing():
    reference = np.array([2, 4, 6])
    points = np.array([[1, 2, 3], [1, 2, 3], [1.5, 3, 4], [0, 0, 6], [0, 5, 0], [-9, -9, 7]])
    assert analysis.hypervolume(points, reference) == pytest.approx(6)
    assert analysis.hypervolume(points[3:], reference) == 0.0


@pytest.mark.parametrize("n", [1, 2, 7, 60])
@pytest.mark.parametrize("seed", range(3))
def test_the_hypervolume_is_optunas_in_any_order(n, seed):
    rng = np.random.default_rng(seed)
    for points in (rng.random((n, 3)), rng.integers(0, 5, (n, 3)).astype(float)):
        reference = points.max(axis=0) + np.array([0.5, 0.0, 1.0])
        volume = analysis.hypervolume(points, reference)
        assert volume == pytest.approx(compute_hypervolume(points, reference))
        assert analysis.hypervolume(rng.permutation(points), reference) == pytest.approx(volume)


def test_a_studys_hypervolume_is_accuracy_above_chance_times_decades():
    reference_point = {"accuracy": 0.1, "log10_params": 5.0, "log10_macs": 8.0}
    one = make_trials([(0.6, 1000, 10**7)])
    assert analysis.hypervolume_of(one, reference_point) == pytest.approx(0.5 * 2 * 1)
    at_chance = make_trials([(0.1, 10, 10), (0.05, 10, 10)])
    assert analysis.hypervolume_of(at_chance, reference_point) == 0.0
    unfinished = make_trials([(0.99, 10, 10)], state="running")
    assert analysis.hypervolume_of(pd.concat([one, unfinished]), reference_point) == pytest.approx(1.0)


def test_the_hypervolume_over_trials_and_clips():
    """Two points worth 0.5 and 0.8 x 2; one dominated, one stopped, one under way between them."""
    reference_point = {"accuracy": 0.1, "log10_params": 5.0, "log10_macs": 8.0}
    rows = [
        (0, "complete", 0.6, 1000, 10**7, 900),
        (1, "stopped", np.nan, 10, 10, 100),
        (2, "complete", 0.5, 1000, 10**7, 900),
        (3, "running", np.nan, 10, 10, 300),
        (4, "complete", 0.9, 1000, 10**7, 900),
        (5, "stopped", np.nan, 10, 10, 300),
    ]
    trials = pd.DataFrame(rows, columns=["trial", "state", "val_accuracy", "params", "macs", "clips"])
    for order in (trials, trials[::-1]):
        course = analysis.hypervolume_course(order, reference_point)
        assert course[["trials", "clips"]].to_numpy().tolist() == [[1, 900], [4, 2800], [5, 3100]]
        assert course["hypervolume"].tolist() == pytest.approx([1.0, 1.6, 1.6])
        assert course["hypervolume"].iloc[-1] == pytest.approx(analysis.hypervolume_of(order, reference_point))
    assert analysis.hypervolume_course(trials[trials["state"] == "running"], reference_point).empty


def test_a_signal_by_hand():
    # Means 0.5, 0.7, 0.9 (variance 0.04); within each, two seeds 0.02 apart (variance 0.0002).
    accuracies = np.array([[0.49, 0.51], [0.69, 0.71], [0.89, 0.91]])
    found = analysis.signal(accuracies)
    assert found.seed_sd == pytest.approx(0.0002**0.5)
    assert found.between_sd == pytest.approx((0.04 - 0.0001) ** 0.5)
    assert found.ratio == pytest.approx(found.between_sd / found.seed_sd)
    assert found.rank_correlation == pytest.approx(1.0)


def test_noise_alone_is_no_signal():
    found = analysis.signal(np.array([[0.4, 0.6], [0.6, 0.4]]))
    assert (found.between_sd, found.ratio) == (0.0, 0.0)
    assert found.rank_correlation == pytest.approx(-1.0)


def test_a_signal_without_noise():
    found = analysis.signal(np.array([[0.4, 0.4], [0.6, 0.6]]))
    assert found.ratio == np.inf
    assert analysis.signal(np.full((3, 2), 0.5)).ratio == 0.0


def test_rank_correlation_is_the_mean_over_pairs_of_seeds():
    # Seed 0 against 1: 1; seed 2 turns the order round: -1 with both; a flat seed counts as 0.
    first = np.array([0.1, 0.2, 0.3])
    assert analysis.signal(np.column_stack([first, first, -first])).rank_correlation == pytest.approx(-1 / 3)
    assert analysis.signal(np.column_stack([first, first, 0 * first])).rank_correlation == pytest.approx(1 / 3)


def test_the_components_are_found_again():
    rng = np.random.default_rng(0)
    accuracies = rng.normal(0.7, 0.06, (4000, 1)) + rng.normal(0, 0.02, (4000, 3))
    found = analysis.signal(accuracies)
    assert found.between_sd == pytest.approx(0.06, rel=0.05)
    assert found.seed_sd == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("shape", [(1, 3), (3, 1)])
def test_a_signal_takes_two_of_each(shape):
    with pytest.raises(UserError, match="at least 2 architectures and 2 seeds"):
        analysis.signal(np.zeros(shape))
