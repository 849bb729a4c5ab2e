"""Finished runs scored on the test split, each once: what confirms is scored after it has been chosen, never to choose
it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from trainers.datasets import Dataset
from trainers.features import Features
from trainers.inputs import load_inputs, stratified_subset
from trainers.loop import predictions
from trainers.metrics import scores
from trainers.recorded import load_model
from trainers.runs import Run


def score_test(
    runs: Sequence[Run],
    dataset: Dataset,
    features: Features,
    train_input: tuple[int, int],
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the test scores of those finished runs, trained at `train_input`, that have none yet; the others stay as
    they are.

    A network brings the normalisation of its training with it, so train is not read. Raises `UserError` for a run
    without weights.
    """
    inputs = load_inputs(dataset, features, size=train_input, splits=("test",), train_clips=1)
    zeros_F, ones_F = torch.zeros_like(inputs.mean_F), torch.ones_like(inputs.std_F)
    raw = dataclasses.replace(inputs, mean_F=zeros_F, std_F=ones_F)
    for done, run in enumerate(runs, start=1):
        if run.scores is None:
            said = predictions(load_model(run).to(device), raw, "test", device)
            run.write_predictions("test", said)
            recorders = _recorders_heard(dataset, run.config["clips"])
            run.write_json("scores.json", {"split": "test", **scores(said, dataset.classes, recorders)})
        progress(done, len(runs))


def _recorders_heard(dataset: Dataset, clips: int) -> set[str]:
    """The recorders of the training clips, of which a budget below their number takes a part (`load_inputs`)."""
    train = [dataset.clips[i] for i in dataset.splits.train]
    if clips < len(train):
        train = [train[i] for i in stratified_subset(train, clips)]
    return {clip.recorder for clip in train}
