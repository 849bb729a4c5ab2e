"""The spaces that can be searched: named choices, each with its options, and the architecture that a set of choices makes.

One door: `Space.sample(choose)` asks `choose(name, options)` for one option after the other. Random search passes a
generator's choice, Optuna its suggestions, a replay the recorded values, a person a select box. Numeric options ascend; the
options under a name never change; a choice that means nothing (OSC's mid channels in a network of SC) is not asked.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, Literal, NamedTuple, Protocol

from search_space.architecture import Architecture, Block
from search_space.complexity import Cost, count
from search_space.errors import UserError, unknown
from search_space.families import Network, only_dssdn
from search_space.operators import OPERATORS
from search_space.presets import PRESETS

Value = int | float | str
Choose = Callable[[str, tuple[Any, ...]], Any]


class Choice(NamedTuple):
    """One choice: its options, and when it is asked: (the name of an earlier choice, the options of it that call for this)."""

    name: str
    options: tuple[Value, ...]
    when: tuple[str, tuple[Value, ...]] | None = None

    def asked(self, chosen: Mapping[str, Value]) -> bool:
        """Whether this choice means anything beside the ones already made."""
        return self.when is None or chosen.get(self.when[0]) in self.when[1]

    def neighbours(self, option: Value) -> list[Value]:
        """The options one step away: the next ones of a number, all others of a name."""
        if isinstance(option, str):
            return [other for other in self.options if other != option]
        place = self.options.index(option)
        return [*self.options[max(place - 1, 0) : place], *self.options[place + 1 : place + 2]]


def ask(choices: Iterable[Choice], choose: Choose) -> dict[str, Value]:
    """What `choose(name, options)` picks of each choice that means something beside the earlier picks.

    Raises `UserError` when a pick is not one of the options.
    """
    chosen: dict[str, Value] = {}
    for choice in choices:
        if not choice.asked(chosen):
            continue
        name, options, _ = choice
        pick = choose(name, options)
        if pick not in options:
            raise UserError(f"{name} is one of {list(options)}; got {pick!r}")
        chosen[name] = options[options.index(pick)]  # the option itself: a generator's pick may be a numpy scalar
    return chosen


def digest_of(name: str, choices: Sequence[Choice], corners: Sequence[Network]) -> str:
    """Twelve hexadecimal digits of a space's name, its choices, and the notations and costs of these networks of it."""
    witnesses = [(str(corner), *count(corner, (431, 256))[:2]) for corner in corners]
    return hashlib.sha256(json.dumps([name, choices, witnesses]).encode()).hexdigest()[:12]


class AnySpace(Protocol):
    """What a study asks of a space, whatever family its networks are of; each is said at `Space`."""

    @property
    def name(self) -> str: ...
    @property
    def choices(self) -> dict[str, tuple[Value, ...]]: ...
    @property
    def presets(self) -> dict[str, Network]: ...
    @property
    def size(self) -> int: ...
    @property
    def digest(self) -> str: ...
    def sample(self, choose: Choose) -> Network: ...
    def encode(self, network: Network) -> dict[str, Value]: ...
    def neighbours(self, network: Network) -> list[Network]: ...
    def __iter__(self) -> Iterator[Network]: ...
    def largest(self, input: tuple[int, int], n_classes: int) -> tuple[int, int]: ...
    def cheapest(self) -> Iterator[Network]: ...


@dataclass(frozen=True)
class Space:
    """A finite set of architectures, spanned by choices.

    Widths grow twice and then stay: block i's input has stem + growth * min(i, 2) channels, and so has the last output.
    `per_block` says whether each block has its own split ratio and operator (names `b1_split_ratio`, ...) or all share one.
    `wide` adds what the paper's relatives do differently: every operator and all options of each, plain blocks, the head's
    width and what it sees, whether the first block pools time, which half is heavy, how the parts are merged, and whether
    there is channel attention; it is not meant together with `per_block`. Two different sets of choices always make two
    different architectures.

    Source: the axes are those of DSSDN (arXiv 2405.03567), in a wide space also of DSMN (DCASE 2023) and SP4ASC (DCASE
    2021); the presets are inside. Assumed: the options. Left out: fixed attention kernels, since at these widths the kernel
    that follows them is 3 anyway, and pooling of the last block, which averages what the head averages.
    """

    name: str
    per_block: bool
    depths: tuple[int, ...] = (2, 3, 4, 5, 6)
    stems: tuple[int, ...] = (8, 12, 16, 20, 24, 28, 32)
    growths: tuple[int, ...] = (0, 4, 8, 12, 16, 20, 24)
    split_ratios: tuple[float, ...] = (0.25, 0.375, 0.5, 0.625, 0.75, 1.0)
    wide: bool = False
    heads: tuple[int, ...] = (32, 64, 128)

    def __post_init__(self) -> None:
        assert not (self.wide and self.per_block), "a space is wide or chooses for every block"

    @cached_property
    def _choices(self) -> tuple[Choice, ...]:
        shared = [Choice("depth", self.depths), Choice("stem", self.stems), Choice("growth", self.growths)]
        if self.wide:
            return (*shared, *self._wide_choices())
        if not self.per_block:
            return (*shared, *self._block_choices("", None))
        for number in range(1, self.depths[-1] + 1):
            deep_enough = tuple(depth for depth in self.depths if depth >= number)
            shared += self._block_choices(f"b{number}_", ("depth", deep_enough))
        return tuple(shared)

    def _block_choices(self, prefix: str, when: tuple[str, tuple[Value, ...]] | None) -> list[Choice]:
        offered = [name for name, operator in OPERATORS.items() if operator.offered]
        return [Choice(f"{prefix}split_ratio", self.split_ratios, when), *self._operator_choices(prefix, offered, when)]

    def _operator_choices(
        self, prefix: str, operators: Sequence[str], when: tuple[str, tuple[Value, ...]] | None
    ) -> list[Choice]:
        choices = [Choice(f"{prefix}operator", tuple(operators), when)]
        for name in operators:
            called = (f"{prefix}operator", (name,))
            options = (o for o in OPERATORS[name].options() if self.wide or o.default is None)
            choices += [Choice(prefix + option.name, option.choices, called) for option in options]
        return choices

    def _wide_choices(self) -> list[Choice]:
        distilled, cut = ("kind", ("distillation",)), tuple(ratio for ratio in self.split_ratios if ratio < 1)
        deep = tuple(depth for depth in self.depths if depth > 2)  # of two blocks, the last are the later ones
        return [
            Choice("head", self.heads),
            Choice("first_pool", ("1x2", "2x2")),
            Choice("taps", ("all", "last", "later"), ("depth", deep)),
            *self._operator_choices("", [name for name, of in OPERATORS.items() if of.searched], None),
            Choice("kind", ("distillation", "plain")),
            Choice("attention", ("adaptive", "none"), distilled),
            Choice("split_ratio", self.split_ratios, distilled),
            Choice("heavy", ("low", "high"), ("split_ratio", cut)),
            Choice("merge", ("splice", "add", "concat"), ("split_ratio", (0.5,))),
        ]

    @property
    def choices(self) -> dict[str, tuple[Value, ...]]:
        """The options of every choice by its name, the conditional ones included, in the order of asking."""
        return {choice.name: choice.options for choice in self._choices}

    @property
    def presets(self) -> dict[str, Network]:
        """The published networks inside by name, which a study begins with."""
        return dict(PRESETS)

    def sample(self, choose: Choose) -> Architecture:
        """The architecture made of what `choose(name, options)` picks; `rng.choice` can pick: `lambda _, options: rng.choice(options)`.

        Raises `UserError` when a pick is not one of the options.
        """
        return self._architecture(ask(self._choices, choose))

    @property
    def size(self) -> int:
        """How many distinct architectures the space holds."""

        def below(parent: str, option: Value) -> int:
            called = (c for c in self._choices if c.when and c.when[0] == parent and option in c.when[1])
            return math.prod(sum(below(c.name, o) for o in c.options) for c in called)

        free = (choice for choice in self._choices if choice.when is None)
        return math.prod(sum(below(choice.name, option) for option in choice.options) for choice in free)

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits that change when the space does.

        They cover the name and all choices; the rule from choices to widths and the structure of the network enter
        through the notations and costs of the two architectures of all first and all last options.
        """
        corners = [self.sample(lambda _, options: options[0]), self.sample(lambda _, options: options[-1])]
        return digest_of(self.name, self._choices, corners)

    def encode(self, network: Network) -> dict[str, Value]:
        """The choices that make this architecture, in the order of asking.

        Raises `UserError` when the space does not hold it.
        """
        architecture = only_dssdn(network, f"the space {self.name!r}")
        blocks = architecture.blocks
        facts: dict[str, Value] = {"depth": len(blocks), "stem": architecture.stem}
        facts["growth"] = blocks[0].out_channels - architecture.stem
        for number, block in enumerate(blocks, start=1):
            prefix = f"b{number}_" if self.per_block else ""
            facts |= {f"{prefix}split_ratio": block.split_ratio, f"{prefix}operator": block.operator}
            defaults = ((option.name, option.default) for option in block.module.options())
            facts |= {f"{prefix}{name}": default for name, default in defaults if default is not None}
            facts |= {f"{prefix}{name}": value for name, value in block.options}
        if self.wide:
            numbers, depth = architecture.tap_numbers, len(blocks)
            facts |= {"kind": architecture.kind, "heavy": architecture.heavy, "merge": architecture.merge}
            facts |= {"head": architecture.head, "attention": "none" if architecture.eca == 0 else "adaptive"}
            facts["first_pool"] = "x".join(map(str, blocks[0].pool))
            facts["taps"] = "last" if numbers == (depth,) else "all" if len(numbers) == depth else "later"
        chosen: dict[str, Value] = {}
        outside = f"{architecture} is outside the space {self.name!r}"
        for choice in self._choices:
            if not choice.asked(chosen):
                continue
            name, options, _ = choice
            if facts[name] not in options:
                raise UserError(f"{outside}: {name} is one of {list(options)}; got {facts[name]!r}")
            chosen[name] = facts[name]
        if (nearest := self._architecture(chosen)) != architecture:
            raise UserError(f"{outside}; the nearest inside is {nearest}")
        return chosen

    def neighbours(self, network: Network) -> list[Network]:
        """Every architecture one choice away: a number one step up or down, another name.

        Choices that only then mean something take each of their options; all others stay. a is a neighbour of b exactly
        when b is one of a.

        Raises `UserError` when the space does not hold the architecture.
        """
        chosen = self.encode(network)
        return [
            self._architecture(complete)
            for choice in self._choices
            if choice.name in chosen
            for option in choice.neighbours(chosen[choice.name])
            for complete in self._completions({**chosen, choice.name: option})
        ]

    def __iter__(self) -> Iterator[Architecture]:
        """Every architecture once."""
        return (self._architecture(complete) for complete in self._completions({}))

    def largest(self, input: tuple[int, int], n_classes: int) -> tuple[int, int]:
        """The most params and the most MACs in the space (of two networks, perhaps), for `input` = (frames, mels).

        Both grow with depth and width (and in a wide space with the head, what it sees, and the frames that the first block
        leaves), so only the widest and deepest are compared; where blocks choose for themselves, each block's own maximum
        counts, since a block's cost does not depend on the others' choices.
        """
        biggest: dict[str, Value] = {"depth": self.depths[-1], "stem": self.stems[-1], "growth": self.growths[-1]}
        if self.wide:
            biggest |= {"head": self.heads[-1], "taps": "all", "first_pool": "1x2"}
        uniform = replace(self, per_block=False)
        costs = [count(uniform._architecture(c), input, n_classes) for c in uniform._completions(biggest)]

        def most(what: Literal["params", "macs"]) -> int:
            parts = [_per_part(cost, what) for cost in costs]
            return sum(map(max, zip(*parts, strict=True))) if self.per_block else max(map(sum, parts))

        return most("params"), most("macs")

    def cheapest(self) -> Iterator[Architecture]:
        """The shallowest and narrowest networks: where none of these meets a set of caps, none of the space does."""
        smallest: dict[str, Value] = {"depth": self.depths[0], "stem": self.stems[0], "growth": self.growths[0]}
        if self.wide:
            smallest |= {"head": self.heads[0], "taps": "last", "first_pool": "2x2"}
        return (self._architecture(complete) for complete in self._completions(smallest))

    def _completions(self, fixed: Mapping[str, Value]) -> Iterator[dict[str, Value]]:
        """Every set of choices that agrees with the fixed ones, as far as these are asked."""

        def extend(chosen: dict[str, Value], rest: Sequence[Choice]) -> Iterator[dict[str, Value]]:
            if not rest:
                yield chosen
            elif not rest[0].asked(chosen):
                yield from extend(chosen, rest[1:])
            else:
                name = rest[0].name
                for option in (fixed[name],) if name in fixed else rest[0].options:
                    yield from extend({**chosen, name: option}, rest[1:])

        return extend({}, self._choices)

    def _architecture(self, chosen: Mapping[str, Any]) -> Architecture:
        depth = chosen["depth"]
        first_pool = (1, 2) if chosen.get("first_pool") == "1x2" else (2, 2)

        def block(number: int) -> Block:
            prefix = f"b{number}_" if self.per_block else ""
            operator = chosen[f"{prefix}operator"]
            names = (option.name for option in OPERATORS[operator].options())
            options = tuple((name, chosen[prefix + name]) for name in names if prefix + name in chosen)
            ratio = chosen.get(f"{prefix}split_ratio", 1.0)  # a plain block has none
            return Block(width(number), operator, options, ratio, first_pool if number == 1 else (2, 2))

        def width(number: int) -> int:
            return chosen["stem"] + chosen["growth"] * min(number, 2)

        return Architecture(
            chosen["stem"],
            tuple(block(number) for number in range(1, depth + 1)),
            heavy=chosen.get("heavy", "low"),
            head=chosen.get("head", 64),
            merge=chosen.get("merge", "splice"),
            tapped={"all": tuple(range(1, depth + 1)), "last": (depth,)}.get(chosen.get("taps", "later"), ()),
            eca=0 if chosen.get("attention") == "none" else None,
            kind=chosen.get("kind", "distillation"),
        )


def _per_part(cost: Cost, what: Literal["params", "macs"]) -> list[int]:
    totals: dict[str, int] = {}
    for row in cost.layers:
        part = ".".join(row.name.split(".")[:2])  # one block, or one layer outside the blocks
        totals[part] = totals.get(part, 0) + getattr(row, what)
    return list(totals.values())


@cache
def _spaces() -> dict[str, AnySpace]:
    from search_space.family_spaces import RULE_SPACES, FamilySpace

    dssdn = Space("dssdn", per_block=False)
    spaces: tuple[AnySpace, ...] = (
        *(dssdn, Space("dssdn-blocks", per_block=True), Space("dssdn-wide", per_block=False, wide=True)),
        *(*RULE_SPACES, FamilySpace("all", (dssdn, *RULE_SPACES))),
    )
    return {space.name: space for space in spaces}


def get_space(name: str = "dssdn") -> AnySpace:
    """The space of this name.

    `dssdn` (one split ratio and operator a network), `dssdn-blocks` (one a block), `dssdn-wide` (one a network, and the options of the paper's
    relatives), one for each other family by its name, or `all` (the networks of dssdn and of every other family).

    Raises `UserError` when there is none.
    """
    if name not in _spaces():
        raise unknown("space", name, _spaces())
    return _spaces()[name]
