"""What others have printed of networks on a study's own data: marks beside its front, never beside that of other data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from search_space.comparators import COMPARATORS, PRINTED, TAU_2020, TAU_2022
from search_space.tables import DSSDN
from trainers.tau import EDITIONS, OLDER_2020

_EDITIONS = {"tau2020": TAU_2020, "tau2022": TAU_2022}


class Mark(NamedTuple):
    """A printed network: its accuracy on the official test fold (0 to 1), and params and MACs as its authors counted."""

    name: str
    val_accuracy: float
    params: int
    macs: int


def published_on(data: Mapping[str, Any]) -> list[Mark]:
    """The networks printed for the data of a study (`info["data"]`): those of the official set itself, by name and number of test clips; none
    for any other data, for what is simulated or synthetic, and for networks without all three numbers."""
    for name, title in _EDITIONS.items():
        tests = {EDITIONS[name].test, *([OLDER_2020.test] if name == "tau2020" else [])}
        if data["name"] == name and not data["synthetic"] and data["counts"].get("test") in tests:
            known = {
                **{key: printed for key, (printed, _) in DSSDN.items()},
                **{key: comparator.published for key, comparator in COMPARATORS.items()},
                **{key: printed.published for key, printed in PRINTED.items()},
            }
            return [
                Mark(key, printed.accuracy / 100, printed.params, printed.macs)
                for key, printed in known.items()
                if printed.dataset == title and printed.accuracy and printed.params and printed.macs
            ]
    return []
