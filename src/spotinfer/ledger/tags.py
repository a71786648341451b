"""The tag that requests are counted under: a context variable, so it follows tasks and threads of async code.

Cheap to import: the transport reads :func:`current_tag` for every request.
"""

from __future__ import annotations

from contextvars import ContextVar
from types import TracebackType

from ..core.errors import ConfigError

MAX_LENGTH = 200

_current: ContextVar[str] = ContextVar("spotinfer_tag", default="")


def current_tag() -> str:
    """The innermost tag of the running code; empty outside of any."""
    return _current.get()


class Tag:
    """``with tag("experiment-1"):`` around plain or async code; the innermost one counts."""

    __slots__ = ("_before", "name")

    def __init__(self, name: str) -> None:
        self.name = _checked(name)
        self._before: list[str] = []

    def __enter__(self) -> str:
        self._before.append(_current.get())
        _current.set(self.name)
        return self.name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not ContextVar.reset: a fixture or a generator may be left in another context than it was entered in.
        _current.set(self._before.pop())

    async def __aenter__(self) -> str:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


def tag(name: str) -> Tag:
    """Count the requests made within under ``name``. Raises ``ConfigError`` for an unusable name."""
    return Tag(name)


def _checked(name: object) -> str:
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"a tag must be text, not {name!r}", hint='for example meter.tag("experiment-1")')
    if len(name) > MAX_LENGTH or not name.isprintable():
        raise ConfigError(
            f"a tag must be at most {MAX_LENGTH} printable characters", hint="tags are names, not descriptions"
        )
    return name
