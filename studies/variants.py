"""What differs from a base in one thing alone, or in every combination of some: the variants of an ablation. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

from search_space.errors import UserError, unknown
from studies.factors import ARCHITECTURE, Factor, Setting, factors

# Assumed: more combinations than that nobody waits for.
MOST_COMBINATIONS = 64


class Variant(NamedTuple):
    """A setting with the levels that make it: (factor, level of the base, level here), and other names of the same one."""

    setting: Setting
    changes: tuple[tuple[str, str, str], ...]
    also: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How it is called: operator=conv, or two of these in a factorial."""
        return ", ".join(f"{factor}={level}" for factor, _, level in self.changes) or "base"


class Grid(NamedTuple):
    """A full factorial: every factor's levels, the base's first, and the variant of every combination of them."""

    levels: dict[str, tuple[str, ...]]
    cells: dict[tuple[str, ...], Variant]


def choose(known: Mapping[str, Factor], text: str | None) -> dict[str, Factor]:
    """The factors that a text names, such as "operator,split_ratio=0.25|0.75", with those levels alone; None: all of the architecture.

    Raises `UserError` with the known names or levels.
    """
    if text is None:
        return {name: factor for name, factor in known.items() if factor.kind == ARCHITECTURE}
    chosen: dict[str, Factor] = {}
    for part in text.split(","):
        name, equals, levels = part.strip().partition("=")
        if name not in known:
            raise unknown("factor", name, known)
        if name in chosen:
            raise UserError(f"--factors names {name!r} twice; write its levels once, joined by |")
        factor = known[name]
        if equals and not factor.inactive:
            factor = factor._replace(options=_levels(factor, levels.split("|")))
        chosen[name] = factor
    return chosen


def _levels(factor: Factor, texts: Sequence[str]) -> tuple[str, ...]:
    levels = []
    for text in texts:
        level = factor.number(text) if factor.number and text not in factor.options else text
        if level == factor.level:
            raise UserError(f"{factor.name}={text} is the base's own level; name others: {list(factor.options)}")
        if level not in factor.options and not factor.number:
            raise unknown(f"level of {factor.name}", text, factor.options)
        levels.append(level)
    return tuple(dict.fromkeys(levels))


def one_change(base: Setting, chosen: Mapping[str, Factor]) -> list[Variant]:
    """Every variant that one level of one of these factors makes; two names of the same one are one variant.

    Raises `UserError` when there is none.
    """
    found: list[Variant] = []
    for factor in chosen.values():
        for level in () if factor.inactive else factor.options:
            variant = Variant(factor.change(base, level), ((factor.name, factor.level, level),))
            if variant.setting.same(base):
                continue
            twin = next((i for i, other in enumerate(found) if other.setting.same(variant.setting)), None)
            if twin is None:
                found.append(variant)
            else:
                found[twin] = found[twin]._replace(also=(*found[twin].also, variant.label))
    if not found:
        reasons = "; ".join(f"{factor.name}: {factor.inactive or 'no other level'}" for factor in chosen.values())
        raise UserError(
            f"no variant of {base.network} among these factors ({reasons}); choose others, --list names them"
        )
    return found


def factorial(base: Setting, chosen: Mapping[str, Factor]) -> Grid:
    """Every combination of the levels of the active factors.

    Raises `UserError` for fewer than two active factors, for more than `MOST_COMBINATIONS`, and where two combinations are one network.
    """
    active = [factor for factor in chosen.values() if not factor.inactive and factor.options]
    if len(active) < 2:
        raise UserError(
            f"--grid takes at least two active factors, not {[factor.name for factor in active]}; --list names them"
        )
    levels = [(factor.level, *factor.options) for factor in active]
    number = math.prod(map(len, levels))
    if number > MOST_COMBINATIONS:
        sizes = " x ".join(f"{len(of)} of {factor.name}" for factor, of in zip(active, levels, strict=True))
        raise UserError(
            f"--grid is at most {MOST_COMBINATIONS} combinations, not {number} ({sizes}); choose fewer: --factors "
            f"{active[0].name}={active[0].options[0]},{active[1].name}={active[1].options[0]}"
        )
    cells: dict[tuple[str, ...], Variant] = {}
    for cell in product(*levels):
        moved = [(factor, level) for factor, level in zip(active, cell, strict=True) if level != factor.level]
        try:
            setting, backwards = _moved(base, moved), _moved(base, moved[::-1])
        except UserError as error:
            raise UserError(f"--grid: {_named(active, cell)} can not be: {error}") from error
        if not setting.same(backwards):
            raise UserError(f"--grid: {_named(active, cell)} can not be: one of these undoes another; leave one out")
        for other, variant in cells.items():
            if variant.setting.same(setting):
                raise UserError(
                    f"--grid: {_named(active, cell)} and {_named(active, other)} are the same network; leave one of these factors out"
                )
        cells[cell] = Variant(setting, tuple((factor.name, factor.level, level) for factor, level in moved))
    return Grid(dict(zip((factor.name for factor in active), levels, strict=True)), cells)


def _moved(setting: Setting, moved: Sequence[tuple[Factor, str]]) -> Setting:
    for factor, level in moved:
        setting = factor.change(setting, level)
    return setting


def _named(active: Sequence[Factor], cell: Sequence[str]) -> str:
    return ", ".join(f"{factor.name}={level}" for factor, level in zip(active, cell, strict=True))


def table2(base: Setting) -> list[Variant]:
    """The rows of the paper's Table 2 for this base (the paper's is dssdn-large), and those that take its two changes apart.

    DL-O replaces the operators by a plain 3x3. DL-B replaces the blocks by one 3x3 each, operators included, and leaves the pooling out as well,
    as its printed MACs tell; `dl-b-pooled` keeps the pooling, `plain` keeps pooling and operators and changes the block alone.
    """
    known = factors(base)
    rows = choose(known, "operator=conv,block=plain|dl-b-pooled|dl-b")
    return one_change(base, rows)
