"""Durations as people write them."""

from __future__ import annotations

import re
from datetime import timedelta

from ..core.errors import ConfigError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])\s*")
_NEVER = frozenset({"none", "never", "off"})
_LONGEST = timedelta(days=3650)


def parse_duration(value: object, *, what: str = "duration") -> timedelta | None:
    """A timedelta out of ``"10m"``, ``"1h30m"``, ``"2d"``, seconds as a number or text, or a timedelta.

    None, and the word ``"never"`` in files and variables that know no null, mean no limit and give None. Raises
    :class:`ConfigError` for everything else. Zero is refused: other programs mean "no limit" by it, and whoever means
    that here must say so.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in _NEVER):
        return None
    try:
        span = value if isinstance(value, timedelta) else timedelta(seconds=_seconds(value))
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{what} must be a duration, not {value!r}", hint=_HINT.format(what)) from error
    if span <= timedelta(0):
        raise ConfigError(f"{what} must be longer than nothing: {value!r}", hint=_HINT.format(what))
    if span > _LONGEST:
        raise ConfigError(f"{what} must be at most ten years: {value!r}", hint=_HINT.format(what))
    return span


_HINT = 'seconds, or for example {}="10m", "1h30m", "2d"; for no limit say None ("never" in a file or a variable)'


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(value)
    if not isinstance(value, str):
        return float(value)
    text = value.strip().lower()
    if re.fullmatch(r"-?\d+(\.\d+)?", text):
        return float(text)
    parts = list(_PART.finditer(text))
    if not parts or "".join(part.group() for part in parts) != text:
        raise ValueError(value)
    return sum(float(part[1]) * _UNITS[part[2]] for part in parts)


def format_duration(span: timedelta) -> str:
    """The two largest units: ``"1h30m"``, ``"2d4h"``, ``"12s"``; below ten seconds with a tenth."""
    seconds = span.total_seconds()
    if seconds < 0:
        return f"-{format_duration(-span)}"
    if seconds < 9.95:
        return f"{seconds:.1f}s".replace(".0s", "s")
    left = round(seconds)
    for larger, smaller in (("d", "h"), ("h", "m"), ("m", "s")):
        if left >= _UNITS[larger]:
            rest = left % _UNITS[larger] // _UNITS[smaller]
            return f"{left // _UNITS[larger]}{larger}" + (f"{rest}{smaller}" if rest else "")
    return f"{left}s"
