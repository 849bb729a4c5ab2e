"""What becomes of a network while it trains: at which clips it shrinks and when it is fake-quantised. The training loop asks before every batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from search_space.complexity import count_network
from search_space.errors import UserError
from search_space.presets import resolve
from trainers import pruning
from trainers.config import Recipe
from trainers.inputs import Inputs

if TYPE_CHECKING:
    from search_space.architecture import Architecture
    from trainers.loop import Course, State


class Changes:
    """The changes that a recipe asks for, in one training of a network.

    What has happened stands in the course (`network`, the notation of what it has become, and `history`, a row a pruning step), so that a
    training goes on from any batch. Raises `UserError`, before anything is trained, where the network can not change so.
    """

    def __init__(
        self,
        network: str | Architecture,
        recipe: Recipe,
        inputs: Inputs,
        clips: int,
        optimizer: Callable[[nn.Module, Recipe], torch.optim.Optimizer],
    ) -> None:
        self.recipe, self.size, self.optimizer = recipe, inputs.size, optimizer
        self.steps: list[tuple[float, float]] = []
        check_changes(recipe, clips)
        if recipe.prune:
            family, spec = pruning.family_of(network)
            pruning.check_prunable(network, recipe.prune, inputs.size, len(inputs.classes))
            self.widest = family.widths(spec)
            self.params = count_network(spec, inputs.size, len(inputs.classes)).params
            self.steps = list(pruning.steps(recipe.prune, recipe.prune_steps, recipe.prune_from, recipe.prune_until))

    def rebuild(self, course: Course, state: State) -> None:
        """Make the course's model and optimiser those that this state is of."""
        if course.network != (became := state.get("network", course.network)):
            self._become(course, pruning.like(course.model, resolve(became)))

    def happen(self, course: Course, progress: float, seen: int) -> bool:
        """Whether the course's model and optimiser are others now that the share `progress`, `seen` clips, of the training lies behind it."""
        changed = False
        while len(course.history) < len(self.steps) and progress >= self.steps[len(course.history)][0]:
            self._shrink(course, seen)
            changed = True
        return changed

    def _shrink(self, course: Course, seen: int) -> None:
        wide, wide_optimizer = course.model, course.optimizer
        params = round(self.params * self.steps[len(course.history)][1])
        spec, narrow, selection = pruning.shrunk(course.network, wide, params, self.size, self.widest)
        self._become(course, narrow)
        pruning.transfer_moments(wide, wide_optimizer, narrow, course.optimizer, selection)
        course.network = str(spec)
        params = sum(parameter.numel() for parameter in narrow.parameters())
        course.history = [*course.history, {"clips": seen, "architecture": course.network, "params": params}]

    def _become(self, course: Course, model: nn.Module) -> None:
        course.model, course.optimizer = model, self.optimizer(model, self.recipe)


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
    if recipe.prune and clips is not None:
        *_, (last, _) = pruning.steps(recipe.prune, recipe.prune_steps, recipe.prune_from, recipe.prune_until)
        if clips * (1 - last) < recipe.batch_size:
            raise UserError(
                f"{clips} clips are too few to be pruned at {last:.0%} of them and trained a batch of {recipe.batch_size} more; train longer"
            )
