"""The families of networks that are described by a notation: how each begins, is read, counted and built. No torch but to build.

One string names a network of any family; what takes a description takes one of any family. A comparator (`comparators.py`) has a name and no
description: it is one network and no family.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from search_space.architecture import EXAMPLE, Architecture
from search_space.complexity import Cost, count_architecture
from search_space.errors import UserError
from search_space.mobile import EXAMPLE as MOBILE_EXAMPLE
from search_space.mobile import Mobile, count_mobile

if TYPE_CHECKING:
    from torch import nn

Network = Architecture | Mobile
"""The frozen description of one network of any family; `str()` is its notation."""


class Family(NamedTuple):
    """A family: its notation's first part, an example, and what to do with a description: `cost(network, input, n_classes)`,
    `build(network, n_classes)`."""

    begins: str
    example: str
    parse: Callable[[str], Network]
    cost: Callable[[Any, tuple[int, int], int], Cost]
    build: Callable[[Any, int], nn.Module]


def _build_dssdn(network: Architecture, n_classes: int) -> nn.Module:
    from search_space.model import Dssdn

    return Dssdn(network, n_classes)


def _build_mobile(network: Mobile, n_classes: int) -> nn.Module:
    from search_space.mobile_modules import MobileNetwork

    return MobileNetwork(network, n_classes)


FAMILIES: dict[str, Family] = {
    "dssdn": Family("dssdn", EXAMPLE, Architecture.parse, count_architecture, _build_dssdn),
    "cp-mobile": Family("cpm", MOBILE_EXAMPLE, Mobile.parse, count_mobile, _build_mobile),
    "rep-mobile": Family("repm", MOBILE_EXAMPLE.replace("cpm", "repm"), Mobile.parse, count_mobile, _build_mobile),
}
"""Every family by its name, as spaces are called."""


def is_notation(text: str) -> bool:
    """Whether a text begins as a notation does."""
    return text.split("_")[0] in {family.begins for family in FAMILIES.values()} and "_" in text


def parse(text: str) -> Network:
    """The network that a notation of any family names.

    Raises `UserError` when the text is no notation, or one of a network that cannot exist.
    """
    for family in FAMILIES.values():
        if text.startswith(f"{family.begins}_"):
            return family.parse(text)
    return Architecture.parse(text)


def family_of(network: Network) -> str:
    """The name of a network's family."""
    begins = network.kind if isinstance(network, Mobile) else "dssdn"
    return next(name for name, family in FAMILIES.items() if family.begins == begins)


def only_dssdn(network: Network, what: str) -> Architecture:
    """The network, where it is one of DSSDN. Raises `UserError` where it is another family's, saying `what` asks for one."""
    if isinstance(network, Architecture):
        return network
    raise UserError(f"{what} takes a network of DSSDN, such as {EXAMPLE}; got {network}")
