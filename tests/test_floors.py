"""The house stands: packages import downwards only, every outside library has its owner, and opening a page does not load torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS = {
    "search_space": set(),
    "trainers": {"search_space"},
    "studies": {"search_space", "trainers"},
    "dashboard": {"search_space", "studies"},
    "benchmarks": {"search_space", "trainers", "studies"},
}
"""Each package, with those of ours that it may import."""

OWNERS = {
    "torch": {"search_space", "trainers", "benchmarks"},
    "torchaudio": {"trainers", "benchmarks"},
    "onnx": {"trainers"},
    "onnxruntime": {"trainers"},
    "soundfile": {"trainers", "benchmarks"},
    "pooch": {"trainers"},
    "safetensors": {"trainers"},
    "optuna": {"studies", "benchmarks"},
    "plotly": {"studies"},
    "pandas": {"studies", "dashboard", "benchmarks"},
    "streamlit": {"dashboard"},
}
"""Each outside library that has owners, with these."""

TORCH_FREE = [
    "search_space",
    "search_space.architecture",
    "search_space.comparators",
    "search_space.complexity",
    "search_space.limits",
    "search_space.operators",
    "search_space.presets",
    "search_space.space",
    "search_space.tables",
    "trainers",
    "trainers.config",
    "trainers.datasets",
    "trainers.download",
    "trainers.metrics",
    "trainers.own",
    "trainers.recorders",
    "trainers.runs",
    "trainers.super_classes",
    "trainers.teaching",
    "studies",
    "studies.analysis",
    "studies.card",
    "studies.charts",
    "studies.export",
    "studies.factors",
    "studies.fronts",
    "studies.kept",
    "studies.published",
    "studies.reports",
    "studies.drawings",
    "studies.mistakes",
    "studies.jobs",
    "studies.records",
    "studies.statistics",
    "studies.variants",
    "dashboard",
    "dashboard.network",
    "dashboard.retraining",
]
"""Modules that pages, notebooks and shells read records with."""


def imported(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Line and first name of every import in a file, wherever it stands, and whether it is for the type checker only."""
    tree = ast.parse(path.read_text("utf-8"))
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    typing_only = {id(node) for block in blocks for node in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name.split(".")[0], id(node) in typing_only) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.split(".")[0], id(node) in typing_only


def violations(root: Path) -> list[str]:
    """Every import in the packages under `root` that goes up, or takes a library from its owner (but for its types)."""
    found = []
    for package, below in FLOORS.items():
        for path in sorted((root / package).rglob("*.py")):
            for line, name, typing_only in imported(path):
                upwards = name in FLOORS and name != package and name not in below
                foreign = name in OWNERS and package not in OWNERS[name] and not typing_only
                if upwards or foreign:
                    found.append(f"{path.relative_to(root)}:{line} imports {name}")
    return found


def test_packages_import_downwards_and_libraries_have_their_owners():
    assert violations(ROOT) == []


def test_every_package_has_a_floor():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - {"tests"} == set(FLOORS)


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("import studies.records", True),
        ("from dashboard import network", True),
        ("def late():\n    from studies import jobs", True),
        ("import optuna as o", True),
        ("from streamlit import title", True),
        ("if TYPE_CHECKING:\n    import dashboard", True),
        ("if TYPE_CHECKING:\n    import pandas", False),
        ("import search_space.space", False),
        ("from trainers.runs import Run", False),
        ("import torch", False),
        ("from . import runs", False),
    ],
)
def test_an_upward_or_foreign_import_would_be_seen(tmp_path, line, seen):
    path = tmp_path / "trainers" / "deep" / "module.py"
    path.parent.mkdir(parents=True)
    path.write_text(line)
    found = violations(tmp_path)
    assert bool(found) == seen
    if seen:
        assert found[0].startswith("trainers/deep/module.py:")


def test_reading_loads_no_torch():
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name); assert 'torch' not in sys.modules, name"
    subprocess.run([sys.executable, "-c", code, *TORCH_FREE], cwd=ROOT, check=True)
