"""A data set's log-mels as the tensors that the training loop reads: chosen splits, chosen size, normalised by train alone.

N clips, T frames, F mel bins.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from search_space.errors import UserError
from trainers.datasets import SPLITS, Clip, Dataset
from trainers.features import FLAT, Features

_CHUNK = 256


@dataclass(frozen=True)
class Split:
    """One split's clips: `logmel_NTF` float16, not normalised, `labels_N` int64, and the clips in the same order."""

    logmel_NTF: Tensor
    labels_N: Tensor
    clips: tuple[Clip, ...]

    def __len__(self) -> int:
        return len(self.clips)


@dataclass(frozen=True)
class Inputs:
    """What a training reads: its splits by name, and train's mean and standard deviation of every mel bin, (F,)."""

    splits: dict[str, Split]
    mean_F: Tensor
    std_F: Tensor
    classes: tuple[str, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Frames x mels of one clip."""
        frames, mels = self.splits["train"].logmel_NTF.shape[1:]
        return frames, mels

    def normalise(self, logmel_BTF: Tensor) -> Tensor:
        """Float32 with every mel bin at mean 0 and deviation 1 over train, on the batch's device."""
        return (logmel_BTF.float() - self.mean_F.to(logmel_BTF.device)) / self.std_F.to(logmel_BTF.device)


def load_inputs(
    dataset: Dataset,
    features: Features,
    *,
    size: tuple[int, int] | None = None,
    splits: Iterable[str] = ("train", "val"),
    train_clips: int | None = None,
) -> Inputs:
    """The named splits at `size` (frames x mels; smaller ones are area averages of the full log-mel; None: full size).

    `train_clips` keeps a fixed, stratified subset of train (`stratified_subset`). Only the splits named are read: a search that does not
    name 'test' can not look at it. Raises `UserError` for a size that is larger than the log-mel's.
    """
    full = features.size
    size = size or full
    if not (1 <= size[0] <= full[0] and 1 <= size[1] <= full[1]):
        raise UserError(
            f"a training input is at most the full log-mel, {full[0]}x{full[1]} frames x mels here, not {size[0]}x{size[1]}"
        )
    loaded = {}
    for name in ("train", *(name for name in splits if name != "train")):
        index_N = np.asarray(getattr(dataset.splits, name))
        if name == "train" and train_clips is not None and train_clips < len(index_N):
            index_N = index_N[stratified_subset([dataset.clips[i] for i in index_N], train_clips)]
        clips = tuple(dataset.clips[i] for i in index_N)
        labels_N = torch.from_numpy(dataset.labels[index_N])
        loaded[name] = Split(_resized(features.logmel, index_N, size), labels_N, clips)
    if size == full and len(loaded["train"]) == len(dataset.splits.train):
        mean_F, std_F = torch.from_numpy(features.mean_F), torch.from_numpy(features.std_F)
    else:
        mean_F, std_F = _statistics(loaded["train"].logmel_NTF)
    return Inputs(loaded, mean_F, std_F, dataset.classes)


def data_record(dataset: Dataset, features: Features) -> dict[str, Any]:
    """What a run keeps of its data: how to open it again, what it is, how it was split (clips per split)."""
    return {
        **dataset.spec._asdict(),
        "name": dataset.name,
        "synthetic": dataset.synthetic,
        "digest": features.digest,
        "front_end": dataclasses.asdict(features.front_end),
        "classes": list(dataset.classes),
        "counts": {name: len(getattr(dataset.splits, name)) for name in SPLITS},
    }


def stratified_subset(clips: list[Clip], count: int, seed: int = 0) -> np.ndarray:
    """Indices of `count` clips, always the same ones, in which every scene, every recorder within a scene and every location within
    both keeps its share, to within one clip: systematic sampling along the sorted list. Indices come back ascending."""
    draws = np.random.default_rng(seed).random(len(clips))
    order = sorted(range(len(clips)), key=lambda i: (clips[i].scene, clips[i].recorder, clips[i].group, draws[i]))
    steps = ((np.arange(count) + 0.5) * len(clips) / count).astype(int)
    return np.sort(np.array(order)[steps])


def _resized(logmel: np.ndarray, index_N: np.ndarray, size: tuple[int, int]) -> Tensor:
    if size == logmel.shape[1:]:
        return torch.from_numpy(np.ascontiguousarray(logmel[index_N]))
    chunks = [
        adaptive_avg_pool2d(torch.from_numpy(logmel[chunk].astype(np.float32)), size).half()
        for chunk in np.array_split(index_N, max(1, len(index_N) // _CHUNK))
    ]
    return torch.cat(chunks)


def _statistics(logmel_NTF: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation (F,) over clips and frames, summed in float64 chunk by chunk; a bin that never moves gets deviation 1."""
    count, total_F, squares_F = 0, 0.0, 0.0
    for chunk in logmel_NTF.split(_CHUNK):
        values = chunk.double()
        count += values.shape[0] * values.shape[1]
        total_F = total_F + values.sum((0, 1))
        squares_F = squares_F + values.square().sum((0, 1))
    mean_F = torch.as_tensor(total_F) / count
    std_F = (torch.as_tensor(squares_F) / count - mean_F.square()).clamp(min=0).sqrt()
    return mean_F.float(), torch.where(std_F < FLAT, 1.0, std_F).float()
