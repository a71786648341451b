"""What Vast's refusals mean. Its status codes alone mislead: a bad key is a 404, an offer that is gone a 410 or a 404,
and a refusal may have rented a machine all the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...core.errors import (
    AuthenticationFailed,
    InsufficientFunds,
    NoCapacity,
    OfferGone,
    Outbid,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    UnexpectedAnswer,
)
from ..http import Answer, NotFound

PROVIDER = "vast"
UNTIL_MIDNIGHT = "the searches of this day are used up; the count starts anew at midnight UTC"


class RentedAnyway(ProviderError):
    """The call was refused, and its answer names a machine that exists: stopped, and its disk bills."""

    def __init__(self, message: str, contract: int) -> None:
        super().__init__(message, provider=PROVIDER)
        self.contract = contract


class NoSuchMachine(NotFound):
    """Vast itself says that there is no such machine; a bare 404 may come from anything on the way."""


MEANINGS: tuple[tuple[str, type[ProviderError]], ...] = (
    (r"auth_error|invalid user key|requires login", AuthenticationFailed),
    (r"no_such_ask", OfferGone),
    (r"no_such_instance|instance not found|invalid_id|instance with that id does not exist", NoSuchMachine),
    (r"invalid_price|bid (price )?is too low|higher bid", Outbid),  # [U] the words for a bid that is too low
    (r"lacks? credit|insufficient.?(credit|funds|balance)", InsufficientFunds),  # [U] the exact words
    (r"no.?capacity|resources.?unavailable|no longer available", NoCapacity),
)
"""In ``error`` or ``msg`` of a refusal, whatever its status; the first that is found counts."""


def refine(answer: Answer) -> ProviderError | None:
    """What is particular to Vast; None leaves the answer to the common table."""
    body = answer.body if isinstance(answer.body, Mapping) else {}
    if answer.ok and body.get("success") is not False:
        return None
    said = answer.message[:500] or f"status {answer.status}"
    contract = body.get("new_contract")
    if isinstance(contract, int) and not isinstance(contract, bool):
        return RentedAnyway(said, contract)
    if answer.status == 429 or "too frequent" in said:
        return _too_many(said, body, answer.headers)
    if answer.status >= 500:
        return None
    for pattern, error in MEANINGS:
        if re.search(pattern, said, re.IGNORECASE):
            return error(said, provider=PROVIDER)
    # Several endpoints say no with status 200.
    return UnexpectedAnswer(f"refused: {said}", provider=PROVIDER) if answer.ok else None


def _too_many(said: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> ProviderError:
    """Vast says how many seconds must lie between two calls, in prose; ``Retry-After`` only at times."""
    if "search_quota_exceeded" in said:
        return QuotaExceeded(UNTIL_MIDNIGHT, provider=PROVIDER)
    told = re.search(r"threshold\s*=\s*(\d{1,4}(?:\.\d{1,3})?)", said)
    header = headers.get("retry-after", "")
    wait = header if re.fullmatch(r"\d{1,5}", header) else told.group(1) if told else None
    return RateLimited(f"too many calls: {said}", provider=PROVIDER, retry_after=None if wait is None else float(wait))
