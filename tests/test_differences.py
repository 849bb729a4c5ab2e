"""Differences and their intervals: against scipy, closed forms, and simulations in which the truth is known."""

import numpy as np
import pytest
from scipy import stats

from search_space.errors import UserError
from studies.differences import (
    bootstrap_interval,
    factorial_effects,
    holm,
    paired,
    power,
    seeds_for,
)


class TestPaired:
    def test_equals_scipys_paired_test(self):
        rng = np.random.default_rng(0)
        base, variant = rng.normal(size=(2, 7))
        expected = stats.ttest_rel(variant, base)
        found = paired(variant - base)
        assert (found.n, found.mean) == (7, pytest.approx(np.mean(variant - base)))
        assert found.p == pytest.approx(expected.pvalue)
        assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))

    def test_the_correction_for_folds_widens_as_published(self):
        """Five folds: 1/5 becomes 1/5 + 1/4 under the root."""
        values = [0.01, 0.03, 0.02, 0.05, 0.00]
        plain, corrected = paired(values), paired(values, overlap=1 / 4)
        assert corrected.mean == plain.mean
        assert (corrected.high - corrected.mean) / (plain.high - plain.mean) == pytest.approx(
            np.sqrt((1 / 5 + 1 / 4) * 5)
        )
        assert corrected.p > plain.p

    @pytest.mark.parametrize("values", [[0.0] * 4, [0.02] * 4, [0.5 - 0.4875, 0.525 - 0.5125]])
    def test_differences_that_are_all_equal_measure_no_noise(self, values):
        """Accuracies are counts of clips, so this happens with few seeds; the last two differ by what floats leave of 0.0125."""
        found = paired(values)
        assert found.mean == pytest.approx(values[0])
        assert found.std == 0
        assert np.isnan([found.low, found.high, found.p]).all()

    def test_seeds_of_a_fold_are_no_folds(self):
        values, folds = [0.1, 0.2, 0.3, -0.3, -0.1, -0.2], [1, 1, 1, 2, 2, 2]
        alone, grouped = paired(values, 0.25), paired(values, 0.25, folds_N=folds)
        assert grouped.high - grouped.low > 3 * (alone.high - alone.low)
        half = stats.t.ppf(0.975, 1) * np.std([0.2, -0.2], ddof=1) * np.sqrt(1 / 2 + 0.25)
        assert (grouped.low, grouped.high) == pytest.approx((-half, half))
        assert paired(values, 0.25, folds_N=range(6)) == alone

    @pytest.mark.parametrize("values", [[], [0.1], [0.1, float("nan")]])
    def test_too_few_or_no_numbers(self, values):
        with pytest.raises(UserError, match=r"at least 2 paired runs|no number"):
            paired(values)


class TestBySimulation:
    """The truth is known: the interval holds it in 95 % of cases, and where there is none p falls below 0.05 in 5 %."""

    @pytest.mark.parametrize("seeds", [3, 5, 10])
    def test_over_seeds(self, seeds):
        rng, truth = np.random.default_rng(seeds), 0.7
        noise = rng.normal(scale=1.3, size=(2000, seeds))
        found = [paired(row) for row in truth + noise]
        covered = np.mean([one.low <= truth <= one.high for one in found])
        assert 0.93 <= covered <= 0.97
        assert 0.03 <= np.mean([paired(row).p < 0.05 for row in noise]) <= 0.07

    def test_over_folds_that_share_training_clips(self):
        """Five folds whose differences share what Nadeau and Bengio assume of them, n_test / (n_test + n_train) of their variance: Student's
        interval is too narrow, the corrected one holds the truth as often as it says."""
        rng, folds, repetitions = np.random.default_rng(0), 5, 2000
        overlap = 1 / (folds - 1)
        shared = overlap / (1 + overlap)
        common_R1, own_RF = rng.normal(size=(repetitions, 1)), rng.normal(size=(repetitions, folds))
        differences_RF = np.sqrt(shared) * common_R1 + np.sqrt(1 - shared) * own_RF
        covered = {
            correction: np.mean(
                [one.low <= 0 <= one.high for one in (paired(row, correction) for row in differences_RF)]
            )
            for correction in (0.0, overlap)
        }
        assert covered[0.0] < 0.90
        assert 0.93 <= covered[overlap] <= 0.97

    @pytest.mark.parametrize("folds", [2, 5])
    @pytest.mark.parametrize("share", [0.0, 0.5])
    def test_over_seeds_within_folds(self, folds, share):
        """Five seeds a fold, which share the fold's clips: `share` of what folds do not have in common. The interval is never too narrow; with
        one degree of freedom for every run it would be."""
        rng, seeds, repetitions, overlap = np.random.default_rng(folds), 5, 2000, 1 / 3
        shared = overlap / (1 + overlap)
        common_R11 = rng.normal(size=(repetitions, 1, 1))
        fold_RF1, own_RFS = rng.normal(size=(repetitions, folds, 1)), rng.normal(size=(repetitions, folds, seeds))
        rest_RFS = np.sqrt(share) * fold_RF1 + np.sqrt(1 - share) * own_RFS
        differences_RN = (np.sqrt(shared) * common_R11 + np.sqrt(1 - shared) * rest_RFS).reshape(repetitions, -1)
        of_fold = np.repeat(np.arange(folds), seeds)
        found = [paired(row, overlap, folds_N=of_fold) for row in differences_RN]
        assert np.mean([one.low <= 0 <= one.high for one in found]) >= 0.93
        if share:
            naive = [paired(row, overlap) for row in differences_RN]
            assert np.mean([one.low <= 0 <= one.high for one in naive]) < 0.93

    def test_the_bootstrap_beside_it(self):
        rng = np.random.default_rng(1)
        covered = [low <= 0 <= high for low, high in (bootstrap_interval(row) for row in rng.normal(size=(150, 20)))]
        assert 0.86 <= np.mean(covered) <= 0.99  # 20 skewless values: a little narrow, as is known

    def test_any_false_finding_among_many(self):
        """Ten changes without effect: Holm keeps the share of ablations with any finding near 5 %; without it, it would be 40 %."""
        rng = np.random.default_rng(2)
        p = np.array([[paired(row).p for row in table] for table in rng.normal(size=(400, 10, 5))])
        assert np.mean((p < 0.05).any(axis=1)) > 0.3
        assert np.mean([(holm(row) < 0.05).any() for row in p]) < 0.08


class TestHolm:
    def test_by_hand(self):
        """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, never falling."""
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])

    def test_one_alone_stays_and_none_passes_one(self):
        assert holm([0.2]) == pytest.approx([0.2])
        assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
        assert len(holm([])) == 0

    def test_is_the_same_in_any_order(self):
        p = np.random.default_rng(0).random(12)
        order = np.random.default_rng(1).permutation(12)
        assert holm(p)[order] == pytest.approx(holm(p[order]))

    def test_what_is_no_probability(self):
        with pytest.raises(UserError, match="0 to 1"):
            holm([0.1, 1.2])


class TestPower:
    @pytest.mark.parametrize(("effect", "n"), [(0.5, 34), (0.8, 15), (1.0, 10), (1.5, 6)])
    def test_the_published_numbers(self, effect, n):
        """Pairs for 80 % power at 5 %, as G*Power and Cohen's tables give them."""
        assert seeds_for(effect, 1.0) == n
        assert power(effect, 1.0, n) >= 0.8 > power(effect, 1.0, n - 1)

    def test_by_simulation(self):
        rng = np.random.default_rng(0)
        found = np.mean([paired(row).p < 0.05 for row in 1.2 + rng.normal(size=(3000, 6))])
        assert found == pytest.approx(power(1.2, 1.0, 6), abs=0.03)

    def test_nothing_to_find_and_nothing_in_the_way(self):
        assert seeds_for(0.0, 1.0) is None
        assert seeds_for(1e-9, 1.0) is None
        assert seeds_for(0.1, 0.0) == 2
        with pytest.raises(UserError, match="power"):
            seeds_for(1.0, 1.0, wanted=1.0)


FACTORS = {"cut": [True, False], "operator": ["sc", "osc", "spc"]}


class TestFactorial:
    def scores(self, of, seeds=4):
        rng = np.random.default_rng(0)
        luck = rng.normal(size=seeds)  # a seed's own, the same for all combinations: it cancels
        return {(c, o): [of(c, o) + luck[s] for s in range(seeds)] for c in (True, False) for o in FACTORS["operator"]}

    def test_effects_that_add_up_have_no_interaction(self):
        gains = {"sc": 0.0, "osc": -1.0, "spc": 2.0}
        effects = factorial_effects(self.scores(lambda cut, o: gains[o] + (0 if cut else 3.0)), FACTORS)
        found = {(e.factors, e.levels): e.difference for e in effects}
        assert found[("cut",), (False,)].mean == pytest.approx(3.0)
        assert found[("operator",), ("osc",)].mean == pytest.approx(-1.0)
        assert found[("operator",), ("spc",)].mean == pytest.approx(2.0)
        both = [e.difference for e in effects if len(e.factors) == 2]
        assert len(both) == 2
        assert [one.mean for one in both] == pytest.approx([0.0, 0.0], abs=1e-12)

    def test_an_interaction_alone(self):
        effects = factorial_effects(self.scores(lambda cut, o: float(o == "spc" and not cut)), FACTORS)
        found = {(e.factors, e.levels): e.difference.mean for e in effects}
        assert found[("cut", "operator"), (False, "spc")] == pytest.approx(1.0)
        assert found[("cut", "operator"), (False, "osc")] == pytest.approx(0.0)
        assert found[("cut",), (False,)] == pytest.approx(1 / 3)

    def test_a_hole_is_named(self):
        scores = self.scores(lambda cut, o: 0.0)
        del scores[False, "osc"]
        with pytest.raises(UserError, match=r"missing: \(False, 'osc'\)"):
            factorial_effects(scores, FACTORS)
