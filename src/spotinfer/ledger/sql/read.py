"""The statements that read, and the fold of what was appended into what is true now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Subquery,
    Table,
    and_,
    exists,
    func,
    literal,
    literal_column,
    select,
    type_coerce,
)

from ...core.model import Billing, Charge, Limits, OfferKind
from ...core.records import History, RateChange, Record, RequestRow, Sample, Transition
from ...core.states import Cause, State
from ..moments import EPOCH, SECOND, micros
from .schema import (
    Instant,
    bindings,
    charges,
    intents,
    rates,
    requests,
    samples,
    transitions,
    wishes,
)

_Rows = dict[str, list[Row[Any]]]

# Written out, not a bound parameter: SQLite uses a partial index only where it sees the constant.
_IS_END = transitions.c.to_state == literal_column("'terminated'")
_ENDED = exists(select(transitions.c.id).where(transitions.c.key == intents.c.key, _IS_END))


def live() -> ColumnElement[bool]:
    """Intents without evidence of the end. A query, not a stored flag, so that it cannot disagree with the history."""
    return ~_ENDED


def ended() -> ColumnElement[bool]:
    return _ENDED


def during(since: datetime | None, until: datetime | None) -> ColumnElement[bool]:
    """Intents of machines that were live at some moment of [since, until)."""
    conditions: list[ColumnElement[bool]] = [intents.c.id.is_not(None)]
    if since is not None:
        gone = select(transitions.c.id).where(transitions.c.key == intents.c.key, _IS_END, transitions.c.at <= since)
        conditions.append(~exists(gone))
    if until is not None:
        conditions.append(intents.c.at < until)
    return and_(*conditions)


def load_records(connection: Connection, where: ColumnElement[bool]) -> list[Record]:
    """The current truth about every matching machine, oldest first."""
    return [_fold(part) for part in _parts(connection, where)]


def load_histories(
    connection: Connection, where: ColumnElement[bool], since: datetime | None, until: datetime | None
) -> list[History]:
    """Matching machines with the requests and samples that touch [since, until).

    The last sample before ``since`` and the requests since then come too: growth can be told only from a base.
    """
    parts = list(_parts(connection, where))
    bases = _bases(where, since)
    asked = _requests(connection, bases, until)
    sampled = _samples(connection, bases, until)
    billed = _charges(connection, where)
    return [_history(part, asked[part.intent.key], sampled[part.intent.key], billed) for part in parts]


class _Part:
    """The rows that make up one machine's record."""

    __slots__ = ("binding", "intent", "rates", "transitions", "wishes")

    def __init__(self, intent: Row[Any], moved: list[Row[Any]], wished: list[Row[Any]], rated: list[Row[Any]]) -> None:
        self.intent, self.transitions, self.wishes, self.rates = intent, moved, wished, rated
        self.binding: str | None = None


def _parts(connection: Connection, where: ColumnElement[bool]) -> Iterator[_Part]:
    found = connection.execute(select(intents).where(where).order_by(intents.c.id)).all()
    if not found:
        return
    keys = select(intents.c.key).where(where)
    moved, wished, rated, bound = (
        _by_key(connection, table, table.c.key.in_(keys)) for table in (transitions, wishes, rates, bindings)
    )
    for intent in found:
        part = _Part(intent, moved[intent.key], wished[intent.key], rated[intent.key])
        if bound[intent.key]:
            part.binding = bound[intent.key][-1].instance_id
        yield part


def _by_key(connection: Connection, table: Table, where: ColumnElement[bool]) -> _Rows:
    grouped: _Rows = defaultdict(list)
    for row in connection.execute(select(table).where(where).order_by(table.c.id)):
        grouped[row.key].append(row)
    return grouped


def _fold(part: _Part) -> Record:
    intent, last = part.intent, part.transitions[-1]
    state = State(last.to_state)
    end = _end_wish(part)
    stops = [row for row in part.wishes if row.wish == "stop"]
    return Record(
        key=intent.key,
        name=intent.name,
        owner=intent.owner,
        provider=intent.provider,
        offer_id=intent.offer_id,
        kind=OfferKind(intent.kind),
        model=intent.model,
        engine=intent.engine,
        limits=Limits(lease=intent.lease, idle=intent.idle, max_age=intent.max_age, budget=intent.budget),
        detached=intent.detached,
        per_hour=_current_rate(part.rates),
        billing=Billing(granularity=intent.granularity, minimum=intent.minimum),
        state=state,
        cause=Cause(last.cause) if end is None or state is State.TERMINATED else Cause(end.cause),
        created_at=intent.at,
        state_at=last.at,
        instance_id=part.binding,
        ready_at=_first_at(part.transitions, State.READY),
        ended_at=_first_at(part.transitions, State.TERMINATED),
        end_wanted=end is not None,
        stop_wanted=bool(stops) and stops[-1].wanted,
    )


def _end_wish(part: _Part) -> Row[Any] | None:
    """Who first asked for the end: a wish, or the move that says the provider was asked.

    The move counts too, so that a machine lost on its way down and seen again is ended, not used.
    """
    asked = [row for row in part.wishes if row.wish == "end"]
    asked += [row for row in part.transitions if row.to_state == State.TERMINATING.value]
    return min(asked, key=lambda row: row.at) if asked else None


def _current_rate(rows: Sequence[Row[Any]]) -> Decimal | None:
    rate: Decimal | None = max(rows, key=lambda row: (row.at, row.id)).per_hour
    return rate


def _first_at(rows: Iterable[Row[Any]], state: State) -> datetime | None:
    return next((row.at for row in rows if row.to_state == state.value), None)


def _bases(where: ColumnElement[bool], since: datetime | None) -> Subquery:
    """For each machine the moment from which on its requests and samples are wanted."""
    if since is None:
        return select(intents.c.key, literal(EPOCH, Instant).label("base")).where(where).subquery()
    last = select(func.max(samples.c.at)).where(samples.c.key == intents.c.key, samples.c.at <= since)
    base = func.coalesce(last.scalar_subquery(), literal(since, Instant), type_=Instant)
    return select(intents.c.key, base.label("base")).where(where).subquery()


def _history(
    part: _Part, asked: list[RequestRow], sampled: list[Sample], billed: Mapping[tuple[str, str], list[Charge]]
) -> History:
    key, record = part.intent.key, _fold(part)
    moved = (
        Transition(
            key=key,
            before=State(row.from_state),
            after=State(row.to_state),
            cause=Cause(row.cause),
            at=row.at,
            detail=row.detail,
        )
        for row in part.transitions
    )
    return History(
        record=record,
        transitions=tuple(moved),
        rates=tuple(RateChange(key=key, at=row.at, per_hour=row.per_hour) for row in part.rates),
        requests=tuple(asked),
        samples=tuple(sampled),
        charges=tuple(charge for charge in billed[record.provider, part.binding or ""] if _within(charge, record)),
    )


_REQUEST = [requests.c[item.name] for item in fields(RequestRow)]


def _requests(connection: Connection, bases: Subquery, until: datetime | None) -> dict[str, list[RequestRow]]:
    table = requests.c
    on = and_(table.key == bases.c.key, table.ended >= type_coerce(bases.c.base, BigInteger))
    query = select(*_REQUEST).join(bases, on).order_by(table.ended, table.writer, table.seq)
    if until is not None:
        query = query.where(table.started < micros(until))
    grouped: dict[str, list[RequestRow]] = defaultdict(list)
    for key, started, ended_at, first, *rest in connection.execute(query):
        times = (started / SECOND, ended_at / SECOND, None if first is None else first / SECOND)
        grouped[key].append(RequestRow(key, *times, *rest))
    return grouped


def _samples(connection: Connection, bases: Subquery, until: datetime | None) -> dict[str, list[Sample]]:
    table = samples.c
    query = select(samples).join(bases, and_(table.key == bases.c.key, table.at >= bases.c.base))
    if until is not None:
        query = query.where(table.at < until)
    grouped: dict[str, list[Sample]] = defaultdict(list)
    for row in connection.execute(query.order_by(table.at, table.id)):
        grouped[row.key].append(
            Sample(
                key=row.key,
                at=row.at,
                prompt_tokens=row.prompt_tokens,
                cached_tokens=row.cached_tokens,
                completion_tokens=row.completion_tokens,
                busy_seconds=row.busy_us / SECOND,
            )
        )
    return grouped


def _charges(connection: Connection, where: ColumnElement[bool]) -> dict[tuple[str, str], list[Charge]]:
    """The latest version of each charge for these machines, by provider and the provider's id of the machine."""
    keys = select(intents.c.key).where(where)
    ids = select(bindings.c.instance_id).where(bindings.c.key.in_(keys))
    latest = select(func.max(charges.c.id)).group_by(charges.c.provider, charges.c.charge_id)
    query = select(charges).where(charges.c.instance_id.in_(ids), charges.c.id.in_(latest))
    grouped: dict[tuple[str, str], list[Charge]] = defaultdict(list)
    for row in connection.execute(query.order_by(charges.c.started, charges.c.charge_id)):
        grouped[row.provider, row.instance_id].append(
            Charge(
                provider=row.provider,
                id=row.charge_id,
                amount=row.amount,
                start=row.started,
                end=row.ended,
                instance_id=row.instance_id,
                description=row.description,
            )
        )
    return grouped


def _within(charge: Charge, record: Record) -> bool:
    """Whether it is for this machine: a provider may give an id again once its machine is gone."""
    return charge.end >= record.created_at and (record.ended_at is None or charge.start <= record.ended_at)
