"""Finds what nobody owns, and ends it. Works without the secrets of a launch, and without its ledger entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal

from ..core.errors import ProviderError
from ..core.model import Instance
from ..core.money import for_time
from ..core.records import Record
from ..core.states import Cause, State
from ..core.step import Absent, limit_passed, step
from .ending import elsewhere, end
from .reconcile import launching, observe, perform, reconcile
from .world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One machine. ``why`` says why nobody owns it; None: it is owned and stays.

    ``spent`` is dollars accrued so far at the recorded rate.
    """

    provider: str
    id: str | None
    key: str
    name: str
    state: State
    age: timedelta | None
    spent: Decimal | None
    why: str | None
    record: Record | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReapReport:
    """``failed`` maps a provider that could not be asked, or a machine that could not be ended, to the reason."""

    found: tuple[Found, ...] = ()
    ended: tuple[Found, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def unowned(self) -> tuple[Found, ...]:
        return tuple(item for item in self.found if item.why is not None)


async def look(world: World) -> ReapReport:
    """Everything of ours at every provider that can be asked, and what the ledger still believes in."""
    found: list[Found] = []
    failed: dict[str, str] = {}
    await _note_what_ended_itself(world)
    records = {record.key: record for record in await world.ledger.records(live=True)}
    for name, provider in world.providers.items():
        try:
            instances = await provider.list_owned(world.ledger.owner)
        except ProviderError as error:
            failed[name] = error.message
            continue
        for instance in instances:
            record = records.pop(instance.key, None) or await world.ledger.record(instance.key)
            if instance.state is not State.TERMINATED or (record is not None and record.live):
                found.append(_found(world, instance, record))
    # What the ledger holds for live and no list showed: reconciled by its own rules when it is ended.
    found += [_recorded(world, record) for record in records.values() if record.provider not in failed]
    return ReapReport(found=tuple(found), failed=failed)


async def _note_what_ended_itself(world: World) -> None:
    """Bring the books up to date with machines that are gone. Ends nothing."""
    for record in await world.ledger.records(live=True):
        if launching(world, record):
            continue
        observation = await observe(world, record)
        if isinstance(observation, Absent):
            await perform(world, record, step(record, observation, world.clock.now()))


async def reap(world: World, report: ReapReport) -> ReapReport:
    """End what ``look`` found that nobody owns. A machine that cannot be ended is in ``failed``; the rest goes on."""
    ended: list[Found] = []
    failed = dict(report.failed)
    for item in report.unowned:
        try:
            await _end(world, item)
            ended.append(item)
        except ProviderError as error:
            failed[item.id or item.key] = error.message
    await _forget_secrets(world)
    return ReapReport(found=report.found, ended=tuple(ended), failed=failed)


async def _forget_secrets(world: World) -> None:
    """Delete the secrets of launches that died before their intent was recorded, so before anything was rented."""
    for key in tuple(world.keystore.keys()):
        if world.holds.held(key) is False and await world.ledger.record(key) is None:
            world.keystore.delete(key)
            world.holds.forget(key)


def nobody_owns(world: World, record: Record) -> str | None:
    """Why nobody stands behind a recorded machine any more; None when somebody may."""
    if elsewhere(world, record):
        return None
    if not record.live or record.end_wanted:
        return "its end was asked for"
    cause = limit_passed(record, world.clock.now())
    if cause is not None:
        return f"it is past its limit ({cause})"
    held = world.holds.held(record.key)
    if held is False and not record.detached:
        return "the process that launched it is gone"
    if held is False and record.ready_at is None:
        return "its launch did not finish and the process that launched it is gone"
    return None


async def sweep(world: World) -> None:
    """Before a launch: end what an earlier launch on this computer left behind. Asks no provider when nothing is."""
    for record in await world.ledger.records(live=True):
        if record.provider in world.providers and nobody_owns(world, record) is not None:
            await _end_record(world, record)


async def holder_of(world: World, name: str) -> Record | None:
    """The live server of that name, after looking whether it is really there and its launch did not die."""
    record = await world.ledger.find(name)
    if record is None:
        return None
    record = await reconcile(world, record)
    if record.live and record.ready_at is None and nobody_owns(world, record) is not None:
        record = await end(world, record, Cause.REAPED)
    return record if record.live else None


async def _end(world: World, item: Found) -> None:
    if item.record is not None and item.record.live:
        await _end_record(world, item.record)
    elif item.id is not None:
        await world.provider(item.provider).terminate(item.id)


async def _end_record(world: World, record: Record) -> None:
    record = await reconcile(world, record)
    if record.live:
        await end(world, record, Cause.REAPED)


def _found(world: World, instance: Instance, record: Record | None) -> Found:
    why = "it is not in the ledger" if record is None else nobody_owns(world, record)
    age = None if instance.created_at is None else world.clock.now() - instance.created_at
    rate = record.per_hour if record is not None else instance.per_hour
    return Found(
        provider=instance.provider,
        id=instance.id,
        key=instance.key,
        name=record.name if record is not None else instance.name,
        state=instance.state,
        age=age,
        spent=None if rate is None or age is None else for_time(rate, age.total_seconds()),
        why=why,
        record=record,
    )


def _recorded(world: World, record: Record) -> Found:
    age = world.clock.now() - record.created_at
    held = world.holds.held(record.key)
    why = nobody_owns(world, record) or (None if held or elsewhere(world, record) else "the provider does not show it")
    return Found(
        provider=record.provider,
        id=record.instance_id,
        key=record.key,
        name=record.name,
        state=record.state,
        age=age,
        spent=None if record.per_hour is None else for_time(record.per_hour, age.total_seconds()),
        why=why,
        record=record,
    )
