"""From the engine's raw counters to the ledger's sample: one convention for all engines."""

from __future__ import annotations

from datetime import datetime

from ..core.model import AgentStatus, MetricNames
from ..core.records import Sample


def to_sample(key: str, at: datetime, status: AgentStatus, names: MetricNames) -> Sample | None:
    """None when the engine's counters were not read yet. ``prompt_tokens`` includes the cached ones."""
    if names.generated_tokens not in status.counters:
        return None
    cached = int(status.counters.get(names.cached_tokens, 0))
    prompt = int(status.counters.get(names.prompt_tokens, 0))
    return Sample(
        key=key,
        at=at,
        prompt_tokens=prompt if names.prompt_includes_cached else prompt + cached,
        cached_tokens=cached,
        completion_tokens=int(status.counters[names.generated_tokens]),
        busy_seconds=status.busy_seconds,
    )
