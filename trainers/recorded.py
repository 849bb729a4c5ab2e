"""A training that leaves its run folder behind: curve, status, weights, predictions, and, if asked, a checkpoint every epoch."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from search_space.architecture import Architecture
from search_space.errors import UserError
from search_space.model import build_model
from trainers.config import Recipe
from trainers.inputs import Inputs
from trainers.loop import Epoch, Stopped, n_epochs, named_predictions, predictions, train
from trainers.runs import Predictions, Run, write_atomic

_MEAN, _STD = "normalise.mean_F", "normalise.std_F"


class Normalise(nn.Module):
    """Log-mel (B, 1, T, F) with every mel bin at train's mean 0 and deviation 1: the first step of a network that is handed out."""

    def __init__(self, mean_F: Tensor, std_F: Tensor) -> None:
        super().__init__()
        self.mean_F, self.std_F = nn.Buffer(mean_F), nn.Buffer(std_F)

    def forward(self, logmel_BCTF: Tensor) -> Tensor:
        """(B, 1, T, F) to (B, 1, T, F)."""
        return (logmel_BCTF - self.mean_F) / self.std_F


def train_recorded(
    run: Run,
    network: str | Architecture,
    inputs: Inputs,
    recipe: Recipe,
    clips: int,
    seed: int,
    device: torch.device,
    *,
    keep_checkpoints: bool = False,
    resume: bool = False,
    on_epoch: Callable[[dict[str, Any], float], None] = lambda row, eta_s: None,
    on_batch: Callable[[], None] = lambda: None,
) -> tuple[nn.Module, Predictions]:
    """The trained network and its predictions on val, with everything in the run's folder but its configuration and test scores.

    With `keep_checkpoints` val is scored every epoch and the state kept after each, so that `resume` goes on exactly where the last
    finished epoch ended. The weights are those of the last epoch: nothing is chosen. `on_epoch` gets the epoch's row and the seconds left.
    Raises what `trainers.loop.train` raises, after the status says so.
    """
    epochs = n_epochs(clips, len(inputs.splits["train"]), recipe)
    start = _load_checkpoint(run) if resume else None
    rows: list[dict[str, Any]] = list(start["rows"]) if start else []
    run.write_metrics(rows)
    run.write_status("running", epoch=len(rows), epochs=epochs)
    began, before = time.monotonic(), len(rows)
    judged: tuple[np.ndarray, np.ndarray] | None = None

    def finish(epoch: Epoch) -> None:
        nonlocal judged
        judged = epoch.judged
        rows.append(epoch.row)
        if keep_checkpoints:
            _save_checkpoint(run, epoch, rows)
        run.append_metrics(epoch.row)
        eta_s = (time.monotonic() - began) / (len(rows) - before) * (epochs - len(rows))
        run.write_status("running", epoch=len(rows), epochs=epochs, eta_s=round(eta_s, 1))
        on_epoch(epoch.row, eta_s)

    validate = "every" if keep_checkpoints else "last"
    try:
        model = train(
            *(network, inputs, recipe, clips, seed, device),
            validate=validate,
            start=start,
            on_epoch=finish,
            on_batch=on_batch,
        )
        said = named_predictions(judged, inputs.splits["val"]) if judged else predictions(model, inputs, "val", device)
        save_weights(run, model, inputs)
        run.write_predictions("val", said)
    except BaseException as error:
        failed = isinstance(error, Exception) and not isinstance(error, Stopped)
        run.write_status(
            "failed" if failed else "interrupted",
            epoch=len(rows),
            epochs=epochs,
            error=f"{type(error).__name__}: {error}" if failed else None,
        )
        raise
    return model, said


def save_weights(run: Run, model: nn.Module, inputs: Inputs) -> None:
    """Keep the network's parameters and buffers beside the normalisation of its input, in one safetensors file."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    tensors |= {_MEAN: inputs.mean_F, _STD: inputs.std_F}
    write_atomic(run.weights_path, lambda file: file.write(save(tensors)))


def load_model(run: Run) -> nn.Sequential:
    """The run's network with its weights, in eval mode on the CPU: raw log-mel (B, 1, T, F) in, logits (B, K) out.

    T x F is the size it was trained at (`run.config["train_input"]`). Raises `UserError` when the weights are missing or another network's.
    """
    config = run.config
    if not run.weights_path.exists():
        raise UserError(f"{run.path} has no weights: its training has not finished")
    tensors = load_file(run.weights_path)
    model = build_model(config["architecture"], len(config["data"]["classes"]), config["train_input"][1])
    normalise = Normalise(tensors.pop(_MEAN), tensors.pop(_STD))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(
            f"{run.weights_path} holds the weights of another network than {config['architecture']}"
        ) from error
    return nn.Sequential(normalise, model).eval()


def _save_checkpoint(run: Run, epoch: Epoch, rows: list[dict[str, Any]]) -> None:
    state = {
        "identity": _identity(run),
        "epoch": len(rows),
        "rows": rows,
        "model": epoch.model.state_dict(),
        "optimizer": epoch.optimizer.state_dict(),
    }
    write_atomic(run.path / "checkpoint.pt", lambda file: torch.save(state, file))


def _load_checkpoint(run: Run) -> dict[str, Any] | None:
    path = run.path / "checkpoint.pt"
    if not path.exists():
        return None
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is torn or no checkpoint at all; delete the run's folder to start again")
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    if state.get("identity") != _identity(run):
        raise UserError(
            f"{path} belongs to another training than {run.path / 'run.json'}; delete the run's folder to start again"
        )
    return state


def _identity(run: Run) -> str:
    """What a checkpoint must agree with: network, recipe, length, seed and data."""
    config = run.config
    return "|".join(str(config[key]) for key in ("architecture", "recipe", "clips", "seed")) + config["data"]["digest"]
