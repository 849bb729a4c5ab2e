"""A dashboard in this process, run by streamlit's own `AppTest`: what the tests of its pages share."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from streamlit import config
from streamlit.testing.v1 import AppTest

from benchmarks.large_study import _distribution, without_fsync
from search_space.complexity import count
from search_space.space import get_space
from studies.owners import owner
from studies.records import encode
from studies.storage import open_storage

ROOT = Path(__file__).parent.parent
Page = Callable[..., AppTest]
_SHIPPED: Mapping[str, Any] = {"server.allowedHosts": ["localhost", "127.0.0.1"], "browser.gatherUsageStats": False}


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
    """Opens the page of a name with these parameters in its URL, on a server at `address` with `settings` in place of the shipped ones."""
    before = {name: config.get_option(name) for name in ("server.address", *_SHIPPED)}

    def open_page(
        view: str = "study",
        /,
        folder: Path = runs,
        address: str | None = "127.0.0.1",
        storage: str | None = None,
        settings: Mapping[str, Any] = MappingProxyType({}),
        **parameters: str,
    ) -> AppTest:
        for option, set_to in {"server.address": address, **_SHIPPED, **settings}.items():
            config.set_option(option, set_to)
        database = [] if storage is None else ["--storage", storage]
        monkeypatch.setattr(sys, "argv", ["router.py", "--runs", str(folder), *database])
        app = AppTest.from_file(str(ROOT / "dashboard" / "router.py"), default_timeout=30)
        for name, value in parameters.items():
            app.query_params[name] = value
        if view != "study":
            app.switch_page(f"views/{view}.py")
        return app.run()

    yield open_page
    for option, set_to in before.items():
        config.set_option(option, set_to)


def texts(app: AppTest) -> str:
    """Everything that is written on the page."""
    kinds = ("title", "subheader", "markdown", "text", "caption", "code", "warning", "info", "error")
    return "\n".join(str(element.value) for kind in kinds for element in app.get(kind))


def metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def add_trials(runs: Path, name: str, states: Iterable[str], **attributes: Any) -> list[int]:
    """Made-up trials of the study's own space, one for each of these states (`studies.records.STATES`), in the journal; their numbers."""
    study = optuna.load_study(study_name=name, storage=open_storage(runs / name))
    info, rng = study.user_attrs, random.Random(len(study.trials))
    space = get_space(info["space"]["name"])
    networks = [space.sample(lambda _, options: rng.choice(options)) for _ in range(200)]
    costs = [count(network, (44, 256), info["n_classes"]) for network in networks]
    ended = {"complete": TrialState.COMPLETE, "running": TrialState.RUNNING, "queued": TrialState.WAITING}
    ended |= {"stopped": TrialState.PRUNED, "over_cap": TrialState.PRUNED}
    numbers = []
    me = owner()
    with without_fsync():
        for index, state in enumerate(states):
            place = index % len(networks)
            network, cost, chosen = networks[place], costs[place], space.encode(networks[place])
            kept: dict[str, Any] = {"architecture": str(network), "params": cost.params, "macs": cost.macs, "owner": me}
            kept |= {"seconds": 10.0} if state in ("complete", "stopped") else {}
            kept |= {"rungs": {"32": rng.random()}} if state == "stopped" else {}
            kept |= {} if state in ("complete", "running", "queued") else {"outcome": state}
            trial = create_trial(
                state=ended.get(state, TrialState.FAIL),
                values=[rng.random(), cost.params, cost.macs] if state == "complete" else None,
                params={key: encode(space.choices[key], option) for key, option in chosen.items()},
                distributions={key: _distribution(space.choices[key]) for key in chosen},
                user_attrs=kept | attributes,
            )
            numbers.append(len(study.get_trials(deepcopy=False)))
            study.add_trial(trial)
    return numbers


def large_runs(source: tuple[Path, str], folder: Path, trials: int) -> Path:
    """The runs folder of a copy of the tiny study with so many trials more: a third complete, half stopped, the rest duplicates, failed, over a cap."""
    shutil.copytree(source[0] / source[1], folder / "runs" / source[1])
    pattern = ("complete", "stopped", "complete", "stopped", "duplicate", "stopped")
    rare = {0: "failed", 50: "over_cap"}
    states = [rare.get(index % 100, pattern[index % len(pattern)]) for index in range(trials)]
    add_trials(folder / "runs", source[1], states, error="RuntimeError: out of memory\nTraceback: made up")
    return folder / "runs"


def rename_study(runs: Path, name: str, new: str) -> None:
    """A copy of a study under another name."""
    shutil.copytree(runs / name, runs / new)
    journal = runs / new / "journal.log"
    text = journal.read_text()
    for written in (f'"study_name": "{name}"', f'"study_name":"{name}"'):
        text = text.replace(written, written.replace(f'"{name}"', f'"{new}"'))
    journal.write_text(text)


def change_study(runs: Path, name: str, **attributes: Any) -> None:
    """Write attributes into a study's record."""
    study = optuna.load_study(study_name=name, storage=open_storage(runs / name))
    for key, value in attributes.items():
        study.set_user_attr(key, value)
