"""How long a study's candidate takes: `python -m benchmarks.trial [--data FOLDER] [--networks 4]`, against a plain program that does the same.

Ours is what a study's worker does: `trainers.recorded.train_recorded`, with augmentation, validation and all that a run leaves behind. The
reference sees as many clips, augmented in the same way, one after the other as a data loader brings them, and trains `benchmarks.reference` in
float32 (NCHW, with the allocator as it comes). Each side is a process of one thread, as a study's workers are. `steps_s` is what ours would
take if batches came from nowhere: the rest is data, augmentation, validation, files.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch.nn.functional import cross_entropy, one_hot

from benchmarks.reference import reference
from benchmarks.speed import Side, copy_bandwidth, floors_ms, in_turn, machine, matmul_rate
from benchmarks.train_step import step
from search_space.errors import Parser, UserError, open_console, run_command
from search_space.families import only_dssdn
from search_space.model import Dssdn, build_model
from search_space.presets import resolve
from search_space.space import get_space
from studies.run import count_of
from trainers.augment import Moment, augment
from trainers.config import default_budget, default_train_input, get_recipe
from trainers.datasets import Dataset
from trainers.features import prepare
from trainers.inputs import Inputs, load_inputs
from trainers.loop import bfloat16_pays, schedule
from trainers.opening import open_data
from trainers.recorded import train_recorded
from trainers.runs import Run


def plain_trial(network: str, inputs: Inputs, clips: int) -> float:
    """The val accuracy (0 to 1) of the network as its equations read, trained clip by clip in Python."""
    torch.manual_seed(0)
    recipe = get_recipe("short")
    built = build_model(network, len(inputs.classes), inputs.size[1])
    assert isinstance(built, Dssdn)
    model, train = reference(built), inputs.splits["train"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    generator, cpu = torch.Generator().manual_seed(0), torch.device("cpu")
    order = torch.cat([torch.randperm(len(train), generator=generator) for _ in range(-(-clips // len(train)))])[:clips]
    for number, index_B in enumerate(order.split(recipe.batch_size)):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * schedule(recipe, (number + 0.5) * recipe.batch_size / clips)
        moment = Moment(number * recipe.batch_size / clips, 0)
        brought = []
        for index in index_B:
            logmel_BTF = inputs.normalise(train.batch(index.unsqueeze(0), cpu))
            target_BK = one_hot(train.labels_N[index].unsqueeze(0), len(inputs.classes)).float()
            brought.append(augment(logmel_BTF, target_BK, recipe, moment, generator, None))
        logits_BK = model(torch.cat([logmel_BTF for logmel_BTF, _ in brought]).unsqueeze(1))
        targets_BK = torch.cat([target_BK for _, target_BK in brought])
        loss = cross_entropy(logits_BK, targets_BK, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    val, right = inputs.splits["val"], 0
    model.eval()
    with torch.no_grad():
        for index_B in torch.arange(len(val)).split(recipe.batch_size):
            logits_BK = model(inputs.normalise(val.batch(index_B, cpu)).unsqueeze(1))
            right += int((logits_BK.argmax(1) == val.labels_N[index_B]).sum())
    return right / len(val)


def trial(
    side: str, network: str, dataset: Dataset, train_input: tuple[int, int], clips: int, folder: str
) -> Callable[[], object]:
    """One candidate of a side: 'reference', 'ours', or 'steps', which is ours without all that is around its steps.

    The first two leave their val accuracy in a file of that name in the folder.
    """
    recipe = get_recipe("short")
    if side == "steps":
        one = step("ours", network, train_input, recipe.batch_size)
        return lambda: [one() for _ in range(math.ceil(clips / recipe.batch_size))]
    inputs = load_inputs(dataset, prepare(dataset), size=train_input, train_clips=clips)
    run = Run(Path(folder))

    def train() -> None:
        if side == "reference":
            accuracy = plain_trial(network, inputs, clips)
        else:
            _, said = train_recorded(run, network, inputs, recipe, clips, 0, torch.device("cpu"))
            accuracy = said.accuracy
        (Path(folder) / side).write_text(str(accuracy))

    return train


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = Parser(prog="python -m benchmarks.trial", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", metavar="FOLDER", help="as in studies.run")
    parser.add_argument("--subset", help="as in studies.run")
    parser.add_argument(
        "--networks", type=int, default=4, help="drawn from the space, beside dssdn-middle (default: 4)"
    )
    parser.add_argument("--budget", type=count_of, metavar="CLIPS", help="clips a candidate sees (default: a study's)")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each side (default: 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    options = parser.parse_args(argv)
    if options.networks < 0 or options.rounds < 1:
        raise UserError("--networks is at least 0, --rounds at least 1")
    console = open_console(stderr=options.json)
    dataset, features = open_data(console, options.data, options.subset)
    train_input = default_train_input(features.size)
    clips = options.budget or default_budget(len(dataset.classes))
    rng, space = random.Random(0), get_space("dssdn")
    drawn = [str(space.sample(lambda _, choices: rng.choice(choices))) for _ in range(options.networks)]
    torch.set_num_threads(1)
    dtype = torch.bfloat16 if bfloat16_pays(torch.device("cpu"), build_model("dssdn-middle")) else torch.float32
    bandwidth, rate = copy_bandwidth(), matmul_rate(dtype)
    report: dict[str, Any] = {
        **machine(),
        "data": {"name": dataset.name, "synthetic": dataset.synthetic},
        "train_input": list(train_input),
        "clips": clips,
        "val_clips": len(dataset.splits.val),
        "rounds": options.rounds,
        "cases": [],
    }
    synthetic = " (synthetic data)" if dataset.synthetic else ""
    frames, mels = train_input
    table = Table(
        *("network", "reference", "ours", "its steps", "ratio", "floors", "val: reference", "ours"),
        title=f"seconds a candidate: {clips:,} clips of {dataset.name}{synthetic} at {frames}x{mels}",
    )
    for network in [str(resolve("dssdn-middle")), *drawn]:
        with tempfile.TemporaryDirectory() as folder:
            names = ("reference", "ours", "steps")
            sides = [
                Side(trial, (name, network, dataset, train_input, clips, folder), name != "reference", 1, warm_up=False)
                for name in names
            ]
            reference_s, ours_s, steps_s = in_turn(sides, options.rounds)
            peaks = [side.close() for side in sides]
            reference_val, ours_val = (float((Path(folder) / name).read_text()) for name in ("reference", "ours"))
        memory, arithmetic = floors_ms(
            only_dssdn(resolve(network), "this benchmark"), train_input, dtype, True, bandwidth, rate
        )
        row = {
            "architecture": network,
            "reference_s": reference_s,
            "ours_s": ours_s,
            "steps_s": steps_s,
            "ratio": reference_s / ours_s,
            "memory_floor_s": 1e-3 * memory * clips,
            "arithmetic_floor_s": 1e-3 * arithmetic * clips,
            "reference_val_accuracy": reference_val,
            "val_accuracy": ours_val,
            "peak_bytes": peaks[1],
            "reference_peak_bytes": peaks[0],
        }
        report["cases"].append(row)
        console.print(f"{network}: ratio {row['ratio']:.2f}", soft_wrap=True)
        seconds = (f"{value:.1f}" for value in (reference_s, ours_s, steps_s))
        floors = ", ".join(f"{row[key]:.1f}" for key in ("memory_floor_s", "arithmetic_floor_s"))
        table.add_row(network, *seconds, f"{row['ratio']:.2f}", floors, f"{reference_val:.1%}", f"{ours_val:.1%}")
    report["ratio_median"] = statistics.median(row["ratio"] for row in report["cases"])
    if options.json:
        json.dump(report, sys.stdout)
        print()
        return 0
    console.print(table)
    console.print(
        f"median ratio {report['ratio_median']:.2f}; {report['machine']}, one thread a side, torch {report['torch']}"
    )
    return 0


if __name__ == "__main__":
    run_command(main)
