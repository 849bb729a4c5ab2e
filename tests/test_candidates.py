"""What a study's networks may cost: shares of caps and of a challenge's limits, and what is said where nothing meets them."""

from __future__ import annotations

import random

import pytest

from search_space.complexity import count
from search_space.errors import UserError
from search_space.limits import LIMITS, Limits
from search_space.presets import PRESETS
from search_space.space import get_space
from studies.candidates import Caps

DCASE = LIMITS["dcase2024"]
LARGE = PRESETS["dssdn-large"]


class TestUsage:
    def test_is_the_share_of_each_cap_asked_for(self) -> None:
        cost = count(LARGE, (431, 256), 10)
        assert Caps((431, 256), 10).usage(LARGE) == {}
        assert Caps((431, 256), 10, params=50_000).usage(LARGE) == {"params": cost.params / 50_000}
        assert Caps((431, 256), 10, macs=10**9).usage(LARGE) == {"macs": cost.macs / 10**9}

    @pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float16", 2), ("int8", 1)])
    def test_limits_count_for_their_seconds_by_their_rules(self, dtype: str, size: int) -> None:
        official = count(LARGE, (44, 256), 10)
        caps = Caps((431, 256), 10, macs=10**9, limits=DCASE._replace(dtype=dtype), limits_input=(44, 256))
        assert caps.usage(LARGE) == {
            "macs": count(LARGE, (431, 256), 10).macs / 10**9,
            "limits_param_bytes": size * official.params / 128_000,
            "limits_macs": official.macs_by["dcase"] / 30_000_000,
        }

    def test_a_known_cost_changes_nothing(self) -> None:
        caps = Caps((431, 256), 10, 50_000, 10**9, DCASE, (44, 256))
        assert caps.usage(LARGE, count(LARGE, (431, 256), 10)) == caps.usage(LARGE)

    def test_a_cap_may_be_reached_and_not_passed(self) -> None:
        params = count(LARGE, (44, 256), 3).params
        assert Caps((44, 256), 3, params=params).admits(LARGE)
        assert not Caps((44, 256), 3, params=params - 1).admits(LARGE)
        bytes_ = DCASE._replace(param_bytes=2 * params, macs=10**12)
        assert Caps((44, 256), 3, limits=bytes_, limits_input=(44, 256)).admits(LARGE)
        assert not Caps((44, 256), 3, params=params - 1, limits=bytes_, limits_input=(44, 256)).admits(LARGE)


class TestCheck:
    @pytest.mark.parametrize(
        ("caps", "words"),
        [
            (Caps((44, 256), 3, params=100), "--max-params 100: the least is 1,691"),
            (Caps((44, 256), 3, macs=1_000_000), "--max-macs 1,000,000: the least is 2,687,920"),
            (
                Caps((44, 256), 3, params=100, macs=10**9),
                "--max-params 100: the least is 1,691; --max-macs 1,000,000,000: the least is 2,687,920",
            ),
            (
                Caps((431, 256), 3, limits=Limits(1_000, 30_000_000), limits_input=(44, 256)),
                "1,000 bytes of float16 params: the least is 3,382; 30,000,000 MACs for 1 s (dcase counting): "
                "the least is 2,828,915",
            ),
            (
                Caps((431, 256), 3, limits=Limits(1_000, 9, dtype="int8", seconds=2.5), limits_input=(44, 256)),
                "1,000 bytes of int8 params: the least is 1,691; 9 MACs for 2.5 s (dcase counting): the least is 2,828,915",
            ),
        ],
    )
    def test_caps_that_nothing_meets_are_named_with_the_least(self, caps: Caps, words: str) -> None:
        with pytest.raises(UserError) as told:
            caps.check(get_space("dssdn"))
        frames, mels = caps.input
        assert (
            str(told.value)
            == f"no network of space 'dssdn' is within the caps at {frames}x{mels} ({words}); raise them"
        )

    @pytest.mark.parametrize("space", ["dssdn", "dssdn-blocks", "dssdn-wide"])
    def test_what_something_meets_passes(self, space: str) -> None:
        Caps((431, 256), 10, 10_000, 10**9, DCASE, (44, 256)).check(get_space(space))

    @pytest.mark.parametrize("space", ["dssdn", "dssdn-blocks", "dssdn-wide"])
    def test_no_network_is_below_the_least(self, space: str) -> None:
        """By every one of the countings, among networks drawn at random."""
        found, rng = get_space(space), random.Random(0)
        caps = Caps((87, 256), 10, 1, 1, Limits(1, 1), (44, 256))
        cheapest = [caps.usage(architecture) for architecture in found.cheapest()]
        for _ in range(100):
            drawn = caps.usage(found.sample(lambda _, options: rng.choice(options)))
            assert all(min(of[key] for of in cheapest) <= share for key, share in drawn.items())
