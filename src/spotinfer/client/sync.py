"""The sync face: explicit and typed; a test compares its names and signatures with the async one."""

from __future__ import annotations

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


class Server(ServerHandle):
    """An engine that answers. Leaving ``with`` ends it if this process launched it attached, else lets it go."""

    def logs(self, tail: int = 100) -> list[str]:
        """The machine's last ``tail`` lines, oldest first."""
        self._not_inherited()
        return self._house.call(lambda session: session.logs_of(self._held, tail))

    def local_url(self, port: int = 0) -> LocalUrl:
        """Open a loopback proxy for programs that have no client certificate. Raises :class:`PortTaken`."""
        self._not_inherited()
        return self._house.call(lambda session: session.proxy(self._held, port))

    def drain(self, grace: timedelta = DRAIN_GRACE) -> None:
        """Let running requests finish for at most ``grace``, then end it."""
        self._not_inherited()
        self._house.call(lambda session: session.drain(self._held.record.key, grace))

    def stop(self) -> None:
        """Turn the machine off and keep its disk. Raises :class:`NotSupported` where that is not to be had."""
        self._not_inherited()
        self._house.call(lambda session: session.stop(self._held.record.key))

    def terminate(self) -> None:
        """End the machine and wait for evidence that it is gone. Repeatable."""
        if self._inherited:
            self._house.call(lambda session: session.terminate(self.key))
        else:
            self._close_clients()  # their idle connections would keep the engine for its whole grace
            self._house.call(lambda session: session.release(self._held, terminate=True))

    def wait_ended(self) -> Record:
        """Wait until it has ended for whatever reason; the record tells the cause."""
        self._not_inherited()
        return self._house.call(lambda session: session.wait_ended(self._held))

    def close(self) -> None:
        """What leaving ``with`` does. In a forked child: nothing, the server is its parent's."""
        if self._inherited or self._closed:  # a second time would let go in the name of another handle
            return
        self._close_clients()
        self._house.call(lambda session: session.release(self._held, terminate=self._owner))
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Client:
    """Launches and finds servers. ``progress`` is ``"auto"``, ``"plain"`` or ``"none"`` (default: the setting)."""

    def __init__(self, settings: Settings | None = None, *, progress: str | None = None) -> None:
        self._house = House(settings, progress)

    def launch(self, model: str | Plan, **options: Unpack[LaunchOptions]) -> Server:
        """Rent, start, wait for the first token. Options: :class:`LaunchOptions`. Raises every ``SpotinferError``."""
        return launch_server(self._house, model, options)

    def connect(self, name: str) -> Server:
        """Use a live server that this or another process launched. Raises :class:`UnknownName`, :class:`Lost`."""
        return connect_server(self._house, name)

    def plan(self, model: str, **options: Unpack[LaunchOptions]) -> Plan:
        """What ``launch`` would try, in order, and why not the rest. Rents nothing."""
        return self._house.call(self._house.planning(model, options))

    def servers(self, *, ended: bool = False) -> list[ServerInfo]:
        return self._house.call(lambda session: session.servers(ended=ended))

    def meter(self, name: str | None = None, *, since: datetime | timedelta | None = None) -> Meter:
        """What one server, or everything in the ledger, has cost."""
        return self._house.call(self._house.metering(name, since))

    def logs(self, name: str, tail: int = 100) -> list[str]:
        return self._house.call(lambda session: session.logs(name, tail))

    def drain(self, name: str, grace: timedelta = DRAIN_GRACE) -> Record:
        return self._house.call(lambda session: session.drain(name, grace))

    def stop(self, name: str) -> Record:
        return self._house.call(lambda session: session.stop(name))

    def terminate(self, name: str) -> Record:
        """The record as it is then: ``terminated``, or ``terminating`` if the provider could not confirm it yet."""
        return self._house.call(lambda session: session.terminate(name))

    def terminate_all(self) -> list[Record]:
        return self._house.call(lambda session: session.terminate_all())

    def reap(self, *, dry_run: bool = False) -> ReapReport:
        """End what nobody owns, at every provider that is configured; ``dry_run`` only looks."""
        return self._house.call(lambda session: session.reap(dry_run=dry_run))

    def close(self) -> None:
        """End attached servers, close the ledger."""
        self._house.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def launch_server(house: House, model: str | Plan, options: LaunchOptions) -> Server:
    with house.display() as report:
        held, owner = house.call(house.launching(model, options, report), house.unlaunch)
    return Server(house, held, owner=owner)


def connect_server(house: House, name: str) -> Server:
    with house.display() as report:
        held = house.call(lambda session: session.connect(name, report), house.unconnect)
    return Server(house, held, owner=False)
