"""Where control code takes the time of day from.

Durations and deadlines come from anyio (``sleep``, ``fail_after``, ``current_time``). The time of day, which goes into
the ledger, must follow the same clock, or a simulated month would be recorded within one second.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """Aware UTC."""
        ...


class WallClock:
    """The computer's clock."""

    def now(self) -> datetime:
        return datetime.now(timezone.utc)


class LoopClock:
    """``epoch`` plus what the event loop's clock has advanced: under virtual time the month passes in a second."""

    def __init__(self, epoch: datetime | None = None) -> None:
        self._epoch = epoch or datetime(2026, 1, 1, tzinfo=timezone.utc)

    def now(self) -> datetime:
        import anyio  # on use: importing core must stay cheap

        return self._epoch + timedelta(seconds=anyio.current_time())


def utc(seconds: float) -> datetime:
    """Unix seconds as an aware time."""
    return datetime.fromtimestamp(seconds, timezone.utc)
