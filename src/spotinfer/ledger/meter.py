"""The meter: what machines have cost, for people and for programs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..core.clock import Clock, WallClock
from ..core.errors import ConfigError, LedgerError
from ..core.records import History
from .metering import present
from .metering.attribution import take
from .metering.snapshot import Line, LineKind, RequestCost, Snapshot
from .tags import Tag, tag

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["HistorySource", "Line", "LineKind", "Meter", "RequestCost", "Snapshot"]


class HistorySource(Protocol):
    """What a meter needs of the ledger: the same read for callers that can await and for those that cannot."""

    async def histories(
        self, *, keys: Sequence[str] | None = None, since: datetime | None = None, until: datetime | None = None
    ) -> Sequence[History]: ...

    def histories_sync(
        self, *, keys: Sequence[str] | None = None, since: datetime | None = None, until: datetime | None = None
    ) -> Sequence[History]: ...


class Meter:
    """What the machines with these ``keys`` (None: all in the ledger) have cost and done.

    It holds no numbers: every look reads the ledger, so the requests of other processes are in it. ``since`` is a time
    or a trailing span that limits every look. The plain methods work in any thread and within a running event loop
    (they wait for the ledger for milliseconds); :meth:`asnapshot` does not wait in the loop.
    """

    def __init__(
        self,
        ledger: HistorySource,
        keys: Sequence[str] | None = None,
        *,
        since: datetime | timedelta | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._ledger = ledger
        self._keys = None if keys is None else tuple(keys)
        self._since = since
        self._clock = clock or WallClock()
        self._bounds(None, None)  # what cannot be meant is said here, not when the meter is printed

    def snapshot(self, *, since: datetime | timedelta | None = None, until: datetime | None = None) -> Snapshot:
        """The numbers of [since, until), by default everything up to now. Raises ``LedgerError``."""
        start, stop = self._bounds(since, until)
        histories = self._ledger.histories_sync(keys=self._keys, since=start, until=stop)
        return take(histories, since=start, until=stop, now=self._clock.now())

    async def asnapshot(self, *, since: datetime | timedelta | None = None, until: datetime | None = None) -> Snapshot:
        """:meth:`snapshot` for async code."""
        start, stop = self._bounds(since, until)
        histories = await self._ledger.histories(keys=self._keys, since=start, until=stop)
        return take(histories, since=start, until=stop, now=self._clock.now())

    def window(self, *, days: float = 0, hours: float = 0, minutes: float = 0) -> Snapshot:
        """The trailing window that ends now: ``meter.window(days=7)``."""
        length = timedelta(days=days, hours=hours, minutes=minutes)
        if length <= timedelta(0):
            raise ConfigError("a window must have a length", hint="for example meter.window(days=7)")
        return self.snapshot(since=length)

    def tag(self, name: str) -> Tag:
        """``with meter.tag("experiment-1"):`` counts the requests made within under that name."""
        return tag(name)

    def export(self, path: str | os.PathLike[str]) -> Path:
        """Write lines and requests to a ``.csv`` or ``.json`` file."""
        from .export import export

        return export(self.snapshot(), path)

    def __str__(self) -> str:
        return present.as_text(self.snapshot())

    def __repr__(self) -> str:
        try:
            return f"<Meter {present.short(self.snapshot())}>"
        except LedgerError as error:  # a repr is shown by debuggers and tracebacks: it must not raise
            return f"<Meter: {error.message}>"

    def __rich__(self) -> RenderableType:
        return present.as_rich(self.snapshot())

    def _repr_html_(self) -> str:
        return present.as_html(self.snapshot())

    def _bounds(
        self, since: datetime | timedelta | None, until: datetime | None
    ) -> tuple[datetime | None, datetime | None]:
        limits = [self._moment(limit) for limit in (self._since, since) if limit is not None]
        start, stop = max(limits, default=None), None if until is None else self._moment(until)
        if start is not None and stop is not None and stop <= start:
            raise ConfigError("a window must end after it begins", hint="swap since and until")
        return start, stop

    def _moment(self, limit: datetime | timedelta) -> datetime:
        if isinstance(limit, timedelta):
            return self._clock.now() - limit
        if not isinstance(limit, datetime):
            raise ConfigError(
                f"{limit!r} is neither a time nor a span of time", hint="for example since=timedelta(days=7)"
            )
        if limit.tzinfo is None:
            raise ConfigError(
                f"{limit.isoformat()} has no time zone", hint="for example datetime(2026, 11, 1, tzinfo=timezone.utc)"
            )
        return limit.astimezone(timezone.utc)
