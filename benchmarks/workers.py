"""How many workers a study keeps busy: `python -m benchmarks.workers [--workers 1,2,4,8] [--seconds 5]`, on a journal and on PostgreSQL.

The trainings are a stand-in that sleeps for a fixed time (`benchmarks.stand_in`), so that workers need no cores and what is missing to
an efficiency of 1 is the time for asking, claiming and telling. On PostgreSQL the workers are also shared out over two processes, each with
its own runs folder, that stand for two machines: both begin when both are ready, and the total is that of the study.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.speed import machine
from benchmarks.stand_in import postgresql, write_noise
from search_space.errors import Parser, UserError, open_console, run_command
from studies import open_study

_ROOT = Path(__file__).parent.parent


def measure(place: Path, storage: str | None, machines: int, workers: int, each: int, seconds: float) -> dict[str, Any]:
    """One study of `each` stand-ins a worker: how long it took, and the efficiency, which is the time slept over the time paid for."""
    name = f"{machines}x{workers // machines}"
    trials = each * workers
    barrier = place / f"barrier-{name}-{'database' if storage else 'journal'}"
    barrier.mkdir()
    study = f"stand-in-{name}"
    values: dict[str, Any] = {"study": study, "trials": trials, "workers": workers // machines, "seconds": seconds}
    values |= {"data": place / "data", "barrier": barrier, "machines": machines}
    commands = [
        [sys.executable, "-m", "benchmarks.stand_in", "--json", "--runs", str(barrier / f"runs-{index}")]
        + [word for key, value in values.items() for word in (f"--{key}", str(value))]
        + (["--storage", storage] if storage else [])
        for index in range(machines)
    ]
    processes = [
        subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    printed = [process.communicate() for process in processes]
    for process, (_, said) in zip(processes, printed, strict=True):
        if process.returncode:
            raise UserError(f"a machine of {name} ended with {process.returncode}: {said.strip().splitlines()[-1:]}")
    reports = [json.loads(report) for report, _ in printed]
    took_s = max(report["ended"] for report in reports) - min(report["began"] for report in reports)
    states = open_study(study, barrier / "runs-0", storage).trials()["state"].value_counts()
    return {
        "storage": "postgresql" if storage else "journal",
        "machines": machines,
        "workers": workers,
        "trials": trials,
        "complete": int(states["complete"]),
        "duplicates": int(states.get("duplicate", 0)),
        "finished_by_machine": [report["finished"] for report in reports],
        "seconds": took_s,
        "efficiency": trials * seconds / (workers * took_s),
    }


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = Parser(prog="python -m benchmarks.workers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workers", default="1,2,4,8", help="numbers of workers, 1 to 8 (default: 1,2,4,8)")
    parser.add_argument("--seconds", type=float, default=5.0, help="that a stand-in sleeps (default: 5)")
    parser.add_argument("--each", type=int, default=8, metavar="N", help="stand-ins a worker (default: 8)")
    parser.add_argument(
        "--storage",
        default="postgresql",
        metavar="URL",
        help="a database beside the journal; 'postgresql' is a temporary one, 'none' none (default: postgresql)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    options = parser.parse_args(argv)
    try:
        numbers = [int(number) for number in options.workers.split(",")]
    except ValueError as error:
        raise UserError(f"--workers is a list such as 1,2,4, not {options.workers!r}") from error
    if not all(1 <= number <= 8 for number in numbers) or options.each < 1 or options.seconds <= 0:
        raise UserError(
            f"--workers are from 1 to 8, --each is at least 1 and --seconds more than 0; got {options.workers}, {options.each} and "
            f"{options.seconds:g}"
        )
    console = open_console(stderr=options.json)
    rows = []
    temporary = postgresql() if options.storage == "postgresql" else nullcontext(options.storage)
    with tempfile.TemporaryDirectory() as folder, nullcontext() if options.storage == "none" else temporary as database:
        place = Path(folder)
        write_noise(place / "data")
        cases: list[tuple[str | None, int, int]] = [(None, 1, number) for number in numbers]
        if database is not None:
            cases += [(database, 1, number) for number in numbers]
            cases += [(database, 2, number) for number in numbers if number % 2 == 0]
        for storage, machines, workers in cases:
            row = measure(place, storage, machines, workers, options.each, options.seconds)
            rows.append(row)
            console.print(
                f"{row['storage']}, {machines} machine(s), {workers} worker(s): efficiency {row['efficiency']:.2f}"
            )
    report = {**machine(), "stand_in": True, "stand_in_seconds": options.seconds, "cases": rows}
    if options.json:
        json.dump(report, sys.stdout)
        print()
        return 0
    table = Table(
        *("storage", "machines", "workers", "trials", "seconds", "efficiency"),
        title=f"stand-ins that sleep for {options.seconds:g} s instead of training",
    )
    for row in rows:
        counts = (str(row[key]) for key in ("machines", "workers", "complete"))
        table.add_row(row["storage"], *counts, f"{row['seconds']:.1f}", f"{row['efficiency']:.2f}")
    console.print(table)
    return 0


if __name__ == "__main__":
    run_command(main)
