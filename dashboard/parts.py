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


@contextlib.contextmanager
def part(heading: str | None = None) -> Iterator[None]:
    """A part of the page, under a heading if one is given: what its record does not give is said in its place."""
    if heading:
        st.markdown(f"**{heading}**")
    try:
        yield
    except _TORN as error:
        st.warning("This part of the record can not be shown.", icon=":material/broken_image:")
        show_text(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")


def show_text(text: str) -> None:
    """Text of unknown origin, wrapped, with nothing in it read as markup."""
    st.code(text, language=None, wrap_lines=True)
