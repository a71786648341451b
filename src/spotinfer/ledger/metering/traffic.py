"""Traffic that is not ours: what the engine's own counters show beyond what our requests explain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from ...core.records import RequestRow, Sample
from ..moments import micros, micros_of

SETTLE = timedelta(minutes=2)
"""A request in flight is in the engine's counters at once and in the ledger when it ends: what the counters show of the
last two minutes is believed only if the engine stood still since the sample before."""


@dataclass(frozen=True, slots=True)
class OtherTraffic:
    """A lower bound while our requests overlap the samples, exact once they ended."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    busy: int = 0
    """Microseconds in which the engine was busy while nothing of ours was in flight."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """A sample as growth since the engine first started, whatever restarts there were."""

    at: int
    prompt: int
    completion: int
    busy: int


def other_traffic(
    samples: Sequence[Sample], rows: Sequence[RequestRow], since: datetime | None, until: datetime, settled: datetime
) -> OtherTraffic:
    """Between the last sample before ``since`` (None: the start of the engine) and the last one before ``until``.

    ``settled``: the time up to which every request that ended is known.
    """
    readings = list(_readings(samples))
    if since is None:
        base = _Reading(0, 0, 0, 0)
    elif readings:  # with none before ``since`` the first one is the base: what it shows may be older
        base = next((reading for reading in reversed(readings) if reading.at <= micros(since)), readings[0])
    else:
        return OtherTraffic()
    later = [reading for reading in _believed(readings, micros(settled)) if base.at < reading.at <= micros(until)]
    if not later:
        return OtherTraffic()
    mine = [row for row in rows if micros_of(row.ended) > base.at]
    prompt, completion = _beyond(later, base, mine)
    if prompt + completion == 0:
        return OtherTraffic()
    busy = later[-1].busy - base.busy - _in_flight(mine, base.at, later[-1].at)
    return OtherTraffic(prompt, completion, max(0, busy))


def _believed(readings: Sequence[_Reading], settled: int) -> list[_Reading]:
    quiet = {after.at for before, after in pairwise(readings) if after.busy == before.busy}
    return [reading for reading in readings if reading.at in quiet or reading.at <= settled]


def _readings(samples: Sequence[Sample]) -> list[_Reading]:
    """A counter that fell began anew: what it had counted before stays counted."""
    readings: list[_Reading] = []
    total = [0, 0, 0]
    last = [0, 0, 0]
    for sample in samples:
        current = [sample.prompt_tokens, sample.completion_tokens, micros_of(sample.busy_seconds)]
        restarted = any(new < old for new, old in zip(current, last, strict=True))
        for index, value in enumerate(current):
            total[index] += value if restarted else value - last[index]
        last = current
        readings.append(_Reading(micros(sample.at), *total))
    return readings


def _beyond(later: Sequence[_Reading], base: _Reading, mine: Sequence[RequestRow]) -> tuple[int, int]:
    """The most that any reading shows beyond all of our requests that had begun by then."""
    begun = sorted(mine, key=lambda row: row.started)
    prompt = completion = position = own_prompt = own_completion = 0
    for reading in later:
        while position < len(begun) and micros_of(begun[position].started) <= reading.at:
            own_prompt += begun[position].prompt_tokens
            own_completion += begun[position].completion_tokens
            position += 1
        prompt = max(prompt, reading.prompt - base.prompt - own_prompt)
        completion = max(completion, reading.completion - base.completion - own_completion)
    return prompt, completion


def _in_flight(rows: Sequence[RequestRow], since: int, until: int) -> int:
    """Microseconds of [since, until) in which at least one of the requests was in flight."""
    total, reached = 0, since
    for row in sorted(rows, key=lambda row: row.started):
        start, end = max(micros_of(row.started), reached), min(micros_of(row.ended), until)
        if start < end:
            total += end - start
            reached = end
    return total
