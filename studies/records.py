"""A study's records as frames, wherever they live: the only file that knows where.

from studies import open_study

study = open_study("esc10")        # runs/esc10
study.trials()                     # every trial, a row each
study.front()                      # the Pareto front of val accuracy, params and MACs
study.model(17)                    # trial 17's network with its weights: raw log-mel (B, 1, T, F) to logits (B, K)
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterable
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from search_space.errors import UserError, meant
from search_space.space import get_space
from studies import owners
from studies.analysis import front
from studies.reports import lies_inside
from studies.storage import DATABASE_ERRORS, JOURNAL, open_storage
from trainers.runs import Run, is_study_name, study_folder, trial_folder

if TYPE_CHECKING:
    from torch import nn

ADDRESS = "storage.url"
"""In a study's folder: which database holds it, without a password."""

STATES = ("complete", "stopped", "running", "queued", "duplicate", "over_cap", "failed", "interrupted")
COLUMNS = (
    "trial",
    "state",
    "architecture",
    "preset",
    "val_accuracy",
    "params",
    "macs",
    "clips",
    "rung_accuracy",
    "seconds",
    "error",
    "same_as",
)


class StudyRecords:
    """One study, read. Looking never changes it."""

    def __init__(self, name: str, path: Path, study: optuna.Study) -> None:
        self.name = name
        self.path = path
        self._study = study

    @cached_property
    def info(self) -> dict[str, Any]:
        """What the study is about: data, space, sizes, budget, recipe, reference point."""
        return dict(self._study.user_attrs)

    def trials(self) -> pd.DataFrame:
        """Every trial in order: `state` (one of `STATES`), `architecture`, `val_accuracy` (0 to 1) at the full budget, `params`, `macs`, the
        `clips` seen and `rung_accuracy`, the score at the last rung, `seconds`, `error`, and a column for every choice of the space (empty where the choice is not active; none when the space has changed since)."""
        choices, budget = known_choices(self.info), self.info["budget"]
        trials = self._study.get_trials(deepcopy=False)
        return trial_frame([row_values(trial_row(trial, choices, budget), choices) for trial in trials], choices)

    def asked(self, option: str) -> str | None:
        """What the command that made the study said of one of its options ('trials', 'sampler'), of those that the record keeps nowhere else;
        None where it said nothing, and so perhaps in a file."""
        words = shlex.split(str(self.info["provenance"].get("command", "")))
        for word, following in zip(words, [*words[1:], ""], strict=True):
            if word == f"--{option}":
                return following
            if word.startswith(f"--{option}="):
                return word.partition("=")[2]
        return None

    def going_on(self) -> str:
        """The command that goes on with the study to more networks, but for their number N: the one that made it, with its data and its space."""
        words = shlex.split(str(self.info["provenance"].get("command", "")))
        if "studies.run" not in words:  # another program's: what is known is said
            data = self.info["data"]
            words = ["python", "-m", "studies.run", "--study", self.name, "--data", data["source"]]
            words += ["--subset", data["subset"]] if data["subset"] else []
            words += ["--fold", str(data["fold"]), "--space", self.info["space"]["name"]]
        kept, once = [], iter(words)
        for word in once:
            if word == "--trials":
                next(once, None)
            elif word != "--json" and not word.startswith("--trials="):
                kept.append(word)
        if self.path.parent != Path("runs") and not {"--runs", "--config"} & set(kept):  # it has moved
            kept += ["--runs", str(self.path.parent)]
        return f"{shlex.join(kept)} --trials N"

    def front(self) -> pd.DataFrame:
        """The trials that no other one beats in val accuracy, params and MACs at once, by falling accuracy."""
        found = front(self.trials())
        # Trials without costs (queued, interrupted) make floats of the columns; those on a front have theirs.
        return found.astype({"params": int, "macs": int})

    def rungs(self) -> pd.DataFrame:
        """What each trial scored on the way (val accuracy, 0 to 1): a row a trial, by its number, a column a rung, by its clips. No columns in a
        study that did not look."""
        rows = {trial.number: trial.user_attrs.get("rungs", {}) for trial in self._study.get_trials(deepcopy=False)}
        frame = pd.DataFrame.from_dict(rows, orient="index", dtype=float).rename(columns=int)
        return frame.reindex(columns=sorted(frame.columns))

    def confirmed(self) -> pd.DataFrame:
        """What several seeds said of the front and its near misses (`studies.confirm`, the last one made), a network a row, best mean
        first; empty where nobody asked. Accuracies 0 to 1: `study_val` of the study's seed, `val_mean`, `val_std`, `val_low`, `val_high` of the others;
        `non_dominated` is the probability of standing on the front."""
        found = [
            json.loads(path.read_text("utf-8"))
            for path in self.path.glob("confirm/*/confirm.json")
            if lies_inside(path, self.path.parent)
        ]
        if not found:
            return pd.DataFrame(columns=["trial", "architecture", "study_val", "val_mean"])
        latest = max(found, key=lambda report: report["written"])
        return pd.DataFrame(latest["networks"]).assign(
            recipe=latest["recipe"], budget=latest["budget"], written=latest["written"]
        )

    def run(self, trial: int) -> Run:
        """The folder of a trial's training; fetched from the artifact store when another machine trained it.

        Raises `UserError` where the store can not be read.
        """
        run = Run(trial_folder(self.path.parent, self.name, trial))
        place = self.info.get("artifacts")
        if place and not run.weights_path.exists():
            trials = self._study.get_trials(deepcopy=False)
            if trial < len(trials) and trials[trial].state == TrialState.COMPLETE:
                from studies.artifacts import Artifacts  # boto3, where it is installed, takes a while to import

                Artifacts(place).fetch(run.path, trials[trial], self._study._storage)
        return run

    def model(self, trial: int) -> nn.Sequential:
        """A trial's network with its weights, in eval mode: raw log-mel (B, 1, T, F) at the study's `train_input` to logits (B, K)."""
        from trainers.recorded import load_model

        return load_model(self.run(trial))


def open_study(name: str, runs: Path | str = "runs", storage: str | None = None) -> StudyRecords:
    """The records of the study `runs/<name>`, or of that name in the PostgreSQL at `storage`, which is opened read-only.

    Without `storage` the study's folder says where its trials live. Raises `UserError` with the known names when there is none.
    """
    path = study_folder(runs, name)
    if storage is None and not (path / JOURNAL).exists():
        if not (path / ADDRESS).exists():
            known = list_studies(runs)
            raise UserError(
                f"no study {name!r} in {runs}; {meant(name, known)}known: {known}; `python -m studies.run --study {name}` makes one"
            )
        storage = (path / ADDRESS).read_text("utf-8").strip()
    try:
        study = optuna.load_study(study_name=name, storage=open_storage(path, storage, looking=True))
        attributes = study.user_attrs
    except KeyError as error:
        raise UserError(f"the storage holds no study {name!r}") from error
    except DATABASE_ERRORS as error:
        raise UserError(f"--storage: the database does not answer ({type(error).__name__})") from error
    if "provenance" not in attributes:
        raise UserError(f"study {name!r} was not made by studies.run, or was stopped before it began")
    return StudyRecords(name, path, study)


def list_studies(runs: Path | str = "runs") -> list[str]:
    """Names of the studies in a folder, the most recently changed one first."""
    found: dict[Path, float] = {}
    for file in (ADDRESS, JOURNAL):
        for path in Path(runs).glob(f"*/{file}"):
            if is_study_name(path.parent.name):
                with contextlib.suppress(FileNotFoundError):  # deleted since it was found
                    found[path.parent] = path.stat().st_mtime
    return [path.name for path in sorted(found, key=lambda path: found[path], reverse=True)]


def known_choices(info: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The options of every choice of a study's space (`info` is the study's); none when the space has changed since."""
    space = get_space(info["space"]["name"])
    return space.choices if space.digest == info["space"]["digest"] else {}


def trial_frame(rows: list[list[Any]], choices: Iterable[str]) -> pd.DataFrame:
    """The frame of `StudyRecords.trials` from its rows' values (`row_values`)."""
    return pd.DataFrame(rows, columns=[*COLUMNS, *choices]).astype({"trial": int})


def row_values(row: dict[str, Any], choices: Iterable[str]) -> list[Any]:
    """What a row (`trial_row`) holds, column by column; None for a choice that was not asked."""
    return [row.get(column) for column in (*COLUMNS, *choices)]


def trial_row(trial: FrozenTrial, choices: dict[str, tuple[Any, ...]], budget: int) -> dict[str, Any]:
    """One trial as a row of `StudyRecords.trials`; a complete one has seen the `budget`, another one what its last rung is at."""
    kept = trial.user_attrs
    rungs = {int(clips): score for clips, score in kept.get("rungs", {}).items()}
    clips = budget if trial.state == TrialState.COMPLETE else max(rungs, default=0)
    return {
        "trial": trial.number,
        "state": trial_state(trial),
        **{key: kept.get(key) for key in ("architecture", "preset", "params", "macs", "seconds", "error", "same_as")},
        "val_accuracy": trial.values[0] if trial.state == TrialState.COMPLETE else None,
        "clips": clips,
        "rung_accuracy": rungs[max(rungs)] if rungs else None,
        **{name: decode(choices[name], value) for name, value in trial.params.items() if name in choices},
    }


def trial_state(trial: FrozenTrial) -> str:
    """A trial's state in this project's words; 'complete' alone has been trained fully, 'stopped' up to a rung."""
    if trial.state == TrialState.COMPLETE:
        return "complete"
    if trial.state == TrialState.WAITING:
        return "queued"
    if trial.state == TrialState.RUNNING:
        return "running" if trial_alive(trial) else "interrupted"
    return str(trial.user_attrs.get("outcome", "failed"))


def trial_alive(trial: FrozenTrial) -> bool:
    """Whether a running trial's process may still live: it does on this machine, or it is another machine's."""
    owner = trial.user_attrs.get("owner")
    return owners.alive(owner) is not False and not owners.restarted(owner)


@cache  # asked of every choice of every trial
def ordered(options: tuple[Any, ...]) -> bool:
    """Whether a choice's options have an order: numbers have; Optuna is told their index, so that it knows."""
    return all(isinstance(option, int | float) for option in options)


def decode(options: tuple[Any, ...], value: Any) -> Any:
    """The option that Optuna's value stands for."""
    return options[value] if ordered(options) else value


def encode(options: tuple[Any, ...], option: Any) -> Any:
    """Optuna's value for an option."""
    return options.index(option) if ordered(options) else option
