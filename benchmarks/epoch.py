"""How long an epoch takes on this device: `python -m benchmarks.epoch [--device cuda] [--clips 13962]`, against the least it could.

As many clips as TAU 2020 trains on, generated (their values do not matter to the clock), with the `strong` recipe, as `trainers.loop.train`
runs them: order, augmentation, steps. The floors are what the device's own copies and matrix products, measured in the same run, leave at
best. The first epoch warms up and is not counted. On a CPU name few `--clips`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from typing import Any

import torch
from rich.table import Table

from benchmarks.speed import copy_bandwidth, floors_ms, machine, matmul_rate
from search_space.complexity import parse_input
from search_space.errors import Parser, UserError, open_console, run_command
from search_space.families import only_dssdn
from search_space.presets import resolve
from trainers.clips import Clip
from trainers.config import get_recipe
from trainers.inputs import Inputs, Split
from trainers.loop import precision, resolve_device, seeded_model, train

# Source: the training fold of TAU Urban Acoustic Scenes 2020 Mobile.
TAU_CLIPS = 13_962
N_CLASSES = 10


def generated(clips: int, size: tuple[int, int], device: torch.device) -> Inputs:
    """Noise in the shape of log-mels, ten classes."""
    logmel_NTF = torch.randn(1, *size, device=device).half().expand(clips, *size).contiguous().cpu()
    labels_N = torch.arange(clips) % N_CLASSES
    named = tuple(
        Clip(filename=f"{n}.wav", scene=str(n % N_CLASSES), group=str(n), split="train") for n in range(clips)
    )
    split = Split(logmel_NTF, labels_N, named)
    return Inputs({"train": split}, torch.zeros(size[1]), torch.ones(size[1]), tuple(map(str, range(N_CLASSES))))


def measure(
    network: str, inputs: Inputs, batch: int, device: torch.device, ceilings: dict[Any, float]
) -> dict[str, Any]:
    """The case's row of the report."""
    architecture, clips = only_dssdn(resolve(network), "this benchmark"), len(inputs.splits["train"])
    recipe = dataclasses.replace(get_recipe("strong"), batch_size=batch)
    taken: list[float] = []

    def on_epoch(_: object) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter())

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    train(str(architecture), inputs, recipe, 2 * clips, 0, device, on_epoch=on_epoch)
    trained_in = precision(device, seeded_model(architecture, N_CLASSES, 0, inputs.size[1]))
    dtype = getattr(torch, trained_in)
    floors = floors_ms(architecture, inputs.size, dtype, True, ceilings["bandwidth"], ceilings[dtype])
    memory_s, arithmetic_s = (1e-3 * ms * clips for ms in floors)
    return {
        "architecture": str(architecture),
        "input": "x".join(map(str, inputs.size)),
        "batch": batch,
        "clips": clips,
        "precision": trained_in,
        "epoch_s": taken[1] - taken[0],
        "memory_floor_s": memory_s,
        "arithmetic_floor_s": arithmetic_s,
        "ratio_to_floor": (taken[1] - taken[0]) / max(memory_s, arithmetic_s),
        "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    }


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = Parser(prog="python -m benchmarks.epoch", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", default="dssdn-large", help="a name or a notation (default: dssdn-large)")
    parser.add_argument("--input", metavar="TxF", default="431x256", help="(default: 431x256)")
    parser.add_argument("--clips", type=int, default=TAU_CLIPS, help=f"generated (default: {TAU_CLIPS})")
    parser.add_argument("--batches", default="32,256", metavar="A,B", help="clips a step (default: 32,256)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    options = parser.parse_args(argv)
    batches = [int(text) for text in options.batches.split(",") if text.strip().isdigit()]
    if not batches or min(*batches, options.clips) < 1 or len(batches) != len(options.batches.split(",")):
        raise UserError(f"--batches {options.batches} and --clips {options.clips} are whole numbers of at least 1")
    console = open_console(stderr=options.json)
    device, size = resolve_device(options.device), parse_input(options.input)
    ceilings: dict[Any, float] = {"bandwidth": copy_bandwidth(device)}
    ceilings |= {dtype: matmul_rate(dtype, device=device) for dtype in (torch.float32, torch.bfloat16)}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else machine()["machine"]
    inputs = generated(options.clips, size, device)
    rows = [measure(options.network, inputs, batch, device, ceilings) for batch in batches]
    if options.json:
        rates = {str(key).removeprefix("torch."): value for key, value in ceilings.items() if key != "bandwidth"}
        report = {"device": name, "torch": torch.__version__, "copy_bytes_per_s": ceilings["bandwidth"]}
        json.dump({**report, "matmul_flop_per_s": rates, "cases": rows}, sys.stdout)
        print()
        return 0
    table = Table(
        *("batch", "epoch", "memory floor", "arithmetic floor", "ratio"),
        title=f"{options.network}, {options.clips:,} generated clips of {options.input}, {name}; seconds",
    )
    for row in rows:
        seconds = (row[key] for key in ("epoch_s", "memory_floor_s", "arithmetic_floor_s"))
        table.add_row(str(row["batch"]), *(f"{value:.1f}" for value in seconds), f"{row['ratio_to_floor']:.1f}")
    console.print(table)
    return 0


if __name__ == "__main__":
    run_command(main)
