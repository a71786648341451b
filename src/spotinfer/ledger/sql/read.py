"""The statements that read, and the fold of what was appended into what is true now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Table, and_, exists, func, literal_column, select

from ...core.model import Billing, Charge, Limits, OfferKind
from ...core.records import History, RateChange, Record, RequestRow, Sample, Transition
from ...core.states import Cause, State
from ..moments import SECOND, micros
from .schema import (
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
    bases = {part.intent.key: _base(connection, part.intent.key, since) for part in parts}
    return [_history(connection, part, bases[part.intent.key], until) for part in parts]


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


def _base(connection: Connection, key: str, since: datetime | None) -> datetime | None:
    if since is None:
        return None
    query = select(func.max(samples.c.at)).where(samples.c.key == key, samples.c.at <= since)
    last: datetime | None = connection.execute(query).scalar()
    return last or since


def _history(connection: Connection, part: _Part, base: datetime | None, until: datetime | None) -> History:
    key = part.intent.key
    record = _fold(part)
    return History(
        record=record,
        transitions=tuple(
            Transition(
                key=key,
                before=State(row.from_state),
                after=State(row.to_state),
                cause=Cause(row.cause),
                at=row.at,
                detail=row.detail,
            )
            for row in part.transitions
        ),
        rates=tuple(RateChange(key=key, at=row.at, per_hour=row.per_hour) for row in part.rates),
        requests=tuple(_requests(connection, key, base, until)),
        samples=tuple(_samples(connection, key, base, until)),
        charges=tuple(_charges(connection, record)),
    )


def _requests(connection: Connection, key: str, since: datetime | None, until: datetime | None) -> Iterator[RequestRow]:
    table = requests.c
    query = select(requests).where(table.key == key).order_by(table.ended, table.writer, table.seq)
    if since is not None:
        query = query.where(table.ended >= micros(since))
    if until is not None:
        query = query.where(table.started < micros(until))
    for row in connection.execute(query):
        yield RequestRow(
            row.key,
            row.started / SECOND,
            row.ended / SECOND,
            None if row.first_token is None else row.first_token / SECOND,
            row.endpoint,
            row.model,
            row.tag,
            row.status,
            row.http_status,
            row.stream,
            row.prompt_tokens,
            row.completion_tokens,
            row.cached_tokens,
            row.reasoning_tokens,
            row.estimated,
            row.probe,
        )


def _samples(connection: Connection, key: str, since: datetime | None, until: datetime | None) -> Iterator[Sample]:
    query = select(samples).where(samples.c.key == key).order_by(samples.c.at, samples.c.id)
    if since is not None:
        query = query.where(samples.c.at >= since)
    if until is not None:
        query = query.where(samples.c.at < until)
    for row in connection.execute(query):
        yield Sample(
            key=key,
            at=row.at,
            prompt_tokens=row.prompt_tokens,
            cached_tokens=row.cached_tokens,
            completion_tokens=row.completion_tokens,
            busy_seconds=row.busy_us / SECOND,
        )


def _charges(connection: Connection, record: Record) -> Iterator[Charge]:
    """What was billed for this machine: the latest version of each charge."""
    if record.instance_id is None:
        return
    mine = and_(charges.c.provider == record.provider, charges.c.instance_id == record.instance_id)
    latest = select(func.max(charges.c.id)).group_by(charges.c.provider, charges.c.charge_id)
    query = select(charges).where(mine, charges.c.id.in_(latest)).order_by(charges.c.started, charges.c.charge_id)
    # A provider may give an id again once its machine is gone.
    life = [charges.c.ended >= record.created_at]
    if record.ended_at is not None:
        life.append(charges.c.started <= record.ended_at)
    for row in connection.execute(query.where(*life)):
        yield Charge(
            provider=row.provider,
            id=row.charge_id,
            amount=row.amount,
            start=row.started,
            end=row.ended,
            instance_id=row.instance_id,
            description=row.description,
        )
