"""The whole logic of keeping one machine honest, as one pure function.

``step(record, observation, now)`` compares what the ledger says with what was seen and answers what to do. It performs
nothing; the reconciler does. So every decision about money can be tested without a cloud.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from .model import Instance, OfferKind
from .records import Record
from .states import LEGAL, LIVE, Cause, State

BOOT_LIMIT = timedelta(minutes=30)
"""A machine that has not answered by then is ended."""


# --- what was seen -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The provider described the machine. ``engine_ready`` is None where nobody asked the engine."""

    instance: Instance
    engine_ready: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """A complete answer does not show it; ``cause`` where the machine or the cloud told why.

    ``settled`` False: it was asked for so recently that a list may lag behind; only time turns that into evidence.
    """

    cause: Cause | None = None
    settled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """The provider could not tell. The machine keeps costing money in our books."""

    why: str = ""


Observation = Seen | Absent | Unseen


# --- what to do ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Record a transition."""

    after: State
    cause: Cause
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminate:
    """Ask the provider to end it. ``instance_id`` None: find it by the record's key first."""

    instance_id: str | None
    cause: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    instance_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    instance_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """The machine behind a lost answer was found by its key: record its id."""

    instance_id: str


Action = Move | Terminate | Stop | Resume | Bind


def step(record: Record, observation: Observation, now: datetime) -> list[Action]:
    """What to do about one machine. Moves come first and are legal in the order given.

    Laws, each a Hypothesis property in the tests: moves are legal; *unseen* never becomes *terminated*; what is seen
    alive although its end was asked for is terminated again; a limit that has passed leads to a termination; applying
    the moves and seeing the same again asks for no further move.
    """
    if isinstance(observation, Unseen):
        return _unseen(record, observation, now)
    if isinstance(observation, Absent):
        return _absent(record, observation)
    return _seen(record, observation, now)


def limit_passed(record: Record, now: datetime) -> Cause | None:
    """The first of the record's own limits that has passed, by the owner's books (the agent keeps its own)."""
    if record.age_limit_at is not None and now >= record.age_limit_at:
        return Cause.MAX_AGE
    span = record.budget_span
    if span is not None and now >= record.created_at + span:
        return Cause.BUDGET
    if record.ready_at is None and now >= record.created_at + BOOT_LIMIT:
        return Cause.BOOT_TIMEOUT
    return None


def _unseen(record: Record, observation: Unseen, now: datetime) -> list[Action]:
    if record.state not in LIVE:
        return []
    cause = _end_cause(record, now)
    if cause is None:
        return (
            []
            if record.state is State.LOST
            else [Move(after=State.LOST, cause=Cause.RECONCILED, detail=observation.why)]
        )
    # Terminating what may not exist is harmless; leaving what may exist is not.
    return [*_towards_end(record, cause), Terminate(instance_id=record.instance_id, cause=cause)]


def _absent(record: Record, observation: Absent) -> list[Action]:
    if record.state not in LIVE:
        return []
    if record.instance_id is None and not observation.settled:
        return []
    return [Move(after=State.TERMINATED, cause=observation.cause or _gone_cause(record))]


def _seen(record: Record, observation: Seen, now: datetime) -> list[Action]:
    instance = observation.instance
    if instance.state is State.TERMINATED:
        return _absent(record, Absent(cause=instance.cause))
    actions: list[Action] = []
    if record.instance_id is None and record.state in LIVE:
        actions.append(Bind(instance_id=instance.id))
    cause = _end_cause(record, now)
    if cause is not None or record.state is State.TERMINATED:
        cause = cause or record.cause
        return [*actions, *_towards_end(record, cause), Terminate(instance_id=instance.id, cause=cause)]
    return [*actions, *_follow(record, observation)]


def _follow(record: Record, observation: Seen) -> list[Action]:
    """Take over the state that was seen, and push towards the one that is wanted."""
    instance, target = observation.instance, _target(record, observation)
    actions: list[Action] = []
    if target is not record.state and target in LEGAL[record.state]:
        actions.append(Move(after=target, cause=_follow_cause(record, target, instance), detail=instance.native_state))
    if record.stop_wanted and target not in (State.STOPPED, State.STOPPING):
        actions.append(Stop(instance_id=instance.id))
    return actions


def _target(record: Record, observation: Seen) -> State:
    """A provider knows "running" but not whether the engine answers: that is ours to refine."""
    state = observation.instance.state
    if state is not State.BOOTING:
        return state
    if observation.engine_ready:
        return State.DRAINING if record.state is State.DRAINING else State.READY
    if observation.engine_ready is None and record.state in (State.LOADING, State.READY, State.DRAINING):
        return record.state
    if observation.engine_ready is None and record.state is State.LOST and record.ready_at is not None:
        return State.READY  # it was out of sight, and it is still the machine that had become ready
    return State.LOADING if record.state in (State.LOADING, State.READY) else State.BOOTING


def _follow_cause(record: Record, target: State, instance: Instance) -> Cause:
    if target is State.STOPPED and not record.stop_wanted:
        return instance.cause or (Cause.OUTBID if record.kind is OfferKind.INTERRUPTIBLE else Cause.RECONCILED)
    if target in (State.STOPPED, State.STOPPING):
        return Cause.USER
    return Cause.RECONCILED if record.state is State.LOST else Cause.PROGRESS


def _end_cause(record: Record, now: datetime) -> Cause | None:
    if record.end_wanted or record.state is State.TERMINATING:
        return record.cause
    return limit_passed(record, now)


def _towards_end(record: Record, cause: Cause) -> list[Action]:
    if State.TERMINATING in LEGAL[record.state]:
        return [Move(after=State.TERMINATING, cause=cause)]
    return []


def _gone_cause(record: Record) -> Cause:
    if record.end_wanted or record.state is State.TERMINATING:
        return record.cause
    return Cause.PREEMPTED if record.kind in (OfferKind.SPOT, OfferKind.INTERRUPTIBLE) else Cause.RECONCILED
