"""How long a training step takes: `python -m benchmarks.train_step [--sampled 20] [--compile]`, against the network as its equations read.

The reference is `benchmarks.reference`, in float32, with the allocator as it comes. Ours is what `trainers.loop` does. Milliseconds are of
one clip; `reference_kept_ms` is the reference with freed memory kept, as ours has it; floors are what the machine's copy bandwidth and
matrix products, measured in the same run, leave at best.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from rich.table import Table
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.reference import reference
from benchmarks.speed import Side, copy_bandwidth, floors_ms, in_turn, machine, matmul_rate
from search_space.complexity import parse_input
from search_space.errors import Parser, UserError, open_console, run_command
from search_space.families import only_dssdn
from search_space.model import Dssdn, build_model
from search_space.presets import resolve
from search_space.space import get_space
from trainers.config import get_recipe
from trainers.loop import _optimizer, bfloat16_pays
from trainers.runs import available_cores

CASES = [((431, 256), 8), ((143, 64), 32), ((72, 64), 32), ((43, 64), 32)]
"""Inputs and batch sizes: the paper's 10 s, and a third of the frames and a quarter of the mels of 10, 5 and 3 s."""


def step(side: str, network: str, size: tuple[int, int], batch: int) -> Callable[[], object]:
    """One training step of a side: 'reference', 'ours' or 'compiled'."""
    torch.manual_seed(0)
    model = build_model(network)
    assert isinstance(model, Dssdn)
    bfloat16 = side != "reference" and bfloat16_pays(torch.device("cpu"), model)
    trained: nn.Module = reference(model) if side == "reference" else model
    if side == "compiled":
        trained.compile(dynamic=False)
    optimizer = _optimizer(trained, get_recipe("short"))
    layout = torch.contiguous_format if side == "reference" else torch.channels_last
    logmel_BCTF = torch.randn(batch, 1, *size).contiguous(memory_format=layout)
    targets_BK = torch.eye(10)[torch.arange(batch) % 10]

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits_BK = trained(logmel_BCTF)
        loss = cross_entropy(logits_BK.float(), targets_BK)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return run


def measure(
    network: str,
    size: tuple[int, int],
    batch: int,
    rounds: int,
    threads: int,
    ceilings: dict[Any, float],
    compile: bool,
) -> dict[str, Any]:
    """The case's row of the report."""
    architecture = only_dssdn(resolve(network), "this benchmark")
    values = (str(architecture), size, batch)
    names = ["reference", "reference kept", "ours", *(["compiled"] if compile else [])]
    sides = [Side(step, (name.split()[0], *values), name not in ("reference",), threads) for name in names]
    taken = {name: 1e3 * s / batch for name, s in zip(names, in_turn(sides, rounds), strict=True)}
    peaks = {name: side.close() for name, side in zip(names, sides, strict=True)}
    bfloat16 = bfloat16_pays(torch.device("cpu"), build_model(architecture))
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    memory, arithmetic = floors_ms(architecture, size, dtype, True, ceilings["bandwidth"], ceilings[dtype])
    row = {
        "input": f"{size[0]}x{size[1]}",
        "batch": batch,
        "architecture": str(architecture),
        "precision": "bfloat16" if bfloat16 else "float32",
        "reference_ms": taken["reference"],
        "reference_kept_ms": taken["reference kept"],
        "ours_ms": taken["ours"],
        "ratio": taken["reference"] / taken["ours"],
        "ratio_kept": taken["reference kept"] / taken["ours"],
        "memory_floor_ms": memory,
        "arithmetic_floor_ms": arithmetic,
        "peak_bytes": peaks["ours"],
        "reference_peak_bytes": peaks["reference"],
    }
    if compile:
        row |= {
            "compiled_ms": taken["compiled"],
            "compiled_ratio": taken["reference"] / taken["compiled"],
            "compile_s": sides[-1].first_s,
        }
    return row


def sampled(number: int) -> list[str]:
    """Networks drawn from the wide space with a fixed seed."""
    rng, space = random.Random(0), get_space("dssdn-wide")
    return [str(space.sample(lambda _, options: rng.choice(options))) for _ in range(number)]


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = Parser(prog="python -m benchmarks.train_step", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", default="dssdn-large", help="a name or a notation (default: dssdn-large)")
    parser.add_argument("--input", metavar="TxF", help="one input instead of the four")
    parser.add_argument("--batch", type=int, help="clips a step (default: 8 at 431x256, else 32)")
    parser.add_argument(
        "--sampled", type=int, default=0, metavar="N", help="N networks of the wide space at 431x256 instead"
    )
    parser.add_argument("--compile", action="store_true", help="also ours with torch.compile")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side (default: 5)")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    options = parser.parse_args(argv)
    for name in ("batch", "rounds", "threads"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"--{name} is at least 1, not {value}")
    console = open_console(stderr=options.json)
    threads = options.threads or available_cores()
    torch.set_num_threads(threads)
    size = parse_input(options.input) if options.input else None
    if options.sampled:
        jobs = [(network, size or (431, 256), options.batch or 8) for network in sampled(options.sampled)]
    else:
        inputs = CASES if size is None else [(size, 8 if size[0] * size[1] > 50_000 else 32)]
        jobs = [(options.network, size, options.batch or batch) for size, batch in inputs]
    ceilings: dict[Any, float] = {t: matmul_rate(t) for t in (torch.bfloat16, torch.float32)}
    ceilings["bandwidth"] = copy_bandwidth()
    report: dict[str, Any] = {**machine(), "rounds": options.rounds, "cases": []}
    report["copy_bytes_per_s"] = ceilings["bandwidth"]
    report["matmul_flop_per_s"] = {str(t).removeprefix("torch."): ceilings[t] for t in (torch.bfloat16, torch.float32)}
    table = Table(
        "network", "input", "reference", "kept", "ours", "ratio", "kept", "floors", "compiled", title="ms a clip"
    )
    for network, size, batch in jobs:
        row = measure(network, size, batch, options.rounds, threads, ceilings, options.compile)
        report["cases"].append(row)
        console.print(f"{row['architecture']} {row['input']} x {batch}: {row['ratio']:.2f}")
        table.add_row(
            network, f"{row['input']} x {batch}",
            *(f"{row[key]:.1f}" for key in ("reference_ms", "reference_kept_ms", "ours_ms")),
            f"{row['ratio']:.2f}", f"{row['ratio_kept']:.2f}",
            f"{row['memory_floor_ms']:.1f}, {row['arithmetic_floor_ms']:.1f}",
            f"{row['compiled_ms']:.1f}" if options.compile else "",
        )  # fmt: skip
    ratios = [row["ratio"] for row in report["cases"]]
    report["median_ratio"], report["least_ratio"] = statistics.median(ratios), min(ratios)
    if options.json:
        json.dump(report, sys.stdout)
        print()
        return 0
    console.print(table)
    console.print(f"median ratio {report['median_ratio']:.2f}, least {report['least_ratio']:.2f}; {report['machine']}")
    return 0


if __name__ == "__main__":
    run_command(main)
