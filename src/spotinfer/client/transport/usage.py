"""Token counts out of response bodies: what the engine says, and an estimate where it said nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

BYTES_PER_TOKEN = 4
"""English text as JSON is about four bytes a token; used only for counts that are marked as estimated."""

_KEY = b'"usage"'
_VALUE = re.compile(rb"\s*:\s*\{")
_LONGEST = 4096
_decode = json.JSONDecoder().raw_decode


class Usage(NamedTuple):
    """``prompt`` includes ``cached``; ``completion`` includes ``reasoning``."""

    prompt: int
    completion: int
    cached: int = 0
    reasoning: int = 0


def usage_of(found: Mapping[str, object]) -> Usage | None:
    """Read a ``usage`` object of the chat, completions, embeddings or Responses API; None if it counts nothing."""
    prompt = _count(found.get("prompt_tokens", found.get("input_tokens")))
    completion = _count(found.get("completion_tokens", found.get("output_tokens")))
    if prompt is None and completion is None:
        return None
    into = found.get("prompt_tokens_details") or found.get("input_tokens_details")
    out_of = found.get("completion_tokens_details") or found.get("output_tokens_details")
    return Usage(
        prompt or 0,
        completion or 0,
        (_count(into.get("cached_tokens")) or 0) if isinstance(into, dict) else 0,
        (_count(out_of.get("reasoning_tokens")) or 0) if isinstance(out_of, dict) else 0,
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def last_usage(body: bytes | bytearray) -> Usage | None:
    """The last complete ``"usage": {…}`` in ``body``, which may start and end anywhere inside a JSON text.

    Searching is safe because quotes are escaped inside JSON strings: text that a model generates cannot contain
    ``"usage":`` as these bytes.
    """
    end = len(body)
    while (at := body.rfind(_KEY, 0, end)) >= 0:
        end = at
        found = _VALUE.match(body, at + len(_KEY))
        if found is None:
            continue
        try:
            value, _ = _decode(body[found.end() - 1 : found.end() + _LONGEST].decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            continue
        usage = usage_of(value)
        if usage is not None:
            return usage
    return None
