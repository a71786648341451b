"""The async core behind both faces: one ledger, the providers, and the servers held by this process.

Lives in the portal's loop. ``AsyncClient`` and ``Client`` only translate.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from ...control import reap as reaping
from ...control.ending import end
from ...control.launch import Launched, Order, launch
from ...control.reconcile import reconcile
from ...control.watch import Keeper
from ...control.world import World
from ...core.errors import LedgerError, Lost, NameTaken, NotSupported, ProviderError, SpotinferError, UnknownName
from ...core.protocols import ProgressListener
from ...core.records import Record
from ...core.states import Cause, State
from ...ledger.keys import FileKeyStore
from ...ledger.store import SqlLedger, open_ledger
from ..options import LaunchRequest, check_grace, check_tail, default_name
from ..server_info import ServerInfo, describe
from ..settings import Settings
from .held import Held, LocalUrl
from .wiring import Loaded, build_world

if TYPE_CHECKING:
    from ...planning.plan import Plan

log = logging.getLogger("spotinfer")

ATTACH_POLL = 0.2
DRAIN_GRACE = timedelta(seconds=60)


class Session:
    """``async with Session(settings) as session``. Attached servers that are left at the exit are ended."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.held: dict[str, Held] = {}
        self._tasks: TaskGroup | None = None
        self._world: World | None = None
        self._ledger: SqlLedger | None = None
        self._launching: dict[str, str] = {}

    async def __aenter__(self) -> Session:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._tasks is not None
        try:
            with anyio.CancelScope(shield=True):
                await self._end_attached()
        finally:
            self._tasks.cancel_scope.cancel()
            await self._tasks.__aexit__(None, None, None)
            with anyio.CancelScope(shield=True):
                await self._close_parts()
        return None

    # --- parts, made on first use ----------------------------------------------------------------------------------

    @property
    def ledger(self) -> SqlLedger:
        if self._ledger is None:
            self._ledger = open_ledger(self.settings.ledger)
        return self._ledger

    @property
    def world(self) -> World:
        if self._world is None:
            self._world = build_world(self.settings, self.ledger, self.keystore)
        return self._world

    @property
    def keystore(self) -> FileKeyStore:
        return FileKeyStore(self.settings.home / "keys")

    # --- launching -------------------------------------------------------------------------------------------------

    async def plan(self, model: str, request: LaunchRequest) -> Plan:
        from .planner import make_plan  # on use: `ls` needs no engines

        return await make_plan(self.world, self.settings, model, request)

    async def launch(self, model: str | Plan, request: LaunchRequest, listener: ProgressListener) -> tuple[Held, bool]:
        """The server, and whether the caller is to end it (False: attached to another's, or detached).

        Raises what the saga raises; ``ConfigError`` and ``NoFeasiblePlan`` before anything is rented."""
        name = request.name or default_name(model if isinstance(model, str) else model.model, self._suffix())
        existing = await reaping.holder_of(self.world, name)
        if existing is not None:
            return await self._attach(existing, request, listener), False
        plan = await self.plan(model, request) if isinstance(model, str) else model
        assert plan.best is not None  # raises NoFeasiblePlan with the reasons
        await reaping.sweep(self.world)
        order = Order(
            name=name,
            candidates=plan.candidates,
            rejected=plan.rejected,
            limits=request.limits,
            detached=request.detach,
            settings=request.engine_settings,
            port=request.port,
            timeout=request.timeout,
        )
        self._launching[name] = plan.best.offer.provider
        try:
            launched = await launch(self.world, order, listener)
        except NameTaken:
            winner = await self.ledger.find(name)
            if winner is None or request.if_exists == "error":
                raise
            return await self._attach(winner, request, listener), False
        finally:
            self._launching.pop(name, None)
        return self._hold(launched, listener, owner=not request.detach), not request.detach

    async def connect(self, name: str, listener: ProgressListener) -> Held:
        """Raises :class:`UnknownName` (with the names that are live), :class:`Lost`."""
        record = await self._find(name)
        return await self._join(record, listener)

    def _suffix(self) -> str:
        return f"{self.world.random.getrandbits(16):04x}"

    async def _attach(self, record: Record, request: LaunchRequest, listener: ProgressListener) -> Held:
        if request.if_exists == "error":
            raise NameTaken(
                f"a server called {record.name!r} is {record.state} since {record.state_at:%H:%M:%S} UTC",
                hint=f'if_exists="attach", spotinfer.connect("{record.name}"), or: spotinfer terminate {record.name}',
            )
        return await self._join(record, listener)

    async def _join(self, record: Record, listener: ProgressListener) -> Held:
        """Wait until another process's launch is ready, then use its server."""
        if record.key in self.held:
            held = self.held[record.key]
            held.users += 1
            return held
        with anyio.fail_after(self.world.pace.boot_limit):
            while record.live and record.ready_at is None:
                await anyio.sleep(ATTACH_POLL)
                record = await self.ledger.record(record.key) or record
        secrets = self.world.keystore.load(record.key)
        instance = await self.world.provider(record.provider).get(record.instance_id) if record.instance_id else None
        if instance is None or secrets is None or not {"agent", "engine"} <= set(instance.endpoints):
            record = await reconcile(self.world, record)
            missing = (
                "its keys are not on this computer" if secrets is None and record.live else f"it is {record.state}"
            )
            raise Lost(f"cannot use {record.name}: {missing} ({record.cause})", hint="launch it again")
        self.world.holds.hold(record.key)
        link = self.world.open_link(instance, secrets)
        joined = Launched(
            record=record, instance=instance, secrets=secrets, link=link, engine=self.world.engines[record.engine]
        )
        return self._hold(joined, listener, owner=False)

    def _hold(self, launched: Launched, listener: ProgressListener, *, owner: bool) -> Held:
        assert self._tasks is not None
        keeper = Keeper(self.world, launched.record, launched.link, listener)
        held = Held(
            ledger=self.ledger,
            keystore=self.keystore,
            record=launched.record,
            instance=launched.instance,
            secrets=launched.secrets,
            link=launched.link,
            engine=launched.engine,
            keeper=keeper,
            owner=owner,
        )
        self.held[launched.record.key] = held
        self._tasks.start_soon(self._keep, held)
        return held

    async def _keep(self, held: Held) -> None:
        with held.scope:
            await held.keeper.run()

    # --- using and ending ------------------------------------------------------------------------------------------

    async def release(self, held: Held, *, terminate: bool) -> Record:
        """One user less; the last one lets go of it, and ``terminate`` ends it for all. Repeatable."""
        held.users -= 1
        if held.users > 0 and not terminate:
            return held.now
        held.scope.cancel()
        self.held.pop(held.record.key, None)
        record = held.now
        with anyio.CancelScope(shield=True):
            for proxy in held.proxies:
                await proxy.aclose()
            held.proxies.clear()
            try:
                await self._flush(record)
                if terminate:
                    record = await end(self.world, await self._current(record), Cause.USER)
            finally:
                self.world.holds.release(record.key)
                await held.link.aclose()
        held.keeper.record = record
        held.keeper.ended.set()
        return record

    async def _flush(self, record: Record) -> None:
        """Statistics that cannot be written wait; they must not stand in the way of ending the machine."""
        try:
            await self.ledger.flush()
        except LedgerError as error:
            log.warning("%s: requests are not recorded yet: %s", record.name, error.message)

    async def _current(self, record: Record) -> Record:
        try:
            return await self.ledger.record(record.key) or record
        except LedgerError:
            return record  # what is known of it is enough to end it

    async def terminate(self, name: str) -> Record:
        record = await self._find(name)
        return await self._terminate(record)

    async def terminate_all(self) -> list[Record]:
        """One that cannot be ended does not keep the others running: its error is raised after them."""
        records, problems = [], []
        for record in await self.ledger.records(live=True):
            try:
                records.append(await self._terminate(record))
            except (ProviderError, LedgerError) as error:
                log.error("%s: %s", record.name, error.message)
                problems.append(error)
        if problems:
            raise problems[0]
        return records

    async def _terminate(self, record: Record) -> Record:
        held = self.held.get(record.key)
        if held is not None:
            return await self.release(held, terminate=True)
        return await end(self.world, record, Cause.USER)

    async def drain(self, name: str, grace: timedelta = DRAIN_GRACE) -> Record:
        """Let running requests finish for at most ``grace``, then end the server."""
        check_grace(grace)
        record = await self._find(name)
        record = await self.ledger.move(record.key, State.DRAINING, Cause.USER, self.world.clock.now())
        secrets = self.world.keystore.load(record.key)
        instance = await self.world.provider(record.provider).get(record.instance_id or "")
        if secrets is not None and instance is not None and "agent" in instance.endpoints:
            link = self.world.open_link(instance, secrets)
            try:
                await link.drain(grace)
                await self._until_gone(record, grace)
            finally:
                await link.aclose()
        return await self._terminate(record)

    async def _until_gone(self, record: Record, grace: timedelta) -> None:
        provider = self.world.provider(record.provider)
        with anyio.move_on_after(grace.total_seconds() + 15):
            while record.instance_id is not None:
                instance = await provider.get(record.instance_id)
                if instance is None or instance.state is State.TERMINATED:
                    return
                await anyio.sleep(ATTACH_POLL)

    async def stop(self, name: str) -> Record:
        """Turn the machine off and keep its disk. Raises :class:`NotSupported`."""
        record = await self._find(name)
        provider = self.world.provider(record.provider)
        if not provider.capabilities.stop:
            raise NotSupported(
                f"machines cannot be stopped and kept at {record.provider}",
                provider=record.provider,
                hint=f"end it: spotinfer terminate {record.name}",
            )
        record = await self.ledger.want_stop(record.key, True, self.world.clock.now())
        return await reconcile(self.world, record)

    async def wait_ended(self, held: Held) -> Record:
        await held.keeper.ended.wait()
        return held.now

    async def proxy(self, held: Held, port: int) -> LocalUrl:
        """A loopback proxy to this server, open until the server is let go of."""
        from ..proxy.server import LocalProxy

        if self.held.get(held.record.key) is not held:  # nobody would close the proxy, and it may lead nowhere
            raise Lost(
                f"{held.record.name} is not in use here any more (it is {held.now.state})",
                hint=f'spotinfer.connect("{held.record.name}") if it still runs, else launch it again',
            )
        proxy = LocalProxy(held.upstream(), port=port)
        await proxy.start()
        held.proxies.append(proxy)
        return LocalUrl(url=proxy.url, key=proxy.key)

    async def logs_of(self, held: Held, tail: int) -> list[str]:
        check_tail(tail)
        if held.now.live:
            return list(await held.link.log(tail))
        return list(await self.world.provider(held.record.provider).logs(held.instance.id, tail))

    async def logs(self, name: str, tail: int) -> list[str]:
        """The machine's last lines; also of a server that has ended, where its provider keeps them."""
        check_tail(tail)
        record = await self.ledger.find(name) or await self._last(name)
        if record.instance_id is None:
            return []
        return list(await self.world.provider(record.provider).logs(record.instance_id, tail))

    # --- looking ---------------------------------------------------------------------------------------------------

    async def servers(self, *, ended: bool = False) -> list[ServerInfo]:
        """Every live server as its provider shows it now; with ``ended`` also those that are gone."""
        infos = []
        for record in await self.ledger.records(live=None if ended else True):
            if record.live:
                record = await reconcile(self.world, record)
            if record.live or ended:
                infos.append(await describe(self.world, record))
        return infos

    async def reap(self, *, dry_run: bool) -> reaping.ReapReport:
        report = await reaping.look(self.world)
        return report if dry_run else await reaping.reap(self.world, report)

    async def keys_for(self, name: str | None) -> Sequence[str] | None:
        """The machines that a meter is about; None: all."""
        if name is None:
            return None
        record = await self.ledger.find(name) or await self._last(name)
        return [record.key]

    def unfinished(self) -> str:
        """What a user must know who does not wait for clean-up."""
        lines = [
            f"spotinfer: {name} at {provider} may still be starting and cost money; end it: spotinfer terminate {name}"
            for name, provider in self._launching.items()
        ]
        return "\n".join(lines) or "spotinfer: stopped waiting; see what still runs: spotinfer ls"

    async def _find(self, name: str) -> Record:
        """The live server of that name or key."""
        record = await self.ledger.find(name) or await self.ledger.record(name)
        record = record if record is not None and record.live else None
        if record is None:
            live = [item.name for item in await self.ledger.records(live=True)]
            raise UnknownName("live server", name, live, hint=None if live else "nothing runs; spotinfer ls --all")
        return record

    async def _last(self, name: str) -> Record:
        records = [record for record in await self.ledger.records() if record.name == name]
        if not records:
            known = sorted({item.name for item in await self.ledger.records()})
            raise UnknownName("server", name, known, hint=None if known else "nothing was launched yet")
        return max(records, key=lambda record: record.created_at)

    # --- leaving ---------------------------------------------------------------------------------------------------

    async def _end_attached(self) -> None:
        for held in list(self.held.values()):
            try:
                await self.release(held, terminate=held.owner and held.now.live)
            except SpotinferError as error:
                log.error("%s may still run: %s; spotinfer terminate %s", held.record.name, error, held.record.name)

    async def _close_parts(self) -> None:
        if self._world is not None and isinstance(self._world.providers, Loaded):
            for provider in self._world.providers.made():
                await provider.aclose()
        if self._ledger is not None:
            await self._ledger.aclose()
        self._world = self._ledger = None
