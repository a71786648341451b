"""The statements that write, each within the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.exc import IntegrityError

from ...core.errors import LedgerError, NameTaken
from ...core.model import Charge
from ...core.records import Intent, Record, RequestRow, Sample
from ...core.states import Cause, State, check_move
from ..moments import micros_of
from .read import load_records
from .schema import bindings, charges, claims, intents, rates, requests, samples, transitions, wishes


class NameIsClaimed(Exception):
    """Inside this package only: PostgreSQL must roll back before it can read who has the name."""


def add_intent(connection: Connection, intent: Intent) -> Record:
    """Claim the name, then record the intent, its first transition and its rate."""
    try:
        connection.execute(insert(claims).values(name=intent.name, key=intent.key))
    except IntegrityError as error:
        raise NameIsClaimed from error
    offer, limits = intent.offer, intent.limits
    connection.execute(
        insert(intents).values(
            key=intent.key,
            name=intent.name,
            owner=intent.owner,
            provider=offer.provider,
            offer_id=offer.id,
            kind=offer.kind.value,
            label=offer.label,
            model=intent.model,
            engine=intent.engine,
            lease=limits.lease,
            idle=limits.idle,
            max_age=limits.max_age,
            budget=limits.budget,
            detached=intent.detached,
            granularity=offer.billing.granularity,
            minimum=offer.billing.minimum,
            at=intent.at,
        )
    )
    _add_transition(connection, intent.key, State.PLANNED, State.REQUESTED, Cause.USER, intent.at, "")
    connection.execute(insert(rates).values(key=intent.key, at=intent.at, per_hour=offer.per_hour))
    return one_record(connection, intent.key)


def name_taken(connection: Connection, intent: Intent) -> NameTaken:
    """The error for a claim that failed, told by a transaction of its own."""
    holder = connection.execute(select(claims.c.key).where(claims.c.name == intent.name)).scalar()
    found = load_records(connection, intents.c.key == holder) if holder else []
    whose = f" (on {found[0].provider}, {found[0].state}, key {found[0].key})" if found else ""
    return NameTaken(
        f"a server called {intent.name!r} is live already{whose}",
        hint=f"use it: spotinfer.connect({intent.name!r}), or launch(..., if_exists='attach');"
        f" end it: spotinfer terminate {intent.name}",
    )


def one_record(connection: Connection, key: str, *, lock: bool = False) -> Record:
    """Raises ``LedgerError`` for an unknown key. ``lock``: nobody else may decide upon it until we commit."""
    if lock:  # compiled to nothing for SQLite, whose writer holds the only lock there is
        connection.execute(select(intents.c.id).where(intents.c.key == key).with_for_update())
    found = load_records(connection, intents.c.key == key)
    if not found:
        raise LedgerError(f"the ledger knows no machine with the key {key!r}")
    return found[0]


def add_binding(connection: Connection, key: str, instance_id: str, at: datetime) -> None:
    if one_record(connection, key, lock=True).instance_id != instance_id:
        connection.execute(insert(bindings).values(key=key, instance_id=instance_id, at=at))


def add_move(connection: Connection, key: str, after: State, cause: Cause, at: datetime, detail: str) -> Record:
    record = one_record(connection, key, lock=True)
    if record.state is after:
        return record
    check_move(record.state, after)
    _add_transition(connection, key, record.state, after, cause, at, detail)
    if after is State.TERMINATED:
        connection.execute(delete(claims).where(claims.c.key == key))
    return one_record(connection, key)


def _add_transition(
    connection: Connection, key: str, before: State, after: State, cause: Cause, at: datetime, detail: str
) -> None:
    connection.execute(
        insert(transitions).values(
            key=key, from_state=before.value, to_state=after.value, cause=cause.value, at=at, detail=_text(detail)
        )
    )


def add_end_wish(connection: Connection, key: str, cause: Cause, at: datetime, detail: str) -> Record:
    record = one_record(connection, key, lock=True)
    if record.end_wanted or not record.live:
        return record
    _add_wish(connection, key, "end", True, cause, at, detail)
    return one_record(connection, key)


def add_stop_wish(connection: Connection, key: str, wanted: bool, at: datetime) -> Record:
    record = one_record(connection, key, lock=True)
    if record.stop_wanted is wanted or not record.live:
        return record
    _add_wish(connection, key, "stop", wanted, Cause.USER, at, "")
    return one_record(connection, key)


def _add_wish(
    connection: Connection, key: str, wish: str, wanted: bool, cause: Cause, at: datetime, detail: str
) -> None:
    connection.execute(
        insert(wishes).values(key=key, wish=wish, wanted=wanted, cause=cause.value, at=at, detail=_text(detail))
    )


def add_rate(connection: Connection, key: str, per_hour: Decimal | None, at: datetime) -> None:
    """A rate that is in force already is not written again: the reconciler tells it at every look."""
    if one_record(connection, key, lock=True).per_hour != per_hour:
        connection.execute(insert(rates).values(key=key, at=at, per_hour=per_hour))


def add_sample(connection: Connection, sample: Sample) -> None:
    connection.execute(
        insert(samples).values(
            key=sample.key,
            at=sample.at,
            prompt_tokens=sample.prompt_tokens,
            completion_tokens=sample.completion_tokens,
            cached_tokens=sample.cached_tokens,
            busy_us=micros_of(sample.busy_seconds),
        )
    )


def add_charges(connection: Connection, billed: Iterable[Charge]) -> None:
    """Append what is new or was changed by the provider; readers take the latest version of each id."""
    for charge in billed:
        values = {
            "provider": charge.provider,
            "charge_id": charge.id,
            "amount": charge.amount,
            "started": charge.start,
            "ended": charge.end,
            "instance_id": charge.instance_id,
            "description": _text(charge.description),
        }
        latest = connection.execute(
            select(*(charges.c[name] for name in values))
            .where(charges.c.provider == charge.provider, charges.c.charge_id == charge.id)
            .order_by(charges.c.id.desc())
            .limit(1)
        ).first()
        if latest is None or latest._asdict() != values:
            connection.execute(insert(charges).values(values))


def request_values(row: RequestRow, writer: int, seq: int) -> dict[str, object]:
    """A row for :func:`add_requests`. Raises ``TypeError`` or ``ValueError`` for what is no request row."""
    return {
        "writer": writer,
        "seq": seq,
        "key": str(row.key),
        "started": micros_of(row.started),
        "ended": micros_of(row.ended),
        "first_token": None if row.first_token is None else micros_of(row.first_token),
        "endpoint": _text(row.endpoint),
        "model": _text(row.model),
        "tag": _text(row.tag),
        "status": _text(row.status),
        "http_status": int(row.http_status),
        "stream": bool(row.stream),
        "prompt_tokens": _count(row.prompt_tokens),
        "completion_tokens": _count(row.completion_tokens),
        "cached_tokens": _count(row.cached_tokens),
        "reasoning_tokens": _count(row.reasoning_tokens),
        "estimated": bool(row.estimated),
        "probe": bool(row.probe),
    }


def add_requests(connection: Connection, rows: Sequence[dict[str, object]]) -> None:
    connection.execute(insert(requests), rows)


def _count(value: int) -> int:
    number = int(value)
    if not 0 <= number < 2**63:
        raise ValueError(f"{number} is no token count")
    return number


def _text(value: str) -> str:
    """Text that both databases store: PostgreSQL refuses NUL, both refuse half a surrogate pair."""
    return value.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
