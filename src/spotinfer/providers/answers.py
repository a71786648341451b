"""What an HTTP answer of a cloud means: one table from status codes to the error tree, for every adapter.

An adapter that knows more of its cloud (no capacity said in prose, an error code in the body) refines it with a
function of its own; what that leaves open is decided here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from ..core.errors import (
    AuthenticationFailed,
    InsufficientFunds,
    OutcomeUnknown,
    PermissionDenied,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    UnexpectedAnswer,
)
from .redact import Redactor

LONGEST_WAIT = 24 * 3600.0
"""Longer waits than this are not believed."""
UNDECIDED = frozenset({408, 425, 499})
"""Of the 4xx these say nothing about whether the request was carried out."""


class NotFound(UnexpectedAnswer):
    """404 or 410. The adapter decides what it means (a machine is gone, an offer is); unhandled it is a bug of ours."""

    default_hint = "the cloud does not know what it was asked for: please report this"


class Conflict(UnexpectedAnswer):
    """409: not possible in the state that the thing is in. The adapter decides; unhandled it is a bug of ours."""

    default_hint = "the machine is in another state than expected: look again with `spotinfer ls`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer to ``call`` (``GET /pods``). ``body`` is its JSON, None where there is none; ``readable`` is False
    when it broke off."""

    status: int
    call: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    text: str = field(default="", repr=False)
    body: Any = field(default=None, repr=False)
    readable: bool = True

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def message(self) -> str:
        """What the cloud says in words, wherever it puts them; not yet redacted."""
        return _words(self.body) or self.text.strip()


Refine = Callable[[Answer], "ProviderError | None"]
"""What an adapter knows better than the table; None leaves the answer to the table. It sees every complete answer and
must put into the error only what it took from ``Answer.message`` (which is redacted afterwards) or wrote itself."""


def read_answer(status: int, headers: Mapping[str, str], content: bytes, call: str = "") -> Answer:
    text = content.decode("utf-8", "replace")
    if not text.strip():
        return Answer(status=status, call=call, headers=headers)
    try:
        return Answer(status=status, call=call, headers=headers, text=text, body=json.loads(text))
    except (ValueError, RecursionError):
        return Answer(status=status, call=call, headers=headers, text=text, readable=False)


def judge(
    answer: Answer, *, provider: str, what: str, spends: bool, now: datetime, hide: Redactor
) -> ProviderError | None:
    """The error that an answer means; None for a good one. ``what`` names the call for people: ``GET /pods``."""
    body = hide.text(answer.text)
    said = hide.text(answer.message, 500) or f"status {answer.status}"
    status = answer.status
    if answer.ok:
        return None if answer.readable else _unreadable(answer, provider, what, spends, body)
    if status >= 500 or status in UNDECIDED:
        kind = OutcomeUnknown if spends else ProviderUnavailable
        return kind(f"{what} failed: {status} {said}", provider=provider)
    if status == 401:
        return AuthenticationFailed(f"the key was refused: {said}", provider=provider)
    if status == 402:
        return InsufficientFunds(said, provider=provider)
    if status == 403:
        return _forbidden(said, what, provider)
    if status == 429:
        wait = retry_after(answer.headers, now)
        return RateLimited(f"too many calls: {said}", provider=provider, retry_after=wait)
    if status in (404, 410):
        return NotFound(f"{what}: not found", provider=provider, body=body)
    if status == 409:
        return Conflict(f"{what}: conflict", provider=provider, body=body)
    return UnexpectedAnswer(f"{what} was not understood: {status}", provider=provider, body=body)


def _forbidden(said: str, what: str, provider: str) -> ProviderError:
    if re.search(r"error code: 10\d\d|cloudflare", said, re.IGNORECASE):
        return ProviderUnavailable(f"{what} was blocked on the way: {said}", provider=provider)
    return PermissionDenied(f"{what} is not allowed: {said}", provider=provider, hint="give the key this permission")


def _unreadable(answer: Answer, provider: str, what: str, spends: bool, body: str) -> ProviderError:
    if spends:
        return OutcomeUnknown(f"{what} was answered, but the answer broke off", provider=provider)
    if answer.text.lstrip()[:1] in ("{", "["):
        return ProviderUnavailable(f"the answer to {what} broke off", provider=provider)
    return UnexpectedAnswer(f"the answer to {what} is not JSON", provider=provider, body=body)


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds, from either form of ``Retry-After``; None where it is absent or makes no sense."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
        return min(float(value), LONGEST_WAIT)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    if at.tzinfo is None:
        return None
    return min(max((at - now).total_seconds(), 0.0), LONGEST_WAIT)


def _words(body: object) -> str:
    """RFC 9457 (``title``, ``detail``, ``errors``), and the forms that other clouds use."""
    if isinstance(body, str):
        return body
    if isinstance(body, list):
        return "; ".join(filter(None, map(_words, body)))
    if not isinstance(body, Mapping):
        return ""
    said = [body.get(name) for name in ("title", "code", "detail", "msg", "message", "suggestion")]
    parts = [part for part in said if isinstance(part, str) and part]
    parts += filter(None, (_words(body.get(name)) for name in ("error", "errors")))
    return ": ".join(dict.fromkeys(parts))
