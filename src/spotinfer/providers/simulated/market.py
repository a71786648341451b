"""The market: what is on sale at which price, whose machines exist, and what goes wrong on the way.

All randomness comes from one seed, but each machine, price path and kind of fault has a stream of its own, derived from
the seed and its name: so a call more or less, or another order, does not change the rest of the world.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from random import Random

from ...core.clock import Clock, utc
from ...core.errors import NoCapacity, OfferGone, Outbid, OutcomeUnknown, ProviderUnavailable, RateLimited
from ...core.model import Charge, Instance, InstanceSpec, Offer, OfferKind
from ...core.money import MachineHour
from ...core.states import Cause
from .config import Listing, MarketConfig
from .machine import Event, Machine
from .prices import PricePath

NAME = "simulated"


class Market:
    """One world. Give the same one to several adapters and they see the same machines.

    ``random`` is used once, to draw the seed of all streams. ``events`` is everything that happened to the machines.
    """

    def __init__(self, random: Random, clock: Clock, config: MarketConfig | None = None) -> None:
        self.config = config or MarketConfig()
        self.events: list[Event] = []
        self._seed = random.getrandbits(64)
        self._clock = clock
        self._origin: float | None = None
        self._listings = {listing.id: listing for listing in self.config.catalogue}
        self._paths: dict[str, PricePath] = {}
        self._machines: dict[str, Machine] = {}
        self._by_key: dict[str, Machine] = {}
        self._existing: dict[str, Machine] = {}
        self._streams: dict[str, Random] = {}
        self._calls: deque[float] = deque()
        self._lose_next = False

    def now(self) -> float:
        """Unix seconds."""
        time = self._clock.now().timestamp()
        if self._origin is None:
            self._origin = time
        return time

    # --- buying ----------------------------------------------------------------------------------------------------

    def offers(self) -> list[Offer]:
        """Everything that has a machine left."""
        now = self.now()
        return [self._offer(listing, now) for listing in self._listings.values() if self._free(listing, now) > 0]

    def _offer(self, listing: Listing, now: float) -> Offer:
        price = self._path(listing).at(now)
        if listing.kind is OfferKind.INTERRUPTIBLE:
            price *= self.config.bid_headroom
        return Offer(
            provider=NAME,
            id=listing.id,
            kind=listing.kind,
            per_hour=MachineHour(price),
            accelerators=listing.accelerators,
            cpus=listing.cpus,
            memory=listing.memory,
            region=listing.region,
            billing=self.config.billing,
            notice=listing.notice,
            expires_at=utc(now + self.config.offer_life),
        )

    def rent(self, spec: InstanceSpec) -> Machine:
        """The machine of ``spec.key``, made if there is none yet.

        Raises ``OfferGone``, ``NoCapacity`` and ``Outbid``; ``OutcomeUnknown`` whether or not it was made.
        """
        luck = self._stream("create", spec.key)
        if luck.random() < self.config.lost_requests:
            raise _lost()
        machine = self._by_key.get(spec.key) or self._make(spec)
        lose, self._lose_next = self._lose_next, False
        if lose or luck.random() < self.config.lost_answers:
            raise _lost()
        return machine

    def _make(self, spec: InstanceSpec) -> Machine:
        now, listing = self.now(), self._listings.get(spec.offer.id)
        if listing is None:
            raise OfferGone(f"{spec.offer.id} is not on sale", provider=NAME)
        self._admit(listing, spec, now)
        machine = Machine(
            id=f"m-{len(self._machines) + 1}",
            spec=spec,
            listing=listing,
            path=self._path(listing),
            config=self.config,
            random=self._stream("machine", spec.key),
            now=now,
            log=self.events,
        )
        self._machines[machine.id] = self._by_key[spec.key] = self._existing[machine.id] = machine
        return machine

    def _admit(self, listing: Listing, spec: InstanceSpec, now: float) -> None:
        if self._free(listing, now) <= 0:
            raise NoCapacity(f"no {listing.id} is left", provider=NAME)
        bid = spec.offer.per_hour
        if listing.kind is OfferKind.INTERRUPTIBLE and (bid is None or bid < self._path(listing).at(now)):
            raise Outbid(f"the price of {listing.id} is above the bid", provider=NAME)

    def resume(self, machine: Machine) -> None:
        now = self.now()
        if machine.bid is not None and machine.bid < self._path(machine.listing).at(now):
            raise Outbid(f"the price of {machine.listing.id} is above the bid of {machine.id}", provider=NAME)
        if self._free(machine.listing, now) <= 0:
            raise NoCapacity(f"no {machine.listing.id} is left for {machine.id}", provider=NAME)
        machine.resume(now)

    # --- looking ---------------------------------------------------------------------------------------------------

    def machine(self, id: str) -> Machine | None:
        """The machine as it is now; None for an unknown id, or one that was deleted longer than ``retention`` ago."""
        machine = self._machines.get(id)
        if machine is None:
            return None
        now = self.now()
        machine.advance(now)
        return machine if machine.exists or now < machine.since + self.config.retention else None

    def snapshot(self, machine: Machine) -> Instance:
        now = self.now()
        return machine.snapshot(now, utc(now))

    def existing(self) -> list[Machine]:
        """Everything that can still cost money, whoever owns it."""
        now = self.now()
        found = []
        for machine in list(self._existing.values()):
            machine.advance(now)
            if machine.exists:
                found.append(machine)
            else:
                del self._existing[machine.id]
        return found

    def charges(self, since: float) -> list[Charge]:
        """Of everything that cost money after ``since``."""
        now = self.now()
        self.existing()
        machines: Sequence[Machine] = list(self._machines.values())
        return [charge for machine in machines for charge in machine.charges(now) if charge.end.timestamp() > since]

    # --- what goes wrong -------------------------------------------------------------------------------------------

    def admit_call(self, method: str) -> None:
        """Raises ``RateLimited`` and ``ProviderUnavailable`` as often as the configuration says."""
        self._limit_rate()
        if self.config.unavailable and self._stream("call", method).random() < self.config.unavailable:
            raise ProviderUnavailable(f"{method}: the simulated cloud does not answer", provider=NAME)

    def _limit_rate(self) -> None:
        limit = self.config.calls_per_minute
        if limit is None:
            return
        now = self.now()
        while self._calls and self._calls[0] <= now - 60:
            self._calls.popleft()
        if len(self._calls) >= limit:
            wait = self._calls[0] + 60 - now
            raise RateLimited(f"more than {limit} calls a minute", provider=NAME, retry_after=wait)
        self._calls.append(now)

    def lose_next_answer(self) -> None:
        """The next create succeeds, but its caller does not learn it."""
        self._lose_next = True

    def preempt(self, id: str, notice: timedelta = timedelta(0)) -> None:
        """Take a machine back after ``notice``, whatever its own fate was."""
        machine = self._machines[id]
        machine.advance(self.now())
        machine.preempted_at = self.now() + notice.total_seconds()
        machine.replan(self.now())

    def end_itself(self, id: str, cause: Cause) -> None:
        """The machine's own agent ends it."""
        machine = self.machine(id)
        if machine is not None:
            machine.end_itself(self.now(), cause)

    # --- drawing ---------------------------------------------------------------------------------------------------

    def _free(self, listing: Listing, now: float) -> int:
        if self.config.scarcity:
            period = int(now // self.config.capacity_step)
            if Random(f"{self._seed}/capacity/{listing.id}/{period}").random() < self.config.scarcity:
                return 0
        rented = [machine for machine in self.existing() if machine.listing is listing]
        return listing.capacity - sum(machine.native not in ("off", "outbid") for machine in rented)

    def _path(self, listing: Listing) -> PricePath:
        path = self._paths.get(listing.id)
        if path is None:
            moves = listing.kind is not OfferKind.ON_DEMAND
            path = self._paths[listing.id] = PricePath(
                self._stream("price", listing.id),
                listing.per_hour,
                self.now() if self._origin is None else self._origin,
                self.config.price_step,
                self.config.volatility if moves else 0.0,
            )
        return path

    def _stream(self, kind: str, name: str) -> Random:
        address = f"{self._seed}/{kind}/{name}"
        if address not in self._streams:
            self._streams[address] = Random(address)
        return self._streams[address]


def _lost() -> OutcomeUnknown:
    return OutcomeUnknown("the answer to create was lost", provider=NAME)
