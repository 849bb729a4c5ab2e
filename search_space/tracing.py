"""The cost of a built module, read off one run on torch's meta device. `complexity.count_module` is the door to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from search_space.blocks import plain
from search_space.complexity import Cost, LayerCost, Maps

_MATRIX_PRODUCTS = {"mm": (0, 1), "addmm": (1, 2)}  # positions of the factors; what linear layers become
_PRODUCTS_OF_MAPS = {"bmm": (0, 1), "baddbmm": (1, 2)}
_POOLS = ("avg_pool2d", "max_pool2d_with_indices")
_NORMS = {"native_batch_norm": 1, "native_group_norm": 1, "native_layer_norm": 2}  # position of the scale
_VALUE_BY_VALUE = {*_NORMS, "hardswish", "hardsigmoid", "_softmax"}  # torch tags the others `pointwise`

_Reach = tuple[tuple[int, int], tuple[int, int]]  # (field, step) along each of a map's two axes


class _Step(NamedTuple):
    """One operation: the tensors it reads and the one it writes (by storage), that one's size, whether value by value."""

    reads: tuple[int, ...]
    writes: int
    size: int
    value_by_value: bool


class _Run(TorchDispatchMode):
    """Watches the operations of one inference that work on the clip; what is made of weights alone is folded and ignored."""

    def __init__(self, clip: Tensor) -> None:
        super().__init__()
        self.macs = self.more_of_fvcore = 0
        self.steps: list[_Step] = []
        self.reach: dict[int, _Reach | None] = {_storage(clip): ((1, 1), (1, 1))}
        self.sizes = {_storage(clip): clip.numel()}
        self.last_map: _Reach = ((1, 1), (1, 1))
        self._kept = [clip]  # a storage's address is its name: none may be freed and taken again

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = list(_tensors(args))
        reads = tuple(dict.fromkeys(s for s in map(_storage, tensors) if s in self.sizes))
        written = next(_tensors((result,)), None)
        if reads and written is not None:
            self._kept += _tensors((result,))
            self._see(func, args, reads, written)
        return result

    def _see(self, func: Any, args: tuple[Any, ...], reads: tuple[int, ...], written: Tensor) -> None:
        name, out = func.overloadpacket.__name__, _storage(written)
        if name == "convolution":
            positions = args[0].shape[2:] if args[6] else written.shape[2:]  # a transposed one works from its input
            self.macs += len(written) * args[1].numel() * math.prod(positions)
        elif factors := _MATRIX_PRODUCTS.get(name) or _PRODUCTS_OF_MAPS.get(name):
            product = written.numel() * args[factors[0]].shape[-1]
            self.macs += product if name in _MATRIX_PRODUCTS else 0
            self.more_of_fvcore += product if name in _PRODUCTS_OF_MAPS else 0
        elif name in _NORMS:
            # Source: fvcore's `jit_handles`. Batch norm that looks at the clip is what instance norm becomes.
            running = name == "native_batch_norm" and not args[5]
            scaled = args[_NORMS[name]] is not None
            self.more_of_fvcore += written.numel() * ((1 if running else 4) + scaled)
        if out not in self.sizes:
            self.sizes[out] = written.numel()
            self.reach[out] = self._reach(name, args, reads, written)
            by_value = torch.Tag.pointwise in func.tags or name in _VALUE_BY_VALUE
            self.steps.append(_Step(reads, out, written.numel(), by_value))
        else:  # in place, or a slice
            self.steps.append(_Step((*reads, out), out, 0, False))
        if written.ndim == 4 and (reach := self.reach[out]):
            self.last_map = reach

    def _reach(self, name: str, args: tuple[Any, ...], reads: tuple[int, ...], written: Tensor) -> _Reach | None:
        """How far into the clip a position of the new map sees; None of what has no positions any more."""
        known = [reach for read in reads if (reach := self.reach[read])]
        if not known or written.ndim < 4 or name in ("mean", "sum", "amax", "_adaptive_avg_pool2d"):
            return None
        before: _Reach = tuple(tuple(map(max, zip(*axis, strict=True))) for axis in zip(*known, strict=True))  # type: ignore[assignment]
        if name == "convolution":
            kernel, stride, dilation = args[1].shape[2:], args[3], args[5]
        elif name in _POOLS:
            kernel, stride, dilation = args[1], (args[2] if len(args) > 2 and args[2] else args[1]), [1]
            dilation = args[4] if name == _POOLS[1] and len(args) > 4 else dilation
        else:
            return before
        (t, f) = (
            (field + (k - 1) * d * step, step * s)
            for (field, step), k, s, d in zip(before, *map(_pair, (kernel, stride, dilation)), strict=True)
        )
        return t, f


class _AdaptivePools(TorchFunctionMode):
    """Counts the values that adaptive average pools read, which torch has turned into means before `_Run` sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is nn.functional.adaptive_avg_pool2d:
            self.values += args[0].numel()
        return func(*args, **(kwargs or {}))


def trace(module: nn.Module, input_shape: tuple[int, ...]) -> Cost:
    """See `complexity.count_module`."""
    module = plain(module).to("meta").eval()
    clip = torch.zeros(1, *input_shape, device="meta")
    run, pools, table = _Run(clip), _AdaptivePools(), _Table(module)
    hooks = table.watch(run)
    try:
        with torch.no_grad(), pools, run:
            module(clip)
    finally:
        for hook in hooks:
            hook.remove()
    by = {"conv+linear": run.macs, "fvcore": run.macs + run.more_of_fvcore + pools.values, "dcase": table.dcase}
    params = sum(parameter.numel() for parameter in module.parameters())
    frames, mels = (min(axis[0], size) for axis, size in zip(run.last_map, clip.shape[-2:], strict=True))
    return Cost(params, run.macs, table.rows(run.macs), by, _peak(clip, run.steps), (frames, mels))


class _Table:
    """The layer table of a traced module and, beside it, the count of its layers by torchinfo's rule."""

    def __init__(self, module: nn.Module) -> None:
        self.dcase = 0
        self._rows: dict[str, LayerCost] = {}
        self._modules = {name or "(itself)": layer for name, layer in module.named_modules()}
        self._layers = {name: layer for name, layer in self._modules.items() if not any(layer.children())}
        self._seen: set[int] = set()  # params that have a row

    def watch(self, run: _Run) -> list[Any]:
        """The hooks that fill the table during a run."""
        started: dict[nn.Module, int] = {}

        def before(layer: nn.Module, args: Any) -> None:
            started[layer] = run.macs

        def after(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def hook(layer: nn.Module, args: Any, output: Any) -> None:
                first = next(_tensors((output,)))
                self.dcase += torchinfo_macs(layer, tuple(first.shape))
                self._add(name, layer, first, run.macs - started[layer])

            return hook

        hooks: list[Any] = [layer.register_forward_pre_hook(before) for layer in self._layers.values()]
        return hooks + [layer.register_forward_hook(after(name)) for name, layer in self._layers.items()]

    def rows(self, macs: int) -> tuple[LayerCost, ...]:
        """All rows: layers in the order of their first run, operations outside of layers, params that no layer ran with."""
        rows = list(self._rows.values())
        if rest := macs - sum(row.macs for row in rows):
            rows.append(LayerCost("(outside of layers)", "functional", (0, 0, 0), 0, rest))
        for name, module in self._modules.items():
            if own := self._new_params(module):
                rows.append(LayerCost(name, "never run" if name in self._layers else "own params", (0, 0, 0), own, 0))
        return tuple(rows)

    def _new_params(self, module: nn.Module) -> int:
        """How many params a module has of its own that have no row yet; they have one from now on."""
        new = {id(p): p.numel() for p in module.parameters(recurse=False) if id(p) not in self._seen}
        self._seen |= set(new)
        return sum(new.values())

    def _add(self, name: str, layer: nn.Module, output: Tensor, macs: int) -> None:
        params = self._new_params(layer)
        if earlier := self._rows.get(name):  # used once more
            params, macs = earlier.params, earlier.macs + macs
        C, T, F = (*output.shape[1:], 1, 1, 1)[:3]
        self._rows[name] = LayerCost(name, type(layer).__name__, (C, T, F), params, macs)


def torchinfo_macs(layer: nn.Module, output_shape: tuple[int, ...]) -> int:
    """MACs of one call of a layer without children as torchinfo 1.8 counts them, its blind spots included.

    What has `Conv` in its class name is a convolution, and each of its params works at every position; another layer's
    params work once a clip, also on a sequence; parameters named neither weight nor bias do not count.

    Source: torchinfo 1.8.0, `LayerInfo.calculate_macs`. Masks of pruning, which it subtracts, are not looked at.
    """
    macs = 0
    for name, parameter in layer.named_parameters():
        if name in ("weight", "bias"):
            positions = output_shape[2:] if "Conv" in type(layer).__name__ else ()
            macs += output_shape[0] * parameter.numel() * math.prod(positions)
        elif "weight" in name or "bias" in name:  # recurrent layers
            macs += math.prod(output_shape[:2]) * parameter.numel()
    return macs


def _peak(clip: Tensor, steps: list[_Step]) -> int:
    last_read = {read: index for index, step in enumerate(steps) for read in step.reads}
    maps = Maps()
    numbers = {_storage(clip): maps.write(clip.numel())}
    sizes = {_storage(clip): clip.numel()}
    for index, step in enumerate(steps):
        reads = [numbers[read] for read in step.reads]
        sizes.setdefault(step.writes, step.size)
        fit = (r for r in step.reads if sizes[r] == step.size and last_read[r] == index)
        reused = next(fit, None) if step.value_by_value else step.writes if step.size == 0 else None
        number = maps.write(0 if reused is not None else step.size, *reads)
        numbers[step.writes] = number if reused is None else numbers[reused]
    return maps.peak()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _pair(values: Any) -> tuple[int, int]:
    values = [values] if isinstance(values, int) else list(values)
    return values[0], values[-1]
