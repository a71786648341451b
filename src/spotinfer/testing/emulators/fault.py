"""What may go wrong between an adapter and its cloud, as data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

FOREVER = 10**9
"""As ``times``: until it is healed. As ``slow``: longer than anybody waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to the next ``times`` calls whose method is ``method`` and whose path matches ``path`` (a regular
    expression; both None: any call).

    Exactly one of: ``status`` (with ``body`` and ``headers``), ``cut`` (no answer), ``half`` (a broken-off one),
    ``refused`` (no connection was made); or only ``slow`` seconds of delay. ``after``: the cloud carries the call out
    first, so the caller learns nothing of what was done. ``echo``: the error repeats the key and the body that were
    sent, as validators do; none of it may come out of the adapter.
    """

    name: str
    status: int | None = None
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    echo: bool = False
    half: bool = False
    refused: bool = False
    slow: float = 0.0
    after: bool = False
    times: int = 1
    method: str | None = None
    path: str | None = None

    def on(self, method: str | None, path: str | None = None) -> Fault:
        """The same, only for these calls."""
        return replace(self, method=method, path=path)

    def repeated(self, times: int = FOREVER) -> Fault:
        return replace(self, times=times)

    def matches(self, method: str, path: str) -> bool:
        return self.method in (None, method) and (self.path is None or re.fullmatch(self.path, path) is not None)

    def less(self) -> Fault | None:
        """What is left of it after it happened once."""
        return replace(self, times=self.times - 1) if self.times > 1 else None


def _problem(status: int) -> dict[str, Any]:
    words = f"injected {status}"
    return {"title": words, "status": status, "detail": words, "error": {"code": words, "message": words}}


def answered(status: int, *, after: bool = False, headers: Mapping[str, str] | None = None) -> Fault:
    """An error status with a body in which every form of error is written at once."""
    name = f"{status} after" if after else str(status)
    return Fault(name=name, status=status, body=_problem(status), headers=headers or {}, after=after, echo=True)


UNAUTHORISED = answered(401)
NO_FUNDS = answered(402)
FORBIDDEN = answered(403)
NOT_FOUND = answered(404)
CONFLICT = answered(409)
INVALID = answered(422)
RATE_LIMITED = answered(429, headers={"Retry-After": "7"})
RATE_LIMITED_SILENTLY = replace(answered(429), name="429 without Retry-After")
BROKEN = answered(500)
BROKEN_AFTER = answered(500, after=True)
UNAVAILABLE = answered(503)
UNAVAILABLE_AFTER = answered(503, after=True)
TIMED_OUT = Fault(name="time-out", slow=FOREVER)
TIMED_OUT_AFTER = Fault(name="time-out after", slow=FOREVER, after=True)
CUT = Fault(name="cut", cut=True)
CUT_AFTER = Fault(name="cut after", cut=True, after=True)
HALF = Fault(name="half a JSON", half=True, after=True)
REFUSED = Fault(name="refused", refused=True)

FAULTS: tuple[Fault, ...] = (
    UNAUTHORISED,
    NO_FUNDS,
    FORBIDDEN,
    NOT_FOUND,
    CONFLICT,
    INVALID,
    RATE_LIMITED,
    RATE_LIMITED_SILENTLY,
    BROKEN,
    BROKEN_AFTER,
    UNAVAILABLE,
    UNAVAILABLE_AFTER,
    TIMED_OUT,
    TIMED_OUT_AFTER,
    CUT,
    CUT_AFTER,
    HALF,
    REFUSED,
)
"""Every fault of the matrix."""
