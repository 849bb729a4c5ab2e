"""The trained networks of a study that are most like one of them: what differs, and how they did. Pure, on the frame of trials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from search_space.space import AnySpace


def nearest(trials: pd.DataFrame, trial: int, space: AnySpace, n: int = 8) -> pd.DataFrame:
    """The `n` trained networks with the fewest choices unlike those of `trial`: `trial`, `changes`, `what` (stem 28 → 32), `difference`
    in val accuracy (0 to 1), `val_accuracy`, `params`, `macs`; the fewest changes first, of equally many the most accurate.

    A choice that only means something for one of the two is no change of its own: it came with another one. Networks of another `family` share
    hardly a choice, so they are no neighbours where the space has families. Empty where the trials
    lack the choices of the space, which has changed since then.
    """
    columns = ["trial", "changes", "what", "difference", "val_accuracy", "params", "macs"]
    names = [name for name in space.choices if name in trials]
    complete = trials[trials["state"] == "complete"]
    own = complete[complete["trial"] == trial]
    if not names or own.empty:
        return pd.DataFrame(columns=columns)
    base = own.iloc[0]
    others = complete[complete["trial"] != trial]
    if "family" in names:
        others = others[others["family"] == base["family"]]
    changed_NC = np.column_stack(
        [(others[name] != base[name]) & others[name].notna() & pd.notna(base[name]) for name in names]
    )
    found = others.assign(
        changes=changed_NC.sum(axis=1),
        difference=others["val_accuracy"].astype(float) - float(base["val_accuracy"]),
    )
    found = found[found["changes"] > 0].sort_values(["changes", "val_accuracy"], ascending=[True, False]).head(n)
    what = [_what(base.to_dict(), row, names) for row in found.to_dict("records")]
    return found.assign(what=what)[columns].reset_index(drop=True)


def _what(base: Mapping[Any, Any], other: Mapping[Any, Any], names: list[str]) -> str:
    """The choices that differ, in the space's words."""
    return ", ".join(
        f"{name.replace('_', ' ')} {_word(base[name])} → {_word(other[name])}"
        for name in names
        if pd.notna(base[name]) and pd.notna(other[name]) and base[name] != other[name]
    )


def _word(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"
