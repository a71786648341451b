"""Short ways to make intents, request rows and histories for the tests of ledger and meter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal

from spotinfer.core.model import Billing, Charge, Limits, Offer, OfferKind
from spotinfer.core.money import MachineHour
from spotinfer.core.records import History, Intent, RateChange, Record, RequestRow, Sample, Transition
from spotinfer.core.states import Cause, State

_BY_SECOND = Billing()
_DEFAULT_LIMITS = Limits()
T0 = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def intent(
    key: str = "si-1",
    name: str = "one",
    *,
    owner: str = "me",
    per_hour: str | None = "3.60",
    billing: Billing = _BY_SECOND,
    when: datetime = T0,
    limits: Limits = _DEFAULT_LIMITS,
) -> Intent:
    offer = Offer(
        provider="local",
        id="cpu",
        kind=OfferKind.OWNED,
        per_hour=None if per_hour is None else MachineHour(Decimal(per_hour)),
        billing=billing,
    )
    return Intent(
        key=key,
        name=name,
        owner=owner,
        offer=offer,
        model="tiny",
        engine="llamacpp",
        limits=limits,
        detached=False,
        at=when,
    )


def row(
    start: float,
    end: float,
    *,
    key: str = "si-1",
    tag: str = "",
    status: str = "ok",
    tokens: tuple[int, int] = (10, 20),
    probe: bool = False,
    estimated: bool = False,
) -> RequestRow:
    """``start`` and ``end`` are seconds after ``T0``."""
    begin = T0.timestamp()
    return RequestRow(
        key,
        begin + start,
        begin + end,
        begin + start,
        "/v1/chat/completions",
        "tiny",
        tag,
        status,
        200,
        False,
        *tokens,
        0,
        0,
        estimated,
        probe,
    )


def sample(seconds: float, prompt: int, completion: int, busy: float, key: str = "si-1") -> Sample:
    return Sample(
        key=key,
        at=at(seconds),
        prompt_tokens=prompt,
        cached_tokens=0,
        completion_tokens=completion,
        busy_seconds=busy,
    )


def history(
    moves: Sequence[tuple[float, State]],
    *,
    requests: Iterable[RequestRow] = (),
    samples: Iterable[Sample] = (),
    rates: Sequence[tuple[float, str | None]] = ((0, "3.60"),),
    billing: Billing = _BY_SECOND,
    charges: Iterable[Charge] = (),
    kind: OfferKind = OfferKind.ON_DEMAND,
    key: str = "si-1",
    name: str = "one",
) -> History:
    """A machine that was requested at ``T0`` and then made ``moves`` (seconds after ``T0``)."""
    states = [State.PLANNED, State.REQUESTED, *(state for _, state in moves)]
    times = [0.0, *(seconds for seconds, _ in moves)]
    transitions = tuple(
        Transition(key=key, before=before, after=after, cause=Cause.PROGRESS, at=at(when))
        for before, after, when in zip(states, states[1:], times, strict=False)
    )
    changes = tuple(
        RateChange(key=key, at=at(when), per_hour=None if rate is None else Decimal(rate)) for when, rate in rates
    )
    return History(
        record=_record(transitions, changes[-1].per_hour, billing, kind, key, name),
        transitions=transitions,
        rates=changes,
        requests=tuple(requests),
        samples=tuple(samples),
        charges=tuple(charges),
    )


def _record(
    transitions: tuple[Transition, ...],
    per_hour: Decimal | None,
    billing: Billing,
    kind: OfferKind,
    key: str,
    name: str,
) -> Record:
    return Record(
        key=key,
        name=name,
        owner="me",
        provider="local",
        offer_id="cpu",
        kind=kind,
        model="tiny",
        engine="llamacpp",
        limits=Limits(),
        detached=False,
        per_hour=per_hour,
        billing=billing,
        state=transitions[-1].after,
        cause=Cause.PROGRESS,
        created_at=T0,
        state_at=transitions[-1].at,
        instance_id="i-1",
        ended_at=next((move.at for move in transitions if move.after is State.TERMINATED), None),
    )
