"""What several commands share: their options, a client, a question."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ..client.sync import Client, Server
    from ..core.records import Record

JSON = typer.Option(False, "--json", help="Print JSON: stable keys, money as text.")
YES = typer.Option(False, "--yes", "-y", help="Do not ask.")
NAME = typer.Argument(help="The server's name.", show_default=False)
PROGRESS = typer.Option(None, help="How progress is shown: auto, plain or none.", show_default=False)


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
    return typer.confirm(question, default=False, err=True)
