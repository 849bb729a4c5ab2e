"""A study held open for a server that looks at it again and again: what was read of it is not read again.

Its storage is opened once and read on from where the last look ended. Its trials are kept as a frame, which is made anew when the storage has
changed; a large journal's frame is also kept below the study's folder, so that a server that has just started need not read the journal. What
is kept can be thrown away at any time.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import TrialState

from search_space.errors import UserError
from studies import owners
from studies.records import (
    COLUMNS,
    StudyRecords,
    known_choices,
    open_study,
    row_values,
    trial_frame,
    trial_row,
)
from studies.storage import DATABASE_ERRORS, JOURNAL, open_storage
from trainers.runs import is_study_name, without_password, write_atomic

_KEPT = Path(".cache") / "trials.json"
_FORMAT = 1
_SLOW_S = 0.5
"""Assumed: a journal that is read faster is not worth a file."""


class Database:
    """The names of the studies in a PostgreSQL, which is held open."""

    def __init__(self, url: str) -> None:
        self._storage = open_storage(Path(), url, looking=True)

    def names(self) -> list[str]:
        """Those that could be names of folders, in order. Raises `UserError` when the database does not answer."""
        try:
            return sorted(filter(is_study_name, optuna.get_all_study_names(self._storage)))
        except DATABASE_ERRORS as error:
            raise UserError(f"--storage: the database does not answer ({type(error).__name__})") from error


class KeptStudy(StudyRecords):
    """A study as it was when it was looked at: `info` and `trials` are at hand, the rest comes from its storage.

    `version` changes whenever what is at hand does. `owners` are those of the trials under way whose process lives, by trial."""

    def __init__(
        self,
        keeper: Keeper,
        info: dict[str, Any],
        trials: pd.DataFrame,
        owners: dict[int, dict[str, Any] | None],
        version: tuple[Any, ...],
    ) -> None:
        self.name, self.path = keeper.name, Path(keeper.runs) / keeper.name
        self.__dict__["info"] = info
        self.owners, self.version = owners, version
        self._keeper, self._trials = keeper, trials

    @property
    def _study(self) -> optuna.Study:  # type: ignore[override]
        return self._keeper.study()

    def trials(self) -> pd.DataFrame:
        """The frame that is kept: not to be changed."""
        return self._trials


class Keeper:
    """One study, held open: what was read of it is not read again."""

    def __init__(self, name: str, runs: str, storage: str | None) -> None:
        self.name, self.runs, self.storage = name, runs, storage
        self._lock = threading.RLock()
        self._records: StudyRecords | None = None
        self._mark: tuple[int, ...] = ()
        self._done: dict[int, list[Any]] = {}
        self._under_way: dict[int, dict[str, Any] | None] = {}
        self._info: dict[str, Any] = {}
        self._frame = pd.DataFrame()
        self._state: Any = None
        self._count = time.time_ns()  # no version of an earlier keeper of this study comes again

    def study(self) -> optuna.Study:
        with self._lock:
            return self._open()._study

    def look(self) -> KeptStudy:
        """The study now. Raises `UserError`."""
        with self._lock:
            mark = self._find()
            if not mark or mark != self._mark:
                self._update(mark)
            dead = {trial for trial, owner in self._under_way.items() if _is_dead(owner)}
            frame = self._frame
            if dead:
                frame = frame.assign(state=frame["state"].mask(frame["trial"].isin(dead), "interrupted"))
            living = {trial: owner for trial, owner in self._under_way.items() if trial not in dead}
            version = (self.name, self.runs, self.storage, self._count, *self._mark, *sorted(dead))
            return KeptStudy(self, self._info, frame, living, version)

    def _find(self) -> tuple[int, ...]:
        """What tells one state of the journal from the next: the file, its size and its time; nothing of a database."""
        path = Path(self.runs) / self.name / JOURNAL
        if self.storage is not None or not path.exists():
            return ()
        found = path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _open(self) -> StudyRecords:
        if self._records is None:
            try:
                self._records = open_study(self.name, self.runs, self.storage)
            except UserError:
                raise
            except (
                Exception
            ) as error:  # whatever a library says of a stranger's file that happens to be called a journal
                raise UserError(
                    f"the record of study {self.name!r} can not be read ({type(error).__name__}: {error})"
                ) from error
        return self._records

    def _update(self, mark: tuple[int, ...]) -> None:
        if mark[:1] != self._mark[:1] or mark[1:2] < self._mark[1:2]:  # another file, or one that was cut
            self._records = None
            self._done.clear()
        if mark and self._records is None and self._load(mark):
            self._mark = mark
            return
        began, cold = time.perf_counter(), self._records is None
        try:
            study = self._open()._study
            trials = study.get_trials(deepcopy=False)
            info = study.user_attrs
            under_way = [trial for trial in trials if not trial.state.is_finished()]
            state = (
                len(trials),
                info,
                [(t.number, t.state, sorted(t.user_attrs), t.user_attrs.get("rungs")) for t in under_way],
            )
            if mark or state != self._state:
                self._read(trials, info)
            self._state, self._mark = state, mark
        except UserError:
            self._forget()
            raise
        except DATABASE_ERRORS as error:
            self._forget()
            raise UserError(f"--storage: the database does not answer ({type(error).__name__})") from error
        except Exception as error:
            self._forget()
            raise UserError(
                f"the record of study {self.name!r} can not be read ({type(error).__name__}: {error})"
            ) from error
        if mark and cold and time.perf_counter() - began > _SLOW_S:
            self._save()

    def _read(self, trials: list[optuna.trial.FrozenTrial], info: dict[str, Any]) -> None:
        choices, budget = known_choices(info), info["budget"]
        rows = []
        self._under_way = {}
        for trial in trials:
            values = self._done.get(trial.number)
            if values is None:
                row = trial_row(trial, choices, budget)
                if trial.state == TrialState.RUNNING:
                    row["state"] = "running"  # whether it is, is asked at every look
                    self._under_way[trial.number] = trial.user_attrs.get("owner")
                values = row_values(row, choices)
                if trial.state.is_finished():
                    self._done[trial.number] = values
            rows.append(values)
        self._info, self._frame = info, trial_frame(rows, choices)
        self._count += 1

    def _forget(self) -> None:
        self._records, self._mark, self._state = None, (), None
        self._done.clear()

    def _load(self, mark: tuple[int, ...]) -> bool:
        """Take the frame from the file that an earlier server left, if it is of this very journal and whole."""
        try:
            kept = json.loads((Path(self.runs) / self.name / _KEPT).read_text("utf-8"))
            if kept["format"] != _FORMAT or tuple(kept["journal"]) != mark:
                return False
            info, choices = dict(kept["info"]), known_choices(kept["info"])
            columns = [*COLUMNS, *choices]
            if kept["columns"] != columns:
                return False
            frame = pd.DataFrame(kept["rows"], columns=columns).astype({"trial": int})
            if frame["trial"].tolist() != list(range(len(frame))):
                return False
            under_way = {int(trial): owner for trial, owner in kept["under_way"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError):
            return False
        self._info, self._frame, self._under_way = info, frame, under_way
        self._count += 1
        return True

    def _save(self) -> None:
        folder = Path(self.runs) / self.name / _KEPT.parent
        frame = self._frame
        kept = {
            "format": _FORMAT,
            "journal": self._mark,
            "info": self._info,
            "columns": list(frame.columns),
            "rows": frame.astype(object).where(frame.notna(), None).to_numpy().tolist(),
            "under_way": self._under_way,
        }
        with contextlib.suppress(
            OSError, TypeError
        ):  # a disk that is full or may not be written: the page lives without
            if not folder.is_symlink():
                text = json.dumps(kept)
                write_atomic(Path(self.runs) / self.name / _KEPT, lambda file: file.write(text.encode()))


def _is_dead(owner: dict[str, Any] | None) -> bool:
    """Whether the process of a trial under way is gone, as `studies.records.trial_alive` has it."""
    return owners.alive(owner) is False or owners.restarted(owner)


def first_command(runs: Path, storage: str | None) -> str:
    """The command line that makes a study in this folder, or in this database, whose password is left out."""
    command = ["python", "-m", "studies.run", "--trials", "200"]
    if runs != Path("runs"):
        command += ["--runs", str(runs)]
    if storage is not None:
        command += ["--storage", without_password(storage)]
    return shlex.join(command)
