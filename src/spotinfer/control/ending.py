"""How a machine is ended, whoever asks: one path, repeatable, and never "gone" without evidence."""

from __future__ import annotations

import logging

import anyio

from ..core.errors import ConfigError, LedgerError, LedgerUnwritable, Lost, ProviderError, ServerError
from ..core.model import AgentStatus, Instance
from ..core.protocols import MachineLink, Provider
from ..core.records import Record, Sample
from ..core.states import Cause, State
from .sampling import to_sample
from .world import World

log = logging.getLogger("spotinfer")


async def end(world: World, record: Record, cause: Cause, *, detail: str = "") -> Record:
    """Terminate the machine of ``record`` and wait for evidence that it is gone.

    The wish is recorded first, so that whoever comes after a crash goes on. Returns the record as it is then:
    ``terminated``, or ``terminating`` when the provider could not confirm it within ``Pace.end_limit``.
    Raises :class:`ProviderError` when the provider refused to end it, :class:`LedgerError` when that could not be
    recorded; the machine is ended all the same.
    """
    if not record.live:
        return _closed(world, record)
    if elsewhere(world, record):
        raise Lost(
            f"{record.name} runs on the computer that launched it, not on this one",
            hint=f"end it there: spotinfer terminate {record.name}; its own limits hold as well",
        )
    try:
        return await _end(world, record, cause, detail)
    except LedgerError as error:
        await _end_unrecorded(world, record)
        raise LedgerUnwritable(
            f"{record.name} was ended, but that could not be recorded: {error.message}",
            hint="once the ledger can be written, `spotinfer ls` brings it up to date",
        ) from error


def elsewhere(world: World, record: Record) -> bool:
    """Whether it runs on another computer than this one, which a shared ledger also knows, and cannot be looked at."""
    if world.holds.held(record.key) is not None:
        return False
    try:
        return not world.provider(record.provider).capabilities.remote
    except ConfigError:  # a cloud without its key here, or a plug-in that is not installed here
        return False


async def _end(world: World, record: Record, cause: Cause, detail: str) -> Record:
    record = await world.ledger.want_end(record.key, cause, world.clock.now(), detail)
    await _last_sample(world, record)
    provider = world.provider(record.provider)
    instance_id = record.instance_id or await find_by_key(world, provider, record.key)
    if record.state is not State.TERMINATING:
        record = await world.ledger.move(record.key, State.TERMINATING, cause, world.clock.now(), detail)
    if instance_id is None:
        return await _not_listed(world, record, provider, cause)
    await provider.terminate(instance_id)
    return await _confirm(world, record, provider, instance_id, cause)


async def _end_unrecorded(world: World, record: Record) -> None:
    """Books that cannot be written must not keep a machine running: a later look finds it gone and records that."""
    provider = world.provider(record.provider)
    instance_id = record.instance_id or await find_by_key(world, provider, record.key)
    if instance_id is not None:
        await provider.terminate(instance_id)


async def _not_listed(world: World, record: Record, provider: Provider, cause: Cause) -> Record:
    """``list_owned`` answers everything of ours or it raises, but right after a create it may lag."""
    if world.clock.now() >= record.created_at + provider.capabilities.settle:
        return await gone(world, record, cause)
    log.warning(
        "%s does not show the machine of %s yet; if it appears, `spotinfer reap` ends it", record.provider, record.name
    )
    return record


async def find_by_key(world: World, provider: Provider, key: str) -> str | None:
    """The id of the machine that carries ``key``; None only if a complete list does not show it."""
    for instance in await provider.list_owned(world.ledger.owner):
        if instance.key == key and instance.state is not State.TERMINATED:
            return instance.id
    return None


async def gone(world: World, record: Record, cause: Cause, detail: str = "") -> Record:
    """Record that it is gone, and forget its secrets."""
    record = await world.ledger.move(record.key, State.TERMINATED, cause, world.clock.now(), detail)
    return _closed(world, record)


def _closed(world: World, record: Record) -> Record:
    if record.state is State.TERMINATED:
        world.keystore.delete(record.key)
        world.holds.forget(record.key)
    return record


async def _confirm(world: World, record: Record, provider: Provider, instance_id: str, cause: Cause) -> Record:
    wait = world.pace.first_poll
    with anyio.move_on_after(world.pace.end_limit):
        while True:
            instance = await _look(provider, instance_id)
            if instance is None or (isinstance(instance, Instance) and instance.state is State.TERMINATED):
                return await gone(world, record, cause)
            await anyio.sleep(wait)
            wait = min(wait * 2, world.pace.max_poll)
    log.warning("%s: the end of %s is not confirmed yet; `spotinfer reap` looks again", record.provider, record.name)
    return record


async def _look(provider: Provider, instance_id: str) -> Instance | ProviderError | None:
    try:
        return await provider.get(instance_id)
    except ProviderError as error:
        return error  # could not tell: look again


async def _last_sample(world: World, record: Record) -> None:
    """The engine's counters at its end: what came from elsewhere cannot be told afterwards. Best effort, short."""
    secrets = world.keystore.load(record.key)
    if secrets is None or record.instance_id is None or record.ready_at is None:
        return
    link: MachineLink | None = None
    try:
        with anyio.move_on_after(2.0):
            instance = await world.provider(record.provider).get(record.instance_id)
            if instance is None or "agent" not in instance.endpoints:
                return
            link = world.open_link(instance, secrets)
            sample = sampled(world, record, await link.status())
            if sample is not None:
                await world.ledger.sample(sample)
    except (ServerError, ProviderError, LedgerError) as error:
        log.debug("no last sample of %s: %s", record.name, error)
    finally:
        if link is not None:
            with anyio.move_on_after(1.0, shield=True):
                await link.aclose()


def sampled(world: World, record: Record, status: AgentStatus) -> Sample | None:
    engine = world.engines.get(record.engine)
    return None if engine is None else to_sample(record.key, world.clock.now(), status, engine.metrics)
