"""The distillation block and the small layers that it and the operators are made of.

Shape legend: B batch, C channels, T frames, F mel bins; H as in `x_BCTH`: the heavy part of the mel axis, L the light one.
Every layer keeps T x F, but the pool at a block's end. Maps are kept in channels_last: the layers are bound by memory
traffic and 1x1 and channel-wise convolutions are fastest there (measured in `model.py`).
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_space import fused
from search_space.complexity import cut, eca_kernel, part_channels, pool_after

if TYPE_CHECKING:
    from search_space.architecture import Block, Half, Merge


def named(**layers: nn.Module) -> nn.Sequential:
    """The layers one after the other, each under its name."""
    return nn.Sequential(OrderedDict(layers))


def pointwise(c_in: int, c_out: int, bias: bool = False, groups: int = 1) -> nn.Conv2d:
    """A 1x1 convolution, (B, c_in, T, F) to (B, c_out, T, F)."""
    return nn.Conv2d(c_in, c_out, 1, bias=bias, groups=groups)


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
    corners; `plain` gives these two as layers.

    Measured: two convolutions against one, forward and backward, 40 settings of size, precision and threads (1 and 2): one
    is faster in every one, 1.3 to 3 times in most (without dilation).

    Source: DSSDN, eq. 1. Initialised after He with the fan-in of the sum, 6.
    """

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.dilation = dilation
        std = (2 / 6) ** 0.5
        self.along_time = nn.Parameter(std * torch.randn(channels, 1, 3, 1))
        self.along_mel = nn.Parameter(std * torch.randn(channels, 1, 1, 3))

    def forward(self, x_BCTF: Tensor) -> Tensor:
        channels, d = x_BCTF.shape[1], self.dilation
        if torch.jit.is_tracing():
            along_time = functional.conv2d(x_BCTF, self.along_time, padding=(d, 0), dilation=(d, 1), groups=channels)
            along_mel = functional.conv2d(x_BCTF, self.along_mel, padding=(0, d), dilation=(1, d), groups=channels)
            return along_time + along_mel
        return functional.conv2d(x_BCTF, self.plus(), padding=d, dilation=d, groups=channels)

    def plus(self) -> Tensor:
        """The one kernel that the two make, (C, 1, 3, 3)."""
        return functional.pad(self.along_time, (1, 1)) + functional.pad(self.along_mel, (0, 0, 1, 1))


class RepConv(nn.Module):
    """A channel-wise 3x3 convolution that is trained as four: 3x3, 1x1, 3x1 and 1x3 side by side, each with batch norm, summed; (B, C, T, F) to
    (B, C, T / stride, F / stride), rounded up.

    `weighted` gives each branch a factor softplus(alpha), alpha 1 at first. In eval mode, while being traced and in its plain form it is the one
    convolution that the four are then (`merged`), with a bias: that is what is deployed and what is counted.

    Source: RepVGG (arXiv 2101.03697) merges 3x3, 1x1 and the identity; the four kernels are Rep-Mobile's (arXiv 2410.20775), the weights those of
    `models/rep_ctfa.py` of github.com/seunggyu-han/dcase2025_task1_hyu.
    """

    KERNELS = ((3, 3), (1, 1), (3, 1), (1, 3))

    def __init__(self, channels: int, stride: tuple[int, int] = (1, 1), weighted: bool = False) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride
        self.branches = nn.ModuleList(
            named(
                conv=nn.Conv2d(
                    channels, channels, (t, f), stride, padding=(t // 2, f // 2), groups=channels, bias=False
                ),
                norm=nn.BatchNorm2d(channels),
            )
            for t, f in self.KERNELS
        )
        self.alpha = nn.Parameter(torch.ones(len(self.KERNELS))) if weighted else None

    def forward(self, x_BCTF: Tensor) -> Tensor:
        if self.training and not torch.jit.is_tracing():
            return self.sum_of_branches(x_BCTF)
        weight, bias = self.merged()
        return functional.conv2d(x_BCTF, weight, bias, self.stride, padding=1, groups=self.channels)

    def sum_of_branches(self, x_BCTF: Tensor) -> Tensor:
        """What is trained: the (weighted) sum of the four."""
        shares = self._shares()
        maps = [branch(x_BCTF) if shares is None else branch(x_BCTF) * share for branch, share in self._with(shares)]
        return maps[0] + maps[1] + maps[2] + maps[3]

    def merged(self) -> tuple[Tensor, Tensor]:
        """The kernel (C, 1, 3, 3) and the bias (C,) of the one convolution that the four are in eval mode."""
        weights, biases = [], []
        for branch, share in self._with(self._shares()):
            conv, norm = branch.get_submodule("conv"), branch.get_submodule("norm")
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            factor_C, shift_C = norm_factor(norm)
            t, f = (1 - size // 2 for size in conv.weight.shape[2:])
            weight = functional.pad(conv.weight * factor_C[:, None, None, None], (f, f, t, t))
            weights.append(weight * share)
            biases.append(shift_C * share)
        return sum(weights[1:], weights[0]), sum(biases[1:], biases[0])

    def convolution(self) -> nn.Conv2d:
        """This convolution as an ordinary layer."""
        weight, bias = (tensor.detach() for tensor in self.merged())
        conv = nn.Conv2d(self.channels, self.channels, 3, self.stride, 1, groups=self.channels, device=weight.device)
        conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
        return conv

    @torch.no_grad()
    def take(self, weight: Tensor, bias: Tensor) -> None:
        """Be, in eval mode, the one convolution with this kernel (C, 1, 3, 3) and bias (C,), to the bit: the 3x3 branch is it, the others are zero.

        So weights that were trained merged stand under the network's own names; trained on as branches, the three start from nothing.
        """
        for branch in self.branches:
            conv, norm = branch.get_submodule("conv"), branch.get_submodule("norm")
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            for tensor in (conv.weight, norm.weight, norm.bias, norm.running_mean):
                tensor.zero_()
            norm.running_var.fill_(1 - norm.eps)  # eval mode adds eps
            if conv.kernel_size == (3, 3):
                conv.weight.copy_(weight)
                norm.weight.fill_(1.0)
                norm.bias.copy_(bias)
        if self.alpha is not None:
            self.alpha.fill_(math.log(math.e - 1))  # softplus of it is 1

    def _shares(self) -> Tensor | None:
        return None if self.alpha is None else functional.softplus(self.alpha)

    def _with(self, shares: Tensor | None) -> list[tuple[nn.Module, Tensor | float]]:
        return [(branch, 1.0 if shares is None else shares[index]) for index, branch in enumerate(self.branches)]


def norm_factor(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Batch norm in eval as y -> factor y + shift, (C,) both."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor_C = norm.weight / (norm.running_var + norm.eps).sqrt()
    return factor_C, norm.bias - norm.running_mean * factor_C


class PlainCross(nn.Module):
    """A `Cross` as the two ordinary layers of its equation, with the same weights and the same result."""

    def __init__(self, cross: Cross) -> None:
        super().__init__()
        channels, d = len(cross.along_time), cross.dilation
        self.along_time = nn.Conv2d(channels, channels, (3, 1), 1, (d, 0), (d, 1), groups=channels, bias=False)
        self.along_mel = nn.Conv2d(channels, channels, (1, 3), 1, (0, d), (1, d), groups=channels, bias=False)
        self.along_time.weight, self.along_mel.weight = cross.along_time, cross.along_mel

    def forward(self, x_BCTF: Tensor) -> Tensor:
        return self.along_time(x_BCTF) + self.along_mel(x_BCTF)


def runs_fused(x_BCTF: Tensor, module: nn.Module) -> bool:
    """Whether a module runs in its fast form (`fused.py`): on a CPU, but not where its layers are to be seen, nor where a compiler
    fuses better."""
    plain = getattr(module, "plain", False)
    return x_BCTF.is_cpu and not (plain or torch.jit.is_tracing() or torch.compiler.is_compiling())


def plain(model: nn.Module) -> nn.Module:
    """A copy of a built model in which every convolution is an ordinary layer: the form to hand to an outside counter.

    `Cross` keeps its two kernels as parameters and runs them as one convolution. Counters that go by a layer's class name and
    by parameters named `weight` (torchinfo, and with it the DCASE rules) find nothing to count in it; those that see the
    operation count the nine weights of the fused kernel instead of six. The copy computes the same and is counted right.
    """
    copied = copy.deepcopy(model)
    if (ordinary := _ordinary(copied)) is not None:
        return ordinary
    for parent in list(copied.modules()):
        parent.plain = True  # type: ignore[assignment]  # read by `runs_fused`
        for name, child in parent.named_children():
            if (ordinary := _ordinary(child)) is not None:
                setattr(parent, name, ordinary)
    return copied


def merge_branches(model: nn.Module) -> nn.Module:
    """A copy of a trained model whose every `RepConv` is the one convolution that its branches are in eval mode; the model itself where it has none."""
    if not any(isinstance(module, RepConv) for module in model.modules()):
        return model
    copied = copy.deepcopy(model)
    for parent in list(copied.modules()):
        for name, child in parent.named_children():
            if isinstance(child, RepConv):
                setattr(parent, name, child.convolution())
    return copied


def _ordinary(layer: nn.Module) -> nn.Module | None:
    """A layer that keeps its kernels otherwise than an ordinary one does, as ordinary ones; None of any other."""
    if isinstance(layer, Cross):
        return PlainCross(layer)
    return layer.convolution() if isinstance(layer, RepConv) else None


class OrthonormalConv2d(nn.Conv2d):
    """A 1x1 convolution that asks the training loss to keep its rows orthonormal.

    Its name holds `Conv2d`, because that is what torchinfo tells a convolution by.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 1, bias=False)

    def penalty(self) -> Tensor:
        """|| W W^T - I ||, W the c_out x c_in weight, the Frobenius norm itself and not its square; a scalar.

        Where c_out > c_in the rows cannot be orthonormal and sqrt(c_out - c_in) remains.

        Source: BSConv (arXiv 2003.13549), sec. 3.4, as in its authors' code; some papers print the squared norm.
        """
        W = self.weight.flatten(1)
        return torch.linalg.norm(W @ W.T - torch.eye(len(W), dtype=W.dtype, device=W.device))


def orthonormal_penalty(model: nn.Module) -> Tensor | None:
    """sum over the model's orthonormal layers of || W W^T - I ||, a scalar to be weighted into the loss; None without any.

    The norm is not squared. Source: BSConv (arXiv 2003.13549) weights it with 0.1; the DSSDN paper gives no weight.
    """
    penalties = [layer.penalty() for layer in model.modules() if isinstance(layer, OrthonormalConv2d)]
    return torch.stack(penalties).sum() if penalties else None


class Partial(nn.Sequential):
    """Runs its layers on the first `channels` channels and leaves the others untouched, (B, C, T, F) to the same.

    Source: PConv (arXiv 2303.03667).
    """

    def __init__(self, channels: int, **layers: nn.Module) -> None:
        super().__init__(OrderedDict(layers))
        self.channels = channels

    def forward(self, x_BCTF: Tensor) -> Tensor:
        if runs_fused(x_BCTF, self):
            return fused.on_first_channels(x_BCTF, self.channels, super().forward)
        worked, untouched = x_BCTF[:, : self.channels], x_BCTF[:, self.channels :]
        return torch.cat([super().forward(worked), untouched], dim=1)


class ChannelAttention(nn.Module):
    """ECA: scales each channel by the sigmoid of a small convolution across the channels' means, (B, C, T, F) to the same.

    `kernel` is odd; None takes the width that follows the channels (`complexity.eca_kernel`).

    Source: ECA-Net (Wang et al. 2020).
    """

    def __init__(self, channels: int, kernel: int | None = None) -> None:
        super().__init__()
        kernel = eca_kernel(channels) if kernel is None else kernel
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        return x_BCTF * self.scale(channel_means(x_BCTF))[:, :, None, None]

    def scale(self, means_BC: Tensor) -> Tensor:
        """What each channel is scaled by, (B, C), from the channels' means."""
        return self.conv(means_BC.unsqueeze(1)).squeeze(1).sigmoid()


class MeanPool(nn.Module):
    """Average pool, (B, C, T, F) to (B, C, T // time, F // mel), that leaves an axis of size 1 as it is."""

    def __init__(self, time: int, mel: int) -> None:
        super().__init__()
        self.factors = (time, mel)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        kernel = [min(pair) for pair in zip(x_BCTF.shape[2:], self.factors, strict=True)]
        return functional.avg_pool2d(x_BCTF, kernel)


class DistillationBlock(nn.Module):
    """DSSDB: the mel axis is cut in two, one part distilled through a chain of operators, the other through one 1x1.

    (B, c_in, T, F) to (B, c_out, T // 2, F // 2), or what the block's pool says. Heavy part: three operators in a chain, each
    with batch norm and ReLU; a 1x1 distils the input and another the first operator's output; their results and the chain's
    end, c_in // 2 channels each, are concatenated and fused by a 1x1. Without `distils`, that 1x1 sees the chain's end alone.
    Then the two parts are merged, and follow ECA, batch norm, ReLU and the pool. The ways to merge:

    * `splice`, along the mel axis: the map is whole again. Defined for every split ratio and every number of mels.
    * `add`: two equal parts are added; `concat`: each gives half of the output's channels. Either lays the upper half over
      the lower one, so the mel axis is halved by the cut and is not pooled again. With an odd number of mels the topmost bin
      is in neither part, as an average pool leaves it out; of a single bin, both parts are that bin.

    Source: DSSDN (arXiv 2405.03567), sec. 2.2 and fig. 2; add is that of the released DSMN code (DCASE 2023). Assumed: what
    the figure does not settle (where norms, biases and the pool stand); chosen as the structure that meets the paper's
    Tables 1 and 2 for all its networks.
    """

    def __init__(
        self,
        c_in: int,
        block: Block,
        heavy: Half = "low",
        merge: Merge = "splice",
        eca: int | None = None,
        distils: bool = True,
    ) -> None:
        super().__init__()
        half, operator = c_in // 2, block.module
        self.block, self.heavy, self.merge = block, heavy, merge
        c_out, c_heavy, c_light = block.out_channels, *part_channels(block, merge)

        def stage(channels: int) -> nn.Sequential:
            return named(
                operator=operator.build(c_in, channels),
                norm=nn.BatchNorm2d(channels),
                relu=nn.ReLU(inplace=True),
            )

        self.first, self.second, self.third = stage(c_in), stage(c_in), stage(half)
        self.distil_input = pointwise(c_in, half, bias=True) if distils else None
        self.distil_first = pointwise(c_in, half, bias=True) if distils else None
        self.fuse = pointwise((3 if distils else 1) * half, c_heavy, bias=True)
        self.light = pointwise(c_in, c_light, bias=True) if block.cut else None
        self.attention = nn.Identity() if eca == 0 else ChannelAttention(c_out, eca)
        self.norm = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.factors = pool_after(block, merge)
        self.pool = _pool(self.factors)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        n_heavy, n_light = cut(self.block, self.merge, x_BCTF.shape[3])
        parts = self._two_parts(x_BCTF, n_heavy, n_light) if n_light else [self._distil(x_BCTF)]
        if self.training and runs_fused(x_BCTF, self) and fused.finish_pays(parts):
            kernel = self.attention.conv.weight if isinstance(self.attention, ChannelAttention) else None
            return fused.finish(parts, kernel, self.norm, self.factors)
        return self.pool(self.relu(self.norm(self.attention(torch.cat(parts, 3) if n_light else parts[0]))))

    def _two_parts(self, x_BCTF: Tensor, n_heavy: int, n_light: int) -> list[Tensor]:
        """The parts, from the lowest mel bin up, that make the block's map side by side."""
        assert self.light is not None  # only a block that cuts has bins for it
        n_low, n_high = (n_heavy, n_light) if self.heavy == "low" else (n_light, n_heavy)
        if n_low + n_high > x_BCTF.shape[3]:  # both parts are the single bin
            low_BCTF = high_BCTF = x_BCTF
        elif runs_fused(x_BCTF, self):
            low_BCTF, high_BCTF = fused.cut(x_BCTF, n_low, n_high)
        else:
            low_BCTF, high_BCTF = x_BCTF[..., :n_low], x_BCTF[..., n_low : n_low + n_high]
        if self.heavy == "low":
            low_BCTF, high_BCTF = self._distil(low_BCTF), self.light(high_BCTF)
        else:
            high_BCTF, low_BCTF = self._distil(high_BCTF), self.light(low_BCTF)
        if self.merge == "splice":
            return [low_BCTF, high_BCTF]
        return [low_BCTF + high_BCTF if self.merge == "add" else torch.cat([low_BCTF, high_BCTF], dim=1)]

    def _distil(self, x_BCTH: Tensor) -> Tensor:
        first_BCTH = self.first(x_BCTH)
        third_BCTH = self.third(self.second(first_BCTH))
        if self.distil_input is None or self.distil_first is None:
            return self.fuse(third_BCTH)
        if runs_fused(x_BCTH, self):
            return fused.distil(
                [x_BCTH, first_BCTH, third_BCTH], [self.distil_input, self.distil_first, None], self.fuse
            )
        return self.fuse(torch.cat([self.distil_input(x_BCTH), self.distil_first(first_BCTH), third_BCTH], dim=1))


class PlainBlock(nn.Module):
    """An operator, batch norm, ReLU and the pool: (B, c_in, T, F) to (B, c_out, T // 2, F // 2), or what the pool says.

    Source: DSSDN (arXiv 2405.03567), sec. 3.5: what takes the distillation block's place in DL-B.
    """

    def __init__(self, c_in: int, block: Block) -> None:
        super().__init__()
        self.operator = block.module.build(c_in, block.out_channels)
        self.norm = nn.BatchNorm2d(block.out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.factors = block.pool
        self.pool = _pool(self.factors)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        y_BCTF = self.operator(x_BCTF)
        if self.training and runs_fused(x_BCTF, self) and fused.finish_pays([y_BCTF]):
            return fused.finish([y_BCTF], None, self.norm, self.factors)
        return self.pool(self.relu(self.norm(y_BCTF)))


def _pool(factors: tuple[int, int]) -> nn.Module:
    return nn.Identity() if factors == (1, 1) else MeanPool(*factors)
