"""Who the money was spent for: exact sums, fair shares."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spotinfer.core.model import Billing, Charge, OfferKind
from spotinfer.core.records import History, RequestRow, Sample
from spotinfer.core.states import State
from spotinfer.ledger.meter import LineKind, Snapshot
from spotinfer.ledger.metering.accrual import runs
from spotinfer.ledger.metering.attribution import UNTAGGED, take
from spotinfer.ledger.moments import SECOND, micros
from support.histories import at, history, row, sample

READY = [(10.0, State.READY)]


def look(*machines: History, now: float = 100, since: float | None = None, until: float | None = None) -> Snapshot:
    return take(
        machines,
        since=None if since is None else at(since),
        until=None if until is None else at(until),
        now=at(now),
    )


def amounts(shot: Snapshot) -> dict[str, str]:
    return {line.label: str(line.amount.normalize()) for line in shot.lines if line.amount is not None}


def test_each_moment_is_divided_among_what_was_in_flight() -> None:
    shot = look(history(READY, requests=[row(20, 40, tag="a"), row(30, 50, tag="b"), row(60, 70)]))
    assert amounts(shot) == {"a": "0.015", "b": "0.015", UNTAGGED: "0.01", "cold start": "0.01", "idle": "0.05"}
    assert shot.accrued == Decimal("0.1")
    assert (shot.cold_seconds, shot.ready_seconds, shot.busy_seconds, shot.idle_seconds) == (10, 90, 40, 50)
    assert shot.utilisation == pytest.approx(4 / 9)
    assert [str(cost.amount) for cost in shot.rows] == ["0.015000000", "0.015000000", "0.010000000"]


def test_a_moment_costs_what_the_rate_was_then() -> None:
    shot = look(history([(0, State.READY)], rates=[(0, "3.6"), (50, "36")], requests=[row(40, 60)]))
    assert amounts(shot) == {UNTAGGED: "0.11", "cold start": "0", "idle": "0.44"}


def test_rounding_up_is_shared_by_those_who_used_the_machine() -> None:
    moves = [(0.0, State.READY), (30.0, State.TERMINATED)]
    shot = look(history(moves, billing=Billing(granularity=60), requests=[row(0, 10, tag="a")]))
    assert amounts(shot) == {"a": "0.02", "cold start": "0", "idle": "0.04"}


def test_a_probe_has_a_line_of_its_own_and_is_no_request() -> None:
    shot = look(history(READY, requests=[row(8, 10, probe=True, tag="ignored"), row(20, 30)]))
    assert amounts(shot) == {UNTAGGED: "0.01", "probe": "0.002", "cold start": "0.008", "idle": "0.08"}
    assert (shot.requests, shot.tokens) == (1, 30)


def test_a_machine_that_came_back_is_cold_again() -> None:
    moves = [(10.0, State.READY), (20.0, State.STOPPED), (50.0, State.BOOTING), (55.0, State.READY)]
    shot = look(history(moves), now=60)
    assert (shot.cold_seconds, shot.ready_seconds, shot.accrued) == (15, 15, Decimal("0.03"))


def test_lost_and_ending_time_is_what_it_was_before() -> None:
    moves = [(10.0, State.READY), (20.0, State.LOST), (40.0, State.TERMINATING), (50.0, State.TERMINATED)]
    assert look(history(moves)).idle_seconds == 40
    assert look(history([(5.0, State.LOST), (9.0, State.TERMINATED)])).cold_seconds == 9


def test_counts_and_rates() -> None:
    requests = [
        row(20, 30, tokens=(100, 50)),
        row(20, 30, status="error", tokens=(1, 0)),
        row(20, 30, status="cut", tokens=(1, 0)),
        row(20, 30, status="cancelled", tokens=(8, 40), estimated=True),
    ]
    shot = look(history(READY, requests=requests))
    assert (shot.requests, shot.ok, shot.failed, shot.cancelled, shot.estimated) == (4, 1, 2, 1, 1)
    assert (shot.prompt_tokens, shot.completion_tokens, shot.tokens) == (110, 90, 200)
    assert (shot.per_million_tokens, shot.per_request) == (Decimal(500), Decimal("0.025"))
    assert shot.per_million_output_tokens == Decimal("1111.111111111")


def test_without_a_price_nothing_is_said_to_be_free() -> None:
    owned = history(READY, rates=[(0, None)], kind=OfferKind.OWNED, requests=[row(20, 30)])
    shot = look(owned)
    assert (shot.owned, shot.price_known, shot.accrued, shot.per_million_tokens) == (True, False, None, None)
    assert {line.amount for line in shot.lines} == {None}
    assert shot.busy_seconds == 10
    both = look(owned, history(READY, key="si-2"))
    assert (both.owned, both.price_known, both.accrued) == (False, False, None)
    free = look(history(READY, rates=[(0, "0")], requests=[row(20, 30)]))
    assert (free.price_known, free.accrued, free.per_million_tokens) == (True, 0, 0)


def test_what_the_provider_billed() -> None:
    charges = [
        Charge(provider="p", id=str(end), amount=Decimal("0.06"), start=at(end - 50), end=at(end)) for end in (50, 100)
    ]
    machine = history([(100, State.TERMINATED)], charges=charges)
    shot = look(machine, now=200)
    assert (shot.accrued, shot.billed, shot.drift) == (Decimal("0.1"), Decimal("0.12"), Decimal("0.02"))
    assert look(machine, now=200, since=60).billed == Decimal("0.06")
    assert look(history(READY)).billed is None
    assert look(history(READY)).drift is None


def test_no_machine_at_all() -> None:
    shot = look()
    assert (shot.accrued, shot.tokens, shot.utilisation, shot.per_request) == (0, 0, None, None)


# --- traffic of others ----------------------------------------------------------------------------------------------


def quiet(samples: list[Sample]) -> list[Sample]:
    """With the next sample after each, which shows that the engine stood still."""
    last = samples[-1]
    after = (last.at - at(0)).total_seconds() + 5
    return [*samples, sample(after, last.prompt_tokens, last.completion_tokens, last.busy_seconds)]


def test_what_the_counters_show_beyond_our_requests_is_a_line() -> None:
    requests = [row(8, 9, probe=True, tokens=(5, 1)), row(20, 30, tokens=(100, 50))]
    samples = quiet([sample(10, 5, 1, 1), sample(60, 405, 151, 31)])
    shot = look(history(READY, requests=requests, samples=samples))
    assert (shot.other_prompt_tokens, shot.other_completion_tokens) == (300, 100)
    assert amounts(shot)["other traffic"] == "0.02"  # 31 s busy, 11 of them ours
    assert amounts(shot)["idle"] == "0.06"
    assert shot.ours == Decimal("0.08")
    assert shot.prompt_tokens == 100


def test_counters_that_our_requests_explain_are_no_other_traffic() -> None:
    requests = [row(20, 30, tokens=(100, 50)), row(29, 59, tokens=(10, 500))]
    samples = quiet([sample(25, 100, 20, 5), sample(40, 110, 300, 20), sample(60, 110, 550, 41)])
    shot = look(history(READY, requests=requests, samples=samples))
    assert shot.other_tokens == 0
    assert "other traffic" not in amounts(shot)


def test_a_request_still_in_flight_is_not_taken_for_others() -> None:
    growing = history(READY, samples=[sample(60, 100, 20, 5), sample(65, 100, 80, 10)])
    assert look(growing, now=66).other_tokens == 0
    assert look(growing, now=66 + 200).other_tokens == 180  # minutes later still nobody of ours: it was not ours


def test_counters_of_an_engine_that_was_started_again() -> None:
    samples = quiet([sample(20, 1000, 100, 5), sample(40, 30, 3, 1)])
    shot = look(history(READY, samples=samples))
    assert (shot.other_prompt_tokens, shot.other_completion_tokens) == (1030, 103)


def test_other_traffic_of_a_window_begins_at_the_sample_before_it() -> None:
    samples = quiet([sample(20, 1000, 100, 5), sample(60, 1300, 150, 15)])
    machine = history(READY, samples=samples)
    assert look(machine, since=30).other_prompt_tokens == 300
    assert look(history(READY, samples=samples[1:]), since=30).other_tokens == 0
    assert look(machine, until=30).other_tokens == 0  # not yet believed then: the engine was busy


# --- properties -----------------------------------------------------------------------------------------------------

moments = st.floats(0, 4000, allow_nan=False).map(lambda seconds: round(seconds, 3))


@st.composite
def requests(draw: st.DrawFn) -> RequestRow:
    start, end = sorted((draw(moments), draw(moments)))
    return row(start, end, tag=draw(st.sampled_from(["", "a", "b"])), probe=draw(st.booleans()))


@st.composite
def machines(draw: st.DrawFn) -> History:
    moves = draw(
        st.lists(
            st.tuples(moments, st.sampled_from([State.READY, State.STOPPED, State.LOST, State.LOADING])), max_size=4
        )
    )
    moves.sort(key=lambda move: move[0])
    if draw(st.booleans()):
        moves.append((draw(st.floats(4000, 4500)), State.TERMINATED))
    counted = sorted(draw(st.lists(st.tuples(moments, st.integers(0, 10**6), st.floats(0, 4000)), max_size=3)))
    return history(
        moves,
        requests=draw(st.lists(requests(), max_size=8)),
        samples=[sample(when, tokens, tokens, busy) for when, tokens, busy in counted],
        rates=[(0, draw(st.sampled_from(["0", "0.1", "2.99"]))), (draw(moments), draw(st.sampled_from(["0", "7"])))],
        billing=Billing(granularity=draw(st.sampled_from([1, 60, 3600])), minimum=draw(st.sampled_from([0, 300]))),
    )


def billed_seconds(some: list[History], shot: Snapshot) -> float:
    since, until = micros(shot.since or at(0)), micros(shot.until)
    spans = [run for machine in some for run in runs(machine, until)]
    return sum(max(0, min(run.end, until) - max(run.start, since)) for run in spans) / SECOND


@settings(max_examples=150, deadline=None)
@given(st.lists(machines(), max_size=2), st.lists(moments, max_size=3), moments)
def test_the_lines_of_any_window_sum_exactly_to_what_it_accrued(
    some: list[History], cuts: list[float], now: float
) -> None:
    edges: list[float | None] = [None, *sorted(cuts), None]
    total = Decimal(0)
    for since, until in pairwise(edges):
        shot = look(*some, now=now, since=since, until=until)
        parts = [line.amount for line in shot.lines if line.amount is not None]
        assert sum(parts) == shot.accrued
        assert all(part >= 0 for part in parts)
        mine = [line.amount or 0 for line in shot.lines if line.kind in (LineKind.TAG, LineKind.PROBE)]
        assert sum(cost.amount or 0 for cost in shot.rows) == sum(mine)
        assert sum(line.seconds for line in shot.lines) == pytest.approx(billed_seconds(some, shot), abs=1e-3)
        total += shot.accrued or 0
    assert total == look(*some, now=now).accrued


@settings(max_examples=60, deadline=None)
@given(machines(), st.lists(moments, min_size=1, max_size=3))
def test_every_request_is_counted_in_one_window(machine: History, cuts: list[float]) -> None:
    edges: list[float | None] = [None, *sorted(set(cuts)), None]
    shots = [look(machine, now=5000, since=a, until=b) for a, b in pairwise(edges)]
    assert sum(shot.requests for shot in shots) == look(machine, now=5000).requests
    assert sum(shot.tokens for shot in shots) == look(machine, now=5000).tokens
