"""What a network costs: params, MACs, bytes and reach. An architecture's cost needs no torch; a built module's is traced.

This file is the one place that counts. No two tools agree on what a MAC is, so every count is of a named convention:

| convention    | counts for one clip                                                                              |
|---------------|--------------------------------------------------------------------------------------------------|
| `conv+linear` | multiply-accumulates of convolutions and linear layers; no biases, norms, activations, pooling   |
| `fvcore`      | as fvcore 0.1.5: these, batch norm with 2 a value, adaptive pooling with 1 a value it reads, products of maps |
| `dcase`       | as torchinfo 1.8, which the DCASE rules and NeSsi name: a bias counts at every position, batch norm 2 a channel, a linear layer its params, also on a sequence; what has no layer of its own counts nothing |

Unless another is named, `macs` is `conv+linear`. In all three:

* `params` are all numbers that can be trained, biases and batch norm's scale and shift included, also those of layers that
  never run, once each however often they are used; running statistics are not.
* The input is the size the network is meant for, never a smaller one it was trained at.
* Each family is counted in the form that its authors counted (`families.Family.form`): DSSDN, CP-ResNet, BC-ResNet, TF-SepNet and the comparators as they
  are trained, batch norm included; CP-Mobile and Rep-Mobile as they are deployed (`mobile.py`), and so are the branches of the operator `rep`. On one
  front this favours the deployed by a batch norm's second number a channel (1 % of the params of the paper's networks); the MACs of conv+linear are the
  same in both forms.
* Channel-wise crosses are the two convolutions of their equation (`blocks.plain`).

The figures are checked against hand formulas, the built model, fvcore and torchinfo.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from numbers import Integral
from typing import TYPE_CHECKING, NamedTuple

from search_space.errors import UserError, unknown

if TYPE_CHECKING:
    from torch import nn

    from search_space.architecture import Architecture, Block, Merge
    from search_space.families import Network
    from search_space.operators import Operator

CONVENTIONS = ("conv+linear", "fvcore", "dcase")
BYTES = {"float32": 4, "float16": 2, "int8": 1}
"""Of one number, by the type it is kept in."""


class LayerCost(NamedTuple):
    """One row of the layer table; `name` is the module's path in the built model, `shape` its output (C, T, F)."""

    name: str
    kind: str
    shape: tuple[int, int, int]
    params: int
    macs: int


class Cost(NamedTuple):
    """What one clip costs: total `params` and `macs`, the `layers` they are the sum of in order of execution, and more.

    `macs_by` holds the MACs of each convention, `macs` being those of conv+linear. `peak_activations` is the largest number
    of values alive at once (`peak`). `receptive_field` is how many (frames, mels) of the input one position of the last
    map sees, no more than there are: along its deepest path, attention aside, and of a map whose halves were laid over each
    other within one half.
    """

    params: int
    macs: int
    layers: tuple[LayerCost, ...]
    macs_by: Mapping[str, int]
    peak_activations: int
    receptive_field: tuple[int, int]

    def param_bytes(self, dtype: str = "float32") -> int:
        """Bytes of all params kept as `dtype`; running statistics, which fuse into them, and scales of int8 left out."""
        return self.params * _bytes(dtype)

    def peak_activation_bytes(self, dtype: str = "float32") -> int:
        """Bytes of the largest sum of maps alive at once, kept as `dtype`, for one clip."""
        return self.peak_activations * _bytes(dtype)


class Maps:
    """The maps of one inference in the order of writing: how large each is, and which ones it is made of.

    What one step needs is alive during it: the map it writes, the maps it reads, and those that a later step reads. The
    peak is the largest such sum. Each operation writes a map of its own, but what works value by value (norms,
    activations, the scaling by attention, a sum) overwrites a map that nobody reads later; a slice is no copy; weights and
    a library's scratch memory are not counted. A runtime that fuses more needs less.
    """

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._last_read: list[int] = []

    def write(self, size: int, *reads: int) -> int:
        """The number of a map of `size` values, made of the maps of these numbers."""
        step = len(self._sizes)
        for read in reads:
            self._last_read[read] = step
        self._sizes.append(size)
        self._last_read.append(step)
        return step

    def peak(self) -> int:
        """The largest number of values alive at once."""
        alive = largest = 0
        ending: dict[int, int] = defaultdict(int)
        for step, (size, last_read) in enumerate(zip(self._sizes, self._last_read, strict=True)):
            alive += size
            largest = max(largest, alive)
            ending[last_read] += size
            alive -= ending.pop(step, 0)
        return largest


def convolution(name: str, kind: str, shape: tuple[int, int, int], weights: int, biases: int = 0) -> LayerCost:
    """The row of a convolution: each weight is used once at each of the output's T x F positions, whatever the kernel."""
    return LayerCost(name, kind, shape, weights + biases, weights * shape[1] * shape[2])


def check_sizes(n_classes: object, mels: object, frames: object = 1) -> None:
    """Raises `UserError` unless there can be a classifier of so many outputs that reads so many mels and frames."""
    if not _is_whole(n_classes, least=2):
        raise UserError(f"a classifier has at least 2 classes, a whole number; got {n_classes!r}; try 10")
    for what, size in (("frames", frames), ("mels", mels)):
        if not _is_whole(size, least=1):
            raise UserError(f"a log-mel has at least 1 of its {what}, a whole number; got {size!r}; try 256")


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def count(network: str | Network, input: tuple[int, int], n_classes: int = 10) -> Cost:
    """What a network costs for one clip of `input` = (frames, mels): of a description from its spec alone, of a name `count_network`.

    Raises `UserError` when the text names no network, and on sizes that cannot be.
    """
    if isinstance(network, str):
        return count_network(network, input, n_classes)
    from search_space.families import FAMILIES, family_of

    return FAMILIES[family_of(network)].cost(network, input, n_classes)


def count_architecture(architecture: Architecture, input: tuple[int, int], n_classes: int) -> Cost:
    """What a DSSDN network costs for one clip of `input` = (frames, mels), from its spec alone.

    Source: structure as in `search_space.blocks` and `search_space.model`; conventions at the top of this file.
    """
    check_sizes(n_classes, input[1], input[0])
    layers = tuple(_network(architecture, input, n_classes))
    macs = sum(row.macs for row in layers)
    by = {"conv+linear": macs, "fvcore": sum(map(_fvcore, layers)), "dcase": sum(map(_dcase, layers))}
    peak = _maps(architecture, input, n_classes).peak()
    return Cost(sum(row.params for row in layers), macs, layers, by, peak, _receptive_field(architecture, input))


def count_network(network: str | Network, input: tuple[int, int], n_classes: int = 10) -> Cost:
    """What a network costs by whatever names it: from its spec alone for a family's, from a trace for a comparator.

    A comparator is built and run on torch's meta device: no weight is drawn and nothing is computed. A network of two channels
    is counted with both. Raises `UserError` when the text names no network, on sizes that cannot be, and on an input smaller
    than a comparator takes.
    """
    from search_space.comparators import COMPARATORS
    from search_space.presets import check_network, resolve

    if isinstance(network, str):
        check_network(network)
        if network in COMPARATORS:
            import torch

            check_sizes(n_classes, input[1], input[0])
            comparator = COMPARATORS[network]
            with torch.device("meta"):
                model = comparator.build(n_classes, input[1])
            return count_module(model, (comparator.channels_in, *input))
    return count(resolve(network), input, n_classes)


def count_module(module: nn.Module, input_shape: tuple[int, ...]) -> Cost:
    """What any built module costs for one clip of `input_shape`, e.g. (channels, frames, mels), a batch of one being added.

    It runs once on torch's meta device, as a copy in evaluation mode and in its plain form: no arithmetic is done, and the
    module is left alone. Operations are counted wherever they are written, for `dcase` layers as torchinfo sees them. The
    rows of the table are the layers that run, and those with params that never do. Of a family's network it is `count`.
    """
    from search_space.tracing import trace

    return trace(module, input_shape)


def heavy_bins(split_ratio: float, n_mels: int) -> int:
    """How many of a map's `n_mels` bins take the heavy path: the ratio rounded half up, at least one on either side.

    All of them at ratio 1 (no cut) and on a map of a single bin (nothing left to cut).
    """
    if split_ratio == 1 or n_mels == 1:
        return n_mels
    return min(max(int(split_ratio * n_mels + 0.5), 1), n_mels - 1)


def cut(block: Block, merge: Merge, n_mels: int) -> tuple[int, int]:
    """How many of a map's bins a block sends through its heavy and its light branch; none through the light one if uncut.

    To be spliced, the parts make up the whole (`heavy_bins`); to be laid over each other, each is half of it, rounded down.
    """
    if not block.cut:
        return n_mels, 0
    if merge == "splice":
        n_heavy = heavy_bins(block.split_ratio, n_mels)
        return n_heavy, n_mels - n_heavy
    n_half = max(n_mels // 2, 1)
    return n_half, n_half


def part_channels(block: Block, merge: Merge) -> tuple[int, int]:
    """The channels that the heavy and the light branch of a block give, so that their merging makes the block's output."""
    c_out = block.out_channels
    return (c_out - c_out // 2, c_out // 2) if merge == "concat" and block.cut else (c_out, c_out)


def pool_after(block: Block, merge: Merge) -> tuple[int, int]:
    """What is left to divide (frames, mels) by when a block's parts are merged."""
    frames, mels = block.pool
    return (frames, 1) if merge != "splice" and block.cut else (frames, mels)


def eca_kernel(channels: int) -> int:
    """Width of the channel attention's kernel: the odd number at or above |log2(C)/2 + 1/2|, at least 3.

    Source: ECA-Net (Wang et al. 2020), eq. 12 with gamma = 2, b = 1.
    """
    size = channels.bit_length() // 2
    return max(size if size % 2 else size + 1, 3)


def _bytes(dtype: str) -> int:
    if dtype not in BYTES:
        raise unknown("type of number", dtype, BYTES)
    return BYTES[dtype]


def _fvcore(row: LayerCost) -> int:
    return 2 * row.shape[0] * row.shape[1] * row.shape[2] if row.kind == "batch norm" else row.macs


def _dcase(row: LayerCost) -> int:
    match row.kind:
        case "batch norm" | "linear":
            return row.params
        case "ECA":
            return row.macs
    return row.params * row.shape[1] * row.shape[2]


def _sizes(architecture: Architecture, input: tuple[int, int]) -> Iterator[tuple[int, int, Block, int, int]]:
    """(index, input channels, block, frames, mels) of every block, frames and mels before it."""
    c_in, (T, F) = architecture.stem, input
    for index, block in enumerate(architecture.blocks):
        yield index, c_in, block, T, F
        c_in, (T, F) = block.out_channels, _pooled(T, F, block.pool)


def _pooled(T: int, F: int, pool: tuple[int, int]) -> tuple[int, int]:
    return max(T // pool[0], 1), max(F // pool[1], 1)


def _network(architecture: Architecture, input: tuple[int, int], n_classes: int) -> Iterator[LayerCost]:
    stem, head = architecture.stem, architecture.head
    yield convolution("stem.conv", "3x3", (stem, *input), 9 * stem)
    yield _batch_norm("stem.norm", (stem, *input))
    for index, c_in, block, T, F in _sizes(architecture, input):
        if architecture.kind == "plain":
            yield from _plain_layers(f"blocks.{index}", c_in, block, (T, F))
        else:
            yield from _block_layers(f"blocks.{index}", c_in, block, (T, F), architecture)
    taps = sum(block.out_channels for block in architecture.taps)
    yield LayerCost("head.hidden", "linear", (head, 1, 1), (taps + 1) * head, taps * head)
    yield LayerCost("head.classes", "linear", (n_classes, 1, 1), (head + 1) * n_classes, head * n_classes)


def _block_layers(
    name: str, c_in: int, block: Block, size: tuple[int, int], architecture: Architecture
) -> Iterator[LayerCost]:
    """The rows of one distillation block on a map of `size` = (T, F) with `c_in` channels."""
    T, F = size
    c_out, half, operator, merge = block.out_channels, c_in // 2, block.module, architecture.merge
    c_heavy, c_light = part_channels(block, merge)
    F_heavy, F_light = cut(block, merge, F)
    for stage, channels in (("first", c_in), ("second", c_in), ("third", half)):
        heavy = (channels, T, F_heavy)
        yield from operator.cost(f"{name}.{stage}.operator", c_in, heavy)
        yield _batch_norm(f"{name}.{stage}.norm", heavy)
    distils = architecture.kind == "distillation"
    if distils:
        yield convolution(f"{name}.distil_input", "1x1", (half, T, F_heavy), c_in * half, half)
        yield convolution(f"{name}.distil_first", "1x1", (half, T, F_heavy), c_in * half, half)
    fused = (3 if distils else 1) * half
    yield convolution(f"{name}.fuse", "1x1", (c_heavy, T, F_heavy), fused * c_heavy, c_heavy)
    if block.cut:
        yield convolution(f"{name}.light", "1x1", (c_light, T, F_light), c_in * c_light, c_light)
    merged = (c_out, T, F if merge == "splice" else F_heavy)
    kernel = eca_kernel(c_out) if architecture.eca is None else architecture.eca
    if kernel:
        yield LayerCost(f"{name}.attention", "ECA", merged, kernel, kernel * c_out)
    yield _batch_norm(f"{name}.norm", merged)
    yield from _pool_layer(name, (c_out, *_pooled(T, F, block.pool)), pool_after(block, merge))


def _plain_layers(name: str, c_in: int, block: Block, size: tuple[int, int]) -> Iterator[LayerCost]:
    """The rows of one plain block on a map of `size` = (T, F) with `c_in` channels."""
    shape = (block.out_channels, *size)
    yield from block.module.cost(f"{name}.operator", c_in, shape)
    yield _batch_norm(f"{name}.norm", shape)
    yield from _pool_layer(name, (block.out_channels, *_pooled(*size, block.pool)), block.pool)


def _pool_layer(name: str, shape: tuple[int, int, int], pool: tuple[int, int]) -> Iterator[LayerCost]:
    if pool != (1, 1):
        yield LayerCost(f"{name}.pool", f"{pool[0]}x{pool[1]} average", shape, 0, 0)


def _batch_norm(name: str, shape: tuple[int, int, int]) -> LayerCost:
    return LayerCost(name, "batch norm", shape, 2 * shape[0], 0)


def _maps(architecture: Architecture, input: tuple[int, int], n_classes: int) -> Maps:
    """Every map that one inference writes, in the order of the built model."""
    maps = Maps()
    clip = maps.write(input[0] * input[1])
    x = maps.write(architecture.stem * input[0] * input[1], clip)
    means = []
    for index, c_in, block, T, F in _sizes(architecture, input):
        c_out, merge = block.out_channels, architecture.merge
        if architecture.kind == "plain":
            y = _operator_maps(maps, block.module, c_in, c_out, T * F, x)
        else:
            y = _block_maps(maps, c_in, block, T, F, architecture, x)
        if pool_after(block, merge) != (1, 1):
            T, F = _pooled(T, F, block.pool)
            y = maps.write(c_out * T * F, y)
        x = y
        if index + 1 in architecture.tap_numbers:
            means.append(maps.write(c_out, x))
    joined = maps.write(sum(block.out_channels for block in architecture.taps), *means)
    maps.write(n_classes, maps.write(architecture.head, joined))
    return maps


def _operator_maps(maps: Maps, operator: Operator, c_in: int, c_out: int, positions: int, x: int) -> int:
    numbers = [x]
    for channels, reads in operator.maps(c_in, c_out):
        numbers.append(maps.write(channels * positions, *(numbers[read] for read in reads)))
    return numbers[-1]


def _block_maps(maps: Maps, c_in: int, block: Block, T: int, F: int, architecture: Architecture, x: int) -> int:
    half, merge = c_in // 2, architecture.merge
    c_heavy, c_light = part_channels(block, merge)
    F_heavy, F_light = cut(block, merge, F)
    positions = T * F_heavy
    first = _operator_maps(maps, block.module, c_in, c_in, positions, x)
    second = _operator_maps(maps, block.module, c_in, c_in, positions, first)
    third = _operator_maps(maps, block.module, c_in, half, positions, second)
    if architecture.kind == "distillation":
        distilled = maps.write(half * positions, x), maps.write(half * positions, first), third
        third = maps.write(3 * half * positions, *distilled)
    y = maps.write(c_heavy * positions, third)
    if F_light:
        light = maps.write(c_light * T * F_light, x)
        if merge != "add":  # a sum overwrites one of its terms
            y = maps.write(c_heavy * positions + c_light * T * F_light, y, light)
    if architecture.eca != 0:
        maps.write(block.out_channels, maps.write(block.out_channels, y))
    return y


def _receptive_field(architecture: Architecture, input: tuple[int, int]) -> tuple[int, int]:
    field, step = [3, 3], [1, 1]  # the stem's; how far apart neighbouring positions are in the input
    for _, _, block, *size in _sizes(architecture, input):
        n_operators = 1 if architecture.kind == "plain" else 3
        for axis in range(2):
            field[axis] += n_operators * (block.module.extent - 1) * step[axis]
            by_cut = axis == 1 and block.cut and architecture.merge != "splice"
            factor = 1 if by_cut else min(block.pool[axis], size[axis])
            field[axis] += (factor - 1) * step[axis]
            step[axis] *= factor
    return min(field[0], input[0]), min(field[1], input[1])


def parse_input(text: str) -> tuple[int, int]:
    """(frames, mels) from text such as `431x256`.

    Raises `UserError` when the text is not two whole numbers of at least 1 joined by `x`.
    """
    match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text.strip())
    if match is None:
        raise UserError(f"an input is frames x mels, two whole numbers of at least 1; got {text!r}; write e.g. 431x256")
    return int(match[1]), int(match[2])
