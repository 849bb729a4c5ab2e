"""Augmentation: what must stay, what must change, and that every draw is the generator's."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from trainers.augment import Moment, augment, correct, mask, mix_style, mixes, mixup, roll, spec_augment
from trainers.config import RECIPES, Recipe, get_recipe, mixstyle, paper, short, strong

PLAIN = Recipe(name="plain", optimizer="sgd", lr=0.1, weight_decay=0.0, schedule="cosine")
EACH = {
    "roll": dataclasses.replace(PLAIN, roll=True),
    "masks": dataclasses.replace(PLAIN, masks=2, mask_width=2),
    "mixup": dataclasses.replace(PLAIN, mixup_alpha=0.4),
    "mix_style": dataclasses.replace(PLAIN, mix_style=1.0),
    "correction": dataclasses.replace(PLAIN, correction=0.5),
}
"""A recipe for each augmentation, with nothing else."""
each_augmentation = pytest.mark.parametrize("recipe", EACH.values(), ids=EACH)
START = Moment(0.0, 0)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _batch(count: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Log-mels (B, 20, 12), targets of as many classes, and what correction would add."""
    generator = _generator(99)
    logmel = torch.randn(count, 20, 12, generator=generator)
    return logmel, torch.eye(count), torch.randn(count, 12, generator=generator)


class TestEach:
    @each_augmentation
    def test_it_changes_the_batch_and_keeps_its_form(self, recipe: Recipe) -> None:
        logmel, targets, correction = _batch()
        before = logmel.clone(), targets.clone()
        seen, labels = augment(logmel, targets, recipe, START, _generator(), correction)
        assert (seen.shape, seen.dtype, labels.shape) == (logmel.shape, logmel.dtype, targets.shape)
        assert torch.isfinite(seen).all()
        changed = (seen != logmel).any(2).any(1).double().mean()
        assert changed > 0.2
        assert torch.equal(logmel, before[0])  # the split's own numbers stay
        assert torch.equal(targets, before[1])
        assert (labels is targets) == (recipe.mixup_alpha == 0)  # mixup alone changes what is right

    @each_augmentation
    def test_it_is_a_function_of_the_generator(self, recipe: Recipe) -> None:
        logmel, targets, correction = _batch()
        drawn = torch.random.get_rng_state()
        first, again, other = (
            augment(logmel, targets, recipe, START, _generator(seed), correction) for seed in (3, 3, 4)
        )
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
        assert not torch.equal(first[0], other[0])
        assert torch.equal(torch.random.get_rng_state(), drawn)

    @each_augmentation
    def test_a_batch_of_one_runs(self, recipe: Recipe) -> None:
        logmel, targets, correction = _batch(1)
        seen, labels = augment(logmel, targets, recipe, START, _generator(), correction)
        assert torch.isfinite(seen).all()
        torch.testing.assert_close(labels, targets)

    @pytest.mark.parametrize("name", ["roll", "masks", "correction"])
    def test_every_clip_has_a_draw_of_its_own(self, name: str) -> None:
        logmel, targets, correction = _batch(24)
        same, correction = logmel[:1].expand_as(logmel), correction[:1].expand_as(correction)
        seen, _ = augment(same, targets, EACH[name], START, _generator(), correction)
        assert len(seen.flatten(1).unique(dim=0)) >= (2 if name == "correction" else 10)

    @pytest.mark.parametrize("name", RECIPES)
    def test_a_whole_recipe_is_a_function_of_the_generator(self, name: str) -> None:
        logmel, targets, correction = _batch()
        first, again, other = (
            augment(logmel, targets, get_recipe(name), START, _generator(seed), correction) for seed in (3, 3, 4)
        )
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
        assert not torch.equal(first[0], other[0])

    @pytest.mark.parametrize("off", [None, *EACH])
    def test_what_one_draws_does_not_depend_on_which_others_are_on(self, off: str | None) -> None:
        """All at once are one after the other alone, each with the generator from its beginning."""
        logmel, targets, correction = _batch()
        on = [name for name in ("correction", "roll", "mix_style", "masks", "mixup") if name != off]
        changes = {
            field.name: getattr(EACH[name], field.name)
            for name in on
            for field in dataclasses.fields(Recipe)
            if getattr(EACH[name], field.name) != getattr(PLAIN, field.name)
        }
        together = augment(logmel, targets, dataclasses.replace(PLAIN, **changes), START, _generator(7), correction)
        for name in on:
            before = logmel
            logmel, targets = augment(logmel, targets, EACH[name], START, _generator(7), correction)
            assert not torch.equal(logmel, before)
        assert torch.equal(together[0], logmel)
        assert torch.equal(together[1], targets)

    def test_every_recipe_takes_as_much_from_the_generator(self) -> None:
        """So the batches that follow, and the order of the clips, are the same whatever is on."""
        logmel, targets, correction = _batch()
        states, late = [], Moment(0.95, 3)
        for recipe in (PLAIN, *EACH.values(), *(get_recipe(name) for name in RECIPES)):
            generator = _generator(5)
            augment(logmel, targets, recipe, late, generator, correction)
            states.append(generator.get_state())
        assert all(torch.equal(state, states[0]) for state in states)
        assert not torch.equal(states[0], _generator(5).get_state())

    def test_draws_of_batches_that_follow_each_other_differ(self) -> None:
        logmel, targets, correction = _batch()
        generator = _generator()
        seen = [augment(logmel, targets, EACH["roll"], START, generator, correction)[0] for _ in range(8)]
        assert len(torch.stack(seen).flatten(1).unique(dim=0)) == 8

    def test_a_recipe_without_augmentation_leaves_the_batch_alone(self) -> None:
        logmel, targets, correction = _batch()
        seen, labels = augment(logmel, targets, PLAIN, START, _generator(), correction)
        assert seen is logmel
        assert labels is targets


def test_roll_shifts_each_clip_and_loses_nothing() -> None:
    logmel = torch.arange(4 * 10, dtype=torch.float32).reshape(4, 10, 1).expand(-1, -1, 3).contiguous()
    rolled = roll(logmel, _generator())
    assert torch.equal(rolled.sort(1).values, logmel)
    shifts = {int((rolled[i, 0, 0] - logmel[i, 0, 0]).item()) for i in range(4)}
    assert len(shifts) > 1
    for before, after in zip(logmel, rolled, strict=True):
        assert torch.equal(after, torch.roll(before, -int(after[0, 0] - before[0, 0]), 0))


class TestMasks:
    @pytest.mark.parametrize("axis", [1, 2])
    @pytest.mark.parametrize(
        ("width", "widths"),
        [(1, {1}), (2, {1, 2}), (3, {1, 2, 3}), (4 / 32, {1, 2, 3, 4}), (0.01, {1}), (99, set(range(1, 33)))],
    )
    def test_they_are_bands_of_every_width_up_to_the_widest(self, axis: int, width: float, widths: set[int]) -> None:
        """In bins, or below 1 as a share of the axis; never of width 0, which masks nothing."""
        masked = mask(torch.ones(600, 32, 32), axis, width, _generator())
        lines = masked.amax(3 - axis)  # (clips, size of the axis)
        found = (lines == 0).sum(1)
        assert set(found.tolist()) == widths
        assert found.double().mean() == pytest.approx(sum(widths) / len(widths), rel=0.08)  # one as often as another
        edges = (lines.diff(dim=1) != 0).sum(1)
        assert int(edges.max()) <= 2  # one band, not several
        assert torch.equal(masked.amin(3 - axis), lines)  # it spans the other axis
        assert (lines == 0).any(0).all()  # it may lie anywhere, the ends included

    def test_the_papers_hide_two_bands_of_one_or_two_bins_along_each_axis(self) -> None:
        masked = spec_augment(torch.ones(600, 40, 32), paper(), _generator())
        time, mel = masked.amax(2), masked.amax(1)
        assert set((time == 0).sum(1).tolist()) == set((mel == 0).sum(1).tolist()) == {1, 2, 3, 4}
        assert torch.equal(masked, time[:, :, None] * mel[:, None, :])  # nothing else is touched


class TestMixup:
    def test_it_blends_clips_and_targets_alike(self) -> None:
        logmel, targets, _ = _batch()
        mixed, mixed_targets = mixup(logmel, targets, 0.4, _generator(1))
        torch.testing.assert_close(mixed, torch.einsum("ij,jtf->itf", mixed_targets, logmel))
        torch.testing.assert_close(mixed_targets.sum(1), torch.ones(16))
        share = mixed_targets.diagonal()
        assert 0 < share.min() < 1
        assert int((mixed_targets > 0).sum(1).max()) == 2  # a clip and one partner

    def test_its_shares_are_of_the_beta_distribution(self) -> None:
        logmel, targets, alpha = torch.zeros(2, 1, 1), torch.eye(2), 0.4
        generator, shares = _generator(), []
        for _ in range(4000):
            _, mixed = mixup(logmel, targets, alpha, generator)
            if mixed[0, 1] > 0:  # not mixed with itself
                shares.append(float(mixed[0, 0]))
        found = torch.tensor(shares)
        assert found.mean() == pytest.approx(0.5, abs=0.03)
        assert found.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.01)

    @pytest.mark.parametrize(
        ("progress", "epoch", "least", "most"),
        [
            (0.0, 0, 1, 1),
            (0.3, 0, 1, 1),
            (0.3, 1, 1, 1),
            (0.59, 7, 1, 1),
            (0.6, 7, 0, 0),
            (0.7, 6, 1, 1),
            (0.7, 7, 0, 0),
            (0.89, 7, 0, 0),
            (0.9, 7, 1, 1),
            (0.92, 8, 0.75, 0.85),
            (0.95, 8, 0.45, 0.55),
            (0.95, 9, 0.45, 0.55),
            (1.0, 8, 0, 0),
        ],
    )
    def test_without_hesitation_it_becomes_rare(self, progress: float, epoch: int, least: float, most: float) -> None:
        generator, moment = _generator(), Moment(progress, epoch)
        mixed = sum(mixes("without_hesitation", moment, generator) for _ in range(2000)) / 2000
        assert least <= mixed <= most
        assert all(mixes("always", moment, generator) for _ in range(20))

    def test_a_batch_that_is_not_mixed_keeps_its_targets(self) -> None:
        recipe = dataclasses.replace(EACH["mixup"], mixup_schedule="without_hesitation")
        logmel, targets, _ = _batch()
        odd, odd_targets = augment(logmel, targets, recipe, Moment(0.7, 7), _generator())
        assert odd is logmel
        assert odd_targets is targets
        even, even_targets = augment(logmel, targets, recipe, Moment(0.7, 6), _generator())
        assert not torch.equal(even, logmel)
        assert not torch.equal(even_targets, targets)


class TestMixStyle:
    def test_mean_and_deviation_of_every_bin_are_a_mix_of_two_clips(self) -> None:
        generator = _generator(5)
        logmel = torch.randn(8, 50, 6, generator=generator) * (1 + torch.rand(8, 1, 6, generator=generator))
        logmel = logmel + 3 * torch.randn(8, 1, 6, generator=generator)
        mixed = mix_style(logmel, 1.0, 0.3, _generator())

        def style(of: Tensor) -> Tensor:
            return torch.cat([of.mean(1), of.std(1, unbiased=False)], 1).double()  # (B, 2 F)

        before, after = style(logmel), style(mixed)
        shares = []
        for clip in range(8):
            found = []
            for partner in set(range(8)) - {clip}:
                towards = before[partner] - before[clip]
                share = float((after[clip] - before[clip]) @ towards / (towards @ towards))
                if torch.allclose(before[clip] + share * towards, after[clip], atol=1e-4):
                    found.append(share)
            assert found  # one share for all bins, for mean and deviation alike
            shares.append(found[0])
        assert all(-1e-4 <= share <= 1 + 1e-4 for share in shares)
        assert len({round(share, 3) for share in shares}) > 4  # each clip has a share of its own
        # what a clip says beside its style stays
        for bins in (logmel, mixed):
            bins -= bins.mean(1, keepdim=True)
            bins /= bins.std(1, keepdim=True)
        torch.testing.assert_close(mixed, logmel, atol=1e-3, rtol=0)

    def test_probability_says_how_many_batches(self) -> None:
        logmel, _, _ = _batch(4)
        assert mix_style(logmel, 0.0, 0.3, _generator()) is logmel
        generator = _generator()
        changed = [not torch.allclose(mix_style(logmel, 0.4, 0.3, generator), logmel, atol=1e-4) for _ in range(1000)]
        assert sum(changed) / 1000 == pytest.approx(0.4 * 23 / 24, abs=0.05)  # one order of four in 24 is the old one

    def test_a_silent_bin_stays_finite(self) -> None:
        logmel, _, _ = _batch()
        logmel[3, :, 2] = -1.0
        assert torch.isfinite(mix_style(logmel, 1.0, 0.3, _generator())).all()


class TestCorrection:
    def test_it_adds_one_spectrum_to_all_frames_of_a_clip_or_nothing(self) -> None:
        logmel, _, correction = _batch(400)
        all_of_it = logmel + correction[:, None, :]
        assert torch.equal(correct(logmel, correction, 1.0, _generator()), all_of_it)
        assert torch.equal(correct(logmel, correction, 0.0, _generator()), logmel)
        half = correct(logmel, correction, 0.5, _generator())
        corrected = (half == all_of_it).all(2).all(1)
        assert torch.equal(corrected, (half != logmel).all(2).all(1))
        assert 0.4 < corrected.double().mean() < 0.6

    def test_a_recipe_without_it_and_data_of_one_recorder_are_left_alone(self) -> None:
        logmel, targets, correction = _batch()
        assert augment(logmel, targets, PLAIN, START, _generator(), correction)[0] is logmel
        assert augment(logmel, targets, EACH["correction"], START, _generator(), None)[0] is logmel


class TestRecipes:
    def test_they_derive_from_one_another(self) -> None:
        assert dataclasses.replace(strong(), name="short", lr=short().lr) == short()
        assert dataclasses.replace(mixstyle(), name="strong", mix_style=0.0) == strong()
        assert [get_recipe(name).name for name in RECIPES] == list(RECIPES)

    def test_the_papers(self) -> None:
        recipe = paper()
        assert (recipe.optimizer, recipe.lr, recipe.batch_size, recipe.schedule) == ("sgd", 1e-3, 32, "cosine")
        assert (recipe.mixup_alpha, recipe.mixup_schedule) == (0.4, "without_hesitation")
        assert (recipe.masks, recipe.mask_width) == (2, 2)
        assert recipe.correction > 0
        assert not recipe.roll
        assert recipe.label_smoothing == recipe.mix_style == 0

    def test_freq_mixstyle_is_cp_mobiles(self) -> None:
        assert (mixstyle().mix_style, mixstyle().mix_style_alpha) == (0.4, 0.3)

    def test_each_has_a_length_of_its_own(self) -> None:
        assert {name: get_recipe(name).epochs for name in ("paper", "strong", "mixstyle")} == {
            "paper": 200,
            "strong": 60,
            "mixstyle": 60,
        }
