"""What the code that decides results is, as a digest: a study goes on with the code that it was made with, or says that it does not."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent
_PACKAGES = ("search_space", "trainers")
_STARTS = ("trainers.workers", "search_space.space", "search_space.presets")
"""What trains and judges a candidate, and what decides which there are; all that they import follows."""


@cache
def code_digest() -> str:
    """SHA-256 of the modules that decide a study's results, as a parser sees them.

    A comment, a docstring or another line break changes nothing, nor does a module that no training reaches.
    """
    found, left = {}, list(_STARTS)
    while left:
        name = left.pop()
        path = _ROOT / f"{name.replace('.', '/')}.py"
        if name in found or not path.exists():
            continue
        tree = ast.parse(path.read_text("utf-8"))
        found[name] = repr(_shape(tree))
        left += _imported(tree)
    text = "\n".join(f"{name} {found[name]}" for name in sorted(found))
    return hashlib.sha256(text.encode()).hexdigest()


def _imported(tree: ast.Module) -> list[str]:
    """The modules of ours that a module names in its imports."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name for name in names if name.split(".")[0] in _PACKAGES]


def _shape(node: Any) -> Any:
    """A node as nested tuples without docstrings, places and what is empty: the same from every version of Python."""
    if isinstance(node, list):
        return [_shape(item) for item in node if not _is_docstring(item)]
    if not isinstance(node, ast.AST):
        return node
    fields = ((name, _shape(value)) for name, value in ast.iter_fields(node) if value is not None and value != [])
    return (type(node).__name__, *(field for field in fields if field[0] not in ("ctx", "kind", "type_comment")))


def _is_docstring(node: Any) -> bool:
    """Whether a statement is a text that nothing reads."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
