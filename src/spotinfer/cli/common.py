"""What several commands share: a client, a record, a question."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..client.sync import Client, Server
    from ..core.records import Record


def open_client(progress: str | None = None) -> Client:
    from ..client.sync import Client

    return Client(progress=progress)


def record_of(client: Client, server: Server) -> Record:
    """Also after its end: the newest of that name."""
    records = [info.record for info in client.servers(ended=True) if info.record.name == server.name]
    return max(records, key=lambda record: record.created_at)


def can_ask() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str) -> bool:
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
