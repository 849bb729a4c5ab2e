"""The networks that have a description, by name: those of the paper, and of every other family.

Source: DSSDN (arXiv 2405.03567), Tables 1 and 2. Assumed: widths, head, OSC's mid channels and SPC's ratio, which the paper
does not give; these are one set for all networks that puts every printed count within 6 % (`tests/test_complexity.py`).
"""

from __future__ import annotations

from search_space.architecture import EXAMPLE, Architecture
from search_space.comparators import COMPARATORS
from search_space.errors import unknown
from search_space.families import Network, is_notation, parse
from search_space.mobile import mobile
from search_space.related import bc_resnet, cp_resnet, tf_sepnet

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


CP_MOBILE: dict[str, Network] = {
    "cp-mobile-s1": mobile("cpm", 8, 1.9, 2.0),
    "cp-mobile-s2": mobile("cpm", 16, 1.5, 1.8),
    "cp-mobile-s3": mobile("cpm", 24, 1.5, 1.9),
    "cp-mobile-s4": mobile("cpm", 32, 1.7, 1.9),
    "cp-mobile-126k": mobile("cpm", 32, 2.3, 3.0),
    "cp-mobile-2025": mobile("cpm", 32, 1.8, 2.1),
}
"""The four submissions of DCASE 2023, the default of its released code, and the student of a distillation system of DCASE 2025. What was
printed of them is in `comparators.PRINTED`."""

REP_MOBILE: dict[str, Network] = {"rep-mobile": mobile("repm", 32, 1.8, 2.3)}
"""The one network whose widths are released (DCASE 2025, Chang_HYU_task1); those of Rep-Mobile itself (DCASE 2024) nobody printed."""

RELATED: dict[str, Network] = {
    "cp-resnet": cp_resnet(),
    "bc-resnet": bc_resnet(40),
    "bc-resnet-80": bc_resnet(80),
    "tf-sepnet-64": tf_sepnet(64),
}
"""The teacher of CP-Mobile, BC-ResNet in the two widths of DCASE 2021 and later, and the TF-SepNet of DCASE 2024."""

DESCRIBED: dict[str, Network] = {**NETWORKS, **CP_MOBILE, **REP_MOBILE, **RELATED}
"""Every named network that has a notation."""


def check_network(network: str) -> None:
    """Raises `UserError` unless the text names a network that can be built: a described one, a comparator, or a notation."""
    if network not in COMPARATORS and network not in DESCRIBED and not is_notation(network):
        raise unknown("network", network, {*DESCRIBED, *COMPARATORS}, f"a notation such as {EXAMPLE}")
    if network not in COMPARATORS:
        resolve(network)


def resolve(network: str | Network) -> Network:
    """The description of a network's name, of a notation of any family, or itself.

    Raises `UserError` when the text is neither; when it looks like a notation, the error says what is wrong with it.
    """
    if not isinstance(network, str):
        return network
    if network in DESCRIBED:
        return DESCRIBED[network]
    if not is_notation(network):
        raise unknown("network", network, DESCRIBED, f"a notation such as {EXAMPLE}")
    return parse(network)


def recorded(network: str) -> str:
    """The text that a record keeps of a network's name or notation: a comparator's name, the notation of any other.

    Raises `UserError` when the text names no network.
    """
    return network if network in COMPARATORS else str(resolve(network))


def preset_name(network: Network) -> str | None:
    """The name of the described network that this one is, if any."""
    return next((name for name, other in DESCRIBED.items() if other == network), None)
