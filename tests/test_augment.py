"""Augmentation: what must stay, what must change, and that every draw is the generator's."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from trainers.augment import augment, mask, mixup, roll
from trainers.config import RECIPES, Recipe, get_recipe, long, paper, short


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_roll_shifts_each_clip_and_loses_nothing() -> None:
    logmel = torch.arange(4 * 10, dtype=torch.float32).reshape(4, 10, 1).expand(-1, -1, 3).contiguous()
    rolled = roll(logmel, _generator())
    assert torch.equal(rolled.sort(1).values, logmel)
    shifts = {int((rolled[i, 0, 0] - logmel[i, 0, 0]).item()) for i in range(4)}
    assert len(shifts) > 1
    for before, after in zip(logmel, rolled, strict=True):
        assert torch.equal(after, torch.roll(before, -int(after[0, 0] - before[0, 0]), 0))


@pytest.mark.parametrize("axis", [1, 2])
def test_masks_are_bands_of_every_width_up_to_the_widest(axis: int) -> None:
    ones = torch.ones(400, 32, 32)
    masked = mask(ones, axis, 4 / 32, _generator())
    lines = masked.amax(3 - axis)  # (clips, size of the axis)
    widths = (lines == 0).sum(1)
    assert set(widths.tolist()) == {0, 1, 2, 3, 4}
    starts_and_ends = (lines.diff(dim=1) != 0).sum(1)
    assert int(starts_and_ends.max()) <= 2  # one band, not several
    assert torch.equal(masked.amin(3 - axis), lines)  # it spans the other axis


def test_mixup_blends_clips_and_targets_alike() -> None:
    logmel, targets = torch.eye(4).reshape(4, 4, 1), torch.eye(4)
    mixed, mixed_targets = mixup(logmel, targets, 0.4, 4, _generator(1))
    assert torch.allclose(mixed.reshape(4, 4), mixed_targets)
    assert torch.allclose(mixed_targets.sum(1), torch.ones(4))
    assert not torch.equal(mixed_targets, targets)


def test_mixup_leaves_the_clips_it_was_not_asked_to_mix() -> None:
    logmel, targets = torch.rand(4, 5, 2), torch.eye(4)
    mixed, _ = mixup(logmel, targets, 0.4, 2, _generator())
    assert torch.equal(mixed[2:], logmel[2:])


@pytest.mark.parametrize("name", RECIPES)
def test_augment_is_a_function_of_the_generator(name: str) -> None:
    recipe = dataclasses.replace(get_recipe(name), mixup_alpha=0.4)
    logmel, targets = torch.rand(6, 20, 16), torch.eye(6)
    first = augment(logmel, targets, recipe, 0.0, _generator(3))
    again = augment(logmel, targets, recipe, 0.0, _generator(3))
    other = augment(logmel, targets, recipe, 0.0, _generator(4))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_a_recipe_without_augmentation_leaves_the_batch_alone() -> None:
    plain = Recipe(name="plain", optimizer="sgd", lr=0.1, weight_decay=0.0, schedule="cosine")
    logmel, targets = torch.rand(3, 8, 8), torch.eye(3)
    same, same_targets = augment(logmel, targets, plain, 0.0, _generator())
    assert same is logmel
    assert same_targets is targets


def test_recipes_derive_from_one_another() -> None:
    assert dataclasses.replace(long(), name="short", masks=0, mask_width=0.0) == short()
    assert (paper().optimizer, paper().lr, paper().batch_size, paper().mixup_alpha) == ("sgd", 1e-3, 32, 0.4)
