"""The spaces of the families with a published rule, and the one across all families; what a space is stands in `space.py`."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from search_space.complexity import count
from search_space.errors import UserError
from search_space.families import FAMILIES, Network, family_of
from search_space.mobile import Kind, Mobile, mobile
from search_space.presets import CP_MOBILE, RELATED, REP_MOBILE
from search_space.related import Related, bc_resnet, cp_resnet, tf_sepnet
from search_space.space import AnySpace, Choice, Choose, Value, ask, digest_of


@dataclass(frozen=True)
class RuleSpace:
    """The networks that a published rule makes of any set of choices: `make` takes the chosen options by name.

    Several sets of choices may make one network (where widths are rounded, say): `encode` gives the first of them, `size` counts networks. `presets` are
    the published networks that a study begins with. `grows` names the choices of which a later option never costs less.
    """

    name: str
    options: tuple[Choice, ...]
    make: Callable[[Mapping[str, Any]], Network]
    presets: dict[str, Network] = field(hash=False)
    grows: tuple[str, ...]

    @property
    def choices(self) -> dict[str, tuple[Value, ...]]:
        """The options of every choice by its name, in the order of asking."""
        return {choice.name: choice.options for choice in self.options}

    def sample(self, choose: Choose) -> Network:
        """The network made of what `choose(name, options)` picks.

        Raises `UserError` when a pick is not one of the options.
        """
        return self.make(ask(self.options, choose))

    @cached_property
    def _known(self) -> dict[Network, list[dict[str, Value]]]:
        """Every network with all sets of choices that make it."""
        known: dict[Network, list[dict[str, Value]]] = {}
        for chosen in self._sets(self.choices):
            known.setdefault(self.make(chosen), []).append(chosen)
        return known

    @staticmethod
    def _sets(choices: Mapping[str, tuple[Value, ...]]) -> Iterator[dict[str, Value]]:
        return (dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values()))

    @property
    def size(self) -> int:
        """How many distinct networks the space holds."""
        return len(self._known)

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits that change when the space does: its name, its choices, and the networks of all first and all last options
        with what they cost."""
        corners = [self.sample(lambda _, options: options[0]), self.sample(lambda _, options: options[-1])]
        return digest_of(self.name, self.options, corners)

    def encode(self, network: Network) -> dict[str, Value]:
        """The choices that make this network, the first of them where several do.

        Raises `UserError` when the space does not hold it.
        """
        if network not in self._known:
            listed = ", ".join(f"{name} of {list(options)}" for name, options in self.choices.items())
            raise UserError(f"{network} is outside the space {self.name!r}: it is made by no {listed}")
        return dict(self._known[network][0])

    def neighbours(self, network: Network) -> list[Network]:
        """Every other network one choice away, a number one step up or down, from any set of choices that makes this one.

        a is a neighbour of b exactly when b is one of a. Raises `UserError` when the space does not hold the network.
        """
        self.encode(network)
        found: dict[Network, None] = {}
        for chosen in self._known[network]:
            for choice in self.options:
                for option in choice.neighbours(chosen[choice.name]):
                    found[self.make({**chosen, choice.name: option})] = None
        return [other for other in found if other != network]

    def __iter__(self) -> Iterator[Network]:
        """Every network once."""
        return iter(self._known)

    def largest(self, input: tuple[int, int], n_classes: int) -> tuple[int, int]:
        """The most params and the most MACs in the space (of two networks, perhaps), for `input` = (frames, mels).

        Of the choices that do not only grow, such as how many blocks stand where the map becomes smaller, all options are tried.
        """
        costs = [count(network, input, n_classes) for network in self._corner(-1)]
        return max(cost.params for cost in costs), max(cost.macs for cost in costs)

    def cheapest(self) -> Iterator[Network]:
        """The narrowest networks: where none of these meets a set of caps, none of the space does."""
        return self._corner(0)

    def _corner(self, place: int) -> Iterator[Network]:
        """The networks with the first or the last option of all choices that grow."""
        ends = {name: (of[place],) if name in self.grows else of for name, of in self.choices.items()}
        return map(self.make, self._sets(ends))


def _depths(chosen: Mapping[str, Any]) -> list[int]:
    return [value for name, value in chosen.items() if name.startswith("depth_")]


def _per_stage(*options: tuple[int, ...]) -> tuple[Choice, ...]:
    return tuple(Choice(f"depth_{stage}", of) for stage, of in enumerate(options, start=1))


def _mobile_space(
    name: str, kind: Kind, multipliers: tuple[float, ...], expansions: tuple[float, ...], presets: dict[str, Network]
) -> RuleSpace:
    def make(chosen: Mapping[str, Any]) -> Mobile:
        return mobile(kind, chosen["base"], chosen["multiplier"], chosen["expansion"], _depths(chosen))

    rule = (("base", (8, 16, 24, 32)), ("multiplier", multipliers), ("expansion", expansions))
    choices = (*(Choice(what, of) for what, of in rule), *_per_stage((2, 3, 4), (1, 2, 3), (1, 2)))
    return RuleSpace(name, choices, make, presets, ("base", "multiplier", "expansion"))


def _cp_resnet(chosen: Mapping[str, Any]) -> Related:
    return cp_resnet(chosen["base"], chosen["rho"], _depths(chosen), chosen["groups"])


def _bc_resnet(chosen: Mapping[str, Any]) -> Related:
    return bc_resnet(chosen["width"], _depths(chosen), chosen["last_pool"] == "yes")


def _tf_sepnet(chosen: Mapping[str, Any]) -> Related:
    return tf_sepnet(chosen["width"], _depths(chosen), chosen["last_pool"] == "yes")


def _named(*names: str) -> dict[str, Network]:
    return {name: RELATED[name] for name in names}


_FOUR = _per_stage((1, 2, 3), (1, 2, 3), (1, 2, 3), (2, 3, 4))
_WIDTHS = (8, 16, 24, 32, 40, 48, 64, 80)
_LAST_POOL = Choice("last_pool", ("no", "yes"))

RULE_SPACES = (
    _mobile_space(
        *("cp-mobile", "cpm", (1.5, 1.7, 1.8, 1.9, 2.1, 2.3), (1.5, 1.8, 1.9, 2.1, 2.5, 3.0)),
        {name: network for name, network in CP_MOBILE.items() if "-s" in name},
    ),
    _mobile_space("rep-mobile", "repm", (1.5, 1.8, 2.1), (1.5, 1.9, 2.3, 2.7, 3.1), dict(REP_MOBILE)),
    RuleSpace(
        "cp-resnet",
        (
            *(
                Choice("base", (8, 16, 24, 32)),
                Choice("rho", (3, 4, 5, 6, 7, 8, 9, 10, 11)),
                Choice("groups", (1, 2)),
            ),
            *_per_stage((1, 2, 3), (1, 2), (1, 2)),
        ),
        *(_cp_resnet, _named("cp-resnet"), ("base", "rho")),
    ),
    RuleSpace(
        "bc-resnet",
        (Choice("width", _WIDTHS), *_FOUR, _LAST_POOL),
        *(_bc_resnet, _named("bc-resnet", "bc-resnet-80"), ("width",)),
    ),
    RuleSpace(
        "tf-sepnet",
        (Choice("width", _WIDTHS), *_FOUR, _LAST_POOL),
        *(_tf_sepnet, _named("tf-sepnet-64"), ("width",)),
    ),
)
"""One space a family, with the axes by which its authors scaled it; all its published networks are inside.

CP-Mobile and Rep-Mobile: base, multiplier, expansion and the blocks of each stage. CP-ResNet: base, receptive field, groups of the second stage, blocks.
BC-ResNet and TF-SepNet: width, blocks, and whether the last stage opens with a max pool, as TF-SepNet's depth 17 does and 16 does not.
Assumed: the options.
"""


@dataclass(frozen=True)
class FamilySpace:
    """The spaces of several families as one: the first choice is the family, the others are that family's, its notation's first part before their
    names (`cpm_base`).

    To change the family is no step between neighbours, for nothing else of a network would stay. The largest costs are those over all families.
    """

    name: str
    spaces: tuple[AnySpace, ...]

    @cached_property
    def _by_family(self) -> dict[str, AnySpace]:
        return {space.name: space for space in self.spaces}

    @property
    def choices(self) -> dict[str, tuple[Value, ...]]:
        """The options of every choice by its name, the family's first."""
        rest = {
            f"{FAMILIES[family].begins}_{name}": options
            for family, space in self._by_family.items()
            for name, options in space.choices.items()
        }
        return {"family": tuple(self._by_family), **rest}

    @property
    def presets(self) -> dict[str, Network]:
        """The presets of every family."""
        return {name: network for space in self.spaces for name, network in space.presets.items()}

    def sample(self, choose: Choose) -> Network:
        """The network made of what `choose(name, options)` picks.

        Raises `UserError` when a pick is not one of the options.
        """
        families = tuple(self._by_family)
        family = str(ask((Choice("family", families),), choose)["family"])
        begins = FAMILIES[family].begins
        return self._by_family[family].sample(lambda name, options: choose(f"{begins}_{name}", options))

    @property
    def size(self) -> int:
        """How many distinct networks the space holds."""
        return sum(space.size for space in self.spaces)

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits that change when one of its spaces does."""
        parts = [self.name, *((space.name, space.digest) for space in self.spaces)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    def encode(self, network: Network) -> dict[str, Value]:
        """The choices that make this network. Raises `UserError` when the space does not hold it."""
        family = family_of(network)
        if family not in self._by_family:
            raise UserError(f"{network} is outside the space {self.name!r}: family is one of {list(self._by_family)}")
        begins = FAMILIES[family].begins
        chosen = self._by_family[family].encode(network)
        return {"family": family, **{f"{begins}_{name}": value for name, value in chosen.items()}}

    def neighbours(self, network: Network) -> list[Network]:
        """Every network of its family one choice away. Raises `UserError` when the space does not hold the network."""
        self.encode(network)
        return self._by_family[family_of(network)].neighbours(network)

    def __iter__(self) -> Iterator[Network]:
        """Every network once."""
        return itertools.chain.from_iterable(self.spaces)

    def largest(self, input: tuple[int, int], n_classes: int) -> tuple[int, int]:
        """The most params and the most MACs over all families, for `input` = (frames, mels)."""
        largest = [space.largest(input, n_classes) for space in self.spaces]
        return max(params for params, _ in largest), max(macs for _, macs in largest)

    def cheapest(self) -> Iterator[Network]:
        """The cheapest of every family."""
        return itertools.chain.from_iterable(space.cheapest() for space in self.spaces)
