"""One long-lived event loop in a thread of its own, in which all control work runs.

Both faces use it: the sync one because it has no loop, the async one because a lease must be renewed also while a
notebook cell blocks the user's loop. A broken wait (Ctrl-C, a cancelled task) cancels the work *and waits* for its
shielded clean-up; leaving at once would leak the machine. Work that was done by then is undone: nobody got its result.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from ...core.errors import ConfigError, SpotinferError

T = TypeVar("T")
Undo = Callable[[T], Awaitable[object]]
log = logging.getLogger("spotinfer")

GRACE = 90.0
"""Seconds that a broken wait gives to clean-up: longer than ending a machine may take."""
BLINK = 0.2
"""Seconds that a waiting coroutine lets its loop sleep. A Jupyter kernel notes the stop button in a signal handler that
does not wake the loop, so without it a cell that awaits a launch could not be interrupted before it is done."""


class Portal:
    """A loop thread, started on first use and again after a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._manager: AbstractContextManager[BlockingPortal] | None = None
        self._portal: BlockingPortal | None = None
        self._thread: int | None = None
        self._abandoned: list[object] = []
        os.register_at_fork(after_in_child=self._forget)

    def get(self) -> BlockingPortal:
        with self._lock:
            if self._portal is None:
                self._manager = start_blocking_portal(name="spotinfer")
                self._portal = self._manager.__enter__()
                self._thread = self._portal.call(threading.get_ident)
            return self._portal

    def close(self) -> None:
        """Stop the loop and join its thread."""
        with self._lock:
            manager, self._manager, self._portal = self._manager, None, None
        if manager is not None:
            manager.__exit__(None, None, None)

    def call(
        self,
        function: Callable[[], Awaitable[T]],
        *,
        undo: Undo[T] | None = None,
        unfinished: Callable[[], str] | None = None,
    ) -> T:
        """Run ``function`` in the loop and wait. Also works where a loop is running already (a notebook).

        A first Ctrl-C cancels and waits for clean-up; a second one stops waiting and prints ``unfinished()``.
        ``undo`` gets a result that came too late to be returned.
        """
        portal, work = self._entrance(), _Work(function, undo)
        try:
            return portal.start_task_soon(work.run).result()
        except BaseException:
            if not work.failed:
                self._settle(portal, work, unfinished)
            raise

    async def acall(self, function: Callable[[], Awaitable[T]], *, undo: Undo[T] | None = None) -> T:
        """The same from a coroutine of any loop, which stays responsive meanwhile."""
        wake, woken = _waker()
        portal, work = self._entrance(), _Work(function, undo, wake)
        try:
            portal.start_task_soon(work.run)
            await woken()
        except BaseException:
            notify, settled = _waker()
            portal.start_task_soon(work.settle, notify)
            with anyio.move_on_after(GRACE, shield=True):
                await settled()
            raise
        return work.outcome()

    def _entrance(self) -> BlockingPortal:
        portal = self.get()
        if threading.get_ident() == self._thread:
            raise ConfigError(
                "a synchronous spotinfer call was made from inside spotinfer's own loop",
                hint="use AsyncClient there",
            )
        return portal

    def _settle(self, portal: BlockingPortal, work: _Work[T], unfinished: Callable[[], str] | None) -> None:
        try:
            settled = threading.Event()
            portal.start_task_soon(work.settle, settled.set)
            settled.wait(GRACE)
        except KeyboardInterrupt:
            if unfinished is not None:
                print(unfinished(), file=sys.stderr)
            raise

    def _forget(self) -> None:
        # Keep the old one alive: closing it would wait for a thread that fork did not copy.
        self._abandoned += [self._manager, self._portal]
        self._lock = threading.Lock()
        self._manager = self._portal = self._thread = None


class _Work(Generic[T]):
    """A coroutine function, its outcome, and what must happen when nobody takes it."""

    def __init__(
        self,
        function: Callable[[], Awaitable[T]],
        undo: Undo[T] | None = None,
        wake: Callable[[], object] | None = None,
    ) -> None:
        self._function = function
        self._undo = undo
        self._wake = wake
        self._scope: anyio.CancelScope | None = None
        self._ended: anyio.Event | None = None
        self._value: list[T] = []
        self._error: BaseException | None = None

    @property
    def failed(self) -> bool:
        """Whether it ended with an error of its own, or cancelled: its clean-up is done then."""
        return self._error is not None

    async def run(self) -> T:
        self._ended = anyio.Event()
        try:
            with anyio.CancelScope() as self._scope:
                self._value.append(await self._function())
            if not self._value:
                raise CancelledError
            return self._value[0]
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._ended.set()
            if self._wake is not None:
                self._wake()

    async def settle(self, notify: Callable[[], object]) -> None:
        """Nobody waits for the result: cancel, wait for the clean-up, and undo what was achieved all the same.

        Runs in the loop, whatever happens to those who wait for it. Tasks start in the order in which they were handed
        in, so a :meth:`run` that has not started by now never will.
        """
        try:
            if self._scope is None or self._ended is None:
                return
            self._scope.cancel()
            await self._ended.wait()
            if self._value and self._undo is not None:
                await self._undo(self._value[0])
        except SpotinferError as error:
            log.error("%s", error)  # whoever interrupted gets the interruption, not this
        finally:
            notify()

    def outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return self._value[0]


def _waker() -> tuple[Callable[[], object], Callable[[], Awaitable[object]]]:
    """Two ends of a signal into the running loop: one to call from any thread, which never blocks, one to await."""
    event = anyio.Event()
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # not asyncio, so trio: the only other library that anyio knows
        import trio

        token = trio.lowlevel.current_trio_token()
        return lambda: token.run_sync_soon(event.set), event.wait

    async def woken() -> None:
        while not event.is_set():
            with anyio.move_on_after(BLINK):
                await event.wait()

    # The user's loop may be closed by the time the work ends (asyncio.run returned): nobody waits then.
    return lambda: None if loop.is_closed() else loop.call_soon_threadsafe(event.set), woken


PORTAL = Portal()
"""The one loop of this process: clients, keepers and proxies share it."""
