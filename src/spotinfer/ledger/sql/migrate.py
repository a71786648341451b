"""Bring a database to the schema of this version: safe with several processes that open it at once."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, func, insert, inspect, select, text

from ...core.errors import LedgerError
from .engine import Location
from .schema import MIGRATIONS, SERIAL, installation, schema_version

_ADVISORY_LOCK = 0x73706F74  # "spot": any constant that no other program is likely to take


def migrate(
    connection: Connection,
    location: Location,
    at: datetime,
    *,
    owner: str | None = None,
    migrations: Sequence[Sequence[str]] = MIGRATIONS,
) -> str:
    """Apply what is missing within the caller's transaction; answer the installation's owner id.

    Raises ``LedgerError`` for a schema newer than ours and for another program's database.
    """
    if not location.sqlite:  # SQLite's own write lock is held already
        connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
    version = _version(connection, location)
    if version > len(migrations):
        raise LedgerError(
            f"the ledger {location} has schema {version}, this spotinfer knows {len(migrations)}",
            hint="a newer version wrote it: pip install --upgrade spotinfer",
        )
    serial = SERIAL[connection.dialect.name]
    for number, statements in enumerate(migrations[version:], start=version + 1):
        for statement in statements:
            connection.execute(text(statement.replace("{serial}", serial)))
        connection.execute(insert(schema_version).values(version=number, at=at))
    return _owner(connection, at, owner)


def _version(connection: Connection, location: Location) -> int:
    present = inspect(connection).get_table_names()
    if schema_version.name in present:
        return connection.execute(select(func.max(schema_version.c.version))).scalar() or 0
    if location.sqlite and present:
        raise LedgerError(
            f"{location} is a database of another program; it was left untouched",
            hint="keep the ledger in a file of its own",
        )
    connection.execute(text("CREATE TABLE schema_version (version INTEGER PRIMARY KEY, at BIGINT NOT NULL)"))
    return 0


def _owner(connection: Connection, at: datetime, wanted: str | None) -> str:
    known: str | None = connection.execute(select(installation.c.owner)).scalar()
    if known is not None:
        return known
    owner = wanted or secrets.token_hex(8)
    connection.execute(insert(installation).values(id=1, owner=owner, at=at))
    return owner
