"""The frozen description of one network, and the one string that names it everywhere.

    dssdn_c28-44-60-60-60-60_r0.5_sc_h64        stem 28, five blocks, ratio 0.5, operator SC, head 64
    dssdn_c16-24-32_r0.5-1_sc-osc.m6_h64_high   blocks that differ, the heavy half the upper one

Values that all blocks share are written once. The string holds only letters, digits and `._-`, so it serves as file
name, test id and chart label; weights are no part of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from search_space.errors import UserError, unknown
from search_space.operators import OPERATORS, Operator

EXAMPLE = "dssdn_c28-44-60-60-60-60_r0.5_sc_h64"
_NOTATION = re.compile(
    r"dssdn_c(?P<widths>\d+(-\d+)*)_r(?P<ratios>[\d.]+(-[\d.]+)*)_(?P<operators>[a-z0-9.]+(-[a-z0-9.]+)*)_h(?P<head>\d+)(?P<high>_high)?"
)


@dataclass(frozen=True)
class Block:
    """One distillation block: its output channels, its operator with that operator's options, and its frequency split.

    `options` are (name, value) pairs in the order of their names. `split_ratio` is the fraction of mel bins on the heavy
    path, 0.01 to 1; at 1 the map is not cut and there is no light branch.

    Raises `UserError` on an unknown operator, options that are not its own, and values out of range.
    """

    out_channels: int
    operator: str
    options: tuple[tuple[str, int | float], ...] = ()
    split_ratio: float = 0.5

    def __post_init__(self) -> None:
        _check_width("a block's output", self.out_channels)
        if not 0.01 <= self.split_ratio <= 1:
            raise UserError(
                f"a split ratio is the fraction of mel bins on the heavy path, 0.01 to 1; got {self.split_ratio!r}; try 0.5"
            )
        if self.operator not in OPERATORS:
            raise unknown("operator", self.operator, OPERATORS)
        known = OPERATORS[self.operator].options()
        if tuple(name for name, _ in self.options) != tuple(option.name for option in known):
            raise UserError(
                f"operator {self.operator!r} takes the options {[option.name for option in known]}; got {list(self.options)}"
            )
        for option, (_, value) in zip(known, self.options, strict=True):
            option.check(value)

    @property
    def module(self) -> Operator:
        """The block's operator with its options: what can be counted and built."""
        return _operator(self.operator, self.options)


@dataclass(frozen=True)
class Architecture:
    """One network: channels after the stem, its blocks in order, which half of the mel axis is heavy, hidden units of the head.

    `str()` gives the notation, `Architecture.parse` reads it back. Equal architectures are one network, whatever its weights.

    Raises `UserError` without a block, on an unknown half, and on widths out of range.
    """

    stem: int
    blocks: tuple[Block, ...]
    heavy: Literal["low", "high"] = "low"
    head: int = 64

    def __post_init__(self) -> None:
        _check_width("the stem", self.stem)
        _check_width("the head", self.head)
        if not self.blocks:
            raise UserError("a network has at least one block; got none; add one")
        if self.heavy not in ("low", "high"):
            raise unknown("heavy half", self.heavy, ("low", "high"))

    @property
    def taps(self) -> tuple[Block, ...]:
        """The blocks whose averaged outputs the head sees: all but the first, where there is more than one."""
        return self.blocks[1:] or self.blocks

    @cached_property
    def _notation(self) -> str:
        widths = "-".join(str(width) for width in (self.stem, *(block.out_channels for block in self.blocks)))
        ratios = _collapse([_number(block.split_ratio) for block in self.blocks])
        operators = _collapse([_operator_notation(block) for block in self.blocks])
        return f"dssdn_c{widths}_r{ratios}_{operators}_h{self.head}{'_high' if self.heavy == 'high' else ''}"

    def __str__(self) -> str:
        return self._notation

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """The architecture a notation names.

        Raises `UserError` when the text is no notation, or one of a network that cannot exist.
        """
        match = _NOTATION.fullmatch(text)
        if match is None:
            raise UserError(f"{text!r} is not the notation of an architecture; it looks like {EXAMPLE}")
        stem, *widths = (int(width) for width in match["widths"].split("-"))
        ratios = _spread(match["ratios"], len(widths), "split ratios")
        operators = _spread(match["operators"], len(widths), "operators")
        blocks = tuple(
            Block(width, *_parse_operator(operator), _parse_ratio(ratio))
            for width, operator, ratio in zip(widths, operators, ratios, strict=True)
        )
        return cls(stem, blocks, "high" if match["high"] else "low", int(match["head"]))


def _check_width(what: str, channels: int) -> None:
    if isinstance(channels, bool) or not isinstance(channels, int) or not 2 <= channels <= 4096:
        raise UserError(f"{what} has 2 to 4096 channels, a whole number; got {channels!r}; try 28")


@lru_cache(maxsize=1024)
def _operator(name: str, options: tuple[tuple[str, int | float], ...]) -> Operator:
    return OPERATORS[name](**dict(options))


def _number(value: int | float) -> str:
    return str(value).removesuffix(".0")


def _collapse(values: list[str]) -> str:
    return values[0] if len(set(values)) == 1 else "-".join(values)


def _spread(text: str, n_blocks: int, what: str) -> list[str]:
    values = text.split("-")
    if len(values) not in (1, n_blocks):
        raise UserError(f"{what} are given once or once a block; got {len(values)} for {n_blocks} blocks in {text!r}")
    return values * n_blocks if len(values) == 1 else values


def _operator_notation(block: Block) -> str:
    letters = {option.name: option.letter for option in OPERATORS[block.operator].options()}
    return ".".join([block.operator, *(letters[name] + _number(value) for name, value in block.options)])


def _parse_ratio(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"a split ratio is a number such as 0.5; got {text!r}") from None


def _parse_operator(text: str) -> tuple[str, tuple[tuple[str, int | float], ...]]:
    name, *parts = re.split(r"\.(?=[a-z])", text)
    if name not in OPERATORS:
        raise unknown("operator", name, OPERATORS)
    known = {option.letter: option for option in OPERATORS[name].options()}
    options = []
    for part in parts:
        option = known.get(part[0])
        if option is None:
            raise unknown(f"option of {name!r}", part[0], known)
        try:
            options.append((option.name, option.type(part[1:])))
        except ValueError:
            raise UserError(f"{option.name} is written like {part[0]}{option.choices[0]}; got {part!r}") from None
    return name, tuple(sorted(options))
