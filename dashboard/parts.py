"""Parts of a page that may fail alone, because the record behind one is torn while the others are whole."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator

import streamlit as st

from search_space.errors import UserError

# What a file that is torn or can not be read, or JSON of another shape than ours, brings about.
_TORN = (
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    OSError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    zlib.error,
)
NOT_DONE = "That could not be done."
"""What heads the words of an action that failed."""


@contextlib.contextmanager
def part(heading: str | None = None, said: str = "This part of the record can not be shown.") -> Iterator[None]:
    """A part of the page, under a heading if one is given: what its record does not give is said in its place, headed by `said`."""
    if heading:
        st.markdown(f"**{heading}**")
    try:
        yield
    except _TORN as error:
        st.warning(said, icon=":material/broken_image:")
        show_text(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")


def show_text(text: str) -> None:
    """Text of unknown origin, wrapped, with nothing in it read as markup."""
    st.code(text, language=None, wrap_lines=True)
