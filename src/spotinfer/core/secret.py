"""A string that does not show itself."""

from __future__ import annotations

import hmac
from typing import NoReturn


class Secret:
    """Holds a key or a token; only :meth:`reveal` gives it back.

    ``repr``, ``str`` and f-strings show stars, so a secret that lands in a log line, an error or a table is harmless.
    Pickling is refused: a secret must not travel into a cache or another process unnoticed.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled; pass it through the environment or the key store")
