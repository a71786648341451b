"""Accrued money by the providers' rounding rules."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotinfer.core.model import Billing
from spotinfer.core.records import History
from spotinfer.core.states import State
from spotinfer.ledger.metering.accrual import accrued_between, accrued_until, runs
from spotinfer.ledger.moments import micros
from support.histories import T0, at, history

GONE = State.TERMINATED
HOURLY = Billing(granularity=3600)


def accrued(machine: History, now: float) -> Decimal:
    return accrued_until(runs(machine, micros(at(now))), micros(at(now)))


@pytest.mark.parametrize(
    ("machine", "now", "dollars"),
    [
        (history([(100, GONE)]), 500, "0.1"),  # by the second, from the create call to the evidence of the end
        (history([(10, State.READY)]), 50, "0.05"),
        (history([]), 0, "0"),
        (history([(1.5, GONE)]), 9, "0.002"),  # a started second is owed
        (history([(60, GONE)], billing=Billing(granularity=60)), 99, "0.06"),
        (history([(60.000001, GONE)], billing=Billing(granularity=60)), 99, "0.12"),
        (history([(5, GONE)], billing=Billing(minimum=60)), 99, "0.06"),
        (history([(61, GONE)], billing=Billing(minimum=60)), 99, "0.061"),
        (history([(5, GONE)], billing=Billing(granularity=60, minimum=90)), 99, "0.12"),
        (history([(10, State.READY)], billing=HOURLY), 20, "3.6"),
        (history([(10, State.LOST)]), 100, "0.1"),  # what we cannot tell goes on costing
        (history([(10, State.STOPPED), (50, State.READY), (60, GONE)]), 99, "0.02"),
        (history([(10, State.STOPPED), (50, State.READY), (60, GONE)], billing=Billing(minimum=60)), 99, "0.12"),
        (history([(10, State.STOPPED), (50, State.LOST)]), 60, "0.02"),
        (history([(10, State.TERMINATING), (30, GONE)]), 60, "0.03"),
        (history([], rates=[(0, "3.6"), (10, "7.2")]), 20, "0.03"),
        (history([], rates=[(0, "3.6"), (9.5, "7.2")]), 20, "0.03"),  # at the next second
        (history([], rates=[(0, "3.6"), (1800, "1.8")], billing=HOURLY), 1900, "3.6"),
        (history([], rates=[(0, "3.6"), (1800, "1.8")], billing=HOURLY), 3601, "5.4"),
        (
            history([], rates=[(0, "3.6"), (5, "9"), (7, "1.8")], billing=Billing(minimum=10)),
            20,
            "0.015",
        ),  # 9 began no unit
        (history([], rates=[(0, "3.6"), (0.2, "9"), (0.7, "1.8")]), 11, "0.006"),
        (history([(20, State.READY)], rates=[(5, "3.6")]), 10, "0.01"),  # the first rate known holds from the start
    ],
)
def test_what_is_owed(machine: History, now: float, dollars: str) -> None:
    assert accrued(machine, now) == Decimal(dollars)


def test_a_clock_that_went_back_costs_nothing() -> None:
    assert accrued(history([(10, State.READY), (5, State.DRAINING), (8, GONE)]), 99) == Decimal("0.01")


def test_no_price_is_no_amount_but_adds_none() -> None:
    assert accrued(history([], rates=[(0, None)]), 99) == 0


MOVES = st.lists(
    st.tuples(st.floats(0.001, 5000), st.sampled_from([State.READY, State.STOPPED, State.LOST, State.LOADING])),
    max_size=5,
).map(lambda moves: sorted(moves, key=lambda move: move[0]))
RATES = st.lists(st.tuples(st.floats(0, 9000), st.sampled_from(["0", "0.37", "2.5"])), max_size=4)
BILLINGS = st.builds(Billing, granularity=st.sampled_from([0, 1, 60, 3600]), minimum=st.sampled_from([0, 45, 600]))


@given(MOVES, RATES, BILLINGS, st.lists(st.floats(0, 10000), min_size=1, max_size=6))
def test_it_never_falls_and_adjacent_windows_sum_to_the_whole(
    moves: list[tuple[float, State]], rates: list[tuple[float, str]], billing: Billing, cuts: list[float]
) -> None:
    machine = history(moves, rates=[(0, "1.1"), *rates], billing=billing)
    billed = runs(machine, micros(at(10000)))
    edges = [micros(T0), *sorted(micros(at(cut)) for cut in cuts), micros(at(10000))]
    parts = [accrued_between(billed, since, until) for since, until in pairwise(edges)]
    assert all(part >= 0 for part in parts)
    assert sum(parts) == accrued_until(billed, edges[-1])


@given(MOVES, BILLINGS, st.floats(0, 9000))
def test_what_was_owed_at_a_moment_does_not_depend_on_what_came_later(
    moves: list[tuple[float, State]], billing: Billing, now: float
) -> None:
    machine = history(moves, billing=billing)
    later = accrued_until(runs(machine, micros(at(10000))), micros(at(now)))
    assert accrued(machine, now) == later
