"""What the agent on a simulated machine was told: the same configuration that a real one gets, read for its limits."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass
from typing import Any

from ...core.model import InstanceSpec
from ...core.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """Limits in seconds, None: no such limit. ``counters`` are the names that the engine's counters have."""

    lease_s: float | None = None
    idle_s: float | None = None
    max_age_s: float | None = None
    budget_s: float | None = None
    counters: tuple[str, ...] = ()


def agent_config(spec: InstanceSpec) -> AgentConfig:
    """Out of ``SPOTINFER_CONFIG`` (base64 of deflated JSON, see the agent's ``config.py``); no limits without it."""
    packed = spec.env.get("SPOTINFER_CONFIG")
    if packed is None:
        return AgentConfig()
    text = packed.reveal() if isinstance(packed, Secret) else packed
    data: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(text)))
    limits, metrics = data["limits"], data["metrics"]
    return AgentConfig(
        lease_s=limits["lease_s"],
        idle_s=limits["idle_s"],
        max_age_s=limits["max_age_s"],
        budget_s=limits["budget_s"],
        counters=tuple(metrics.get("progress", ())),
    )


def counters(names: tuple[str, ...], prompt: int, generated: int) -> dict[str, float]:
    """What the engine's counters say. Their names tell what they count, in every engine's convention; nothing is ever
    cached here."""
    return {name: float(0 if "cache" in name else prompt if "prompt" in name else generated) for name in names}
