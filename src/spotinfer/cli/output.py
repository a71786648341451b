"""How commands print: data on stdout, everything else on stderr, JSON with stable keys and money as text."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..client.durations import format_duration
from ..core.money import usd

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..core.records import Record

NOT_A_TERMINAL_WIDTH = 200
"""A pipe has no width: do not cut what another program reads."""


def stdout() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=NOT_A_TERMINAL_WIDTH)


def stderr() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def show(*items: RenderableType) -> None:
    console = stdout()
    for item in items:
        console.print(item)


def say(text: str, *, style: str = "") -> None:
    """A remark for people, on stderr."""
    stderr().print(Text(text, style=style))


def complain(message: str, *, hint: str | None = None, log: Sequence[str] = ()) -> None:
    console = stderr()
    first, *rest = message.splitlines() or [""]
    console.print(Text.assemble(("error: ", "bold red"), (first, "red")))
    for line in rest:
        console.print(Text(line))
    for line in log[-20:]:
        console.print(Text(f"  | {line}", style="dim"))
    if hint:
        console.print(Text.assemble(("hint:  ", "bold"), hint))


def complain_json(fault: dict[str, object]) -> None:
    print(json.dumps(plain(fault)), file=sys.stderr)


def show_json(value: object) -> None:
    """Flushed, so that a command that goes on (`proxy`) can be read by another program."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False), flush=True)


def plain(value: object) -> object:
    """Money as exact text, times in ISO 8601, durations in seconds."""
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    result = Table(box=None, padding=(0, 3, 0, 0), header_style="dim", pad_edge=False)
    for column in columns:
        result.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    return result


def facts(*pairs: tuple[str, str]) -> Table:
    """What something is, one fact a line."""
    result = Table.grid(padding=(0, 3, 0, 0))
    result.add_column(style="dim", no_wrap=True)
    result.add_column(overflow="fold")
    for name, value in pairs:
        result.add_row(name, Text(value))
    return result


STYLES = {"ready": "green", "terminated": "dim", "lost": "red", "stopped": "yellow"}


def state(value: object) -> Text:
    return Text(str(value), style=STYLES.get(str(value), "cyan"))


def dollars(amount: Decimal | None) -> str:
    """Owned hardware without a price is not free."""
    return "no price set" if amount is None else usd(amount)


def limits_text(record: Record) -> str:
    """``30m idle, 1d old, $0.50``."""
    limits = record.limits
    parts = [
        f"{format_duration(limits.idle)} idle" if limits.idle else "",
        f"{format_duration(limits.max_age)} old" if limits.max_age else "",
        f"{usd(limits.budget)} spent" if limits.budget is not None else "",
    ]
    return ", ".join(part for part in parts if part) or "never"


def record_dict(record: Record) -> dict[str, object]:
    """The stable keys of a server in every ``--json``."""
    limits = record.limits
    return {
        "name": record.name,
        "key": record.key,
        "state": record.state,
        "cause": record.cause,
        "model": record.model,
        "engine": record.engine,
        "provider": record.provider,
        "instance_id": record.instance_id,
        "kind": record.kind,
        "per_hour": record.per_hour,
        "detached": record.detached,
        "created_at": record.created_at,
        "ready_at": record.ready_at,
        "ended_at": record.ended_at,
        "limits": {"idle": limits.idle, "max_age": limits.max_age, "budget": limits.budget, "lease": limits.lease},
    }
