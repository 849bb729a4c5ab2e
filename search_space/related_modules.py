"""CP-ResNet, BC-ResNet and TF-SepNet as torch modules; what they are and what they cost is in `related.py`.

All take a log-mel, (B, 1, T, F) to (B, K) logits. Maps lie frames x mels, where the released code has mels x frames: kernels and strides are turned.
Convolutions are initialised after He (normal, fan-in), where CP-ResNet's code sets the last of a block and the head to zero. `stages` are the groups of
blocks of one width.

Shape legend: B batch, C channels, T frames, F mel bins, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_space.blocks import channel_means, named, pointwise
from search_space.comparator_modules import check_input, prepare
from search_space.related import KINDS, Block, Related


def normed(
    c_in: int,
    c_out: int,
    kernel: int | tuple[int, int],
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    groups: int = 1,
    activation: nn.Module | None = None,
) -> nn.Sequential:
    """A convolution without bias, batch norm, and an activation if any."""
    layers: dict[str, nn.Module] = {
        "conv": nn.Conv2d(c_in, c_out, kernel, stride, padding, groups=groups, bias=False),
        "norm": nn.BatchNorm2d(c_out),
    }
    return named(**layers, **({"activation": activation} if activation is not None else {}))


class MaxPool(nn.Module):
    """Max pool, (B, C, T, F) to (B, C, T // time, F // mel), that leaves an axis of size 1 as it is."""

    def __init__(self, time: int, mel: int) -> None:
        super().__init__()
        self.factors = (time, mel)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        kernel = [min(pair) for pair in zip(x_BCTF.shape[2:], self.factors, strict=True)]
        return functional.max_pool2d(x_BCTF, kernel)


class CpResidual(nn.Module):
    """relu(x + conv(relu(conv(x)))), each convolution with batch norm and a kernel of 1 or 3; the shortcut is a 1x1 where the width changes.

    (B, c_in, T, F) to (B, c_out, T, F). The block's groups divide the channels of all three.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        c_in, c_out, groups = block.c_in, block.c_out, block.groups
        first, second = block.kernels
        self.first = normed(c_in, c_out, first, padding=first // 2, groups=groups, activation=nn.ReLU(inplace=True))
        self.second = normed(c_out, c_out, second, padding=second // 2, groups=groups)
        self.shortcut = nn.Identity() if c_in == c_out else normed(c_in, c_out, 1, groups=groups)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        return self.relu(self.second(self.first(x_BCTF)) + self.shortcut(x_BCTF))


class ResidualNorm(nn.Module):
    """ResNorm: share * x + (x - mean) / deviation, both of each clip and mel bin over its channels and frames; (B, C, T, F) to the same.

    Source: Kim et al., arXiv 2111.06531, eq. 5; the share 0.1 is theirs, the deviation that of n - 1, as in the code of
    github.com/yqcai888/easy_dcase_task1.
    """

    share = 0.1

    def forward(self, x_BCTF: Tensor) -> Tensor:
        var_B11F, mean_B11F = torch.var_mean(x_BCTF, dim=(1, 2), keepdim=True)
        return self.share * x_BCTF + (x_BCTF - mean_B11F) * (var_B11F + 1e-5).rsqrt()


class BroadcastBlock(nn.Module):
    """relu(x + f + g): f a channel-wise 3 along mel with its norm, g of f's mean over mel: a channel-wise 3 along time, SiLU and a 1x1, spread over
    all mels again. Where the width changes, a 1x1 comes first and x is not added. (B, c_in, T, F) to (B, c_out, T, F).

    The norm behind f is a batch norm: sub-spectral norm with one band, which is what the form for scenes has.

    Source: Kim et al., arXiv 2106.04140, eq. 3 and fig. 2.
    """

    def __init__(self, block: Block, dropout: float = 0.1) -> None:
        super().__init__()
        c_in, c_out = block.c_in, block.c_out
        self.transition = None if c_in == c_out else normed(c_in, c_out, 1, activation=nn.ReLU(inplace=True))
        self.mel = normed(c_out, c_out, (1, 3), padding=(0, 1), groups=c_out)
        self.time = normed(c_out, c_out, (3, 1), padding=(1, 0), groups=c_out, activation=nn.SiLU(inplace=True))
        self.mix = pointwise(c_out, c_out)
        self.dropout = nn.Dropout(dropout)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        y_BCTF = self.mel(x_BCTF if self.transition is None else self.transition(x_BCTF))
        spread_BCT1 = self.dropout(self.mix(self.time(y_BCTF.mean(3, keepdim=True))))
        y_BCTF = y_BCTF + spread_BCT1
        return self.relu(y_BCTF if self.transition is not None else x_BCTF + y_BCTF)


class TimeFrequencySeparate(nn.Module):
    """Half of the channels a channel-wise 3 along mel, its mean over mel and a 1x1; the other half the same along time; each spread again and added to
    its half. Channels are shuffled first, so that the halves meet. (B, c_in, T, F) to (B, c_out, T, F).

    Source: Cai et al., TF-SepNet (ICASSP 2024), and github.com/yqcai888/easy_dcase_task1.
    """

    def __init__(self, block: Block, dropout: float = 0.1) -> None:
        super().__init__()
        c_in, c_out = block.c_in, block.c_out
        half = c_out // 2
        self.transition = nn.Identity() if c_in == c_out else normed(c_in, c_out, 1, activation=nn.ReLU(inplace=True))

        def layers(kernel: tuple[int, int], padding: tuple[int, int]) -> tuple[nn.Sequential, nn.Sequential]:
            along = normed(half, half, kernel, padding=padding, groups=half, activation=nn.ReLU(inplace=True))
            return along, normed(half, half, 1, activation=nn.ReLU(inplace=True))

        self.mel, self.mel_mix = layers((1, 3), (0, 1))
        self.time, self.time_mix = layers((3, 1), (1, 0))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        x_BCTF = self.transition(x_BCTF)
        shuffled_BCTF = x_BCTF.unflatten(1, (2, x_BCTF.shape[1] // 2)).transpose(1, 2).flatten(1, 2)
        mel_BCTF, time_BCTF = shuffled_BCTF.chunk(2, dim=1)
        by_mel_BCT1 = self.dropout(self.mel_mix(self.mel(mel_BCTF).mean(3, keepdim=True)))
        by_time_BC1F = self.dropout(self.time_mix(self.time(time_BCTF).mean(2, keepdim=True)))
        return torch.cat([mel_BCTF + by_mel_BCT1, time_BCTF + by_time_BC1F], dim=1)


class Staged(nn.Module):
    """The network of one description, (B, 1, T, F) log-mel to (B, K) logits: a stem, the stages, and a head whose map of K channels is averaged.

    Pools stop at size 1, so that every input from `architecture.least` on is read.

    Source: `related.py`; dropout of 0.1: github.com/yqcai888/easy_dcase_task1.
    """

    def __init__(self, architecture: Related, n_classes: int) -> None:
        super().__init__()
        self.architecture, self.title = architecture, KINDS[architecture.kind]
        make = {"cpr": CpResidual, "bcr": BroadcastBlock, "tfs": TimeFrequencySeparate}[architecture.kind]

        def layer(of: tuple[int, int] | Block | None) -> nn.Module:
            if of is None:
                return ResidualNorm()
            return make(of) if isinstance(of, Block) else MaxPool(*of)

        self.stem = _stem(architecture)
        self.stages = nn.Sequential(*(nn.Sequential(*map(layer, stage)) for stage in architecture.stages))
        width = architecture.widths[-1]
        self.head = (
            normed(width, n_classes, 1) if architecture.kind == "cpr" else pointwise(width, n_classes, bias=True)
        )
        prepare(self)

    def forward(self, logmel_BCTF: Tensor) -> Tensor:
        check_input(self, logmel_BCTF, 1, self.architecture.least)
        return channel_means(self.head(self.stages(self.stem(logmel_BCTF))))


def _stem(architecture: Related) -> nn.Module:
    """A strided 5x5 (CP-ResNet pads it by 1), or two strided 3x3, the second in groups of one input channel; residual normalisation but in CP-ResNet."""
    if architecture.kind == "cpr":
        return normed(1, architecture.stem[0], 5, stride=2, padding=1, activation=nn.ReLU(inplace=True))
    if architecture.kind == "bcr":
        conv = nn.Conv2d(1, architecture.stem[0], 5, 2, 2, bias=False)
        return named(conv=conv, residual_norm=ResidualNorm())
    first, second = architecture.stem
    return named(
        first=normed(1, first, 3, stride=2, padding=1, activation=nn.ReLU(inplace=True)),
        second=normed(first, second, 3, stride=2, padding=1, groups=first, activation=nn.ReLU(inplace=True)),
        residual_norm=ResidualNorm(),
    )
