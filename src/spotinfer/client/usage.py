"""Token counts out of response bodies: what the engine says, and an estimate where it said nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

BYTES_PER_TOKEN = 4
"""English text as JSON is about four bytes a token; used only for counts that are marked as estimated."""

_KEY = b'"usage"'
_LONGEST = 4096
_decode = json.JSONDecoder().raw_decode


@dataclass(frozen=True, slots=True)
class Usage:
    """``prompt`` includes ``cached``; ``completion`` includes ``reasoning``."""

    prompt: int
    completion: int
    cached: int = 0
    reasoning: int = 0


def usage_of(found: Mapping[str, object]) -> Usage | None:
    """Read a ``usage`` object of the chat, completions, embeddings or Responses API; None if it counts nothing."""
    prompt = _count(found, "prompt_tokens", "input_tokens")
    completion = _count(found, "completion_tokens", "output_tokens")
    if prompt is None and completion is None:
        return None
    return Usage(
        prompt=prompt or 0,
        completion=completion or 0,
        cached=_detail(found, ("prompt_tokens_details", "input_tokens_details"), "cached_tokens"),
        reasoning=_detail(found, ("completion_tokens_details", "output_tokens_details"), "reasoning_tokens"),
    )


def _count(found: Mapping[str, object], *names: str) -> int | None:
    for name in names:
        value = found.get(name)
        if isinstance(value, int) and value >= 0:
            return int(value)
    return None


def _detail(found: Mapping[str, object], groups: tuple[str, ...], name: str) -> int:
    for group in groups:
        details = found.get(group)
        if isinstance(details, Mapping):
            return _count(details, name) or 0
    return 0


def last_usage(body: bytes | bytearray) -> Usage | None:
    """The last complete ``"usage": {…}`` in ``body``, which may start and end anywhere inside a JSON text.

    Searching is safe because quotes are escaped inside JSON strings: text that a model generates cannot contain
    ``"usage":`` as these bytes.
    """
    end = len(body)
    while (at := body.rfind(_KEY, 0, end)) >= 0:
        end = at
        value = body[at + len(_KEY) : at + len(_KEY) + _LONGEST].lstrip()
        if not value.startswith(b":"):
            continue
        try:
            found, _ = _decode(value[1:].lstrip().decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            continue
        usage = usage_of(found) if isinstance(found, Mapping) else None
        if usage is not None:
            return usage
    return None
