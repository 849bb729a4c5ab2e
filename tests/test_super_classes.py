"""Super-classes: known for TAU's scenes and ESC-50's sounds, else a person's own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from search_space.errors import UserError
from trainers.super_classes import ESC_50, TAU, super_classes
from trainers.synthetic import SCENES


def test_the_ten_scenes_are_dsmns() -> None:
    names, of = super_classes(sorted(SCENES))
    assert names == ("indoor", "outdoor", "transport")
    assert Counter(names[k] for k in of) == {"indoor": 3, "outdoor": 4, "transport": 3}
    assert names[of[sorted(SCENES).index("metro_station")]] == "indoor"
    assert names[of[sorted(SCENES).index("metro")]] == "transport"
    assert {scene for scenes in TAU.values() for scene in scenes} == set(SCENES)


def test_esc_50_has_five_categories_of_ten() -> None:
    classes = sorted(name for names in ESC_50.values() for name in names)
    names, of = super_classes(classes)
    assert len(set(classes)) == 50
    assert set(Counter(of).values()) == {10}
    assert len(names) == 5


def test_a_part_of_known_classes_has_those_it_needs() -> None:
    assert super_classes(["bus", "park"]) == (("outdoor", "transport"), (1, 0))


class TestRefused:
    def test_unknown_classes(self) -> None:
        with pytest.raises(
            UserError, match=r"no super-class for 3 of the 3 classes \(high, low, noise\).*--super-classes"
        ):
            super_classes(["high", "low", "noise"])

    def test_classes_of_one_kind(self) -> None:
        with pytest.raises(UserError, match="one super-class, 'transport'"):
            super_classes(["bus", "tram"])

    def test_a_csv_that_leaves_one_out(self, tmp_path: Path) -> None:
        path = tmp_path / "own.csv"
        path.write_text("label,super_class\nhigh,tone\nlow,tone\n")
        with pytest.raises(UserError, match="no super-class for 1 of the 3 classes"):
            super_classes(["high", "low", "noise"], str(path))


def test_a_csv_names_a_persons_own(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("label,super_class\nhigh,tone\nlow,tone\nnoise,noise\n")
    assert super_classes(["high", "low", "noise"], str(path)) == (("noise", "tone"), (1, 1, 0))
