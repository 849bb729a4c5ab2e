"""CP-ResNet, BC-ResNet and TF-SepNet: the frozen description of one network, the string that names it, and what it costs. No torch.

    cpr_c32-32-64-92_b2-1-1_k31-33-33-31_g1-2-1   CP-ResNet: a stem of 32 channels; three stages of 32, 64 and 92, with 2, 1 and 1 residual blocks;
                                                  each block's two kernels; the groups of each stage's convolutions
    bcr_c80-40-60-80-100_b2-2-2-3                 BC-ResNet: a stem of 80 channels, four stages with their channels and blocks
    tfs_c32-128-64-96-128-160_b2-2-2-3            TF-SepNet, with a stem of two convolutions

| part             | what it says                                                   | left out when it is                               |
|------------------|----------------------------------------------------------------|---------------------------------------------------|
| `_c32-32-64-92`  | channels: the stem's (of TF-SepNet both), then each stage's    | never                                             |
| `_b2-1-1`        | blocks of each stage                                           | never                                             |
| `_k31-33-33-31`  | the kernels, 1 or 3, of each block's two convolutions          | BC-ResNet or TF-SepNet, which have none to choose |
| `_g1-2-1`        | what each stage's channels are divided into                    | 1 everywhere; only CP-ResNet has it               |
| `_p1-2-2-1`      | what a max pool divides frames and mels by where a stage opens | 1-2-2-1 (BC-ResNet), 1-2-2-2 (TF-SepNet), and 2 wherever there are more stages; CP-ResNet's is fixed |

`cp_resnet`, `bc_resnet` and `tf_sepnet` make the widths of the published rules; a description takes any.

**What is counted is the form that is trained**, batch norm included, as their authors did.

Source: CP-ResNet: Schmid et al., DCASE 2023 Task 1 technical report, and github.com/fschmid56/cpjku_dcase23; BC-ResNet: Kim et al., arXiv 2106.04140 and
2111.06531; TF-SepNet: Cai et al., ICASSP 2024 and DCASE 2024; the layouts of both: github.com/yqcai888/easy_dcase_task1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, cast

from search_space.complexity import Cost, LayerCost, Maps, check_sizes, convolution
from search_space.errors import UserError, unknown
from search_space.mobile import MOST_CHANNELS, are_whole, as_tuple, check_numbers, check_stages, shortened

Kind = Literal["cpr", "bcr", "tfs"]
KINDS: dict[str, str] = {"cpr": "CP-ResNet", "bcr": "BC-ResNet", "tfs": "TF-SepNet"}
"""How a notation begins, and whose network it is."""

EXAMPLES: dict[str, str] = {
    "cpr": "cpr_c32-32-64-92_b2-1-1_k31-33-33-31_g1-2-1",
    "bcr": "bcr_c80-40-60-80-100_b2-2-2-3",
    "tfs": "tfs_c32-128-64-96-128-160_b2-2-2-3",
}
_NOTATION = re.compile(
    r"(?P<kind>cpr|bcr|tfs)_c(?P<widths>\d+(-\d+)*)_b(?P<depths>\d+(-\d+)*)(_k(?P<kernels>\d\d(-\d\d)*))?(_g(?P<groups>\d+(-\d+)*))?"
    r"(_p(?P<pools>\d+(-\d+)*))?",
    re.ASCII,
)
_POOLS = {"bcr": (1, 2, 2, 1), "tfs": (1, 2, 2, 2)}


class Block(NamedTuple):
    """One block as it is built: channels before and after, and of CP-ResNet its two kernels and its groups."""

    c_in: int
    c_out: int
    kernels: tuple[int, int]
    groups: int


@dataclass(frozen=True)
class Related:
    """One CP-ResNet, BC-ResNet or TF-SepNet: `kind`, the stem's channels, the stages' channels and numbers of blocks; of CP-ResNet the two `kernels` of
    each block and the `groups` of each stage; of the other two what a max pool divides frames and mels by before each stage (`pools`).

    Sequences may be given as lists; `groups` may be left empty for 1, `pools` for the published ones. `str()` gives the notation, `Related.parse` reads
    it back.

    Raises `UserError` on unknown kinds, numbers that do not fit each other, and values out of range.
    """

    kind: Kind
    stem: tuple[int, ...]
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    kernels: tuple[tuple[int, int], ...] = ()
    groups: tuple[int, ...] = ()
    pools: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of related network", self.kind, KINDS)
        for name in ("stem", "widths", "depths", "kernels", "groups", "pools"):
            object.__setattr__(self, name, as_tuple(getattr(self, name)))
        object.__setattr__(self, "kernels", tuple(map(as_tuple, self.kernels)))
        title, example = KINDS[self.kind], EXAMPLES[self.kind]
        check_stages({"stem": self.stem, "stages": self.widths}, self.widths, self.depths, example)
        stems = 2 if self.kind == "tfs" else 1
        if len(self.stem) != stems:
            raise UserError(
                f"the stem of {title} has {stems} convolution{'s' * (stems > 1)}; got channels {list(self.stem)}; try {example}"
            )
        if self.kind == "cpr":
            object.__setattr__(self, "groups", self.groups or (1,) * len(self.widths))
            self._check_residual_blocks(example)
        else:
            object.__setattr__(self, "pools", self.pools or self._published_pools)
            if self.kernels or self.groups:
                raise UserError(
                    f"{title} has kernels of 3 and no groups to choose; leave _k and _g out, as in {example}"
                )
            if len(self.pools) != len(self.widths) or not are_whole(self.pools, 1, 2):
                raise UserError(
                    f"each stage divides frames and mels by 1 or 2; got {list(self.pools)} for {len(self.widths)} stages; try "
                    f"{list(self._published_pools)}"
                )
        if self.kind == "tfs" and (
            self.stem[1] % self.stem[0] or any(width % 2 for width in (self.stem[1], *self.widths))
        ):
            raise UserError(
                f"the stages of {title} halve their channels, and its second stem convolution has a multiple of the first's; got stem "
                f"{list(self.stem)} and stages {list(self.widths)}; try {example}"
            )

    def _check_residual_blocks(self, example: str) -> None:
        if self.pools:
            raise UserError(f"the pools of CP-ResNet are fixed; got {list(self.pools)}; leave _p out, as in {example}")
        if len(self.kernels) != sum(self.depths) or not all(
            len(pair) == 2 and set(pair) <= {1, 3} for pair in self.kernels
        ):
            raise UserError(
                f"each block of CP-ResNet has two kernels of 1 or 3; got {list(self.kernels)} for {sum(self.depths)} blocks; try {example}"
            )
        inputs = (*self.stem, *self.widths[:-1])
        if (
            len(self.groups) != len(self.widths)
            or not are_whole(self.groups, 1, MOST_CHANNELS)
            or any(
                width % group
                for pair, group in zip(zip(inputs, self.widths, strict=True), self.groups, strict=True)
                for width in pair
            )
        ):
            raise UserError(
                f"the groups of a stage divide the channels before and in it; got {list(self.groups)} for {list(inputs)} and {list(self.widths)}; "
                f"try {[1] * len(self.widths)}"
            )

    @property
    def _published_pools(self) -> tuple[int, ...]:
        rule = _POOLS.get(self.kind, ())
        return (*rule, *(2,) * len(self.widths))[: len(self.widths)]

    @property
    def least(self) -> int:
        """The fewest frames and mels it reads: CP-ResNet's stem pads its kernel of 5 by 1 alone. Pools stop at size 1."""
        return 3 if self.kind == "cpr" else 1

    @cached_property
    def stages(self) -> tuple[tuple[tuple[int, int] | Block | None, ...], ...]:
        """The layers of each stage in their order: a pool (frames, mels), a block, or None for residual normalisation."""
        stages, number, c_in = [], 0, self.stem[-1]
        for stage, (c_out, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            opening = (2, 2) if self.kind == "cpr" and stage == 0 else (1, 1)
            if self.pools:
                opening = (self.pools[stage], self.pools[stage])
            layers: list[tuple[int, int] | Block | None] = [opening] if opening != (1, 1) else []
            for place in range(depth):
                kernels = self.kernels[number] if self.kernels else (3, 3)
                groups = self.groups[stage] if self.groups else 1
                layers.append(Block(c_in, c_out, kernels, groups))
                number, c_in = number + 1, c_out
                if self.kind == "cpr" and stage == 0 and place + 1 in (1, 2, 4):
                    layers.append(
                        (1, 2)
                    )  # Source: the positions of pools in the released code, which writes mels x frames
            stages.append((*layers, *([] if self.kind == "cpr" else [None])))
        return tuple(stages)

    @cached_property
    def blocks(self) -> tuple[tuple[Block, ...], ...]:
        """The blocks of each stage."""
        return tuple(tuple(layer for layer in stage if isinstance(layer, Block)) for stage in self.stages)

    def adds(self, block: Block) -> bool:
        """Whether a block adds its input, or a 1x1 of it, to its output as a whole; TF-SepNet adds to each half."""
        return self.kind == "cpr" or (self.kind == "bcr" and block.c_in == block.c_out)

    def __str__(self) -> str:
        return self._notation

    @cached_property
    def _notation(self) -> str:
        parts = [("c", (*self.stem, *self.widths)), ("b", self.depths)]
        if self.kernels:
            parts.append(("k", tuple(10 * first + second for first, second in self.kernels)))
        if set(self.groups) - {1}:
            parts.append(("g", self.groups))
        if self.pools and self.pools != self._published_pools:
            parts.append(("p", self.pools))
        return "_".join([self.kind, *(letter + "-".join(map(str, values)) for letter, values in parts)])

    @classmethod
    def parse(cls, text: str) -> Related:
        """The network a notation names.

        Raises `UserError` when the text is no notation, or one of a network that cannot exist.
        """
        match = _NOTATION.fullmatch(text)
        kind = text[:3]
        if match is None:
            known = {kind: KINDS[kind]} if kind in KINDS else KINDS
            raise UserError(
                f"{shortened(text)!r} is not the notation of a {' or '.join(known.values())} network; it looks like {EXAMPLES[next(iter(known))]}"
            )
        example = EXAMPLES[kind]
        check_numbers(text, example)
        widths, depths, groups, pools = (
            tuple(int(number) for number in (match[part] or "").split("-") if number)
            for part in ("widths", "depths", "groups", "pools")
        )
        stems = 2 if kind == "tfs" else 1
        if len(widths) <= stems:
            raise UserError(f"channels are those of the stem and of each stage; got {list(widths)}; try {example}")
        kernels = tuple((int(pair[0]), int(pair[1])) for pair in (match["kernels"] or "").split("-") if pair)
        return cls(cast("Kind", kind), widths[:stems], widths[stems:], depths, kernels, groups, pools)


def cp_resnet(base: int = 32, rho: int = 8, depths: Sequence[int] = (2, 1, 1), groups: int = 2) -> Related:
    """CP-ResNet by its published rule: stages of one, two and four times `base` channels, the last less 9/32 of it (128 less 36), the second in
    `groups`; of the convolutions in their order, two a block and four a stage, the kernels are 3 as far as the receptive field `rho` goes, and 1 behind.

    Source: `models/cp_resnet.py` of github.com/fschmid56/cpjku_dcase23, with its base 32, rho 8 and depths; the idea: Koutini et al., arXiv 1907.01803.
    Assumed: at another base the last stage is cut by the same share.
    """

    def kernel(stage: int, place: int, which: int) -> int:
        order = 4 * stage + 2 * place + which
        if order < 2:
            return (3, 1)[order]
        return 3 if place < 2 and rho >= order else 1

    kernels = [
        (kernel(stage, place, 0), kernel(stage, place, 1))
        for stage, depth in enumerate(depths)
        for place in range(depth)
    ]
    widths = (base, 2 * base, 4 * base - 9 * base // 8)
    return Related("cpr", (base,), widths, tuple(depths), tuple(kernels), (1, groups, 1))


def bc_resnet(width: int, depths: Sequence[int] = (2, 2, 2, 3), last_pool: bool = False) -> Related:
    """BC-ResNet in its form for scenes, `width` its c: a stem of 2 c, stages of 1, 1.5, 2 and 2.5 c."""
    pools = (1, 2, 2, 2 if last_pool else 1)
    return Related("bcr", (2 * width,), _shares(width), tuple(depths), pools=pools)


def tf_sepnet(width: int, depths: Sequence[int] = (2, 2, 2, 3), last_pool: bool = True) -> Related:
    """TF-SepNet: a stem of half and twice the width, stages as BC-ResNet's. Its released depth 17 has the last pool, depth 16 has not."""
    pools = (1, 2, 2, 2 if last_pool else 1)
    return Related("tfs", (width // 2, 2 * width), _shares(width), tuple(depths), pools=pools)


def _shares(width: int) -> tuple[int, ...]:
    return tuple(int(share * width) for share in (1, 1.5, 2, 2.5))


def count_related(network: Related, input: tuple[int, int], n_classes: int) -> Cost:
    """What a network costs in the form that is trained for one clip of `input` = (frames, mels); conventions as in `search_space.complexity`.

    Raises `UserError` on sizes that cannot be, and on fewer frames or mels than it reads.
    """
    check_sizes(n_classes, input[1], input[0])
    if min(input) < network.least:
        raise UserError(
            f"{KINDS[network.kind]} takes at least {network.least} frames x {network.least} mels; got {input[0]} x {input[1]}; use longer clips or "
            "more mel bins"
        )
    walk = _Walk()
    last = _walked(walk, network, walk.clip(input), n_classes)
    macs = sum(row.macs for row in walk.rows)
    by = {"conv+linear": macs, "fvcore": sum(map(_fvcore, walk.rows)), "dcase": sum(map(_dcase, walk.rows))}
    assert last.reach is not None
    frames, mels = (min(field, size) for (field, _), size in zip(last.reach, input, strict=True))
    return Cost(sum(row.params for row in walk.rows), macs, tuple(walk.rows), by, walk.maps.peak(), (frames, mels))


def _fvcore(row: LayerCost) -> int:
    return 2 * math.prod(row.shape) if row.kind == "batch norm" else row.macs


def _dcase(row: LayerCost) -> int:
    return row.params if row.kind == "batch norm" else row.params * row.shape[1] * row.shape[2]


class _Map(NamedTuple):
    """A map of one inference: its number among the maps, (C, T, F), and along T and F how much of the clip a position sees and how far apart two are;
    None for what is a mean over the map, which sees all of it."""

    number: int
    shape: tuple[int, int, int]
    reach: tuple[tuple[int, int], tuple[int, int]] | None


class _Walk:
    """One inference on paper: the rows of its layers and the maps that it writes, in their order."""

    def __init__(self) -> None:
        self.rows: list[LayerCost] = []
        self.maps = Maps()

    def clip(self, input: tuple[int, int]) -> _Map:
        """The log-mel."""
        return _Map(self.maps.write(math.prod(input)), (1, *input), ((1, 1), (1, 1)))

    def convolution(
        self,
        name: str,
        x: _Map,
        c_out: int,
        kernel: tuple[int, int] = (1, 1),
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        biased: bool = False,
    ) -> _Map:
        """The output of a convolution, which keeps T x F but for its stride unless its padding is given."""
        c_in, *sizes = x.shape
        pads = [k // 2 if padding is None else padding for k in kernel]
        T, F = ((size + 2 * pad - k) // stride + 1 for size, pad, k in zip(sizes, pads, kernel, strict=True))
        by_channel = groups > 1 and groups == c_in
        kind = f"{'channel-wise ' * by_channel}{kernel[0]}x{kernel[1]}" + f" in {groups} groups" * (
            groups > 1 and not by_channel
        )
        weights = c_in // groups * c_out * math.prod(kernel)
        self.rows.append(convolution(name, kind, (c_out, T, F), weights, c_out * biased))
        return _Map(
            self.maps.write(c_out * T * F, x.number), (c_out, T, F), _further(x.reach, kernel, (stride, stride))
        )

    def normed(
        self,
        name: str,
        x: _Map,
        c_out: int,
        kernel: tuple[int, int] = (1, 1),
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
    ) -> _Map:
        """A convolution with batch norm and, perhaps, an activation, which overwrite its output."""
        y = self.convolution(f"{name}.conv", x, c_out, kernel, stride, padding, groups)
        self.rows.append(LayerCost(f"{name}.norm", "batch norm", y.shape, 2 * c_out, 0))
        return y

    def pooled(self, name: str, x: _Map, pool: tuple[int, int]) -> _Map:
        """The map behind a max pool, which stops at size 1."""
        C, *sizes = x.shape
        kernel = (min(sizes[0], pool[0]), min(sizes[1], pool[1]))
        shape = (C, sizes[0] // kernel[0], sizes[1] // kernel[1])
        self.rows.append(LayerCost(name, f"{pool[0]}x{pool[1]} max", shape, 0, 0))
        return _Map(self.maps.write(math.prod(shape), x.number), shape, _further(x.reach, kernel, kernel))

    def residual_norm(self, name: str, x: _Map) -> _Map:
        """The map normalised and a share of itself."""
        self.rows.append(LayerCost(name, "residual norm", x.shape, 0, 0))
        deviations = self.maps.write(x.shape[2], x.number)
        share = self.maps.write(math.prod(x.shape), x.number)
        self.maps.write(0, share, x.number, deviations)
        return x._replace(number=share)

    def mean(self, x: _Map, axis: int) -> _Map:
        """The mean over frames (1) or mels (2)."""
        shape = (x.shape[0], 1 if axis == 1 else x.shape[1], 1 if axis == 2 else x.shape[2])
        return _Map(self.maps.write(math.prod(shape), x.number), shape, None)

    def added(self, x: _Map, y: _Map) -> _Map:
        """The sum of two maps, which overwrites the first."""
        self.maps.write(0, x.number, y.number)
        reach = x.reach if y.reach is None else _both(x.reach, y.reach)
        return x._replace(reach=reach)


_Reach = tuple[tuple[int, int], tuple[int, int]] | None


def _further(reach: _Reach, kernel: tuple[int, int], stride: tuple[int, int]) -> _Reach:
    if reach is None:
        return None
    (t, f) = ((field + (k - 1) * step, step * by) for (field, step), k, by in zip(reach, kernel, stride, strict=True))
    return t, f


def _both(one: _Reach, other: _Reach) -> _Reach:
    assert one is not None
    assert other is not None
    (t, f) = ((max(a[0], b[0]), max(a[1], b[1])) for a, b in zip(one, other, strict=True))
    return t, f


def _walked(walk: _Walk, network: Related, x: _Map, n_classes: int) -> _Map:
    """The map of classes, behind every layer of the network in its order."""
    block_of = {"cpr": _residual, "bcr": _broadcast, "tfs": _separate}[network.kind]
    x = _stem(walk, network, x)
    for stage, layers in enumerate(network.stages):
        for place, layer in enumerate(layers):
            name = f"stages.{stage}.{place}"
            if layer is None:
                x = walk.residual_norm(name, x)
            elif isinstance(layer, Block):
                x = block_of(walk, name, layer, x)
            else:
                x = walk.pooled(name, x, layer)
    if network.kind == "cpr":
        x = walk.normed("head", x, n_classes)
    else:
        x = walk.convolution("head", x, n_classes, biased=True)
    walk.maps.write(n_classes, x.number)
    return x


def _stem(walk: _Walk, network: Related, x: _Map) -> _Map:
    if network.kind == "cpr":
        return walk.normed("stem", x, network.stem[0], (5, 5), 2, padding=1)
    if network.kind == "bcr":
        x = walk.convolution("stem.conv", x, network.stem[0], (5, 5), 2)
    else:
        first, second = network.stem
        x = walk.normed("stem.first", x, first, (3, 3), 2)
        x = walk.normed("stem.second", x, second, (3, 3), 2, groups=first)
    return walk.residual_norm("stem.residual_norm", x)


def _residual(walk: _Walk, name: str, block: Block, x: _Map) -> _Map:
    first, second = ((kernel, kernel) for kernel in block.kernels)
    y = walk.normed(f"{name}.first", x, block.c_out, first, groups=block.groups)
    y = walk.normed(f"{name}.second", y, block.c_out, second, groups=block.groups)
    if block.c_in != block.c_out:
        x = walk.normed(f"{name}.shortcut", x, block.c_out, groups=block.groups)
    return walk.added(y, x)


def _broadcast(walk: _Walk, name: str, block: Block, x: _Map) -> _Map:
    c_out = block.c_out
    changes = block.c_in != c_out
    inner = walk.normed(f"{name}.transition", x, c_out) if changes else x
    y = walk.normed(f"{name}.mel", inner, c_out, (1, 3), groups=c_out)
    spread = walk.normed(f"{name}.time", walk.mean(y, 2), c_out, (3, 1), groups=c_out)
    y = walk.added(y, walk.convolution(f"{name}.mix", spread, c_out))
    return y if changes else walk.added(x, y)


def _separate(walk: _Walk, name: str, block: Block, x: _Map) -> _Map:
    if block.c_in != block.c_out:
        x = walk.normed(f"{name}.transition", x, block.c_out)
    half = block.c_out // 2
    part = x._replace(shape=(half, *x.shape[1:]))  # a slice is no map of its own, and shuffling overwrites the map
    spreads = []
    for along, kernel, axis in (("mel", (1, 3), 2), ("time", (3, 1), 1)):
        y = walk.normed(f"{name}.{along}", part, half, kernel, groups=half)
        spreads.append(walk.normed(f"{name}.{along}_mix", walk.mean(y, axis), half))
    sums = []
    for spread in spreads:
        size = half * x.shape[1] * x.shape[2]
        if math.prod(spread.shape) == size:  # nothing to spread: the sum overwrites it
            walk.maps.write(0, x.number, spread.number)
            sums.append(spread.number)
        else:
            sums.append(walk.maps.write(size, x.number, spread.number))
    return x._replace(number=walk.maps.write(2 * half * x.shape[1] * x.shape[2], *sums))
