"""A dashboard in this process, run by streamlit's own `AppTest`: what the tests of its pages share."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from streamlit import config
from streamlit.testing.v1 import AppTest

ROOT = Path(__file__).parent.parent
Page = Callable[..., AppTest]


@pytest.fixture(autouse=True)
def main_module_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """AppTest leaves the page behind as `__main__`, which every process spawned later would run."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture
def runs(tiny_study: tuple[Path, str], tmp_path: Path) -> Path:
    """A folder with a copy of the tiny study, to be spoilt."""
    source, name = tiny_study
    shutil.copytree(source / name, tmp_path / "runs" / name)
    return tmp_path / "runs"


@pytest.fixture
def page(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """Opens the page of a name with these parameters in its URL, on a server at `address`."""
    before = config.get_option("server.address")

    def open_page(
        view: str = "study", folder: Path = runs, address: str | None = "127.0.0.1", **parameters: str
    ) -> AppTest:
        config.set_option("server.address", address)
        monkeypatch.setattr(sys, "argv", ["app.py", "--runs", str(folder)])
        app = AppTest.from_file(str(ROOT / "dashboard" / "app.py"), default_timeout=30)
        for name, value in parameters.items():
            app.query_params[name] = value
        if view != "study":
            app.switch_page(f"views/{view}.py")
        return app.run()

    yield open_page
    config.set_option("server.address", before)


def texts(app: AppTest) -> str:
    """Everything that is written on the page."""
    kinds = ("title", "subheader", "markdown", "text", "caption", "code", "warning", "info", "error")
    return "\n".join(str(element.value) for kind in kinds for element in app.get(kind))


def metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}
