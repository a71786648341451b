from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotinfer.core.errors import IllegalMove
from spotinfer.core.states import FORWARD, LEGAL, LIVE, State, can_reach, check_move

PAIRS = [(before, after) for before in State for after in State]


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_every_pair_is_legal_or_raises_with_both_names(before: State, after: State) -> None:
    if after in LEGAL[before]:
        check_move(before, after)
    else:
        with pytest.raises(IllegalMove, match=f"{before} -> {after}"):
            check_move(before, after)


@pytest.mark.parametrize("state", list(State))
def test_every_state_has_a_row_and_never_moves_to_itself(state: State) -> None:
    assert state not in LEGAL[state]


def test_terminated_is_final() -> None:
    assert LEGAL[State.TERMINATED] == frozenset()


@pytest.mark.parametrize("state", sorted(LIVE))
def test_whatever_may_cost_money_can_be_ended_and_can_be_lost(state: State) -> None:
    assert State.TERMINATED in LEGAL[state]
    assert state in (State.TERMINATING, State.LOST) or State.TERMINATING in LEGAL[state]
    assert state is State.LOST or State.LOST in LEGAL[state]


def test_once_its_end_was_asked_for_nothing_leads_back_up() -> None:
    assert not LEGAL[State.TERMINATING] & set(FORWARD)


def test_the_way_up_may_skip_steps_but_not_go_back() -> None:
    for lower, upper in pairwise(FORWARD[1:]):
        assert upper in LEGAL[lower]
        assert upper is State.READY or lower not in LEGAL[upper]


@given(st.lists(st.sampled_from(State), max_size=8))
def test_a_history_is_legal_exactly_if_each_move_is(history: list[State]) -> None:
    legal = True
    for before, after in pairwise(history):
        try:
            check_move(before, after)
        except IllegalMove:
            legal = False
    assert can_reach(history) is legal
