"""The nearest trained networks: by the choices that differ, on a frame made by hand."""

from __future__ import annotations

import pandas as pd

from search_space.space import get_space
from studies.neighbours import nearest

SPACE = get_space("dssdn")
BASE = {
    "depth": 3,
    "stem": 16,
    "growth": 8,
    "split_ratio": 0.5,
    "operator": "sc",
    "osc_mid": None,
    "partial_ratio": None,
}


def frame(*changes: dict[str, object]) -> pd.DataFrame:
    rows = [
        {"trial": i, "state": "complete", "val_accuracy": 0.5 + 0.01 * i, "params": 10, "macs": 20, **BASE, **change}
        for i, change in enumerate(({}, *changes))
    ]
    return pd.DataFrame(rows)


def test_fewest_changes_come_first_then_the_most_accurate():
    trials = frame({"stem": 12}, {"stem": 12, "depth": 4}, {"stem": 20})
    found = nearest(trials, 0, SPACE)
    assert found["trial"].tolist() == [3, 1, 2]
    assert found["what"].tolist() == ["stem 16 → 20", "stem 16 → 12", "depth 3 → 4, stem 16 → 12"]
    assert found["difference"].round(6).tolist() == [0.03, 0.01, 0.02]


def test_a_choice_that_came_with_another_is_no_change_of_its_own():
    found = nearest(frame({"operator": "osc", "osc_mid": 6.0}), 0, SPACE)
    assert found[["changes", "what"]].to_numpy().tolist() == [[1, "operator sc → osc"]]


def test_another_family_is_no_neighbour():
    """Its own choices are empty here and these are empty there, so that it would differ in `family` alone."""
    space = get_space("all")
    rows = [("cp-mobile", {"cpm_base": 16}), ("rep-mobile", {"repm_base": 16}), ("cp-mobile", {"cpm_base": 24})]
    of_all = {"state": "complete", "val_accuracy": 0.5, "params": 10, "macs": 20, **dict.fromkeys(space.choices)}
    trials = pd.DataFrame(
        [{"trial": i, **of_all, "family": family, **choices} for i, (family, choices) in enumerate(rows)]
    )
    found = nearest(trials, 0, space)
    assert found[["trial", "what"]].to_numpy().tolist() == [[2, "cpm base 16 → 24"]]


def test_only_trained_networks_count():
    assert nearest(frame({"stem": 12, "state": "stopped"}), 0, SPACE).empty
    assert nearest(frame({"stem": 12}).query("trial > 0"), 0, SPACE).empty


def test_a_space_that_has_changed_since_has_no_neighbours():
    assert nearest(frame({"stem": 12}).drop(columns=list(BASE)), 0, SPACE).empty


def test_no_more_than_asked_for_are_given():
    assert len(nearest(frame(*({"stem": width} for width in (8, 12, 20, 24))), 0, SPACE, n=2)) == 2
