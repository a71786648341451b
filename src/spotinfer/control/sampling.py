"""From the engine's raw counters to the ledger's sample."""

from __future__ import annotations

from datetime import datetime

from ..core.model import AgentStatus, MetricNames
from ..core.records import Sample
from ..serving.metrics import tokens


def to_sample(key: str, at: datetime, status: AgentStatus, names: MetricNames) -> Sample | None:
    """None when the engine's counters were not read yet. ``prompt_tokens`` includes the cached ones."""
    totals = tokens(status.counters, names)
    if totals is None:
        return None
    return Sample(
        key=key,
        at=at,
        prompt_tokens=totals.prompt,
        cached_tokens=totals.cached,
        completion_tokens=totals.generated,
        busy_seconds=status.busy_seconds,
    )
