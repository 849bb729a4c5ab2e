"""What a study is asked to do, and what that comes to on a data set: decided before any log-mel is made and anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from search_space.complexity import BYTES
from search_space.errors import UserError, unknown
from search_space.limits import Limits, get_limits
from search_space.space import AnySpace, get_space
from studies.candidates import SAMPLERS, Caps
from studies.owners import HEARTBEAT_S
from trainers.config import Recipe, default_budget, default_train_input, get_recipe
from trainers.features import FrontEnd
from trainers.loop import rung_clips
from trainers.runs import available_cores, check_seed, study_folder
from trainers.teaching import OPTIONS, with_options
from trainers.workers import shared_devices

_WORKERS = 8  # may always be asked for, whatever the cores: they only get slower


@dataclass(frozen=True)
class SearchOptions:
    """What a study is asked to do; the home of its defaults. None means: decided by the data or the machine."""

    trials: int = 200
    study: str | None = None
    runs: Path = Path("runs")
    storage: str | None = None
    space: str = "dssdn"
    sampler: str = "tpe"
    seed: int = 0
    workers: int | None = None
    device: str = "auto"
    budget: int | None = None
    train_input: tuple[int, int] | None = None
    max_params: int | None = None
    max_macs: int | None = None
    max_bytes: int | None = None
    limits: str | None = None
    precision: str | None = None
    artifacts: str | None = None
    heartbeat: int = HEARTBEAT_S
    retry_failed: bool = False
    accept_code: bool = False
    teacher: Sequence[str] | None = None
    temperature: float | None = None
    soft_weight: float | None = None
    features: str | None = None
    feature_weight: float | None = None
    multitask: str | None = None
    super_classes: str | None = None
    impulses: str | None = None
    halving: bool | None = None
    """None: wherever the budget leaves the first rung a batch."""

    def __post_init__(self) -> None:
        """Check what needs no data. Raises `UserError`."""
        if self.trials < 1:
            raise UserError(f"--trials is at least 1, not {self.trials}")
        if self.sampler not in SAMPLERS:
            raise unknown("sampler", self.sampler, SAMPLERS)
        check_seed(self.seed)
        get_space(self.space)
        if self.limits is not None:
            get_limits(self.limits)
        capped = self.limits is not None or self.max_bytes is not None
        if self.precision is not None and (not capped or self.precision not in BYTES):
            raise UserError(
                f"--precision is one of {sorted(BYTES)}, with --limits or --max-bytes; got {self.precision!r}"
            )
        if self.heartbeat < 1:
            raise UserError(f"--heartbeat is at least 1 second, not {self.heartbeat}")
        devices = shared_devices(self.device)
        most = max(_WORKERS, available_cores(), len(devices))
        if self.workers is not None and not 1 <= self.workers <= most:
            raise UserError(f"--workers is 1 to {most}, what this machine has room for, not {self.workers}")
        if self.study is not None:
            study_folder(self.runs, self.study)


class Plan(NamedTuple):
    """What a study's options come to on a data set: the space, the input that candidates train on, their clips, whether they may be stopped early,
    their recipe, and what they may cost."""

    space: AnySpace
    train_input: tuple[int, int]
    budget: int
    halving: bool
    recipe: Recipe
    limits: Limits | None
    caps: Caps


def planned(options: SearchOptions, n_classes: int, front_end: FrontEnd, full: tuple[int, int]) -> Plan:
    """The plan, from what is known before any log-mel is made: the classes, the front end and the `full` input (frames, mels).

    Raises `UserError` for options that break a rule on this data, caps that no network of the space meets, and teachers that are not there.
    """
    space = get_space(options.space)
    train_input = default_train_input(full) if options.train_input is None else options.train_input
    check_train_input(train_input, full)
    budget = default_budget(n_classes, options.halving is not False) if options.budget is None else options.budget
    with_rungs = get_recipe("rungs")
    room = rung_clips(with_rungs, budget)[0] >= with_rungs.batch_size
    halving = room if options.halving is None else options.halving
    teaching = {name: getattr(options, name) for name in OPTIONS}
    recipe = with_options(with_rungs if halving else get_recipe("short"), **teaching)
    if budget < recipe.batch_size:
        raise UserError(f"--budget is at least one batch of {recipe.batch_size} clips, not {budget}")
    if halving and not room:
        raise UserError(
            f"--halving needs a batch of {recipe.batch_size} clips up to the first rung, which is at {rung_clips(recipe, budget)[0]} of --budget "
            f"{budget}; give a larger budget, or --no-halving"
        )
    limits = None if options.limits is None else get_limits(options.limits)
    if limits and options.precision:
        limits = limits._replace(dtype=options.precision)
    frames = front_end.frames(limits.seconds) if limits else 0
    caps = Caps(
        *(full, n_classes, options.max_params, options.max_macs, limits, (frames, full[1])),
        bytes=options.max_bytes,
        precision=options.precision or "float16",
    )
    caps.check(space)
    return Plan(space, train_input, budget, halving, recipe, limits, caps)


def check_train_input(size: tuple[int, int], full: tuple[int, int]) -> None:
    """Raises `UserError` for a training input (frames, mels) that is larger than the full one."""
    if not all(1 <= length <= most for length, most in zip(size, full, strict=True)):
        raise UserError(f"--train-input is at most the full input, {full[0]}x{full[1]} here, not {size[0]}x{size[1]}")
