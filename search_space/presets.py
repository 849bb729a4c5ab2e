"""The published networks by name.

Source: DSSDN (arXiv 2405.03567), Table 1. Assumed: widths, head, OSC's mid channels and SPC's ratio, which the paper does
not give; these are one set for all three networks that puts every printed count within 6 % (`tests/test_complexity.py`).
"""

from __future__ import annotations

from search_space.architecture import EXAMPLE, Architecture
from search_space.errors import UserError

PRESETS: dict[str, Architecture] = {
    "dssdn-large": Architecture.parse("dssdn_c28-44-60-60-60-60_r0.5_sc_h64"),
    "dssdn-middle": Architecture.parse("dssdn_c28-44-60-60-60-60_r0.5_spc.p0.125_h64"),
    "dssdn-small": Architecture.parse("dssdn_c28-44-60-60-60-60_r0.5_osc.m6_h64"),
}


def resolve(network: str | Architecture) -> Architecture:
    """The architecture of a preset's name, of a notation, or itself.

    Raises `UserError` when the text is neither; when it looks like a notation, the error says what is wrong with it.
    """
    if isinstance(network, Architecture):
        return network
    if network in PRESETS:
        return PRESETS[network]
    if not network.startswith("dssdn_"):
        raise UserError(f"unknown network {network!r}; known: {sorted(PRESETS)}, or a notation such as {EXAMPLE}")
    return Architecture.parse(network)


def preset_name(architecture: Architecture) -> str | None:
    """The preset this architecture is, if any."""
    return next((name for name, preset in PRESETS.items() if preset == architecture), None)
