"""The launch saga: intent, create, reach the agent, wait for one token, hand over; or clean up and try the next offer.

Every await in here is a place where the process may die. What it leaves behind is always in the ledger: the intent is
written before the call that spends, with a key that ``list_owned`` finds again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import anyio

from ..core.errors import (
    BootTimeout,
    IllegalMove,
    LedgerError,
    NameTaken,
    NoFeasiblePlan,
    ProviderError,
    Reaction,
    ServerError,
    SpotinferError,
)
from ..core.model import EngineSettings, Instance, LaunchSecrets, Limits, Phase
from ..core.protocols import Engine, MachineLink, ProgressListener
from ..core.records import Intent, Record
from ..core.states import Cause
from ..planning.plan import Candidate, price_text
from .attempt import Attempt
from .reap import holder_of
from .report import Reporter
from .world import World

log = logging.getLogger("spotinfer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to launch. ``timeout`` bounds the whole launch over all offers, in seconds (None: only boot limits)."""

    name: str
    candidates: tuple[Candidate, ...]
    limits: Limits
    detached: bool = False
    settings: EngineSettings = EngineSettings()
    port: int = 0
    timeout: float | None = None
    rejected: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A server that has generated a token."""

    record: Record
    instance: Instance
    secrets: LaunchSecrets
    link: MachineLink
    engine: Engine


async def launch(world: World, order: Order, listener: ProgressListener) -> Launched:
    """Try the candidates in order until one generates a token.

    Raises :class:`NameTaken`, :class:`NoFeasiblePlan` (every candidate with its failure), :class:`BootTimeout` when
    ``order.timeout`` passes, :class:`ServerError` when the engine itself cannot serve the model (another machine of
    the same kind would fail the same way).
    """
    reporter = Reporter(listener, world.clock, order.name)
    try:
        with anyio.fail_after(order.timeout):
            return await _first_that_works(world, order, reporter)
    except TimeoutError as error:
        raise BootTimeout(
            f"{order.name} was not ready within {order.timeout:g} s; everything rented for it was ended",
            hint="pass a larger timeout=, or look at the engine's log: spotinfer logs " + order.name,
        ) from error


async def _first_that_works(world: World, order: Order, reporter: Reporter) -> Launched:
    failures: dict[str, str] = dict(order.rejected)
    skipped: set[str] = set()
    last: SpotinferError | None = None
    for candidate in order.candidates:
        if candidate.offer.provider in skipped:
            continue
        reporter(Phase.RENT, f"{candidate.offer.label}, {_terms(candidate, order)}")
        try:
            return await _attempt(world, order, candidate, reporter)
        except ProviderError as error:
            if error.reaction is Reaction.FAIL:
                raise
            if error.reaction is Reaction.SKIP_PROVIDER:
                skipped.add(candidate.offer.provider)
            failures[candidate.offer.label], last = f"{error.code}: {error.message}", error
        except BootTimeout as error:
            failures[candidate.offer.label], last = error.message, error
        reporter(Phase.RENT, failures[candidate.offer.label])
    raise NoFeasiblePlan(
        f"no offer could serve {order.name}:", failures, hint=last.hint if last else "allow another provider"
    ) from last


def _terms(candidate: Candidate, order: Order) -> str:
    if candidate.offer.per_hour is None and order.limits.budget is not None:
        return "no price set (the budget cannot bind without one)"
    return price_text(candidate.offer)


async def _attempt(world: World, order: Order, candidate: Candidate, reporter: Reporter) -> Launched:
    attempt = await _intend(world, order, candidate, reporter)
    try:
        return await _carry_out(attempt)
    except BaseException as error:
        # Shielded: a cancelled launch still ends what it rented. The first error is the one that is raised.
        with anyio.CancelScope(shield=True):
            elsewhere = await attempt.ended_elsewhere() if isinstance(error, (ServerError, IllegalMove)) else None
            await _abandon(attempt, error)
        if elsewhere is not None:
            raise elsewhere from error
        raise


async def _carry_out(attempt: Attempt) -> Launched:
    with anyio.move_on_after(attempt.world.pace.boot_limit) as scope:
        instance = await attempt.create()
        instance, link = await attempt.reach(instance)
        record = await attempt.until_ready(link)
        return Launched(record=record, instance=instance, secrets=attempt.secrets, link=link, engine=attempt.engine)
    assert scope.cancelled_caught
    limit = timedelta(seconds=attempt.world.pace.boot_limit)
    raise BootTimeout(f"not ready within {limit}; the machine was ended", hint="the next offer is tried")


async def _intend(world: World, order: Order, candidate: Candidate, reporter: Reporter) -> Attempt:
    """Secrets first, then the intent: a recorded machine always has its keys. Shielded, since half of it is a leak."""
    now = world.clock.now()
    key = world.new_key()
    with anyio.CancelScope(shield=True):
        world.holds.hold(key)
        secrets = world.issue(key, order.limits.max_age, now)
        world.keystore.save(secrets)
        intent = Intent(
            key=key,
            name=order.name,
            owner=world.ledger.owner,
            offer=candidate.offer,
            model=candidate.model.served_name,
            engine=candidate.engine,
            limits=order.limits,
            detached=order.detached,
            at=now,
        )
        try:
            record = await _claim(world, intent)
        except SpotinferError:
            world.keystore.delete(key)
            world.holds.forget(key)
            raise
    reporter.per_hour, reporter.rented_at = candidate.offer.per_hour, now
    return Attempt(
        world=world,
        candidate=candidate,
        record=record,
        secrets=secrets,
        settings=order.settings,
        limits=order.limits,
        port=order.port,
        reporter=reporter,
    )


async def _claim(world: World, intent: Intent) -> Record:
    """Record the intent; a name that is held by something that is really gone is free."""
    try:
        return await world.ledger.intend(intent)
    except NameTaken:
        if await holder_of(world, intent.name) is not None:
            raise
        return await world.ledger.intend(intent)


async def _abandon(attempt: Attempt, error: BaseException) -> None:
    try:
        await attempt.abandon(_cause(error))
    except (ProviderError, LedgerError, ServerError) as problem:
        # The intent is recorded, so the next `reap` or `launch` finds it; say it loudly all the same.
        log.error(
            "the machine of %s (%s, id %s) may still run: %s; end it with `spotinfer terminate %s`",
            attempt.record.name,
            attempt.record.provider,
            attempt.record.instance_id or attempt.record.key,
            problem.message,
            attempt.record.name,
        )


def _cause(error: BaseException) -> Cause:
    if isinstance(error, BootTimeout):
        return Cause.BOOT_TIMEOUT
    if isinstance(error, ServerError):
        return Cause.ENGINE_FAILED
    return Cause.LAUNCH_FAILED if isinstance(error, Exception) else Cause.INTERRUPTED
