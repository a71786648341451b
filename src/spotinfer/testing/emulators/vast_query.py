"""How an emulated Vast.ai reads a question: filters with operators, pages by a token, and which limit counts a call."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from operator import eq, ge, gt, le, lt, ne
from typing import Any

from .base import Request

OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": eq,
    "neq": ne,
    "gt": gt,
    "gte": ge,
    "lt": lt,
    "lte": le,
    "in": lambda value, wanted: value in wanted,
    "notin": lambda value, wanted: value not in wanted,
}
THRESHOLDS = {"create": 4.5, "show": 2.0, "list": 1.0, "destroy": 3.0, "manage": 1.0, "charges": 1.0}
"""Seconds that must lie between two calls of one kind."""


def matches(row: Mapping[str, Any], filters: Mapping[str, Any]) -> bool:
    """Raises ``ValueError`` with the column whose conditions make no sense. Nothing compares with null."""
    for column, conditions in filters.items():
        if not isinstance(conditions, Mapping) or not set(conditions) <= set(OPERATORS):
            raise ValueError(column)
        value = row.get(column)
        if value is None or not all(OPERATORS[name](value, wanted) for name, wanted in conditions.items()):
            return False
    return True


def token_of(id: int) -> str:
    return base64.b64encode(json.dumps({"values": {"id": id}}).encode()).decode()


def id_after(token: str | None) -> int:
    """Raises ``ValueError`` for a token that is none."""
    if token is None:
        return 0
    try:
        return int(json.loads(base64.b64decode(token))["values"]["id"])
    except (KeyError, TypeError) as error:
        raise ValueError(token) from error


def limited_as(request: Request) -> str | None:
    """Which threshold counts the call."""
    path = request.path.rstrip("/")
    if path.startswith("/api/v0/asks/"):
        return "create"
    if path in ("/api/v1/instances", "/api/v0/charges"):
        return "list" if path.endswith("instances") else "charges"
    if path.startswith("/api/v0/instances/") and path.count("/") == 4:
        return {"GET": "show", "PUT": "manage", "DELETE": "destroy"}.get(request.method)
    return None
