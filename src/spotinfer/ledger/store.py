"""The ledger over SQLite or PostgreSQL."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TypeVar

from sqlalchemy import Connection, Engine

from ..core.clock import Clock, WallClock
from ..core.errors import LedgerError
from ..core.model import Charge
from ..core.records import History, Intent, Record, RequestRow, Sample
from ..core.states import Cause, State
from .sql import read, write
from .sql.engine import BUSY_SECONDS, Location, ledger_errors
from .sql.migrate import migrate
from .sql.schema import intents
from .sql.usage import UsageQueue
from .sql.writer import WriterThread

_log = logging.getLogger("spotinfer.ledger")

T = TypeVar("T")
Action = Callable[[Connection], T]


def open_ledger(
    where: str | os.PathLike[str], *, clock: Clock | None = None, inline: bool = False, owner: str | None = None
) -> SqlLedger:
    """Open the ledger, creating or migrating it where needed. Blocks for some milliseconds.

    ``where`` is a file path, ``":memory:"`` or a ``postgresql://`` URL. ``inline``: no thread, everything happens in
    the calling task (for virtual time and tests). ``owner`` names the installation if the ledger is new.
    Raises ``LedgerError`` (``LedgerCorrupt``, ``LedgerUnwritable``), ``ConfigError`` for a URL that is none of these,
    ``MissingExtra`` where psycopg is needed and not installed.
    """
    return SqlLedger(where, clock=clock, inline=inline, owner=owner)


class SqlLedger:
    """:class:`spotinfer.core.protocols.Ledger`, with synchronous reading for the meter.

    One thread owns the connection. An awaited write that is cancelled is still performed whole: once it is queued it
    happens. After :meth:`aclose` (and in the child of a fork) the next use opens it again, so a meter can be printed
    and a late stream recorded after the server's ``with`` block.
    """

    def __init__(
        self,
        where: str | os.PathLike[str],
        *,
        clock: Clock | None = None,
        inline: bool = False,
        owner: str | None = None,
    ) -> None:
        self._location = Location(where)
        self._clock = clock or WallClock()
        self._inline = inline
        self._engine: Engine | None = None
        self._thread: WriterThread | None = None
        self._gate = threading.RLock()
        """Held by whoever uses the connection."""
        self._starting = threading.Lock()
        self._gone = False
        self._usage = UsageQueue(self._write_usage)
        with ledger_errors(self._location):
            self._owner = self._open(owner)
        _OPEN.add(self)

    @property
    def owner(self) -> str:
        return self._owner

    @property
    def location(self) -> str:
        """The file, or the URL without its password."""
        return str(self._location)

    def __repr__(self) -> str:
        return f"<SqlLedger {self._location}>"

    # --- writing ---------------------------------------------------------------------------------------------------

    async def intend(self, intent: Intent) -> Record:
        try:
            return await self._write(lambda connection: write.add_intent(connection, intent), strict=True)
        except write.NameIsClaimed as error:
            taken = await self._read(lambda connection: write.name_taken(connection, intent))
            raise taken from error

    async def created(self, key: str, instance_id: str, at: datetime) -> None:
        await self._write(lambda connection: write.add_binding(connection, key, instance_id, at))

    async def move(self, key: str, after: State, cause: Cause, at: datetime, detail: str = "") -> Record:
        return await self._write(lambda connection: write.add_move(connection, key, after, cause, at, detail))

    async def want_end(self, key: str, cause: Cause, at: datetime, detail: str = "") -> Record:
        return await self._write(lambda connection: write.add_end_wish(connection, key, cause, at, detail))

    async def want_stop(self, key: str, wanted: bool, at: datetime) -> Record:
        return await self._write(lambda connection: write.add_stop_wish(connection, key, wanted, at))

    async def rate(self, key: str, per_hour: Decimal | None, at: datetime) -> None:
        await self._write(lambda connection: write.add_rate(connection, key, per_hour, at), strict=True)

    async def sample(self, sample: Sample) -> None:
        await self._write(lambda connection: write.add_sample(connection, sample), strict=True)

    async def add_charges(self, charges: Iterable[Charge]) -> None:
        billed = list(charges)
        await self._write(lambda connection: write.add_charges(connection, billed), strict=True)

    def request(self, row: RequestRow) -> None:
        """The hot path: appends to a queue. Never blocks, never raises; errors surface at the next awaited call."""
        usage = self._usage
        usage.append(row)
        if self._inline:
            usage.flush()
        elif not usage.armed:
            usage.armed = True
            try:
                self._writer().announce()
            except RuntimeError:  # no thread can be started now (the interpreter ends, or a limit was hit)
                usage.armed = False

    async def flush(self) -> None:
        """Returns when every request queued so far is durable. Raises ``LedgerUnwritable`` when that cannot be."""
        await self._do(self._flush_or_raise)

    # --- reading ---------------------------------------------------------------------------------------------------

    async def record(self, key: str) -> Record | None:
        found = await self._read(lambda connection: read.load_records(connection, intents.c.key == key))
        return found[0] if found else None

    async def find(self, name: str) -> Record | None:
        found = await self._read(
            lambda connection: read.load_records(connection, (intents.c.name == name) & read.live())
        )
        return found[0] if found else None

    async def records(self, *, live: bool | None = None) -> Sequence[Record]:
        where = read.during(None, None) if live is None else read.live() if live else read.ended()
        return await self._read(lambda connection: read.load_records(connection, where))

    async def histories(
        self, *, keys: Sequence[str] | None = None, since: datetime | None = None, until: datetime | None = None
    ) -> Sequence[History]:
        return await self._do(self._histories(keys, since, until))

    def histories_sync(
        self, *, keys: Sequence[str] | None = None, since: datetime | None = None, until: datetime | None = None
    ) -> Sequence[History]:
        """:meth:`histories` for callers that cannot await: from any thread, also within a running event loop.

        Waits for the writer thread for some milliseconds. Requests queued so far are included.
        """
        return self._do_sync(self._histories(keys, since, until))

    def _histories(
        self, keys: Sequence[str] | None, since: datetime | None, until: datetime | None
    ) -> Callable[[], list[History]]:
        where = read.during(since, until)
        if keys is not None:
            where = where & intents.c.key.in_(list(keys))

        def action() -> list[History]:
            self._flush_or_raise()
            return self._transact(lambda connection: read.load_histories(connection, where, since, until), reading=True)

        return action

    # --- the life of the connection --------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Write what is queued and let go of thread and connection. Repeatable."""
        if self._thread is None:
            self.close()
            return
        try:
            await self._do(self._flush_or_raise)
        finally:
            self._release()

    def close(self, timeout: float | None = None) -> None:
        """:meth:`aclose` for callers that cannot await; gives up after ``timeout`` seconds."""
        try:
            if len(self._usage):
                self._do_sync(self._flush_or_raise, timeout)
        finally:
            self._release(timeout)

    def _release(self, timeout: float | None = None) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop(timeout)
        with self._gate:
            if self._engine is not None and len(self._usage):  # queued while the thread was ending
                self._usage.flush()
            engine, self._engine = self._engine, None
            if engine is not None:
                engine.dispose()

    def _open(self, owner: str | None = None) -> str:
        if self._gone:
            raise LedgerError("the ledger in memory was closed; what it held is gone")
        engine = self._location.connect()
        try:
            with engine.begin() as connection:
                known = migrate(connection, self._location, self._clock.now(), owner=owner)
        except BaseException:
            engine.dispose()
            raise
        self._engine, self._gone = engine, self._location.memory
        return known

    def _writer(self) -> WriterThread:
        thread = self._thread
        if thread is None:
            with self._starting:
                thread = self._thread = self._thread or WriterThread(self._usage, self._gate)
        return thread

    def _before_fork(self) -> bool:
        """Wait until nothing is under way, and disconnect: a child must not inherit so much as an open SQLite file."""
        held = self._gate.acquire(timeout=BUSY_SECONDS)
        if held and self._engine is not None and not self._location.memory:
            self._engine.dispose()
        return held

    def _after_fork_in_child(self) -> None:
        self._gate = threading.RLock()
        self._starting = threading.Lock()
        self._thread = None
        self._usage = UsageQueue(self._write_usage)  # the rows that were queued are the parent's to write

    # --- doing things where they belong ----------------------------------------------------------------------------

    async def _write(self, action: Action[T], *, strict: bool = False) -> T:
        """``strict`` calls also raise when queued usage cannot be written. Those that find or end a machine do not:
        statistics must never stand in the way of stopping the money."""

        def perform() -> T:
            if strict and self._usage.failing:
                self._flush_or_raise()
            return self._transact(action)

        return await self._do(perform)

    async def _read(self, action: Action[T]) -> T:
        return await self._do(lambda: self._transact(action, reading=True))

    async def _do(self, action: Callable[[], T]) -> T:
        if self._inline:
            return action()
        return await self._writer().submit(action).wait()

    def _do_sync(self, action: Callable[[], T], timeout: float | None = None) -> T:
        thread = self._thread
        if thread is None:
            with self._gate:
                return action()
        job = thread.submit(action)
        if not job.finished.wait(timeout):
            raise LedgerError(f"the ledger {self._location} did not answer within {timeout:g} seconds")
        return job.result()

    def _transact(self, action: Action[T], *, reading: bool = False) -> T:
        with ledger_errors(self._location):
            if self._engine is None:
                self._open()
            assert self._engine is not None
            engine = self._engine.execution_options(reading=True) if reading else self._engine
            with engine.begin() as connection:
                return action(connection)

    def _write_usage(self, rows: list[dict[str, object]]) -> None:
        self._transact(lambda connection: write.add_requests(connection, rows))

    def _flush_or_raise(self) -> None:
        self._usage.flush()
        error = self._usage.take_error()
        if error is not None:
            raise error


# --- the ends of a process -------------------------------------------------------------------------------------------

_OPEN: weakref.WeakSet[SqlLedger] = weakref.WeakSet()
_EXIT_SECONDS = 5.0
_fork = threading.local()


def _close_all() -> None:
    for ledger in list(_OPEN):
        try:
            ledger.close(_EXIT_SECONDS)
        except LedgerError as error:
            _log.error("usage rows were lost at exit: %s", error.message)


def _before_fork() -> None:
    _fork.held = [ledger._gate for ledger in list(_OPEN) if ledger._before_fork()]


def _after_fork_in_parent() -> None:
    for gate in _fork.held:
        gate.release()


def _after_fork_in_child() -> None:
    for ledger in list(_OPEN):
        ledger._after_fork_in_child()


atexit.register(_close_all)
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
