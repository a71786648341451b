"""Keeps n servers alive: launches, watches, and launches again whatever ended that nobody asked to end."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio

from ..core.errors import LedgerError, ProviderError, SpotinferError
from ..core.protocols import ProgressListener
from ..core.records import Record
from ..core.states import State
from .ending import end
from .launch import Launched, Order, launch
from .watch import Keeper
from .world import World, silent

log = logging.getLogger("spotinfer")

OrderFor = Callable[[int], Awaitable[Order]]
"""Slot number -> what to launch there now; asked again for every launch, since offers and prices change."""

NOT_SERVING = frozenset({State.TERMINATED, State.STOPPED})
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 300.0
"""Seconds between launches of one slot that fail: a market without capacity must not be asked all the time."""


class Fleet:
    """``await fleet.run()`` until it is cancelled. ``keepers`` maps a slot to the keeper of its server.

    Ending the servers that run at the cancellation is the caller's choice (:func:`spotinfer.control.ending.end`).
    """

    def __init__(self, world: World, replicas: int, order_for: OrderFor, listener: ProgressListener = silent) -> None:
        self.keepers: dict[int, Keeper] = {}
        self.launches = 0
        self.failures = 0
        self._world = world
        self._replicas = replicas
        self._order_for = order_for
        self._listener = listener

    async def run(self) -> None:
        """Raises only ``LedgerError``: without its books a fleet must not go on spending."""
        async with anyio.create_task_group() as tasks:
            for slot in range(self._replicas):
                tasks.start_soon(self._keep, slot)

    async def _keep(self, slot: int) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                launched = await launch(self._world, await self._order_for(slot), self._listener)
            except LedgerError:
                raise
            except SpotinferError as error:
                self.failures += 1
                log.info("slot %d: %s; trying again in %.0f s", slot, error.message, pause)
                await anyio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            self.launches += 1
            await self._watch(slot, launched)

    async def _watch(self, slot: int, launched: Launched) -> None:
        """Until it is gone. An outbid machine stands still and its disk bills: it is ended and replaced."""
        keeper = Keeper(self._world, launched.record, launched.link, self._listener, until=NOT_SERVING)
        self.keepers[slot] = keeper
        try:
            await keeper.run()
        finally:
            del self.keepers[slot]
            with anyio.move_on_after(1.0, shield=True):
                await launched.link.aclose()
        if keeper.record.live:
            await self._give_up(keeper.record)

    async def _give_up(self, record: Record) -> None:
        try:
            await end(self._world, record, record.cause)
        except ProviderError as error:  # its end is recorded as wanted: the next launch in this slot asks again
            log.warning("%s: %s", record.name, error.message)

    @property
    def ready(self) -> int:
        """Servers that answer now."""
        return sum(keeper.record.state is State.READY for keeper in self.keepers.values())
