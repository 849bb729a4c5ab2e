"""Is the embedded default data hard enough to be useful? `python -m benchmarks.synthetic_data [--network NAME] [--epochs N]`.

Makes the data anew in an empty cache (seconds), fits a linear classifier to mean log-mels, and trains one network: accuracies overall, per
scene and per recorder. The README's figures and the constants of `trainers/synthetic.py` come from here.

K classes, n clips, F mel bins.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch.nn.functional import cross_entropy

from search_space.errors import Parser, open_console, run_command
from search_space.presets import resolve
from studies.run import size_of
from trainers.config import default_train_input, get_recipe
from trainers.datasets import Dataset, open_dataset
from trainers.features import Features, prepare
from trainers.inputs import load_inputs
from trainers.loop import predictions, resolve_device, train
from trainers.metrics import scores


def linear_probe(dataset: Dataset, features: Features) -> dict[str, float]:
    """Val and test accuracy (0 to 1) of multinomial logistic regression on each clip's mean log-mel.

    The weight decay is the best of three on val, so that the comparison is generous to it.
    """
    mean_nF = np.stack([features.read([i])[0].mean(axis=0, dtype=np.float32) for i in range(len(dataset.clips))])
    train_rows = dataset.splits.train
    mean_nF = (mean_nF - mean_nF[train_rows].mean(axis=0)) / mean_nF[train_rows].std(axis=0).clip(1e-6)
    found = [_logistic_regression(mean_nF, dataset, weight_decay) for weight_decay in (1e-3, 1e-2, 1e-1)]
    return max(found, key=lambda accuracies: accuracies["val"])


def _logistic_regression(input_nF: NDArray[np.float32], dataset: Dataset, weight_decay: float) -> dict[str, float]:
    inputs, labels = torch.from_numpy(input_nF), torch.from_numpy(dataset.labels)
    layer = torch.nn.Linear(input_nF.shape[1], len(dataset.classes))
    torch.nn.init.zeros_(layer.weight)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=300)
    rows = torch.from_numpy(dataset.splits.train)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(layer(inputs[rows]), labels[rows]) + weight_decay * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    right = (layer(inputs).argmax(1) == labels).numpy()
    return {split: float(right[getattr(dataset.splits, split)].mean()) for split in ("train", "val", "test")}


def network(
    dataset: Dataset, features: Features, name: str, epochs: int, size: tuple[int, int], device: str
) -> dict[str, Any]:
    """Scores of a trained network on val and test, and the seconds its training took."""
    inputs = load_inputs(dataset, features, size=size, splits=("train", "val", "test"))
    where, began = resolve_device(device), time.perf_counter()
    clips = epochs * len(inputs.splits["train"])
    model = train(resolve(name), inputs, get_recipe("short"), clips, seed=0, device=where)
    seconds = time.perf_counter() - began
    heard = {clip.recorder for clip in inputs.splits["train"].clips}
    found = {
        split: scores(predictions(model, inputs, split, where), inputs.classes, heard) for split in ("val", "test")
    }
    return {"name": name, "epochs": epochs, "input": list(size), "seconds": seconds, **found}


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.synthetic_data", description=__doc__)
    parser.add_argument("--network", default="dssdn-small", help="preset or notation (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="passes over train (default: %(default)s)")
    parser.add_argument("--train-input", type=size_of, help="frames x mels (default: a candidate's)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args(argv)
    console = open_console(stderr=options.json)

    dataset = open_dataset("synthetic")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["DSSDN_CACHE"] = cache
        began = time.perf_counter()
        features = prepare(dataset)
        seconds = time.perf_counter() - began
        console.print(f"{len(dataset.clips):,} clips made in {seconds:.0f} s ({os.cpu_count()} cores)")
        linear = linear_probe(dataset, features)
        console.print(f"linear classifier on mean log-mel: val {linear['val']:.1%}, test {linear['test']:.1%}")
        size = options.train_input or default_train_input(features.size)
        trained = network(dataset, features, options.network, options.epochs, size, options.device)

    report = {
        "clips": len(dataset.clips),
        "cores": os.cpu_count(),
        "seconds": seconds,
        "linear": linear,
        "network": trained,
    }
    if options.json:
        json.dump(report, sys.stdout, indent=1)
        print()
        return 0
    val, test = trained["val"], trained["test"]
    console.print(
        f"{options.network}, {options.epochs} epochs at {size[0]}x{size[1]} in {trained['seconds']:.0f} s: val "
        f"{val['accuracy']:.1%}, test {test['accuracy']:.1%} (recorders heard in training {test['seen']:.1%}, others "
        f"{test['unseen']:.1%})"
    )
    for part, title in (("per_scene", "scene"), ("per_recorder", "recorder")):
        table = Table(title, "val", "test")
        for name, accuracy in test[part].items():
            table.add_row(name, f"{val[part][name]:.1%}" if name in val[part] else "", f"{accuracy:.1%}")
        console.print(table)
    return 0


if __name__ == "__main__":
    run_command(main)
