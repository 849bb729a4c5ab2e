"""The deep space separable operators (DSSO) a block can be built from: equation, options, cost and module of each.

Adding an operator is one decorated class: the notation, the spaces, the cost and the contract tests pick it up from the
registry. Costs are plain arithmetic; torch is imported only where a module is built.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from search_space.complexity import LayerCost, convolution
from search_space.errors import UserError

if TYPE_CHECKING:
    from torch import nn


class Option(NamedTuple):
    """An operator's option: its name, its letter in the notation, what a space offers, and what is accepted at all."""

    name: str
    letter: str
    choices: tuple[int | float, ...]
    low: int | float
    high: int | float

    @property
    def type(self) -> type[int] | type[float]:
        return int if isinstance(self.low, int) else float

    def check(self, value: object) -> None:
        """Raises `UserError` when the value is not of the option's type or out of its range."""
        whole = self.type is int
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise UserError(f"{self.name} is a {'whole ' if whole else ''}number; got {value!r}; try {self.choices[0]}")
        if not self.low <= value <= self.high:
            raise UserError(f"{self.name} is from {self.low} to {self.high}; got {value!r}; try {self.choices[0]}")


def _option(letter: str, choices: tuple[int | float, ...], low: int | float, high: int | float) -> Any:
    return field(metadata={"letter": letter, "choices": choices, "low": low, "high": high})


class Operator(ABC):
    """Maps (B, c_in, T, F) to (B, c_out, T, F); its dataclass fields are its options."""

    name: str
    """As the notation spells it: lower-case letters and digits."""

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

    Source: DSSDN (arXiv 2405.03567), eq. 1; used in DSSDN-Large.
    """

    name = "sc"

    def cost(self, name: str, c_in: int, shape: tuple[int, int, int]) -> Iterator[LayerCost]:
        yield convolution(f"{name}.pointwise", "1x1", shape, c_in * shape[0])
        yield convolution(f"{name}.cross", "3x1 + 1x3", shape, 6 * shape[0])

    def build(self, c_in: int, c_out: int) -> nn.Module:
        from search_space.blocks import Cross, named, pointwise

        return named(pointwise=pointwise(c_in, c_out), cross=Cross(c_out))


@register
@dataclass(frozen=True)
class OrthonormalSeparableConvolution(Operator):
    """OSC: SC with its 1x1 factored through few channels, y = s3x1(n(m(x))) + s1x3(n(m(x))), m: c_in -> mid, n: mid -> c_out.

    The orthonormal regularisation of m is a term of the training loss: `search_space.blocks.orthonormal_penalty`.

    Source: DSSDN (arXiv 2405.03567), eq. 2; used in DSSDN-Small. Assumed: mid = 6 there, the paper gives none.
    """

    name = "osc"
    osc_mid: int = _option("m", (4, 6, 8, 12, 16), 1, 1024)

    def cost(self, name: str, c_in: int, shape: tuple[int, int, int]) -> Iterator[LayerCost]:
        c_out, T, F = shape
        yield convolution(f"{name}.squeeze", "1x1", (self.osc_mid, T, F), c_in * self.osc_mid)
        yield convolution(f"{name}.expand", "1x1", shape, self.osc_mid * c_out)
        yield convolution(f"{name}.cross", "3x1 + 1x3", shape, 6 * c_out)

    def build(self, c_in: int, c_out: int) -> nn.Module:
        from search_space.blocks import Cross, OrthonormalPointwise, named, pointwise

        squeeze, expand = OrthonormalPointwise(c_in, self.osc_mid), pointwise(self.osc_mid, c_out)
        return named(squeeze=squeeze, expand=expand, cross=Cross(c_out))


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
        return max(int(self.partial_ratio * c_in), 1)

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
