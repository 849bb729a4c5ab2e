"""The fast forms of a block's parts in training: the same functions as the layers in `blocks.py`, with fewer maps written and read.

A training step is bound by memory traffic: what counts is how often a map passes through the processor. Three pieces, each with its
gradient written out:

* `cut`: the two parts of a map along the mel axis, each in channels_last, so that no later layer lays them out again.
* `distil`: the three 1x1 of the distillation path, which are linear, as one.
* `finish`: attention, batch norm, ReLU and the pool. For one clip and channel the first two are y -> a y + b, with a and b made of the
  means and variances of each clip's channels; so neither the scaled map nor the normalised one is ever kept, nor the splice.

Shape legend: B batch, C channels, T frames, F mel bins, P the parts of a map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_aten = torch.ops.aten

SMALL = 2**16
"""Values of a clip's map from which `finish` goes clip by clip.

Measured: a step of DSSDN-Large, batch 32, one core, ms a clip at 43x64 and 143x64: 4.2 and 9.6 with 0, 3.5 and 9.3 with this, 3.8 and
11.0 never.
"""


def cut(x_BCTF: Tensor, n_low: int, n_high: int) -> tuple[Tensor, Tensor]:
    """The lowest `n_low` mel bins and the `n_high` above them, both in channels_last; bins above those are left out.

    Its gradient is one map written once, where slices would give two, filled with zeros, and their sum.
    """
    return _Cut.apply(x_BCTF, n_low, n_high)


class _Cut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BCTF: Tensor, n_low: int, n_high: int) -> tuple[Tensor, Tensor]:
        ctx.shape = x_BCTF.shape
        return slices(x_BCTF, n_low, n_high)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dlow_BCTF: Tensor, dhigh_BCTF: Tensor) -> tuple[Tensor, None, None]:
        dx_BCTF = _empty(ctx.shape, dlow_BCTF)
        n_low, n_used = dlow_BCTF.shape[3], dlow_BCTF.shape[3] + dhigh_BCTF.shape[3]
        dx_BCTF[..., :n_low] = dlow_BCTF
        dx_BCTF[..., n_low:n_used] = dhigh_BCTF
        dx_BCTF[..., n_used:] = 0
        return dx_BCTF, None, None


def slices(x_BCTF: Tensor, n_low: int, n_high: int) -> tuple[Tensor, Tensor]:
    """What `cut` gives, without its gradient: (B, C, T, n_low) and (B, C, T, n_high). Of a single bin, both parts are that bin."""
    low_BCTF, high_BCTF = x_BCTF[..., :n_low], x_BCTF[..., min(n_low, x_BCTF.shape[3] - n_high) :][..., :n_high]
    return _packed(low_BCTF), _packed(high_BCTF)


def distil(maps: list[Tensor], layers: list[nn.Conv2d | None], fuse: nn.Conv2d) -> Tensor:
    """fuse(cat of layer(map)), 1x1 convolutions all, None a layer that changes nothing; (B, C_k, T, F) each to (B, c_out, T, F).

    The products of the weights are as small as the weights, so neither the layers' results nor their concatenation are written.
    """
    with torch.autocast(maps[0].device.type, enabled=False):
        weights, bias = product(layers, fuse)
    return products(maps, weights, bias)


def product(layers: list[nn.Conv2d | None], fuse: nn.Conv2d) -> tuple[list[Tensor], Tensor]:
    """The weight (c_out, C_k) that each map has in `distil`, and the bias."""
    assert fuse.bias is not None
    widths = [fuse.in_channels - sum(layer.out_channels for layer in layers if layer)]
    widths = [layer.out_channels if layer else widths[0] for layer in layers]
    weights, bias = list(fuse.weight.flatten(1).split(widths, 1)), fuse.bias
    for k, layer in enumerate(layers):
        if layer:
            assert layer.bias is not None
            bias = bias + weights[k] @ layer.bias
            weights[k] = weights[k] @ layer.weight.flatten(1)
    return weights, bias


def products(maps: list[Tensor], weights: list[Tensor], bias: Tensor) -> Tensor:
    """The sum of the 1x1 convolutions of the maps with weights (c_out, C_k), and the bias, in one map."""
    y_BCTF = functional.conv2d(maps[0], weights[0][:, :, None, None], bias)
    for x_BCTF, weight in zip(maps[1:], weights[1:], strict=True):
        y_BCTF = _AddProduct.apply(y_BCTF, x_BCTF, weight.to(y_BCTF.dtype))
    return y_BCTF


class _AddProduct(torch.autograd.Function):
    """y + the 1x1 convolution of x, written over y."""

    @staticmethod
    def forward(ctx: Any, y_BCTF: Tensor, x_BCTF: Tensor, weight: Tensor) -> Tensor:
        ctx.mark_dirty(y_BCTF)
        ctx.save_for_backward(x_BCTF, weight)
        matrix = _rows(y_BCTF).addmm_(_rows(x_BCTF), weight.T)
        if matrix.data_ptr() != y_BCTF.data_ptr():  # a copy, where the map is not in channels_last
            positions = y_BCTF.permute(0, 2, 3, 1)
            positions.copy_(matrix.view(positions.shape))
        return y_BCTF

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BCTF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_BCTF, weight = ctx.saved_tensors
        dx_BCTF, dweight, _ = _aten.convolution_backward(
            dy_BCTF,
            x_BCTF,
            weight[:, :, None, None],
            None,
            [1, 1],
            [0, 0],
            [1, 1],
            False,
            [0, 0],
            1,
            [True, True, False],
        )
        return dy_BCTF, dx_BCTF, dweight[:, :, 0, 0]


def _rows(x_BCTF: Tensor) -> Tensor:
    """The map as a matrix of one row a position, (B * T * F, C); no copy where it is in channels_last."""
    return x_BCTF.permute(0, 2, 3, 1).reshape(-1, x_BCTF.shape[1])


def on_first_channels(x_BCTF: Tensor, channels: int, layers: Callable[[Tensor], Tensor]) -> Tensor:
    """The map with its first `channels` channels put through the layers, (B, C, T, F) to the same, the others as they are.

    One copy of the map each way, where slices and their concatenation make a gradient of four maps that is in no layout.
    """
    first_BCTF, x_BCTF = _TakeFirst.apply(x_BCTF, channels)
    return _PutFirst.apply(x_BCTF, layers(first_BCTF))


class _TakeFirst(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BCTF: Tensor, channels: int) -> tuple[Tensor, Tensor]:
        return _packed(x_BCTF[:, :channels]), x_BCTF.view_as(x_BCTF)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dfirst_BCTF: Tensor, dx_BCTF: Tensor) -> tuple[Tensor, None]:
        dx_BCTF = dx_BCTF.clone(memory_format=torch.channels_last)
        dx_BCTF[:, : dfirst_BCTF.shape[1]] = dfirst_BCTF  # of the map handed on, `_PutFirst` has replaced these
        return dx_BCTF, None


class _PutFirst(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BCTF: Tensor, first_BCTF: Tensor) -> Tensor:
        ctx.channels = first_BCTF.shape[1]
        y_BCTF = x_BCTF.to(first_BCTF.dtype, copy=True, memory_format=torch.channels_last)
        y_BCTF[:, : ctx.channels] = first_BCTF
        return y_BCTF

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BCTF: Tensor) -> tuple[Tensor, Tensor]:
        return dy_BCTF, _packed(dy_BCTF[:, : ctx.channels])


def finish_pays(parts: list[Tensor]) -> bool:
    """Whether `finish` beats the layers one by one: it goes clip by clip, so a clip must be worth its calls."""
    return sum(part[0].numel() for part in parts) >= SMALL


def finish(parts: list[Tensor], attention: Tensor | None, norm: nn.BatchNorm2d, pool: tuple[int, int]) -> Tensor:
    """pool(relu(norm(attention(the parts side by side along mel)))) in training, (B, C, T, F_p) each to (B, C, T // t, F // f).

    `attention` is the kernel of its convolution, None without. Running statistics are updated as batch norm does.
    Raises `ValueError`, as batch norm does, on a single value a channel.
    """
    B, _, T, _ = parts[0].shape
    F = sum(part.shape[3] for part in parts)
    if B * T * F == 1:
        raise ValueError("Expected more than 1 value per channel when training")
    pool = min(pool[0], T), min(pool[1], F)
    if any(part.shape[3] % pool[1] for part in parts[:-1]):  # a pooled bin would lie in two parts
        parts = [torch.cat(parts, 3)]
    assert norm.num_batches_tracked is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    y_BCtf, mean_C, var_C = _Finish.apply(attention, norm.weight, norm.bias, norm.eps, pool, *parts)
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean_C.to(norm.running_mean.dtype), norm.momentum)
        norm.running_var.lerp_((var_C * (B * T * F / (B * T * F - 1))).to(norm.running_var.dtype), norm.momentum)
    return y_BCtf


class _Finish(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        attention: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        pool: tuple[int, int],
        *parts: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        parts = tuple(_packed(part) for part in parts)
        sizes = [part.shape[2] * part.shape[3] for part in parts]
        unused = (
            weight.detach().clone(),
            weight.detach().clone(),
        )  # running statistics, whose type is that of the answer
        stats = [[torch.batch_norm_update_stats(y, *unused, 0.0) for y in part.split(1)] for part in parts]
        leaves = [torch.stack([torch.stack([stat[k] for stat in part]) for part in stats]) for k in (0, 1)]
        leaves += [weight.detach(), bias.detach(), *([] if attention is None else [attention.detach()])]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        with torch.enable_grad(), torch.autocast(weight.device.type, enabled=False):
            a_BC, b_BC, mean_C, var_C = _coefficients(*leaves, eps=eps, sizes=sizes)
        ctx.coefficients, ctx.leaves, ctx.pool = (a_BC, b_BC), leaves, pool
        ctx.save_for_backward(*parts)

        B, C, T, _ = parts[0].shape
        F = sum(part.shape[3] for part in parts)
        out_BCtf = _empty((B, C, T // pool[0], F // pool[1]), parts[0])
        start = 0
        for part in parts:
            scratch, mels = torch.empty_like(part[:1]), part.shape[3] // pool[1]
            for index, y in enumerate(part.split(1)):
                if mels:
                    z = _affine(y, a_BC[index].detach(), b_BC[index].detach(), scratch).relu_()
                    out_BCtf[index : index + 1, :, :, start : start + mels] = (
                        functional.avg_pool2d(z, pool) if pool != (1, 1) else z
                    )
            start += mels
        ctx.mark_non_differentiable(mean_C, var_C)
        return out_BCtf, mean_C.detach(), var_C.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_BCtf: Tensor, _mean: Any, _var: Any) -> tuple[Any, ...]:
        parts, (a_BC, b_BC), (t, f) = ctx.saved_tensors, ctx.coefficients, ctx.pool
        dout_BCtf = _packed(dout_BCtf / (t * f) if t * f > 1 else dout_BCtf)
        dparts, da_BC, db_BC, start = (
            [torch.empty_like(part) for part in parts],
            torch.zeros_like(a_BC),
            torch.zeros_like(b_BC),
            0,
        )
        for part, dpart in zip(parts, dparts, strict=True):
            mels = part.shape[3] // f
            scratch, spread = torch.empty_like(part[:1]), torch.zeros_like(part[:1])
            for index, (y, d) in enumerate(zip(part.split(1), dpart.split(1), strict=True)):
                z = _affine(y, a_BC[index].detach(), b_BC[index].detach(), scratch)
                _spread(dout_BCtf[index : index + 1, :, :, start : start + mels], (t, f), spread)
                _aten.threshold_backward.grad_input(spread, z, 0, grad_input=d)
                da_C, db_C = _sums(d, y)
                da_BC[index] += da_C
                db_BC[index] += db_C
            start += mels
        # Kept, for the gradients of two losses of one pass; it is small.
        dmean_PBC, dvar_PBC, *rest = torch.autograd.grad(
            ctx.coefficients, ctx.leaves, (da_BC, db_BC), retain_graph=True
        )
        mean_PBC = ctx.leaves[0].detach()
        for p, (part, dpart) in enumerate(zip(parts, dparts, strict=True)):
            n, scratch = part.shape[2] * part.shape[3], torch.empty_like(part[:1])
            slope_BC = dvar_PBC[p] * (2 / n)
            shift_BC = dmean_PBC[p] / n - slope_BC * mean_PBC[p]
            for index, (y, d) in enumerate(zip(part.split(1), dpart.split(1), strict=True)):
                _affine(d, a_BC[index].detach(), torch.zeros_like(a_BC[0]), d)
                d += _affine(y, slope_BC[index], shift_BC[index], scratch)
        dattention = rest[2] if len(rest) == 3 else None
        return (dattention, rest[0], rest[1], None, None, *dparts)


def _coefficients(
    mean_PBC: Tensor,
    var_PBC: Tensor,
    weight: Tensor,
    bias: Tensor,
    attention: Tensor | None = None,
    *,
    eps: float,
    sizes: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """a and b (B, C) of attention and batch norm as y -> a y + b, and the batch's mean and variance (C), of what the attention gives.

    From the mean and variance of each channel in each part of each clip: the variance of the whole is the mean of the parts'
    variances and the variance of their means, which cancels nothing, as the mean of squares less the square of the mean would.
    """
    share_P11 = torch.tensor(sizes, dtype=mean_PBC.dtype)[:, None, None].to(mean_PBC.device) / sum(sizes)
    scale_BC = torch.ones_like(mean_PBC[0])
    if attention is not None:
        pooled_BC = (share_P11 * mean_PBC).sum(0)
        scale_BC = functional.conv1d(pooled_BC[:, None], attention, padding=attention.shape[2] // 2)[:, 0].sigmoid()
    mean_C = (share_P11 * scale_BC * mean_PBC).sum(0).mean(0)
    var_C = (share_P11 * (scale_BC.square() * var_PBC + (scale_BC * mean_PBC - mean_C).square())).sum(0).mean(0)
    factor_C = weight * (var_C + eps).rsqrt()
    return scale_BC * factor_C, (bias - mean_C * factor_C).expand_as(scale_BC), mean_C, var_C


def _packed(x_BCTF: Tensor) -> Tensor:
    return x_BCTF.contiguous(memory_format=torch.channels_last)


def _empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _affine(x_1CTF: Tensor, a_C: Tensor, b_C: Tensor, out_1CTF: Tensor) -> Tensor:
    """a x + b into `out`: torch's batch norm with its statistics given, which takes float32 factors for a bfloat16 map."""
    none = a_C.new_empty(0)
    zeros, ones = torch.zeros_like(a_C), torch.ones_like(a_C)
    torch.native_batch_norm(x_1CTF, a_C, b_C, zeros, ones, False, 0.0, 0.0, out=(out_1CTF, none, none))
    return out_1CTF


def _sums(d_1CTF: Tensor, y_1CTF: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over T and F of d y and of d, (C,) each, as the gradients of `_affine` by a and b."""
    ones = torch.ones(d_1CTF.shape[1], dtype=torch.float64 if d_1CTF.dtype == torch.float64 else torch.float32)
    zeros = torch.zeros_like(ones)
    _, da_C, db_C = _aten.native_batch_norm_backward(
        d_1CTF, y_1CTF, ones, zeros, ones, zeros, ones, False, 0.0, [False, True, True]
    )
    return da_C, db_C


def _spread(d_BCtf: Tensor, pool: tuple[int, int], out_BCTF: Tensor) -> None:
    """Each value over all that the pool averaged into it; what no pool covered stays as it is."""
    t, f = pool
    frames, mels = d_BCtf.shape[2:]
    covered = out_BCTF.permute(0, 2, 3, 1)[:, : frames * t, : mels * f]
    covered.unflatten(2, (mels, f)).unflatten(1, (frames, t)).copy_(d_BCtf.permute(0, 2, 3, 1)[:, :, None, :, None])
