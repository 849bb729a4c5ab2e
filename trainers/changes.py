"""What becomes of a network while it trains: at which clips it shrinks and when it is fake-quantised. The training loop asks before every batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from search_space.complexity import count_network
from search_space.errors import UserError, unknown
from trainers import pruning
from trainers.config import PRECISIONS, Recipe
from trainers.inputs import Inputs
from trainers.quantisation import FROZEN_SHARE, FakeQuantised, check_torchao

if TYPE_CHECKING:
    from search_space.families import Network
    from trainers.loop import Course, State


class Changes:
    """The changes that a recipe asks for, in one training of a network.

    What has happened stands in the course (`network`, the notation of what it has become, `history`, a row a pruning step, and `phase`: 1 once
    it is fake-quantised, 2 once that is frozen), so that a training goes on from any batch. Raises `UserError`, before anything is trained, where the network can not change so.
    """

    def __init__(
        self,
        network: str | Network,
        recipe: Recipe,
        inputs: Inputs,
        clips: int,
        optimizer: Callable[[nn.Module, Recipe], torch.optim.Optimizer],
        check_finite: Callable[[nn.Module, str], None],
    ) -> None:
        self.recipe, self.size = recipe, inputs.size
        self.optimizer, self.check_finite = optimizer, check_finite
        self.n_classes = len(inputs.classes)
        self.steps: list[tuple[float, float]] = []
        self.phases = _phases(recipe)
        check_changeable(network, recipe, inputs.size, len(inputs.classes), clips)
        if recipe.prune:
            family, spec = pruning.family_of(network)
            self.widest = family.widths(spec)
            self.params = count_network(spec, inputs.size, len(inputs.classes)).params
            self.steps = list(pruning.steps(recipe.prune, recipe.prune_steps, recipe.prune_from, recipe.prune_until))

    def rebuild(self, course: Course, state: State) -> None:
        """Make the course's model and optimiser those that this state is of."""
        if course.network != (became := state.get("network", course.network)):
            self._become(course, pruning.like(course.model, became))
        for number in range(1, state.get("phase", 0) + 1):
            self._enter(course, number)

    def happen(self, course: Course, progress: float, seen: int) -> bool:
        """Whether the course's model and optimiser are others now that the share `progress`, `seen` clips, of the training lies behind it."""
        changed = False
        while len(course.history) < len(self.steps) and progress >= self.steps[len(course.history)][0]:
            self._shrink(course, seen)
            changed = True
        while course.phase < len(self.phases) and progress >= self.phases[course.phase]:
            self.check_finite(course.model, f"after {seen} clips")
            self._enter(course, course.phase + 1)
            changed = True
        return changed

    def _enter(self, course: Course, phase: int) -> None:
        """Begin the first phase, of fake quantisation, in which the branches of a `RepConv` are merged for good, or the second, in which its ranges
        stand still."""
        if phase == 1:
            model, optimizer = course.model, course.optimizer
            self._become(course, FakeQuantised(model, self.size))
            _same_moments(model, optimizer, course.model, course.optimizer)
        else:
            assert isinstance(course.model, FakeQuantised)
            course.model.freeze()
        course.phase = phase

    def _shrink(self, course: Course, seen: int) -> None:
        wide, wide_optimizer = course.model, course.optimizer
        params = round(self.params * self.steps[len(course.history)][1])
        spec, narrow, selection = pruning.shrunk(course.network, wide, params, self.size, self.widest)
        self._become(course, narrow)
        pruning.transfer_moments(wide, wide_optimizer, narrow, course.optimizer, selection)
        course.network = str(spec)
        params = count_network(spec, self.size, self.n_classes).params
        course.history = [*course.history, {"clips": seen, "architecture": course.network, "params": params}]

    def _become(self, course: Course, model: nn.Module) -> None:
        course.model, course.optimizer = model, self.optimizer(model, self.recipe)


def _phases(recipe: Recipe) -> tuple[float, ...]:
    """Shares of the clips at which the network is fake-quantised, and at which its ranges are frozen; none where it trains in floats."""
    if recipe.precision not in ("int8-qat", "int8-qat-scratch"):
        return ()
    begin = recipe.quantise_from if recipe.precision == "int8-qat" else 0.0
    return begin, 1 - (1 - recipe.quantise_from) * FROZEN_SHARE


def _same_moments(
    model: nn.Module, optimizer: torch.optim.Optimizer, other: nn.Module, fresh: torch.optim.Optimizer
) -> None:
    """Give the optimiser of the same network in another form the running moments of the parameters that both have; a cross and merged branches begin anew."""
    theirs = {f"graph.{name}": parameter for name, parameter in model.named_parameters()}
    for name, parameter in other.named_parameters():
        if name in theirs and theirs[name].shape == parameter.shape:
            for key, value in optimizer.state.get(theirs[name], {}).items():
                fresh.state[parameter][key] = value.clone() if isinstance(value, torch.Tensor) else value


def check_changeable(
    network: str | Network, recipe: Recipe, input: tuple[int, int], n_classes: int, clips: int
) -> None:
    """Raises `UserError` where this network can not become what the recipe makes of one in so many clips: to be asked before anything is trained."""
    if recipe.prune:
        pruning.check_prunable(network, recipe.prune, input, n_classes)
    check_changes(recipe, clips)


def check_changes(recipe: Recipe, clips: int | None = None) -> None:
    """Raises `UserError` for values of a recipe's changes that can not be, or that so few clips leave no room for."""
    if not 0 <= recipe.prune < 1:
        raise UserError(
            f"--prune is the share of params to be removed, from 0 to below 1, not {recipe.prune:g}; try 0.5"
        )
    if recipe.prune_steps < 1:
        raise UserError(f"--prune-steps is at least 1, not {recipe.prune_steps}")
    if not 0 <= recipe.prune_from <= recipe.prune_until < 1:
        raise UserError(
            f"pruning lies between two shares of the clips, the first not behind the second, both below 1; got {recipe.prune_from:g} and "
            f"{recipe.prune_until:g}; try 0.3 and 0.7"
        )
    if recipe.precision not in PRECISIONS:
        raise unknown("precision", recipe.precision, PRECISIONS)
    if recipe.precision != "float32":
        check_torchao()
    if not 0 < recipe.quantise_from < 1:
        raise UserError(f"fake quantisation begins between 0 and 1 of the clips, not {recipe.quantise_from:g}; try 0.8")
    if recipe.prune:
        *_, (last, _) = pruning.steps(recipe.prune, recipe.prune_steps, recipe.prune_from, recipe.prune_until)
        if _phases(recipe) and _phases(recipe)[0] < last:
            raise UserError(
                f"a fake-quantised network can not shrink: pruning ends at {last:.0%} of the clips, and {recipe.precision} begins at "
                f"{_phases(recipe)[0]:.0%}; choose --precision int8-ptq or int8-qat, or prune earlier"
            )
        if clips is not None and clips * (1 - last) < recipe.batch_size:
            raise UserError(
                f"{clips} clips are too few to be pruned at {last:.0%} of them and trained a batch of {recipe.batch_size} more; train longer"
            )
