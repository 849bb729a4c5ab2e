"""CP-Mobile and Rep-Mobile: the frozen description of one network, the string that names it, and what it costs. No torch.

    cpm_c4-16-16-24-40_b3-2-1_x32-32-32-32-40-40     CP-Mobile: two stem convolutions of 4 and 16 channels; three stages of 16, 24
                                                     and 40 channels, with 3, 2 and 1 blocks; each block's expanded channels
    repm_c8-32-32-56-104_b3-2-1_x72-72-72-72-128-128 Rep-Mobile, the same with four branches in each channel-wise convolution

| part               | what it says                                                    | left out when it is                            |
|--------------------|-----------------------------------------------------------------|------------------------------------------------|
| `_c4-16-16-24-40`  | channels: the two stem convolutions', then each stage's         | never                                          |
| `_b3-2-1`          | blocks of each stage                                            | never                                          |
| `_x32-32-...`      | each block's channels between its two 1x1, block by block       | never                                          |
| `_p1x1-2x2-...`    | what each block divides frames x mels by: 1 or 2 each           | 2x2 in the second block, 1x2 in the fourth, else 1x1 |

Every width is written, so that a pruned network, whose widths follow no rule, has its own name: any whole numbers will do. `mobile` makes
the widths of a published rule. A block adds its input to its output where both have as many channels, but not where it opens a later
stage: there the published widths differ, and pruning must not bring an addition in by making them equal.

**What is counted is the deployed form** (`search_space.inference`): batch norm folded into the convolution before it, Rep-Mobile's branches
merged into one. That is how the CP-Mobile submissions were counted. Against the form that is trained, params fall (a bias for two numbers
of batch norm), MACs of convolutions and linear layers stay, and MACs by the dcase rules rise, for a bias counts at every position.

Source: CP-Mobile: Schmid et al., DCASE 2023 Task 1 technical report, and github.com/fschmid56/cpjku_dcase23; Rep-Mobile: Han et al.,
arXiv 2410.20775, whose widths nobody printed; the block here is that of github.com/seunggyu-han/dcase2025_task1_hyu.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from search_space.complexity import Cost, LayerCost, Maps, check_sizes, convolution, eca_kernel
from search_space.errors import UserError, unknown

Kind = Literal["cpm", "repm"]
KINDS: dict[str, str] = {"cpm": "CP-Mobile", "repm": "Rep-Mobile"}
"""How a notation begins, and whose network it is."""

EXAMPLE = "cpm_c4-16-16-24-40_b3-2-1_x32-32-32-32-40-40"
_NOTATION = re.compile(
    r"(?P<kind>cpm|repm)_c(?P<widths>\d+(-\d+)*)_b(?P<depths>\d+(-\d+)*)_x(?P<expanded>\d+(-\d+)*)(_p(?P<pools>\dx\d(-\dx\d)*))?",
    re.ASCII,
)
_LONGEST_NUMBER = 20  # digits, far more than any value has
MOST_CHANNELS, _MOST_BLOCKS, _MOST_STAGES = 4096, 32, 8
_TEXT_SHOWN = 200


class MobileBlock(NamedTuple):
    """One block as it is built: channels before, between and after its two 1x1, what it divides (frames, mels) by, whether it adds its input."""

    c_in: int
    expanded: int
    c_out: int
    pool: tuple[int, int]
    adds: bool


@dataclass(frozen=True)
class Mobile:
    """One CP-Mobile or Rep-Mobile network: `kind`, the two stem convolutions' channels, the stages' channels and numbers of blocks, the
    `expanded` channels of every block, and what each divides (frames, mels) by.

    Sequences may be given as lists; `pools` may be left empty for the published rule. `str()` gives the notation, `Mobile.parse` reads it back.

    Raises `UserError` on unknown kinds, numbers that do not fit each other, and values out of range.
    """

    kind: Kind
    stem: tuple[int, int]
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    expanded: tuple[int, ...]
    pools: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of mobile network", self.kind, KINDS)
        for name in ("stem", "widths", "depths", "expanded", "pools"):
            object.__setattr__(self, name, as_tuple(getattr(self, name)))
        object.__setattr__(self, "pools", tuple(map(as_tuple, self.pools)))
        channels = {"stem": self.stem, "stages": self.widths, "blocks": self.expanded}
        check_stages(channels, self.widths, self.depths, EXAMPLE)
        if len(self.stem) != 2:
            raise UserError(f"the stem has two convolutions; got channels {list(self.stem)}; try [4, 16]")
        if len(self.expanded) != sum(self.depths):
            raise UserError(
                f"each block has its expanded channels; got {len(self.expanded)} for {sum(self.depths)} blocks in {list(self.expanded)}; "
                f"name as many"
            )
        if self.pools and (
            len(self.pools) != sum(self.depths)
            or not all(len(pool) == 2 and are_whole(pool, 1, 2) for pool in self.pools)
        ):
            raise UserError(
                f"each block divides frames and mels by 1 or 2 each; got {'-'.join(map(_by, self.pools))} for {sum(self.depths)} blocks; "
                f"try {'-'.join(map(_by, _published_pools(sum(self.depths))))}"
            )
        object.__setattr__(self, "pools", self.pools or _published_pools(sum(self.depths)))

    @cached_property
    def blocks(self) -> tuple[tuple[MobileBlock, ...], ...]:
        """The blocks of each stage."""
        stages, number, c_in = [], 0, self.stem[1]
        for stage, (c_out, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            blocks = []
            for place in range(depth):
                adds = c_in == c_out and (stage == 0 or place > 0)
                blocks.append(MobileBlock(c_in, self.expanded[number], c_out, self.pools[number], adds))
                number, c_in = number + 1, c_out
            stages.append(tuple(blocks))
        return tuple(stages)

    def __str__(self) -> str:
        return self._notation

    @cached_property
    def _notation(self) -> str:
        pools = "" if self.pools == _published_pools(sum(self.depths)) else f"_p{'-'.join(map(_by, self.pools))}"
        parts = (("c", (*self.stem, *self.widths)), ("b", self.depths), ("x", self.expanded))
        return "_".join([self.kind, *(letter + "-".join(map(str, values)) for letter, values in parts)]) + pools

    @classmethod
    def parse(cls, text: str) -> Mobile:
        """The network a notation names.

        Raises `UserError` when the text is no notation, or one of a network that cannot exist.
        """
        match = _NOTATION.fullmatch(text)
        if match is None:
            raise UserError(
                f"{shortened(text)!r} is not the notation of a CP-Mobile or Rep-Mobile network; it looks like {EXAMPLE}"
            )
        check_numbers(text, EXAMPLE)
        widths, depths, expanded = (
            tuple(int(number) for number in match[part].split("-")) for part in ("widths", "depths", "expanded")
        )
        if len(widths) < 3:
            raise UserError(
                f"channels are those of two stem convolutions and of each stage; got {list(widths)}; try {EXAMPLE}"
            )
        pools = tuple((int(pool[0]), int(pool[2])) for pool in (match["pools"] or "").split("-") if pool)
        return cls(
            "cpm" if match["kind"] == "cpm" else "repm", (widths[0], widths[1]), widths[2:], depths, expanded, pools
        )


def mobile(kind: Kind, base: int, multiplier: float, expansion: float, depths: Sequence[int] = (3, 2, 1)) -> Mobile:
    """The network of the published rule: stage i has base * multiplier^i channels, a block expands its input `expansion` times, both to
    the next multiple of 8; the first stem convolution has a quarter of the second's channels, which are the first stage's.

    Source: `models/cp_mobile_clean.py` of github.com/fschmid56/cpjku_dcase23.
    """
    first = eights(base)
    widths = [eights(base * multiplier**stage) for stage in range(len(depths))]
    inputs = [first]
    for width, depth in zip(widths, depths, strict=True):
        inputs += [width] * depth
    expanded = tuple(eights(c_in * expansion) for c_in in inputs[: sum(depths)])
    return Mobile(kind, (first // 4, first), tuple(widths), tuple(depths), expanded)


def eights(channels: float) -> int:
    """The multiple of 8 nearest to a number of channels, at least 8, and not more than a tenth below it.

    Source: `make_divisible` of the MobileNet code.
    """
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def count_mobile(network: Mobile, input: tuple[int, int], n_classes: int) -> Cost:
    """What a network costs in its deployed form for one clip of `input` = (frames, mels); conventions as in `search_space.complexity`."""
    check_sizes(n_classes, input[1], input[0])
    layers = tuple(_layers(network, input, n_classes))
    macs = sum(row.macs for row in layers)
    by = {"conv+linear": macs, "fvcore": macs, "dcase": sum(map(_dcase, layers))}
    params = sum(row.params for row in layers)
    return Cost(params, macs, layers, by, _maps(network, input, n_classes).peak(), _receptive_field(network, input))


def _layers(network: Mobile, input: tuple[int, int], n_classes: int) -> Iterator[LayerCost]:
    """The rows of the deployed network in order of execution; every convolution has a bias, which batch norm has become."""
    size, c_in = input, 1
    for number, channels in enumerate(network.stem):
        size = _strided(size, (2, 2))
        yield convolution(f"stem.{number}.conv", "3x3", (channels, *size), 9 * c_in * channels, channels)
        c_in = channels
    for stage, blocks in enumerate(network.blocks):
        for place, block in enumerate(blocks):
            name = f"stages.{stage}.{place}"
            yield convolution(
                f"{name}.expand.conv", "1x1", (block.expanded, *size), block.c_in * block.expanded, block.expanded
            )
            size = _strided(size, block.pool)
            yield convolution(
                f"{name}.depthwise.conv",
                "channel-wise 3x3",
                (block.expanded, *size),
                9 * block.expanded,
                block.expanded,
            )
            shape = (block.c_out, *size)
            yield convolution(f"{name}.project.conv", "1x1", shape, block.expanded * block.c_out, block.c_out)
            if network.kind == "repm":
                kernel = eca_kernel(block.c_out)
                yield convolution(f"{name}.attention.time", "3", (block.c_out, size[0], 1), 3 * block.c_out)
                yield convolution(f"{name}.attention.mel", "3", (block.c_out, 1, size[1]), 3 * block.c_out)
                yield LayerCost(
                    f"{name}.attention.channel", f"{kernel}", (block.c_out, 1, 1), kernel, kernel * block.c_out
                )
            yield LayerCost(f"{name}.response", "GRN", shape, 2, 0)
    yield convolution("head.conv", "1x1", (n_classes, *size), network.widths[-1] * n_classes, n_classes)


def _dcase(row: LayerCost) -> int:
    """As torchinfo counts the row: the params of a response norm are named neither weight nor bias, so they count nothing."""
    if row.kind == "GRN":
        return 0
    return row.macs if row.name.endswith("attention.channel") else row.params * row.shape[1] * row.shape[2]


def _strided(size: tuple[int, int], stride: tuple[int, int]) -> tuple[int, int]:
    """Frames and mels behind a 3x3 convolution of this stride that is padded by 1."""
    return (size[0] - 1) // stride[0] + 1, (size[1] - 1) // stride[1] + 1


def _maps(network: Mobile, input: tuple[int, int], n_classes: int) -> Maps:
    """Every map that one inference of the deployed network writes, in its order."""
    maps, size = Maps(), input
    x = maps.write(math.prod(size))
    for channels in network.stem:
        size = _strided(size, (2, 2))
        x = maps.write(channels * math.prod(size), x)
    for block in (block for blocks in network.blocks for block in blocks):
        y = maps.write(block.expanded * math.prod(size), x)
        size = _strided(size, block.pool)
        y = maps.write(block.expanded * math.prod(size), y)
        y = maps.write(block.c_out * math.prod(size), y)
        if block.adds and block.pool != (1, 1):
            x = maps.write(block.c_out * math.prod(size), x)
        if block.adds:
            maps.write(0, y, x)
        if network.kind == "repm":
            _attention_maps(maps, y, block.c_out, *size)
        norms = maps.write(block.c_out, y)
        maps.write(0, norms, y, maps.write(1, norms))
        x = y
    maps.write(n_classes, maps.write(n_classes * math.prod(size), x))
    return maps


def _attention_maps(maps: Maps, x: int, channels: int, T: int, F: int) -> None:
    by_time, by_mel = maps.write(channels * T, x), maps.write(channels * F, x)
    means = maps.write(channels, by_time)
    by_time = maps.write(channels * T, by_time)
    by_mel = maps.write(channels * F, by_mel)
    maps.write(0, by_time, maps.write(channels, means))
    maps.write(0, x, by_time)
    maps.write(0, x, by_mel)


def _receptive_field(network: Mobile, input: tuple[int, int]) -> tuple[int, int]:
    strides = [(2, 2), (2, 2), *network.pools]
    fields = []
    for axis in range(2):
        field = step = 1
        for stride in strides:
            field, step = field + 2 * step, step * stride[axis]
        fields.append(min(field, input[axis]))
    return fields[0], fields[1]


def _published_pools(blocks: int) -> tuple[tuple[int, int], ...]:
    """The second block halves both axes, the fourth the mels alone. Source: as the networks'; it writes mels x frames."""
    rule = {1: (2, 2), 3: (1, 2)}
    return tuple(rule.get(index, (1, 1)) for index in range(blocks))


def as_tuple(values: Any) -> tuple[Any, ...]:
    """A sequence as a tuple, and what is none as a tuple of it."""
    return tuple(values) if isinstance(values, Sequence) and not isinstance(values, str) else (values,)


def are_whole(values: Sequence[object], low: int, high: int) -> bool:
    """Whether all are whole numbers from `low` to `high`."""
    return all(isinstance(value, int) and not isinstance(value, bool) and low <= value <= high for value in values)


def check_stages(
    channels: Mapping[str, Sequence[object]], widths: Sequence[object], depths: Sequence[object], example: str
) -> None:
    """Raises `UserError` unless all these numbers of channels can be, and each stage has its channels and its number of blocks."""
    for what, numbers in channels.items():
        if not are_whole(numbers, 1, MOST_CHANNELS):
            raise UserError(
                f"channels of the {what} are whole numbers from 1 to {MOST_CHANNELS}; got {list(numbers)}; try {example}"
            )
    if not are_whole(depths, 1, _MOST_BLOCKS) or not 1 <= len(depths) <= _MOST_STAGES:
        raise UserError(
            f"there are 1 to {_MOST_STAGES} stages of 1 to {_MOST_BLOCKS} blocks each; got {list(depths)}; try {example}"
        )
    if len(widths) != len(depths):
        raise UserError(
            f"each stage has its channels and its number of blocks; got {len(widths)} and {len(depths)} of them in "
            f"{list(widths)} and {list(depths)}; name as many"
        )


def check_numbers(text: str, example: str) -> None:
    """Raises `UserError` where a number of a notation is longer than any value."""
    if any(len(number) > _LONGEST_NUMBER for number in re.findall(r"\d+", text)):
        raise UserError(
            f"a number in a notation has at most {_LONGEST_NUMBER} digits; got {shortened(text)!r}; try {example}"
        )


def shortened(text: str) -> str:
    """A text as far as an error shows it."""
    return text if len(text) <= _TEXT_SHOWN else f"{text[:_TEXT_SHOWN]}..."


def _by(pool: Sequence[object]) -> str:
    return "x".join(map(str, pool))
