"""Networks of DCASE Task 1 as torch modules: CP-ResNet, BC-ResNet, TF-SepNet; their names and printed figures are in `comparators.py`.

All take a log-mel, (B, 1, T, F) to (B, K) logits, of any size from `least` x `least` on. Maps lie frames x mels, where the released code has mels x
frames: kernels and strides are turned. Convolutions are initialised after He (normal, fan-in), where CP-ResNet's code sets the last of a block and
the head to zero. `stages` are the groups of blocks of one width.

Shape legend: B batch, C channels, T frames, F mel bins, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search_space.blocks import channel_means, named, pointwise
from search_space.comparator_modules import check_input, prepare


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


class Staged(nn.Module):
    """A stem, stages of one width each, and a head whose map of K channels is averaged over T and F."""

    least: int

    def __init__(self, stem: nn.Module, stages: list[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.stem, self.stages, self.head = stem, nn.Sequential(*stages), head
        prepare(self)

    def forward(self, logmel_BCTF: Tensor) -> Tensor:
        check_input(self, logmel_BCTF, 1, self.least)
        return channel_means(self.head(self.stages(self.stem(logmel_BCTF))))


class CpResidual(nn.Module):
    """relu(x + conv(relu(conv(x)))), each convolution with batch norm and a kernel of 1 or 3; the shortcut is a 1x1 where the width changes.

    `groups` divides the channels of all three.
    """

    def __init__(self, c_in: int, c_out: int, kernels: tuple[int, int], groups: int) -> None:
        super().__init__()
        first, second = kernels
        self.first = normed(c_in, c_out, first, padding=first // 2, groups=groups, activation=nn.ReLU(inplace=True))
        self.second = normed(c_out, c_out, second, padding=second // 2, groups=groups)
        self.shortcut = nn.Identity() if c_in == c_out else normed(c_in, c_out, 1, groups=groups)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        return self.relu(self.second(self.first(x_BCTF)) + self.shortcut(x_BCTF))


def receptive_kernels(rho: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """The kernels of each block's two convolutions, stage by stage, 3 where the receptive field still grows and 1 behind it.

    Source: `models/cp_resnet.py` of github.com/fschmid56/cpjku_dcase23; the idea: Koutini et al., arXiv 1907.01803.
    """

    def kernel(order: int) -> int:
        return 3 if rho >= order else 1

    first = ((3, 1), (kernel(2), kernel(3)))
    return first, ((kernel(4), kernel(5)),), ((kernel(8), kernel(9)),)


class CpResNet(Staged):
    """CP-ResNet as the teacher of CP-Mobile: stages of 2, 1 and 1 residual blocks whose kernels bound the receptive field by `rho`.

    (B, 1, T, F) to (B, K), at least 17 frames x 17 mels: a strided 5x5, a 2x2 max pool, and behind each block of the first stage one over mels.

    Source: Schmid et al., DCASE 2023 Task 1 technical report, and github.com/fschmid56/cpjku_dcase23: widths 32, 64, 92 (128 less 36), two groups in
    the second stage, rho 8.
    """

    least = 17

    def __init__(
        self, n_classes: int, widths: tuple[int, ...] = (32, 64, 92), groups: tuple[int, ...] = (1, 2, 1), rho: int = 8
    ) -> None:
        stages: list[nn.Module] = []
        c_in = widths[0]
        for stage, kernels_of_block in enumerate(receptive_kernels(rho)):
            layers: list[nn.Module] = [] if stage else [nn.MaxPool2d(2)]
            for kernels in kernels_of_block:
                layers.append(CpResidual(c_in, widths[stage], kernels, groups[stage]))
                layers += [] if stage else [nn.MaxPool2d((1, 2))]
                c_in = widths[stage]
            stages.append(nn.Sequential(*layers))
        stem = normed(1, widths[0], 5, stride=2, padding=1, activation=nn.ReLU(inplace=True))
        super().__init__(stem, stages, normed(c_in, n_classes, 1))


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

    def __init__(self, c_in: int, c_out: int, dropout: float = 0.1) -> None:
        super().__init__()
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

    def __init__(self, c_in: int, c_out: int, dropout: float = 0.1) -> None:
        super().__init__()
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


def _stages(
    width: int, block: type[BroadcastBlock] | type[TimeFrequencySeparate], pooled: tuple[bool, ...]
) -> tuple[list[nn.Module], int]:
    """Four stages of 2, 2, 2 and 3 blocks, 1, 1.5, 2 and 2.5 times `width` wide, their input 2 times, each with a residual norm at its end and a
    max pool at the beginning where `pooled`; and the last width."""
    stages: list[nn.Module] = []
    c_in = 2 * width
    for stage, (share, depth) in enumerate(((1, 2), (1.5, 2), (2, 2), (2.5, 3))):
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if pooled[stage] else []
        for _ in range(depth):
            layers.append(block(c_in, int(share * width)))
            c_in = int(share * width)
        stages.append(nn.Sequential(*layers, ResidualNorm()))
    return stages, c_in


class BcResNet(Staged):
    """BC-ResNet in its form for scenes, `width` its c: broadcast residual blocks with residual normalisation between the stages.

    (B, 1, T, F) to (B, K), at least 7 frames x 7 mels.

    Source: Kim et al., arXiv 2111.06531; layout and dropout: github.com/yqcai888/easy_dcase_task1.
    """

    least = 7

    def __init__(self, n_classes: int, width: int = 40) -> None:
        stages, c_out = _stages(width, BroadcastBlock, (False, True, True, False))
        stem = named(conv=nn.Conv2d(1, 2 * width, 5, 2, 2, bias=False), residual_norm=ResidualNorm())
        super().__init__(stem, stages, pointwise(c_out, n_classes, bias=True))


class TfSepNet(Staged):
    """TF-SepNet-64 of DCASE 2024 (depth 17): separate convolutions along time and mel, and a max pool before the last stage too.

    (B, 1, T, F) to (B, K), at least 29 frames x 29 mels.

    Source: Cai et al., DCASE 2024 Task 1 technical report; github.com/yqcai888/easy_dcase_task1.
    """

    least = 29

    def __init__(self, n_classes: int, width: int = 64) -> None:
        stages, c_out = _stages(width, TimeFrequencySeparate, (False, True, True, True))
        stem = named(
            first=normed(1, width // 2, 3, stride=2, padding=1, activation=nn.ReLU(inplace=True)),
            second=normed(
                width // 2, 2 * width, 3, stride=2, padding=1, groups=width // 2, activation=nn.ReLU(inplace=True)
            ),
            residual_norm=ResidualNorm(),
        )
        super().__init__(stem, stages, pointwise(c_out, n_classes, bias=True))
