"""The notation: one string for one network, read back to the same, and every broken one explained."""

import dataclasses
import re

import numpy as np
import pytest

from search_space import PRESETS, Architecture, Block, get_space, resolve
from search_space.errors import UserError
from search_space.presets import preset_name

SC, OSC6 = ("sc", ()), ("osc", (("osc_mid", 6),))


@pytest.mark.parametrize("name", PRESETS)
def test_preset_round_trips_by_name_and_notation(name):
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
    ],
)  # fmt: skip
def test_notation(architecture, notation):
    assert str(architecture) == notation
    assert Architecture.parse(notation) == architecture


@pytest.mark.parametrize("name", ["dssdn", "dssdn-blocks"])
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet", "unknown network 'resnet'; known:.*dssdn-large.*notation such as dssdn_c28"),
        ("dssdn_c28_sc", "not the notation of an architecture; it looks like dssdn_c28"),
        ("dssdn_c28_r0.5_sc_h64", "at least one block; got none"),
        ("dssdn_c28-44_r0.5_xx_h64", r"unknown operator 'xx'; known: \['osc', 'sc', 'spc'\]"),
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
    ],
)
def test_what_is_wrong_is_said(text, message):
    with pytest.raises(UserError, match=message):
        resolve(text)


def test_an_unknown_half_and_a_wrong_type_are_refused():
    with pytest.raises(UserError, match="unknown heavy half 'middle'"):
        Architecture(8, (Block(8, *SC),), heavy="middle")
    with pytest.raises(UserError, match=r"osc_mid is a whole number; got 6\.0"):
        Block(8, "osc", (("osc_mid", 6.0),))
