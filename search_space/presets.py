"""The networks of the paper by name.

Source: DSSDN (arXiv 2405.03567), Tables 1 and 2. Assumed: widths, head, OSC's mid channels and SPC's ratio, which the paper
does not give; these are one set for all networks that puts every printed count within 6 % (`tests/test_complexity.py`).
"""

from __future__ import annotations

from search_space.architecture import EXAMPLE, Architecture
from search_space.comparators import COMPARATORS
from search_space.errors import UserError

PRESETS: dict[str, Architecture] = {
    "dssdn-large": Architecture.parse("dssdn_c28-44-60-60-60-60_r0.5_sc_h64"),
    "dssdn-middle": Architecture.parse("dssdn_c28-44-60-60-60-60_r0.5_spc.p0.125_h64"),
    "dssdn-small": Architecture.parse("dssdn_c28-44-60-60-60-60_r0.5_osc.m6_h64"),
}
"""The three of Table 1, which every space holds: a study's first trials."""

NETWORKS: dict[str, Architecture] = {
    **PRESETS,
    "dl-o": Architecture.parse("dssdn_c28-44-60-60-60-60_r0.5_conv_h64"),
    "dl-b": Architecture.parse("dssdn_c28-44-60-60-60-60_r1_conv_h64_p1x1_plain"),
    "dl-b-pooled": Architecture.parse("dssdn_c28-44-60-60-60-60_r1_conv_h64_plain"),
}
"""These and the ablations of Table 2: dl-o without the operators, dl-b without the block and, as its printed MACs tell, without
down-sampling, which confounds the two; dl-b-pooled, not in the paper, keeps the pooling and is the fair comparison."""


def check_network(network: str) -> None:
    """Raises `UserError` unless the text names a network that can be built: the paper's, a comparator, or a notation."""
    if network not in COMPARATORS and network not in NETWORKS and not network.startswith("dssdn_"):
        known = sorted({*NETWORKS, *COMPARATORS})
        raise UserError(f"unknown network {network!r}; known: {known}, or a notation such as {EXAMPLE}")
    if network not in COMPARATORS:
        resolve(network)


def resolve(network: str | Architecture) -> Architecture:
    """The architecture of a network's name, of a notation, or itself.

    Raises `UserError` when the text is neither; when it looks like a notation, the error says what is wrong with it.
    """
    if isinstance(network, Architecture):
        return network
    if network in NETWORKS:
        return NETWORKS[network]
    if not network.startswith("dssdn_"):
        raise UserError(f"unknown network {network!r}; known: {sorted(NETWORKS)}, or a notation such as {EXAMPLE}")
    return Architecture.parse(network)


def preset_name(architecture: Architecture) -> str | None:
    """The name of the paper's network that this architecture is, if any."""
    return next((name for name, network in NETWORKS.items() if network == architecture), None)
