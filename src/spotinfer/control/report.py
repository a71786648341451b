"""Signs of life: what a launch is doing, for how long, and what it has cost so far."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from ..core.clock import Clock
from ..core.model import Phase, Progress
from ..core.money import for_time
from ..core.protocols import ProgressListener


class Reporter:
    """Adds elapsed time and money to what the saga says. ``rented_at`` and ``per_hour`` are set by the saga."""

    def __init__(self, listener: ProgressListener, clock: Clock, name: str = "") -> None:
        self.name = name
        self.per_hour: Decimal | None = None
        self.rented_at: datetime | None = None
        self._listener = listener
        self._clock = clock
        self._started = clock.now()

    def __call__(self, phase: Phase, message: str, fraction: float | None = None) -> None:
        now = self._clock.now()
        self._listener(
            Progress(
                phase=phase,
                message=message,
                elapsed=now - self._started,
                spent=self._spent(now),
                fraction=fraction,
                name=self.name,
            )
        )

    def _spent(self, now: datetime) -> Decimal | None:
        if self.per_hour is None or self.rented_at is None:
            return None
        return for_time(self.per_hour, (now - self.rented_at).total_seconds())
