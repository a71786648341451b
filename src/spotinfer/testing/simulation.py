"""A world without metal: the same control code over the seeded market, on virtual time, with books in memory.

A month of a fleet runs in seconds, and identically for one seed. No threads, no sockets, no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from random import Random

from ..control.launch import Order
from ..control.world import Pace, World
from ..core.clock import LoopClock
from ..core.model import LaunchSecrets, Limits, Model, Want
from ..core.secret import Secret
from ..ledger.store import open_ledger
from ..planning.plan import Candidate, rank
from ..providers.simulated.adapter import SimulatedProvider
from ..providers.simulated.config import MarketConfig
from ..providers.simulated.market import Market
from ..serving.vllm import VllmEngine

PACE = Pace(first_poll=5.0, max_poll=30.0, end_limit=600.0, sample_every=1200.0)
LIMITS = Limits(lease=timedelta(hours=1), idle=None, max_age=None)
"""Polls as far apart as a lease of an hour allows: the market tells of an end only when it is asked."""


class MemoryKeyStore:
    """:class:`spotinfer.core.protocols.KeyStore` for launches that have nothing to keep secret."""

    def __init__(self) -> None:
        self._secrets: dict[str, LaunchSecrets] = {}

    def save(self, secrets: LaunchSecrets) -> None:
        self._secrets[secrets.key] = secrets

    def load(self, key: str) -> LaunchSecrets | None:
        return self._secrets.get(key)

    def delete(self, key: str) -> None:
        self._secrets.pop(key, None)

    def keys(self) -> Sequence[str]:
        return tuple(self._secrets)


class MemoryHolds:
    """:class:`spotinfer.core.protocols.HoldStore` for one process."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    def hold(self, key: str) -> None:
        self._held.add(key)

    def release(self, key: str) -> None:
        self._held.discard(key)

    def forget(self, key: str) -> None:
        self.release(key)

    def held(self, key: str) -> bool | None:
        return key in self._held


def simulated_world(seed: int, config: MarketConfig | None = None, pace: Pace = PACE) -> World:
    """Call it on a virtual loop (:func:`spotinfer.core.virtual.run_virtual`). One seed, one course of events."""
    random, clock = Random(seed), LoopClock()
    provider = SimulatedProvider(Market(Random(random.getrandbits(64)), clock, config))
    return World(
        ledger=open_ledger(":memory:", clock=clock, inline=True, owner=f"simulated-{seed}"),
        keystore=MemoryKeyStore(),
        holds=MemoryHolds(),
        providers={provider.name: provider},
        engines={VllmEngine.name: VllmEngine()},
        open_link=provider.open_link,
        issue=_no_secrets,
        clock=clock,
        pace=pace,
        random=random,
    )


async def simulated_order(world: World, name: str, *, model: str = "org/model", limits: Limits | None = None) -> Order:
    """What to launch now: every offer of the market, cheapest first."""
    served = Model(source=model, served_name=model)
    offers = await world.providers[SimulatedProvider.name].list_offers(Want())
    candidates = [Candidate(offer=offer, engine=VllmEngine.name, model=served, why="simulated") for offer in offers]
    return Order(name=name, candidates=rank(candidates), limits=limits or LIMITS)


def _no_secrets(key: str, lifetime: timedelta | None, now: datetime) -> LaunchSecrets:
    """Certificates would cost a millisecond a launch, and nobody checks them."""
    nothing = Secret("simulated")
    return LaunchSecrets(
        key=key,
        api_key=nothing,
        agent_secret=nothing,
        dns_name="simulated",
        ca="",
        client=nothing,
        agent=nothing,
        server=nothing,
        expires_at=now + (lifetime or timedelta(days=365)),
    )
