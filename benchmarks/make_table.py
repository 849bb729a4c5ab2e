"""Every network of a small space, trained: `python -m benchmarks.make_table [--data FOLDER]` writes the table that `benchmarks.search` replays.

Each network is trained with every seed by the recipe of a study that stops trainings early, and scored at its rungs. A row is written as
its training ends, so the same command goes on after a kill; the finished table lies in `benchmarks/tables`, with its provenance beside it.
"""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from search_space.complexity import count
from search_space.errors import Parser, UserError, open_console, run_command
from search_space.space import Choice, Space
from studies.analysis import Signal, signal
from studies.plans import check_train_input
from studies.run import count_of, size_of
from trainers.config import default_budget, default_train_input, get_recipe
from trainers.datasets import DEFAULT_FOLD
from trainers.inputs import data_record
from trainers.loop import Diverged, rung_clips
from trainers.opening import open_data
from trainers.runs import available_cores, held, provenance, write_atomic
from trainers.workers import WorkerTask, default_workers, shared_devices, stopping, train_candidate, worker_pool

TABLES = Path(__file__).parent / "tables"
_FIXED = ("architecture", "params", "macs", "seed", "seconds")


class _SmallSpace(Space):
    """A space whose operators have one option each, so that depth, widths and split ratio fill the table."""

    @cached_property
    def _choices(self) -> tuple[Choice, ...]:
        only: dict[str, tuple[int | float, ...]] = {"osc_mid": (8,), "partial_ratio": (0.25,)}
        return tuple(choice._replace(options=only.get(choice.name, choice.options)) for choice in super()._choices)


# Assumed: 144 networks of 2 to 4 blocks and 8 to 40 channels, small enough to train all of them, different enough to be told apart.
SPACE = _SmallSpace(
    "table",
    per_block=False,
    depths=(2, 3, 4),
    stems=(8, 12, 16, 24),
    growths=(0, 8),
    split_ratios=(0.25, 0.5),
)


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = Parser(prog="python -m benchmarks.make_table", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", metavar="FOLDER", help="as in studies.run")
    parser.add_argument("--subset", help="as in studies.run")
    parser.add_argument("--fold", type=int, default=DEFAULT_FOLD, help="as in studies.run")
    parser.add_argument("--budget", type=count_of, help="clips a network sees (default: a study's)")
    parser.add_argument("--train-input", type=size_of, metavar="TxF", help="frames x mels (default: a study's)")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--networks", type=int, help="only the first so many, to try it out (default: all)")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--name", help="the table's name (default: the data's)")
    parser.add_argument(
        "--out", type=Path, default=TABLES, metavar="DIR", help="where tables lie (default: benchmarks/tables)"
    )
    options = parser.parse_args(argv)
    for name in ("seeds", "networks", "workers"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"--{name} is at least 1, not {value}")
    console = open_console(stderr=False)
    dataset, features = open_data(console, options.data, options.subset, options.fold)
    size, classes = features.size, len(dataset.classes)
    train_input = options.train_input or default_train_input(size)
    check_train_input(train_input, size)
    budget = options.budget or default_budget(classes)
    recipe = get_recipe("rungs")
    networks = [str(network) for network in SPACE][: options.networks]
    data = data_record(dataset, features)
    about = {
        "name": options.name or dataset.name,
        "data": {**data, **{key: data[key] and Path(data[key]).name for key in ("source", "subset")}},
        "n_classes": classes,
        "space": {"name": SPACE.name, "digest": SPACE.digest, "size": SPACE.size, "choices": SPACE.choices},
        "networks": len(networks),
        "seeds": options.seeds,
        "budget": budget,
        "rungs": rung_clips(recipe, budget),
        "input": size,
        "train_input": train_input,
        "recipe": recipe.record(),
    }
    about = json.loads(json.dumps(about))  # as it reads when it is read back
    path = options.out / f"{about['name']}.csv"
    options.out.mkdir(parents=True, exist_ok=True)
    with held(
        path.with_suffix(".lock"), f"{path} is being made by another process; wait for it or give another --name"
    ):
        rows = _begun(path, about)
        wanted = [(text, seed) for seed in range(options.seeds) for text in networks]
        missing = [key for key in wanted if key not in rows]
        console.print(f"{path}: {len(wanted) - len(missing)} of {len(wanted)} trainings are there", soft_wrap=True)
        devices = shared_devices("auto")
        workers = options.workers or default_workers(devices)
        threads = max(1, available_cores() // workers)
        task = WorkerTask(dataset, features.digest, train_input, recipe, budget, threads)
        began = time.monotonic()
        if missing:
            pool, stop = worker_pool(task, workers, devices)
            with tempfile.TemporaryDirectory() as folder, stopping(pool, stop):
                futures = {}
                for number, (text, seed) in enumerate(missing):
                    config = {"architecture": text, "seed": seed, "data": about["data"], "recipe": about["recipe"]}
                    config |= {"clips": budget, "command": "benchmarks.make_table"}
                    at = str(Path(folder) / str(number))
                    futures[pool.submit(train_candidate, text, at, config)] = (text, seed)
                for done, future in enumerate(as_completed(futures), start=1):
                    text, seed = futures[future]
                    try:
                        result = future.result()
                    except (BrokenProcessPool, Diverged) as error:
                        raise UserError(f"{text} with seed {seed} could not be trained: {error}") from error
                    cost = count(text, size, classes)
                    curve = {str(clips): score for clips, score in result["rungs"].items()}
                    row = {"architecture": text, "params": cost.params, "macs": cost.macs, "seed": seed}
                    row |= {"seconds": result["seconds"], **curve, str(budget): result["val_accuracy"]}
                    rows[text, seed] = row
                    with path.open("a", newline="") as file:
                        csv.DictWriter(file, _columns(about), lineterminator="\n").writerow(row)
                    left = (time.monotonic() - began) / done * (len(missing) - done)
                    console.print(
                        f"{done}/{len(missing)}  {text}  seed {seed}  val {result['val_accuracy']:.1%}  {left / 60:.0f} min left",
                        soft_wrap=True,
                    )
        table = io.StringIO()
        writer = csv.DictWriter(table, _columns(about), lineterminator="\n")
        writer.writeheader()
        everything = dict.fromkeys([*wanted, *rows])  # those of an earlier command that asked for more stay, behind
        writer.writerows(rows[key] for key in everything)
        write_atomic(path, lambda file: file.write(table.getvalue().encode()))
        about |= {"networks": len({text for text, _ in rows}), "seeds": len({seed for _, seed in rows})}
        seconds = sum(float(row["seconds"]) for row in rows.values())
        whole = len(rows) == about["networks"] * about["seeds"] and min(about["networks"], about["seeds"]) > 1
        found = signals(pd.read_csv(path), about["rungs"]) if whole else {}
        shown = {
            clips: {"ratio": _finite(of.ratio), "between_sd": of.between_sd, "seed_sd": of.seed_sd}
            for clips, of in found.items()
        }
        made = _without_folders(provenance(threads=threads, workers=workers, trained_s=round(seconds)))
        _write_json(path.with_suffix(".json"), {**about, "signal": shown, "provenance": made})
    for clips, of in found.items():
        console.print(
            f"{clips:>6,} clips: between architectures {100 * of.between_sd:.1f} points, seeds {100 * of.seed_sd:.1f}, "
            f"ratio {of.ratio:.1f}, rank correlation across seeds {of.rank_correlation:.2f}",
            soft_wrap=True,
        )
    return 0


def signals(table: pd.DataFrame, rungs: Iterable[int]) -> dict[int, Signal]:
    """`studies.analysis.signal` at every rung of a table."""
    return {
        clips: signal(table.pivot(index="architecture", columns="seed", values=str(clips)).to_numpy())
        for clips in rungs
    }


def _begun(path: Path, about: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    """The rows that are there already; a line torn by a kill is cut off. Raises `UserError` for a table of something else."""
    beside = path.with_suffix(".json")
    if not beside.exists():
        path.write_text(",".join(_columns(about)) + "\n")
        _write_json(beside, about)
    then = json.loads(beside.read_text("utf-8"))
    # A row holds in a larger space and beside other seeds as well.
    different = [key for key in about if key not in ("space", "networks", "seeds") and then.get(key) != about[key]]
    if different:
        raise UserError(
            f"{path} was made with something else ({', '.join(different)}); give the same options, or another --name"
        )
    content = path.read_text("utf-8")
    if not content.endswith("\n"):
        content = content[: content.rfind("\n") + 1]
        path.write_text(content)
    return {(row["architecture"], int(row["seed"])): row for row in csv.DictReader(io.StringIO(content))}


def _without_folders(made: dict[str, Any]) -> dict[str, Any]:
    """The same without the folders of this machine in the command: tables are handed on."""
    words = (word.rstrip("/") for word in shlex.split(made["command"]))
    return {**made, "command": shlex.join(Path(word).name if "/" in word else word for word in words)}


def _columns(about: dict[str, Any]) -> list[str]:
    return [*_FIXED, *map(str, about["rungs"])]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_atomic(path, lambda file: file.write(text.encode()))


if __name__ == "__main__":
    run_command(main)
