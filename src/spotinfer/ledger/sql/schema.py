"""The tables, and the numbered migrations that make them.

Every table is append-only but one: ``claims``, a lock, whose primary key is what makes "two processes launch the same
name: one wins" atomic in both databases. Money is text, so that a ``Decimal`` comes back digit for digit from SQLite
too; a time is the integer number of microseconds since 1970 (UTC): exact, sortable and the same in both.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy import BigInteger, Boolean, Column, Dialect, Integer, MetaData, String, Table
from sqlalchemy.types import TypeDecorator

from ..moments import MICROSECOND, micros, moment


class Money(TypeDecorator[Decimal]):
    """Dollars as text."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


class Instant(TypeDecorator[datetime]):
    """An aware time as microseconds since 1970."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else micros(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else moment(value)


class Duration(TypeDecorator[timedelta]):
    """A span of time as microseconds."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: timedelta | None, dialect: Dialect) -> int | None:
        return None if value is None else value // MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> timedelta | None:
        return None if value is None else timedelta(microseconds=value)


metadata = MetaData()


def _serial() -> Column[int]:
    # SQLite numbers rows by itself only for a column that is exactly INTEGER PRIMARY KEY.
    return Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True)


def _key() -> Column[str]:
    return Column("key", String, nullable=False)


def _at() -> Column[datetime]:
    return Column("at", Instant, nullable=False)


def _counts() -> list[Column[int]]:
    names = ("prompt_tokens", "completion_tokens", "cached_tokens")
    return [Column(name, BigInteger, nullable=False) for name in names]


schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True), _at())

installation = Table("installation", metadata, Column("id", Integer, primary_key=True), Column("owner", String), _at())

claims = Table("claims", metadata, Column("name", String, primary_key=True), _key())

intents = Table(
    "intents",
    metadata,
    _serial(),
    _key(),
    Column("name", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("provider", String, nullable=False),
    Column("offer_id", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("label", String, nullable=False),
    Column("model", String, nullable=False),
    Column("engine", String, nullable=False),
    Column("lease", Duration),
    Column("idle", Duration),
    Column("max_age", Duration),
    Column("budget", Money),
    Column("detached", Boolean, nullable=False),
    Column("granularity", BigInteger, nullable=False),
    Column("minimum", BigInteger, nullable=False),
    _at(),
)

transitions = Table(
    "transitions",
    metadata,
    _serial(),
    _key(),
    Column("from_state", String, nullable=False),
    Column("to_state", String, nullable=False),
    Column("cause", String, nullable=False),
    _at(),
    Column("detail", String, nullable=False),
)

bindings = Table("bindings", metadata, _serial(), _key(), Column("instance_id", String, nullable=False), _at())

wishes = Table(
    "wishes",
    metadata,
    _serial(),
    _key(),
    Column("wish", String, nullable=False),
    Column("wanted", Boolean, nullable=False),
    Column("cause", String, nullable=False),
    _at(),
    Column("detail", String, nullable=False),
)

rates = Table("rates", metadata, _serial(), _key(), _at(), Column("per_hour", Money))

requests = Table(
    "requests",
    metadata,
    Column("writer", BigInteger, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    _key(),
    Column("started", BigInteger, nullable=False),
    Column("ended", BigInteger, nullable=False),
    Column("first_token", BigInteger),
    Column("endpoint", String, nullable=False),
    Column("model", String, nullable=False),
    Column("tag", String, nullable=False),
    Column("status", String, nullable=False),
    Column("http_status", Integer, nullable=False),
    Column("stream", Boolean, nullable=False),
    *_counts(),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("probe", Boolean, nullable=False),
)

samples = Table(
    "samples", metadata, _serial(), _key(), _at(), *_counts(), Column("busy_us", BigInteger, nullable=False)
)

charges = Table(
    "charges",
    metadata,
    _serial(),
    Column("provider", String, nullable=False),
    Column("charge_id", String, nullable=False),
    Column("amount", Money, nullable=False),
    Column("started", Instant, nullable=False),
    Column("ended", Instant, nullable=False),
    Column("instance_id", String),
    Column("description", String, nullable=False),
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    # 1: everything there was in the first release. A published migration is never edited; append a new one.
    (
        "CREATE TABLE installation (id INTEGER PRIMARY KEY, owner TEXT NOT NULL, at BIGINT NOT NULL)",
        "CREATE TABLE claims (name TEXT PRIMARY KEY, key TEXT NOT NULL)",
        "CREATE TABLE intents (id {serial}, key TEXT NOT NULL UNIQUE, name TEXT NOT NULL, owner TEXT NOT NULL,"
        " provider TEXT NOT NULL, offer_id TEXT NOT NULL, kind TEXT NOT NULL, label TEXT NOT NULL,"
        " model TEXT NOT NULL, engine TEXT NOT NULL, lease BIGINT, idle BIGINT, max_age BIGINT, budget TEXT,"
        " detached BOOLEAN NOT NULL, granularity BIGINT NOT NULL, minimum BIGINT NOT NULL, at BIGINT NOT NULL)",
        "CREATE INDEX intents_name ON intents (name)",
        "CREATE TABLE transitions (id {serial}, key TEXT NOT NULL, from_state TEXT NOT NULL, to_state TEXT NOT NULL,"
        " cause TEXT NOT NULL, at BIGINT NOT NULL, detail TEXT NOT NULL)",
        "CREATE INDEX transitions_key ON transitions (key, id)",
        # "Is it gone?" is asked of every machine that ever was, on every `ls`.
        "CREATE INDEX transitions_end ON transitions (key, at) WHERE to_state = 'terminated'",
        "CREATE TABLE bindings (id {serial}, key TEXT NOT NULL, instance_id TEXT NOT NULL, at BIGINT NOT NULL)",
        "CREATE INDEX bindings_key ON bindings (key, id)",
        "CREATE TABLE wishes (id {serial}, key TEXT NOT NULL, wish TEXT NOT NULL, wanted BOOLEAN NOT NULL,"
        " cause TEXT NOT NULL, at BIGINT NOT NULL, detail TEXT NOT NULL)",
        "CREATE INDEX wishes_key ON wishes (key, id)",
        "CREATE TABLE rates (id {serial}, key TEXT NOT NULL, at BIGINT NOT NULL, per_hour TEXT)",
        "CREATE INDEX rates_key ON rates (key, id)",
        "CREATE TABLE requests (writer BIGINT NOT NULL, seq BIGINT NOT NULL, key TEXT NOT NULL,"
        " started BIGINT NOT NULL, ended BIGINT NOT NULL, first_token BIGINT, endpoint TEXT NOT NULL,"
        " model TEXT NOT NULL, tag TEXT NOT NULL, status TEXT NOT NULL, http_status INTEGER NOT NULL,"
        " stream BOOLEAN NOT NULL, prompt_tokens BIGINT NOT NULL, completion_tokens BIGINT NOT NULL,"
        " cached_tokens BIGINT NOT NULL, reasoning_tokens BIGINT NOT NULL, estimated BOOLEAN NOT NULL,"
        " probe BOOLEAN NOT NULL, PRIMARY KEY (writer, seq))",
        "CREATE INDEX requests_key ON requests (key, ended)",
        "CREATE TABLE samples (id {serial}, key TEXT NOT NULL, at BIGINT NOT NULL, prompt_tokens BIGINT NOT NULL,"
        " completion_tokens BIGINT NOT NULL, cached_tokens BIGINT NOT NULL, busy_us BIGINT NOT NULL)",
        "CREATE INDEX samples_key ON samples (key, at)",
        "CREATE TABLE charges (id {serial}, provider TEXT NOT NULL, charge_id TEXT NOT NULL, amount TEXT NOT NULL,"
        " started BIGINT NOT NULL, ended BIGINT NOT NULL, instance_id TEXT, description TEXT NOT NULL)",
        "CREATE INDEX charges_id ON charges (provider, charge_id, id)",
        "CREATE INDEX charges_instance ON charges (provider, instance_id)",
    ),
)

SERIAL = {"sqlite": "INTEGER PRIMARY KEY", "postgresql": "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY"}
