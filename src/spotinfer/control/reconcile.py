"""Looks at a machine, asks ``step`` what to do, and does it. The only place where its actions are performed."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..core.errors import IllegalMove, ProviderError, UnknownName
from ..core.records import Record
from ..core.states import Cause, State
from ..core.step import Absent, Action, Bind, Move, Observation, Resume, Seen, Stop, Terminate, Unseen, step
from .ending import elsewhere, end, find_by_key, gone
from .world import World

log = logging.getLogger("spotinfer")


async def reconcile(world: World, record: Record) -> Record:
    """Bring the ledger and the machine together. Raises only ``LedgerError``: a cloud that fails is an observation."""
    if launching(world, record):
        return record
    observation = await observe(world, record)
    return await perform(world, record, step(record, observation, world.clock.now()))


def launching(world: World, record: Record) -> bool:
    """Whether a live process is on its way through the launch: then the record is its alone to move.

    To anybody else a machine that is about to be created would look like one that is gone.
    """
    return record.live and record.ready_at is None and not record.end_wanted and world.holds.held(record.key) is True


async def observe(world: World, record: Record) -> Observation:
    """What the provider says now. Whatever it could not tell is ``Unseen``, never ``Absent``."""
    try:
        provider = world.provider(record.provider)
        if elsewhere(world, record):
            return Unseen(why="it runs on the computer that launched it, which is not this one")
        instance_id = record.instance_id or await find_by_key(world, provider, record.key)
        if instance_id is None:
            return Absent(settled=world.clock.now() >= record.created_at + provider.capabilities.settle)
        instance = await provider.get(instance_id)
    except (ProviderError, UnknownName) as error:
        return Unseen(why=error.message)
    if instance is None:
        return Absent()
    return Absent(cause=instance.cause) if instance.state is State.TERMINATED else Seen(instance=instance)


async def perform(world: World, record: Record, actions: Sequence[Action]) -> Record:
    for action in actions:
        try:
            record = await _perform(world, record, action)
        except ProviderError as error:
            # The wish is recorded; the next look tries again.
            log.warning("%s: %s of %s failed: %s", record.provider, type(action).__name__, record.name, error.message)
        except IllegalMove:
            current = await world.ledger.record(record.key)
            if current is None or current.state is record.state:
                raise
            return current  # another process moved it since we read it: the next look decides on what it is now
    return record


async def _perform(world: World, record: Record, action: Action) -> Record:
    now = world.clock.now()
    if isinstance(action, Move):
        if action.after is State.TERMINATED:
            return await _bury(world, record, action)
        return await world.ledger.move(record.key, action.after, action.cause, now, action.detail)
    if isinstance(action, Bind):
        await world.ledger.created(record.key, action.instance_id, now)
        return await world.ledger.record(record.key) or record
    if isinstance(action, Terminate):
        return await _terminate(world, record, action)
    provider = world.provider(record.provider)
    if isinstance(action, Stop):
        await provider.stop(action.instance_id)
        return await world.ledger.move(record.key, State.STOPPING, Cause.USER, now)
    assert isinstance(action, Resume)
    await provider.resume(action.instance_id)
    return await world.ledger.move(record.key, State.PROVISIONING, Cause.USER, now)


async def _bury(world: World, record: Record, move: Move) -> Record:
    """It is gone; what it left (a folder, a security group) costs nothing but clutter and goes, too."""
    instance_id = record.instance_id
    record = await gone(world, record, move.cause, move.detail)
    if instance_id is not None:
        await world.provider(record.provider).terminate(instance_id)
    return record


async def _terminate(world: World, record: Record, action: Terminate) -> Record:
    if record.live:
        return await end(world, record, action.cause)
    if action.instance_id is not None:  # recorded as gone, and yet it was seen: our books were wrong, end it again
        await world.provider(record.provider).terminate(action.instance_id)
    return record
