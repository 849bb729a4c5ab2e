"""The distillation block and the small layers that it and the operators are made of.

Shape legend: B batch, C channels, T frames, F mel bins; H as in `x_BCTH`: the heavy part of the mel axis, L the light one.
Every layer keeps T x F, but the pool at a block's end. Maps are kept in channels_last: the layers are bound by memory
traffic and 1x1 and channel-wise convolutions are fastest there (measured in `model.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_space.complexity import eca_kernel, heavy_bins

if TYPE_CHECKING:
    from search_space.architecture import Block


def named(**layers: nn.Module) -> nn.Sequential:
    """The layers one after the other, each under its name."""
    return nn.Sequential(OrderedDict(layers))


def pointwise(c_in: int, c_out: int, bias: bool = False) -> nn.Conv2d:
    """An ordinary 1x1 convolution, (B, c_in, T, F) to (B, c_out, T, F)."""
    return nn.Conv2d(c_in, c_out, 1, bias=bias)


def channel_means(x_BCTF: Tensor) -> Tensor:
    """The global average pool, (B, C, T, F) to (B, C).

    A sum divided by its length, because the gradient of `x.mean((2, 3))` is a whole new map that is not in channels_last.
    Measured: attention, batch norm and ReLU on 8 maps of 44x216x256, forward and backward, 1 thread, ms a clip with the mean
    and with the sum: 40 and 35 in fp32, 29 and 23 under bf16.
    """
    return x_BCTF.sum((2, 3)) / (x_BCTF.shape[2] * x_BCTF.shape[3])


class Cross(nn.Module):
    """s3x1(x) + s1x3(x), two channel-wise convolutions without bias, (B, C, T, F) to the same.

    Both run as one channel-wise 3x3 convolution whose kernel is the plus that the two make together: the same sum in one
    pass. While being traced for a count it is the two convolutions of the equation, so that nobody counts the zeros in the
    corners.

    Measured: two convolutions against one, forward and backward, 40 settings of size, precision and threads (1 and 2): one
    is faster in every one, 1.3 to 3 times in most.

    Source: DSSDN, eq. 1. Initialised after He with the fan-in of the sum, 6.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        std = (2 / 6) ** 0.5
        self.along_time = nn.Parameter(std * torch.randn(channels, 1, 3, 1))
        self.along_mel = nn.Parameter(std * torch.randn(channels, 1, 1, 3))

    def forward(self, x_BCTF: Tensor) -> Tensor:
        channels = x_BCTF.shape[1]
        if torch.jit.is_tracing():
            along_time = functional.conv2d(x_BCTF, self.along_time, padding=(1, 0), groups=channels)
            return along_time + functional.conv2d(x_BCTF, self.along_mel, padding=(0, 1), groups=channels)
        plus = functional.pad(self.along_time, (1, 1)) + functional.pad(self.along_mel, (0, 0, 1, 1))
        return functional.conv2d(x_BCTF, plus, padding=1, groups=channels)


class OrthonormalPointwise(nn.Conv2d):
    """A 1x1 convolution that asks the training loss to keep its rows orthonormal."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 1, bias=False)

    def penalty(self) -> Tensor:
        """|| W W^T - I ||, W the c_out x c_in weight, the Frobenius norm itself and not its square; a scalar.

        Where c_out > c_in the rows cannot be orthonormal and sqrt(c_out - c_in) remains.

        Source: BSConv (arXiv 2003.13549), sec. 3.4, as in its authors' code.
        """
        W = self.weight.flatten(1)
        return torch.linalg.norm(W @ W.T - torch.eye(len(W), dtype=W.dtype, device=W.device))


def orthonormal_penalty(model: nn.Module) -> Tensor | None:
    """The sum of the penalties of a model's orthonormal layers, a scalar to be weighted into the loss; None without any.

    Source: BSConv weights it with 0.1; the DSSDN paper gives no weight.
    """
    penalties = [layer.penalty() for layer in model.modules() if isinstance(layer, OrthonormalPointwise)]
    return torch.stack(penalties).sum() if penalties else None


class Partial(nn.Sequential):
    """Runs its layers on the first `channels` channels and leaves the others untouched, (B, C, T, F) to the same.

    Source: PConv (arXiv 2303.03667).
    """

    def __init__(self, channels: int, **layers: nn.Module) -> None:
        super().__init__(OrderedDict(layers))
        self.channels = channels

    def forward(self, x_BCTF: Tensor) -> Tensor:
        worked, untouched = x_BCTF[:, : self.channels], x_BCTF[:, self.channels :]
        return torch.cat([super().forward(worked), untouched], dim=1)


class ChannelAttention(nn.Module):
    """ECA: scales each channel by the sigmoid of a small convolution across the channels' means, (B, C, T, F) to the same.

    Source: ECA-Net (Wang et al. 2020); the kernel's width follows the channels (`complexity.eca_kernel`).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        kernel = eca_kernel(channels)
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        scale_BC = self.conv(channel_means(x_BCTF).unsqueeze(1)).squeeze(1).sigmoid()
        return x_BCTF * scale_BC[:, :, None, None]


class HalvingPool(nn.Module):
    """2x2 average pool, (B, C, T, F) to (B, C, T // 2, F // 2), that leaves an axis of size 1 as it is."""

    def forward(self, x_BCTF: Tensor) -> Tensor:
        return functional.avg_pool2d(x_BCTF, [min(size, 2) for size in x_BCTF.shape[2:]])


class DistillationBlock(nn.Module):
    """DSSDB: the mel axis is cut in two, one part distilled through a chain of operators, the other through one 1x1.

    (B, c_in, T, F) to (B, c_out, T // 2, F // 2). Heavy part: three operators in a chain, each with batch norm and ReLU; a 1x1
    distils the input and another the first operator's output; their results and the chain's end, c_in // 2 channels each,
    are concatenated and fused by a 1x1. The two parts are spliced along the mel axis, which unlike an addition is defined
    for every split ratio; then ECA, batch norm, ReLU and the pool.

    Source: DSSDN (arXiv 2405.03567), sec. 2.2 and fig. 2. Assumed: what the figure does not settle (where norms, biases and
    the pool stand); chosen as the structure that meets the paper's Table 1 for all its networks.
    """

    def __init__(self, c_in: int, block: Block, heavy: Literal["low", "high"] = "low") -> None:
        super().__init__()
        c_out, half, operator = block.out_channels, c_in // 2, block.module
        self.split_ratio, self.heavy = block.split_ratio, heavy

        def stage(channels: int) -> nn.Sequential:
            return named(
                operator=operator.build(c_in, channels),
                norm=nn.BatchNorm2d(channels),
                relu=nn.ReLU(inplace=True),
            )

        self.first, self.second, self.third = stage(c_in), stage(c_in), stage(half)
        self.distil_input = pointwise(c_in, half, bias=True)
        self.distil_first = pointwise(c_in, half, bias=True)
        self.fuse = pointwise(3 * half, c_out, bias=True)
        self.light = pointwise(c_in, c_out, bias=True) if block.split_ratio < 1 else None
        self.attention = ChannelAttention(c_out)
        self.norm = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.pool = HalvingPool()

    def forward(self, x_BCTF: Tensor) -> Tensor:
        F = x_BCTF.shape[3]
        n_heavy = heavy_bins(self.split_ratio, F)
        if self.light is None or n_heavy == F:
            y_BCTF = self._distil(x_BCTF)
        elif self.heavy == "low":
            heavy_BCTH, light_BCTL = x_BCTF.split([n_heavy, F - n_heavy], dim=3)
            y_BCTF = torch.cat([self._distil(heavy_BCTH), self.light(light_BCTL)], dim=3)
        else:
            light_BCTL, heavy_BCTH = x_BCTF.split([F - n_heavy, n_heavy], dim=3)
            y_BCTF = torch.cat([self.light(light_BCTL), self._distil(heavy_BCTH)], dim=3)
        return self.pool(self.relu(self.norm(self.attention(y_BCTF))))

    def _distil(self, x_BCTH: Tensor) -> Tensor:
        first_BCTH = self.first(x_BCTH)
        third_BCTH = self.third(self.second(first_BCTH))
        return self.fuse(torch.cat([self.distil_input(x_BCTH), self.distil_first(first_BCTH), third_BCTH], dim=1))
