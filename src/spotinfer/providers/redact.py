"""What a cloud answered, fit to be shown: every secret that the call knew is starred out, whatever form it took."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from ..core.secret import Secret

STARS = "***"
SHORTEST = 6
"""Shorter values are no secrets, and starring them out would make any text unreadable."""
TELLING = re.compile(r"env|secret|token|passw|auth|key|user_?data|onstart|credential|cookie", re.IGNORECASE)
"""Fields whose content is never shown: clouds echo a machine's environment and start-up script."""


class Redactor:
    """Knows secrets and removes them from text: as they are, as JSON writes them, in base64 and in a URL."""

    __slots__ = ("_forms",)

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        found = {form for secret in secrets for form in _forms(secret.reveal()) if len(form) >= SHORTEST}
        self._forms = tuple(sorted(found, key=len, reverse=True))

    def __repr__(self) -> str:
        return f"Redactor({len(self._forms)} forms)"

    def plus(self, secrets: Iterable[Secret]) -> Redactor:
        """The same, knowing more."""
        more = Redactor(secrets)
        more._forms = tuple(sorted({*self._forms, *more._forms}, key=len, reverse=True))
        return more

    def text(self, text: str, most: int = 2000) -> str:
        """``text`` without secrets, at most ``most`` characters of it. JSON also loses its telling fields."""
        try:
            parsed = json.loads(text)
            shown = json.dumps(without_telling_fields(parsed)) if isinstance(parsed, (dict, list)) else text
        except (ValueError, RecursionError):
            shown = text
        for form in self._forms:  # before it is cut: half a secret would not be recognised
            shown = shown.replace(form, STARS)
        return shown if len(shown) <= most else f"{shown[:most]}... ({len(shown)} characters)"


def without_telling_fields(value: object) -> object:
    if isinstance(value, Mapping):
        return {
            name: STARS
            if TELLING.search(str(name)) and item not in (None, "", [], {})
            else without_telling_fields(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [without_telling_fields(item) for item in value]
    return value


def secrets_of(env: Mapping[str, Secret | str]) -> tuple[Secret, ...]:
    """The secrets in a machine's environment, to be named to the call that sends them."""
    return tuple(value for value in env.values() if isinstance(value, Secret))


def _forms(secret: str) -> Iterable[str]:
    yield secret
    yield json.dumps(secret)[1:-1]
    yield quote(secret, safe="")
    yield base64.b64encode(secret.encode()).decode()
    for line in secret.splitlines():  # a PEM text is often shown line by line
        if not line.startswith("-----"):
            yield line
