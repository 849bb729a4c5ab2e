"""What can be changed in a network, its recipe and its front end, one thing at a time: the factors of an ablation. No torch.

A factor is one thing that can be changed: it knows the base's level, the other levels, and how to change a setting to one of them. A factor that
means nothing for the base (OSC's mid channels in a network of SC) is inactive and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

from search_space.architecture import Architecture, Block
from search_space.errors import UserError
from search_space.families import Network, family_of, in_other_families
from search_space.operators import OPERATORS
from search_space.presets import PRESETS
from search_space.related import Related
from search_space.space import get_space
from trainers.config import (
    FEATURE_FORMS,
    GENERATED,
    KL_REDUCTIONS,
    MULTITASKS,
    PRECISIONS,
    REBUILDING,
    RECIPES,
    Recipe,
    mixstyle,
    paper,
)
from trainers.super_classes import super_classes
from trainers.teaching import is_run, sealed, teacher_digest, with_options

ARCHITECTURE, RECIPE, FRONT_END = "architecture", "recipe", "front end"
# Source: 0.1 is BSConv's weight of the orthonormal loss, its authors tried powers of ten (arXiv 2003.13549); the paper names none.
ORTHONORMAL = ("0", "0.01", "0.1", "1")
LABEL_SMOOTHING = ("0", "0.1", "0.2")
_FIELDS = [field.name for field in fields(Recipe)]
TEACHING = tuple(_FIELDS[_FIELDS.index("teachers") : _FIELDS.index("digests") + 1])
"""The fields of a recipe about what is learned besides labels: another recipe that says nothing of it keeps the base's."""
BECOMING = tuple(_FIELDS[_FIELDS.index("prune") :])
"""Those about what the network becomes, which other recipes leave as they are."""
# Assumed: around the published 2, 0.98 and 0.1 (CP-Mobile's code; joint feature and output distillation, DCASE 2025).
TEMPERATURE = ("1", "2", "4")
SOFT_WEIGHT = ("0", "0.5", "0.9", "0.98")
FEATURE_WEIGHT = ("0.01", "0.1", "1")
# Assumed: half of the params, and steps small enough to be many; Rep-Mobile (arXiv 2410.20775) names neither in its abstract.
PRUNE, PRUNE_STEPS = 0.5, 8


@dataclass(frozen=True)
class Setting:
    """What an ablation changes: the network, the recipe, and the numbers of the front end, (mels, n_fft, hop) by name."""

    network: Network
    recipe: Recipe
    front_end: Mapping[str, int]

    def same(self, other: Setting) -> bool:
        """Whether both train the same; a recipe's name and its own length decide nothing here, nor does the orthonormal loss without an OSC."""
        mine, theirs = (_decisive(setting.recipe) for setting in (self, other))
        if self.network == other.network and not _has_osc(self.network):
            mine, theirs = replace(mine, orthonormal=0.0), replace(theirs, orthonormal=0.0)
        return (self.network, mine, dict(self.front_end)) == (other.network, theirs, dict(other.front_end))


def _decisive(recipe: Recipe) -> Recipe:
    """The recipe without what decides nothing: its name and length, and how it would be taught where nothing is."""
    plain = replace(recipe, name="", epochs=0)
    changes: dict[str, Any] = {}
    if not recipe.soft_weight:
        changes |= {"temperature": 2.0, "kl_reduction": "batchmean"}
    if recipe.feature_form == "none":
        changes |= {"feature_weight": 0.1, "feature_teacher": ""}
        if not recipe.soft_weight:
            changes |= {"teachers": (), "phases": (), "digests": ()}
    if recipe.multitask == "none":
        changes |= {"super_weight": 1.0, "super_classes": ""}
    if recipe.impulses == "none":
        changes |= {"impulse_probability": 0.6}
    return replace(plain, **changes)


class Factor(NamedTuple):
    """One thing that can be changed: `level` is the base's, `options` are the other levels, `change` takes a setting to a level.

    `inactive` says why there is nothing to change; `number` turns text into a level where any number will do, or whatever `other` says.
    """

    name: str
    kind: str
    level: str
    options: tuple[str, ...]
    change: Callable[[Setting, str], Setting]
    inactive: str = ""
    number: Callable[[str], str] | None = None
    other: str = "number"


def factors(base: Setting, recorders: int = 1, classes: Sequence[str] = ()) -> dict[str, Factor]:
    """Every factor by its name, the inactive ones included; `recorders` made the training clips, which are of these `classes`."""
    of_network = (
        (*_axes(base.network), *_parts(base.network))
        if isinstance(base.network, Architecture)
        else _rule_axes(base.network)
    )
    found = (
        *(*of_network, *_recipe_factors(base, recorders)),
        *(*_teaching_factors(base, classes), *_front_end_factors(base)),
    )
    return {factor.name: factor for factor in found}


# ------------------------------------------------------------------------------------------------- the axes of the space


def _axes(architecture: Architecture) -> Iterator[Factor]:
    """The axes of the default space, as far as they mean something for the base, which may lie outside of it in other respects."""
    choices = get_space("dssdn").choices
    blocks, grows = architecture.blocks, _rule(architecture)

    def axis(name: str, level: str, change: Callable[[Architecture, str], Architecture], inactive: str = "") -> Factor:
        options = () if inactive else tuple(text for option in choices[name] if (text := _text(option)) != level)
        return Factor(name, ARCHITECTURE, level, options, _on_network(change), inactive)

    uneven = "" if grows is not None else "its widths do not grow twice and then stay, as those of the space do"
    explicit = "" if _taps(architecture) else "the head sees blocks by number"
    yield axis("depth", f"{len(blocks)}", lambda a, level: _deepened(a, int(level)), uneven or explicit)
    yield axis("stem", f"{architecture.stem}", lambda a, level: _widened(a, stem=int(level)), uneven)
    yield axis(
        "growth", f"{grows}" if grows is not None else "", lambda a, level: _widened(a, growth=int(level)), uneven
    )

    ratios, plain = {block.split_ratio for block in blocks}, architecture.kind == "plain"
    ratio = _text(ratios.pop()) if len(ratios) == 1 else "mixed"
    reason = "a plain block is not cut" if plain else ""
    if architecture.merge != "splice":
        reason = f"merge {architecture.merge!r} takes a cut in halves"
    yield axis("split_ratio", "1" if plain else ratio, lambda a, level: _each(a, split_ratio=float(level)), reason)

    operators = {block.operator for block in blocks}
    operator = operators.pop() if len(operators) == 1 else "mixed"
    offered = (*(f"{option}" for option in choices["operator"]), "conv", "rep")
    yield Factor(
        *("operator", ARCHITECTURE, operator),
        tuple(name for name in offered if name != operator),
        _on_network(_with_operator),
    )
    for name, of in (("osc_mid", "osc"), ("partial_ratio", "spc")):
        other = "" if operator == of else f"the base's operator is {operator}, not {of}"
        values = {dict(block.options).get(name) for block in blocks}
        value = "" if other else _text(values.pop()) if len(values) == 1 else "mixed"
        yield axis(name, value, partial(_with_option, name), other)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def _on_network(change: Callable[[Architecture, str], Architecture]) -> Callable[[Setting, str], Setting]:
    """The change of a DSSDN network in a setting; `factors` gives these to no other family."""

    def changed(setting: Setting, level: str) -> Setting:
        assert isinstance(setting.network, Architecture)
        return replace(setting, network=change(setting.network, level))

    return changed


def _has_osc(network: Network) -> bool:
    return isinstance(network, Architecture) and any(block.operator == "osc" for block in network.blocks)


def _rule_axes(network: Network) -> Iterator[Factor]:
    """The choices of the space of the base's family, where the base is inside, and which family it is where another has its widths too."""
    space = get_space(family_of(network))
    try:
        chosen, outside = space.encode(network), ""
    except UserError:
        chosen, outside = {}, f"it is none of the networks of the space {space.name!r}"
    for name, options in space.choices.items():

        def change(setting: Setting, level: str, name: str = name) -> Setting:
            inside = get_space(family_of(setting.network))
            option = next((option for option in inside.choices[name] if _text(option) == level), None)
            if option is None:
                raise UserError(
                    f"{name} is one of {list(inside.choices[name])} in the space {inside.name!r}; got {level}"
                )
            made = {**inside.encode(setting.network), name: option}
            return replace(setting, network=inside.sample(lambda asked, _: made[asked]))

        level = _text(chosen[name]) if chosen else ""
        others = () if outside else tuple(text for option in options if (text := _text(option)) != level)
        yield Factor(name, ARCHITECTURE, level, others, change, outside)

    def turned(setting: Setting, level: str) -> Setting:
        return replace(setting, network=in_other_families(setting.network)[level])

    others = tuple(in_other_families(network))
    alone = "" if others else "no other family has its widths"
    yield Factor("family", ARCHITECTURE, family_of(network), others, turned, alone)


def _rule(architecture: Architecture) -> int | None:
    """By how much the width grows in each of the first two blocks, if it stays from there on."""
    growth = architecture.blocks[0].out_channels - architecture.stem
    widths = [architecture.stem + growth * min(number, 2) for number in range(1, len(architecture.blocks) + 1)]
    return growth if [block.out_channels for block in architecture.blocks] == widths else None


def _widened(architecture: Architecture, stem: int | None = None, growth: int | None = None) -> Architecture:
    stem = architecture.stem if stem is None else stem
    growth = (_rule(architecture) or 0) if growth is None else growth
    widths = (stem + growth * min(number, 2) for number in range(1, len(architecture.blocks) + 1))
    blocks = (replace(block, out_channels=width) for block, width in zip(architecture.blocks, widths, strict=True))
    return replace(architecture, stem=stem, blocks=tuple(blocks))


def _deepened(architecture: Architecture, depth: int) -> Architecture:
    """The first blocks, or the last one repeated; the head goes on to see what it saw: all, the last, or all but the first."""
    taps, growth = _taps(architecture), _rule(architecture)
    kept = architecture.blocks[:depth]
    kept += (kept[-1],) * (depth - len(kept))
    changed = replace(architecture, blocks=kept, tapped=())
    return _tapping(_widened(changed, growth=growth), taps or "later")


def _taps(architecture: Architecture) -> str | None:
    numbers, depth = architecture.tap_numbers, len(architecture.blocks)
    if not architecture.tapped:
        return "later"
    return "last" if numbers == (depth,) else "all" if len(numbers) == depth else None


def _tapping(architecture: Architecture, taps: str) -> Architecture:
    depth = len(architecture.blocks)
    return replace(architecture, tapped={"all": tuple(range(1, depth + 1)), "last": (depth,)}.get(taps, ()))


def _each(architecture: Architecture, **changes: Any) -> Architecture:
    """The same change in every block."""
    return replace(architecture, blocks=tuple(replace(block, **changes) for block in architecture.blocks))


def _with_operator(architecture: Architecture, operator: str) -> Architecture:
    """Every block with this operator, its options those of the paper's network that has it, or none."""
    published = (block for preset in PRESETS.values() for block in preset.blocks if block.operator == operator)
    options = next((block.options for block in published), ())
    return _each(architecture, operator=operator, options=options)


def _with_option(name: str, architecture: Architecture, level: str) -> Architecture:
    def changed(block: Block) -> Block:
        kinds = {option.name: option.type for option in OPERATORS[block.operator].options()}
        return replace(block, options=tuple((n, kinds[n](level) if n == name else value) for n, value in block.options))

    return replace(architecture, blocks=tuple(changed(block) for block in architecture.blocks))


# ---------------------------------------------------------------------------------------------------- parts of the network


def _parts(architecture: Architecture) -> Iterator[Factor]:
    """What can be taken out of the network, or turned round."""
    plain, cut = architecture.kind == "plain", any(block.cut for block in architecture.blocks)
    no_path = "a plain block has no such path" if plain else ""

    def part(
        name: str,
        level: str,
        levels: Sequence[str],
        change: Callable[[Architecture, str], Architecture],
        inactive: str = "",
    ) -> Factor:
        options = () if inactive else tuple(other for other in levels if other != level)
        return Factor(name, ARCHITECTURE, level, options, _on_network(change), inactive)

    def distilling(a: Architecture, level: str) -> Architecture:
        return replace(a, kind="distillation" if level == "on" else "chain")

    yield part(
        "distillation", "on" if architecture.kind == "distillation" else "off", ("on", "off"), distilling, no_path
    )

    def attending(a: Architecture, level: str) -> Architecture:
        return replace(a, eca=0 if level == "off" else None)

    attention = "off" if plain or architecture.eca == 0 else "on"
    yield part("attention", attention, ("on", "off"), attending, "a plain block has no attention" if plain else "")

    taps = _taps(architecture) or "some"
    depth = len(architecture.blocks)
    levels = ("later", "last", "all") if depth > 2 else ("later", "all")  # of two blocks, the last are the later ones
    yield part("taps", taps, levels, _tapping, "of one block there is one output" if depth == 1 else "")

    yield part(
        *("cut", "on" if cut else "off", ("on", "off")),
        lambda a, _: _each(a, split_ratio=1.0),
        "" if cut else "no block is cut; split_ratio names the cuts there are",
    )

    def turned(a: Architecture, level: str) -> Architecture:
        return replace(a, heavy="low" if level == "low" else "high")

    yield part("heavy", architecture.heavy, ("low", "high"), turned, "" if cut else "no block is cut")

    def replaced(a: Architecture, level: str) -> Architecture:
        plain_ones = replace(_each(a, split_ratio=1.0), kind="plain", heavy="low", merge="splice", eca=None)
        if level == "plain":
            return plain_ones
        plain_ones = _with_operator(plain_ones, "conv")
        return plain_ones if level == "dl-b-pooled" else _each(plain_ones, pool=(1, 1))

    block = part("block", architecture.kind, ("plain", "dl-b-pooled", "dl-b"), replaced)
    yield block._replace(options=(), inactive="the base's blocks are plain ones") if plain else block


# --------------------------------------------------------------------------------------------------- recipe and front end


def _recipe_factors(base: Setting, recorders: int) -> Iterator[Factor]:
    """Augmentations of the recipe in use switched, on with the values of the recipe that has them; the losses' weights; another recipe."""
    recipe = base.recipe

    def switch(name: str, of: Recipe, fields: tuple[str, ...], inactive: str = "") -> Factor:
        """`fields` say all of it, the first one whether it is on."""
        on = bool(getattr(recipe, fields[0]))
        there = recipe if on else of

        def change(setting: Setting, level: str) -> Setting:
            values: dict[str, Any] = (
                {f: getattr(there, f) for f in fields}
                if level == "on"
                else {fields[0]: type(getattr(there, fields[0]))()}
            )
            return replace(setting, recipe=replace(setting.recipe, **values))

        return Factor(
            name, RECIPE, "on" if on else "off", () if inactive else ("off" if on else "on",), change, inactive
        )

    yield switch("roll", replace(recipe, roll=True), ("roll",))
    yield switch("mixup", paper(), ("mixup_alpha", "mixup_schedule"))
    yield switch("masks", paper(), ("masks", "mask_width"))
    yield switch("mix_style", mixstyle(), ("mix_style", "mix_style_alpha"))
    one = "" if recorders > 1 else "one recorder made all training clips"
    yield switch("correction", paper(), ("correction",), one)

    def weight(name: str, levels: tuple[str, ...], inactive: str = "") -> Factor:
        level = f"{getattr(recipe, name):g}"

        def change(setting: Setting, text: str) -> Setting:
            value: dict[str, Any] = {name: float(text)}
            return replace(setting, recipe=replace(setting.recipe, **value))

        options = () if inactive else tuple(option for option in levels if option != level)
        return Factor(name, RECIPE, level, options, change, inactive, number=partial(_share, name))

    yield weight(
        "orthonormal",
        ORTHONORMAL,
        "" if _has_osc(base.network) else "the base has no OSC, whose layers alone it holds orthonormal",
    )
    yield weight("label_smoothing", LABEL_SMOOTHING)

    yield _prune(base)
    yield _precision(base)

    def other(setting: Setting, level: str) -> Setting:
        then, now = setting.recipe, RECIPES[level]()
        taught = ("teachers", "feature_teacher") if now.needs_teacher else TEACHING  # one that says how is taught so
        names = (*taught, *BECOMING)
        now = replace(now, **{name: getattr(then, name) for name in names})
        return replace(setting, recipe=sealed(now))

    known = (name for name, make in RECIPES.items() if recipe.teachers or not make().needs_teacher)
    yield Factor("recipe", RECIPE, recipe.name, tuple(name for name in known if name != recipe.name), other)


def _teaching_factors(base: Setting, classes: Sequence[str]) -> Iterator[Factor]:
    """What teaches the base besides its labels: its teacher, and how; super-classes; device responses."""
    recipe = base.recipe

    def field(name: str, of: str, level: str, levels: Sequence[str], inactive: str = "", **more: Any) -> Factor:
        """A recipe's field as a factor; its value is of the type that the field has."""
        kind = type(getattr(recipe, of))

        def change(setting: Setting, text: str) -> Setting:
            value: dict[str, Any] = {of: kind(text)}
            if of in ("soft_weight", "feature_weight"):
                value["phases"] = ()
            return replace(setting, recipe=sealed(replace(setting.recipe, **value)))

        options = () if inactive else tuple(option for option in levels if option != level)
        return Factor(name, RECIPE, level, options, change, inactive, **more)

    def taught_by(setting: Setting, level: str) -> Setting:
        if level == "none":
            none: dict[str, Any] = {
                "teachers": (),
                "feature_teacher": "",
                "feature_form": "none",
                "soft_weight": 0.0,
                "phases": (),
            }
            return replace(setting, recipe=sealed(replace(setting.recipe, **none)))
        alone = replace(setting.recipe, teachers=(), feature_teacher="")
        return replace(setting, recipe=with_options(alone, teacher=level.split("+")))

    named = "+".join(recipe.teachers) or "none"
    options = ("none",) if recipe.teachers else ()
    yield Factor(
        "teacher",
        RECIPE,
        named,
        options,
        taught_by,
        number=_teacher,
        other="run or file of logits, several joined by +",
    )
    none = "" if recipe.teachers else "the base has no teacher; --teacher gives it one"
    soft = none or ("" if recipe.soft_weight else "the base is taught features alone")
    for name, levels in (("temperature", TEMPERATURE), ("soft_weight", SOFT_WEIGHT)):
        reason = none if name == "soft_weight" else soft
        yield field(name, name, f"{getattr(recipe, name):g}", levels, reason, number=partial(_value, name))
    yield field("kl_reduction", "kl_reduction", recipe.kl_reduction, KL_REDUCTIONS, soft)
    run = none or (
        ""
        if recipe.feature_teacher or any(map(is_run, recipe.teachers))
        else "no teacher of the base is a run, whose features could be learned"
    )
    yield field("features", "feature_form", recipe.feature_form, FEATURE_FORMS, run)
    unused = run or ("" if recipe.feature_form != "none" else "the base learns no features")
    level = f"{recipe.feature_weight:g}"
    yield field(
        "feature_weight", "feature_weight", level, FEATURE_WEIGHT, unused, number=partial(_value, "feature_weight")
    )
    yield field("multitask", "multitask", recipe.multitask, MULTITASKS, _no_super_classes(recipe, classes))
    yield field("impulses", "impulses", recipe.impulses, ("none", GENERATED), number=str, other="folder of wav files")


def _no_super_classes(recipe: Recipe, classes: Sequence[str]) -> str:
    """Why these classes have no super-classes; nothing where they have, or no data is known."""
    if not classes:
        return ""
    try:
        super_classes(classes, recipe.super_classes)
    except UserError as error:
        return str(error)
    return ""


def _teacher(text: str) -> str:
    for name in text.split("+"):
        teacher_digest(name)
    return text


def _value(name: str, text: str) -> str:
    """Text as the number that a recipe's field takes. Raises `UserError` for any other."""
    try:
        value: dict[str, Any] = {name: float(text)}
    except ValueError:
        raise UserError(f"{name} is a number, not {text!r}") from None
    return f"{getattr(replace(RECIPES['short'](), **value), name):g}"


def _prune(base: Setting) -> Factor:
    """The same share of the params removed in one step or in many, both around the same clip; the base's share where it has one."""
    recipe = base.recipe
    share = recipe.prune or PRUNE

    def change(setting: Setting, level: str) -> Setting:
        prune, steps = {"none": (0.0, 1), "one-step": (share, 1), "progressive": (share, PRUNE_STEPS)}[level]
        return replace(setting, recipe=replace(setting.recipe, prune=prune, prune_steps=steps))

    level = "none" if not recipe.prune else "one-step" if recipe.prune_steps == 1 else "progressive"
    grouped = isinstance(base.network, Architecture) and any(
        dict(block.options).get("groups", 1) != 1 for block in base.network.blocks
    )
    reason = "its 1x1 convolutions have groups, which tie channels to one another" if grouped else recipe.bound
    if isinstance(base.network, Related):
        reason = "nothing says which of its channels belong together"
    options = tuple(other for other in ("none", "one-step", "progressive") if other != level)
    return Factor("prune", RECIPE, level, () if reason else options, change, reason)


def _precision(base: Setting) -> Factor:
    """Floats, and the ways to int8."""
    level = base.recipe.precision
    reason = "" if find_spec("torchao") else "int8 needs the package torchao: pip install -e '.[int8]'"

    def change(setting: Setting, to: str) -> Setting:
        return replace(setting, recipe=replace(setting.recipe, precision=to))

    barred = {level, *(REBUILDING if base.recipe.bound else ())}
    options = () if reason else tuple(other for other in PRECISIONS if other not in barred)
    return Factor("precision", RECIPE, level, options, change, reason)


def _front_end_factors(base: Setting) -> Iterator[Factor]:
    """Half and twice the base's numbers, and for mels a quarter."""
    for name, shares in (("mels", (0.25, 0.5)), ("n_fft", (0.5, 2)), ("hop", (0.5, 2))):
        number = base.front_end[name]

        def change(setting: Setting, level: str, name: str = name) -> Setting:
            return replace(setting, front_end={**setting.front_end, name: int(level)})

        options = tuple(f"{round(share * number)}" for share in shares)
        yield Factor(name, FRONT_END, f"{number}", options, change, number=partial(_whole, name))


def _share(name: str, text: str) -> str:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= (1 if name == "label_smoothing" else 1000):
        raise UserError(f"{name} is a number from 0 on such as 0.1, not {text!r}")
    return f"{value:g}"


def _whole(name: str, text: str) -> str:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 1_000_000):
        raise UserError(f"{name} is a whole number of at least 1, not {text!r}")
    return str(int(text))
