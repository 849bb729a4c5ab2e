"""The training loop on generated tensors: it learns, repeats itself to the bit, goes on exactly, and judges without side effects."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from search_space.architecture import Architecture
from search_space.errors import UserError
from search_space.presets import PRESETS
from trainers.config import short
from trainers.datasets import Clip
from trainers.inputs import Inputs, Split
from trainers.loop import Diverged, Epoch, predict, resolve_device, schedule, seeded_model, train

TINY = Architecture.parse("dssdn_c8-12-16_r0.5_sc_h16")
CPU = torch.device("cpu")
CLASSES = ("a", "b", "c")


def _split(count: int, seed: int) -> Split:
    """Clips whose class is the mel band that is loud."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    logmel = torch.randn(count, 12, 12, generator=generator)
    for index, label in enumerate(labels):
        logmel[index, :, 4 * int(label) : 4 * int(label) + 4] += 1.5
    clip = Clip(filename="x.wav", scene="a", group="g", recorder="", city="", location="", fold=None, split="train")
    return Split(logmel.half(), labels, (clip,) * count)


@pytest.fixture
def inputs() -> Inputs:
    return Inputs({"train": _split(70, 0), "val": _split(33, 1)}, torch.zeros(12), torch.ones(12), CLASSES)


def _trained(
    inputs: Inputs, clips: int = 140, seed: int = 0, **options: object
) -> tuple[dict[str, torch.Tensor], list[Epoch]]:
    epochs: list[Epoch] = []
    model = train(TINY, inputs, short(), clips, seed, CPU, on_epoch=epochs.append, **options)  # type: ignore[arg-type]
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


@pytest.mark.parametrize("clips", [71, 101, 141])
def test_a_rest_smaller_than_a_batch_is_seen_in_the_last_epoch(inputs: Inputs, clips: int) -> None:
    deep = PRESETS["dssdn-large"]  # its last maps are 1x1 here, where batch norm needs more than one clip
    epochs: list[Epoch] = []
    train(deep, inputs, short(), clips, 0, CPU, on_epoch=epochs.append)
    assert epochs[-1].row["clips_seen"] == clips
    assert len(epochs) == clips // 70


def test_going_on_after_an_epoch_equals_never_having_stopped(inputs: Inputs) -> None:
    states: list[dict[str, object]] = []

    def keep(epoch: Epoch) -> None:
        optimizer = epoch.optimizer.state_dict()
        copied = {
            key: {k: v.clone() if torch.is_tensor(v) else v for k, v in state.items()}
            for key, state in optimizer["state"].items()
        }
        model = {name: tensor.clone() for name, tensor in epoch.model.state_dict().items()}
        groups = [dict(group) for group in optimizer["param_groups"]]
        states.append(
            {
                "epoch": epoch.row["epoch"],
                "model": model,
                "optimizer": {"state": copied, "param_groups": groups},
            }
        )

    whole = train(TINY, inputs, short(), 280, 0, CPU, validate="every", on_epoch=keep).state_dict()
    resumed = train(TINY, inputs, short(), 280, 0, CPU, validate="every", start=states[1]).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


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


def test_biases_and_norms_do_not_decay(inputs: Inputs) -> None:
    _, epochs = _trained(inputs, clips=70)
    decays = {group["weight_decay"]: [p.ndim for p in group["params"]] for group in epochs[0].optimizer.param_groups}
    assert min(decays[short().weight_decay]) > 1
    assert max(decays[0.0]) == 1


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:99"])
def test_devices_that_are_not_there_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="--device"):
        resolve_device(name)
