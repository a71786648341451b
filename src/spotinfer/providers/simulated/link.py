"""The owner's line to a simulated machine: its agent's status and lease, and its engine's first token."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import anyio

from ...core.clock import utc
from ...core.errors import Unhealthy
from ...core.model import AgentStatus, Probed
from ...core.states import Cause
from .agent import counters
from .machine import NEVER, Machine
from .market import Market

PROBE_TOKENS = 8
"""How long the prompt of the readiness probe is, in tokens."""


class SimulatedLink:
    """A ``MachineLink``. Everything that a real agent does by itself, the machine does: limits, lease, notices."""

    def __init__(self, market: Market, id: str) -> None:
        self._market = market
        self._id = id

    async def status(self) -> AgentStatus:
        machine, now = await self._reach()
        noticed = machine.preempted_at - machine.listing.notice.total_seconds() <= now
        answers = now >= machine.ready_at
        phase = "draining" if noticed or machine.drained_at < NEVER else "running" if answers else "starting"
        work = machine.busy_seconds(now)
        tokens = int(work * self._market.config.tokens_per_second)
        prompt, generated = tokens + machine.probes * PROBE_TOKENS, tokens + machine.probes
        return AgentStatus(
            phase=phase,
            born_at=utc(machine.created if machine.born is None else machine.born),
            can_end=True,
            lease_until=_time(machine.lease_until),
            ends_at=_deadlines(machine, noticed),
            idle_seconds=0.0 if work or not answers else now - machine.ready_at,
            busy_seconds=work,
            counters=counters(machine.agent.counters, prompt, generated) if answers else {},
            cause=Cause.PREEMPTED if noticed else None,
        )

    async def renew(self, lease: timedelta) -> None:
        machine, now = await self._reach()
        machine.lease_until = now + lease.total_seconds()
        machine.replan(now)

    async def drain(self, grace: timedelta) -> None:
        """A simulated request never ends early: with load the whole ``grace`` passes, without it none."""
        machine, now = await self._reach()
        wait = grace.total_seconds() if self._market.config.tokens_per_second else 0.0
        machine.drained_at = min(machine.drained_at, now + wait)
        machine.replan(now)

    async def end(self, cause: Cause) -> None:
        await self._travel()
        self._market.end_itself(self._id, cause)

    async def log(self, tail: int) -> Sequence[str]:
        machine, now = await self._reach()
        lines = ["loading the model", *(["ready"] if now >= machine.ready_at else [])]
        return lines[-tail:] if tail > 0 else []

    async def probe(self, model: str) -> Probed:
        machine, started = await self._reach()
        if started < machine.ready_at:
            raise Unhealthy(f"{model} is still loading")
        machine.probes += 1
        machine, ended = await self._reach()
        return Probed(
            prompt_tokens=PROBE_TOKENS,
            cached_tokens=0,
            completion_tokens=1,
            started=utc(started),
            ended=utc(ended),
        )

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _reach(self) -> tuple[Machine, float]:
        await self._travel()
        machine = self._market.machine(self._id)
        if machine is None or not machine.running:
            raise Unhealthy(f"the agent of {self._id} does not answer")
        return machine, self._market.now()

    async def _travel(self) -> None:
        await anyio.sleep(self._market.config.latency)


def _deadlines(machine: Machine, noticed: bool) -> dict[str, datetime]:
    assert machine.born is not None, "only a machine that has run can be reached"
    agent = machine.agent
    ends = {
        "lease": machine.lease_until,
        "age": NEVER if agent.max_age_s is None else machine.born + agent.max_age_s,
        "budget": NEVER if agent.budget_s is None else machine.born + agent.budget_s,
        "preempted": machine.preempted_at if noticed else NEVER,
    }
    return {name: utc(time) for name, time in ends.items() if time < NEVER}


def _time(seconds: float) -> datetime | None:
    return None if seconds == NEVER else utc(seconds)
