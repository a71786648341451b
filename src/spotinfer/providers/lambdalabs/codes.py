"""Lambda's error codes. The documentation asks to branch on ``code`` alone: messages and even the status vary."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ...core.errors import (
    AuthenticationFailed,
    NoCapacity,
    PermissionDenied,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
)
from ..http import Answer, Conflict, NotFound
from .offers import NAME


class Gone(NotFound):
    """``global/object-does-not-exist``: Lambda itself says so, which an answer 404 alone (of a proxy, or for a wrong
    path) does not."""


class Busy(Conflict):
    """A firewall ruleset that a machine still uses."""


class Upstream(ProviderUnavailable):
    """``provider/...`` and ``global/internal-error``: something behind Lambda failed. Whatever status it came with, it
    does not say whether the request was carried out."""


class TooFast(RateLimited):
    """429 without ``Retry-After``. The documentation says one call a second, so that is waited out (a client that gave
    up here has left machines running)."""

    def __init__(self, message: str) -> None:
        super().__init__(f"too many calls: {message}", provider=NAME, retry_after=1.0)


CODES: Mapping[str, type[ProviderError]] = MappingProxyType(
    {
        "global/invalid-api-key": AuthenticationFailed,
        "global/account-inactive": PermissionDenied,
        "global/invalid-address": PermissionDenied,
        "global/forbidden": PermissionDenied,
        "global/quota-exceeded": QuotaExceeded,
        "instance-operations/launch/insufficient-capacity": NoCapacity,
        "global/object-does-not-exist": Gone,
        "firewall-rulesets/firewall-ruleset-in-use": Busy,
        "global/conflict": Conflict,
        "global/duplicate": Conflict,
        "global/internal-error": Upstream,
    }
)

HINTS: Mapping[str, str] = MappingProxyType(
    {
        "global/account-inactive": "activate the account at cloud.lambda.ai",
        "global/invalid-address": "enter a valid billing address at cloud.lambda.ai",
        "global/forbidden": "use a key that may do this",
        "global/quota-exceeded": "ask Lambda for a higher quota, or end other machines",
    }
)


def refine(answer: Answer) -> ProviderError | None:
    """What a code says. A 5xx is left to the table of all clouds: it may have come after the machine was made."""
    if answer.status == 429:
        return None if "retry-after" in answer.headers else TooFast(answer.message)
    if not 400 <= answer.status < 500:
        return None
    code = _code(answer.body)
    kind = Upstream if code.startswith("provider/") else CODES.get(code)
    return None if kind is None else kind(answer.message, provider=NAME, hint=HINTS.get(code))


def _code(body: object) -> str:
    error = body.get("error") if isinstance(body, Mapping) else None
    code = error.get("code") if isinstance(error, Mapping) else None
    return code if isinstance(code, str) else ""
