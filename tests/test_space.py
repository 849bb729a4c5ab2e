"""The spaces: counted by enumeration, drawn through one door, encoded back, and walked one choice at a time."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from search_space import NETWORKS, PRESETS, Architecture, count, get_space
from search_space.errors import UserError
from search_space.space import Space

DIGESTS = {"dssdn": "4c0385ddab13", "dssdn-blocks": "b738ed51339d", "dssdn-wide": "098c2da1bcdd"}
every_space = pytest.mark.parametrize("name", DIGESTS)


def draw(space, rng):
    return space.sample(lambda _, options: rng.choice(options))


# Small enough to enumerate.
TINY = Space("tiny", per_block=True, depths=(1, 2), stems=(8, 32), growths=(4, 24), split_ratios=(0.5, 1.0))
WIDE = replace(
    get_space("dssdn-wide"), depths=(2, 3), stems=(8,), growths=(4,), split_ratios=(0.5, 1.0), heads=(32, 64)
)


def test_size_is_the_number_of_architectures():
    space = get_space("dssdn")
    assert len(set(space)) == len(list(space)) == space.size == 13230


def test_size_of_a_space_of_blocks():
    assert len(set(TINY)) == len(list(TINY)) == TINY.size == 4 * (18 + 18**2)
    assert get_space("dssdn-blocks").size == 49 * sum(54**depth for depth in (2, 3, 4, 5, 6))


def test_size_of_a_wide_space():
    """By hand: operators with their options, blocks (cut in six ways or not, with or without attention, or plain), heads, pools, taps."""
    assert len(set(WIDE)) == len(list(WIDE)) == WIDE.size == (6 + 5 + 3 + 1) * ((6 + 1) * 2 + 1) * 2 * 2 * (1 + 3)


def test_the_ablations_are_in_the_wide_space_and_in_no_other():
    for name in ("dl-o", "dl-b-pooled"):
        get_space("dssdn-wide").encode(NETWORKS[name])
        with pytest.raises(UserError, match="outside the space 'dssdn'"):
            get_space("dssdn").encode(NETWORKS[name])
    with pytest.raises(UserError, match="first_pool is one of"):
        get_space("dssdn-wide").encode(NETWORKS["dl-b"])


@every_space
def test_digest_is_pinned(name):
    """A change here makes every earlier study one of another space: change the literal only when that is meant."""
    assert get_space(name).digest == DIGESTS[name]


def test_digest_follows_everything_that_defines_the_space():
    assert TINY.digest == replace(TINY).digest
    changes = (
        {"name": "small"},
        {"per_block": False},
        {"depths": (1, 2, 3)},
        {"split_ratios": (0.5, 0.75, 1.0)},
    )
    assert len({replace(TINY, **change).digest for change in ({}, *changes)}) == 5


@every_space
def test_encode_gives_back_the_choices_that_were_made(name):
    space, rng = get_space(name), np.random.default_rng(0)
    for _ in range(200):
        made = {}

        def choose(name, options, made=made):
            assert name not in made
            made[name] = rng.choice(options)
            return made[name]

        architecture = space.sample(choose)
        encoded = space.encode(architecture)
        assert encoded == made
        assert list(encoded) == list(made)
        assert all(type(option) in (int, float, str) for option in encoded.values())
        assert space.sample(lambda name, _, encoded=encoded: encoded[name]) == architecture


@every_space
def test_options_never_depend_on_other_choices_and_numbers_ascend(name):
    space, rng, seen = get_space(name), np.random.default_rng(0), {}

    def choose(name, options):
        assert seen.setdefault(name, options) == options == space.choices[name]
        return rng.choice(options)

    for _ in range(300):
        space.sample(choose)
    assert set(seen) == set(space.choices)
    for options in space.choices.values():
        assert len(set(map(type, options))) == 1
        assert isinstance(options[0], str) or list(options) == sorted(options)


@every_space
def test_what_means_nothing_is_not_asked(name):
    space, rng = get_space(name), np.random.default_rng(0)
    for _ in range(200):
        chosen = space.encode(draw(space, rng))
        for prefix in {n.removesuffix("operator") for n in chosen if n.endswith("operator")}:
            assert (f"{prefix}partial_ratio" in chosen) == (chosen[f"{prefix}operator"] == "spc")
            assert (f"{prefix}osc_mid" in chosen) == (chosen[f"{prefix}operator"] == "osc")
        if name == "dssdn-wide":
            assert ("groups" in chosen) == ("dilation" in chosen) == (chosen["operator"] == "sc")
            assert ("split_ratio" in chosen) == ("attention" in chosen) == (chosen["kind"] == "distillation")
            assert ("heavy" in chosen) == (chosen.get("split_ratio", 1) < 1)
            assert ("merge" in chosen) == (chosen.get("split_ratio") == 0.5)
            assert ("taps" in chosen) == (chosen["depth"] > 2)
        numbers = {n[1] for n in chosen if n[0] == "b"}
        assert numbers == ({str(n + 1) for n in range(chosen["depth"])} if name == "dssdn-blocks" else set())


@every_space
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_inside(name, preset):
    space = get_space(name)
    chosen = space.encode(PRESETS[preset])
    assert (chosen["depth"], chosen["stem"], chosen["growth"]) == (5, 28, 16)
    assert space.sample(lambda name, _: chosen[name]) == PRESETS[preset]


@pytest.mark.parametrize(
    ("notation", "message"),
    [
        ("dssdn_c28-44_r0.5_sc_h64", r"outside the space 'dssdn': depth is one of \[2, 3, 4, 5, 6\]; got 1"),
        ("dssdn_c28-44-61_r0.5_sc_h64", "nearest inside is dssdn_c28-44-60_r0.5_sc_h64"),
        ("dssdn_c28-44-60_r0.5_sc_h32", "nearest inside is"),
        ("dssdn_c28-44-60_r0.5_sc_h64_high", "nearest inside is"),
        ("dssdn_c28-44-60_r0.5-1_sc_h64", "nearest inside is"),
        ("dssdn_c28-44-60_r0.3_sc_h64", "split_ratio is one of"),
        ("dssdn_c28-44-60_r0.5_osc.m7_h64", "osc_mid is one of"),
    ],
)
def test_what_is_outside_is_said(notation, message):
    with pytest.raises(UserError, match=message):
        get_space("dssdn").encode(Architecture.parse(notation))


@every_space
def test_neighbours_differ_in_exactly_one_choice_and_are_mutual(name):
    space, rng = get_space(name), np.random.default_rng(0)
    for _ in range(10):
        architecture = draw(space, rng)
        here, neighbours = space.encode(architecture), space.neighbours(architecture)
        assert len(set(neighbours)) == len(neighbours) > 0
        for neighbour in neighbours:
            there = space.encode(neighbour)
            assert sum(here[name] != there[name] for name in here.keys() & there.keys()) == 1
        for neighbour in rng.choice(np.array(neighbours, dtype=object), 3):
            assert architecture in space.neighbours(neighbour)


def test_neighbours_reach_the_whole_space():
    reached, edge = set(), {next(iter(TINY))}
    while edge:
        reached |= edge
        edge = set(itertools.chain.from_iterable(map(TINY.neighbours, edge))) - reached
    assert len(reached) == TINY.size


@pytest.mark.parametrize("input", [(431, 256), (20, 3)])
@pytest.mark.parametrize(
    "space",
    [
        replace(get_space("dssdn"), stems=(8, 20, 32), growths=(0, 12, 24)),
        TINY,
        # A narrow first block costs most with another operator than the wide second one.
        replace(TINY, stems=(8,), growths=(24,)),
        replace(TINY, stems=(8,), growths=(24,), per_block=False),
        WIDE,
    ],
    ids=["dssdn", "blocks", "mixed-blocks", "mixed", "wide"],
)
def test_largest_is_the_maximum_of_the_whole_space(space, input):
    costs = [count(architecture, input, 50) for architecture in space]
    assert space.largest(input, 50) == (max(c.params for c in costs), max(c.macs for c in costs))


def test_nothing_drawn_exceeds_the_largest():
    space, rng = get_space("dssdn-blocks"), np.random.default_rng(0)
    params, macs = space.largest((216, 256), 10)
    costs = [count(draw(space, rng), (216, 256), 10) for _ in range(300)]
    assert max(c.params for c in costs) <= params
    assert max(c.macs for c in costs) <= macs


def test_a_pick_from_elsewhere_and_an_unknown_space_are_refused():
    with pytest.raises(UserError, match=r"depth is one of \[2, 3, 4, 5, 6\]; got 7"):
        get_space().sample(lambda _, options: 7)
    with pytest.raises(
        UserError,
        match=r"unknown space 'x'; known: \['all', 'bc-resnet', 'cp-mobile', 'cp-resnet', 'dssdn', 'dssdn-blocks', 'dssdn-wide', 'rep-mobile', 'tf-sepnet'\]",
    ):
        get_space("x")
