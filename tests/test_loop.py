"""The training loop on generated tensors: it learns, repeats itself to the bit, goes on exactly, and judges without side effects."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from search_space.architecture import Architecture
from search_space.blocks import Cross
from search_space.errors import UserError
from search_space.presets import PRESETS
from trainers.augment import Moment, augment, spec_augment
from trainers.config import Recipe, paper, short
from trainers.datasets import Clip
from trainers.inputs import Inputs, Split
from trainers.loop import (
    Course,
    Diverged,
    Epoch,
    _optimizer,
    bfloat16_pays,
    predict,
    resolve_device,
    schedule,
    seeded_model,
    train,
)

TINY = Architecture.parse("dssdn_c8-12-16_r0.5_sc_h16")
CPU = torch.device("cpu")
CLASSES = ("a", "b", "c")
PLAIN = dataclasses.replace(short(), roll=False)
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "roll": {"roll": True},
    "masks": {"masks": 2, "mask_width": 2},
    "mixup": {"mixup_alpha": 0.4},
    "mixup without hesitation": {"mixup_alpha": 0.4, "mixup_schedule": "without_hesitation"},
    "mix_style": {"mix_style": 0.9},
    "correction": {"correction": 0.5},
}
ALL = dataclasses.replace(PLAIN, **{key: value for changes in AUGMENTATIONS.values() for key, value in changes.items()})


def _split(count: int, seed: int, size: int = 12) -> Split:
    """Clips whose class is the third of the mels that is loud."""
    generator = torch.Generator().manual_seed(seed)
    labels, third = torch.arange(count) % 3, size // 3
    logmel = torch.randn(count, size, size, generator=generator)
    for index, label in enumerate(labels):
        logmel[index, :, third * int(label) : third * (int(label) + 1)] += 1.5
    clip = Clip(filename="x.wav", scene="a", group="g", recorder="", city="", location="", fold=None, split="train")
    return Split(logmel.half(), labels, (clip,) * count)


@pytest.fixture
def inputs() -> Inputs:
    return Inputs({"train": _split(70, 0), "val": _split(33, 1)}, torch.zeros(12), torch.ones(12), CLASSES)


@pytest.fixture
def spacious() -> Inputs:
    """A few clips of 32x32, which every comparator can read."""
    return Inputs({"train": _split(32, 0, 32), "val": _split(6, 1, 32)}, torch.zeros(32), torch.ones(32), CLASSES)


@pytest.fixture
def recorded(inputs: Inputs) -> Inputs:
    """The same, every third clip of train being recorder b's."""
    data = inputs.splits["train"]
    clips = tuple(dataclasses.replace(clip, recorder="baa"[n % 3]) for n, clip in enumerate(data.clips))
    return dataclasses.replace(inputs, splits={**inputs.splits, "train": dataclasses.replace(data, clips=clips)})


def _groups(model: nn.Module) -> list[dict[str, Any]]:
    """The parameters as the loop's optimiser holds them."""
    return [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim <= 1]},
    ]


def _trained(
    inputs: Inputs, clips: int = 140, seed: int = 0, recipe: Recipe | None = None, **options: Any
) -> tuple[dict[str, torch.Tensor], list[Epoch]]:
    epochs: list[Epoch] = []
    model = train(TINY, inputs, recipe or short(), clips, seed, CPU, on_epoch=epochs.append, **options)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, epochs


def test_it_learns(inputs: Inputs) -> None:
    _, epochs = _trained(inputs, clips=1400)
    assert epochs[-1].row["val_accuracy"] > 1 / 3 + 0.4


def test_the_same_seed_gives_the_same_weights_to_the_bit(inputs: Inputs) -> None:
    first, _ = _trained(inputs)
    again, _ = _trained(inputs)
    other, _ = _trained(inputs, seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_exactly_the_budget_is_seen(inputs: Inputs) -> None:
    _, epochs = _trained(inputs, clips=110)
    assert [epoch.row["clips_seen"] for epoch in epochs] == [70, 110]
    assert "val_accuracy" not in epochs[0].row  # judged once, at the end of the budget
    assert "val_accuracy" in epochs[1].row


def test_a_course_counts_the_clips_of_its_batches(inputs: Inputs) -> None:
    """70 clips in three batches of at most 32, val scored after them."""
    seen: list[tuple[int, int, int]] = []
    _trained(inputs, clips=140, on_batch=lambda course: seen.append((course.epoch, course.batch, course.clips)))
    assert seen == [
        *[(0, b, c) for b, c in ((0, 0), (1, 24), (2, 47))],
        *[(1, b, c) for b, c in ((0, 0), (1, 24), (2, 47))],
        *[(1, 3, 70)] * 2,
    ]


@pytest.mark.parametrize("clips", [71, 101, 141])
def test_a_rest_smaller_than_a_batch_is_seen_in_the_last_epoch(inputs: Inputs, clips: int) -> None:
    deep = PRESETS["dssdn-large"]  # its last maps are 1x1 here, where batch norm needs more than one clip
    epochs: list[Epoch] = []
    train(deep, inputs, short(), clips, 0, CPU, on_epoch=epochs.append)
    assert epochs[-1].row["clips_seen"] == clips
    assert len(epochs) == clips // 70


def test_dropout_follows_the_seed_too(spacious: Inputs) -> None:
    """It draws from torch's global generator, which a training leaves as it found it."""
    states: list[dict[str, Any]] = []

    def keep(epoch: Epoch) -> None:
        states.append(copy.deepcopy(epoch.state))

    torch.manual_seed(1)
    drawn = torch.random.get_rng_state()
    whole = train("sp4asc", spacious, short(), 64, 0, CPU, on_epoch=keep).state_dict()
    assert torch.equal(torch.random.get_rng_state(), drawn)
    torch.manual_seed(2)
    again = train("sp4asc", spacious, short(), 64, 0, CPU).state_dict()
    resumed = train("sp4asc", spacious, short(), 64, 0, CPU, start=states[0]).state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("network", ["dssdn_c8-12-16_r0.5_sc.d2_h16", "dsmn-3", "sp4asc", "mobilenet-v1"])
def test_the_gradient_of_every_convolution_is_float32s(network: str) -> None:
    """In the precision that training takes. On some CPUs the one of dilated convolutions is wrong in bfloat16."""
    model = seeded_model(network, 3, 0, 64).train()
    heard: list[tuple[nn.Module, torch.Size]] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, given: heard.append((module, given[0].shape)))
        for module in model.modules()
        if isinstance(module, nn.Conv2d | Cross)
    ]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model(torch.randn(2, 1, 72, 64, generator=generator))
    for hook in hooks:
        hook.remove()
    reduced = bfloat16_pays(CPU, model)
    for module, shape in heard:
        x = torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last)
        gradients = []
        for enabled in (False, reduced):
            module.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                y = module(x)
            back = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
            y.backward(back.to(y.dtype))
            gradients.append(torch.cat([parameter.grad.flatten() for parameter in module.parameters()]))
        assert (gradients[1] - gradients[0]).norm() < 0.02 * gradients[0].norm(), (module, shape)


class TestAugmentation:
    @pytest.mark.parametrize("changes", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
    def test_each_acts_in_training_and_repeats_itself(self, recorded: Inputs, changes: dict[str, Any]) -> None:
        recipe = dataclasses.replace(PLAIN, **changes)
        plain, _ = _trained(recorded, recipe=PLAIN)
        first, _ = _trained(recorded, recipe=recipe)
        again, _ = _trained(recorded, recipe=recipe)
        assert any(not torch.equal(first[name], plain[name]) for name in first)
        assert all(torch.equal(first[name], again[name]) for name in first)

    def test_none_of_it_is_in_judging(self, recorded: Inputs) -> None:
        _, epochs = _trained(recorded, recipe=ALL, validate="every")
        last = epochs[-1]
        assert last.judged is not None
        logmel = recorded.normalise(recorded.splits["val"].batch(torch.arange(33), CPU))
        with torch.inference_mode():
            plain = last.model.eval()(logmel.unsqueeze(1)).softmax(1).numpy()
        np.testing.assert_allclose(last.judged[0], plain, atol=1e-6)

    def test_correction_needs_two_recorders(self, inputs: Inputs) -> None:
        plain, _ = _trained(inputs, recipe=PLAIN)
        same, _ = _trained(inputs, recipe=dataclasses.replace(PLAIN, correction=0.5))
        assert all(torch.equal(plain[name], same[name]) for name in plain)

    def test_mixup_without_hesitation_follows_the_clips_seen(self, inputs: Inputs) -> None:
        """Of five epochs the first three are mixed; of the rest, which start at 0.6, the fourth is not and the fifth is."""
        weights: dict[str, list[dict[str, torch.Tensor]]] = {}
        for schedule_ in ("always", "without_hesitation"):
            kept: list[dict[str, torch.Tensor]] = []

            def keep(epoch: Epoch, kept: list[dict[str, torch.Tensor]] = kept) -> None:
                kept.append({name: tensor.clone() for name, tensor in epoch.model.state_dict().items()})

            recipe = dataclasses.replace(PLAIN, mixup_alpha=0.4, mixup_schedule=schedule_)
            train(TINY, inputs, recipe, 350, 0, CPU, on_epoch=keep)
            weights[schedule_] = kept
        same = [
            all(torch.equal(always[name], rarer[name]) for name in always)
            for always, rarer in zip(weights["always"], weights["without_hesitation"], strict=True)
        ]
        assert same == [True, True, True, False, False]

    def test_an_epoch_is_the_loss_of_the_augmented_batch_written_plainly(self, recorded: Inputs) -> None:
        """Of one batch each, by a network that is sure of itself already and learns no more: mixed targets are not what plain ones cost it."""
        recipe = dataclasses.replace(ALL, batch_size=70, mixup_schedule="always", mixup_alpha=1.0, lr=0.0)
        epochs: list[Epoch] = []
        trained = train(TINY, recorded, PLAIN, 1400, 0, CPU)
        state = copy.deepcopy(trained.state_dict())
        start = {"epoch": 20, "model": state, "optimizer": torch.optim.AdamW(_groups(trained)).state_dict()}
        train(TINY, recorded, recipe, 1680, 0, CPU, start=start, on_epoch=epochs.append)

        model, data, corrections = seeded_model(TINY, 3, 0).train(), recorded.splits["train"], recorded.corrections
        model.load_state_dict(state)
        assert corrections is not None
        costs_more = []
        for number, epoch in enumerate(epochs, start=20):
            generator = torch.Generator().manual_seed(number)
            order = torch.cat([torch.randperm(70, generator=generator) for _ in range(2)])[:70]
            logmel, labels = recorded.normalise(data.batch(order, CPU)), data.labels_N[order]
            moment, plain = Moment(number / 24, number), one_hot(labels, 3).float()
            seen, targets = augment(logmel, plain, recipe, moment, generator, corrections.batch(order))
            with torch.no_grad():
                logits = model(seen.unsqueeze(1))
            loss = cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing).item()
            assert epoch.row["loss"] == pytest.approx(loss, rel=0.01)
            unmixed = cross_entropy(logits, plain, label_smoothing=recipe.label_smoothing).item()
            costs_more.append(abs(unmixed / loss - 1))
        assert len(costs_more) == 4
        assert max(costs_more) > 0.03, costs_more


class TestTestTimeAugmentation:
    RECIPE = dataclasses.replace(PLAIN, masks=2, mask_width=3)

    def test_no_draws_are_the_plain_prediction_to_the_bit(self, inputs: Inputs) -> None:
        model = seeded_model(TINY, 3, 0)
        plain, labels = predict(model, inputs, "val", CPU)
        for options in ({}, {"draws": 0}, {"recipe": ALL}, {"draws": 0, "recipe": ALL}):
            said = predict(model, inputs, "val", CPU, **options)
            assert np.array_equal(said[0], plain)
            assert np.array_equal(said[1], labels)

    def test_draws_are_averaged_and_always_the_same(self, inputs: Inputs) -> None:
        model = seeded_model(TINY, 3, 0)
        first, labels = predict(model, inputs, "val", CPU, draws=5, recipe=self.RECIPE)
        again, _ = predict(model, inputs, "val", CPU, draws=5, recipe=self.RECIPE)
        assert np.array_equal(first, again)
        assert labels.tolist() == inputs.splits["val"].labels_N.tolist()
        np.testing.assert_allclose(first.sum(1), 1, rtol=1e-5)
        logmel = inputs.normalise(inputs.splits["val"].batch(torch.arange(33), CPU))
        generator, said = torch.Generator().manual_seed(0), []
        model.eval()
        for batch in logmel.split(32):
            with torch.inference_mode():
                views = [model(spec_augment(batch, self.RECIPE, generator)[:, None]).softmax(1) for _ in range(5)]
            assert all(not torch.equal(views[0], view) for view in views[1:])
            said.append(sum(views) / 5)
        np.testing.assert_allclose(first, torch.cat(said).numpy(), atol=1e-6)
        assert np.abs(first - predict(model, inputs, "val", CPU)[0]).max() > 1e-4

    def test_it_masks_and_does_nothing_else(self, recorded: Inputs) -> None:
        """The other augmentations of the recipe are for training."""
        model = seeded_model(TINY, 3, 0)
        masks = dataclasses.replace(PLAIN, masks=ALL.masks, mask_width=ALL.mask_width)
        every, alone = (predict(model, recorded, "train", CPU, draws=3, recipe=recipe)[0] for recipe in (ALL, masks))
        assert np.array_equal(every, alone)

    def test_draws_without_a_recipe_are_refused(self, inputs: Inputs) -> None:
        with pytest.raises(ValueError, match="3 draws of whose masks"):
            predict(seeded_model(TINY, 3, 0), inputs, "val", CPU, draws=3)

    def test_it_leaves_mode_and_generator_alone(self, inputs: Inputs) -> None:
        model = seeded_model(TINY, 3, 0).train()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        drawn = torch.random.get_rng_state()
        predict(model, inputs, "val", CPU, draws=2, recipe=self.RECIPE)
        assert model.training
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert torch.equal(torch.random.get_rng_state(), drawn)


@pytest.mark.parametrize("recipe", [short(), ALL], ids=["short", "all augmentations"])
def test_going_on_after_an_epoch_equals_never_having_stopped(recorded: Inputs, recipe: Recipe) -> None:
    states: list[dict[str, Any]] = []

    def keep(epoch: Epoch) -> None:
        states.append(copy.deepcopy(epoch.state))

    whole = train(TINY, recorded, recipe, 280, 0, CPU, validate="every", on_epoch=keep).state_dict()
    resumed = train(TINY, recorded, recipe, 280, 0, CPU, validate="every", start=states[1]).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("network", [TINY, "sp4asc"], ids=["dssdn", "dropout"])
@pytest.mark.parametrize("batch", [1, 4, 5, 7])
def test_going_on_within_an_epoch_equals_never_having_stopped(spacious: Inputs, network: str, batch: int) -> None:
    """Augmentation, dropout, order and what the epoch's row adds up go on where they were; 64 clips are two epochs."""
    recipe = dataclasses.replace(ALL, batch_size=8, orthonormal=0.1)
    states: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    n_train = len(spacious.splits["train"])

    def keep(course: Course) -> None:
        if course.epoch * math.ceil(n_train / 8) + course.batch == batch:
            states.append(copy.deepcopy(course.state()))

    clips = 2 * n_train
    whole = train(
        network, spacious, recipe, clips, 0, CPU, on_batch=keep, on_epoch=lambda epoch: rows.append(epoch.row)
    )
    again: list[dict[str, Any]] = []
    resumed = train(
        *(network, spacious, recipe, clips, 0, CPU), start=states[0], on_epoch=lambda epoch: again.append(epoch.row)
    )
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    for row, same in zip(rows[-len(again) :], again, strict=True):
        assert {**row, "seconds": 0} == {**same, "seconds": 0}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_on_a_gpu_it_learns_and_goes_on_within_an_epoch(inputs: Inputs, accumulate: int) -> None:
    """The state is written and read as a checkpoint's is. A GPU's sums are in no fixed order: losses are close, not equal."""
    gpu, kept = torch.device("cuda"), io.BytesIO()
    whole: list[Epoch] = []
    rest: list[Epoch] = []

    def keep(course: Course) -> None:
        if (course.epoch, course.batch) == (15, 1):
            torch.save(course.state(), kept)

    options: dict[str, Any] = {"accumulate": accumulate, "validate": "every"}
    train(TINY, inputs, short(), 1400, 0, gpu, on_epoch=whole.append, on_batch=keep, **options)
    assert whole[-1].row["val_accuracy"] > 1 / 3 + 0.4
    kept.seek(0)
    start = torch.load(kept, weights_only=True, map_location="cpu")
    model = train(TINY, inputs, short(), 1400, 0, gpu, start=start, on_epoch=rest.append, **options)
    assert next(model.parameters()).device.type == "cuda"
    assert [epoch.row["clips_seen"] for epoch in rest] == [epoch.row["clips_seen"] for epoch in whole[15:]]
    for one, other in zip(rest, whole[15:], strict=True):
        assert one.row["loss"] == pytest.approx(other.row["loss"], rel=0.1)


class TestAccumulation:
    RECIPE = dataclasses.replace(paper(), mixup_alpha=0.0, masks=0, correction=0.0, batch_size=70)

    def test_a_step_is_that_of_the_mean_gradient_of_the_parts(self, inputs: Inputs) -> None:
        """Written plainly: one batch of 70 clips in two parts, each with its own batch norm, and one step of SGD."""
        stepped = train(TINY, inputs, self.RECIPE, 70, 0, CPU, accumulate=2)
        model = seeded_model(TINY, 3, 0).train()
        order = torch.randperm(70, generator=torch.Generator().manual_seed(0))
        for part in order.tensor_split(2):
            logmel = inputs.normalise(inputs.splits["train"].batch(part, CPU)).unsqueeze(1)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_pays(CPU, model)):
                logits = model(logmel.contiguous(memory_format=torch.channels_last)).float()
            (0.5 * cross_entropy(logits, inputs.splits["train"].labels_N[part])).backward()
        lr = self.RECIPE.lr * schedule(self.RECIPE, 0.5)
        moved = 0.0
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            expected = parameter.detach() - lr * parameter.grad
            torch.testing.assert_close(stepped.get_parameter(name).detach(), expected, rtol=1e-5, atol=1e-8)
            moved += float((expected - parameter).detach().abs().sum())
        assert moved > 0


def test_weights_that_are_not_finite_end_the_training_before_they_are_kept(inputs: Inputs) -> None:
    """A last step can spoil them without any loss that says so."""
    kept: list[Epoch] = []

    def spoil(course: Course) -> None:
        if course.batch == 1:
            next(iter(course.model.buffers())).fill_(float("inf"))

    with pytest.raises(Diverged, match=r"weights are not finite any more at the end of epoch 1"):
        train(TINY, inputs, short(), 140, 0, CPU, on_batch=spoil, on_epoch=kept.append)
    assert not kept


def test_judging_leaves_weights_mode_and_generator_alone(inputs: Inputs) -> None:
    model = seeded_model(TINY, 3, 0).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    drawn = torch.random.get_rng_state()
    probabilities, labels = predict(model, inputs, "val", CPU)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert probabilities.shape == (33, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert labels.tolist() == (np.arange(33) % 3).tolist()


def test_a_seeded_model_leaves_the_global_generator_alone() -> None:
    drawn = torch.random.get_rng_state()
    first, again = seeded_model(TINY, 3, 5), seeded_model(TINY, 3, 5)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_a_loss_that_is_not_finite_stops_and_says_where(inputs: Inputs) -> None:
    inputs.splits["train"].logmel_NTF[0] = math.nan
    with pytest.raises(Diverged, match="epoch 1"):
        _trained(inputs)


def test_schedules_at_start_peak_and_end() -> None:
    one_cycle = short()
    assert schedule(one_cycle, 0.0) == pytest.approx(1 / 25)
    assert schedule(one_cycle, one_cycle.warm_up) == pytest.approx(1.0)
    assert schedule(one_cycle, 1.0) == pytest.approx(0.0)
    cosine = dataclasses.replace(one_cycle, schedule="cosine")
    assert [schedule(cosine, p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.5, 0.0])


def test_a_schedule_in_cycles_is_run_through_in_each() -> None:
    recipe = dataclasses.replace(short(), restarts=1, stretch=5.0)
    assert schedule(recipe, 0.2 * recipe.warm_up) == pytest.approx(1.0)
    assert schedule(recipe, 0.2 - 1e-9) == pytest.approx(0.0, abs=1e-6)
    assert schedule(recipe, 0.2) == pytest.approx(1 / 25)
    assert schedule(recipe, 0.2 + 0.8 * recipe.warm_up) == pytest.approx(1.0)
    assert schedule(recipe, 1.0) == pytest.approx(0.0)


def test_rungs_are_told_before_the_first_batch_beyond_them(inputs: Inputs) -> None:
    """70 clips an epoch in batches of 24 and 23: 72 and 144 of 288 clips are reached after 70 and 140."""
    recipe = dataclasses.replace(short(), restarts=2, stretch=2.0)
    told: list[tuple[int, int, int]] = []
    train(TINY, inputs, recipe, 288, 0, CPU, on_rung=lambda course, rung, seen: told.append((rung, seen, course.epoch)))
    assert told == [(72, 70, 1), (144, 140, 2)]


def test_weights_that_are_not_finite_at_a_rung_are_not_scored(inputs: Inputs) -> None:
    def spoil(course: Course) -> None:
        next(iter(course.model.buffers())).fill_(float("inf"))

    recipe = dataclasses.replace(short(), restarts=1, stretch=2.0)
    with pytest.raises(Diverged, match="weights are not finite any more after 31 clips"):
        train(TINY, inputs, recipe, 93, 0, CPU, on_batch=lambda course: spoil(course) if course.batch == 1 else None)


def test_biases_and_norms_do_not_decay(inputs: Inputs) -> None:
    _, epochs = _trained(inputs, clips=70)
    decays = {
        group["weight_decay"]: [p.ndim for p in group["params"]]
        for group in _optimizer(epochs[0].model, short()).param_groups
    }
    assert min(decays[short().weight_decay]) > 1
    assert max(decays[0.0]) == 1


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:99"])
def test_devices_that_are_not_there_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="--device"):
        resolve_device(name)


class TestOrthonormality:
    """The term that asks OSC's layers for orthonormal rows, in one step of gradient descent on all clips."""

    NETWORK = "dssdn_c8-12-16_r0.5_osc.m4-sc.d2_h16"  # dilation keeps the arithmetic in float32 on a CPU
    RECIPE = dataclasses.replace(PLAIN, optimizer="sgd", lr=1.0, weight_decay=0.0, schedule="cosine", batch_size=70)

    def _stepped(self, inputs: Inputs, orthonormal: float) -> dict[str, torch.Tensor]:
        recipe = dataclasses.replace(self.RECIPE, orthonormal=orthonormal)
        return dict(train(self.NETWORK, inputs, recipe, 70, 0, CPU).named_parameters())

    def test_a_step_descends_cross_entropy_and_a_tenth_of_the_norms(self, inputs: Inputs) -> None:
        model, data = seeded_model(self.NETWORK, 3, 0, 12).train(), inputs.splits["train"]
        logmel_BTF = inputs.normalise(data.batch(torch.arange(70), CPU))
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_pays(CPU, model)):
            logits_BK = model(logmel_BTF.unsqueeze(1).contiguous(memory_format=torch.channels_last))
        entropy = cross_entropy(logits_BK.float(), data.labels_N, label_smoothing=self.RECIPE.label_smoothing)
        weights = [p.flatten(1) for name, p in model.named_parameters() if "squeeze" in name]
        norms = sum((w @ w.T - torch.eye(4)).square().sum().sqrt() for w in weights)
        assert len(weights) == 3
        (entropy + 0.1 * norms).backward()
        half_way = self.RECIPE.lr * schedule(self.RECIPE, 0.5)
        stepped, without = self._stepped(inputs, 0.1), self._stepped(inputs, 0.0)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            step = half_way * parameter.grad
            error = (stepped[name] - (parameter - step)).norm()
            assert error < 0.01 * step.norm() + 1e-6, name
            assert torch.equal(stepped[name], without[name]) == ("squeeze" not in name), name

    def test_the_papers_recipe_weighs_it_with_a_tenth(self) -> None:
        assert paper().orthonormal == 0.1


class TestBeginningLikeAnother:
    """A variant shares the base's initial weights wherever both have a tensor of that name and shape."""

    BASE = "dssdn_c8-12-16_r0.5_sc_h16"

    @pytest.mark.parametrize(
        "variant",
        [
            "dssdn_c8-12-16_r0.5_osc.m4_h16",
            "dssdn_c8-12-16_r1_sc_h16",
            "dssdn_c8-12-16-16_r0.5_sc_h16",
            "dssdn_c8-12-16_r0.5_sc_h16_chain",
            "dssdn_c8-12-16_r1_conv_h16_plain",
        ],
    )
    def test_they_share_what_fits(self, variant: str) -> None:
        base = seeded_model(self.BASE, 3, 4).state_dict()
        alone, alike = seeded_model(variant, 3, 4), seeded_model(variant, 3, 4, like=self.BASE)
        assert dict(alike.state_dict()).keys() == dict(alone.state_dict()).keys()
        shared = 0
        for name, tensor in alike.state_dict().items():
            fits = name in base and base[name].shape == tensor.shape
            assert torch.equal(tensor, base[name] if fits else alone.state_dict()[name]), name
            shared += fits and not torch.equal(tensor, alone.state_dict()[name])
        assert shared > 0  # without it they would differ there
        for (name, one), other in zip(alike.named_parameters(), alone.parameters(), strict=True):
            assert one.stride() == other.stride(), name

    def test_the_base_itself_is_the_same_to_the_bit(self, inputs: Inputs) -> None:
        alone = train(TINY, inputs, short(), 140, 3, CPU).state_dict()
        alike = train(TINY, inputs, short(), 140, 3, CPU, like=str(TINY)).state_dict()
        assert all(torch.equal(alone[name], alike[name]) for name in alone)

    def test_a_training_begins_there(self, inputs: Inputs) -> None:
        still = dataclasses.replace(short(), lr=0.0)
        trained = train(f"{TINY}_chain", inputs, still, 70, 3, CPU, like=TINY)
        first = seeded_model(TINY, 3, 3)
        assert torch.equal(trained.get_parameter("head.hidden.weight"), first.get_parameter("head.hidden.weight"))
        assert not torch.equal(
            trained.get_parameter("head.hidden.weight"),
            seeded_model(f"{TINY}_chain", 3, 3).get_parameter("head.hidden.weight"),
        )
