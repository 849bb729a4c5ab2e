"""How long an answer takes: `python -m benchmarks.inference`, the inference form against the network as its equations read, in float32.

Milliseconds are of one clip. The reference has the allocator as it comes; `reference_kept_ms` is the reference with freed memory kept
(`trainers.memory`), as `model_ms`, the trained network in eval mode, and ours have it. Floors as in `benchmarks.train_step`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from rich.table import Table

from benchmarks.reference import reference
from benchmarks.speed import Side, copy_bandwidth, floors_ms, in_turn, machine, matmul_rate
from search_space.complexity import parse_input
from search_space.errors import Parser, UserError, open_console, run_command
from search_space.families import only_dssdn
from search_space.inference import inference_form
from search_space.model import Dssdn, build_model
from search_space.presets import resolve
from trainers.runs import available_cores

CASES = [((431, 256), 1), ((431, 256), 8), ((44, 256), 1), ((143, 64), 32)]
"""Inputs and batch sizes: 10 s of the paper, one clip and several; one second; what a study's candidates are judged on."""


def answer(side: str, network: str, size: tuple[int, int], batch: int) -> Callable[[], object]:
    """One answer of a side: 'reference', 'model' or 'ours'."""
    torch.manual_seed(0)
    model = build_model(network).eval()
    assert isinstance(model, Dssdn)
    asked = {"reference": reference, "model": lambda m: m, "ours": inference_form}[side](model)
    layout = torch.contiguous_format if side == "reference" else torch.channels_last
    logmel_BCTF = torch.randn(batch, 1, *size).contiguous(memory_format=layout)

    def run() -> None:
        with torch.inference_mode():
            asked(logmel_BCTF)

    return run


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = Parser(prog="python -m benchmarks.inference", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", default="dssdn-large", help="a name or a notation (default: dssdn-large)")
    parser.add_argument("--input", metavar="TxF", help="one input instead of the four cases")
    parser.add_argument("--batch", type=int, help="clips asked at once")
    parser.add_argument("--rounds", type=int, default=15, help="runs of each side (default: 15)")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    options = parser.parse_args(argv)
    for name in ("batch", "rounds", "threads"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"--{name} is at least 1, not {value}")
    console = open_console(stderr=options.json)
    threads = options.threads or available_cores()
    torch.set_num_threads(threads)
    architecture = only_dssdn(resolve(options.network), "this benchmark")
    cases = [(parse_input(options.input), 1)] if options.input else CASES
    bandwidth, rate = copy_bandwidth(), matmul_rate(torch.float32)
    report: dict[str, Any] = {**machine(), "precision": "float32", "rounds": options.rounds}
    report |= {"copy_bytes_per_s": bandwidth, "matmul_flop_per_s": {"float32": rate}, "cases": []}
    table = Table(
        "input", "reference", "kept", "model", "ours", "ratio", "kept", "floors", title=f"{options.network}, ms a clip"
    )
    for size, usual in cases:
        batch = options.batch or usual
        names = ("reference", "reference_kept", "model", "ours")
        sides = [
            Side(answer, (name.removesuffix("_kept"), str(architecture), size, batch), name != "reference", threads)
            for name in names
        ]
        taken = [1e3 * seconds / batch for seconds in in_turn(sides, options.rounds)]
        peaks = [side.close() for side in sides]
        memory, arithmetic = floors_ms(architecture, size, torch.float32, False, bandwidth, rate)
        row = {
            "input": f"{size[0]}x{size[1]}",
            "batch": batch,
            "architecture": str(architecture),
            **{f"{name}_ms": ms for name, ms in zip(names, taken, strict=True)},
            "ratio": taken[0] / taken[3],
            "ratio_kept": taken[1] / taken[3],
            "memory_floor_ms": memory,
            "arithmetic_floor_ms": arithmetic,
            "peak_bytes": peaks[3],
            "reference_peak_bytes": peaks[0],
        }
        report["cases"].append(row)
        floors = f"{memory:.1f}, {arithmetic:.1f}"
        ratios = (f"{row[key]:.2f}" for key in ("ratio", "ratio_kept"))
        table.add_row(f"{row['input']} x {batch}", *(f"{ms:.2f}" for ms in taken), *ratios, floors)
    if options.json:
        json.dump(report, sys.stdout)
        print()
        return 0
    console.print(table)
    console.print(f"{report['machine']}, {report['threads']} threads, torch {report['torch']}")
    return 0


if __name__ == "__main__":
    run_command(main)
