"""What is shown of one launch, whoever draws it: phases with times, and the money so far. Safe from any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from enum import Enum

from ...core.model import Phase, Progress
from ...core.money import usd
from ..durations import format_duration

_ORDER = {phase: position for position, phase in enumerate(Phase)}
_MOST_ROWS = 12


class Outcome(Enum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One phase. Times are seconds of the board's clock."""

    phase: Phase
    message: str
    began: float
    ended: float | None = None
    outcome: Outcome = Outcome.RUNNING
    fraction: float | None = None

    def line(self) -> str:
        share = f" {self.fraction:.0%}" if self.fraction is not None and self.outcome is Outcome.RUNNING else ""
        return " ".join(f"{self.message}{share}".split())

    def took(self, now: float) -> str:
        return format_duration(timedelta(seconds=max(0.0, (self.ended or now) - self.began)))


class Board:
    """Fed by :meth:`take` and closed by :meth:`close`; drawn from :meth:`rows` and :meth:`spent` at any time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.name = ""
        self.started = clock()
        self._clock = clock
        self._lock = threading.Lock()
        self._rows: list[Row] = []
        self._money: tuple[float, Decimal] | None = None
        self._rate: Decimal | None = None

    def take(self, progress: Progress) -> None:
        now = self._clock()
        with self._lock:
            self.name = progress.name or self.name
            self._take_money(now, progress)
            last = self._rows[-1] if self._rows else None
            if last is not None and last.phase is progress.phase and last.outcome is Outcome.RUNNING:
                self._rows[-1] = replace(last, message=progress.message, fraction=progress.fraction)
                return
            self._finish(now, _outcome_before(last, progress.phase))
            began = self.started if progress.phase is Phase.READY or last is None else now
            row = Row(phase=progress.phase, message=progress.message, began=began, fraction=progress.fraction)
            self._rows.append(row)
            if progress.phase is Phase.READY:
                self._finish(now, Outcome.DONE)
            del self._rows[:-_MOST_ROWS]

    def close(self, *, failed: bool) -> None:
        """The launch is over. Cleaning up after a failure is no failure itself."""
        with self._lock:
            last = self._rows[-1] if self._rows else None
            ending = last is not None and last.phase is Phase.END
            self._finish(self._clock(), Outcome.FAILED if failed and not ending else Outcome.DONE)

    def rows(self) -> tuple[Row, ...]:
        with self._lock:
            return tuple(self._rows)

    @property
    def now(self) -> float:
        return self._clock()

    def spent(self) -> str:
        """Dollars so far; between two reports it goes on at the rate that they imply. Empty where no price is known."""
        with self._lock:
            if self._money is None:
                return ""
            at, amount = self._money
            running = bool(self._rows) and self._rows[-1].outcome is Outcome.RUNNING
            since = self._clock() - at if running and self._rate is not None else 0.0
            return usd(amount + (self._rate or Decimal(0)) * Decimal(str(since)), digits=4)

    def _take_money(self, now: float, progress: Progress) -> None:
        if progress.spent is None:
            return
        if self._money is not None and now - self._money[0] > 0.05:
            self._rate = max(Decimal(0), (progress.spent - self._money[1]) / Decimal(str(now - self._money[0])))
        self._money = (now, progress.spent)

    def _finish(self, now: float, outcome: Outcome) -> None:
        if self._rows and self._rows[-1].outcome is Outcome.RUNNING:
            self._rows[-1] = replace(self._rows[-1], ended=now, outcome=outcome)


def _outcome_before(last: Row | None, phase: Phase) -> Outcome:
    """Going back to an earlier phase, or to the end without having been ready, means that the last one failed."""
    if last is None:
        return Outcome.DONE
    return Outcome.FAILED if phase is Phase.END or _ORDER[phase] < _ORDER[last.phase] else Outcome.DONE
