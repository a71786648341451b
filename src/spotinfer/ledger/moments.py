"""Time as an integer number of microseconds since 1970 (UTC): exact, sortable, the same in every database."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

SECOND = 1_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MICROSECOND = timedelta(microseconds=1)


def micros(at: datetime) -> int:
    return (at - EPOCH) // MICROSECOND


def moment(us: int) -> datetime:
    return EPOCH + timedelta(microseconds=us)


def micros_of(seconds: float) -> int:
    """Unix seconds, as the hot path has them."""
    return round(seconds * SECOND)
