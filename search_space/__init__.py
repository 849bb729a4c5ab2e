"""What can exist: architectures, the operators they are made of, the spaces they are drawn from, and what they cost.

Names load on first use, so that importing the package, and everything in it but `build_model`, leaves torch alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search_space.architecture import Architecture, Block
    from search_space.complexity import count
    from search_space.model import build_model
    from search_space.presets import NETWORKS, PRESETS, resolve
    from search_space.space import get_space

__all__ = ["NETWORKS", "PRESETS", "Architecture", "Block", "build_model", "count", "get_space", "resolve"]

_HOME = {
    "Architecture": "architecture",
    "Block": "architecture",
    "build_model": "model",
    "count": "complexity",
    "get_space": "space",
    "NETWORKS": "presets",
    "PRESETS": "presets",
    "resolve": "presets",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
