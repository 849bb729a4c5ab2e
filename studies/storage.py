"""Where a study's trials live: an append-only journal in the study's folder, or a PostgreSQL that many machines share."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import LOCK_FILE_SUFFIX
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError, TimeoutError

from search_space.errors import UserError

JOURNAL = "journal.log"
TORN = "journal.torn.log"
"""A journal as it was before a line in its middle was mended."""

GRACE = 6
"""Heartbeats that a coordinator may miss before another one takes its trials for lost. Assumed: a minute at the default."""

DATABASE_ERRORS = (SQLAlchemyError, StorageInternalError)
"""What Optuna and its database raise; `is_gone` tells those that pass."""

_CREATE_TRIAL = 4  # the journal's own number for it
# A session that dies with its machine, or hangs, is ended by the server within seconds, so its locks do not outlive it.
_SESSION = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "idle_in_transaction_session_timeout": "120s",
    # Asking for a network takes some 25 small transactions; the end of a lock sees to it that they have reached the disk.
    "synchronous_commit": "off",
}


class _Journal(JournalFileBackend):
    """Optuna's file, which a disk that fills up leaves as it was before the record that did not fit."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add records. Raises `OSError`, and then none of them has been added."""
        size = os.path.getsize(self._file_path)
        try:
            super().append_logs(logs)
        except OSError:
            os.truncate(self._file_path, size)
            raise


def mend_journal(folder: Path) -> list[str]:
    """Make the journal readable again after a kill, a full disk or a crash of the machine: what was done, a line each.

    A last line without its end goes: the next record would be written onto it. A line in the middle that can not be read is a record that
    was never confirmed, with the next one behind it, which is kept; or it is lost. A lost state leaves its trial under way, so that it is
    trained again. A lost beginning of a trial would give all later trials the wrong numbers: an empty one takes its place. The file as it
    was is kept as `TORN`. To be called by the study's only writer.
    """
    path = folder / JOURNAL
    (folder / f"{JOURNAL}{LOCK_FILE_SUFFIX}").unlink(missing_ok=True)  # a writer that was killed could not
    if not path.exists() or not (content := path.read_bytes()):
        return []
    said = []
    if not content.endswith(b"\n"):
        content = content[: content.rfind(b"\n") + 1]
        with path.open("r+b") as file:
            file.truncate(len(content))
        said.append(f"{path}: the last line was torn and has been cut off")
    records = [_record(line) for line in content.splitlines()]
    if all(records):
        return said
    for number, (line, record) in enumerate(zip(content.splitlines(), records, strict=True)):
        if record is None:
            records[number] = _behind(line)
            fate = "the record behind it is kept" if records[number] else "its record is lost"
            said.append(f"{path}: line {number + 1} was torn; {fate}; the file as it was: {TORN}")
    lost = [number for number, record in enumerate(records) if record is None]
    known = [record for record in records if record]
    created = sum(record["op_code"] == _CREATE_TRIAL for record in known)
    missing = max([record.get("trial_id", -1) for record in known], default=-1) + 1 - created
    template = next((record for record in known if record["op_code"] == _CREATE_TRIAL), None)
    for number in lost[: max(0, missing)]:
        if template is not None:
            kept = ("op_code", "worker_id", "study_id", "datetime_start")
            records[number] = {key: template[key] for key in kept if key in template}
    mended = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records if record)
    (folder / TORN).write_bytes(content)
    temporary = folder / f".{JOURNAL}.mended"
    temporary.write_text(mended, "utf-8")
    os.replace(temporary, path)
    return said


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "op_code" in record else None


def _behind(line: bytes) -> dict[str, Any] | None:
    """The whole record at the end of a line that begins with a torn one."""
    starts = [match.start() for match in re.finditer(rb'\{"op_code"', line)]
    return next((record for start in starts if (record := _record(line[start:]))), None)


def is_gone(error: BaseException) -> bool:
    """Whether the database did not answer, which passes, and not refuse what it was asked, which does not."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return isinstance(cause, OperationalError | InterfaceError | TimeoutError) or (
        isinstance(cause, DBAPIError) and cause.connection_invalidated
    )


def open_storage(
    folder: Path, url: str | None = None, *, heartbeat_s: int | None = None, looking: bool = False
) -> BaseStorage:
    """Optuna's storage for the study in `folder`: its journal, or the PostgreSQL at `url`.

    With `heartbeat_s` the database is asked for heartbeats every so many seconds; `looking` opens it read-only. SQLite is refused because
    it loses races between processes (Optuna's own advice), other databases because nothing here was tried on them. Raises `UserError` for
    a URL that can not be used, or a database that does not answer.
    """
    if url is None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return JournalStorage(_Journal(str(folder / JOURNAL)))
        except ValueError as error:
            raise UserError(
                f"{folder / JOURNAL} is torn or no journal ({error}); `python -m studies.run` on this study mends it"
            ) from error
    address = database_url(url)
    options = {**_SESSION, **({"default_transaction_read_only": "on"} if looking else {})}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            if looking:
                return RDBStorage(address, _engine_options(options), skip_table_creation=True)
            grace = None if heartbeat_s is None else GRACE * heartbeat_s
            with database_lock(url, "tables")():  # two machines that come first do not both make them
                storage = RDBStorage(
                    address, _engine_options(options), heartbeat_interval=heartbeat_s, grace_period=grace
                )
                event.listen(storage.engine, "connect", _in_universal_time)
                storage.engine.dispose()  # those that were opened before
                return storage
    except ImportError as error:
        raise UserError(
            f"--storage postgresql: its driver is not installed ({error}); pip install 'dssdn-explorer[postgres]'"
        ) from error
    except DATABASE_ERRORS as error:
        if looking and "does not exist" in str(error.__cause__ or error):
            raise UserError("--storage: the database holds no studies") from error
        said = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"--storage: the database can not be opened ({type(error).__name__}: {said})") from error


def database_url(url: str) -> str:
    """The address for SQLAlchemy, by psycopg 3. Raises `UserError` for anything but a PostgreSQL."""
    kind = url.split(":")[0]
    if kind.startswith("sqlite"):
        raise UserError(
            f"--storage {url!r}: SQLite loses trials between processes; leave --storage out (a journal) or name a PostgreSQL"
        )
    if kind not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise UserError(f"--storage takes postgresql://user@host/database, not one that begins with {kind!r}")
    return "postgresql+psycopg" + url[len(kind) :]


def database_lock(url: str, name: str) -> Callable[[], Any]:
    """A function that gives a block which one process at a time is in, of all that use this database and name.

    It is PostgreSQL's advisory lock, held by a transaction: the server lets go of it when the process or its machine dies. Where the
    connection breaks within the block, its end raises one of `DATABASE_ERRORS`: what was done in it may not have been done alone. At its end all
    that was written before is on the database's disk.
    """
    engine: Engine = create_engine(database_url(url), **_engine_options(_SESSION), pool_size=1)
    key = int.from_bytes(hashlib.sha256(f"dssdn {name}".encode()).digest()[:8], "big", signed=True)

    @contextmanager
    def locked() -> Iterator[None]:
        with engine.begin() as connection:
            connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": key})
            yield
            connection.execute(text("set local synchronous_commit = on"))
            connection.execute(
                text("select pg_current_xact_id()")
            )  # one that changes something: its end waits for the disk

    return locked


def _in_universal_time(connection: Any, _: object) -> None:
    """Heartbeats are times of the server's clock in the zone of the session, which a machine's PGTZ would set."""
    connection.autocommit = True
    connection.execute("set time zone 'UTC'")
    connection.autocommit = False


def _engine_options(session: dict[str, str]) -> dict[str, Any]:
    """For SQLAlchemy: connections are tried before they are used, and none is waited for without end."""
    settings = " ".join(f"-c {name}={value}" for name, value in session.items())
    network = {"connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
    return {"pool_pre_ping": True, "connect_args": {"options": settings, **network, "tcp_user_timeout": 30_000}}
