"""The async face. Control work runs in spotinfer's own loop; these classes wait for it without blocking yours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING

from .handle import ServerHandle
from .server_info import ServerInfo
from .session.core import DRAIN_GRACE
from .session.held import LocalUrl
from .session.house import House

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from ..control.reap import ReapReport
    from ..core.records import Record
    from ..ledger.meter import Meter
    from ..planning.plan import Plan
    from .options import LaunchOptions
    from .settings import Settings


class AsyncServer(ServerHandle):
    """An engine that answers. Leaving ``async with`` ends it if this process launched it attached, else lets it go."""

    async def logs(self, tail: int = 100) -> list[str]:
        """The machine's last ``tail`` lines, oldest first."""
        self._not_inherited()
        return await self._house.acall(lambda session: session.logs_of(self._held, tail))

    async def local_url(self, port: int = 0) -> LocalUrl:
        """Open a loopback proxy for programs that have no client certificate. Raises :class:`PortTaken`."""
        self._not_inherited()
        return await self._house.acall(lambda session: session.proxy(self._held, port))

    async def drain(self, grace: timedelta = DRAIN_GRACE) -> None:
        """Let running requests finish for at most ``grace``, then end it."""
        self._not_inherited()
        await self._house.acall(lambda session: session.drain(self._held.record.key, grace))

    async def stop(self) -> None:
        """Turn the machine off and keep its disk. Raises :class:`NotSupported` where that is not to be had."""
        self._not_inherited()
        await self._house.acall(lambda session: session.stop(self._held.record.key))

    async def terminate(self) -> None:
        """End the machine and wait for evidence that it is gone. Repeatable."""
        if self._inherited:
            await self._house.acall(lambda session: session.terminate(self.key))
        else:
            await self._aclose_clients()  # their idle connections would keep the engine for its whole grace
            await self._house.acall(lambda session: session.release(self._held, terminate=True))

    async def wait_ended(self) -> Record:
        """Wait until it has ended for whatever reason; the record tells the cause."""
        self._not_inherited()
        return await self._house.acall(lambda session: session.wait_ended(self._held))

    async def aclose(self) -> None:
        """What leaving ``async with`` does. In a forked child: nothing, the server is its parent's."""
        if self._inherited or self._closed:  # a second time would let go in the name of another handle
            return
        await self._aclose_clients()
        await self._house.acall(lambda session: session.release(self._held, terminate=self._owner))
        self._closed = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class Launching:
    """``server = await alaunch(...)``, or ``async with alaunch(...) as server``."""

    def __init__(self, start: Callable[[], Awaitable[AsyncServer]]) -> None:
        self._start = start
        self._server: AsyncServer | None = None

    def __await__(self) -> Generator[object, None, AsyncServer]:
        return self._start().__await__()

    async def __aenter__(self) -> AsyncServer:
        self._server = await self._start()
        return self._server

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        await self._server.aclose()


class AsyncClient:
    """Launches and finds servers. ``progress`` is ``"auto"``, ``"plain"`` or ``"none"`` (default: the setting)."""

    def __init__(self, settings: Settings | None = None, *, progress: str | None = None) -> None:
        self._house = House(settings, progress)

    def launch(self, model: str | Plan, **options: Unpack[LaunchOptions]) -> Launching:
        """Rent, start, wait for the first token. Options: :class:`LaunchOptions`. Raises every ``SpotinferError``."""
        return Launching(lambda: launch_server(self._house, model, options))

    async def connect(self, name: str) -> AsyncServer:
        """Use a live server that this or another process launched. Raises :class:`UnknownName`, :class:`Lost`."""
        return await connect_server(self._house, name)

    async def plan(self, model: str, **options: Unpack[LaunchOptions]) -> Plan:
        """What ``launch`` would try, in order, and why not the rest. Rents nothing."""
        return await self._house.acall(self._house.planning(model, options))

    async def servers(self, *, ended: bool = False) -> list[ServerInfo]:
        return await self._house.acall(lambda session: session.servers(ended=ended))

    async def meter(self, name: str | None = None, *, since: datetime | timedelta | None = None) -> Meter:
        """What one server, or everything in the ledger, has cost."""
        return await self._house.acall(self._house.metering(name, since))

    async def logs(self, name: str, tail: int = 100) -> list[str]:
        return await self._house.acall(lambda session: session.logs(name, tail))

    async def drain(self, name: str, grace: timedelta = DRAIN_GRACE) -> Record:
        return await self._house.acall(lambda session: session.drain(name, grace))

    async def stop(self, name: str) -> Record:
        return await self._house.acall(lambda session: session.stop(name))

    async def terminate(self, name: str) -> Record:
        """The record as it is then: ``terminated``, or ``terminating`` if the provider could not confirm it yet."""
        return await self._house.acall(lambda session: session.terminate(name))

    async def terminate_all(self) -> list[Record]:
        return await self._house.acall(lambda session: session.terminate_all())

    async def reap(self, *, dry_run: bool = False) -> ReapReport:
        """End what nobody owns, at every provider that is configured; ``dry_run`` only looks."""
        return await self._house.acall(lambda session: session.reap(dry_run=dry_run))

    async def aclose(self) -> None:
        """End attached servers, close the ledger."""
        await self._house.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


async def launch_server(house: House, model: str | Plan, options: LaunchOptions) -> AsyncServer:
    with house.display() as report:
        held, owner = await house.acall(house.launching(model, options, report), house.unlaunch)
    return AsyncServer(house, held, owner=owner)


async def connect_server(house: House, name: str) -> AsyncServer:
    with house.display() as report:
        held = await house.acall(lambda session: session.connect(name, report), house.unconnect)
    return AsyncServer(house, held, owner=False)
