"""The limits of a challenge: what a network may weigh and compute, counted as its rules say."""

from __future__ import annotations

from typing import NamedTuple

from search_space.complexity import Cost
from search_space.errors import unknown


class Limits(NamedTuple):
    """The most bytes of params, kept as `dtype`, and the most MACs by `convention` for `seconds` of audio.

    So the cost to compare is one counted at the frames of that much audio, whatever the clips' length. Their number is the
    front end's: a centred STFT gives one more than whole hops fit (65 for 1 s at 32 kHz with hop 500, else 64), and MACs
    follow it. Feature extraction is not counted. `limits._replace(dtype="int8")` asks for another precision.
    """

    param_bytes: int
    macs: int
    convention: str = "dcase"
    dtype: str = "float16"
    seconds: float = 1.0


LIMITS = {"dcase2024": Limits(param_bytes=128_000, macs=30_000_000)}
"""By name. Source: DCASE 2024 challenge, task 1: 128 kB, the params' own type counted, and 30 MMACs for 1 s, by torchinfo.
Assumed: float16, as its baseline and most entries."""


def get_limits(name: str) -> Limits:
    """The limits of this name.

    Raises `UserError` when there are none.
    """
    if name not in LIMITS:
        raise unknown("limits", name, LIMITS)
    return LIMITS[name]


def usage(cost: Cost, limits: Limits) -> dict[str, float]:
    """The share that a network uses of each limit, `param_bytes` and `macs`; more than 1 is too much."""
    return {
        "param_bytes": cost.param_bytes(limits.dtype) / limits.param_bytes,
        "macs": cost.macs_by[limits.convention] / limits.macs,
    }
