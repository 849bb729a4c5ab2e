"""A recipe as a command's options: its teachers, as files that are there and as what tells them apart, and what the network becomes.

Nothing here imports torch."""

from __future__ import annotations

import dataclasses
import hashlib
from argparse import ArgumentError, ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search_space.errors import UserError
from trainers.config import FEATURE_FORMS, GENERATED, MULTITASKS, PRECISIONS, Recipe, changed, get_recipe, taught
from trainers.runs import INT8, Run

PASST = "passt:"


def add_options(parser: ArgumentParser) -> None:
    """The options of a command that trains with a teacher: few, for the recipes carry the rest."""
    add = parser.add_argument
    add(
        "--teacher",
        action="append",
        metavar="RUN|FILE",
        help="learn from its answers too: a finished run of the same data and fold, a csv or npz of logits, or passt:FILE (needs hear21passt, "
        "untested); several: their mean",
    )
    add("--temperature", type=float, help="of the soft targets (default: the recipe's, 2)")
    add(
        "--soft-weight",
        type=float,
        metavar="W",
        help="of the soft targets, labels have the rest of 1 (default: the recipe's, or 0.98)",
    )
    add(
        "--features",
        choices=FEATURE_FORMS,
        help="also learn the features of the first teacher that is a run (default: the recipe's)",
    )
    add("--feature-weight", type=float, metavar="W", help="of the features (default: the recipe's, 0.1)")
    add(
        "--multitask",
        choices=MULTITASKS,
        help="also learn super-classes such as indoor and outdoor (default: the recipe's)",
    )
    add(
        "--super-classes",
        metavar="CSV",
        help="the super-classes of data that is not known: columns label and super_class",
    )
    add(
        "--impulses",
        metavar="FOLDER",
        help="pass clips through device responses: a folder of wav files, or 'generated'",
    )


OPTIONS = (
    *("teacher", "temperature", "soft_weight", "features", "feature_weight"),
    *("multitask", "super_classes", "impulses"),
)
"""What `add_options` adds, as keyword arguments of `with_options`."""
CHANGES = ("prune", "prune_steps", "precision")
"""What `add_changes` adds, as keyword arguments of `trainers.config.changed`."""
_FIELDS = {"teacher": "teachers", "features": "feature_form"}
"""Options that are called otherwise than the recipe's field that they set."""


def add_changes(parser: ArgumentParser) -> None:
    """The options of a command whose networks may be made smaller while they train."""
    add = parser.add_argument
    add("--prune", type=float, metavar="SHARE", help="channels go while it trains until this share of the params has")
    add("--prune-steps", type=int, metavar="N", help="in so many steps, each followed by training (default: 1)")
    add("--precision", choices=PRECISIONS, help="of the network that comes of it (default: float32)")


def recipe_of(options: Mapping[str, Any]) -> Recipe:
    """The recipe that a command's options ask for: the named one (`recipe`) with what `add_options` and `add_changes` add, sealed.

    Raises `UserError` for what contradicts itself, and for teachers that are not there.
    """
    chosen = with_options(get_recipe(options["recipe"]), **{name: options.get(name) for name in OPTIONS})
    return changed(chosen, **{name: options.get(name) for name in CHANGES})


def parsed(recipe: str, words: Sequence[str]) -> Recipe:
    """The recipe of this name with the options that these words of a command line give, and no others. Raises `UserError`."""
    parser = ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    add_options(parser)
    add_changes(parser)
    try:
        options, strangers = parser.parse_known_args(list(words))
    except (ArgumentError, SystemExit) as error:
        raise UserError(f"{list(words)} are no options of a training ({error})") from None
    if strangers:
        raise UserError(f"{strangers} are no options of a training; known: {[*OPTIONS, *CHANGES]}")
    return recipe_of({**vars(options), "recipe": recipe})


def words_of(recorded: Mapping[str, Any]) -> tuple[str, ...]:
    """The words of a command line that make a recorded recipe of the one of its name.

    Raises `UserError` where there is no recipe of that name any more or the record is of another version, and `KeyError` for a record without a name.
    """
    named, then = get_recipe(recorded["name"]), Recipe.of(recorded)
    words: list[str] = []
    for option in (*OPTIONS, *CHANGES):
        if option == "prune_steps" and not then.prune:  # which say nothing
            continue
        field = _FIELDS.get(option, option)
        value = getattr(then, field)
        if value != getattr(named, field):
            values = value if field == "teachers" else [value]
            words += [word for one in values for word in (f"--{option.replace('_', '-')}", str(one))]
    return tuple(words)


def described(recipe: Recipe) -> list[str]:
    """What a training by this recipe has beyond labels and a network that stays as it is, a line each; none for a plain one."""
    lines = []
    if recipe.teachers:
        weights = "weights by phases" if recipe.phases else f"weight {recipe.soft_weight:g}"
        features = "" if recipe.feature_form == "none" else f", and features of stages ({recipe.feature_form})"
        lines.append(
            f"taught by {', '.join(recipe.teachers)}: soft targets at temperature {recipe.temperature:g}, {weights}{features}"
        )
    if recipe.multitask != "none":
        lines.append(f"taught super-classes as well ({recipe.multitask})")
    if recipe.impulses != "none":
        lines.append(f"clips pass device responses ({recipe.impulses}) with probability {recipe.impulse_probability:g}")
    if recipe.prune:
        steps = "1 step" if recipe.prune_steps == 1 else f"{recipe.prune_steps} steps"
        lines.append(
            f"pruned: {recipe.prune:.0%} of the params go in {steps} between {recipe.prune_from:.0%} and {recipe.prune_until:.0%} of the clips"
        )
    if recipe.precision != "float32":
        begins = {"int8-ptq": "quantised after the training", "int8-qat-scratch": "fake-quantised from the first batch"}
        how = begins.get(recipe.precision, f"fake-quantised from {recipe.quantise_from:.0%} of the clips on")
        lines.append(f"{recipe.precision}: {how}; the int8 network is the one that is scored")
    return lines


def with_options(
    recipe: Recipe,
    *,
    teacher: Sequence[str] | None = None,
    temperature: float | None = None,
    soft_weight: float | None = None,
    features: str | None = None,
    feature_weight: float | None = None,
    multitask: str | None = None,
    super_classes: str | None = None,
    impulses: str | None = None,
) -> Recipe:
    """The recipe with what was asked for, sealed. A recipe that gives soft targets no weight takes those of 'taught' for its teachers.

    Raises `UserError` for what contradicts itself, and for teachers that are not there.
    """
    changes: dict[str, Any] = {}
    if teacher:
        changes["teachers"] = tuple(dict.fromkeys(teacher))
        if recipe.soft_weight == 0 and not recipe.phases:
            from_taught = taught()
            names = ("soft_weight", "kl_reduction", "temperature")
            changes |= {name: getattr(from_taught, name) for name in names}
    named = {
        "temperature": temperature,
        "soft_weight": soft_weight,
        "feature_form": features,
        "feature_weight": feature_weight,
        "multitask": multitask,
        "super_classes": super_classes,
        "impulses": impulses,
    }
    given = {name: value for name, value in named.items() if value is not None}
    changes |= given
    if {"soft_weight", "feature_weight"} & set(given):
        changes["phases"] = ()
    chosen = dataclasses.replace(recipe, **changes)
    about_one = [name for name in ("temperature", "soft_weight", "feature_form", "feature_weight") if name in given]
    if about_one and not chosen.teachers:
        option = "features" if about_one[0] == "feature_form" else about_one[0].replace("_", "-")
        raise UserError(f"--{option} is about a teacher; name one with --teacher RUN, or leave it out")
    if chosen.needs_teacher:
        raise UserError(
            f"recipe {recipe.name!r} learns from a teacher; name one with --teacher RUN (a finished run), or take another recipe"
        )
    if super_classes is not None and chosen.multitask == "none":
        raise UserError("--super-classes is about --multitask; give --multitask pcgrad as well, or leave it out")
    return sealed(chosen)


# ------------------------------------------------------------------------------------------------------------- identity


def sealed(recipe: Recipe) -> Recipe:
    """The recipe with the SHA-256 of everything that it names, so that what was recorded tells whether it is still that.

    Raises `UserError` where something is not there.
    """
    names = [*recipe.teachers, *([recipe.feature_teacher] if recipe.feature_form != "none" else [])]
    named = [(name, teacher_digest(name)) for name in dict.fromkeys(names) if name]
    if recipe.multitask != "none" and recipe.super_classes:
        named.append((recipe.super_classes, _file_digest(Path(recipe.super_classes))))
    if recipe.impulses not in ("none", GENERATED):
        named.append((recipe.impulses, folder_digest(recipe.impulses)))
    return dataclasses.replace(recipe, digests=tuple(named))


def teacher_digest(teacher: str) -> str:
    """The SHA-256 of a teacher's weights, or of its file. Raises `UserError` where there is none."""
    if is_run(teacher):
        run = Run(teacher)
        if not run.weights_path.is_file():
            raise UserError(
                f"teacher {teacher} has no weights: its training has not finished ({run.status.get('state') or 'never begun'}); finish it"
            )
        int8 = run.path / INT8  # what answers is this network, where a run made one
        return _file_digest(int8 if run.final.get("precision") else run.weights_path)
    path = Path(teacher.removeprefix(PASST))
    if path.is_file() and (teacher.startswith(PASST) or path.suffix.lower() in (".csv", ".tsv", ".npz")):
        return _file_digest(path)
    raise UserError(
        f"no teacher {teacher!r} (seen from {Path.cwd()}): name a finished run's folder (runs/NAME/trials/00006, runs/retrain/...), a csv or npz "
        f"file of logits, or passt:FILE"
    )


def is_run(teacher: str) -> bool:
    """Whether the teacher is a run of this project."""
    return not teacher.startswith(PASST) and (Path(teacher) / "run.json").is_file()


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name a file that can") from error


def feature_teacher(recipe: Recipe) -> str:
    """Whose features are taught: the one that is named, or the first teacher that is a run. Raises `UserError` where there is none."""
    found = [recipe.feature_teacher] if recipe.feature_teacher else [name for name in recipe.teachers if is_run(name)]
    if not found or not is_run(found[0]):
        raise UserError(
            f"features are taught by a run of this project, and none is among the teachers {list(recipe.teachers)}; name one, or leave the features out"
        )
    return found[0]


def response_files(folder: Path) -> list[Path]:
    """The wav files below a folder, sorted. Raises `UserError` where there are none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".wav") if folder.is_dir() else []
    if not found:
        raise UserError(
            f"no impulse responses in {str(folder)!r} (seen from {Path.cwd()}): name a folder with wav files, or {GENERATED!r}"
        )
    return found


def folder_digest(folder: str) -> str:
    """SHA-256 of the names and the content of a folder's responses. Raises `UserError` where there are none."""
    digest = hashlib.sha256()
    for path in response_files(Path(folder)):
        digest.update(f"{path.relative_to(folder).as_posix()}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
