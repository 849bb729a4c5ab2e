"""The spaces of CP-Mobile and Rep-Mobile, and the one across all families; what a space is stands in `space.py`."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from search_space.errors import UserError
from search_space.families import FAMILIES, Network, family_of
from search_space.mobile import Kind, Mobile, count_mobile, mobile
from search_space.presets import CP_MOBILE, REP_MOBILE
from search_space.space import AnySpace, Choice, Choose, Value

_PER_STAGE = ("depth_1", "depth_2", "depth_3")


@dataclass(frozen=True)
class MobileSpace:
    """The networks of the published rule (`mobile.mobile`): its base, multiplier and expansion, and the blocks of each of the three stages.

    Widths are rounded to multiples of 8, so several sets of choices may make one network: `encode` gives the first of them, `size` counts networks.

    Source: the axes are those by which CP-Mobile's authors scaled it; all its submissions are inside. Assumed: the options.
    """

    name: str
    kind: Kind
    bases: tuple[int, ...]
    multipliers: tuple[float, ...]
    expansions: tuple[float, ...]
    depths: tuple[tuple[int, ...], ...] = ((2, 3, 4), (1, 2, 3), (1, 2))

    @cached_property
    def _choices(self) -> tuple[Choice, ...]:
        rule = (("base", self.bases), ("multiplier", self.multipliers), ("expansion", self.expansions))
        return tuple(Choice(name, options) for name, options in (*rule, *zip(_PER_STAGE, self.depths, strict=True)))

    @property
    def choices(self) -> dict[str, tuple[Value, ...]]:
        """The options of every choice by its name, in the order of asking."""
        return {choice.name: choice.options for choice in self._choices}

    @property
    def presets(self) -> dict[str, Network]:
        """The published networks that a study begins with: CP-Mobile's four submissions, the one Rep-Mobile."""
        of = CP_MOBILE if self.kind == "cpm" else REP_MOBILE
        return {name: network for name, network in of.items() if self.kind == "repm" or "-s" in name}

    def sample(self, choose: Choose) -> Mobile:
        """The network made of what `choose(name, options)` picks.

        Raises `UserError` when a pick is not one of the options.
        """
        chosen: dict[str, Value] = {}
        for name, options, _ in self._choices:
            pick = choose(name, options)
            if pick not in options:
                raise UserError(f"{name} is one of {list(options)}; got {pick!r}")
            chosen[name] = options[options.index(pick)]
        return self._network(chosen)

    @cached_property
    def _known(self) -> dict[Network, list[dict[str, Value]]]:
        """Every network with all sets of choices that make it."""
        known: dict[Network, list[dict[str, Value]]] = {}
        names = [choice.name for choice in self._choices]
        for values in itertools.product(*(choice.options for choice in self._choices)):
            chosen = dict(zip(names, values, strict=True))
            known.setdefault(self._network(chosen), []).append(chosen)
        return known

    @property
    def size(self) -> int:
        """How many distinct networks the space holds."""
        return len(self._known)

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits that change when the space does: its name, its choices, and the networks of all first and all last options
        with what they cost."""
        corners = [self.sample(lambda _, options: options[0]), self.sample(lambda _, options: options[-1])]
        witnesses = [(str(corner), *count_mobile(corner, (431, 256), 10)[:2]) for corner in corners]
        return hashlib.sha256(json.dumps([self.name, self._choices, witnesses]).encode()).hexdigest()[:12]

    def encode(self, network: Network) -> dict[str, Value]:
        """The choices that make this network, the first of them where several do.

        Raises `UserError` when the space does not hold it.
        """
        if network not in self._known:
            raise UserError(
                f"{network} is outside the space {self.name!r}: its widths are those of no base of {list(self.bases)}, multiplier of "
                f"{list(self.multipliers)} and expansion of {list(self.expansions)} with blocks {list(self.depths)} a stage"
            )
        return dict(self._known[network][0])

    def neighbours(self, network: Network) -> list[Network]:
        """Every other network one choice away, a number one step up or down, from any set of choices that makes this one.

        a is a neighbour of b exactly when b is one of a. Raises `UserError` when the space does not hold the network.
        """
        self.encode(network)
        found: dict[Network, None] = {}
        for chosen in self._known[network]:
            for choice in self._choices:
                for option in choice.neighbours(chosen[choice.name]):
                    found[self._network({**chosen, choice.name: option})] = None
        return [other for other in found if other != network]

    def __iter__(self) -> Iterator[Network]:
        """Every network once."""
        return iter(self._known)

    def largest(self, input: tuple[int, int], n_classes: int) -> tuple[int, int]:
        """The most params and the most MACs in the space (of two networks, perhaps), for `input` = (frames, mels).

        Both grow with the base, the multiplier and the expansion; how many blocks cost most depends on where the map becomes smaller.
        """
        costs = [count_mobile(network, input, n_classes) for network in self._corner(-1)]
        return max(cost.params for cost in costs), max(cost.macs for cost in costs)

    def cheapest(self) -> Iterator[Network]:
        """The narrowest networks: where none of these meets a set of caps, none of the space does."""
        return iter(self._corner(0))

    def _corner(self, place: int) -> list[Mobile]:
        """The networks with the first or the last base, multiplier and expansion."""
        widths = self.bases[place], self.multipliers[place], self.expansions[place]
        return [mobile(self.kind, *widths, depths) for depths in itertools.product(*self.depths)]

    def _network(self, chosen: Mapping[str, Any]) -> Mobile:
        depths = [chosen[name] for name in _PER_STAGE]
        return mobile(self.kind, chosen["base"], chosen["multiplier"], chosen["expansion"], depths)


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
        family = str(choose("family", families))
        if family not in families:
            raise UserError(f"family is one of {list(families)}; got {family!r}")
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


CP_MOBILE_SPACE = MobileSpace(
    "cp-mobile", "cpm", (8, 16, 24, 32), (1.5, 1.7, 1.8, 1.9, 2.1, 2.3), (1.5, 1.8, 1.9, 2.1, 2.5, 3.0)
)
REP_MOBILE_SPACE = MobileSpace("rep-mobile", "repm", (8, 16, 24, 32), (1.5, 1.8, 2.1), (1.5, 1.9, 2.3, 2.7, 3.1))
