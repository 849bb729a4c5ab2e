"""From log-mels to tensors: the size, the splits that are read, the statistics, the stratified subset."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from search_space.errors import UserError
from trainers.datasets import Clip, open_dataset
from trainers.features import prepare
from trainers.inputs import load_inputs, stratified_subset


def _clips() -> list[Clip]:
    """200 clips of two scenes, recorder a nine times as often as b, ten locations each."""
    return [
        Clip(
            filename=f"{i}.wav",
            scene=("bus", "tram")[i % 2],
            group=f"place-{i // 20}",
            recorder="b" if i % 20 in (0, 1) else "a",
            city="",
            location="",
            fold=None,
            split="train",
        )
        for i in range(200)
    ]


@pytest.mark.parametrize("count", [20, 50, 137])
def test_a_subset_keeps_the_shares_of_scenes_recorders_and_locations(count: int) -> None:
    clips = _clips()
    kept = stratified_subset(clips, count)
    assert len(set(kept.tolist())) == count
    assert kept.tolist() == sorted(kept.tolist())
    for share, counted in (
        (0.5, Counter(clips[i].scene for i in kept)["bus"]),
        (0.1, Counter(clips[i].recorder for i in kept)["b"]),
    ):
        assert abs(counted - share * count) <= 2
    places = Counter(clips[i].group for i in kept)
    assert max(places.values()) - min(places.values()) <= 4


def test_a_subset_is_always_the_same() -> None:
    assert stratified_subset(_clips(), 40).tolist() == stratified_subset(_clips(), 40).tolist()


def test_inputs_at_full_and_at_smaller_size(tiny_folder: Path) -> None:
    dataset = open_dataset(str(tiny_folder))
    features = prepare(dataset)
    full = load_inputs(dataset, features)
    small = load_inputs(dataset, features, size=(11, 64))
    assert full.size == features.logmel.shape[1:] == (44, 256)
    assert small.size == (11, 64)
    first = int(dataset.splits.train[0])
    pooled = features.logmel[first].astype(np.float32).reshape(11, 4, 64, 4).mean((1, 3))
    np.testing.assert_allclose(small.splits["train"].logmel_NTF[0].float().numpy(), pooled, atol=0.01)


def test_statistics_are_of_train_alone(tiny_folder: Path) -> None:
    dataset = open_dataset(str(tiny_folder))
    inputs = load_inputs(dataset, prepare(dataset))
    normal = inputs.normalise(inputs.splits["train"].logmel_NTF)
    torch.testing.assert_close(normal.mean((0, 1)), torch.zeros(256), atol=2e-3, rtol=0)
    torch.testing.assert_close(normal.std((0, 1)), torch.ones(256), atol=5e-3, rtol=0)
    assert not torch.allclose(
        inputs.normalise(inputs.splits["val"].logmel_NTF).mean((0, 1)), torch.zeros(256), atol=2e-3
    )


def test_a_search_never_holds_the_test_split(tiny_folder: Path) -> None:
    dataset = open_dataset(str(tiny_folder))
    inputs = load_inputs(dataset, prepare(dataset))
    assert set(inputs.splits) == {"train", "val"}
    test = {dataset.clips[i].filename for i in dataset.splits.test}
    assert not test & {clip.filename for split in inputs.splits.values() for clip in split.clips}


def test_a_size_larger_than_the_logmel_is_refused(tiny_folder: Path) -> None:
    dataset = open_dataset(str(tiny_folder))
    with pytest.raises(UserError, match="at most the full log-mel, 44x256"):
        load_inputs(dataset, prepare(dataset), size=(45, 64))
