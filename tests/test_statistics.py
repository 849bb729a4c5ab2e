"""Intervals, probabilities and rank correlations: in closed form, against scipy, and how often they hold the truth in
simulations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from search_space.errors import UserError
from studies.analysis import non_dominated
from studies.statistics import kendall, means, non_dominated_probability, spearman


class TestMeans:
    def test_by_hand(self) -> None:
        """0.4, 0.5, 0.6: deviation 0.1, t of 2 degrees of freedom 4.302653."""
        found = means([0.4, 0.5, 0.6])
        half = 4.302653 * 0.1 / 3**0.5
        assert (found.mean, found.std) == pytest.approx((0.5, 0.1))
        assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))

    def test_is_scipys_for_every_row(self) -> None:
        values = np.random.default_rng(0).normal(0.6, 0.03, (7, 5))
        found = means(values, confidence=0.9)
        for row, low, high in zip(values, found.low, found.high, strict=True):
            reference = stats.ttest_1samp(row, 0).confidence_interval(0.9)
            assert (low, high) == pytest.approx((reference.low, reference.high))

    @pytest.mark.parametrize("seeds", [2, 3, 5])
    def test_the_interval_holds_the_truth_as_often_as_it_says(self, seeds: int) -> None:
        found = means(np.random.default_rng(seeds).normal(0.6, 0.03, (20_000, seeds)))
        held = ((found.low <= 0.6) & (found.high >= 0.6)).mean()
        assert held == pytest.approx(0.95, abs=0.006)

    def test_one_value_has_no_interval(self) -> None:
        with pytest.raises(UserError, match="at least 2 values, not 1"):
            means([0.5])


class TestNonDominatedProbability:
    def test_two_seeds_by_hand(self) -> None:
        """The dear network's mean of 0.5 must stay above the cheap one's 0.45, which no seed changes. Of the four draws
        of two seeds one is the low seed twice: 3/4. The cheap one is beaten by nobody."""
        found = non_dominated_probability([[0.6, 0.4], [0.45, 0.45]], [[2000, 20], [1000, 10]])
        assert found == pytest.approx([0.75, 1.0], abs=0.02)

    def test_with_many_seeds_it_is_the_normal_one(self) -> None:
        rng = np.random.default_rng(0)
        scores = np.array([[0.6], [0.6]]) + 0.03 * rng.standard_normal((2, 200))
        difference = means(scores[0] - scores[1])
        expected = stats.norm.cdf(difference.mean / (difference.std / 200**0.5))
        found = non_dominated_probability(scores, [[2, 2], [1, 1]])
        assert 0.1 < expected < 0.9
        assert found[0] == pytest.approx(expected, abs=0.02)

    def test_what_a_seed_does_to_all_alike_orders_nothing(self) -> None:
        shift = np.array([-0.1, 0.0, 0.1, 0.05, -0.05])
        scores = np.array([[0.61], [0.6], [0.59]]) + shift
        assert non_dominated_probability(scores, [[3, 3], [2, 2], [1, 1]]).tolist() == [1, 1, 1]
        assert non_dominated_probability(scores, [[1, 1], [2, 2], [3, 3]]).tolist() == [1, 0, 0]

    def test_equal_networks_stay_together(self) -> None:
        """Equal in everything, or in scores while neither is cheaper in both costs: all stay; dearer at equal scores:
        beaten."""
        scores = np.tile([0.5, 0.6, 0.7], (4, 1))
        assert non_dominated_probability(scores, [[1, 2], [1, 2], [2, 1], [2, 2]]).tolist() == [1, 1, 1, 0]

    def test_without_noise_it_is_the_front(self) -> None:
        rng = np.random.default_rng(3)
        score, costs = rng.integers(1, 9, 60) / 10, rng.integers(1, 9, (60, 2))
        found = non_dominated_probability(np.repeat(score[:, None], 3, 1), costs, draws=20)
        front = non_dominated(np.column_stack([score, costs]), np.array([False, True, True]))
        assert found.tolist() == front.astype(float).tolist()

    @pytest.mark.parametrize("seeds", [3, 5])
    def test_of_equal_networks_it_seldom_says_that_it_is_sure(self, seeds: int) -> None:
        """Two networks of the same true accuracy: a probability of at most 0.025 in about 2.5 % of all cases, where a
        plain bootstrap of 3 seeds would give it in 12 %."""
        rng = np.random.default_rng(seeds)
        found = np.array(
            [
                non_dominated_probability(rng.normal(0.6, 0.03, (2, seeds)), [[2], [1]], draws=400)[0]
                for _ in range(1500)
            ]
        )
        assert (found <= 0.025).mean() == pytest.approx(0.027, abs=0.02)
        assert (found >= 0.975).mean() == pytest.approx(0.027, abs=0.02)
        assert found.mean() == pytest.approx(0.5, abs=0.03)

    def test_one_seed_says_nothing(self) -> None:
        with pytest.raises(UserError, match="at least 2 seeds, not 1"):
            non_dominated_probability([[0.5], [0.6]], [[1], [2]])


class TestKendall:
    @pytest.mark.parametrize("seed", range(4))
    def test_is_scipys_with_ties(self, seed: int) -> None:
        x, y = np.random.default_rng(seed).integers(0, 6, (2, 15))
        assert kendall(x, y).value == pytest.approx(stats.kendalltau(x, y).statistic)

    def test_by_hand(self) -> None:
        """Of the six pairs five agree: (5 - 1) / 6."""
        found = kendall([1, 2, 3, 4], [10, 20, 40, 30])
        assert found.value == pytest.approx(4 / 6)
        assert found.low < found.value < found.high == pytest.approx(1.0)

    def test_the_same_order_has_no_doubt_and_the_other_way_round_neither(self) -> None:
        assert kendall(range(8), range(8)) == pytest.approx((1, 1, 1))
        assert kendall(range(8), range(8, 0, -1)) == pytest.approx((-1, -1, -1))

    def test_infinite_values_rank_as_such(self) -> None:
        assert kendall([-np.inf, -np.inf, 1, 2, np.inf], [0, 0, 1, 2, 3]).value == pytest.approx(1.0)

    def test_the_interval_is_the_bootstraps(self) -> None:
        """Against resampling written plainly, scipy's tau of each resample."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=12)
        y = x + rng.normal(size=12)
        rows = rng.integers(0, 12, (1500, 12))
        drawn = [stats.kendalltau(x[row], y[row]).statistic for row in rows]
        found = kendall(x, y)
        assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.04)

    @pytest.mark.parametrize("rho", [0.0, 0.8])
    def test_the_interval_holds_the_truth_as_often_as_it_says(self, rho: float) -> None:
        """16 networks with normal scores; the true tau is 2/pi arcsin(rho) (Greiner). 400 repetitions: 95 % is met to
        within 3 points."""
        rng, held = np.random.default_rng(1), 0
        for _ in range(400):
            x, noise = rng.standard_normal((2, 16))
            found = kendall(x, rho * x + (1 - rho**2) ** 0.5 * noise, draws=400)
            held += found.low <= 2 / np.pi * np.arcsin(rho) <= found.high
        assert held / 400 == pytest.approx(0.955, abs=0.03)

    def test_one_side_that_never_differs_says_nothing(self) -> None:
        assert np.isnan(kendall([1, 1, 1, 1], [1, 2, 3, 4])).all()

    @pytest.mark.parametrize(
        ("x", "message"),
        [([1, 2], r"at least 3 pairs, not \(2,\) and \(3,\)"), ([1, np.nan, 2], "some scores are NaN")],
    )
    def test_bad_input_is_named(self, x: list[float], message: str) -> None:
        with pytest.raises(UserError, match=message):
            kendall(x, [1, 2, 3])


class TestSpearman:
    @pytest.mark.parametrize("seed", range(3))
    def test_is_scipys_with_ties(self, seed: int) -> None:
        x, y = np.random.default_rng(seed).integers(0, 6, (2, 15))
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)

    def test_one_side_that_never_differs_says_nothing(self) -> None:
        assert np.isnan(spearman([1, 1, 1], [1, 2, 3]))
