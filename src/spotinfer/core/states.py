"""The states of a machine and its engine, and the moves between them, as data (DESIGN §5).

Preemption is a *cause* of a move, not a state: what matters to the bill is whether the machine still exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from itertools import pairwise
from types import MappingProxyType

from .errors import IllegalMove


class State(str, Enum):
    PLANNED = "planned"
    REQUESTED = "requested"
    """The intent is recorded; the call that rents may have been sent. From here on it may cost money."""
    PROVISIONING = "provisioning"
    BOOTING = "booting"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    STOPPED = "stopped"
    """The machine is off, its disk is kept and usually bills."""
    TERMINATING = "terminating"
    TERMINATED = "terminated"
    LOST = "lost"
    """We cannot tell. It may run and cost money until the provider says otherwise."""

    def __str__(self) -> str:
        return self.value


class Cause(str, Enum):
    """Why a move happened."""

    USER = "user"
    PROGRESS = "progress"
    IDLE = "idle"
    BUDGET = "budget"
    MAX_AGE = "max_age"
    PREEMPTED = "preempted"
    OUTBID = "outbid"
    BOOT_TIMEOUT = "boot_timeout"
    ENGINE_FAILED = "engine_failed"
    LAUNCH_FAILED = "launch_failed"
    INTERRUPTED = "interrupted"
    LEASE_LAPSED = "lease_lapsed"
    RECONCILED = "reconciled"
    REAPED = "reaped"

    def __str__(self) -> str:
        return self.value


FORWARD: tuple[State, ...] = (
    State.PLANNED,
    State.REQUESTED,
    State.PROVISIONING,
    State.BOOTING,
    State.LOADING,
    State.READY,
)
"""The way up. A poll may miss steps, so a later one may be entered directly from any earlier one."""

DOWN: frozenset[State] = frozenset({State.DRAINING, State.STOPPING, State.STOPPED, State.TERMINATING})
LIVE: frozenset[State] = frozenset(State) - {State.PLANNED, State.TERMINATED}
"""May exist at the provider: counts as costing money until there is positive evidence that it is gone."""

BILLING: frozenset[State] = LIVE - {State.STOPPED}


def _legal() -> Mapping[State, frozenset[State]]:
    moves: dict[State, set[State]] = {state: set() for state in State}
    for index, state in enumerate(FORWARD[1:], start=1):
        moves[state] |= set(FORWARD[index + 1 :])
    moves[State.PLANNED] = {State.REQUESTED, State.TERMINATED}
    moves[State.READY] |= {State.LOADING, State.DRAINING, State.STOPPING}
    moves[State.DRAINING] |= {State.READY, State.STOPPING}
    moves[State.STOPPING] |= {State.STOPPED}
    moves[State.STOPPED] |= {State.PROVISIONING, State.BOOTING, State.LOADING, State.READY}
    for state in LIVE:
        moves[state] |= {State.TERMINATING, State.TERMINATED, State.STOPPED, State.LOST}
    # From lost anything may follow that the next positive observation shows.
    moves[State.LOST] = (set(LIVE) | {State.TERMINATED}) - {State.REQUESTED}
    # Once termination was asked for there is no way back up, only "gone" or "cannot tell".
    moves[State.TERMINATING] = {State.TERMINATED, State.LOST}
    for state in State:
        moves[state].discard(state)
    moves[State.TERMINATED] = set()
    return MappingProxyType({state: frozenset(targets) for state, targets in moves.items()})


LEGAL: Mapping[State, frozenset[State]] = _legal()
"""Every legal move: ``LEGAL[state]`` are the states that may follow."""


def check_move(before: State, after: State) -> None:
    """Raise :class:`IllegalMove` unless the table knows the move."""
    if after not in LEGAL[before]:
        allowed = ", ".join(sorted(LEGAL[before])) or "nothing"
        raise IllegalMove(f"{before} -> {after} is not a legal move (from {before}: {allowed})")


def can_reach(states: Iterable[State]) -> bool:
    """Whether a whole history is legal, move by move."""
    history = list(states)
    return all(after in LEGAL[before] for before, after in pairwise(history))
