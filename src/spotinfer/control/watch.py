"""Keeps one running server: renews its lease, takes samples, warns of the budget, notices its end."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

import anyio

from ..core.errors import LedgerError, ServerError
from ..core.model import AgentStatus, Phase
from ..core.protocols import MachineLink, ProgressListener
from ..core.records import Record, Sample
from ..core.states import State
from .ending import sampled
from .reconcile import reconcile
from .report import Reporter
from .world import World

log = logging.getLogger("spotinfer")

WARN_AT = 0.8
"""The share of the budget at which its end is announced."""


class Keeper:
    """Runs until the machine is in one of the states ``until``. ``record`` is what the ledger says, kept fresh.

    Everybody who uses an attached server renews its lease while they live: the owner, and whoever connected.
    """

    def __init__(
        self,
        world: World,
        record: Record,
        link: MachineLink,
        listener: ProgressListener,
        until: frozenset[State] = frozenset({State.TERMINATED}),
    ) -> None:
        self.record = record
        self._until = until
        self.status: AgentStatus | None = None
        self.ended = anyio.Event()
        self._world = world
        self._link = link
        self._report = Reporter(listener, world.clock, record.name)
        self._report.per_hour, self._report.rented_at = record.per_hour, record.created_at
        self._warned = False
        self._renewed_at: datetime | None = None
        self._sample: Sample | None = None

    async def run(self) -> None:
        """Raises nothing of ours: what cannot be asked or recorded now is tried again at the next look."""
        try:
            while self.record.state not in self._until:
                await self._look()
                await anyio.sleep(self._pause())
            self._report(Phase.END, f"{self.record.state} ({self.record.cause})")
        finally:
            self.ended.set()

    def _pause(self) -> float:
        pause = self._world.pace.sample_every
        lease, warn_at = self.record.limits.lease, self._warn_at()
        if lease is not None:
            pause = min(pause, lease.total_seconds() / 3)
        if warn_at is not None and not self._warned:
            pause = min(pause, max(0.05, (warn_at - self._world.clock.now()).total_seconds()))
        return pause

    def _warn_at(self) -> datetime | None:
        if self.status is None or "budget" not in self.status.ends_at:
            return None
        return self.status.born_at + (self.status.ends_at["budget"] - self.status.born_at) * WARN_AT

    async def _look(self) -> None:
        try:
            await self._renew()
            self.status = await self._link.status()
        except ServerError as error:
            log.debug("%s: %s", self.record.name, error.message)
            await self._reconcile()
            return
        await self._take_sample(self.status)
        self._warn_of_budget(self.status)

    async def _reconcile(self) -> None:
        try:
            self.record = await reconcile(self._world, self.record)
        except LedgerError as error:
            log.warning("%s: its state cannot be recorded: %s", self.record.name, error.message)

    async def _renew(self) -> None:
        lease, now = self.record.limits.lease, self._world.clock.now()
        if lease is None or (self._renewed_at is not None and now - self._renewed_at < lease / 3):
            return
        await self._link.renew(lease)
        self._renewed_at = now

    async def _take_sample(self, status: AgentStatus) -> None:
        sample = sampled(self._world, self.record, status)
        if sample is None or (self._sample is not None and _same_work(sample, self._sample)):
            return
        self._sample = sample
        try:
            await self._world.ledger.sample(sample)
        except LedgerError as error:  # a full disk must not stop the lease from being renewed
            log.warning("%s: the ledger cannot be written: %s", self.record.name, error.message)

    def _warn_of_budget(self, status: AgentStatus) -> None:
        warn_at, now = self._warn_at(), self._world.clock.now()
        if warn_at is None or self._warned or now < warn_at:
            return
        self._warned = True
        left = max(timedelta(0), status.ends_at["budget"] - now)
        message = f"{WARN_AT:.0%} of the budget is used; the server ends in {left.total_seconds():.0f} s"
        log.warning("%s: %s", self.record.name, message)
        self._report(Phase.READY, message)


def _same_work(one: Sample, other: Sample) -> bool:
    return (one.prompt_tokens, one.completion_tokens, one.busy_seconds) == (
        other.prompt_tokens,
        other.completion_tokens,
        other.busy_seconds,
    )
