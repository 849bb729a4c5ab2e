"""The frozen description of one network, and the one string that names it everywhere.

    dssdn_c28-44-60-60-60-60_r0.5_sc_h64        stem 28, five blocks, ratio 0.5, operator SC, head 64
    dssdn_c16-24-32_r0.5-1_sc-osc.m6_h64_high   blocks that differ, the heavy half the upper one

| part                      | what it says                                                        | left out when it is     |
|---------------------------|---------------------------------------------------------------------|-------------------------|
| `_c28-44-60`              | channels: the stem's, then each block's output                      | never                   |
| `_r0.5`, `_r0.5-1`        | split ratio: the share of the mel bins on the heavy path; 1: no cut | never                   |
| `_sc`, `_osc.m6`, `_conv` | operator, with options as a letter and a number                     | never                   |
| `_sc.d2`                  | SC: dilation of its channel-wise convolutions                       | 1                       |
| `_sc.g2`, `_sc.g0`        | SC: groups of its 1x1; 0: as many as the widths allow               | 1                       |
| `_h64`                    | hidden units of the head                                            | never                   |
| `_high`                   | the heavy half is the upper one                                     | the lower one           |
| `_add`, `_concat`         | how the two parts of a cut map become one                           | spliced along mel       |
| `_p2x1`, `_p2x2-1x1`      | what a block divides frames x mels by: 1 or 2 each                  | 2x2                     |
| `_t1-2-5`                 | the blocks that the head sees, by number from 1                     | all but the first       |
| `_eca5`, `_eca0`          | the attention's kernel, odd; 0: no attention                        | as wide as channels ask |
| `_chain`                  | nothing is distilled: the heavy path is its three operators alone   | a distillation block    |
| `_plain`                  | a block is operator, norm, ReLU and pool                            | a distillation block    |

Values that all blocks share are written once; parts come in the order of the table. The string holds only letters, digits
and `._-`, so it serves as file name, test id and chart label; weights are no part of it.

What makes no difference is not kept: `_high`, `_add` and `_concat` where no block is cut, `_eca3` where the channels ask for 3, `_t`
where it names all blocks but the first. What depends on each layer's widths stays as it is written: `_sc.g5` at widths that 5
does not divide computes what `_sc` does, two partial ratios may come to the same channels, two split ratios to the same bins.
Equal strings are one network; two of these are two names of one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

from search_space.complexity import eca_kernel
from search_space.errors import UserError, unknown
from search_space.operators import OPERATORS, Operator

EXAMPLE = "dssdn_c28-44-60-60-60-60_r0.5_sc_h64"
_NOTATION = re.compile(
    r"dssdn_c(?P<widths>\d+(-\d+)*)_r(?P<ratios>[\d.]+(-[\d.]+)*)_(?P<operators>[a-z0-9.]+(-[a-z0-9.]+)*)_h(?P<head>\d+)"
    r"(?P<high>_high)?(_(?P<merge>add|concat))?(_p(?P<pools>\dx\d(-\dx\d)*))?(_t(?P<tapped>\d+(-\d+)*))?(_eca(?P<eca>\d+))?"
    r"(_(?P<kind>plain|chain))?",
    re.ASCII,
)
_LONGEST_NUMBER = 20  # digits, far more than any value has

Half = Literal["low", "high"]
Merge = Literal["splice", "add", "concat"]
Kind = Literal["distillation", "chain", "plain"]


@dataclass(frozen=True)
class Block:
    """One block: its output channels, its operator with that operator's options, its frequency split and its pooling.

    `options` are (name, value) pairs in the order of their names; one that has its default is left out, so that equal
    blocks are equal; they and `pool` may be given as lists. `split_ratio` is the fraction of mel bins on the heavy path, 0.01 to 1; at 1 the map is not cut and
    there is no light branch. `pool` is what the block divides (frames, mels) by.

    Raises `UserError` on an unknown operator, options that are not its own, and values out of range.
    """

    out_channels: int
    operator: str
    options: tuple[tuple[str, int | float], ...] = ()
    split_ratio: float = 0.5
    pool: tuple[int, int] = (2, 2)

    def __post_init__(self) -> None:
        _check_width("a block's output", self.out_channels)
        if not _is_number(self.split_ratio) or not 0.01 <= self.split_ratio <= 1:
            raise UserError(
                f"a split ratio is the fraction of mel bins on the heavy path, 0.01 to 1; got {self.split_ratio!r}; try 0.5"
            )
        object.__setattr__(self, "pool", _as_tuple(self.pool))
        if not _are_whole(self.pool) or len(self.pool) != 2 or not set(self.pool) <= {1, 2}:
            raise UserError(f"a block divides frames and mels by 1 or 2 each; got {_by(self.pool)}; try 2x2")
        if not isinstance(self.operator, str) or self.operator not in OPERATORS:
            raise unknown("operator", self.operator, OPERATORS)
        object.__setattr__(self, "options", tuple(map(_as_tuple, _as_tuple(self.options))))
        if not all(len(option) == 2 and isinstance(option[0], str) for option in self.options):
            raise UserError(f"a block's options are (name, value) pairs; got {self.options!r}; try ()")
        known = {option.name: option for option in OPERATORS[self.operator].options()}
        given = [name for name, _ in self.options]
        wanted = [name for name, option in known.items() if option.default is None or name in given]
        if given != wanted:
            raise UserError(f"operator {self.operator!r} takes the options {list(known)}; got {list(self.options)}")
        for name, value in self.options:
            known[name].check(value)
        kept = tuple((name, value) for name, value in self.options if value != known[name].default)
        object.__setattr__(self, "options", kept)

    @property
    def cut(self) -> bool:
        """Whether the block sends a part of the mel axis through a light branch."""
        return self.split_ratio < 1

    @cached_property
    def module(self) -> Operator:
        """The block's operator with its options: what can be counted and built."""
        return OPERATORS[self.operator](**dict(self.options))


@dataclass(frozen=True)
class Architecture:
    """One network: the stem's channels, its blocks in order, and what they have in common.

    `heavy` is the half of the mel axis on the heavy path, `head` the head's hidden units, `merge` how the two parts of a cut
    map become one, `tapped` the numbers (from 1) of the blocks whose averaged outputs the head sees (empty, and always so
    where it says the same: all but the first), `eca` the channel attention's kernel (None: it follows the width; 0: no
    attention), `kind` that of all blocks ("chain": a distillation block without what it distils). `blocks` and `tapped` may be given as lists; what makes no difference is not kept
    (top of this file).

    `str()` gives the notation, `Architecture.parse` reads it back. Equal architectures are one network, whatever its weights.

    Raises `UserError` without a block, on unknown names, on values out of range, and where options contradict each other.
    """

    stem: int
    blocks: tuple[Block, ...]
    heavy: Half = "low"
    head: int = 64
    merge: Merge = "splice"
    tapped: tuple[int, ...] = ()
    eca: int | None = None
    kind: Kind = "distillation"

    def __post_init__(self) -> None:
        _check_width("the stem", self.stem)
        _check_width("the head", self.head)
        for name in ("blocks", "tapped"):
            object.__setattr__(self, name, _as_tuple(getattr(self, name)))
        if any(not isinstance(block, Block) for block in self.blocks):
            raise UserError(f"blocks are a sequence of Block; got {self.blocks!r}")
        if not self.blocks:
            raise UserError("a network has at least one block; got none; add one")
        _check_name("heavy half", self.heavy, ("low", "high"))
        _check_name("merge", self.merge, ("splice", "add", "concat"))
        _check_name("kind of block", self.kind, ("distillation", "chain", "plain"))
        if self.eca is not None and not (
            _are_whole((self.eca,)) and (self.eca == 0 or (self.eca % 2 == 1 and 1 <= self.eca <= 63))
        ):
            raise UserError(
                f"an attention's kernel is an odd number from 1 to 63, or 0 for none; got {self.eca!r}; try 3"
            )
        depth = len(self.blocks)
        if self.tapped and (
            not _are_whole(self.tapped)
            or list(self.tapped) != sorted(set(self.tapped))
            or self.tapped[0] < 1
            or self.tapped[-1] != depth
        ):
            raise UserError(
                "the head sees blocks by their numbers from 1, each once, ascending, the last one among them (blocks behind "
                f"it would be dead); got {list(self.tapped)} of {depth} blocks; try {list(range(1, depth + 1))}"
            )
        if self.tapped == _later(depth):
            object.__setattr__(self, "tapped", ())
        unfit = [b for b in self.blocks if b.cut and (b.split_ratio != 0.5 or b.pool[1] != 2)]
        if self.merge != "splice" and unfit:
            raise UserError(
                f"merge {self.merge!r} lays two equal parts over each other, which halves the mel axis by itself: a cut block "
                f"has split ratio 0.5 and pools mels by 2; got ratio {_number(unfit[0].split_ratio)} and pool "
                f"{_by(unfit[0].pool)}; change them, or splice"
            )
        distilled = any(b.cut for b in self.blocks) or (self.heavy, self.merge, self.eca) != ("low", "splice", None)
        if self.kind == "plain" and distilled:
            raise UserError(
                "a plain block is not cut and has no attention: split ratio 1 and neither high, add, concat nor eca; got "
                f"{self._write()}; write e.g. dssdn_c28-44_r1_conv_h64_plain"
            )
        if not any(block.cut for block in self.blocks):
            object.__setattr__(self, "heavy", "low")
            object.__setattr__(self, "merge", "splice")
        if all(eca_kernel(block.out_channels) == self.eca for block in self.blocks):
            object.__setattr__(self, "eca", None)

    @property
    def taps(self) -> tuple[Block, ...]:
        """The blocks whose averaged outputs the head sees: as tapped, else all but the first, where there is more than one."""
        return tuple(self.blocks[number - 1] for number in self.tap_numbers)

    @property
    def tap_numbers(self) -> tuple[int, ...]:
        """The numbers of these blocks, from 1."""
        return self.tapped or _later(len(self.blocks))

    @cached_property
    def _notation(self) -> str:
        return self._write()

    def _write(self) -> str:
        widths = "-".join(str(width) for width in (self.stem, *(block.out_channels for block in self.blocks)))
        ratios = _collapse([_number(block.split_ratio) for block in self.blocks])
        operators = _collapse([_operator_notation(block) for block in self.blocks])
        pools = _collapse([_by(block.pool) for block in self.blocks])
        departures = (
            "_high" if self.heavy == "high" else "",
            f"_{self.merge}" if self.merge != "splice" else "",
            f"_p{pools}" if pools != "2x2" else "",
            f"_t{'-'.join(map(str, self.tapped))}" if self.tapped else "",
            f"_eca{self.eca}" if self.eca is not None else "",
            f"_{self.kind}" if self.kind != "distillation" else "",
        )
        return f"dssdn_c{widths}_r{ratios}_{operators}_h{self.head}{''.join(departures)}"

    def __str__(self) -> str:
        return self._notation

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """The architecture a notation names.

        Raises `UserError` when the text is no notation, or one of a network that cannot exist.
        """
        match = _NOTATION.fullmatch(text)
        if match is None:
            raise UserError(f"{_shortened(text)!r} is not the notation of an architecture; it looks like {EXAMPLE}")
        if longest := max((number for number in re.findall(r"\d+", text) if len(number) > _LONGEST_NUMBER), default=""):
            raise UserError(
                f"a number in a notation has at most {_LONGEST_NUMBER} digits; got one of {len(longest):,} in {_shortened(text)!r}; "
                f"it looks like {EXAMPLE}"
            )
        stem, *widths = (int(width) for width in match["widths"].split("-"))
        ratios = _spread(match["ratios"], len(widths), "split ratios")
        operators = _spread(match["operators"], len(widths), "operators")
        pools = _spread(match["pools"] or "2x2", len(widths), "poolings")
        blocks = tuple(
            Block(width, *_parse_operator(operator), _parse_ratio(ratio), (int(pool[0]), int(pool[2])))
            for width, operator, ratio, pool in zip(widths, operators, ratios, pools, strict=True)
        )
        return cls(
            stem,
            blocks,
            heavy="high" if match["high"] else "low",
            head=int(match["head"]),
            merge=cast(Merge, match["merge"] or "splice"),
            tapped=tuple(int(number) for number in (match["tapped"] or "").split("-") if number),
            eca=None if match["eca"] is None else int(match["eca"]),
            kind=cast(Kind, match["kind"] or "distillation"),
        )


def _check_width(what: str, channels: int) -> None:
    if isinstance(channels, bool) or not isinstance(channels, int) or not 2 <= channels <= 4096:
        raise UserError(f"{what} has 2 to 4096 channels, a whole number; got {channels!r}; try 28")


def _as_tuple(values: Any) -> tuple[Any, ...]:
    """A sequence as a tuple, which can be hashed; anything else as the only element of one, to be refused by what is asked of it."""
    return tuple(values) if isinstance(values, Sequence) and not isinstance(values, str) else (values,)


def _are_whole(values: tuple[object, ...]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


def _check_name(kind: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise unknown(kind, value, known)


def _later(depth: int) -> tuple[int, ...]:
    """All blocks but the first, or the only one."""
    return tuple(range(2, depth + 1)) or (1,)


def _number(value: int | float) -> str:
    return str(value).removesuffix(".0")


def _by(pool: tuple[int, ...]) -> str:
    return "x".join(map(str, pool))


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
