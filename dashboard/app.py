"""The dashboard's server: `streamlit run dashboard/app.py [-- --runs DIR --storage URL]`. `dashboard.router` is what each visitor runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import streamlit as st


@contextlib.asynccontextmanager
async def warmed(_: Any) -> AsyncIterator[None]:
    """While it serves: what the first page needs is read from the start on, beside the server and not before it."""
    threading.Thread(target=_warm, name="warm", daemon=True).start()
    yield


def _warm() -> None:
    # What can not be read is told by the page that is asked for it, and a wrong argument too.
    with contextlib.suppress(Exception, SystemExit):
        from dashboard.reading import warm

        warm()


app = st.App(Path(__file__).with_name("router.py"), lifespan=warmed)
