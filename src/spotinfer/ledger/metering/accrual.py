"""Accrued money: rate × time by the provider's rounding rules.

A provider bills *units* (``Billing.granularity`` seconds, counted from the start of each run of the machine). A unit
is owed as soon as it begins, at the rate in force at its beginning; the first ``Billing.minimum`` seconds of a run are
owed at once. So the accrued amount never falls, and because a window's amount is the difference of two such totals,
adjacent windows sum exactly to the whole.

Times here are integer microseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal

from ...core.model import Billing
from ...core.money import NANO, SECONDS_PER_HOUR, ZERO
from ...core.records import History, RateChange
from ...core.states import BILLING, State
from ..moments import SECOND, micros

_PER_HOUR = SECONDS_PER_HOUR * SECOND

_COLD = frozenset({State.REQUESTED, State.PROVISIONING, State.BOOTING, State.LOADING})
_WARM = frozenset({State.READY, State.DRAINING})


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of one run at one rate (dollars per hour; None: no price set). ``warm``: it had become ready."""

    start: int
    end: int
    rate: Decimal | None
    warm: bool


@dataclass(frozen=True, slots=True)
class Priced:
    """From ``start`` on the units of a run cost ``rate``."""

    start: int
    rate: Decimal | None


@dataclass(frozen=True, slots=True)
class Run:
    """One billed span: from the create call, or a resume, to the evidence of its end (or to now).

    ``warm`` are its ready stretches, ``prices`` its rates by the unit from which they hold.
    """

    start: int
    end: int
    unit: int
    minimum: int
    warm: tuple[tuple[int, int], ...]
    prices: tuple[Priced, ...]

    def owed_until(self, at: int) -> int:
        """The end of the time that is owed if the run were over at ``at``."""
        used = min(at, self.end) - self.start
        return self.start + max(self.minimum, _whole(used, self.unit)) if used > 0 else self.start

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, int, Decimal | None]]:
        """[start, end) cut where the rate changes."""
        for index, price in enumerate(self.prices):
            later = self.prices[index + 1].start if index + 1 < len(self.prices) else end
            low, high = max(start, price.start), min(end, later)
            if low < high:
                yield low, high, price.rate

    def segments(self, start: int, end: int) -> Iterator[Segment]:
        """The run within [start, end), cut where the rate or the warmth changes."""
        low, high = max(start, self.start), min(end, self.end)
        cuts = sorted({low, *(edge for span in self.warm for edge in span if low < edge < high)})
        for index, cut in enumerate(cuts):
            stop = cuts[index + 1] if index + 1 < len(cuts) else high
            warm = any(first <= cut < last for first, last in self.warm)
            for piece_start, piece_end, rate in self.pieces(cut, stop):
                yield Segment(piece_start, piece_end, rate, warm)


def runs(history: History, now: int) -> list[Run]:
    """The billed spans of a machine up to ``now``. A stopped machine costs nothing here; a lost one goes on costing."""
    found: list[Run] = []
    opened: int | None = None
    warm: list[tuple[int, int]] = []
    is_warm = False
    for start, end, state in _states(history, now):
        if state not in BILLING:
            if opened is not None:
                found.append(_run(history, opened, start, warm))
            opened, warm, is_warm = None, [], False
            continue
        opened = start if opened is None else opened
        is_warm = state in _WARM or (is_warm and state not in _COLD)
        if is_warm and start < end:
            warm.append((start, end))
    if opened is not None:
        found.append(_run(history, opened, now, warm))
    return [run for run in found if run.start < run.end]


def _states(history: History, now: int) -> Iterator[tuple[int, int, State]]:
    """(start, end, state), in order; a clock that went back between two transitions gives an empty span."""
    times: list[int] = []
    for transition in history.transitions:
        times.append(max(min(micros(transition.at), now), times[-1] if times else 0))
    for index, transition in enumerate(history.transitions):
        end = times[index + 1] if index + 1 < len(times) else now
        yield times[index], end, transition.after


def _run(history: History, start: int, end: int, warm: Sequence[tuple[int, int]]) -> Run:
    billing = history.record.billing
    unit = max(1, billing.granularity * SECOND)
    minimum = _whole(billing.minimum * SECOND, unit)
    joined: list[tuple[int, int]] = []
    for span in warm:
        if joined and joined[-1][1] == span[0]:
            joined[-1] = (joined[-1][0], span[1])
        else:
            joined.append(span)
    return Run(start, end, unit, minimum, tuple(joined), _prices(history.rates, start, billing))


def _prices(rates: Sequence[RateChange], start: int, billing: Billing) -> tuple[Priced, ...]:
    unit = max(1, billing.granularity * SECOND)
    settled = start + _whole(billing.minimum * SECOND, unit)
    changes = sorted(rates, key=lambda change: change.at)
    before = [change for change in changes if micros(change.at) <= start] or changes[:1]
    prices = [Priced(start, before[-1].per_hour if before else None)]
    for change in changes:
        at = micros(change.at)
        if at <= start or change is before[-1]:
            continue
        begins = max(settled, start + _whole(at - start, unit))
        while len(prices) > 1 and prices[-1].start >= begins:  # only the last change within a unit counts
            prices.pop()
        prices.append(Priced(begins, change.per_hour))
    return tuple(prices)


def _whole(span: int, unit: int) -> int:
    return -(-span // unit) * unit


def accrued_until(billed: Sequence[Run], at: int) -> Decimal:
    """What is owed for everything before ``at``, to the nano-dollar (rounded down). Time without a price adds none."""
    total = ZERO
    for run in billed:
        for start, end, rate in run.pieces(run.start, run.owed_until(at)):
            total += (rate or ZERO) * (end - start)
    return (total / _PER_HOUR).quantize(NANO, rounding=ROUND_DOWN)


def accrued_between(billed: Sequence[Run], since: int, until: int) -> Decimal:
    return accrued_until(billed, until) - accrued_until(billed, since)


def priced(segments: Sequence[Segment]) -> bool:
    """Whether every moment has a price; without one there is no amount, which is not the same as $0."""
    return all(segment.rate is not None for segment in segments)
