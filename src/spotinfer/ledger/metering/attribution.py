"""Who the accrued money was spent for: requests by their share of the time in which they were in flight.

In a moment with ``n`` requests in flight each is charged ``1/n`` of what that moment costs. Moments with none in flight
are *cold start* (before the engine was ready), *other traffic* or *idle*. The parts of one machine are rounded together
by largest remainder, so they sum to its accrued amount exactly, in any window.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from itertools import pairwise

from ...core.model import OfferKind
from ...core.money import ZERO, split
from ...core.records import History, RequestRow
from ..moments import SECOND, micros, micros_of
from .accrual import Segment, accrued_between, priced, runs
from .snapshot import Line, LineKind, RequestCost, Snapshot
from .traffic import SETTLE, OtherTraffic, other_traffic

UNTAGGED = "(no tag)"


@dataclass(slots=True)
class Shares:
    """Plain time (microseconds) and weighted time (× dollars per hour) of each use.

    ``weights`` and ``times`` belong to the single flights.
    """

    weights: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    cold_weight: float = 0.0
    cold_time: int = 0
    idle_weight: float = 0.0
    idle_time: int = 0
    warm_time: int = 0
    warm_busy_time: int = 0


def share(segments: Sequence[Segment], flights: Sequence[tuple[int, int]]) -> Shares:
    """Divide the time of ``segments`` (ordered, disjoint) among ``flights``, in O(n log n).

    Between two boundaries everything is constant, so a flight's share is the difference of two running integrals.
    """
    shares = Shares()
    weight = time = 0.0
    weight_at: dict[int, float] = {}
    time_at: dict[int, float] = {}
    for start, end, segment, in_flight in _slices(segments, flights):
        weight_at[start], time_at[start] = weight, time
        if segment is not None:
            length = end - start
            value = length * float(segment.rate or 0)
            if in_flight:
                weight += value / in_flight
                time += length / in_flight
            _count(shares, segment, length, value, in_flight)
        weight_at[end], time_at[end] = weight, time
    for start, end in flights:
        flew = start < end
        shares.weights.append(weight_at[end] - weight_at[start] if flew else 0.0)
        shares.times.append(time_at[end] - time_at[start] if flew else 0.0)
    return shares


def _slices(
    segments: Sequence[Segment], flights: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int, Segment | None, int]]:
    """(start, end, the segment that it is part of, flights in the air) between any two boundaries."""
    changes: dict[int, int] = defaultdict(int)
    for start, end in flights:
        if start < end:
            changes[start] += 1
            changes[end] -= 1
    edges = sorted({*changes, *(edge for segment in segments for edge in (segment.start, segment.end))})
    in_flight = index = 0
    for start, end in pairwise(edges):
        in_flight += changes.get(start, 0)
        while index < len(segments) and segments[index].end <= start:
            index += 1
        inside = index < len(segments) and segments[index].start <= start
        yield start, end, segments[index] if inside else None, in_flight


def _count(shares: Shares, segment: Segment, length: int, value: float, in_flight: int) -> None:
    if segment.warm:
        shares.warm_time += length
        shares.warm_busy_time += length if in_flight else 0
    if in_flight:
        return
    if segment.warm:
        shares.idle_time += length
        shares.idle_weight += value
    else:
        shares.cold_time += length
        shares.cold_weight += value


@dataclass(frozen=True, slots=True)
class MachineCosts:
    """One machine in one window. Amounts are None where a price is missing."""

    accrued: Decimal | None
    cold: Decimal | None
    idle: Decimal | None
    other: Decimal | None
    requests: tuple[RequestCost, ...]
    traffic: OtherTraffic
    shares: Shares
    other_time: int


def machine_costs(history: History, since: datetime | None, until: datetime, now: datetime) -> MachineCosts:
    """Attribute what one machine accrued in [since, until); ``until`` is not after ``now``."""
    since = None if since is not None and since <= history.record.created_at else since
    start, end = 0 if since is None else micros(since), micros(until)
    billed = runs(history, micros(now))
    segments = [segment for run in billed for segment in run.segments(start, end)]
    rows = [row for row in history.requests if micros_of(row.ended) >= start]
    shares = share(segments, [_clip(row, start, end) for row in rows])
    traffic = other_traffic(history.samples, history.requests, since, until, _settled_at(history, now))
    other_time = min(traffic.busy, shares.idle_time)
    other_weight = shares.idle_weight * other_time / shares.idle_time if shares.idle_time else 0.0
    weights = [shares.cold_weight, shares.idle_weight - other_weight, other_weight, *shares.weights]
    total = accrued_between(billed, start, end) if priced(segments) else None
    parts: Sequence[Decimal | None] = [None] * len(weights) if total is None else split(total, weights)
    costs = (
        RequestCost(row, amount, time / SECOND) for row, amount, time in zip(rows, parts[3:], shares.times, strict=True)
    )
    return MachineCosts(total, parts[0], parts[1], parts[2], tuple(costs), traffic, shares, other_time)


def _clip(row: RequestRow, start: int, end: int) -> tuple[int, int]:
    return max(micros_of(row.started), start), min(micros_of(row.ended), end)


def _settled_at(history: History, now: datetime) -> datetime:
    """Nothing is in flight any more on a machine that is gone."""
    return now - SETTLE if history.record.ended_at is None else now


def take(histories: Sequence[History], *, since: datetime | None, until: datetime | None, now: datetime) -> Snapshot:
    """Everything about these machines in [since, until); None means from the first one on, and until now."""
    stop = now if until is None else min(until, now)
    costs = [machine_costs(history, since, stop, now) for history in histories]
    rows = tuple(cost for machine in costs for cost in machine.requests)
    ended = [cost.row for cost in rows if _counts(cost.row, since, until) and not cost.row.probe]
    charges = [c for history in histories for c in history.charges if (since is None or c.end > since) and c.end <= now]
    return Snapshot(
        since=since,
        until=stop,
        names=tuple(history.record.name for history in histories),
        owned=bool(histories) and all(history.record.kind is OfferKind.OWNED for history in histories),
        price_known=all(machine.accrued is not None for machine in costs),
        accrued=add(machine.accrued for machine in costs),
        billed=sum((charge.amount for charge in charges), ZERO) if charges else None,
        requests=len(ended),
        ok=sum(row.status == "ok" for row in ended),
        failed=sum(row.status not in ("ok", "cancelled") for row in ended),
        cancelled=sum(row.status == "cancelled" for row in ended),
        estimated=sum(row.estimated for row in ended),
        prompt_tokens=sum(row.prompt_tokens for row in ended),
        completion_tokens=sum(row.completion_tokens for row in ended),
        cached_tokens=sum(row.cached_tokens for row in ended),
        reasoning_tokens=sum(row.reasoning_tokens for row in ended),
        other_prompt_tokens=sum(machine.traffic.prompt_tokens for machine in costs),
        other_completion_tokens=sum(machine.traffic.completion_tokens for machine in costs),
        cold_seconds=sum(machine.shares.cold_time for machine in costs) / SECOND,
        ready_seconds=sum(machine.shares.warm_time for machine in costs) / SECOND,
        busy_seconds=sum(machine.shares.warm_busy_time for machine in costs) / SECOND,
        idle_seconds=sum(machine.shares.idle_time - machine.other_time for machine in costs) / SECOND,
        lines=tuple(_lines(costs, since, until)),
        rows=rows,
    )


def add(amounts: Iterable[Decimal | None]) -> Decimal | None:
    """A sum with an unknown part is unknown."""
    total = ZERO
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return total


def _counts(row: RequestRow, since: datetime | None, until: datetime | None) -> bool:
    """Whether it ended in the window. An open window takes all that is recorded, whatever clock recorded it."""
    ended = micros_of(row.ended)
    return (since is None or ended >= micros(since)) and (until is None or ended < micros(until))


def _lines(costs: Sequence[MachineCosts], since: datetime | None, until: datetime | None) -> list[Line]:
    grouped: dict[tuple[LineKind, str], list[RequestCost]] = defaultdict(list)
    for machine in costs:
        for cost in machine.requests:
            grouped[_group(cost.row)].append(cost)
    lines = [_request_line(group, grouped[group], since, until) for group in sorted(grouped, key=_order)]
    other = _other_line(costs)
    if other.amount or other.prompt_tokens or other.completion_tokens:
        lines.append(other)
    idle = sum(m.shares.idle_time - m.other_time for m in costs) / SECOND
    cold = sum(m.shares.cold_time for m in costs) / SECOND
    lines.append(Line(kind=LineKind.COLD, label="cold start", amount=add(m.cold for m in costs), seconds=cold))
    lines.append(Line(kind=LineKind.IDLE, label="idle", amount=add(m.idle for m in costs), seconds=idle))
    return lines


def _other_line(costs: Sequence[MachineCosts]) -> Line:
    return Line(
        kind=LineKind.OTHER,
        label=LineKind.OTHER.value,
        amount=add(m.other for m in costs),
        seconds=sum(m.other_time for m in costs) / SECOND,
        prompt_tokens=sum(m.traffic.prompt_tokens for m in costs),
        completion_tokens=sum(m.traffic.completion_tokens for m in costs),
    )


def _group(row: RequestRow) -> tuple[LineKind, str]:
    return (LineKind.PROBE, "probe") if row.probe else (LineKind.TAG, row.tag or UNTAGGED)


def _order(group: tuple[LineKind, str]) -> tuple[bool, bool, str]:
    """Tags by name, what has none after them, probes last."""
    return group[0] is LineKind.PROBE, group[1] == UNTAGGED, group[1]


def _request_line(
    group: tuple[LineKind, str], costs: Sequence[RequestCost], since: datetime | None, until: datetime | None
) -> Line:
    ended = [cost.row for cost in costs if _counts(cost.row, since, until)]
    return Line(
        kind=group[0],
        label=group[1],
        amount=add(cost.amount for cost in costs),
        seconds=sum(cost.seconds for cost in costs),
        requests=len(ended),
        prompt_tokens=sum(row.prompt_tokens for row in ended),
        completion_tokens=sum(row.completion_tokens for row in ended),
    )
