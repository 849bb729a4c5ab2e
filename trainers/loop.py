"""The one visible training loop.

A training is a function of values: the same network, inputs, recipe, length and seed give the same weights, to the bit, on one CPU with
the same number of threads. Every epoch draws from a generator of its own, seeded by (seed, epoch), so a training that goes on from the end
of an epoch needs nothing but the weights and the optimiser's state; one that goes on within an epoch needs the generators' state too.

B batch (b a part of it), T frames, F mel bins, K classes, N clips.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from search_space.blocks import orthonormal_penalty
from search_space.errors import UserError
from search_space.families import Network
from search_space.inference import inference_form
from search_space.model import build_model
from trainers.augment import Moment, augment, spec_augment
from trainers.changes import Changes
from trainers.config import Recipe
from trainers.inputs import Inputs, Split
from trainers.lessons import Lesson
from trainers.memory import kept_memory
from trainers.metrics import log_loss
from trainers.runs import Predictions


class Diverged(ArithmeticError):
    """The loss stopped being a finite number: the message says in which epoch and after how many clips."""


class Stopped(RuntimeError):
    """The training was asked to stop and did, between two batches."""


class Paused(Stopped):
    """The training came to a rung, was scored there and waits: `clips` are the rung's, `val_accuracy` (0 to 1) is the score."""

    def __init__(self, clips: int, val_accuracy: float) -> None:
        super().__init__(clips, val_accuracy)
        self.clips, self.val_accuracy = clips, val_accuracy


State = dict[str, Any]
"""What a training's next batch depends on, as tensors and plain values: `Course.state`, to be kept in a checkpoint."""


_COURSE = ("epoch", "batch", "clips", "loss_sum", "correct", "seconds", "cycle", "network", "history", "phase")


@dataclass
class Course:
    """Where a training stands between two batches: finished epochs, batches and clips of the one under way with what they added up to,
    finished cycles of the schedule, and what the network has become (`trainers.changes`)."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
    lesson: nn.Module = field(default_factory=nn.Module)
    epoch: int = 0
    batch: int = 0
    clips: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seconds: float = 0.0
    cycle: int = 0
    network: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)
    phase: int = 0
    generator: torch.Generator | None = None
    draws: dict[str, Tensor] | None = None

    def state(self) -> State:
        """All of it. The tensors are the training's own: to be written down before the next batch."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lesson": self.lesson.state_dict(),
            **{name: getattr(self, name) for name in _COURSE},
            "draws": self._draws() if self.batch else None,
        }

    def restore(self, state: State) -> None:
        """Go on from there. Of a state, `epoch`, `model` and `optimizer` are needed; without the rest the epoch begins."""
        self.model.load_state_dict(state["model"])
        self.lesson.load_state_dict(state.get("lesson", {}))  # of before there were lessons: nothing was taught
        self.optimizer.load_state_dict(state["optimizer"])
        for name in (*_COURSE, "draws"):
            setattr(self, name, state.get(name, getattr(self, name)))

    def begin(self, seed: int) -> torch.Generator:
        """The generator of the epoch's draws, seeded, or as it was after the batches that were seen already. So is torch's global one,
        from which a network's dropout draws."""
        self.generator = torch.Generator().manual_seed(seed * 1_000_003 + self.epoch)
        torch.manual_seed(self.generator.initial_seed())
        return self.generator

    def go_on(self) -> None:
        """Bring the generators to where the batches that were seen already left them."""
        if self.draws is not None and self.generator is not None:
            self.generator.set_state(self.draws["augmentation"])
            torch.set_rng_state(self.draws["global"])
            if "cuda" in self.draws and self.device.type == "cuda":
                torch.cuda.set_rng_state(self.draws["cuda"], self.device)
        self.draws = None

    def end(self) -> None:
        """Count the epoch as finished."""
        self.epoch, self.batch, self.clips, self.loss_sum, self.correct, self.seconds = (
            self.epoch + 1,
            0,
            0,
            0.0,
            0,
            0.0,
        )

    def _draws(self) -> dict[str, Tensor]:
        assert self.generator is not None  # a batch has been seen
        draws = {"augmentation": self.generator.get_state(), "global": torch.get_rng_state()}
        if self.device.type == "cuda":
            draws["cuda"] = torch.cuda.get_rng_state(self.device)
        return draws


@dataclass(frozen=True)
class Epoch:
    """What stands after a finished epoch: its row for the curve, `predict`'s answer on val where it was judged, and all that the
    next epoch starts from, what the network has become (`Course`) included."""

    row: dict[str, Any]
    judged: tuple[np.ndarray, np.ndarray] | None
    model: nn.Module
    state: State


@torch.random.fork_rng(devices=[])
@kept_memory()
def train(
    network: str | Network,
    inputs: Inputs,
    recipe: Recipe,
    clips: int,
    seed: int,
    device: torch.device,
    *,
    validate: str = "last",
    accumulate: int = 1,
    like: str | Network | None = None,
    start: State | None = None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    on_batch: Callable[[Course], None] = lambda _: None,
    on_rung: Callable[[Course, int, int], None] = lambda course, rung, seen: None,
) -> nn.Module:
    """The trained network, on `device`, after exactly `clips` clips seen.

    An epoch is one pass over train in a new order (`n_epochs` says how many); the last one ends where the clips run out. `validate` is 'every' or 'last' (epoch);
    accuracies are 0 to 1. `accumulate` cuts every batch into that many parts (of two clips at least) that pass one after the other before one step: less
    memory, the same clips a step, batch norm over a part. `like` is another network, whose initial weights this one begins with as far as
    they fit (`seeded_model`). `start` is a `State` to go on from. `on_epoch` hears of every finished epoch; `on_batch`
    is called before every batch, of val as well, and may raise `Stopped`, as may `on_rung`, which hears of every end of a cycle but the last, in
    clips, and of the clips really seen, before the first batch whose middle lies beyond it. Raises `Diverged` on a loss or weight that is not finite.
    """
    model = seeded_model(network, len(inputs.classes), seed, inputs.size[1], like).to(device)
    lesson = Lesson(recipe, inputs, model, seed)

    def optimize(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
        return _optimizer(nn.ModuleList([model, lesson]), recipe)

    course = Course(model, optimize(model, recipe), device, lesson, network=str(network))
    changes = Changes(network, recipe, inputs, clips, optimize, _check_finite)
    if start is not None:
        changes.rebuild(course, start)
        course.restore(start)
    model, optimizer, train_split = course.model, course.optimizer, inputs.splits["train"]
    corrections = inputs.corrections if recipe.correction else None
    bfloat16 = bfloat16_pays(device, model)
    epochs = n_epochs(clips, len(train_split), recipe)
    while course.epoch < epochs:
        began = time.perf_counter() - course.seconds
        seen, is_last = course.epoch * len(train_split), course.epoch + 1 == epochs
        generator = course.begin(seed)
        length = clips - seen if is_last else len(train_split)
        order = torch.cat([torch.randperm(len(train_split), generator=generator) for _ in range(2)])[:length]
        batches = order.tensor_split(math.ceil(len(order) / recipe.batch_size))
        course.clips = sum(len(index_B) for index_B in batches[: course.batch])
        seen += course.clips
        course.go_on()
        model.train()
        for index_B in batches[course.batch :]:
            on_batch(course)
            progress = (seen + len(index_B) / 2) / clips
            while progress >= recipe.cycles[course.cycle]:
                course.cycle += 1
                _check_finite(model, f"after {seen} clips")
                on_rung(course, rung_clips(recipe, clips)[course.cycle - 1], seen)
            if changes.happen(course, progress, seen):
                model, optimizer = course.model, course.optimizer
                bfloat16 = bfloat16_pays(device, model)
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * schedule(recipe, progress)
            logmel_BTF = inputs.normalise(train_split.batch(index_B, device))
            labels_B = train_split.labels_N[index_B].to(device)
            targets_BX = lesson.targets(labels_B, index_B)
            correction_BF = corrections.batch(index_B).to(device) if corrections else None
            moment = Moment(seen / clips, course.epoch)
            impulses = inputs.impulses.of(index_B) if inputs.impulses else None
            logmel_BTF, targets_BX = augment(logmel_BTF, targets_BX, recipe, moment, generator, correction_BF, impulses)
            optimizer.zero_grad(set_to_none=True)
            parts = (
                whole.tensor_split(max(1, min(accumulate, len(index_B) // 2)))
                for whole in (logmel_BTF, targets_BX, labels_B)
            )
            for logmel_bTF, targets_bX, labels_b in zip(*parts, strict=True):
                share = len(labels_b) / len(index_B)
                with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16), lesson.listening(model):
                    logits_bK = model(logmel_bTF.unsqueeze(1).contiguous(memory_format=torch.channels_last)).float()
                targets_bK = targets_bX[:, : len(inputs.classes)]
                entropy = cross_entropy(logits_bK, targets_bK, label_smoothing=recipe.label_smoothing)
                losses = [share * loss for loss in lesson.losses(entropy, logits_bK, targets_bX, logmel_bTF, progress)]
                if recipe.orthonormal and (penalty := orthonormal_penalty(model)) is not None:
                    losses[0] = losses[0] + share * recipe.orthonormal * penalty
                if not math.isfinite(value := sum(loss.item() for loss in losses)):
                    raise Diverged(
                        f"the loss became {value} in epoch {course.epoch + 1}, batch {course.batch + 1} of {len(batches)}, "
                        f"after {seen} clips"
                    )
                lesson.backward(losses, model)
                course.loss_sum += entropy.item() * len(labels_b)
                course.correct += int((logits_bK.argmax(1) == labels_b).sum())
            optimizer.step()
            seen += len(index_B)
            course.clips += len(index_B)
            course.batch += 1
            course.seconds = time.perf_counter() - began
        _check_finite(model, f"at the end of epoch {course.epoch + 1}")
        row: dict[str, Any] = {
            "epoch": course.epoch + 1,
            "clips_seen": seen,
            "lr": optimizer.param_groups[0]["lr"],
            "loss": course.loss_sum / len(order),
            "train_accuracy": course.correct / len(order),
        }
        judged = None
        if "val" in inputs.splits and (validate == "every" or is_last):
            judged = probabilities_NK, labels_N = predict(model, inputs, "val", device, check=lambda: on_batch(course))
            row["val_accuracy"] = float((probabilities_NK.argmax(1) == labels_N).mean())
            row["val_loss"] = log_loss(probabilities_NK, labels_N)
        row["seconds"] = time.perf_counter() - began
        course.end()
        on_epoch(Epoch(row, judged, model, course.state()))
    return model


def _check_finite(model: nn.Module, when: str) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values()):
        raise Diverged(f"weights are not finite any more {when}")


def n_epochs(clips: int, n_train: int, recipe: Recipe) -> int:
    """Epochs that `clips` clips make of `n_train`: a rest smaller than a batch is seen in the last whole epoch, not in a tiny one."""
    whole, rest = divmod(clips, n_train)
    return max(1, whole + (rest >= recipe.batch_size))


def predict(
    model: nn.Module,
    inputs: Inputs,
    split: str,
    device: torch.device,
    *,
    draws: int = 0,
    recipe: Recipe | None = None,
    check: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, K) float32 and labels (N,) of a split's clips, in the split's order.

    In float32, without augmentation, by the network's inference form; the model itself is left alone. With `draws` the probabilities are the
    mean over that many draws of the recipe's masks, always the same ones (test-time augmentation; source: SP4ASC, 30 draws). `check` is called
    before every batch and may raise `Stopped`.
    Raises `ValueError` for draws without a recipe.
    """
    if draws and recipe is None:
        raise ValueError(f"{draws} draws of whose masks? name the recipe")
    generator = torch.Generator().manual_seed(0)
    data: Split = inputs.splits[split]
    answers = inference_form(model)
    batches: list[Tensor] = []
    with torch.inference_mode():
        for index_B in torch.arange(len(data)).split(32):
            check()
            logmel_BTF = inputs.normalise(data.batch(index_B, device))
            views = (
                [spec_augment(logmel_BTF, recipe, generator) for _ in range(draws)]
                if draws and recipe
                else [logmel_BTF]
            )
            said = [answers(view.unsqueeze(1).contiguous(memory_format=torch.channels_last)).float() for view in views]
            batches.append(torch.stack([logits_BK.softmax(1) for logits_BK in said]).mean(0).cpu())
    return torch.cat(batches).numpy(), data.labels_N.numpy()


def named_predictions(judged: tuple[np.ndarray, np.ndarray], split: Split) -> Predictions:
    """What `predict` answered, with each clip's file name and recorder beside it: what a run keeps."""
    return Predictions(*judged, [clip.filename for clip in split.clips], [clip.recorder for clip in split.clips])


def predictions(model: nn.Module, inputs: Inputs, split: str, device: torch.device, **options: Any) -> Predictions:
    """`predict`, named."""
    return named_predictions(predict(model, inputs, split, device, **options), inputs.splits[split])


def schedule(recipe: Recipe, progress: float) -> float:
    """The learning rate as a share of its peak, when the share `progress` of all clips has been seen.

    'one_cycle' rises from 1/25 along a half cosine during `warm_up` and falls along another to 0; 'cosine' falls from 1 to 0; either does
    so in every one of the recipe's cycles.
    Source: Smith and Topin, 2018 (one cycle, without its momentum); Loshchilov and Hutter, 2017 (cosine, warm restarts).
    """
    end = next((end for end in recipe.cycles if progress < end), recipe.cycles[-1])
    begun = max((begun for begun in recipe.cycles if begun < end), default=0.0)
    progress = (progress - begun) / (end - begun)
    if recipe.schedule == "one_cycle" and progress < recipe.warm_up:
        return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * progress / recipe.warm_up)) / 2
    start = recipe.warm_up if recipe.schedule == "one_cycle" else 0.0
    return (1 + math.cos(math.pi * (progress - start) / (1 - start))) / 2


def rung_clips(recipe: Recipe, clips: int) -> tuple[int, ...]:
    """Clips at which the schedule's cycles end in a training of `clips` clips; the last one is its end."""
    return tuple(round(share * clips) for share in recipe.cycles)


def seeded_model(
    network: str | Network, n_classes: int, seed: int, n_mels: int = 256, like: str | Network | None = None
) -> nn.Module:
    """A new network, by name, notation or architecture, whose initial weights depend on the seed alone; torch's global generator is left as it was.

    With `like`, another network, every tensor whose name and shape both have is that one's of the same seed: two networks that differ in one
    place begin alike everywhere else, so that less of the difference between their scores is chance.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(network, n_classes, n_mels)
    if like is not None:
        theirs = seeded_model(like, n_classes, seed, n_mels).state_dict()
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        fitting = {name: tensor for name, tensor in theirs.items() if shapes.get(name) == tensor.shape}
        model.load_state_dict({**model.state_dict(), **fitting})
    return model


def resolve_device(name: str) -> torch.device:
    """The torch device of 'auto' (a GPU where there is one), 'cpu', 'cuda' or 'cuda:1'. Raises `UserError` where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device is auto, cpu, cuda or cuda:N, not {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device is auto, cpu, cuda or cuda:N, not {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; use --device cpu")
    return device


def bfloat16_pays(device: torch.device, model: nn.Module) -> bool:
    """Whether training's forward pass runs in bfloat16: on a GPU that has it, on a CPU with instructions for it.

    Measured: a step of four networks at 108x64, batch 32, one thread of a CPU with AVX512-BF16: 8 against 20 ms a clip.

    Not for a network with dilated convolutions on a CPU. Measured: torch 2.13 on that CPU, one layer of 64 channels at 44x64, channel-wise
    3x1, dilation 2 along time: the gradient of its weights has a relative error of 1.3 up to infinity, and is another each time, as if read from memory
    that nobody wrote; without dilation 0.01.
    """
    if getattr(model, "float32_only", False):
        return False
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if any(_dilated(module) for module in model.modules()):
        return False
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def precision(device: torch.device, model: nn.Module) -> str:
    """What training's forward pass runs in on this machine: 'bfloat16' or 'float32'."""
    return "bfloat16" if bfloat16_pays(device, model) else "float32"


def _dilated(module: nn.Module) -> bool:
    dilation = getattr(module, "dilation", 1)
    return max(dilation) > 1 if isinstance(dilation, tuple) else dilation > 1


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Weight decay falls on matrices and kernels only, never on biases and normalisation."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum)
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)
