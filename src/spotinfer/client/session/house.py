"""What the sync and the async client share: settings, one session in the portal's loop, and its display."""

from __future__ import annotations

import atexit
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet

import anyio

from ...core.protocols import ProgressListener
from ..display import listener
from ..options import check_model, check_options
from ..settings import Settings
from .core import Session
from .held import Held
from .portal import PORTAL, Undo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...ledger.meter import Meter
    from ...planning.plan import Plan
    from ..handle import ServerHandle

T = TypeVar("T")


class House:
    """Opens its session on first use, again after a fork, and closes it at the end of the process.

    A forked child gets a session of its own: the servers that its parent launched stay the parent's.
    """

    def __init__(self, settings: Settings | None, progress: str | None) -> None:
        self._given = settings
        self._loaded: Settings | None = None
        self._progress = progress
        self._session: Session | None = None
        self._manager: AbstractContextManager[Session] | None = None
        self._pid = 0
        self._handles: WeakSet[ServerHandle] = WeakSet()

    @property
    def settings(self) -> Settings:
        if self._loaded is None:
            self._loaded = self._given or Settings.load()
        return self._loaded

    def session(self) -> Session:
        if self._session is None or self._pid != os.getpid():
            self._pid = os.getpid()
            self._manager = PORTAL.get().wrap_async_context_manager(Session(self.settings))
            self._session = self._manager.__enter__()
            atexit.register(self.close)
        return self._session

    def knows(self, handle: ServerHandle) -> None:
        """Its OpenAI clients are closed with this house: their requests could not be metered afterwards."""
        self._handles.add(handle)

    def close(self) -> None:
        """End the attached servers and close everything. Repeatable; opens again when it is used again."""
        for handle in list(self._handles):
            handle._close_clients()
        manager, self._manager, self._session = self._manager, None, None
        atexit.unregister(self.close)
        if manager is not None and self._pid == os.getpid():
            manager.__exit__(None, None, None)

    async def aclose(self) -> None:
        for handle in list(self._handles):
            await handle._aclose_clients()
        await anyio.to_thread.run_sync(self.close)

    def call(self, work: Callable[[Session], Awaitable[T]], undo: Undo[T] | None = None) -> T:
        session = self.session()
        return PORTAL.call(lambda: work(session), undo=undo, unfinished=session.unfinished)

    async def acall(self, work: Callable[[Session], Awaitable[T]], undo: Undo[T] | None = None) -> T:
        session = self.session()
        return await PORTAL.acall(lambda: work(session), undo=undo)

    # --- the work of both faces ------------------------------------------------------------------------------------

    def display(self) -> AbstractContextManager[ProgressListener]:
        return listener(self._progress or self.settings.progress)

    def launching(
        self, model: str | Plan, options: Mapping[str, object], report: ProgressListener
    ) -> Callable[[Session], Awaitable[tuple[Held, bool]]]:
        wanted, request = check_model(model), check_options(options, self.settings)
        return lambda session: session.launch(wanted, request, report)

    async def unlaunch(self, launched: tuple[Held, bool]) -> None:
        """For a launch that was ready when its caller was interrupted: nobody has the server."""
        held, owner = launched
        await self.session().release(held, terminate=owner)

    async def unconnect(self, held: Held) -> None:
        await self.session().release(held, terminate=False)

    def planning(self, model: str, options: Mapping[str, object]) -> Callable[[Session], Awaitable[Plan]]:
        request = check_options(options, self.settings)
        return lambda session: session.plan(model, request)

    def metering(self, name: str | None, since: datetime | timedelta | None) -> Callable[[Session], Awaitable[Meter]]:
        async def work(session: Session) -> Meter:
            from ...ledger.meter import Meter

            keys = await session.keys_for(name)
            return Meter(session.ledger, keys=keys, since=since)

        return work
