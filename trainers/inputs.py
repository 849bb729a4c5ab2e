"""A data set's log-mels as the tensors that the training loop reads: chosen splits, chosen size, normalised by train alone.

They are read from memory where they fit into a part of it, else from the disk batch by batch, and on a GPU from its own memory where
they fit: the numbers are the same to the bit.

B batch, N clips, T frames, F mel bins.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from search_space.errors import UserError
from trainers.datasets import SPLITS, Clip, Dataset
from trainers.features import FLAT, Features

if TYPE_CHECKING:
    from trainers.impulses import Impulses

# Assumed: what may be filled of the memory that is available, on the machine and on a GPU; the rest is for the training itself.
MEMORY_SHARE = 0.5
_CHUNK = 64


@dataclass(frozen=True)
class Stored:
    """Clips' log-mels where they lie on the disk: `read` brings some to `size` (frames x mels), float16."""

    features: Features
    index_N: NDArray[np.int64]
    size: tuple[int, int]

    def read(self, index_B: Tensor) -> Tensor:
        """(B, T, F) float16; a smaller size is the area average of the full log-mel."""
        logmel_BTF = torch.from_numpy(self.features.read(self.index_N[index_B.numpy()]))
        if self.size == self.features.size:
            return logmel_BTF
        return adaptive_avg_pool2d(logmel_BTF.float(), self.size).half()


@dataclass(frozen=True)
class Split:
    """One split's clips: their log-mels, not normalised, wherever they lie (`batch` reads them), and in the same order `labels_N` int64
    and `clips`. `share` is the part of a GPU's free memory that they may fill."""

    logmel_NTF: Tensor | Stored
    labels_N: Tensor
    clips: tuple[Clip, ...]
    share: float = MEMORY_SHARE
    _on_gpu: dict[torch.device, Tensor | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def size(self) -> tuple[int, int]:
        """Frames x mels of one clip."""
        if isinstance(self.logmel_NTF, Stored):
            return self.logmel_NTF.size
        frames, mels = self.logmel_NTF.shape[1:]
        return frames, mels

    def batch(self, index_B: Tensor, device: torch.device) -> Tensor:
        """The log-mels (B, T, F) of these clips (row numbers, on the CPU), not normalised, on `device`.

        On a GPU the whole split is moved there the first time, where it fits.
        """
        if device.type == "cuda":
            if device not in self._on_gpu:
                fits = _n_bytes(len(self), self.size) <= self.share * torch.cuda.mem_get_info(device)[0]
                self._on_gpu[device] = _gathered(self._read, len(self), self.size, device) if fits else None
            if (resident_NTF := self._on_gpu[device]) is not None:
                return resident_NTF.index_select(0, index_B.to(device))
        return self._read(index_B).to(device)

    def first(self, count: int) -> Split:
        """Its first `count` clips alone."""
        few = torch.arange(min(count, len(self)))
        return Split(self._read(few), self.labels_N[few], self.clips[:count], self.share)

    def _read(self, index_B: Tensor) -> Tensor:
        if isinstance(self.logmel_NTF, Stored):
            return self.logmel_NTF.read(index_B)
        # Measured: 32 clips at 431x256 in 0.4 ms, by [index_B] in 3 to 6.
        return self.logmel_NTF.index_select(0, index_B)


@dataclass(frozen=True)
class Corrections:
    """What makes a clip of the commonest recorder sound like the mean of the others: `offset_F`, to be added to a normalised log-mel, and
    which clips (N,) are of that recorder; the others stay as they are."""

    offset_F: Tensor
    of_reference_N: Tensor

    def batch(self, index_B: Tensor) -> Tensor:
        """(B, F): the offset, or zeros."""
        return self.of_reference_N[index_B, None] * self.offset_F


class Soft(Protocol):
    """Who answers what teachers say of train's clips: written down before, or asked now (`trainers.teachers`)."""

    def batch(self, index_B: Tensor) -> Tensor:
        """The teachers' mean logits (B, K) float32 for these clips of train, on the CPU."""


class FeatureTeacher(NamedTuple):
    """A network that teaches features: log-mels (B, 1, T, F) of `size` (frames x mels), not normalised, to logits."""

    model: nn.Module
    size: tuple[int, int]


@dataclass(frozen=True)
class Inputs:
    """What a training reads: its splits by name, and train's mean and standard deviation of every mel bin, (F,).

    What `trainers.teachers.taught` adds where a recipe asks for it: the teachers' answers, the network that teaches features, which
    super-class each class is of (K, S), and device responses.
    """

    splits: dict[str, Split]
    mean_F: Tensor
    std_F: Tensor
    classes: tuple[str, ...]
    soft: Soft | None = None
    teacher: FeatureTeacher | None = None
    super_KS: Tensor | None = None
    impulses: Impulses | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Frames x mels of one clip."""
        return self.splits["train"].size

    @cached_property
    def corrections(self) -> Corrections | None:
        """What spectrum correction adds to train's clips; None where one recorder made them all."""
        return spectrum_corrections(self.splits["train"], self.std_F)

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
    share: float = MEMORY_SHARE,
) -> Inputs:
    """The named splits at `size` (frames x mels; smaller ones are area averages of the full log-mel; None: full size).

    `train_clips` keeps a fixed, stratified subset of train (`stratified_subset`). Only the splits named are read: a search that does not
    name 'test' can not look at it. A split stays on the disk when it would fill more than `share` of the memory that is available at that
    time: processes that load the same at once divide it among them. Raises `UserError` for a size that is larger than the log-mel's.
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
        stored = Stored(features, index_N, size)
        in_memory = _n_bytes(len(clips), size) <= share * psutil.virtual_memory().available
        logmel_NTF = _gathered(stored.read, len(clips), size, torch.device("cpu")) if in_memory else stored
        loaded[name] = Split(logmel_NTF, labels_N, clips, share)
    if size == full and len(loaded["train"]) == len(dataset.splits.train):
        mean_F, std_F = torch.from_numpy(features.mean_F), torch.from_numpy(features.std_F)
    else:
        mean_F, std_F = _statistics(loaded["train"])
    return Inputs(loaded, mean_F, std_F, dataset.classes)


def spectrum_corrections(split: Split, std_F: Tensor) -> Corrections | None:
    """The mean difference between other recorders' log-mels and the commonest one's, over pairs of one segment where the file names tell
    them (`<segment>-<recorder>.wav`, as TAU's do), else between the means over all clips. In units of `std_F`.

    Means of logarithms, so that loud clips do not decide alone. Clips that name no recorder count for none. Source: DSSDN, section 3.2, after Hu et al., 2020 (spectrum correction).
    Assumed: how that text is read. It averages spectra over the other recorders and corrects recorder a; here logarithms are averaged over
    pairs, and the commonest recorder, which is TAU's a, is corrected.
    """
    recorders = np.array([clip.recorder for clip in split.clips])
    named = recorders != ""
    names, counts = np.unique(recorders[named], return_counts=True)
    if len(names) < 2:
        return None
    reference = names[counts.argmax()]
    takes: dict[str, dict[str, int]] = {}
    for row, clip in enumerate(split.clips):
        segment = clip.filename.rpartition(".")[0].removesuffix(f"-{clip.recorder}")
        takes.setdefault(segment, {})[clip.recorder] = row
    pairs = [
        (of[reference], row)
        for of in takes.values()
        if reference in of
        for name, row in of.items()
        if name not in ("", reference)
    ]
    first, second = (
        zip(*pairs, strict=True)
        if pairs
        else (np.flatnonzero(recorders == reference), np.flatnonzero(named & (recorders != reference)))
    )
    offset_F = _mean(split, torch.tensor(second)) - _mean(split, torch.tensor(first))
    return Corrections((offset_F / std_F).float(), torch.from_numpy(recorders == reference))


def _mean(split: Split, index_N: Tensor) -> Tensor:
    """The mean (F,) over these clips and their frames, in float64."""
    sums = [split.batch(chunk, torch.device("cpu")).double().mean(1).sum(0) for chunk in index_N.split(_CHUNK)]
    return torch.stack(sums).sum(0) / len(index_N)


def data_record(dataset: Dataset, features: Features) -> dict[str, Any]:
    """What a run keeps of its data: how to open it again, what it is, how it was split (clips per split)."""
    return {
        **dataset.spec._asdict(),
        "name": dataset.name,
        "synthetic": dataset.synthetic,
        "digest": features.digest,
        "duration_s": dataset.duration_s,
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


def _n_bytes(count: int, size: tuple[int, int]) -> int:
    return count * size[0] * size[1] * torch.float16.itemsize


def _gathered(read: Callable[[Tensor], Tensor], count: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """All log-mels (N, T, F) float16 in one piece on `device`, filled bit by bit: nothing is held twice."""
    logmel_NTF = torch.empty((count, *size), dtype=torch.float16, device=device)
    for chunk in torch.arange(count).split(_CHUNK):
        logmel_NTF[chunk[0] : chunk[-1] + 1] = read(chunk)
    return logmel_NTF


def _statistics(split: Split) -> tuple[Tensor, Tensor]:
    """Mean and deviation (F,) over clips and frames, summed in float64 chunk by chunk; a bin that never moves gets deviation 1."""
    count, total_F, squares_F = 0, torch.zeros(split.size[1]).double(), torch.zeros(split.size[1]).double()
    for chunk in torch.arange(len(split)).split(_CHUNK):
        values = split.batch(chunk, torch.device("cpu")).double()
        count += values.shape[0] * values.shape[1]
        total_F = total_F + values.sum((0, 1))
        squares_F = squares_F + values.square().sum((0, 1))
    mean_F = total_F / count
    std_F = (squares_F / count - mean_F.square()).clamp(min=0).sqrt()
    return mean_F.float(), torch.where(std_F < FLAT, 1.0, std_F).float()
