"""One try on one offer, from the recorded intent to the first token or to the end of what was rented."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

import anyio

from ..core.errors import (
    LedgerError,
    Lost,
    NoCapacity,
    OutcomeUnknown,
    ProviderError,
    RateLimited,
    Reaction,
    StartFailed,
    Unhealthy,
)
from ..core.model import AgentStatus, EngineSettings, Instance, InstanceSpec, LaunchSecrets, Limits, Phase, Probed
from ..core.protocols import Engine, MachineLink, Provider
from ..core.records import Record, RequestRow
from ..core.states import Cause, State
from ..planning.plan import Candidate
from .boot import instance_spec
from .ending import end, gone
from .reconcile import reconcile
from .report import Reporter
from .world import World

T = TypeVar("T")
CREATE_TRIES = 4
LOG_TAIL = 200


@dataclass(kw_only=True)
class Attempt:
    world: World
    candidate: Candidate
    record: Record
    secrets: LaunchSecrets
    settings: EngineSettings
    limits: Limits
    reporter: Reporter
    port: int = 0
    engine: Engine = field(init=False)
    provider: Provider = field(init=False)
    may_exist: bool = False
    """Set before the call that spends; unset only by an answer that says nothing was rented."""

    def __post_init__(self) -> None:
        self.engine = self.world.engines[self.candidate.engine]
        self.provider = self.world.provider(self.candidate.offer.provider)

    # --- renting ---------------------------------------------------------------------------------------------------

    async def create(self) -> Instance:
        spec = self._spec()
        await self._move(State.REQUESTED, Cause.USER)
        instance = await self._create(spec)
        with anyio.CancelScope(shield=True):
            await self.world.ledger.created(self.record.key, instance.id, self.world.clock.now())
        await self._move(State.PROVISIONING, Cause.PROGRESS)
        return instance

    async def _create(self, spec: InstanceSpec) -> Instance:
        for attempt in range(1, CREATE_TRIES + 1):
            self.may_exist = True
            try:
                return await self.provider.create(spec)
            except OutcomeUnknown as error:
                return await self._reconcile(error)
            except ProviderError as error:
                self.may_exist = False
                if error.reaction is not Reaction.RETRY_HERE or attempt == CREATE_TRIES:
                    raise
                wait = (error.retry_after if isinstance(error, RateLimited) else None) or 2.0**attempt
                self.reporter(Phase.RENT, f"{error.message}; trying again in {wait:.0f} s")
                await anyio.sleep(wait)
        raise AssertionError("unreachable: the last try returns or raises")

    async def _reconcile(self, error: OutcomeUnknown) -> Instance:
        """The answer was lost. Find the machine by its key; believe "nothing rented" only after ``settle``.

        Raises ``error`` again when the provider could not tell until then: the machine may exist.
        """
        self.reporter(Phase.RENT, "the answer was lost: looking for the machine by its key")
        settle = self.provider.capabilities.settle.total_seconds()
        deadline = anyio.current_time() + settle
        while True:
            owned = await self._patiently(self.provider.list_owned(self.world.ledger.owner))
            for instance in owned or ():
                if instance.key == self.record.key:
                    return instance
            if anyio.current_time() >= deadline:
                if owned is None:
                    raise error
                self.may_exist = False
                raise NoCapacity("the answer to create was lost and nothing was rented") from error
            await anyio.sleep(min(settle / 10 or self.world.pace.max_poll, 15.0))

    async def _patiently(self, asked: Awaitable[T]) -> T | None:
        """None where the provider does not answer for now: a machine that boots is not given up for that."""
        try:
            return await asked
        except ProviderError as error:
            if error.reaction is not Reaction.RETRY_HERE:
                raise
            self.reporter(Phase.BOOT, error.message)
            return None

    # --- reaching --------------------------------------------------------------------------------------------------

    async def reach(self, instance: Instance) -> tuple[Instance, MachineLink]:
        """Poll until the machine has addresses. Returns the fresh snapshot and an open link."""
        wait = self.world.pace.first_poll
        while not {"agent", "engine"} <= set(instance.endpoints):
            await self._check_alive(instance)
            self.reporter(Phase.BOOT, f"{instance.provider}: {instance.native_state}")
            await anyio.sleep(wait)
            wait = min(wait * 1.5, self.world.pace.max_poll)
            instance = await self._get(instance)
        await self._move(State.BOOTING, Cause.PROGRESS)
        return instance, self.world.open_link(instance, self.secrets)

    async def until_ready(self, link: MachineLink) -> Record:
        """Poll until the engine has generated one token. The link is closed when that fails."""
        try:
            probed = await self._probe_until_ready(link)
        except BaseException:
            with anyio.move_on_after(1.0, shield=True):
                await link.aclose()
            raise
        with anyio.CancelScope(shield=True):
            self.world.ledger.request(probe_row(self.record, probed))
            await self._move(State.READY, Cause.PROGRESS)
        self.reporter(Phase.READY, f"{self.record.model} on {self.engine.name}")
        return self.record

    async def _probe_until_ready(self, link: MachineLink) -> Probed:
        wait = self.world.pace.first_poll
        while True:
            status = await self._status(link)
            if status is not None:
                await self._move(State.LOADING, Cause.PROGRESS)
                try:
                    await self._follow_log(link, status)
                    return await link.probe(self.record.model)
                except Unhealthy:
                    pass  # not yet: what is wrong for good shows in the agent's status
            await anyio.sleep(wait)
            wait = min(wait * 1.3, self.world.pace.max_poll / 2)

    async def _status(self, link: MachineLink) -> AgentStatus | None:
        try:
            return await link.status()
        except Unhealthy:
            assert self.record.instance_id is not None
            seen = await self._patiently(self._seen(self.record.instance_id))
            if seen is not None:
                await self._check_alive(seen.instance)
            return None

    async def _follow_log(self, link: MachineLink, status: AgentStatus) -> None:
        lines = await link.log(LOG_TAIL)
        if status.engine_exit_code is not None or status.phase == "failed":
            raise self.engine.diagnose(lines, status.engine_exit_code)
        for line in reversed(lines):
            found = self.engine.phase(line)
            if found is not None:
                self.reporter(*found)
                return
        self.reporter(Phase.WEIGHTS, f"{self.engine.name} is starting")

    async def _get(self, instance: Instance) -> Instance:
        """The machine now; as it was, where the provider could not tell."""
        seen = await self._patiently(self._seen(instance.id))
        if seen is None:
            return instance
        if seen.instance is None:
            await self._check_alive(None)
            raise AssertionError("unreachable: an absent machine raises")
        return seen.instance

    async def _seen(self, instance_id: str) -> Look:
        return Look(instance=await self.provider.get(instance_id))

    async def _check_alive(self, instance: Instance | None) -> None:
        if instance is not None and instance.state is not State.TERMINATED:
            return
        if instance is not None and instance.cause not in (None, Cause.ENGINE_FAILED):
            raise StartFailed(
                f"the machine ended itself ({instance.cause}) before the engine was ready",
                hint="a longer limit (max_age, budget, idle_timeout) lets it finish",
            )
        lines = await self.provider.logs(instance.id, LOG_TAIL) if instance is not None else []
        if lines:
            raise self.engine.diagnose(lines, None)
        raise StartFailed(
            f"the machine ended before the engine was ready ({instance.detail if instance else 'it is gone'})",
            hint=f"spotinfer logs {self.record.name}",
        )

    # --- giving up -------------------------------------------------------------------------------------------------

    async def ended_elsewhere(self) -> Lost | None:
        """The true reason of a failure, where another process ended the machine while it was starting."""
        try:
            current = await self.world.ledger.record(self.record.key)
        except LedgerError:
            return None
        if current is None or (current.live and not current.end_wanted):
            return None
        return Lost(f"{current.name} was ended while it was starting ({current.cause})", hint="launch it again")

    async def abandon(self, cause: Cause) -> None:
        """End whatever this attempt rented. Called under a shield."""
        self.reporter(Phase.END, f"ending what was rented ({cause})")
        record = await self.world.ledger.record(self.record.key) or self.record
        if record.instance_id is not None:
            record = await reconcile(self.world, record)  # it may have told a better cause for its end
        if not record.live:
            return
        if record.instance_id is None and not self.may_exist:
            await gone(self.world, record, cause)
        else:
            await end(self.world, record, cause)

    # --- small things ----------------------------------------------------------------------------------------------

    async def _move(self, state: State, cause: Cause) -> None:
        self.record = await self.world.ledger.move(self.record.key, state, cause, self.world.clock.now())

    def _spec(self) -> InstanceSpec:
        local = not self.provider.capabilities.remote
        command = self.engine.command(
            self.candidate.model,
            self.settings,
            HostView(gpus=_gpus(self.candidate), local=local),
            self.secrets.api_key.reveal(),
        )
        return instance_spec(
            secrets=self.secrets,
            owner=self.world.ledger.owner,
            name=self.record.name,
            offer=self.candidate.offer,
            engine=self.engine,
            command=command,
            limits=self.limits,
            local=local,
            port=self.port,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """An answer of ``get``: "gone" (None inside) is not the same as no answer."""

    instance: Instance | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """What an engine is told about the machine."""

    gpus: int
    local: bool


def _gpus(candidate: Candidate) -> int:
    return candidate.offer.accelerators.count if candidate.offer.accelerators else 0


def probe_row(record: Record, probed: Probed) -> RequestRow:
    """The readiness probe as a row of its own, so that the engine's counters add up."""
    return RequestRow(
        key=record.key,
        started=probed.started.timestamp(),
        ended=probed.ended.timestamp(),
        first_token=probed.ended.timestamp(),
        endpoint="/v1/completions",
        model=record.model,
        tag="",
        status="ok",
        http_status=200,
        stream=False,
        prompt_tokens=probed.prompt_tokens,
        completion_tokens=probed.completion_tokens,
        cached_tokens=probed.cached_tokens,
        reasoning_tokens=0,
        estimated=False,
        probe=True,
    )
