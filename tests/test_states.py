"""Every page in every state that a study can be in: no study, one trial, one that runs, one with failures, ten thousand trials."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import optuna
import pytest
from pages import add_trials, large_runs, main_module_is_given_back, page, runs, texts

from studies import open_study
from studies.storage import open_storage

__all__ = ["main_module_is_given_back", "page", "runs"]

ERROR = "RuntimeError: out of memory\nTraceback (most recent call last):\n  made up"


class Look(NamedTuple):
    """A page of a study in a state, and what must stand there: words of its text, or names in its plot."""

    state: str
    view: str
    parameters: dict[str, str]
    words: list[str]
    drawn: list[str] = []  # noqa: RUF012


VIEWS = ("study", "pareto", "network", "ablations", "compare", "retrain")
LOOKS = [
    *(Look("none", view, {}, ["python -m studies.run --trials 200 --runs", "No study yet"]) for view in VIEWS),
    Look("one", "study", {}, ["Trials: 1 trained", "Nothing works on this study now."]),
    Look("one", "pareto", {"trial": "0"}, ["1 network", "**Trial 0** · on the front"], ["on the front (1)"]),
    Look("one", "network", {"trial": "0"}, ["NOTATION"]),
    Look("one", "ablations", {"show": "effects"}, ["complete trials, and there are 1;"]),
    Look("one", "compare", {}, ["There are no two trained networks yet to see what differs between them."]),
    Look("one", "retrain", {"trial": "0"}, ["**1 training: about", "--study one --trial 0"]),
    Look("begun", "study", {}, ["1 worker training", "Trials: 1 under way"]),
    Look("begun", "pareto", {}, ["No network has been scored yet."]),
    Look("begun", "network", {}, ["No network is trained yet."]),
    Look("begun", "ablations", {"show": "effects"}, ["complete trials, and there are 0;"]),
    Look("begun", "compare", {}, ["There are no two trained networks yet"]),
    Look("begun", "retrain", {}, ["No network is trained yet."]),
    Look("live", "study", {}, ["2 workers training.", "Trials: 4 trained · 2 under way · 1 queued"]),
    Look("live", "pareto", {}, ["4 networks", "Click a point"], ["on the front"]),
    Look("live", "network", {"trial": "1"}, ["NOTATION"]),
    Look("live", "ablations", {}, ["python -m studies.ablate --base dssdn-middle"]),
    Look("live", "compare", {"trials": "0,1"}, ["Learning curves"], ["trial 0", "trial 1"]),
    Look("live", "retrain", {"trials": "0,1"}, ["**2 trainings: about"]),
    Look("failures", "study", {}, ["Trials: 4 trained · 2 failed", "Traceback (most recent call last):"]),
    Look("failures", "pareto", {}, ["6 networks"], ["failed (2)"]),
    Look("failures", "network", {"trial": "4"}, ["The network in the address is not trained to the end"]),
    Look("failures", "ablations", {"show": "effects"}, ["complete trials, and there are 4;"]),
    Look("failures", "compare", {"trials": "0,4"}, ["Not all of the networks in the address are shown"]),
    Look("failures", "retrain", {"trial": "5"}, ["The network in the address is not trained to the end"]),
    Look("large", "study", {}, ["Trials: 3,", "100 failed"]),
    Look("large", "pareto", {"trial": "1"}, ["networks", "**Trial 1**"], ["failed (100)", "over a cap (100)"]),
    Look("large", "network", {"trial": "1"}, ["NOTATION"]),
    Look("large", "ablations", {"show": "effects"}, ["**Observational.**"]),
    Look("large", "compare", {"trials": "0,1"}, ["Listed are the 300 most accurate of 3,"]),
    Look("large", "retrain", {"trial": "1"}, ["**1 training: about"]),
]  # fmt: skip


def name_of(look: Look) -> str:
    return f"{look.state}-{look.view}"


@pytest.fixture(scope="module")
def folders(tiny_study: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The runs folder of every state but the large one; not to be changed."""
    source, name = tiny_study
    place = tmp_path_factory.mktemp("states")
    tiny = open_study(name, source)
    for state, trials in (("one", tiny._study.trials[:1]), ("begun", [])):
        made = optuna.create_study(
            study_name=state,
            storage=open_storage(place / state / state),
            directions=["maximize", "minimize", "minimize"],
        )
        for key, value in tiny.info.items():
            made.set_user_attr(key, value)
        for trial in trials:
            made.add_trial(trial)
    shutil.copytree(tiny.run(0).path, place / "one" / "one" / "trials" / "00000")
    add_trials(place / "begun", "begun", ["running"])
    for state, more, about in (
        ("live", ["running", "running", "queued"], {}),
        ("failures", ["failed", "failed"], {"error": ERROR}),
    ):
        shutil.copytree(source / name, place / state / name)
        add_trials(place / state, name, more, **about)
    return {state: place / state for state in ("none", "one", "begun", "live", "failures")}


@pytest.fixture(scope="module")
def large(tiny_study: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of a study of ten thousand trials; not to be changed."""
    return large_runs(tiny_study, tmp_path_factory.mktemp("large"), 10_000)


def check(app, look: Look, folder: Path) -> None:
    assert not app.exception
    text = texts(app)
    assert "can not be shown" not in text
    if look.state == "none":
        assert str(folder) in text
    names = [name for name in ("tiny", look.state) if (folder / name).exists()]
    for words in look.words:
        if words == "NOTATION":
            trial = int(look.parameters["trial"])
            words = open_study(names[0], folder).trials().set_index("trial").loc[trial, "architecture"]
        assert words in text
    drawn = [
        trace.get("name") or "" for chart in app.get("plotly_chart") for trace in json.loads(chart.proto.spec)["data"]
    ]
    for start in look.drawn:
        assert any(name.startswith(start) for name in drawn), (start, drawn)


@pytest.mark.parametrize("look", [look for look in LOOKS if look.state != "large"], ids=name_of)
def test_a_page_shows_a_study_as_it_is(page, folders, look):
    folder = folders[look.state]
    check(page(look.view, folder=folder, **look.parameters), look, folder)


@pytest.mark.slow
@pytest.mark.parametrize("look", [look for look in LOOKS if look.state == "large"], ids=name_of)
def test_a_page_shows_ten_thousand_trials(page, large, look):
    check(page(look.view, folder=large, **look.parameters), look, large)


def test_no_page_and_no_state_is_left_out():
    states = ("none", "one", "begun", "live", "failures", "large")
    assert {(look.state, look.view) for look in LOOKS} == {(state, view) for state in states for view in VIEWS}
