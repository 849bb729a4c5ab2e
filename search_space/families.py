"""The families of networks that are described by a notation: how each begins, is read, counted and built. No torch but to build.

One string names a network of any family; what takes a description takes one of any family. A comparator (`comparators.py`) has a name and no
description: it is one network and no family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from search_space.architecture import EXAMPLE, Architecture
from search_space.complexity import Cost, count_architecture
from search_space.errors import UserError
from search_space.mobile import EXAMPLE as MOBILE_EXAMPLE
from search_space.mobile import KINDS as MOBILE_KINDS
from search_space.mobile import Mobile, count_mobile
from search_space.related import EXAMPLES as RELATED_EXAMPLES
from search_space.related import KINDS as RELATED_KINDS
from search_space.related import Related, count_related

if TYPE_CHECKING:
    from torch import nn

Network = Architecture | Mobile | Related
"""The frozen description of one network of any family; `str()` is its notation."""


class Family(NamedTuple):
    """A family: its notation's first part, what people call it, an example, the form of its networks that is counted ('deployed': batch norm folded,
    branches merged), and what to do with a description: `cost(network, input, n_classes)`, `build(network, n_classes)`."""

    begins: str
    title: str
    example: str
    form: Literal["trained", "deployed"]
    parse: Callable[[str], Network]
    cost: Callable[[Any, tuple[int, int], int], Cost]
    build: Callable[[Any, int], nn.Module]


def _build_dssdn(network: Architecture, n_classes: int) -> nn.Module:
    from search_space.model import Dssdn

    return Dssdn(network, n_classes)


def _build_mobile(network: Mobile, n_classes: int) -> nn.Module:
    from search_space.mobile_modules import MobileNetwork

    return MobileNetwork(network, n_classes)


def _build_related(network: Related, n_classes: int) -> nn.Module:
    from search_space.related_modules import Staged

    return Staged(network, n_classes)


def _mobile(begins: str) -> Family:
    example = MOBILE_EXAMPLE.replace("cpm", begins)
    return Family(begins, MOBILE_KINDS[begins], example, "deployed", Mobile.parse, count_mobile, _build_mobile)


def _related(begins: str) -> Family:
    title, example = RELATED_KINDS[begins], RELATED_EXAMPLES[begins]
    return Family(begins, title, example, "trained", Related.parse, count_related, _build_related)


FAMILIES: dict[str, Family] = {
    "dssdn": Family("dssdn", "DSSDN", EXAMPLE, "trained", Architecture.parse, count_architecture, _build_dssdn),
    "cp-mobile": _mobile("cpm"),
    "rep-mobile": _mobile("repm"),
    "cp-resnet": _related("cpr"),
    "bc-resnet": _related("bcr"),
    "tf-sepnet": _related("tfs"),
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
    begins = "dssdn" if isinstance(network, Architecture) else network.kind
    return next(name for name, family in FAMILIES.items() if family.begins == begins)


def in_other_families(network: Network) -> dict[str, Network]:
    """The networks of other families that have this one's widths and blocks, by their family: CP-Mobile and Rep-Mobile have each other's, and so have
    BC-ResNet and TF-SepNet, whose stems differ. A family of which no such network can exist is left out."""
    if isinstance(network, Mobile):
        turned: Network = replace(network, kind="repm" if network.kind == "cpm" else "cpm")
    elif isinstance(network, Related) and network.kind != "cpr":
        last = network.stem[-1]
        try:
            if network.kind == "bcr":
                turned = replace(network, kind="tfs", stem=(last // 4, last))
            else:
                turned = replace(network, kind="bcr", stem=(last,))
        except UserError:
            return {}
    else:
        return {}
    return {family_of(turned): turned}


def only_dssdn(network: Network, what: str) -> Architecture:
    """The network, where it is one of DSSDN. Raises `UserError` where it is another family's, saying `what` asks for one."""
    if isinstance(network, Architecture):
        return network
    raise UserError(f"{what} takes a network of DSSDN, such as {EXAMPLE}; got {network}")
