"""Connecting: where the ledger is, how each database is set up, and what its errors mean to us."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import QueuePool, StaticPool

from ...core.errors import ConfigError, LedgerCorrupt, LedgerError, LedgerUnwritable, MissingExtra

BUSY_SECONDS = 10.0
"""How long to wait for another process that is writing."""

_MEMORY = ":memory:"
_UNWRITABLE = ("readonly database", "read-only", "disk is full", "unable to open", "disk i/o error", "no space left")
_CORRUPT = ("not a database", "malformed", "unsupported file format")


class RowExists(LedgerError):
    """A row of that identity is in the database already."""


class Location:
    """Where the ledger is: a file, memory, or a PostgreSQL database. ``str`` never shows a password."""

    def __init__(self, where: str | os.PathLike[str]) -> None:
        self.url = _parse(where)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        database = self.url.database or _MEMORY
        self.memory = self.sqlite and database == _MEMORY
        self.path = Path(database) if self.sqlite and not self.memory else None

    def __str__(self) -> str:
        return str(self.path) if self.path else self.url.render_as_string(hide_password=True)

    def connect(self) -> Engine:
        """An engine with at most one connection, usable from any one thread at a time."""
        if self.sqlite:
            return self._sqlite()
        try:
            import psycopg  # noqa: F401 - SQLAlchemy would raise its own error for a missing driver
        except ImportError as error:
            raise MissingExtra("a PostgreSQL ledger", "postgres") from error
        return create_engine(self.url, pool_size=1, max_overflow=0, pool_pre_ping=True)

    def _sqlite(self) -> Engine:
        if self.path is not None:
            _make_private(self.path)
        engine = create_engine(
            self.url,
            poolclass=StaticPool if self.memory else QueuePool,
            connect_args={"check_same_thread": False, "timeout": BUSY_SECONDS},
            **({} if self.memory else {"pool_size": 1, "max_overflow": 0}),
        )
        event.listen(engine, "connect", _set_up)
        event.listen(engine, "begin", _begin)
        return engine


def _parse(where: str | os.PathLike[str]) -> URL:
    text = os.fspath(where)
    if text == _MEMORY:
        return URL.create("sqlite", database=_MEMORY)
    if "://" not in text:
        return URL.create("sqlite", database=str(Path(text).expanduser().absolute()))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise ConfigError("the ledger's URL cannot be read", hint=_URL_HINT) from error
    backend = url.drivername.partition("+")[0]
    if backend in ("postgres", "postgresql"):
        return url.set(drivername="postgresql+psycopg")
    if backend == "sqlite":
        return url.set(drivername="sqlite")
    raise ConfigError(f"a ledger cannot be kept in {backend!r}", hint=_URL_HINT)


_URL_HINT = "use a file path, or postgresql://user@host/database"


def _make_private(path: Path) -> None:
    """Create the file for its user alone, before SQLite would do so with the usual rights."""
    for folder in reversed([p for p in path.parents if not p.exists()]):
        folder.mkdir(mode=0o700, exist_ok=True)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise
        if stat.S_IMODE(found.st_mode) & 0o077 and found.st_uid == os.geteuid():
            path.chmod(0o600)


def _set_up(connection: sqlite3.Connection, record: object) -> None:
    # We begin transactions ourselves: the driver would begin them lazily and deferred, which makes two processes that
    # read and then write fail instead of queueing.
    connection.isolation_level = None
    # FULL: a commit is on the disk when it returns. An intent that a power cut can take back is a machine that nobody
    # knows of; WAL with NORMAL would allow just that. The cost is one fsync a commit, and usage rows share theirs.
    connection.execute("PRAGMA synchronous=FULL")
    _retry_while_locked(connection, "PRAGMA journal_mode=WAL")


def _retry_while_locked(connection: sqlite3.Connection, statement: str) -> None:
    """Changing to WAL takes an exclusive lock, for which SQLite does not wait by itself."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute(statement).close()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _begin(connection: Connection) -> None:
    # IMMEDIATE: whoever means to write waits for the lock before it reads what it decides upon.
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


@contextmanager
def ledger_errors(location: Location) -> Iterator[None]:
    """Turn every error of the database, its driver and the file system into ours."""
    try:
        yield
    except IntegrityError as error:
        raise RowExists(f"{location}: the row exists already ({_reason(error)})") from error
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise _translate(error, location) from error


def _reason(error: BaseException) -> str:
    """The database's own words; never the statement with its parameters, which SQLAlchemy would add."""
    origin: Any = getattr(error, "orig", None) or error
    return str(origin).strip() or type(origin).__name__


def _translate(error: Exception, location: Location) -> LedgerError:
    reason = _reason(error)
    lower = reason.lower()
    if location.sqlite and any(mark in lower for mark in _CORRUPT):
        return LedgerCorrupt(
            f"the ledger {location} is damaged ({reason}); it was left untouched",
            hint="copy it, then try `sqlite3 COPY .recover`; or move it away to begin a new one, after a look at your"
            " providers' consoles: machines that only this file knew of must be ended there",
        )
    if isinstance(error, OSError) or any(mark in lower for mark in _UNWRITABLE):
        return LedgerUnwritable(
            f"the ledger {location} cannot be written ({reason})",
            hint="free some space, or set SPOTINFER_HOME to a folder you can write to;"
            " nothing is rented while it cannot be recorded",
        )
    if "locked" in lower:
        return LedgerError(
            f"the ledger {location} is locked ({reason})", hint="another program holds it open; close it and try again"
        )
    hint = None if location.sqlite else "is the server up, and are address, user and password in the URL right?"
    return LedgerError(f"the ledger {location} failed: {reason}", hint=hint)
