"""What `ablate`, `fidelity` and `confirm` left in the runs folder, read without torch. Looking never changes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from search_space.errors import UserError
from trainers.runs import is_study_name

# What a report must hold to be listed, each with its kind.
_ABLATION = {"base": str, "rows": list, "seeds": list, "folds": list, "kind": str, "effects": list}
_ABLATION |= {"title": str, "notes": list, "data": dict, "written": str}
_FIDELITY = {"study": str, "data": dict, "networks": list, "correlations": list, "reading": str, "written": str}


class Report(NamedTuple):
    """One report: its `key` says where it lies below the runs folder, `content` what it says, or `error` why that can not be read."""

    key: str
    path: Path
    content: dict[str, Any]
    error: str = ""


def lies_inside(path: Path, folder: Path) -> bool:
    """Whether a path stays inside a folder when every link on its way is followed: nothing is read, started or handed out beyond it."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links in a circle
        return False


def ablations(runs: Path) -> list[Report]:
    """Every ablation's reports, the latest first; those that can not be read last."""
    paths = [
        path
        for path in runs.glob("*/reports/*/ablation.json")
        if is_study_name(path.parts[-4]) and lies_inside(path, runs)
    ]
    return _sorted([_read(path, runs, _ABLATION) for path in paths])


def fidelities(study: Path) -> list[Report]:
    """A study's reports of `studies.fidelity`, the latest first."""
    paths = [path for path in study.glob("fidelity/*/fidelity.json") if lies_inside(path, study.parent)]
    return _sorted([_read(path, study.parent, _FIDELITY) for path in paths])


def _sorted(reports: list[Report]) -> list[Report]:
    return sorted(reports, key=lambda report: str(report.content.get("written", "")), reverse=True)


def _read(path: Path, runs: Path, shape: Mapping[str, type]) -> Report:
    key = path.parent.relative_to(runs).as_posix()
    try:
        content = json.loads(path.read_text("utf-8"))
        whole = isinstance(content, dict) and all(isinstance(content.get(name), kind) for name, kind in shape.items())
        if not whole or not isinstance(content["data"].get("name"), str) or "synthetic" not in content["data"]:
            raise UserError(
                f"it is no report of this version: it has not {', '.join(shape)} (data with name and synthetic), each of its kind"
            )
    except (OSError, ValueError, RecursionError) as error:
        return Report(key, path, {}, f"{type(error).__name__}: {error}")
    return Report(key, path, content)
