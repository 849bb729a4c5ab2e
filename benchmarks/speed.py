"""What the speed benchmarks share: two sides timed in turn, and what the machine could do at best.

Each side lives in a process of its own, because what a process does with freed memory is part of what is compared
(`trainers.memory`), and one process has one such setting. The sides run in turn, never at once.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from search_space.architecture import Architecture
from search_space.blocks import Cross, DistillationBlock
from search_space.complexity import count
from search_space.model import build_model
from trainers.memory import kept_memory
from trainers.runs import processor_name

Prepare = Callable[..., Callable[[], object]]
"""Makes, from the case's values, what is timed."""


class Side:
    """One side of a comparison: a process that runs what `prepare(*values)` gives when asked to."""

    def __init__(self, prepare: Prepare, values: Sequence[Any], keep: bool, threads: int, warm_up: bool = True) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        arguments = (other, prepare, tuple(values), keep, threads, warm_up)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        other.close()
        self.first_s: float = self._connection.recv()
        """Seconds of the first run, compilation included; 0 without a warm-up of two runs, for what is long enough not to need it."""

    def seconds(self) -> float:
        """How long one run takes now."""
        self._connection.send("run")
        return self._connection.recv()

    def close(self) -> int:
        """The bytes that the side's process held at most, beyond what it held before it built anything."""
        self._connection.send("stop")
        peak: int = self._connection.recv()
        self._process.join()
        return peak


def _serve(
    connection: Connection, prepare: Prepare, values: tuple[Any, ...], keep: bool, threads: int, warm_up: bool
) -> None:
    torch.set_num_threads(threads)
    before = _peak()
    with kept_memory() if keep else nullcontext():
        run = prepare(*values)
        connection.send(_timed(run) if warm_up else 0.0)
        if warm_up:
            run()
        while connection.recv() == "run":
            connection.send(_timed(run))
    connection.send(_peak() - before)


def _peak() -> int:
    """The most bytes that this process held at once. Of getrusage's answer a part is the parent's, so Linux is asked directly."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    found = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return 1024 * (found[0] if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _timed(run: Callable[[], object], device: torch.device | None = None) -> float:
    began = time.perf_counter()
    run()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def in_turn(sides: Sequence[Side], rounds: int) -> list[float]:
    """The median seconds of each side over `rounds` runs of all, one after the other."""
    taken = [[side.seconds() for side in sides] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*taken, strict=True)]


def copy_bandwidth(device: torch.device | None = None) -> float:
    """Bytes a second that a copy of a large tensor reads and writes, the best of several; on the CPU if no device is named."""
    source = torch.ones(64 * 2**20, device=device)
    target = torch.ones_like(source)
    return 2 * source.nbytes / min(_timed(lambda: target.copy_(source), device) for _ in range(5))


def matmul_rate(dtype: torch.dtype, size: int = 2048, device: torch.device | None = None) -> float:
    """Floating-point operations a second of a square matrix product in this type, the best of several."""
    a = torch.ones(size, size, dtype=dtype, device=device)
    b = torch.ones_like(a)
    return 2 * size**3 / min(_timed(lambda: a @ b, device) for _ in range(5))


def values_moved(architecture: Architecture, size: tuple[int, int], training: bool) -> int:
    """How many values of maps the convolutions of one clip must read and write, if all between two of them moved nothing.

    Each reads its input and writes its output; in training it also reads its input and its output's gradient once more and writes its
    input's gradient (the stem does not). `Cross` is one convolution and the three 1x1 of a distillation path are one.
    """
    with torch.device("meta"):
        model = build_model(architecture).eval()
    sizes: list[tuple[int, int]] = []

    def watch(layer: nn.Module) -> None:
        layer.register_forward_hook(lambda _, inputs, output: sizes.append((inputs[0].numel(), output.numel())))

    skipped = set()
    for block in model.modules():
        if isinstance(block, DistillationBlock) and block.distil_input is not None:
            skipped |= {block.distil_input, block.distil_first, block.fuse}
            block.fuse.register_forward_hook(_fused_sizes(block, sizes))
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | Cross) and layer not in skipped:
            watch(layer)
    with torch.no_grad():
        model(torch.zeros(1, 1, *size, device="meta"))
    if not training:
        return sum(read + written for read, written in sizes)
    return sum(3 * read + 2 * written for read, written in sizes) - sizes[0][0]


def _fused_sizes(block: DistillationBlock, sizes: list[tuple[int, int]]) -> Callable[..., None]:
    def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert block.distil_input is not None  # else nothing is fused
        channels = 2 * block.distil_input.in_channels + block.distil_input.out_channels
        sizes.append((channels * inputs[0][0, 0].numel(), output.numel()))

    return hook


def floors_ms(
    architecture: Architecture, size: tuple[int, int], dtype: torch.dtype, training: bool, bandwidth: float, rate: float
) -> tuple[float, float]:
    """The least milliseconds a clip takes by what it moves and by what it multiplies (a gradient step multiplies three times)."""
    moved = values_moved(architecture, size, training) * dtype.itemsize
    operations = 2 * count(architecture, size).macs * (3 if training else 1)
    return 1e3 * moved / bandwidth, 1e3 * operations / rate


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, threads, torch."""
    return {"machine": processor_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}
