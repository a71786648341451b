"""An engine's own counters in one convention: the agent reads them, everybody else compares in these terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..core.model import MetricNames


class Tokens(NamedTuple):
    """Totals since the engine started. ``prompt`` includes ``cached``, as in OpenAI's usage."""

    prompt: int
    cached: int
    generated: int


def tokens(counters: Mapping[str, float], names: MetricNames) -> Tokens | None:
    """The token totals; None while the counters were not read yet (cached ones may be missing in old engines)."""
    if names.prompt_tokens not in counters or names.generated_tokens not in counters:
        return None
    prompt = int(counters[names.prompt_tokens])
    cached = int(counters.get(names.cached_tokens, 0))
    return Tokens(
        prompt=prompt if names.prompt_includes_cached else prompt + cached,
        cached=cached,
        generated=int(counters[names.generated_tokens]),
    )
