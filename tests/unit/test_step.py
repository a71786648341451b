"""Laws of ``step``: whatever is recorded and whatever is seen, no machine is lost and no money is made up."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from spotinfer.core.model import Billing, Instance, Limits, OfferKind
from spotinfer.core.records import Record
from spotinfer.core.states import LEGAL, LIVE, Cause, State
from spotinfer.core.step import (
    Absent,
    Action,
    Bind,
    Move,
    Observation,
    Seen,
    Stop,
    Terminate,
    Unseen,
    limit_passed,
    step,
)

EPOCH = datetime(2026, 1, 1, tzinfo=timezone.utc)
SEEABLE = [
    State.PROVISIONING,
    State.BOOTING,
    State.STOPPING,
    State.STOPPED,
    State.TERMINATING,
    State.TERMINATED,
    State.LOST,
]


def a_record(**changes: object) -> Record:
    record = Record(
        key="si-1",
        name="one",
        owner="me",
        provider="simulated",
        offer_id="offer",
        kind=OfferKind.SPOT,
        model="tiny",
        engine="llamacpp",
        limits=Limits(),
        detached=False,
        per_hour=Decimal("1"),
        billing=Billing(),
        state=State.READY,
        cause=Cause.PROGRESS,
        created_at=EPOCH,
        state_at=EPOCH,
        instance_id="i-1",
        ready_at=EPOCH + timedelta(minutes=1),
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def an_instance(state: State = State.BOOTING, **changes: object) -> Instance:
    instance = Instance(
        provider="simulated", id="i-1", key="si-1", state=state, native_state=f"native-{state}", seen_at=EPOCH
    )
    return replace(instance, **changes)  # type: ignore[arg-type]


@st.composite
def records(draw: st.DrawFn) -> Record:
    state = draw(st.sampled_from(sorted(State)))
    return a_record(
        state=state,
        cause=draw(st.sampled_from(sorted(Cause))),
        kind=draw(st.sampled_from(sorted(OfferKind))),
        instance_id=draw(st.sampled_from([None, "i-1"])),
        ready_at=draw(st.sampled_from([None, EPOCH + timedelta(minutes=1)])),
        end_wanted=draw(st.booleans()),
        stop_wanted=draw(st.booleans()),
        limits=Limits(
            max_age=draw(st.sampled_from([None, timedelta(hours=1)])),
            budget=draw(st.sampled_from([None, Decimal("0.5")])),
        ),
        per_hour=draw(st.sampled_from([None, Decimal(0), Decimal("1")])),
    )


observations: st.SearchStrategy[Observation] = st.one_of(
    st.builds(
        Seen,
        instance=st.builds(an_instance, st.sampled_from(SEEABLE), cause=st.sampled_from([None, Cause.IDLE])),
        engine_ready=st.sampled_from([None, True, False]),
    ),
    st.builds(Absent, cause=st.sampled_from([None, Cause.IDLE]), settled=st.booleans()),
    st.builds(Unseen, why=st.just("time-out")),
)
moments = st.integers(0, 3 * 3600).map(lambda seconds: EPOCH + timedelta(seconds=seconds))


def after(record: Record, actions: list[Action], now: datetime) -> Record:
    """What the ledger would say once the moves are made."""
    for action in actions:
        if isinstance(action, Move):
            record = replace(record, state=action.after, cause=action.cause, state_at=now)
            if action.after is State.READY and record.ready_at is None:
                record = replace(record, ready_at=now)
        elif isinstance(action, Bind):
            record = replace(record, instance_id=action.instance_id)
        elif isinstance(action, Terminate):
            record = replace(record, end_wanted=True)
    return record


@given(records(), observations, moments)
def test_moves_are_legal_in_the_order_given(record: Record, seen: Observation, now: datetime) -> None:
    state = record.state
    for action in step(record, seen, now):
        if isinstance(action, Move):
            assert action.after in LEGAL[state], (state, action)
            state = action.after


@given(records(), observations, moments)
def test_seeing_the_same_again_asks_for_no_further_move(record: Record, seen: Observation, now: datetime) -> None:
    settled = after(record, step(record, seen, now), now)
    again = step(settled, seen, now)
    assert not [action for action in again if isinstance(action, Move | Bind)]


@given(records(), moments)
def test_what_could_not_be_told_is_never_gone(record: Record, now: datetime) -> None:
    actions = step(record, Unseen(why="time-out"), now)
    assert not any(isinstance(action, Move) and action.after is State.TERMINATED for action in actions)
    if record.state in LIVE:
        assert after(record, actions, now).state in LIVE


@given(records(), st.sampled_from([state for state in SEEABLE if state is not State.TERMINATED]), moments)
def test_what_is_seen_alive_although_it_should_be_gone_is_ended_again(
    record: Record, seen: State, now: datetime
) -> None:
    actions = step(record, Seen(instance=an_instance(seen)), now)
    should_be_gone = record.end_wanted or record.state in (State.TERMINATED, State.TERMINATING)
    if should_be_gone or limit_passed(record, now):
        assert any(isinstance(action, Terminate) and action.instance_id == "i-1" for action in actions)


@given(records(), observations, moments)
def test_a_passed_limit_ends_whatever_is_live(record: Record, seen: Observation, now: datetime) -> None:
    if record.state not in LIVE or limit_passed(record, now) is None:
        return
    actions = step(record, seen, now)
    ended = any(isinstance(action, Terminate) for action in actions)
    known_gone = any(isinstance(action, Move) and action.after is State.TERMINATED for action in actions)
    waiting = isinstance(seen, Absent) and not seen.settled and record.instance_id is None
    assert ended or known_gone or waiting


@given(records(), observations, moments)
def test_a_machine_that_is_gone_is_never_ended_or_stopped_without_being_seen(
    record: Record, seen: Observation, now: datetime
) -> None:
    if record.state is State.TERMINATED and not isinstance(seen, Seen):
        assert step(record, seen, now) == []


def test_a_preempted_spot_machine_ends_with_that_cause() -> None:
    assert step(a_record(), Absent(), EPOCH) == [Move(after=State.TERMINATED, cause=Cause.PREEMPTED)]


def test_the_cause_that_the_machine_told_wins() -> None:
    assert step(a_record(), Absent(cause=Cause.IDLE), EPOCH) == [Move(after=State.TERMINATED, cause=Cause.IDLE)]


def test_an_outbid_machine_is_stopped_not_gone() -> None:
    record = a_record(kind=OfferKind.INTERRUPTIBLE)
    actions = step(record, Seen(instance=an_instance(State.STOPPED)), EPOCH)
    assert actions == [Move(after=State.STOPPED, cause=Cause.OUTBID, detail="native-stopped")]


def test_a_machine_behind_a_lost_answer_is_bound_to_its_intent() -> None:
    record = a_record(state=State.REQUESTED, instance_id=None, ready_at=None)
    actions = step(record, Seen(instance=an_instance(State.PROVISIONING)), EPOCH)
    assert actions == [
        Bind(instance_id="i-1"),
        Move(after=State.PROVISIONING, cause=Cause.PROGRESS, detail="native-provisioning"),
    ]


def test_a_lagging_list_is_no_evidence() -> None:
    record = a_record(state=State.REQUESTED, instance_id=None, ready_at=None)
    assert step(record, Absent(settled=False), EPOCH) == []
    assert step(record, Absent(settled=True), EPOCH) == [Move(after=State.TERMINATED, cause=Cause.PREEMPTED)]


def test_a_lost_machine_that_shows_up_again_is_taken_back() -> None:
    record = a_record(state=State.LOST)
    actions = step(record, Seen(instance=an_instance(), engine_ready=True), EPOCH)
    assert actions == [Move(after=State.READY, cause=Cause.RECONCILED, detail="native-booting")]


def test_a_wish_to_stop_is_carried_out() -> None:
    actions = step(a_record(stop_wanted=True), Seen(instance=an_instance()), EPOCH)
    assert actions == [Stop(instance_id="i-1")]
