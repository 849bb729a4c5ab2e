"""What a network learns besides its labels: a teacher's answers, a teacher's features, super-classes. The loop makes a `Lesson` and asks it.

B batch (b a part of it), C channels, T frames, F mel bins, P places of a map (T x F), K classes, S super-classes, X columns of targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, log_softmax, mse_loss, one_hot

from search_space.errors import UserError
from trainers.config import Recipe
from trainers.inputs import Inputs

# Source: joint feature and output distillation (DCASE 2025, Li), submission 1: stages 1 to 3.
GRAM_STAGES = 3


class Lesson(nn.Module):
    """The losses of a recipe, and the layers that only they need: projections of features, the head that names super-classes.

    These layers are trained with the network and belong to the training's state. They are not part of the network: nobody counts, saves or
    exports them. A recipe that teaches nothing makes a lesson without layers, whose one loss is the labels' cross entropy.
    """

    def __init__(self, recipe: Recipe, inputs: Inputs, model: nn.Module, seed: int) -> None:
        """The layers on the model's device, drawn from `seed` apart from all else. Raises `UserError` where the inputs lack what the recipe asks for."""
        super().__init__()
        self.recipe, self.inputs, self.n_classes = recipe, inputs, len(inputs.classes)
        self._heard: dict[str, Tensor] = {}
        _check(recipe, inputs)
        device = next(model.parameters()).device
        self._pairs: list[tuple[int, int]] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2**31 + seed)  # no network is drawn from these
            maps = self._probe(model, inputs.size, device) if self._listens else {}
            if recipe.feature_form != "none":
                assert inputs.teacher is not None  # _check has seen to it
                teacher = inputs.teacher.model.to(device)
                self._pairs = pairs(len(stages(model)), len(stages(teacher)), recipe.feature_form)
                theirs = self._hear_teacher(torch.zeros((1, *inputs.size), device=device))
                self._project(maps, theirs)
            if recipe.multitask != "none":
                assert inputs.super_KS is not None
                self.super_head = nn.Linear(maps["penultimate"].shape[1], inputs.super_KS.shape[1])
        self.to(device)

    @property
    def _listens(self) -> bool:
        return self.recipe.feature_form != "none" or self.recipe.multitask != "none"

    def targets(self, labels_B: Tensor, index_B: Tensor) -> Tensor:
        """(B, X): the labels, one hot, and behind them the teachers' probabilities at the recipe's temperature, where there are any.

        Side by side, so that mixup blends both by the same share. Source: TF-SepNet's code (soft labels are mixed too).
        """
        targets_BK = one_hot(labels_B, self.n_classes).float()
        if not self._has_soft:
            return targets_BK
        assert self.inputs.soft is not None
        logits_BK = self.inputs.soft.batch(index_B).to(labels_B.device)
        return torch.cat([targets_BK, (logits_BK / self.recipe.temperature).softmax(1)], 1)

    @property
    def _has_soft(self) -> bool:
        return bool(self.recipe.teachers) and self.recipe.soft_weight > 0

    def listening(self, model: nn.Module) -> AbstractContextManager[None]:
        """While the network runs: its stages' outputs and what its last layer reads are kept for `losses`, where those need them."""
        self._heard = {}
        return self._hears(model, self._heard) if self._listens else nullcontext()

    def _hears(self, model: nn.Module, heard: dict[str, Tensor]) -> AbstractContextManager[None]:
        listed = stages(model) if self.recipe.feature_form != "none" else []
        last = penultimate(model, self.n_classes) if self.recipe.multitask != "none" else None
        return _heard_in(listed, last, heard)

    def losses(
        self, entropy: Tensor, logits_bK: Tensor, targets_bX: Tensor, logmel_bTF: Tensor, progress: float
    ) -> list[Tensor]:
        """One loss a task: that of the scenes, and, with super-classes, theirs.

        `entropy` is the labels' cross entropy, `targets_bX` what augmentation made of `targets`, `logmel_bTF` what the network read, `progress` the
        share of the clips that have been seen.
        """
        recipe = self.recipe
        hard, soft, feature = recipe.weights(progress)
        loss = hard * entropy
        if soft:
            taught_bK = targets_bX[:, self.n_classes :]
            divergence = kl_divergence(logits_bK, taught_bK, recipe.temperature, recipe.kl_reduction)
            loss = loss + soft * recipe.temperature**2 * divergence
        if feature:
            loss = loss + feature * self._feature_loss(self._hear_teacher(logmel_bTF))
        if recipe.multitask == "none":
            return [loss]
        assert self.inputs.super_KS is not None
        super_bS = targets_bX[:, : self.n_classes] @ self.inputs.super_KS.to(targets_bX.device)
        return [
            loss,
            recipe.super_weight * cross_entropy(self.super_head(self._heard["penultimate"].float()), super_bS),
        ]

    def backward(self, losses: Sequence[Tensor], model: nn.Module) -> None:
        """Add the gradient of the losses to every parameter's: of their sum, or merged by PCGrad.

        Where a batch is accumulated, the gradients of each part are merged by themselves.
        """
        if self.recipe.multitask != "pcgrad":
            sum(losses[1:], losses[0]).backward()
            return
        parameters = [p for p in (*model.parameters(), *self.parameters()) if p.requires_grad]
        first, second = (
            torch.autograd.grad(loss, parameters, retain_graph=loss is not losses[-1], allow_unused=True)
            for loss in losses
        )
        for parameter, gradient in zip(parameters, pcgrad(first, second), strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    # ---- features

    def _probe(self, model: nn.Module, size: tuple[int, int], device: torch.device) -> dict[str, Tensor]:
        """What is heard in the model when it reads silence of that size: of all there the shapes."""
        was, heard = model.training, dict[str, Tensor]()
        with torch.no_grad(), self._hears(model.eval(), heard):
            model(torch.zeros((1, 1, *size), device=device))
        model.train(was)
        return heard

    def _hear_teacher(self, logmel_bTF: Tensor) -> list[Tensor]:
        """The outputs of the teacher's stages for what the student reads: its augmented clips as log-mels again, at the teacher's size, which
        the teacher normalises by its own statistics."""
        teacher, device = self.inputs.teacher, logmel_bTF.device
        assert teacher is not None
        raw_bTF = logmel_bTF.float() * self.inputs.std_F.to(device) + self.inputs.mean_F.to(device)
        if teacher.size != tuple(raw_bTF.shape[1:]):
            raw_bTF = adaptive_avg_pool2d(raw_bTF, teacher.size)
        heard: dict[str, Tensor] = {}
        listed = stages(teacher.model)
        with torch.no_grad(), _heard_in(listed, None, heard):
            teacher.model(raw_bTF.unsqueeze(1).contiguous(memory_format=torch.channels_last))
        return [heard[f"stage {number}"].float() for number in range(len(listed))]

    def _project(self, maps: dict[str, Tensor], theirs: list[Tensor]) -> None:
        """Make the projections: of the student to the teacher's width, or of both to the width of the teacher's last stage.

        Assumed: the teacher's own projections keep the weights they begin with, rows at right angles where they can be. Trained ones could
        satisfy the loss by vanishing on both sides.
        """
        width = theirs[-1].shape[1]
        channels = [(maps[f"stage {mine}"].shape[1], theirs[other].shape[1]) for mine, other in self._pairs]
        self.projections = nn.ModuleList(nn.Conv2d(mine, width, 1, bias=False) for mine, _ in channels)
        if self.recipe.feature_form == "gram":
            for number, (_, other) in enumerate(channels):
                fixed = torch.eye(width) if other == width else nn.init.orthogonal_(torch.empty(width, other))
                self.register_buffer(f"of_teacher_{number}", fixed[:, :, None, None])

    def _feature_loss(self, theirs: list[Tensor]) -> Tensor:
        total = torch.zeros((), device=theirs[0].device)
        for number, (mine, other) in enumerate(self._pairs):
            student_bCTF = self.projections[number](self._heard[f"stage {mine}"].float())
            teacher_bCTF = theirs[other]
            if self.recipe.feature_form == "projection":
                total = total + mse_loss(student_bCTF, adaptive_avg_pool2d(teacher_bCTF, student_bCTF.shape[2:]))
            else:
                teacher_bCTF = torch.conv2d(teacher_bCTF, self.get_buffer(f"of_teacher_{number}"))
                total = total + gram_loss(student_bCTF, teacher_bCTF)
        return total


def kl_divergence(logits_bK: Tensor, taught_bK: Tensor, temperature: float, reduction: str) -> Tensor:
    """KL(taught || student at this temperature) in nats: 'batchmean' a clip, 'mean' a clip and class.

    Source: Hinton et al., 2015 (whose loss is this times the temperature's square); 'mean' as in CP-Mobile's released code.
    """
    kl_bK = torch.xlogy(taught_bK, taught_bK) - taught_bK * log_softmax(logits_bK / temperature, 1)
    return kl_bK.mean() if reduction == "mean" else kl_bK.sum(1).mean()


def gram_loss(student_bCTF: Tensor, teacher_bCTF: Tensor) -> Tensor:
    """The mean squared difference of how alike any two clips of the batch are, at every place of the smaller of both maps.

    Source: joint feature and output distillation (DCASE 2025, Li), submission 1: B x B Gram matrices per place, divided by C.
    """
    places = min(student_bCTF.shape[2], teacher_bCTF.shape[2]), min(student_bCTF.shape[3], teacher_bCTF.shape[3])

    def gram(map_bCTF: Tensor) -> Tensor:
        map_PbC = adaptive_avg_pool2d(map_bCTF, places).flatten(2).permute(2, 0, 1)
        return map_PbC @ map_PbC.transpose(1, 2) / map_bCTF.shape[1]

    return mse_loss(gram(student_bCTF), gram(teacher_bCTF))


def pcgrad(first: Sequence[Tensor | None], second: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients of two tasks merged, one a parameter: on what both share, each loses what points against the other, and they are averaged;
    elsewhere the one there is stays.

    Source: PCGrad (Yu et al., 2020), algorithm 1, on the shared weights; the mean of the tasks as in the DSMN code.
    """
    shared = [n for n, (a, b) in enumerate(zip(first, second, strict=True)) if a is not None and b is not None]
    if not shared:
        return [b if a is None else a for a, b in zip(first, second, strict=True)]
    flat = [torch.cat([gradients[n].flatten() for n in shared]) for gradients in (first, second)]  # type: ignore[union-attr]
    dot = float(flat[0] @ flat[1])
    shares = [dot / float(other @ other) if dot < 0 else 0.0 for other in (flat[1], flat[0])]
    merged: list[Tensor | None] = []
    for a, b in zip(first, second, strict=True):
        if a is None or b is None:
            merged.append(b if a is None else a)
        else:
            merged.append(((a - shares[0] * b) + (b - shares[1] * a)) / 2)
    return merged


def pairs(n_student: int, n_teacher: int, form: str) -> list[tuple[int, int]]:
    """Which stage of the student learns from which of the teacher, from 0: the last from the last, or three each, spread evenly to the last."""
    if form == "projection":
        return [(n_student - 1, n_teacher - 1)]
    count = min(GRAM_STAGES, n_student, n_teacher)

    def spread(n: int) -> list[int]:
        return [round(number * (n - 1) / (count - 1)) for number in range(count)] if count > 1 else [n - 1]

    return list(zip(spread(n_student), spread(n_teacher), strict=True))


def stages(model: nn.Module) -> list[nn.Module]:
    """The modules whose outputs (B, C, T, F) are the network's stages, first to last. Raises `UserError` where it names none."""
    for module in model.modules():
        found: Any = getattr(module, "stages", None) or getattr(module, "blocks", None)
        if found is not None:
            return list(found)
    raise UserError(
        f"{type(model).__name__} names no stages, so its features can neither teach nor be taught: take soft targets alone (--features none), "
        f"or another network"
    )


def penultimate(model: nn.Module, n_classes: int) -> nn.Module:
    """The last linear layer or convolution with an output a class: what it reads are the features behind the classes."""
    sizes = (
        (module, getattr(module, "out_features", getattr(module, "out_channels", None))) for module in model.modules()
    )
    found = [module for module, size in sizes if size == n_classes and isinstance(module, nn.Linear | nn.Conv2d)]
    if not found:
        raise UserError(
            f"{type(model).__name__} has no layer with {n_classes} outputs, beside which a second head could be set"
        )
    return found[-1]


@contextmanager
def _heard_in(listed: Sequence[nn.Module], last: nn.Module | None, heard: dict[str, Tensor]) -> Iterator[None]:
    """While it runs, the outputs of these modules ('stage 0', ...), and the channels' means of what the last layer reads ('penultimate').

    The hooks stay no longer than that: a network whose layers are replaced in between is heard all the same.
    """

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            heard[name] = output

        return hook

    def reads(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        heard["penultimate"] = inputs[0].mean((2, 3)) if inputs[0].ndim == 4 else inputs[0]

    handles = [module.register_forward_hook(keep(f"stage {number}")) for number, module in enumerate(listed)]
    if last is not None:
        handles.append(last.register_forward_pre_hook(reads))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check(recipe: Recipe, inputs: Inputs) -> None:
    """Raises `UserError` where the inputs lack what the recipe teaches."""
    lacks_soft = bool(recipe.teachers) and recipe.soft_weight > 0 and inputs.soft is None
    if recipe.needs_teacher or lacks_soft or (recipe.feature_form != "none" and inputs.teacher is None):
        raise UserError(f"recipe {recipe.name!r} learns from a teacher, and none was opened: name one with --teacher")
    if recipe.multitask != "none" and inputs.super_KS is None:
        raise UserError(
            f"recipe {recipe.name!r} learns super-classes (multitask {recipe.multitask}), and none were opened"
        )
