"""The form of a trained network that only answers: the same logits with fewer maps written, and nothing left to train.

Shape legend: B batch, C channels, T frames, F mel bins, K classes.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_space import fused
from search_space.blocks import (
    ChannelAttention,
    Cross,
    DistillationBlock,
    PlainBlock,
    RepConv,
    channel_means,
    named,
    norm_factor,
)
from search_space.complexity import cut
from search_space.mobile_modules import MobileNetwork
from search_space.model import Dssdn
from search_space.related_modules import Staged


@torch.random.fork_rng(devices=[])  # a layer made draws weights, which are then replaced
def inference_form(model: nn.Module) -> nn.Module:
    """A copy of the model in eval mode whose networks compute the same logits with less; the model is left as it was.

    Of a DSSDN network, batch norm becomes part of the convolution before it, the two kernels of a `Cross` one, the branches of a `RepConv` one, the
    three 1x1 of a distillation path their product, attention and batch norm at a block's end one factor and one summand; parts are pooled before they
    are spliced. Of the other families, batch norm and branches go the same way. What else there is (comparators, a layer around the network) is copied
    as it stands.
    """
    if isinstance(model, Dssdn):
        return _Inference(model).eval()
    copied = copy.deepcopy(model).eval()
    if isinstance(copied, MobileNetwork | Staged):
        return _folded(copied)
    for parent in list(copied.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Dssdn):
                setattr(parent, name, _Inference(child).eval())
            elif isinstance(child, MobileNetwork | Staged):
                setattr(parent, name, _folded(child))
    return copied


def _folded(model: nn.Module) -> nn.Module:
    """The model itself, every batch norm right behind a convolution in a sequence folded into it, every `RepConv` one convolution."""
    with torch.no_grad():
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, RepConv):
                    setattr(parent, name, child.convolution())
                elif isinstance(child, nn.Sequential) and isinstance(getattr(child, "norm", None), nn.BatchNorm2d):
                    layers = dict(child.named_children())
                    conv, norm = layers["conv"], layers.pop("norm")
                    assert isinstance(conv, nn.Conv2d)
                    assert isinstance(norm, nn.BatchNorm2d)
                    _fold(conv, norm)
                    setattr(parent, name, named(**layers).eval())
    return model.requires_grad_(False)


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """The convolution, changed so that it computes what the batch norm behind it would."""
    factor_C, shift_C = (value.detach() for value in norm_factor(norm))
    bias_C = shift_C if conv.bias is None else conv.bias * factor_C + shift_C
    conv.weight, conv.bias = nn.Parameter(conv.weight * factor_C[:, None, None, None]), nn.Parameter(bias_C)


class _Inference(nn.Module):
    """A `Dssdn` that only answers, (B, 1, T, F) log-mel to (B, K) logits."""

    def __init__(self, model: Dssdn) -> None:
        super().__init__()
        self.architecture = model.architecture
        with torch.no_grad():
            self.stem = _normed(model.stem.get_submodule("conv"), model.stem.get_submodule("norm"))
            self.blocks = nn.ModuleList(map(_block, model.blocks))
        self.head = copy.deepcopy(model.head)
        self.requires_grad_(False)

    def forward(self, logmel_BCTF: Tensor) -> Tensor:
        x_BCTF = self.stem(logmel_BCTF)
        taps = []
        for number, block in enumerate(self.blocks, start=1):
            x_BCTF = block(x_BCTF)
            if number in self.architecture.tap_numbers:
                taps.append(channel_means(x_BCTF))
        return self.head(torch.cat(taps, dim=1))


class _Plain(nn.Module):
    def __init__(self, block: PlainBlock) -> None:
        super().__init__()
        self.operator, self.pool = _normed(block.operator, block.norm), copy.deepcopy(block.pool)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        return self.pool(self.operator(x_BCTF))


class _Block(nn.Module):
    def __init__(self, block: DistillationBlock) -> None:
        super().__init__()
        self.block, self.heavy, self.merge, self.factors = block.block, block.heavy, block.merge, block.factors
        self.first = _stage(block.first)
        self.second = _stage(block.second)
        self.third = _stage(block.third)
        self.distils = block.distil_input is not None
        ways: list[nn.Conv2d | None] = [block.distil_input, block.distil_first, None] if self.distils else [None]
        weights, bias = fused.product(ways, block.fuse)
        self.weights = nn.ParameterList(weights)
        self.bias = nn.Parameter(bias)
        self.light, self.attention = copy.deepcopy(block.light), copy.deepcopy(block.attention)
        factor_C, shift_C = (value.detach() for value in norm_factor(block.norm))
        self.factor, self.shift = nn.Parameter(factor_C), nn.Parameter(shift_C)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        n_heavy, n_light = cut(self.block, self.merge, x_BCTF.shape[3])
        parts = self._two_parts(x_BCTF, n_heavy, n_light) if n_light else [self._distil(x_BCTF)]
        size = parts[0].shape[2], sum(part.shape[3] for part in parts)
        pool = min(self.factors[0], size[0]), min(self.factors[1], size[1])
        if any(part.shape[3] % pool[1] for part in parts[:-1]):  # a pooled bin would lie in two parts
            parts = [torch.cat(parts, 3)]
        factor_BC = self.factor[None]
        if isinstance(self.attention, ChannelAttention):
            means_BC = torch.stack([part.sum((2, 3)) for part in parts]).sum(0) / (size[0] * size[1])
            factor_BC = factor_BC * self.attention.scale(means_BC)
        shift_BC11, factor_BC11 = self.shift[None, :, None, None], factor_BC[:, :, None, None]
        done = [torch.addcmul(shift_BC11, part, factor_BC11).relu_() for part in parts]
        if pool != (1, 1):
            done = [functional.avg_pool2d(part, pool) for part in done if part.shape[3] >= pool[1]]
        return torch.cat(done, 3) if len(done) > 1 else done[0]

    def _two_parts(self, x_BCTF: Tensor, n_heavy: int, n_light: int) -> list[Tensor]:
        assert self.light is not None
        n_low, n_high = (n_heavy, n_light) if self.heavy == "low" else (n_light, n_heavy)
        low_BCTF, high_BCTF = fused.slices(x_BCTF, n_low, n_high)
        low, high = (self._distil, self.light) if self.heavy == "low" else (self.light, self._distil)
        parts = [low(low_BCTF), high(high_BCTF)]
        if self.merge == "splice":
            return parts
        return [parts[0].add_(parts[1]) if self.merge == "add" else torch.cat(parts, 1)]

    def _distil(self, x_BCTH: Tensor) -> Tensor:
        first_BCTH = self.first(x_BCTH)
        third_BCTH = self.third(self.second(first_BCTH))
        maps = [x_BCTH, first_BCTH, third_BCTH] if self.distils else [third_BCTH]
        return fused.products(maps, list(self.weights), self.bias)


def _block(block: nn.Module) -> nn.Module:
    if isinstance(block, DistillationBlock):
        return _Block(block)
    assert isinstance(block, PlainBlock)
    return _Plain(block)


def _stage(stage: nn.Module) -> nn.Sequential:
    return _normed(stage.get_submodule("operator"), stage.get_submodule("norm"))


def _normed(operator: nn.Module, norm: nn.Module) -> nn.Sequential:
    """The operator, or a single convolution, with its batch norm and ReLU; an operator that ends in something else keeps its norm."""
    assert isinstance(norm, nn.BatchNorm2d)
    layers = dict(operator.named_children()) if isinstance(operator, nn.Sequential) else {"conv": operator}
    layers = {name: _one_convolution(layer) for name, layer in copy.deepcopy(layers).items()}
    last = list(layers.values())[-1]
    if isinstance(last, nn.Conv2d):
        _fold(last, norm)
    else:
        layers["norm"] = copy.deepcopy(norm)
    return named(**layers, relu=nn.ReLU(inplace=True))


def _one_convolution(layer: nn.Module) -> nn.Module:
    """The layer with every `Cross` and `RepConv` in it as the channel-wise 3x3 convolution that it runs as."""
    if isinstance(layer, RepConv):
        return layer.convolution()
    if isinstance(layer, Cross):
        plus, d = layer.plus(), layer.dilation
        conv = nn.Conv2d(len(plus), len(plus), 3, padding=d, dilation=d, groups=len(plus), bias=False)
        conv.weight = nn.Parameter(plus.to(memory_format=torch.channels_last))
        return conv
    for parent in list(layer.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Cross | RepConv):
                setattr(parent, name, _one_convolution(child))
    return layer
