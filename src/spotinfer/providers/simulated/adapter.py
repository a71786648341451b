"""The simulated market behind the provider protocol: no threads, no sockets, time only from the clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import datetime
from random import Random
from typing import Any, ClassVar

import anyio

from ...core.clock import Clock, utc
from ...core.errors import ConfigError, NotSupported
from ...core.model import Account, Capabilities, Charge, Instance, InstanceSpec, LaunchSecrets, Offer, Want
from ...core.protocols import ProviderOptions
from ...core.states import Cause
from ..options import only_known
from .config import MarketConfig
from .link import SimulatedLink
from .machine import OFF, Machine
from .market import NAME, Market

TUNABLE = tuple(item.name for item in fields(MarketConfig) if item.type == "float")
"""What may be set by name in ``from_options``; everything else needs a ``MarketConfig``."""


class SimulatedProvider:
    """An account at a simulated cloud. Several adapters may share one :class:`Market`."""

    name: ClassVar[str] = NAME
    api: ClassVar[int] = 1
    capabilities: ClassVar[Capabilities] = Capabilities(spot=True, stop=True, charges=True)

    def __init__(self, market: Market) -> None:
        self.market = market

    @classmethod
    def from_options(cls, options: ProviderOptions, *, clock: Clock) -> SimulatedProvider:
        """``seed`` (a whole number), ``config`` (a :class:`MarketConfig`), and each of its probabilities and durations
        by name."""
        only_known(cls.name, options, ("seed", "config", *TUNABLE))
        config, seed = options.get("config", MarketConfig()), options.get("seed", 0)
        if not isinstance(config, MarketConfig) or not isinstance(seed, int):
            raise ConfigError("the provider simulated takes config= (a MarketConfig) and seed= (a whole number)")
        tuned: dict[str, Any] = {name: _number(name, options[name]) for name in TUNABLE if name in options}
        return cls(Market(Random(seed), clock, replace(config, **tuned)))

    async def check(self) -> Account:
        await self._call("check")
        return Account(provider=self.name, user="simulated", notes=("a seeded market: nothing costs real money",))

    async def list_offers(self, want: Want) -> Sequence[Offer]:
        await self._call("list_offers")
        return [offer for offer in self.market.offers() if _fits(offer, want)]

    async def create(self, spec: InstanceSpec) -> Instance:
        await self._call("create")
        machine = self.market.rent(spec)
        instance = self.market.snapshot(machine)
        await self._travel()  # the answer is on its way: whoever is cancelled here has a machine
        return instance

    async def get(self, id: str) -> Instance | None:
        await self._call("get")
        machine = self.market.machine(id)
        return None if machine is None else self.market.snapshot(machine)

    async def stop(self, id: str) -> None:
        await self._call("stop")
        self._must_exist(id, "stop").stop(self.market.now())

    async def resume(self, id: str) -> None:
        await self._call("resume")
        machine = self._must_exist(id, "resume")
        if machine.native in OFF:
            self.market.resume(machine)

    async def terminate(self, id: str) -> None:
        await self._call("terminate")
        machine = self.market.machine(id)
        if machine is not None:
            machine.terminate(self.market.now(), Cause.USER)

    async def list_owned(self, owner: str) -> Sequence[Instance]:
        await self._call("list_owned")
        now = self.market.now()
        seen_at, listed = utc(now), now - self.market.config.listing_lag
        return [
            machine.snapshot(now, seen_at)
            for machine in self.market.existing()
            if machine.owner == owner and machine.created <= listed
        ]

    async def charges(self, since: datetime) -> Sequence[Charge]:
        await self._call("charges")
        return self.market.charges(since.timestamp())

    async def logs(self, id: str, tail: int) -> Sequence[str]:
        await self._call("logs")
        lines = [
            f"{event.at:.0f} {event.native}{f' ({event.cause})' if event.cause else ''}"
            for event in self.market.events
            if event.machine == id
        ]
        return lines[-tail:] if tail > 0 else []

    async def aclose(self) -> None:
        """Nothing to close: the market goes on."""

    def open_link(self, instance: Instance, secrets: LaunchSecrets | None = None) -> SimulatedLink:
        """The owner's line to one of its machines; there is nobody to keep out, so it needs no secrets."""
        return SimulatedLink(self.market, instance.id)

    def _must_exist(self, id: str, what: str) -> Machine:
        machine = self.market.machine(id)
        if machine is None or not machine.exists:
            raise NotSupported(f"cannot {what} {id}: it does not exist any more", provider=self.name)
        return machine

    async def _call(self, method: str) -> None:
        await self._travel()
        self.market.admit_call(method)

    async def _travel(self) -> None:
        await anyio.sleep(self.market.config.latency)


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ConfigError(f"{name} of the provider simulated must be a number of at least zero, not {value!r}")
    return float(value)


def _fits(offer: Offer, want: Want) -> bool:
    return offer.kind in want.kinds and (not want.regions or offer.region in want.regions)
