"""A training that leaves its run folder behind: curve, status, weights, predictions, and, if asked, checkpoints.

A checkpoint is written beside the last one and takes its name, which takes the name of the one before: at any moment of a kill one of
the two is whole. Which of them is good is read from the file itself: its sums and whose it is.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from search_space.complexity import count_network
from search_space.errors import UserError
from search_space.families import Network
from search_space.model import build_model
from trainers.config import Recipe
from trainers.inputs import Inputs
from trainers.loop import Course, Epoch, Paused, State, Stopped, n_epochs, named_predictions, predictions, train
from trainers.memory import is_memory_full
from trainers.metrics import log_loss
from trainers.quantisation import FakeQuantised, converted, load_int8, post_training, save_int8
from trainers.runs import INT8, Predictions, Run, write_atomic

# Assumed: no more than that of an epoch is lost by a kill, and saving takes no share of the time that matters.
SAVE_EVERY_S = 300.0
# Assumed: as often as a page looks.
STATUS_EVERY_S = 5.0
CHECKPOINT, PREVIOUS, REFUSED = "checkpoint.pt", "checkpoint.previous.pt", "checkpoint.refused.pt"
MEAN, STD = "normalise.mean_F", "normalise.std_F"


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
    network: str | Network,
    inputs: Inputs,
    recipe: Recipe,
    clips: int,
    seed: int,
    device: torch.device,
    *,
    accumulate: int = 1,
    like: str | Network | None = None,
    keep_checkpoints: bool = False,
    resume: bool = False,
    pause: Callable[[int, float], bool] = lambda clips, val_accuracy: False,
    on_epoch: Callable[[dict[str, Any], float], None] = lambda row, eta_s: None,
    check: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[nn.Module, Predictions]:
    """The trained network and its predictions on val, with everything in the run's folder but its configuration and test scores.

    With `keep_checkpoints` val is scored every epoch and the state kept after each, every few minutes within one and when the training is
    stopped, so that `resume` goes on exactly there; `say` hears of a checkpoint that is refused. The weights are those of the last epoch:
    nothing is chosen. Where the recipe has cycles, val is scored at the end of each (`rung_clips`), a row of the curve with the key `rung`;
    where `pause`, asked with the rung's clips and val accuracy (0 to 1), then says so, the state is kept for `resume` and `Paused` raised.
    `like` is as for `train`. `on_epoch` gets the epoch's row and the seconds left; `check` is called before every batch and raises `Stopped` to stop.

    Raises what `trainers.loop.train` raises, after the status says so, and `UserError` where no checkpoint can be read.
    """
    n_train = len(inputs.splits["train"])
    epochs = n_epochs(clips, n_train, recipe)
    start = _load_checkpoint(run, say) if resume else None
    rows: list[dict[str, Any]] = list(start["rows"]) if start else []
    status = _Status(run, epochs, clips, begun_at=_seen(start, n_train) if start else 0)
    judged: tuple[np.ndarray, np.ndarray] | None = None
    became: tuple[str, list[dict[str, Any]]] = str(network), []
    if start:
        became = start.get("network", became[0]), start.get("history", became[1])
    saved_s = time.monotonic()

    def save(state: State, curve: list[dict[str, Any]]) -> None:
        nonlocal saved_s
        if keep_checkpoints and all(bool(tensor.isfinite().all()) for tensor in state["model"].values()):
            _save_checkpoint(run, state, curve)
            saved_s = time.monotonic()

    def before_batch(course: Course) -> None:
        try:
            check()
        except Stopped:
            save(course.state(), rows)
            raise
        if time.monotonic() - saved_s > SAVE_EVERY_S:
            save(course.state(), rows)
        if time.monotonic() - status.written_s > STATUS_EVERY_S:
            status.running(_epochs(rows), course.epoch * n_train + course.clips)

    def at_rung(course: Course, rung: int, seen: int) -> None:
        said = predictions(course.model, inputs, "val", device)
        row = {
            "epoch": round(seen / n_train, 3),
            "rung": rung,
            "clips_seen": seen,
            "val_accuracy": said.accuracy,
            "val_loss": log_loss(said.probabilities_NK, said.labels_N),
        }
        rows.append(row)
        run.append_metrics(row)
        if pause(rung, said.accuracy):
            _save_checkpoint(run, course.state(), rows)
            raise Paused(rung, said.accuracy)

    def finish(epoch: Epoch) -> None:
        nonlocal judged, became
        judged = epoch.judged
        if history := epoch.state["history"]:
            epoch.row["params"] = history[-1]["params"]
        became = epoch.state["network"], epoch.state["history"]
        _write_final(run, *became)
        save(epoch.state, [*rows, epoch.row])
        rows.append(epoch.row)  # finished once it is kept
        run.append_metrics(epoch.row)
        status.running(_epochs(rows), epoch.row["clips_seen"])
        on_epoch(epoch.row, status.eta_s or 0.0)

    try:
        run.write_metrics(rows)
        _write_final(run, *became)
        status.running(_epochs(rows), status.begun_at)
        model = train(
            *(network, inputs, recipe, clips, seed, device),
            validate="every" if keep_checkpoints else "last",
            accumulate=accumulate,
            like=like,
            start=start,
            on_epoch=finish,
            on_batch=before_batch,
            on_rung=at_rung,
        )
        if recipe.precision == "float32":
            said = (
                named_predictions(judged, inputs.splits["val"]) if judged else predictions(model, inputs, "val", device)
            )
            save_weights(run, model, inputs)
        else:
            model, said = _quantised(run, model, became, recipe.precision, inputs, rows, device)
        run.write_predictions("val", said)
    except BaseException as error:
        with contextlib.suppress(OSError):  # on a full disk the old status stays, of a process that is gone
            status.ended(_epochs(rows), error)
        raise
    return model, said


@dataclass
class _Status:
    """The run's status.json, and what it needs to say how long the rest takes."""

    run: Run
    epochs: int
    clips: int
    begun_at: int
    """Clips that earlier processes had seen."""
    eta_s: float | None = None
    written_s: float = 0.0
    _began: float = field(default_factory=time.monotonic)

    def running(self, epoch: int, seen: int) -> None:
        if seen > self.begun_at:
            self.eta_s = (time.monotonic() - self._began) / (seen - self.begun_at) * max(0, self.clips - seen)
        eta_s = None if self.eta_s is None else round(self.eta_s, 1)
        self.run.write_status("running", epoch=epoch, epochs=self.epochs, clips_seen=seen, eta_s=eta_s)
        self.written_s = time.monotonic()

    def ended(self, epoch: int, error: BaseException) -> None:
        failed = isinstance(error, Exception) and not isinstance(error, Stopped)
        said = f"{type(error).__name__}: {error}" if failed else None
        state = "failed" if failed else "paused" if isinstance(error, Paused) else "interrupted"
        self.run.write_status(state, epoch=epoch, epochs=self.epochs, error=said)


def _epochs(rows: list[dict[str, Any]]) -> int:
    return sum("rung" not in row for row in rows)


def _seen(state: State, n_train: int) -> int:
    return int(state["epoch"] * n_train + state.get("clips", 0))


def _write_final(run: Run, network: str, history: list[dict[str, Any]], **quantised: Any) -> None:
    """Keep in the run's record what the network has become so far, where it is another one than it began as."""
    if not history and not quantised:
        return
    config = run.config
    size, n_classes = tuple(config["input"]), len(config["data"]["classes"])
    cost = count_network(network, size, n_classes)
    steps = [{**step, "macs": count_network(step["architecture"], size, n_classes).macs} for step in history]
    final = {"architecture": network, "params": cost.params, "macs": cost.macs, "steps": steps, **quantised}
    run.write_json("run.json", {**config, "final": final})


def _quantised(
    run: Run,
    model: nn.Module,
    became: tuple[str, list[dict[str, Any]]],
    precision: str,
    inputs: Inputs,
    rows: list[dict[str, Any]],
    device: torch.device,
) -> tuple[nn.Module, Predictions]:
    """The trained network in int8 and its predictions on val, both forms of its weights kept; the curve's last row gets both forms' accuracies."""
    network, history = became
    floats = build_model(network, len(inputs.classes), inputs.size[1])
    if isinstance(model, FakeQuantised):
        floats = model.give_back(floats.to(device)).cpu()
        int8 = converted(model, floats, inputs.size)
    else:
        floats.load_state_dict({name: tensor.cpu() for name, tensor in model.state_dict().items()})
        int8 = post_training(floats, inputs)
    before = predictions(floats.to(device), inputs, "val", device)
    said = predictions(int8.to(device), inputs, "val", device)
    agreement = float((before.probabilities_NK.argmax(1) == said.probabilities_NK.argmax(1)).mean())
    size = int8.size()
    _write_final(
        *(run, network, history),
        precision=precision,
        param_bytes=size.params,
        scale_bytes=size.scales,
        float32={"val_accuracy": before.accuracy, "agreement": agreement},
    )
    save_weights(run, floats, inputs)
    notes = {"architecture": network, "precision": precision, "train_input": list(inputs.size)}
    save_int8(run.path / INT8, int8, (inputs.mean_F, inputs.std_F), notes)
    rows[-1] |= {
        "val_accuracy": said.accuracy,
        "val_loss": log_loss(said.probabilities_NK, said.labels_N),
        "val_accuracy_float32": before.accuracy,
    }
    run.write_metrics(rows)
    return int8, said


def save_weights(run: Run, model: nn.Module, inputs: Inputs) -> None:
    """Keep the network's parameters and buffers beside the normalisation of its input, in one safetensors file."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    tensors |= {MEAN: inputs.mean_F, STD: inputs.std_F}
    write_atomic(run.weights_path, lambda file: file.write(save(tensors)))


def is_int8(run: Run) -> bool:
    """Whether the network that the run made, and was scored with, is an int8 one."""
    return bool(run.final.get("precision"))


def load_model(run: Run, precision: str | None = None) -> nn.Sequential:
    """The run's network with its weights, in eval mode on the CPU: raw log-mel (B, 1, T, F) in, logits (B, K) out.

    Of a run that made an int8 network it is that one, with `precision` 'float32' the one of floats that it was made of. T x F is the size
    it was trained at (`run.config["train_input"]`). Raises `UserError` when the weights are missing or another network's.
    """
    config = run.config
    if not run.weights_path.exists():
        raise UserError(f"{run.path} has no weights: its training has not finished")
    try:
        tensors = load_file(run.weights_path)
    except SafetensorError as error:
        raise UserError(
            f"{run.weights_path} is torn or no safetensors file ({error}); train this network again"
        ) from error
    network = run.final["architecture"]
    model = build_model(network, len(config["data"]["classes"]), config["train_input"][1])
    if precision != "float32" and is_int8(run):
        frames, mels = config["train_input"]
        int8, mean_F, std_F = load_int8(run.path / INT8, model, (frames, mels))
        return nn.Sequential(Normalise(mean_F, std_F), int8)
    normalise = Normalise(tensors.pop(MEAN), tensors.pop(STD))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{run.weights_path} holds the weights of another network than {network}") from error
    return nn.Sequential(normalise, model).eval()


def _save_checkpoint(run: Run, state: State, rows: list[dict[str, Any]]) -> None:
    """Write the state beside the last checkpoint, which becomes the previous one."""
    content = io.BytesIO()  # torch.save into a file hides what is wrong with the disk behind an error of its own
    torch.save({**state, "identity": _identity(run), "rows": rows}, content)
    path = run.path / CHECKPOINT
    fresh = run.path / f".{CHECKPOINT}.new"
    write_atomic(fresh, lambda file: file.write(content.getbuffer()))
    if path.exists():
        os.replace(path, run.path / PREVIOUS)
    os.replace(fresh, path)


def has_checkpoint(run: Run) -> bool:
    """Whether there is anything that `resume` would go on from."""
    return any((run.path / name).exists() for name in (CHECKPOINT, PREVIOUS))


def drop_checkpoints(run: Run) -> None:
    """Delete what `resume` would go on from."""
    for name in (CHECKPOINT, PREVIOUS):
        (run.path / name).unlink(missing_ok=True)


def move_checkpoint(run: Run, to: Run) -> bool:
    """Have what `resume` goes on from lie in another run's folder, of the same training; whether there was any."""
    path = run.path / CHECKPOINT
    if not path.exists():
        return False
    to.path.mkdir(parents=True, exist_ok=True)
    os.replace(path, to.path / CHECKPOINT)
    return True


def _load_checkpoint(run: Run, say: Callable[[str], None]) -> State | None:
    """The last checkpoint, or the previous one where that is refused; None where none was written.

    Raises `UserError` when all that lie there are refused, or one can not be read at all: that one may be whole, and nothing is put aside.
    """
    refused = []
    for name in (CHECKPOINT, PREVIOUS):
        path = run.path / name
        if not path.exists():
            continue
        state = _read_checkpoint(path)
        if isinstance(state, str):
            refused.append(f"{path} {state}")
        elif state["identity"] != _identity(run):
            refused.append(f"{path} belongs to another training than {run.path / 'run.json'}")
        else:
            if refused:  # out of the way: the next checkpoint would push it over the good one
                os.replace(run.path / CHECKPOINT, run.path / REFUSED)
                say(f"refused: {refused[0]}; going on from the one before, after epoch {state['epoch']}")
            return state
    if refused:
        raise UserError(f"{'; '.join(refused)}. Delete the run's folder to start again")
    return None


def _read_checkpoint(path: Path) -> State | str:
    """What the file holds, or what is wrong with it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} can not be read ({error.strerror}); it may be whole: mend the disk or its rights, then go on with --resume"
        ) from error
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            torn = archive.testzip()
        state = None if torn else torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # whatever torn bytes can bring about
        if is_memory_full(error):
            raise
        said = str(error).splitlines() or [""]
        return f"is torn or no checkpoint at all ({type(error).__name__}: {said[0]})"
    if torn:
        return f"is torn: the sum of {torn} in it is wrong"
    if not isinstance(state, dict) or not {"identity", "rows", "epoch", "batch", "model", "optimizer"} <= set(state):
        return "is no checkpoint of this project"
    return state


def _identity(run: Run) -> str:
    """What a checkpoint must agree with: network, recipe, length, seed, parts of a batch and data."""
    config = run.config
    values = [config["architecture"], config["recipe"], config["clips"], config["seed"]]
    return "|".join(map(str, [*values, config.get("accumulate", 1), config["data"]["digest"]]))
