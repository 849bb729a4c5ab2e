"""Where a study's trials live: an append-only journal in the study's folder, or a database that the user names."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

from search_space.errors import UserError

JOURNAL = "journal.log"


def mend_journal(folder: Path) -> None:
    """Cut off a last line that a full disk or a kill left unfinished, or the next record would be written onto it.

    To be called by the study's only writer.
    """
    path = folder / JOURNAL
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def open_storage(folder: Path, url: str | None = None) -> BaseStorage:
    """Optuna's storage for the study in `folder`: its journal, or the database at `url`.

    SQLite is refused because it loses races between processes (Optuna's own advice). Raises `UserError` for a URL that can not be used.
    """
    if url is None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
        except json.JSONDecodeError as error:
            raise UserError(f"{folder / JOURNAL} is torn or no journal ({error}); mend or remove that line") from error
    if url.startswith("sqlite"):
        raise UserError(
            f"--storage {url!r}: SQLite loses trials between processes; leave --storage out (a journal) or name a PostgreSQL"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return RDBStorage(url)
    except ImportError as error:
        raise UserError(
            f"--storage {url.split(':')[0]}: its driver is not installed ({error}); pip install it"
        ) from error
    except SQLAlchemyError as error:
        raise UserError(f"--storage: the database can not be opened ({type(error).__name__}: {error})") from error
