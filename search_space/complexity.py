"""What an architecture costs: params and MACs of every layer, from the frozen spec alone, without torch.

The convention, which every figure of the house follows:

* `macs` are the multiply-accumulates of convolutions and linear layers for one clip. Biases, batch norm, activations,
  pooling and additions are not counted: no two counters agree on them.
* `params` are all trainable numbers, biases and batch norm's scale and shift included; running statistics are not.
* The input is `frames x mels`, always the size the network is meant for, never a smaller one it was trained at.

This file is the one place that counts. It is checked against hand formulas, the built model and fvcore.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from search_space.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from search_space.architecture import Architecture, Block


class LayerCost(NamedTuple):
    """One row of the layer table; `name` is the module's path in the built model, `shape` its output (C, T, F)."""

    name: str
    kind: str
    shape: tuple[int, int, int]
    params: int
    macs: int


class Cost(NamedTuple):
    """Total `params` and `macs` of a network, and the `layers` they are the sum of, in order of execution."""

    params: int
    macs: int
    layers: tuple[LayerCost, ...]


def convolution(name: str, kind: str, shape: tuple[int, int, int], weights: int, biases: int = 0) -> LayerCost:
    """The row of a convolution: each weight is used once at each of the output's T x F positions, whatever the kernel."""
    return LayerCost(name, kind, shape, weights + biases, weights * shape[1] * shape[2])


def count(architecture: Architecture, input: tuple[int, int], n_classes: int = 10) -> Cost:
    """Params and MACs of a network for one clip of `input` = (frames, mels), with its layer table.

    Source: structure as in `search_space.blocks` and `search_space.model`; convention at the top of this file.
    """
    layers = tuple(_network(architecture, input, n_classes))
    return Cost(sum(row[3] for row in layers), sum(row[4] for row in layers), layers)


def heavy_bins(split_ratio: float, n_mels: int) -> int:
    """How many of a map's `n_mels` bins take the heavy path: the ratio rounded half up, at least one on either side.

    All of them at ratio 1 (no cut) and on a map of a single bin (nothing left to cut).
    """
    if split_ratio == 1 or n_mels == 1:
        return n_mels
    return min(max(int(split_ratio * n_mels + 0.5), 1), n_mels - 1)


def eca_kernel(channels: int) -> int:
    """Width of the channel attention's kernel: the odd number at or above |log2(C)/2 + 1/2|, at least 3.

    Source: ECA-Net (Wang et al. 2020), eq. 12 with gamma = 2, b = 1.
    """
    size = channels.bit_length() // 2
    return max(size if size % 2 else size + 1, 3)


def _network(architecture: Architecture, input: tuple[int, int], n_classes: int) -> Iterator[LayerCost]:
    T, F = input
    c_in = architecture.stem
    yield convolution("stem.conv", "3x3", (c_in, T, F), 9 * c_in)
    yield _batch_norm("stem.norm", (c_in, T, F))
    for index, block in enumerate(architecture.blocks):
        yield from _block_layers(f"blocks.{index}", c_in, block, (T, F))
        c_in, T, F = block.out_channels, max(T // 2, 1), max(F // 2, 1)
    taps, head = sum(block.out_channels for block in architecture.taps), architecture.head
    yield LayerCost("head.hidden", "linear", (head, 1, 1), (taps + 1) * head, taps * head)
    yield LayerCost("head.classes", "linear", (n_classes, 1, 1), (head + 1) * n_classes, head * n_classes)


def _block_layers(name: str, c_in: int, block: Block, size: tuple[int, int]) -> Iterator[LayerCost]:
    """The rows of one distillation block on a map of `size` = (T, F) with `c_in` channels."""
    T, F = size
    c_out, half, operator = block.out_channels, c_in // 2, block.module
    F_heavy = heavy_bins(block.split_ratio, F)
    for stage, channels in (("first", c_in), ("second", c_in), ("third", half)):
        heavy = (channels, T, F_heavy)
        yield from operator.cost(f"{name}.{stage}.operator", c_in, heavy)
        yield _batch_norm(f"{name}.{stage}.norm", heavy)
    yield convolution(f"{name}.distil_input", "1x1", (half, T, F_heavy), c_in * half, half)
    yield convolution(f"{name}.distil_first", "1x1", (half, T, F_heavy), c_in * half, half)
    yield convolution(f"{name}.fuse", "1x1", (c_out, T, F_heavy), 3 * half * c_out, c_out)
    if block.split_ratio < 1:
        yield convolution(f"{name}.light", "1x1", (c_out, T, F - F_heavy), c_in * c_out, c_out)
    kernel = eca_kernel(c_out)
    yield LayerCost(f"{name}.attention", "ECA", (c_out, T, F), kernel, kernel * c_out)
    yield _batch_norm(f"{name}.norm", (c_out, T, F))
    yield LayerCost(f"{name}.pool", "2x2 average", (c_out, max(T // 2, 1), max(F // 2, 1)), 0, 0)


def _batch_norm(name: str, shape: tuple[int, int, int]) -> LayerCost:
    return LayerCost(name, "batch norm", shape, 2 * shape[0], 0)


def parse_input(text: str) -> tuple[int, int]:
    """(frames, mels) from text such as `431x256`.

    Raises `UserError` when the text is not two whole numbers of at least 1 joined by `x`.
    """
    match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text.strip())
    if match is None:
        raise UserError(f"an input is frames x mels, two whole numbers of at least 1; got {text!r}; write e.g. 431x256")
    return int(match[1]), int(match[2])


def fvcore_count(model: nn.Module, input: tuple[int, int]) -> int:
    """MACs of a built model for one clip of `input` = (frames, mels), counted by fvcore on its trace: the cross-check.

    Only the operations of our convention are counted (fvcore alone would add batch norm and pooling, and calls MACs
    flops). The model's mode is left as it was; evaluation mode is used for the count.
    """
    import torch
    from fvcore.nn import FlopCountAnalysis, jit_handles

    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    analysis = FlopCountAnalysis(model, torch.zeros(1, 1, *input, device=device)).clear_op_handles()
    analysis.set_op_handle("aten::_convolution", jit_handles.conv_flop_jit)
    analysis.set_op_handle("aten::linear", jit_handles.linear_flop_jit)
    analysis.set_op_handle("aten::addmm", jit_handles.addmm_flop_jit)
    macs = int(analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total())
    model.train(was_training)
    return macs
