"""Simulated markets for tests: a machine's specification, and a scenario on virtual time."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

import anyio

from spotinfer.core.clock import LoopClock
from spotinfer.core.model import Instance, InstanceSpec, Offer, OfferKind, Want
from spotinfer.core.secret import Secret
from spotinfer.core.virtual import run_virtual
from spotinfer.providers.simulated.adapter import SimulatedProvider
from spotinfer.providers.simulated.config import MarketConfig
from spotinfer.providers.simulated.market import Market

T = TypeVar("T")
HOUR, DAY = 3600.0, 86400.0


def spec(key: str, offer: Offer, **limits: float | None) -> InstanceSpec:
    """A machine whose agent has these limits, told as a real one is."""
    env: dict[str, Secret | str] = {}
    if limits:
        none = {"lease_s": None, "idle_s": None, "max_age_s": None, "budget_s": None}
        config = {
            "limits": {**none, **limits},
            "metrics": {"progress": ["engine:prompt_total", "engine:tokens_total", "engine:cached_prompt_total"]},
        }
        env["SPOTINFER_CONFIG"] = Secret(base64.b64encode(zlib.compress(json.dumps(config).encode())).decode())
    ports = {"agent": 8001, "engine": 8000}
    return InstanceSpec(key=key, owner="me", name="test", offer=offer, command=("agent",), env=env, ports=ports)


def simulate(
    scenario: Callable[[SimulatedProvider], Awaitable[T]], config: MarketConfig | None = None, seed: int = 1
) -> T:
    """Run a scenario over a fresh market on virtual time."""

    async def body() -> T:
        return await scenario(SimulatedProvider(Market(Random(seed), LoopClock(), config)))

    return run_virtual(body)


async def offer_of(provider: SimulatedProvider, kind: OfferKind) -> Offer:
    return next(offer for offer in await provider.list_offers(Want()) if offer.kind is kind)


async def until(
    provider: SimulatedProvider, id: str, native: str, limit: float = 30 * DAY, pause: float = 1
) -> Instance:
    """Poll until the market calls the machine's state so."""
    with anyio.fail_after(limit):
        while True:
            seen = await provider.get(id)
            assert seen is not None
            if seen.native_state == native:
                return seen
            await anyio.sleep(pause)
