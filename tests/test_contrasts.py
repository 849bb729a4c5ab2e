"""What is said of a base's and its variants' runs: effects told from noise, points from per cent, in every form."""

from __future__ import annotations

import csv
import math
from typing import Any

import numpy as np
import pytest

from studies import contrasts
from studies.contrasts import Arm, build_effects, build_rows
from studies.differences import bootstrap_interval, paired, seeds_for

RNG = np.random.default_rng(0)
BASE_VAL = (0.6 + 0.02 * RNG.standard_normal(12)).tolist()


def arm(name: str, val: list[float], **more: Any) -> Arm:
    changes = () if name == "base" else ((name, "on", "off"),)
    fields: dict[str, Any] = {
        "facts": {"network": f"net_{name}", "recipe": "short"},
        "params": 1000,
        "macs": 5_000_000,
        "test": [],
    }
    return Arm(variant=name, changes=changes, val=val, **{**fields, **more})


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """One variant that is surely worse, one that is the base with noise, 12 runs each."""
    worse = [accuracy - 0.10 + 0.01 * noise for accuracy, noise in zip(BASE_VAL, RNG.standard_normal(12), strict=True)]
    same = [accuracy + 0.03 * noise for accuracy, noise in zip(BASE_VAL, [1, -1] * 6, strict=True)]
    seen = [{"accuracy": 0.5, "seen": 0.6, "unseen": 0.4}] * 12
    others = [arm("path", worse, params=800, macs=4_000_000, test=seen), arm("eca", same, test=seen)]
    return build_rows(arm("base", BASE_VAL, test=seen), others)


class TestRows:
    def test_effect_and_noise_are_told_apart(self, rows: list[dict[str, Any]]) -> None:
        base, worse, same = rows
        assert (base["verdict"], worse["verdict"], same["verdict"]) == (None, "worse", "inside the noise")
        assert worse["difference_points"]["mean"] == pytest.approx(-10, abs=1)
        assert same["difference_points"]["p_holm"] == pytest.approx(1)

    def test_points_are_not_the_relative_change(self, rows: list[dict[str, Any]]) -> None:
        """The paper's 15.97 % is 10.57 points of 66.20."""
        base, worse, _ = rows
        assert worse["relative"] == pytest.approx(worse["val_mean"] / base["val_mean"] - 1)
        of_paper = build_rows(arm("base", [0.6620]), [arm("dl-o", [0.5563])])[1]
        assert of_paper["difference_points"]["mean"] == pytest.approx(-10.57)
        assert 100 * of_paper["relative"] == pytest.approx(-15.97, abs=0.005)

    def test_a_bootstrap_stands_beside_ten_differences_on_one_split(self, rows: list[dict[str, Any]]) -> None:
        points = 100 * (np.array(rows[1]["val"]) - np.array(BASE_VAL))
        assert rows[1]["difference_points"]["bootstrap"] == bootstrap_interval(points)
        few = build_rows(arm("base", BASE_VAL[:5]), [arm("path", rows[1]["val"][:5])])[1]
        assert few["difference_points"]["bootstrap"] is None
        folds = build_rows(arm("base", BASE_VAL), [arm("path", rows[1]["val"])], overlap=0.3)[1]
        assert folds["difference_points"]["bootstrap"] is None
        assert folds["difference_points"]["low"] == pytest.approx(paired(points, 0.3).low)

    def test_one_run_says_nothing_of_noise(self) -> None:
        base, row = build_rows(arm("base", [0.5]), [arm("path", [0.4])])
        assert row["verdict"] == "one run"
        assert (row["difference_points"]["low"], row["difference_points"]["p_holm"]) == (None, None)
        assert base["val_std"] is None
        assert "No noise was measured" in contrasts.say_noise(contrasts.noise([row]))

    def test_better_takes_a_small_p_as_well(self) -> None:
        row = build_rows(arm("base", [0.5, 0.51, 0.52]), [arm("path", [0.6, 0.611, 0.619])])[1]
        assert row["verdict"] == "better"


def test_noise_is_pooled_over_the_variants(rows: list[dict[str, Any]]) -> None:
    found = contrasts.noise(rows)
    deviations = [row["difference_points"]["std"] for row in rows[1:]]
    assert found["pooled_std_points"] == pytest.approx(math.sqrt(np.mean(np.square(deviations))))
    tests = len(rows) - 1
    assert found["seeds_alone"] == seeds_for(1.0, found["pooled_std_points"])
    assert found["seeds_after_holm"] == seeds_for(1.0, found["pooled_std_points"], alpha=0.05 / tests)
    assert found["seeds_after_holm"] > found["seeds_alone"]
    said = contrasts.say_noise(found)
    assert f"an effect of 1 point would need {found['seeds_alone']:,} seeds in one test alone" in said
    assert f"and {found['seeds_after_holm']:,} as the clearest of these {tests} after Holm" in said
    large = contrasts.noise(rows, effect=5.0)
    assert large["seeds_alone"] < found["seeds_alone"]
    assert "an effect of 5 points would need" in contrasts.say_noise(large)
    folds = contrasts.noise(rows, several_folds=True)
    assert folds["seeds_alone"] is None
    assert "more seeds do not make them independent" in contrasts.say_noise(folds)


def test_equal_differences_are_no_verdict() -> None:
    """Two runs that differ by the same number of clips say nothing of the noise, whatever floats leave of it."""
    alike, shifted = build_rows(arm("base", [0.5, 0.525]), [arm("a", [0.5, 0.525]), arm("b", [0.4875, 0.5125])])[1:]
    assert (alike["verdict"], shifted["verdict"]) == ("no noise measured", "no noise measured")
    assert shifted["difference_points"]["p_holm"] is None
    assert contrasts.noise([alike, shifted])["pooled_std_points"] is None


def test_effects_of_a_factorial_have_their_noise() -> None:
    rng = np.random.default_rng(1)
    cells = {
        (a, b): (0.5 - 0.1 * (a == "off") + 0.002 * rng.standard_normal(6)).tolist()
        for a in ("on", "off")
        for b in ("x", "y")
    }
    found = {row["effect"]: row for row in build_effects(cells, {"path": ("on", "off"), "kind": ("x", "y")})}
    assert set(found) == {"path=off", "kind=y", "path=off x kind=y"}
    assert found["path=off"]["difference_points"]["mean"] == pytest.approx(-10, abs=0.5)
    assert (found["path=off"]["verdict"], found["kind=y"]["verdict"]) == ("worse", "inside the noise")


class TestForms:
    TITLE, NOTES = "esc: 5 % & more", ["p is after Holm_1979."]

    def test_csv_holds_the_numbers_in_full(self, rows: list[dict[str, Any]]) -> None:
        read = list(csv.DictReader(contrasts.as_csv(rows, synthetic=True).splitlines()))
        assert [row["variant"] for row in read] == ["base", "path", "eca"]
        assert float(read[1]["points_p_holm"]) == rows[1]["difference_points"]["p_holm"]
        assert float(read[1]["points_bootstrap_low"]) == rows[1]["difference_points"]["bootstrap"][0]
        assert float(read[1]["unseen_mean"]) == pytest.approx(0.4)
        assert (read[0]["points_mean"], read[1]["synthetic_data"]) == ("", "True")

    def test_markdown_has_as_many_cells_in_every_line(self, rows: list[dict[str, Any]]) -> None:
        lines = contrasts.as_markdown(rows, [], self.TITLE, self.NOTES).splitlines()
        table = [line for line in lines if line.startswith("|")]
        assert len(table) == 5
        assert len({line.count("|") for line in table}) == 1
        assert "| path: on -> off | 12 |" in table[3]
        assert "800 (-200) | 4.00 M (-1.00 M) |" in table[3]
        assert "| worse |" in table[3]
        assert "| 1.00 k (=) |" in table[4]
        headings = [cell.strip() for cell in table[0].split("|")]
        assert {"test, %", "seen, %", "unseen, %", "bootstrap [95 %]", "relative, %"} <= set(headings)
        assert self.NOTES[0] in lines

    def test_latex_is_booktabs_with_every_mark_escaped(self, rows: list[dict[str, Any]]) -> None:
        text = contrasts.as_latex(rows, [], self.TITLE, self.NOTES)
        assert [mark for mark in (r"\toprule", r"\midrule", r"\bottomrule") if text.count(mark) != 1] == []
        assert r"\caption{esc: 5 \% \& more}" in text
        assert r"Holm\_1979" in text
        assert r"path: on $\to$ off & 12 & " in text
        body = text[text.index(r"\toprule") : text.index(r"\bottomrule")].splitlines()
        cells = [line.replace(r"\&", "").count("&") for line in body if line.endswith(r"\\")]
        assert len(cells) == 4
        assert len(set(cells)) == 1
        assert "\n%" not in text

    def test_without_recorders_or_test_there_is_no_such_column(self) -> None:
        rows = build_rows(arm("base", [0.5, 0.6]), [arm("path", [0.5, 0.6])])
        head = contrasts.as_markdown(rows, [], "t", []).splitlines()[2]
        assert "test" not in head
        assert "seen" not in head
        assert "bootstrap" not in head
