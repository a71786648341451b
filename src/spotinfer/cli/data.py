"""JSON for programs: stable keys, money as exact text, times in ISO 8601, durations in seconds."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..core.records import Record


def show_json(value: object) -> None:
    """Flushed, so that a command that goes on (`proxy`) can be read by another program."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False), flush=True)


def complain_json(fault: dict[str, object]) -> None:
    print(json.dumps(plain(fault)), file=sys.stderr)


def plain(value: object) -> object:
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


def record_dict(record: Record) -> dict[str, object]:
    """The keys of a server in every command."""
    limits = record.limits
    names = (
        "name", "key", "state", "cause", "model", "engine", "provider", "instance_id", "kind", "per_hour", "detached",
        "created_at", "ready_at", "ended_at",
    )  # fmt: skip
    return {
        **{name: getattr(record, name) for name in names},
        "limits": {"idle": limits.idle, "max_age": limits.max_age, "budget": limits.budget, "lease": limits.lease},
    }
