"""Numbers rounded for people: halves go away from zero, as at school and in a browser's tables, not to the even digit as Python has it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_NUDGE = 1e-9
"""So far (of what is rounded) past a half counts as the half: what floats make of 91.25 is 91.2499999999 at times."""


def rounded(numbers: Any, decimals: int = 1) -> Any:
    """Numbers, an array or a series of them, to so many decimals, halves away from zero."""
    return np.round(numbers + np.copysign(_NUDGE, numbers), decimals)


def per_cent(share: float, decimals: int = 1) -> str:
    """A share (0 to 1) for people: 88.2 %."""
    return f"{100 * share + math.copysign(_NUDGE, share):.{decimals}f} %"
