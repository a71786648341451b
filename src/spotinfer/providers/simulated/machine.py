"""One simulated machine: what happens to it by itself, computed only when somebody looks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from random import Random
from types import MappingProxyType

from ...core.clock import utc
from ...core.model import Charge, Endpoint, Instance, InstanceSpec, OfferKind
from ...core.money import NANO, ZERO, MachineHour, for_time
from ...core.states import Cause, State
from .agent import agent_config
from .config import Listing, MarketConfig
from .prices import PricePath

STATES: Mapping[str, State] = MappingProxyType(
    {
        "creating": State.PROVISIONING,
        "starting": State.PROVISIONING,
        "running": State.BOOTING,
        "stopping": State.STOPPING,
        "off": State.STOPPED,
        "outbid": State.STOPPED,
        "deleting": State.TERMINATING,
        "deleted": State.TERMINATED,
    }
)
"""The market's words. ``running`` has an address; whether the engine answers, only asking it can tell."""

OFF = ("off", "outbid")
NEVER = math.inf
NOWHERE: Mapping[str, Endpoint] = MappingProxyType({})


@dataclass(slots=True)
class Span:
    """A stretch of time at one kind of price: ``per_hour`` dollars, or the market price where it is None."""

    start: float
    per_hour: Decimal | None
    minimum: int
    end: float | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a machine; times in Unix seconds."""

    at: float
    machine: str
    native: str
    cause: Cause | None


class Machine:
    """Its state is a function of its own random stream, the price path and what was asked of it: so polls are cheap,
    and the order in which machines are looked at changes nothing."""

    def __init__(
        self,
        *,
        id: str,
        spec: InstanceSpec,
        listing: Listing,
        path: PricePath,
        config: MarketConfig,
        random: Random,
        now: float,
        log: list[Event],
    ) -> None:
        self.id, self.key, self.owner, self.name = id, spec.key, spec.owner, spec.name
        self.listing = listing
        self.created = now
        self.bid = spec.offer.per_hour if listing.kind is OfferKind.INTERRUPTIBLE else None
        self.agent = agent_config(spec)
        self.cause: Cause | None = None
        self.native = ""
        self.since = now
        self.born: float | None = None
        self.ready_at = NEVER
        self.preempted_at = NEVER
        self.lease_until = NEVER
        self.drained_at = NEVER
        self.busy = 0.0
        self.probes = 0
        self.spans: list[Span] = []
        self._created_at = utc(now)
        self._endpoints = {role: Endpoint(host=f"{id}.simulated", port=port) for role, port in spec.ports.items()}
        self._path, self._config, self._random, self._log = path, config, random, log
        self._next: tuple[float, str, Cause | None] = (NEVER, "", None)
        self._bill(now, self._rate, config.billing.minimum)
        self._enter(now, "creating", None)

    # --- what happens by itself ------------------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Live through everything that was due by ``now``."""
        while now >= self._next[0]:
            self._enter(*self._next)

    @property
    def exists(self) -> bool:
        """Whether it can still cost money."""
        return self.native != "deleted"

    @property
    def running(self) -> bool:
        return self.native == "running"

    def _enter(self, at: float, native: str, cause: Cause | None) -> None:
        if native != self.native:
            if self.running:
                self.busy += max(0.0, at - max(self.since, self.ready_at))
            self._log.append(Event(at, self.id, native, cause))
            self.native, self.since, self.cause = native, at, cause
            if native == "running":
                self._boot(at)
            elif native in OFF:
                self._bill(at, self._config.stopped_per_hour, 0)
            elif native == "deleted":
                self.spans[-1].end = at
        self._next = self._plan(at)

    def _boot(self, at: float) -> None:
        agent, day = self.agent, self._config.preemptions_per_day / 86400
        self.ready_at = at + self._random.uniform(*self._config.load)
        if self.listing.kind is OfferKind.SPOT and day > 0:
            self.preempted_at = at + self._random.expovariate(day)
        if self.born is None:  # limits are absolute: a restart does not renew them
            self.born = at
            self.lease_until = NEVER if agent.lease_s is None else at + agent.lease_s

    def _plan(self, at: float) -> tuple[float, str, Cause | None]:
        """The next thing that happens to it by itself, unless somebody interferes."""
        config = self._config
        if self.native == "creating":
            failed = self._random.random() < config.boot_failure
            return (NEVER, "", None) if failed else (at + self._random.uniform(*config.boot) / 4, "starting", None)
        if self.native == "starting":
            return at + self._random.uniform(*config.boot) * 3 / 4, "running", None
        if self.native == "stopping":
            return at + config.end, "off", self.cause
        if self.native == "deleting":
            return at + config.end, "deleted", self.cause
        if self.running:
            return self._running_until(at)
        return NEVER, "", None

    def _running_until(self, at: float) -> tuple[float, str, Cause | None]:
        ends = [(max(at, when), "deleted", cause) for when, cause in self._ends()]
        if self.bid is not None:
            change = self._path.next_change(at)
            outbid = change < NEVER and self._path.at(change) > self.bid
            ends.append((change, *(("outbid", Cause.OUTBID) if outbid else ("running", None))))
        return min(ends, key=lambda end: end[0])

    def _ends(self) -> Iterator[tuple[float, Cause]]:
        """When the cloud takes it back, and when its agent ends it."""
        assert self.born is not None
        agent = self.agent
        yield self.preempted_at, Cause.PREEMPTED
        yield self.lease_until, Cause.LEASE_LAPSED
        yield self.drained_at, Cause.USER
        yield NEVER if agent.max_age_s is None else self.born + agent.max_age_s, Cause.MAX_AGE
        yield NEVER if agent.budget_s is None else self.born + agent.budget_s, Cause.BUDGET
        idle = agent.idle_s is not None and not self._config.tokens_per_second
        yield self.ready_at + agent.idle_s if idle and agent.idle_s is not None else NEVER, Cause.IDLE

    # --- what is asked of it ---------------------------------------------------------------------------------------

    def replan(self, now: float) -> None:
        """After a limit was changed, which matters only while the agent runs."""
        if self.running:
            self._next = self._plan(now)

    def terminate(self, now: float, cause: Cause) -> None:
        if self.native not in ("deleting", "deleted"):
            self._enter(now, "deleting", cause)

    def end_itself(self, now: float, cause: Cause) -> None:
        """By its agent: there is nothing to wait for."""
        if self.exists:
            self._enter(now, "deleted", cause)

    def stop(self, now: float) -> None:
        if self.native in ("creating", "starting", "running"):
            self._enter(now, "stopping", Cause.USER)

    def resume(self, now: float) -> None:
        if self.native in OFF:
            self.ready_at = self.preempted_at = NEVER
            self._bill(now, self._rate, self._config.billing.minimum)
            self._enter(now, "starting", None)

    def say(self, native: str) -> None:
        """From now on the market calls its state so, whatever that means: for tests of adapters and their users."""
        self.native, self._next = native, (NEVER, "", None)

    def busy_seconds(self, now: float) -> float:
        """How long its engine has worked: whenever it answers, if there is any load at all."""
        if not self._config.tokens_per_second:
            return 0.0
        return self.busy + (max(0.0, now - max(self.since, self.ready_at)) if self.running else 0.0)

    # --- what it shows ---------------------------------------------------------------------------------------------

    def snapshot(self, now: float, seen_at: datetime) -> Instance:
        """The machine at ``now``, which is ``seen_at``: a list of many computes that once."""
        return Instance(
            provider="simulated",
            id=self.id,
            key=self.key,
            state=STATES.get(self.native, State.LOST),
            native_state=self.native,
            seen_at=seen_at,
            created_at=self._created_at,
            owner=self.owner,
            name=self.name,
            per_hour=MachineHour(self.per_hour(now)),
            endpoints=self._endpoints if self.native == "running" else NOWHERE,
            cause=self.cause,
        )

    def per_hour(self, now: float) -> Decimal:
        if not self.exists:
            return ZERO
        if self.native in OFF:
            return self._config.stopped_per_hour
        return self._path.at(now) if self._rate is None else self._rate

    # --- money -----------------------------------------------------------------------------------------------------

    @property
    def _rate(self) -> Decimal | None:
        """Fixed for on-demand and by the bid; None: the market price of each moment."""
        if self.listing.kind is OfferKind.SPOT:
            return None
        return self.listing.per_hour if self.bid is None else self.bid

    def _bill(self, at: float, per_hour: Decimal | None, minimum: int) -> None:
        if self.spans:
            self.spans[-1].end = at
        self.spans.append(Span(at, per_hour, minimum))

    def charges(self, now: float) -> list[Charge]:
        """One for each stretch; the last one grows while the machine exists."""
        return [
            Charge(
                provider="simulated",
                id=f"{self.id}/{number}",
                amount=self._amount(span, now),
                start=utc(span.start),
                end=utc(now if span.end is None else span.end),
                instance_id=self.id,
                description=self.listing.id,
            )
            for number, span in enumerate(self.spans)
        ]

    def _amount(self, span: Span, now: float) -> Decimal:
        """Whole units of time, at least the minimum: the part that was not used costs the last moment's price."""
        end = now if span.end is None else span.end
        used = Decimal(str(end - span.start)).quantize(NANO)
        unit = Decimal(self._config.billing.granularity)
        billed = max((used / unit).to_integral_value(ROUND_CEILING) * unit, Decimal(span.minimum))
        if span.per_hour is not None:
            return for_time(span.per_hour, billed)
        return self._path.cost(span.start, end) + for_time(self._path.at(end), billed - used)
