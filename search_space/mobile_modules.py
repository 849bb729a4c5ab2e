"""CP-Mobile and Rep-Mobile as torch modules; what they are and what they cost is in `mobile.py`.

Maps lie frames x mels, where the published code has mels x frames: its strides (2, 1) are (1, 2) here. Convolutions are initialised after He
(normal, fan-in) as everywhere in this project, where the published code takes the fan-out.

Shape legend: B batch, C channels, T frames, F mel bins, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search_space.blocks import RepConv, channel_means, named
from search_space.comparator_modules import check_input, prepare
from search_space.complexity import eca_kernel
from search_space.mobile import KINDS, Mobile, MobileBlock


def normed(
    c_in: int,
    c_out: int,
    kernel: int,
    stride: tuple[int, int] = (1, 1),
    groups: int = 1,
    activation: nn.Module | None = None,
) -> nn.Sequential:
    """A convolution without bias, padded so that it keeps T x F but for its stride, batch norm, and an activation if any.

    The names `conv` and `norm` are those that the deployed form folds into each other.
    """
    layers: dict[str, nn.Module] = {
        "conv": nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        "norm": nn.BatchNorm2d(c_out),
    }
    return named(**layers, **({"activation": activation} if activation is not None else {}))


class ResponseNorm(nn.Module):
    """GRN: x + gamma x n / (mean of n + 1e-6) + beta, n the L2 norm of each channel over (T, F); (B, C, T, F) to the same.

    gamma and beta are one number each, both 0 at first, so that it begins as the identity.

    Source: ConvNeXt V2 (arXiv 2301.00808), eq. 1 to 3, there with one gamma and beta a channel; CP-Mobile has scalars.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x_BCTF: Tensor) -> Tensor:
        norms_BC11 = torch.linalg.vector_norm(x_BCTF.float(), dim=(2, 3), keepdim=True)
        relative_BC11 = norms_BC11 / (norms_BC11.mean(dim=1, keepdim=True) + 1e-6)
        scale_BC11 = 1 + self.gamma * relative_BC11
        return x_BCTF * scale_BC11.to(x_BCTF.dtype) + self.beta.to(x_BCTF.dtype)


class ThreeAxisAttention(nn.Module):
    """Scales a map by three sigmoids: one a channel, one a channel and frame, one a channel and mel bin; (B, C, T, F) to the same.

    Each is a small convolution of the means over the other axes: across channels as ECA, along time and along mel channel-wise of width 3.

    Source: `models/rep_ctfa.py` of github.com/seunggyu-han/dcase2025_task1_hyu.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        kernel = eca_kernel(channels)
        self.time = nn.Conv1d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.mel = nn.Conv1d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.channel = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        by_time_BCT, by_mel_BCF = x_BCTF.mean(3), x_BCTF.mean(2)
        means_BC = by_time_BCT.mean(2)
        by_time_BCT = self.time(by_time_BCT).sigmoid()
        by_mel_BCF = self.mel(by_mel_BCF).sigmoid()
        by_channel_BC = self.channel(means_BC[:, None])[:, 0].sigmoid()
        by_time_BCT = by_time_BCT * by_channel_BC[:, :, None]
        return x_BCTF * by_time_BCT[..., None] * by_mel_BCF[:, :, None]


class InvertedBlock(nn.Module):
    """CP-Mobile's block: 1x1, channel-wise 3x3, 1x1, each with batch norm, the shortcut where it adds, response norm and ReLU.

    (B, c_in, T, F) to (B, c_out, T', F'), the sizes divided by the block's pool and rounded up. Where a block that adds makes the map smaller, the
    shortcut is a 3x3 average (that counts the padding, as released).

    Rep-Mobile's block: the channel-wise convolution is a weighted sum of four branches (`RepConv`), SiLU takes ReLU's place, and an attention on three
    axes stands before the response norm.
    """

    def __init__(self, block: MobileBlock, branches: bool) -> None:
        super().__init__()

        def activation() -> nn.Module:
            return nn.SiLU(inplace=True) if branches else nn.ReLU(inplace=True)

        expanded = block.expanded
        self.expand = normed(block.c_in, expanded, 1, activation=activation())
        self.depthwise = (
            named(conv=RepConv(expanded, block.pool, weighted=True), activation=activation())
            if branches
            else normed(expanded, expanded, 3, block.pool, groups=expanded, activation=activation())
        )
        self.project = normed(expanded, block.c_out, 1)
        self.adds = block.adds
        whole = block.pool == (1, 1)
        self.shortcut = nn.Identity() if whole or not block.adds else nn.AvgPool2d(3, block.pool, 1)
        self.attention = ThreeAxisAttention(block.c_out) if branches else nn.Identity()
        self.response = ResponseNorm()
        self.activation = activation()

    def forward(self, x_BCTF: Tensor) -> Tensor:
        y_BCTF = self.project(self.depthwise(self.expand(x_BCTF)))
        if self.adds:
            y_BCTF = y_BCTF + self.shortcut(x_BCTF)
        return self.activation(self.response(self.attention(y_BCTF)))


class MobileNetwork(nn.Module):
    """The network of one description, (B, 1, T, F) log-mel to (B, K) logits, for every input of at least 1 x 1.

    Two strided 3x3 convolutions, the stages of blocks, a 1x1 to the classes with batch norm, and the mean over the map.
    """

    least = 1

    def __init__(self, architecture: Mobile, n_classes: int) -> None:
        super().__init__()
        self.architecture, self.title = architecture, KINDS[architecture.kind]
        branches = architecture.kind == "repm"
        first, second = architecture.stem
        self.stem = nn.Sequential(
            normed(1, first, 3, (2, 2), activation=nn.ReLU(inplace=True)),
            normed(first, second, 3, (2, 2), activation=nn.SiLU(inplace=True) if branches else nn.ReLU(inplace=True)),
        )
        self.stages = nn.Sequential(
            *(nn.Sequential(*(InvertedBlock(block, branches) for block in blocks)) for blocks in architecture.blocks)
        )
        self.head = normed(architecture.widths[-1], n_classes, 1)
        prepare(self)

    def forward(self, logmel_BCTF: Tensor) -> Tensor:
        check_input(self, logmel_BCTF, channels=1, least=self.least)
        return channel_means(self.head(self.stages(self.stem(logmel_BCTF))))
