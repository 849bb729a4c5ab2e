"""The deep space separable operators (DSSO) a block can be built from: equation, options, cost and module of each.

Adding an operator is one decorated class: the notation, the spaces, the cost and the contract tests pick it up from the
registry (two tests want an entry besides: README, "Adding an operator"). Costs are plain arithmetic; torch is imported only where a module is built.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from math import gcd
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from search_space.complexity import LayerCost, convolution
from search_space.errors import UserError

if TYPE_CHECKING:
    from torch import nn


class Option(NamedTuple):
    """An operator's option: its name, its letter in the notation, what a space offers, what is accepted at all, its default.

    One without a default is always written and always searched; one with a default is written where it departs from it, and
    searched in a wide space only.
    """

    name: str
    letter: str
    choices: tuple[int | float, ...]
    low: int | float
    high: int | float
    default: int | float | None = None

    @property
    def type(self) -> type[int] | type[float]:
        return int if isinstance(self.low, int) else float

    def check(self, value: object) -> None:
        """Raises `UserError` when the value is not of the option's type or out of its range."""
        whole = self.type is int
        advice = self.choices[0] if self.default is None else self.default
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise UserError(f"{self.name} is a {'whole ' if whole else ''}number; got {value!r}; try {advice}")
        if not self.low <= value <= self.high:
            raise UserError(f"{self.name} is from {self.low} to {self.high}; got {value!r}; try {advice}")


def _option(
    letter: str,
    choices: tuple[int | float, ...],
    low: int | float,
    high: int | float,
    default: int | float | None = None,
) -> Any:
    metadata = {"letter": letter, "choices": choices, "low": low, "high": high, "default": default}
    return field(default=MISSING if default is None else default, metadata=metadata)


class Map(NamedTuple):
    """A map that an operator writes: its channels, and which maps it is made of (0 the operator's input, k the k-th written)."""

    channels: int
    reads: tuple[int, ...]


class Operator(ABC):
    """Maps (B, c_in, T, F) to (B, c_out, T, F); its dataclass fields are its options."""

    name: str
    """As the notation spells it: lower-case letters and digits."""

    offered: bool = True
    """Whether every space offers it; else only the wide one does."""

    searched: bool = True
    """Whether the wide space offers it. A new operator says no: the space's digest, and with it every earlier study, would be of another one."""

    @classmethod
    def options(cls) -> tuple[Option, ...]:
        """The operator's options, in the order of their names."""
        return tuple(sorted(Option(f.name, **f.metadata) for f in fields(cls)))  # type: ignore[arg-type]

    @abstractmethod
    def cost(self, name: str, c_in: int, shape: tuple[int, int, int]) -> Iterator[LayerCost]:
        """The operator's layers for an output of `shape` = (c_out, T, F), named below `name` as in the module."""

    @abstractmethod
    def build(self, c_in: int, c_out: int) -> nn.Module:
        """The operator as a torch module. No bias, norm or activation: the block follows it with batch norm and ReLU."""

    def maps(self, c_in: int, c_out: int) -> tuple[Map, ...]:
        """Every map it writes at full size, in order, the last its output; here each layer reads the one before."""
        return tuple(Map(row.shape[0], (index,)) for index, row in enumerate(self.cost("", c_in, (c_out, 1, 1))))

    @property
    def extent(self) -> int:
        """How many frames, and how many mels, of its input one position of its output sees."""
        return 3


OPERATORS: dict[str, type[Operator]] = {}
"""Every operator by its name, in the order in which a space offers them."""

AnyOperator = TypeVar("AnyOperator", bound=type[Operator])


def register(operator: AnyOperator) -> AnyOperator:
    """Class decorator: puts an operator into the registry."""
    assert operator.name not in OPERATORS, f"two operators named {operator.name!r}"
    OPERATORS[operator.name] = operator
    return operator


@register
@dataclass(frozen=True)
class SeparableConvolution(Operator):
    """SC: y = s3x1(p1x1(x)) + s1x3(p1x1(x)), p an ordinary 1x1 convolution, the two s channel-wise.

    `groups` divides p's channels into as many groups as c_in and c_out allow, up to this number: the greatest common divisor
    of the three, so that every width can be built. 0 asks for all of them: c_out groups where c_out divides c_in, which
    leaves p one or two inputs a channel and mixes nothing. `dilation` is that of both s.

    Source: DSSDN (arXiv 2405.03567), eq. 1; used in DSSDN-Large. Dilation 2 is that of SP4ASC (Puy et al., DCASE 2021), and
    both options together (groups 0, dilation 2) are the operator of the released DSMN code (DCASE 2023).
    """

    name = "sc"
    dilation: int = _option("d", (1, 2), 1, 8, default=1)
    groups: int = _option("g", (0, 1, 2), 0, 4096, default=1)

    def _groups(self, c_in: int, c_out: int) -> int:
        return gcd(self.groups, c_in, c_out)

    def cost(self, name: str, c_in: int, shape: tuple[int, int, int]) -> Iterator[LayerCost]:
        c_out = shape[0]
        yield convolution(f"{name}.pointwise", "1x1", shape, c_in * c_out // self._groups(c_in, c_out))
        yield convolution(f"{name}.cross", "3x1 + 1x3", shape, 6 * c_out)

    def build(self, c_in: int, c_out: int) -> nn.Module:
        from search_space.blocks import Cross, named, pointwise

        groups = self._groups(c_in, c_out)
        return named(pointwise=pointwise(c_in, c_out, groups=groups), cross=Cross(c_out, self.dilation))

    def maps(self, c_in: int, c_out: int) -> tuple[Map, ...]:
        return Map(c_out, (0,)), Map(c_out, (1,)), Map(c_out, (1, 2))

    @property
    def extent(self) -> int:
        return 2 * self.dilation + 1


@register
@dataclass(frozen=True)
class OrthonormalSeparableConvolution(Operator):
    """OSC: y = s3x1(n(m(x))) + s1x3(n(m(x))), SC with its 1x1 factored through few channels, m: c_in -> mid, n: mid -> c_out.

    The regularisation is a term of the training loss, 0.1 * sum over the layers m of || W W^T - I ||, W the mid x c_in weight:
    the Frobenius norm as in BSConv's code, not its square (`search_space.blocks.orthonormal_penalty`).

    Source: DSSDN (arXiv 2405.03567), eq. 2; used in DSSDN-Small; the term and its weight: BSConv (arXiv 2003.13549).
    Assumed: mid = 6 there, the paper gives none.
    """

    name = "osc"
    osc_mid: int = _option("m", (4, 6, 8, 12, 16), 1, 1024)

    def cost(self, name: str, c_in: int, shape: tuple[int, int, int]) -> Iterator[LayerCost]:
        c_out, T, F = shape
        yield convolution(f"{name}.squeeze", "1x1", (self.osc_mid, T, F), c_in * self.osc_mid)
        yield convolution(f"{name}.expand", "1x1", shape, self.osc_mid * c_out)
        yield convolution(f"{name}.cross", "3x1 + 1x3", shape, 6 * c_out)

    def build(self, c_in: int, c_out: int) -> nn.Module:
        from search_space.blocks import Cross, OrthonormalConv2d, named, pointwise

        squeeze, expand = OrthonormalConv2d(c_in, self.osc_mid), pointwise(self.osc_mid, c_out)
        return named(squeeze=squeeze, expand=expand, cross=Cross(c_out))

    def maps(self, c_in: int, c_out: int) -> tuple[Map, ...]:
        return Map(self.osc_mid, (0,)), Map(c_out, (1,)), Map(c_out, (2,)), Map(c_out, (2, 3))


@register
@dataclass(frozen=True)
class SeparablePartialConvolution(Operator):
    """SPC: y = p1x1(f(x') u x''), f an SC on the first channels x', the rest x'' untouched, p a 1x1 over their union.

    x' has floor(partial_ratio * c_in) channels, at least one.

    Source: DSSDN (arXiv 2405.03567), eq. 3; used in DSSDN-Middle. Assumed: ratio 1/8 there, the paper gives none.
    """

    name = "spc"
    partial_ratio: float = _option("p", (0.125, 0.25, 0.5), 0.001, 1.0)

    def _channels(self, c_in: int) -> int:
        # A floor must not fall by what floating point loses: 0.29 * 100 is 28.999999999999996.
        return max(int(self.partial_ratio * c_in + 1e-9), 1)

    def cost(self, name: str, c_in: int, shape: tuple[int, int, int]) -> Iterator[LayerCost]:
        c_out, T, F = shape
        c_part = self._channels(c_in)
        yield from SeparableConvolution().cost(f"{name}.partial", c_part, (c_part, T, F))
        yield convolution(f"{name}.pointwise", "1x1", shape, c_in * c_out)

    def build(self, c_in: int, c_out: int) -> nn.Module:
        from search_space.blocks import Cross, Partial, named, pointwise

        c_part = self._channels(c_in)
        partial = Partial(c_part, pointwise=pointwise(c_part, c_part), cross=Cross(c_part))
        return named(partial=partial, pointwise=pointwise(c_in, c_out))

    def maps(self, c_in: int, c_out: int) -> tuple[Map, ...]:
        c_part = self._channels(c_in)
        return Map(c_part, (0,)), Map(c_part, (1,)), Map(c_part, (1, 2)), Map(c_in, (0, 3)), Map(c_out, (4,))


@register
@dataclass(frozen=True)
class PlainConvolution(Operator):
    """conv: an ordinary 3x3 convolution.

    Source: DSSDN (arXiv 2405.03567), Table 2: what takes the operators' place in DL-O, and the block's in DL-B.
    """

    name = "conv"
    offered = False

    def cost(self, name: str, c_in: int, shape: tuple[int, int, int]) -> Iterator[LayerCost]:
        yield convolution(f"{name}.conv", "3x3", shape, 9 * c_in * shape[0])

    def build(self, c_in: int, c_out: int) -> nn.Module:
        from torch import nn

        from search_space.blocks import named

        return named(conv=nn.Conv2d(c_in, c_out, 3, padding=1, bias=False))


@register
@dataclass(frozen=True)
class ReparameterisedConvolution(Operator):
    """rep: y = r(p1x1(x)), p an ordinary 1x1 convolution, r four channel-wise convolutions side by side (3x3, 1x1, 3x1, 1x3), each with batch norm.

    SC with more branches, which are one channel-wise 3x3 with a bias once it is trained (`blocks.RepConv`): that is what its cost counts, not the
    four, which only training pays for.

    Source: our own; the cross is DSSDN's (arXiv 2405.03567, eq. 1), the branches are Rep-Mobile's (arXiv 2410.20775).
    """

    name = "rep"
    offered = False
    searched = False

    def cost(self, name: str, c_in: int, shape: tuple[int, int, int]) -> Iterator[LayerCost]:
        c_out = shape[0]
        yield convolution(f"{name}.pointwise", "1x1", shape, c_in * c_out)
        yield convolution(f"{name}.branches", "channel-wise 3x3", shape, 9 * c_out, c_out)

    def build(self, c_in: int, c_out: int) -> nn.Module:
        from search_space.blocks import RepConv, named, pointwise

        return named(pointwise=pointwise(c_in, c_out), branches=RepConv(c_out))
