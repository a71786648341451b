"""What the ledger remembers: intents, machines, requests, samples. No secret and no prompt text is ever in them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from .model import Billing, Charge, Limits, Offer, OfferKind
from .money import for_time
from .states import LIVE, Cause, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """Written before the call that spends. ``owner`` says which installation (ledger) it belongs to."""

    key: str
    name: str
    owner: str
    offer: Offer
    model: str
    engine: str
    limits: Limits
    detached: bool
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The current truth about one machine, folded from its intent and its transitions.

    ``ready_at`` is the first time it answered; ``billing_from`` is when money began to run (the create call),
    ``ended_at`` when there was positive evidence that it is gone.
    """

    key: str
    name: str
    owner: str
    provider: str
    offer_id: str
    kind: OfferKind
    model: str
    engine: str
    limits: Limits
    detached: bool
    per_hour: Decimal | None
    billing: Billing
    state: State
    cause: Cause
    created_at: datetime
    state_at: datetime
    instance_id: str | None = None
    ready_at: datetime | None = None
    ended_at: datetime | None = None
    end_wanted: bool = False
    """Someone asked for its end: whatever is seen alive afterwards must be terminated again."""
    stop_wanted: bool = False

    @property
    def live(self) -> bool:
        return self.state in LIVE

    @property
    def age_limit_at(self) -> datetime | None:
        return None if self.limits.max_age is None else self.created_at + self.limits.max_age

    @property
    def budget_span(self) -> timedelta | None:
        """How long the budget lasts at the recorded rate; None where there is no budget or no price."""
        return budget_span(self.limits.budget, self.per_hour)


def accrued_simply(per_hour: Decimal | None, billing: Billing, span: timedelta) -> Decimal | None:
    """Dollars for a machine that ran ``span`` without a pause at one rate, by the provider's rounding rules.

    What a list of machines shows; the meter also knows pauses and changes of the rate.
    """
    if per_hour is None:
        return None
    units = -(-span // timedelta(seconds=billing.granularity))
    return for_time(per_hour, max(units * billing.granularity, billing.minimum))


def budget_span(budget: Decimal | None, per_hour: Decimal | None) -> timedelta | None:
    if budget is None or per_hour is None or per_hour == 0:
        return None
    hours = budget / per_hour
    return timedelta(hours=float(min(hours, Decimal(24 * 3650))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    key: str
    before: State
    after: State
    cause: Cause
    at: datetime
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateChange:
    """From ``at`` on the machine costs ``per_hour`` dollars."""

    key: str
    at: datetime
    per_hour: Decimal | None


@dataclass(slots=True, unsafe_hash=True)
class RequestRow:
    """One request as the client saw it. Never changed once made; not frozen, since that costs 2 us on the hot path.

    Times are Unix seconds (UTC). Token counts are the engine's own unless ``estimated``. ``completion_tokens``
    includes ``reasoning_tokens``; ``prompt_tokens`` includes ``cached_tokens``. ``status`` is ``ok``, ``error``,
    ``cancelled`` (the caller closed early) or ``cut`` (the connection broke).
    """

    key: str
    started: float
    ended: float
    first_token: float | None
    endpoint: str
    model: str
    tag: str
    status: str
    http_status: int
    stream: bool
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    estimated: bool
    probe: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The engine's own counters at one moment: tokens since its start and seconds in which it was busy.

    ``prompt_tokens`` includes cached ones, whatever the engine's own convention.
    """

    key: str
    at: datetime
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    busy_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Everything that the meter needs about one machine."""

    record: Record
    transitions: tuple[Transition, ...]
    rates: tuple[RateChange, ...]
    requests: tuple[RequestRow, ...]
    samples: tuple[Sample, ...]
    charges: tuple[Charge, ...] = ()
