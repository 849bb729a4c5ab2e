"""How a network is trained: frozen recipes, presets that derive from one another. The only home of training's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from search_space.errors import unknown


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training but the network, the data, the seed and the length.

    `lr` is the peak learning rate, `schedule` its course over the clips seen, `warm_up` the share of them in which it rises. The course is
    run through once and `restarts` times more; its `cycles` end at 1, 1/`stretch`, 1/`stretch`^2, ... of the clips. Wherever one ends the
    rate has fallen, so that scores taken there compare with those of other networks there.
    `mixup_alpha` 0 means no mixup; `mixup_schedule` says when batches are mixed ('always', 'without_hesitation'). `roll` shifts each clip in
    time, around its ends. `masks` is the number of masks along each axis (SpecAugment), `mask_width` the most that one mask covers: bins, or
    below 1 a share of the axis. `correction` is the probability that a clip of the commonest recorder is given the mean spectrum of the
    others. `mix_style` is the probability that a batch's statistics per mel bin are mixed (Freq-MixStyle), `mix_style_alpha` that of its
    Beta distribution. `orthonormal` weighs the penalty of OSC's layers (BSConv's 0.1; the paper names none). `epochs` is the length of a
    full retraining when nobody says another.

    `prune` is the share of the params that the network loses while it trains, in `prune_steps` steps of equal shares that lie between the
    shares `prune_from` and `prune_until` of the clips: one lies in the middle of them, many around it.

    `precision` is that of the network that comes of it: 'float32'; 'int8-ptq', quantised after the training; 'int8-qat', fake-quantised
    in training from the share `quantise_from` of the clips on; 'int8-qat-scratch', from the first batch. Of what lies behind
    `quantise_from`, ranges and batch norm are frozen in the last sixth.
    """

    name: str
    optimizer: str
    lr: float
    weight_decay: float
    schedule: str
    warm_up: float = 0.0
    momentum: float = 0.9
    batch_size: int = 32
    label_smoothing: float = 0.0
    roll: bool = False
    mixup_alpha: float = 0.0
    mixup_schedule: str = "always"
    masks: int = 0
    mask_width: float = 0.0
    correction: float = 0.0
    mix_style: float = 0.0
    mix_style_alpha: float = 0.3
    orthonormal: float = 0.1
    epochs: int = 60
    restarts: int = 0
    stretch: float = 3.0
    prune: float = 0.0
    prune_steps: int = 1
    prune_from: float = 0.3
    prune_until: float = 0.7
    precision: str = "float32"
    quantise_from: float = 0.8

    @property
    def cycles(self) -> tuple[float, ...]:
        """Shares of the clips at which the schedule's cycles end; the last is 1."""
        return tuple(1 / self.stretch**left for left in range(self.restarts, -1, -1))


PRECISIONS = ("float32", "int8-ptq", "int8-qat", "int8-qat-scratch")
_ADDED = ("prune", "prune_steps", "prune_from", "prune_until", "precision", "quantise_from")
"""Fields that records of earlier versions lack: their trainings were as the defaults say."""


def decisive(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as it was recorded, without later versions' fields where they say what was so before: the same for old records and new ones."""
    defaults = {field.name: field.default for field in fields(Recipe)}
    return {key: value for key, value in recorded.items() if key not in _ADDED or value != defaults[key]}


def changed(
    recipe: Recipe, prune: float | None = None, prune_steps: int | None = None, precision: str | None = None
) -> Recipe:
    """The recipe with these values, where they are not None. Raises `UserError` for a precision that is not known."""
    given: dict[str, Any] = {"prune": prune, "prune_steps": prune_steps, "precision": precision}
    if precision not in (None, *PRECISIONS):
        raise unknown("precision", str(precision), PRECISIONS)
    return replace(recipe, **{name: value for name, value in given.items() if value is not None})


def label(recipe: Recipe) -> str:
    """The recipe's name with what it makes of the network, for a folder: strong-pruned0.5x8-int8-qat."""
    pruned = f"-pruned{recipe.prune:g}x{recipe.prune_steps}" if recipe.prune else ""
    return f"{recipe.name}{pruned}" + (f"-{recipe.precision}" if recipe.precision != "float32" else "")


def short() -> Recipe:
    """The recipe of a study's candidates: learns in a few thousand clips and tells networks apart.

    Source: chosen by `python -m benchmarks.signal`, not by the best accuracy; the figures stand in studies/LOG.md.
    """
    return Recipe(
        name="short",
        optimizer="adamw",
        lr=4e-3,
        weight_decay=0.02,
        schedule="one_cycle",
        warm_up=0.3,
        label_smoothing=0.1,
        roll=True,
    )


def rungs() -> Recipe:
    """The short recipe in cycles that end at the rungs of a study that stops trainings early.

    Source: warm restarts (Loshchilov and Hutter, 2017); chosen by measurement, studies/LOG.md, "Scores at a rung".
    """
    return replace(short(), name="rungs", restarts=2)


def strong() -> Recipe:
    """The default of a full retraining: the short recipe over many epochs, at twice its peak learning rate.

    Source: the best of its neighbours on validation clips by `python -m benchmarks.recipes`, studies/LOG.md, "Recipes of a full retraining":
    masks, mixup and a lower rate each cost these small networks points.
    """
    return replace(short(), name="strong", lr=8e-3)


def paper() -> Recipe:
    """The recipe of the DSSDN paper, as far as its text gives it; made for 200 epochs, not for a study's short budget.

    Source: DSSDN, sections 3.2 and 3.3: SGD, 1e-3, cosine, batch 32, 200 epochs; mixup 0.4 "in the early stage" and less later, after
    mixup without hesitation; two masks of a width of up to 2 along each axis; recorder a corrected by the mean spectrum of the others "for
    additional data". Assumed: momentum 0.9; every second clip of recorder a is a corrected one, as if each stood in train twice. Where
    all clips are of one recorder there is nothing to correct.
    """
    return Recipe(
        name="paper",
        optimizer="sgd",
        lr=1e-3,
        weight_decay=0.0,
        schedule="cosine",
        mixup_alpha=0.4,
        mixup_schedule="without_hesitation",
        masks=2,
        mask_width=2,
        correction=0.5,
        epochs=200,
    )


def mixstyle() -> Recipe:
    """The strong recipe with Freq-MixStyle, against recorders that training has not heard.

    Source: CP-Mobile (Schmid et al., DCASE 2023): probability 0.4, alpha 0.3.
    """
    return replace(strong(), name="mixstyle", mix_style=0.4, mix_style_alpha=0.3)


RECIPES = {"short": short, "rungs": rungs, "strong": strong, "paper": paper, "mixstyle": mixstyle}
DEFAULT_RECIPE = "strong"
"""A full retraining's."""


def get_recipe(name: str) -> Recipe:
    """The recipe of this name. Raises `UserError` with the known names."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]()


def default_budget(n_classes: int, rungs: bool = False) -> int:
    """Clips that a study's candidate sees when nobody says how many: with `rungs` half as many again, of which a stopped one sees but a part.

    Source: `python -m benchmarks.signal` (studies/LOG.md): ten classes need half of what fifty do. With rungs the average network sees fewer
    clips than without (studies/LOG.md, "Early stopping"), and the first rung, a ninth, still tells networks apart.
    """
    return max(4800, 192 * n_classes) * (3 if rungs else 2) // 2


def default_train_input(size: tuple[int, int]) -> tuple[int, int]:
    """Frames x mels that candidates train on when nobody says so: a third of the frames, a quarter of the mels, at least 32 of each.

    Source: `python -m benchmarks.signal` (studies/LOG.md). Costs are always counted at the full size.
    """
    frames, mels = size
    return min(frames, max(32, frames // 3)), min(mels, max(32, mels // 4))
