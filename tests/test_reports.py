"""Reports of the commands, read for the pages: the latest first, torn and foreign ones told apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from studies.reports import ablations, fidelities

WHOLE = {"base": "dl-o", "rows": [], "title": "t", "notes": [], "data": {"name": "esc", "synthetic": False}}
WHOLE |= {"seeds": [0], "folds": [1], "kind": "one change", "effects": []}


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_ablations_come_latest_first_and_torn_ones_last(tmp_path: Path) -> None:
    write(tmp_path / "ablate-a" / "reports" / "one" / "ablation.json", {**WHOLE, "written": "2026-01-01"})
    write(tmp_path / "ablate-b" / "reports" / "two" / "ablation.json", {**WHOLE, "written": "2026-02-01"})
    write(tmp_path / "ablate-b" / "reports" / "torn" / "ablation.json", '{"base":')
    write(tmp_path / "ablate-b" / "reports" / "old" / "ablation.json", {"base": "dl-o"})
    write(tmp_path / "ablate-b" / "reports" / "list" / "ablation.json", [3])
    write(tmp_path / ".hidden" / "reports" / "one" / "ablation.json", {**WHOLE, "written": "2026-03-01"})
    found = ablations(tmp_path)
    assert [report.key for report in found[:2]] == ["ablate-b/reports/two", "ablate-a/reports/one"]
    assert [report.error for report in found[:2]] == ["", ""]
    assert sorted(report.key for report in found[2:]) == [
        f"ablate-b/reports/{name}" for name in ("list", "old", "torn")
    ]
    errors = {report.path.parent.name: report.error for report in found[2:]}
    assert errors["torn"].startswith("JSONDecodeError: ")
    assert "it is no report of this version: it has not base, rows" in errors["old"]
    assert "it is no report of this version" in errors["list"]


@pytest.mark.parametrize("name", ["seeds", "folds", "kind", "effects", "data", "rows"])
@pytest.mark.parametrize("value", [None, 3, {}])
def test_one_that_lacks_what_its_page_reads_is_told_apart(tmp_path: Path, name: str, value: object) -> None:
    write(tmp_path / "ablate-a" / "reports" / "one" / "ablation.json", {**WHOLE, "written": "2026", name: value})
    [report] = ablations(tmp_path)
    assert "it is no report of this version" in report.error


def test_brackets_without_end_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path / "ablate-a" / "reports" / "one" / "ablation.json", "[" * 100_000)
    [report] = ablations(tmp_path)
    assert report.error.startswith("RecursionError: ")


@pytest.mark.parametrize("linked", ["ablate-a", "ablate-a/reports", "ablate-a/reports/one"])
def test_what_lies_elsewhere_is_not_read(tmp_path: Path, linked: str) -> None:
    write(tmp_path / "elsewhere" / "ablate-a" / "reports" / "one" / "ablation.json", {**WHOLE, "written": "2026"})
    place = tmp_path / "runs" / linked
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "elsewhere" / linked)
    assert ablations(tmp_path / "runs") == []
    assert len(ablations(tmp_path / "elsewhere")) == 1


def test_no_folder_has_no_reports(tmp_path: Path) -> None:
    assert ablations(tmp_path / "nothing") == []
    assert fidelities(tmp_path / "nothing") == []
