"""How a network is trained: frozen recipes, presets that derive from one another. The only home of training's defaults."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from search_space.errors import UserError, unknown

KL_REDUCTIONS = ("batchmean", "mean")
PRECISIONS = ("float32", "int8-ptq", "int8-qat", "int8-qat-scratch")
REBUILDING = ("int8-qat", "int8-qat-scratch")
"""Those that put another network in the trained one's place while it trains."""
FEATURE_FORMS = ("none", "projection", "gram")
MULTITASKS = ("none", "sum", "pcgrad")
GENERATED = "generated"
"""The impulse responses that need no folder (`trainers.impulses`)."""


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

    Soft targets: `teachers` are run folders or files of logits (`trainers.teachers`), whose logits are averaged. The loss is
    `soft_weight` T^2 KL(teachers, student), both at `temperature` T, and the rest of 1 the labels' cross entropy. `kl_reduction` 'batchmean' is the
    mean over clips; 'mean' is that over clips and classes, K times smaller (CP-Mobile's code). Features: with a `feature_form` but 'none'
    `feature_weight` times the distance of stage outputs from those of `feature_teacher` (empty: the first of `teachers` that is a run).
    `phases` are rows (until this share of the clips, soft, feature, hard weight) that take the place of these weights; the last one ends at 1.
    What no soft target teaches, labels do: without one their weight is added to the labels'.

    `multitask` 'sum' or 'pcgrad' has the network name super-classes too, at `super_weight`; `super_classes` is a csv of them for data that
    `trainers.super_classes` does not know. `impulses` are device responses, 'generated' or a folder of wav files, which a clip passes with
    `impulse_probability`. `digests` says what these files held: (path as given, SHA-256), written by `trainers.teachers.sealed`.

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
    teachers: tuple[str, ...] = ()
    temperature: float = 2.0
    soft_weight: float = 0.0
    kl_reduction: str = "batchmean"
    feature_teacher: str = ""
    feature_form: str = "none"
    feature_weight: float = 0.1
    phases: tuple[tuple[float, float, float, float], ...] = ()
    multitask: str = "none"
    super_weight: float = 1.0
    super_classes: str = ""
    impulses: str = "none"
    impulse_probability: float = 0.6
    digests: tuple[tuple[str, str], ...] = ()
    prune: float = 0.0
    prune_steps: int = 1
    prune_from: float = 0.3
    prune_until: float = 0.7
    precision: str = "float32"
    quantise_from: float = 0.8

    def __post_init__(self) -> None:
        """Check what tells a teaching, and what can not go together. Raises `UserError`."""
        for name, known in (
            ("kl_reduction", KL_REDUCTIONS),
            ("feature_form", FEATURE_FORMS),
            ("multitask", MULTITASKS),
        ):
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), known)
        for name, low, high in (
            ("temperature", 0.01, 1000.0),
            ("soft_weight", 0.0, 1.0),
            ("feature_weight", 0.0, 1e6),
            ("super_weight", 0.0, 1e6),
            ("impulse_probability", 0.0, 1.0),
        ):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name} is a number from {low:g} to {high:g}, not {getattr(self, name):g}")
        if self.bound and (self.prune > 0 or self.precision in REBUILDING):
            raise UserError(
                f"{self.bound}, and pruning or fake quantisation makes another of it; leave --features and --multitask out (soft targets go with both), or take --precision int8-ptq"
            )
        ends = [row[0] for row in self.phases]
        if self.phases and (ends != sorted(set(ends)) or ends[0] <= 0 or ends[-1] != 1):
            raise UserError(f"phases end at rising shares of the clips, the last one at 1, not {ends}")

    @property
    def bound(self) -> str:
        """Why its networks must stay as they are while they train; empty where they need not."""
        if self.feature_form == "none" and self.multitask == "none":
            return ""
        return "features and super-classes are learned by layers beside a network that stays as it is"

    @property
    def needs_teacher(self) -> bool:
        """Whether it says how to learn from a teacher without naming one."""
        unnamed = self.feature_form != "none" and not self.feature_teacher
        return not self.teachers and (self.soft_weight > 0 or unnamed)

    def weights(self, progress: float) -> tuple[float, float, float]:
        """The weights of labels, soft targets and features when this share of the clips has been seen."""
        hard, soft, feature = 1 - self.soft_weight, self.soft_weight, self.feature_weight
        if self.phases:
            _, soft, feature, hard = next((row for row in self.phases if progress < row[0]), self.phases[-1])
        if not self.teachers or not self.soft_weight:
            hard, soft = hard + soft, 0.0
        return hard, soft, feature if self.feature_form != "none" else 0.0

    def record(self) -> dict[str, Any]:
        """What records keep of it, as JSON reads it back: every field up to `stretch`, the later ones only where they say something.

        So a record of before a field existed is that of the same recipe today.
        """
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        defaults = {field.name: field.default for field in fields(self)}
        names = list(defaults)
        later = names[names.index("stretch") + 1 :]
        return {name: plain[name] for name in names if name not in later or getattr(self, name) != defaults[name]}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Recipe:
        """The recipe that `record` was made of. Raises `UserError` where it was made of none of today's."""
        try:
            return cls(**{name: _frozen(value) for name, value in record.items()})
        except TypeError as error:
            raise UserError(f"{dict(record)} records no recipe of this version ({error})") from None

    @property
    def label(self) -> str:
        """Its name, with a few digits of what it says beyond the recipe of that name: two recipes never share a folder's name.

        What the files it names hold does not count: that a training goes on with another teacher under the same name is to be noticed.
        """
        became = f"-pruned{self.prune:g}x{self.prune_steps}" if self.prune else ""
        became += f"-{self.precision}" if self.precision != "float32" else ""
        mine = replace(self, digests=(), prune=0.0, prune_steps=1, precision="float32")
        if self.name in RECIPES and mine == RECIPES[self.name]():
            return self.name + became
        digest = hashlib.sha256(json.dumps(mine.record(), sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.name}-with-{digest}{became}"

    @property
    def cycles(self) -> tuple[float, ...]:
        """Shares of the clips at which the schedule's cycles end; the last is 1."""
        return tuple(1 / self.stretch**left for left in range(self.restarts, -1, -1))


def _frozen(value: Any) -> Any:
    """A value as it was before JSON made lists of its tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def changed(
    recipe: Recipe, prune: float | None = None, prune_steps: int | None = None, precision: str | None = None
) -> Recipe:
    """The recipe with these values, where they are not None. Raises `UserError` for a precision that is not known, and for steps of no pruning."""
    given: dict[str, Any] = {"prune": prune, "prune_steps": prune_steps, "precision": precision}
    if precision not in (None, *PRECISIONS):
        raise unknown("precision", str(precision), PRECISIONS)
    chosen = replace(recipe, **{name: value for name, value in given.items() if value is not None})
    if prune_steps is not None and not chosen.prune:
        raise UserError(
            f"--prune-steps {prune_steps} is about --prune; give --prune 0.5 as well (half of the params go), or leave it out"
        )
    return chosen


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


def taught() -> Recipe:
    """The strong recipe with soft targets; its teachers are to be named.

    Source: CP-Mobile (Schmid et al., DCASE 2023), released code: 0.02 cross entropy and 0.98 T^2 KL, T = 2. That code averages the KL over classes
    too, which makes it ten times smaller for its ten classes; here it is the mean over clips, so that the soft targets' weight against labels and
    features does not depend on the number of classes. Measured: with 50 classes and features, the code's mean loses 7 points (studies/LOG.md,
    "Teachers").
    """
    return replace(strong(), name="taught", soft_weight=0.98, temperature=2.0, kl_reduction="batchmean")


def joint() -> Recipe:
    """The strong recipe with soft targets and the last stage's features; its teachers are to be named.

    Source: joint feature and output distillation (DCASE 2025, Li, submission 2, released code): 0.02 cross entropy, 0.88 T^2 KL, 0.10 MSE of a
    1x1 projection, T = 2. The KL is averaged as in `taught`.
    """
    return replace(taught(), name="joint", feature_form="projection", phases=((1.0, 0.88, 0.10, 0.02),))


def joint_gram() -> Recipe:
    """The joint recipe with Gram matrices of three stages, and labels that take over at the end; its teachers are to be named.

    Source: the same, submission 1: for 170 of 200 epochs 1.0 KL, 0.1 features, 0.01 cross entropy, then 0.1, 0.05 and 1.0. Here the same shares of
    the clips, and 200 epochs.
    """
    phases = ((0.85, 1.0, 0.1, 0.01), (1.0, 0.1, 0.05, 1.0))
    return replace(joint(), name="joint-gram", feature_form="gram", phases=phases, epochs=200)


RECIPES = {
    "short": short,
    "rungs": rungs,
    "strong": strong,
    "paper": paper,
    "mixstyle": mixstyle,
    "taught": taught,
    "joint": joint,
    "joint-gram": joint_gram,
}
UNTAUGHT = tuple(name for name, make in RECIPES.items() if not make().needs_teacher)
"""Those that need no teacher."""
DEFAULT_RECIPE = "strong"
"""A full retraining's."""


def get_recipe(name: str) -> Recipe:
    """The recipe of this name. Raises `UserError` with the known names."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]()


def get_untaught(name: str) -> Recipe:
    """The recipe of this name, for a command that names no teacher. Raises `UserError` for one that needs one, too."""
    if (recipe := get_recipe(name)).needs_teacher:
        raise UserError(
            f"recipe {name!r} learns from a teacher, and this command names none; take one of {list(UNTAUGHT)}"
        )
    return recipe


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
