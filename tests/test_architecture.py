"""The notation: one string for one network, read back to the same, and every broken one explained."""

import dataclasses
import re

import numpy as np
import pytest

from search_space import NETWORKS, PRESETS, Architecture, Block, get_space, resolve
from search_space.errors import UserError
from search_space.operators import OPERATORS
from search_space.presets import preset_name

SC, OSC6 = ("sc", ()), ("osc", (("osc_mid", 6),))


@pytest.mark.parametrize("name", NETWORKS)
def test_network_round_trips_by_name_and_notation(name):
    architecture = resolve(name)
    assert Architecture.parse(str(architecture)) == architecture == resolve(str(architecture)) == resolve(architecture)
    assert preset_name(architecture) == name


@pytest.mark.parametrize(
    ("architecture", "notation"),
    [
        (Architecture(28, (Block(44, *SC), Block(60, *SC))), "dssdn_c28-44-60_r0.5_sc_h64"),
        (Architecture(8, (Block(12, *SC, 1.0),), head=32), "dssdn_c8-12_r1_sc_h32"),
        (
            Architecture(8, (Block(8, *OSC6, 0.375), Block(8, *OSC6, 0.375)), heavy="high"),
            "dssdn_c8-8-8_r0.375_osc.m6_h64_high",
        ),
        (
            Architecture(8, (Block(8, *SC, 0.5), Block(8, *OSC6, 1), Block(8, "spc", (("partial_ratio", 0.125),), 0.25))),
            "dssdn_c8-8-8-8_r0.5-1-0.25_sc-osc.m6-spc.p0.125_h64",
        ),
        (
            Architecture(8, (Block(8, "sc", (("dilation", 2), ("groups", 0))), Block(8, "sc", (("groups", 2),)))),
            "dssdn_c8-8-8_r0.5_sc.d2.g0-sc.g2_h64",
        ),
        (Architecture(8, (Block(8, *SC), Block(8, *SC)), merge="add", tapped=(1, 2)), "dssdn_c8-8-8_r0.5_sc_h64_add_t1-2"),
        (
            Architecture(8, (Block(8, *SC, pool=(1, 2)), Block(8, *SC, 1, pool=(2, 1))), "high", 16, "concat", eca=5),
            "dssdn_c8-8-8_r0.5-1_sc_h16_high_concat_p1x2-2x1_eca5",
        ),
        (Architecture(8, (Block(8, "conv", (), 1, (1, 1)),), kind="plain"), "dssdn_c8-8_r1_conv_h64_p1x1_plain"),
        (Architecture(8, (Block(8, *SC),), eca=0), "dssdn_c8-8_r0.5_sc_h64_eca0"),
    ],
)  # fmt: skip
def test_notation(architecture, notation):
    assert str(architecture) == notation
    assert Architecture.parse(notation) == architecture


def any_architecture(rng):
    """One with every option free, where they do not contradict each other."""
    pick = lambda *options: options[rng.integers(len(options))]  # noqa: E731
    depth, plain, merge = int(rng.integers(1, 7)), bool(rng.integers(2)), pick("splice", "add", "concat")
    merge = "splice" if plain else merge

    def block():
        ratio = 1.0 if plain else pick(0.25, 0.5, 1.0) if merge == "splice" else pick(0.5, 1.0)
        pools_mel = 2 if merge != "splice" and ratio < 1 else pick(1, 2)
        operator = pick(*OPERATORS)
        options = OPERATORS[operator].options()
        values = tuple((option.name, pick(*option.choices, option.high)) for option in options)
        return Block(int(rng.integers(2, 99)), operator, values, ratio, (pick(1, 2), pools_mel))

    taps = {int(number) for number in rng.integers(1, depth + 1, 2)} | {depth}
    free = {} if plain else {"heavy": pick("low", "high"), "eca": pick(None, 0, 1, 7)}
    return Architecture(
        9,
        tuple(block() for _ in range(depth)),
        head=32,
        merge=merge,
        tapped=pick((), tuple(sorted(taps))),
        kind="plain" if plain else pick("distillation", "chain"),
        **free,
    )


def test_every_combination_of_options_round_trips():
    rng = np.random.default_rng(0)
    drawn = [any_architecture(rng) for _ in range(500)]
    assert all(Architecture.parse(str(architecture)) == architecture for architecture in drawn)
    assert len(set(map(str, drawn))) == len(set(drawn)) > 400
    assert {block.operator for architecture in drawn for block in architecture.blocks} == set(OPERATORS)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", str(architecture)) for architecture in drawn)


def test_what_makes_no_difference_is_not_kept():
    for plain, longer in (
        ("dssdn_c8-9-12_r1_sc_h8", ["_high", "_add", "_concat", "_high_add", "_eca3", "_high_concat_eca3"]),
        ("dssdn_c8-127-12_r0.5-1_sc_h8_high_add", ["_eca3"]),
        ("dssdn_c8-128-511_r0.5_sc_h8", ["_eca5"]),
    ):
        network = Architecture.parse(plain)
        for end in longer:
            assert Architecture.parse(plain + end) == network
            assert str(Architecture.parse(plain + end)) == plain
            assert hash(Architecture.parse(plain + end)) == hash(network)
    for other in ("dssdn_c8-128-12_r0.5_sc_h8_eca3", "dssdn_c8-9-12_r0.5-1_sc_h8_high", "dssdn_c8-9_r0.5_sc_h8_add"):
        assert str(Architecture.parse(other)) == other


def test_what_is_default_is_not_written():
    default = Architecture.parse("dssdn_c8-8-8_r0.5_sc_h64")
    for longer in ("sc.d1_h64", "sc.d1.g1_h64", "sc_h64_p2x2", "sc_h64_t2", "sc_h64_p2x2-2x2_t2"):
        assert Architecture.parse(f"dssdn_c8-8-8_r0.5_{longer}") == default
    assert str(default) == "dssdn_c8-8-8_r0.5_sc_h64"


@pytest.mark.parametrize("name", ["dssdn", "dssdn-blocks", "dssdn-wide"])
def test_sampled_architectures_round_trip_in_safe_characters(name):
    rng = np.random.default_rng(0)
    for _ in range(200):
        architecture = get_space(name).sample(lambda _, options: rng.choice(options))
        assert Architecture.parse(str(architecture)) == architecture
        assert re.fullmatch(r"[A-Za-z0-9._-]+", str(architecture))


def test_values_written_once_or_once_a_block_are_the_same_network():
    assert Architecture.parse("dssdn_c8-8-8_r0.50-0.5_sc-sc_h64") == Architecture.parse("dssdn_c8-8-8_r0.5_sc_h64")


def test_architecture_is_frozen_and_hashable():
    architecture = PRESETS["dssdn-large"]
    assert len({architecture, Architecture.parse(str(architecture))}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        architecture.stem = 3


def test_the_head_taps_all_blocks_but_the_first_or_the_only_one():
    assert Architecture.parse("dssdn_c8-12-16_r0.5_sc_h64").taps == (Block(16, *SC),)
    assert Architecture.parse("dssdn_c8-12_r0.5_sc_h64").taps == (Block(12, *SC),)


def test_or_the_blocks_it_is_told_to():
    architecture = Architecture.parse("dssdn_c8-12-16-20_r0.5_sc_h64_t1-3")
    assert architecture.taps == (Block(12, *SC), Block(20, *SC))


def test_lists_are_taken_as_tuples():
    listed = Architecture(8, [Block(8, "osc", [["osc_mid", 6]], 0.5, [2, 1]), Block(8, "sc", [])], tapped=[1, 2])
    assert (
        listed == Architecture.parse(str(listed)) == Architecture.parse("dssdn_c8-8-8_r0.5_osc.m6-sc_h64_p2x1-2x2_t1-2")
    )
    assert len({listed, Architecture.parse(str(listed))}) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split_ratio": True}, "a split ratio is the fraction of mel bins.*got True; try 0.5"),
        ({"split_ratio": "0.5"}, "a split ratio is the fraction of mel bins.*got '0.5'; try 0.5"),
        ({"split_ratio": None}, "a split ratio is"),
        ({"split_ratio": float("nan")}, "a split ratio is.*got nan"),
        ({"pool": (2.0, 1.0)}, r"divides frames and mels by 1 or 2 each; got 2\.0x1\.0; try 2x2"),
        ({"pool": (2, True)}, "divides frames and mels by 1 or 2 each; got 2xTrue"),
        ({"pool": 2}, "divides frames and mels by 1 or 2 each; got 2; try 2x2"),
        ({"pool": "2x2"}, "divides frames and mels by 1 or 2 each"),
        ({"options": (("dilation", True),)}, "dilation is a whole number; got True"),
        ({"options": ("dilation",)}, r"options are \(name, value\) pairs; got"),
        ({"options": 3}, r"options are \(name, value\) pairs; got"),
        ({"operator": ["sc"]}, r"unknown operator \['sc'\]"),
        ({"out_channels": True}, "a whole number; got True"),
    ],
)
def test_a_block_of_another_type_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        Block(**{"out_channels": 8, "operator": "sc", **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eca": True}, "an odd number from 1 to 63, or 0 for none; got True; try 3"),
        ({"eca": False}, "an odd number.*got False"),
        ({"eca": 3.0}, r"an odd number.*got 3\.0; try 3"),
        ({"eca": "3"}, "an odd number.*got '3'; try 3"),
        ({"tapped": (1.0, 2.0)}, r"each once, ascending.*got \[1\.0, 2\.0\] of 2 blocks; try \[1, 2\]"),
        ({"tapped": (True, 2)}, "each once, ascending"),
        ({"tapped": "12"}, "each once, ascending"),
        ({"stem": 8.0}, "the stem has 2 to 4096 channels, a whole number; got 8.0"),
        ({"blocks": ("sc", "sc")}, "blocks are a sequence of Block; got"),
        ({"heavy": ["low"]}, "unknown heavy half"),
    ],
)
def test_an_architecture_of_another_type_is_refused(changes, message):
    values = {"stem": 8, "blocks": (Block(8, "sc"), Block(8, "sc")), **changes}
    with pytest.raises(UserError, match=message):
        Architecture(**values)


@pytest.mark.parametrize(
    "text",
    [
        "dssdn_c28-{}_r0.5_sc_h64",
        "dssdn_c28-44_r0.5_sc_h{}",
        "dssdn_c28-44_r0.5_osc.m{}_h64",
        "dssdn_c28-44_r{}_sc_h64",
        "dssdn_c28-44_r0.5_sc_h64_eca{}",
        "dssdn_c28-44_r0.5_sc_h64_t{}",
    ],
)
def test_numbers_of_thousands_of_digits_are_refused_in_a_few_words(text):
    with pytest.raises(UserError, match=r"at most 20 digits; got one of 5,000 in 'dssdn_c28") as told:
        resolve(text.format("4" * 5000))
    assert len(str(told.value)) < 500
    with pytest.raises(UserError, match="is not the notation") as told:
        resolve(text.format("4" * 5000) + "_mean")
    assert len(str(told.value)) < 500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet", "unknown network 'resnet'; .*known:.*dssdn-large.*notation such as dssdn_c28"),
        ("dssdn_c28_sc", "not the notation of an architecture; it looks like dssdn_c28"),
        ("dssdn_c28_r0.5_sc_h64", "at least one block; got none"),
        ("dssdn_c28-44_r0.5_xx_h64", re.escape(f"unknown operator 'xx'; known: {sorted(OPERATORS)}")),
        ("dssdn_c28-44_r0.5_sc.m6_h64", "unknown option of 'sc' 'm'"),
        ("dssdn_c28-44_r0.5_osc_h64", r"takes the options \['osc_mid'\]; got \[\]"),
        ("dssdn_c28-44_r0.5_osc.m6.m8_h64", r"takes the options \['osc_mid'\]"),
        ("dssdn_c28-44_r0.5_osc.m0.5_h64", "osc_mid is written like m4; got 'm0.5'"),
        ("dssdn_c28-44_r0.5_osc.m0_h64", "osc_mid is from 1 to 1024; got 0; try 4"),
        ("dssdn_c28-44_r0.5_spc.p2_h64", "partial_ratio is from 0.001 to 1.0; got 2.0; try 0.125"),
        ("dssdn_c28-44_r1.5_sc_h64", "0.01 to 1; got 1.5; try 0.5"),
        ("dssdn_c28-44_r0.5.5_sc_h64", "a split ratio is a number such as 0.5; got '0.5.5'"),
        ("dssdn_c28-44_r0.5-0.5_sc_h64", "split ratios are given once or once a block; got 2 for 1 blocks"),
        ("dssdn_c28-1_r0.5_sc_h64", "a block's output has 2 to 4096 channels, a whole number; got 1; try 28"),
        ("dssdn_c28-44_r0.5_sc_h0", "the head has 2 to 4096"),
        ("dssdn_c28-44_r0.5_sc.d9_h64", "dilation is from 1 to 8; got 9; try 1"),
        ("dssdn_c28-44_r0.5_sc_h64_p3x2", "divides frames and mels by 1 or 2 each; got 3x2; try 2x2"),
        ("dssdn_c28-44-44_r0.5_sc_h64_p2x2-2x1-2x2", "poolings are given once or once a block; got 3 for 2 blocks"),
        ("dssdn_c28-44-44_r0.5_sc_h64_t1", r"the last one among them.*got \[1\] of 2 blocks; try \[1, 2\]"),
        ("dssdn_c28-44-44_r0.5_sc_h64_t2-1-2", "each once, ascending"),
        ("dssdn_c28-44_r0.5_sc_h64_eca4", "an odd number from 1 to 63, or 0 for none; got 4; try 3"),
        ("dssdn_c28-44_r0.25_sc_h64_add", "merge 'add' lays two equal parts.*got ratio 0.25 and pool 2x2"),
        ("dssdn_c28-44_r0.5_sc_h64_concat_p2x1", "merge 'concat' lays.*got ratio 0.5 and pool 2x1"),
        ("dssdn_c28-44_r0.5_sc_h64_plain", "a plain block is not cut.*got dssdn_c28-44_r0.5_sc_h64_plain; write e.g."),
        ("dssdn_c28-44_r1_sc_h64_eca0_plain", "has no attention"),
        ("dssdn_c28-44_r0.5_sc_h64_mean", "not the notation"),
    ],
)
def test_what_is_wrong_is_said(text, message):
    with pytest.raises(UserError, match=message):
        resolve(text)


def test_an_unknown_half_and_a_wrong_type_are_refused():
    with pytest.raises(UserError, match="unknown heavy half 'middle'"):
        Architecture(8, (Block(8, *SC),), heavy="middle")
    with pytest.raises(UserError, match="unknown merge 'mean'"):
        Architecture(8, (Block(8, *SC),), merge="mean")
    with pytest.raises(UserError, match="unknown kind of block 'dense'"):
        Architecture(8, (Block(8, *SC),), kind="dense")
    with pytest.raises(UserError, match=r"osc_mid is a whole number; got 6\.0"):
        Block(8, "osc", (("osc_mid", 6.0),))
