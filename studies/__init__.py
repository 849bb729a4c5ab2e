"""What to try and what came of it. `from studies import open_study` is the way in from Python and notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studies.records import StudyRecords, list_studies, open_study

__all__ = ["StudyRecords", "list_studies", "open_study"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'studies' has no attribute {name!r}")
    from studies import records

    return getattr(records, name)
