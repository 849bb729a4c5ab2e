"""The network: stem, distillation blocks, and a head that sees the blocks' outputs at all their scales.

Shape legend: B batch, C channels, T frames, F mel bins, K classes.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from search_space.architecture import Architecture
from search_space.blocks import DistillationBlock, PlainBlock, channel_means, named
from search_space.comparator_modules import check_input
from search_space.comparators import COMPARATORS
from search_space.complexity import check_sizes
from search_space.families import FAMILIES, Network, family_of
from search_space.presets import check_network, resolve


class Dssdn(nn.Module):
    """The deep space separable distillation network of one architecture, (B, 1, T, F) log-mel to (B, K) logits.

    Runs at every input of at least 1 x 1: pooling stops at size 1. The outputs of the blocks that the head sees are averaged
    over time and mel, and their concatenation passes two linear layers.

    Maps travel in channels_last, which the weights' layout asks for (they stay contiguous in torch's sense, so safetensors
    takes them as they are). Measured: training step of DSSDN-Large, 1 thread of an EPYC with AVX-512 bf16, ms a clip in fp32
    NCHW, fp32 channels_last and under bf16 autocast: 7.0, 4.7, 3.4 at 44x64 (batch 32), 20, 13, 7.5 at 108x64 (batch 32),
    173, 137, 60 at 216x256 (batch 8).

    Convolutions are initialised after He (normal, fan-in, zero biases), linear layers as torch does.

    Source: DSSDN (arXiv 2405.03567), sec. 2.1 and fig. 2. Assumed: which blocks the head sees, and its hidden layer.
    """

    def __init__(self, architecture: Architecture, n_classes: int) -> None:
        super().__init__()
        self.architecture = architecture
        stem = architecture.stem
        self.stem = named(
            conv=nn.Conv2d(1, stem, 3, padding=1, bias=False),
            norm=nn.BatchNorm2d(stem),
            relu=nn.ReLU(inplace=True),
        )
        inputs = (stem, *(block.out_channels for block in architecture.blocks[:-1]))
        self.blocks = nn.ModuleList(
            PlainBlock(c_in, block)
            if architecture.kind == "plain"
            else DistillationBlock(
                *(c_in, block, architecture.heavy, architecture.merge, architecture.eca),
                distils=architecture.kind == "distillation",
            )
            for c_in, block in zip(inputs, architecture.blocks, strict=True)
        )
        taps = sum(block.out_channels for block in architecture.taps)
        self.head = named(
            hidden=nn.Linear(taps, architecture.head),
            relu=nn.ReLU(inplace=True),
            classes=nn.Linear(architecture.head, n_classes),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for parameter in self.parameters():
            packed = parameter.data.to(memory_format=torch.channels_last) if parameter.ndim == 4 else parameter.data
            if packed.is_contiguous():  # not the weight of a plain 3x3, which follows its input's layout instead
                parameter.data = packed

    @property
    def stages(self) -> nn.ModuleList:
        """The modules, first to last, whose outputs are the network's stages: its blocks."""
        return self.blocks

    def forward(self, logmel_BCTF: Tensor) -> Tensor:
        check_input(self, logmel_BCTF, channels=1, least=1)
        x_BCTF = self.stem(logmel_BCTF)
        taps = []
        for number, block in enumerate(self.blocks, start=1):
            x_BCTF = block(x_BCTF)
            if number in self.architecture.tap_numbers:
                taps.append(channel_means(x_BCTF))
        return self.head(torch.cat(taps, dim=1))


def build_model(network: str | Network, n_classes: int = 10, n_mels: int = 256) -> nn.Module:
    """A freshly initialised network (from torch's global generator), (B, 1, T, F) log-mel to (B, K) logits, for a network's
    name, a notation of any family, or a description.

    `n_mels` is the F it will read, which SP4ASC alone must know. A network of two channels gets the log-mel and its deltas.

    Raises `UserError` when the text names no network, and on numbers of classes or mels that cannot be.
    """
    check_sizes(n_classes, n_mels)
    if isinstance(network, str) and network in COMPARATORS:
        comparator = COMPARATORS[network]
        model = comparator.build(n_classes, n_mels)
        return _WithDeltas(two_channels=TwoChannels(), network=model) if comparator.channels_in == 2 else model
    if isinstance(network, str):
        check_network(network)
    described = resolve(network)
    return FAMILIES[family_of(described)].build(described, n_classes)


class _WithDeltas(nn.Sequential):
    """A network of two channels behind what makes them."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__(OrderedDict(layers))

    @property
    def stages(self) -> nn.Module:
        """The network's own."""
        stages = self.get_submodule("network").stages
        assert isinstance(stages, nn.Module)
        return stages


class TwoChannels(nn.Module):
    """A log-mel and its deltas, (B, 1, T, F) to (B, 2, T, F), as `search_space.dsmn.two_channels` makes them."""

    def forward(self, logmel_BCTF: Tensor) -> Tensor:
        from search_space.dsmn import two_channels

        check_input(self, logmel_BCTF, channels=1, least=1)
        return two_channels(logmel_BCTF[:, 0])
