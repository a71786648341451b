"""The keeper of one server on the simulated market: leases, budgets, limits, and machines that go away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import anyio

from spotinfer.control.launch import Launched, launch
from spotinfer.control.reap import look, reap
from spotinfer.control.reconcile import reconcile
from spotinfer.control.watch import Keeper
from spotinfer.control.world import Pace, World, silent
from spotinfer.core.model import Limits, OfferKind, Progress
from spotinfer.core.records import Record
from spotinfer.core.states import Cause, State
from spotinfer.core.virtual import run_virtual
from spotinfer.providers.simulated.config import CATALOGUE, MarketConfig
from spotinfer.testing.simulation import PACE, simulated_order, simulated_world

CALM = MarketConfig(
    catalogue=tuple(item for item in CATALOGUE if item.kind is OfferKind.ON_DEMAND), boot=(10, 20), load=(10, 20)
)
SPOT = replace(
    CALM, catalogue=tuple(item for item in CATALOGUE if item.kind is OfferKind.SPOT), preemptions_per_day=24.0
)


def play(
    scene: Callable[[World, Launched], Awaitable[None]],
    *,
    limits: Limits,
    config: MarketConfig = CALM,
    pace: Pace = PACE,
) -> None:
    async def body() -> None:
        world = simulated_world(3, config, pace)
        launched = await launch(world, await simulated_order(world, "one", limits=limits), silent)
        await scene(world, launched)

    run_virtual(body)


async def kept(world: World, launched: Launched, said: list[str] | None = None) -> Record:
    def listen(progress: Progress) -> None:
        if said is not None:
            said.append(progress.message)

    keeper = Keeper(world, launched.record, launched.link, listen)
    with anyio.fail_after(30 * 86400):
        await keeper.run()
    return keeper.record


def test_a_budget_is_announced_before_it_ends_the_server() -> None:
    async def scene(world: World, launched: Launched) -> None:
        said: list[str] = []
        record = await kept(world, launched, said)
        assert (record.state, record.cause) == (State.TERMINATED, Cause.BUDGET)
        assert record.per_hour is not None
        [warning] = [line for line in said if "budget" in line and "%" in line]
        assert warning.startswith("80% of the budget is used; the server ends in ")
        assert said.index(warning) < len(said) - 1  # before the end, which is the last line
        lived = (await world.ledger.histories())[0].record
        assert lived.ended_at is not None
        spent = record.per_hour * Decimal((lived.ended_at - record.created_at).total_seconds()) / 3600
        assert Decimal("0.4") <= spent <= Decimal("0.6")

    play(scene, limits=Limits(idle=None, max_age=None, budget=Decimal("0.50")))


def test_a_lease_is_renewed_as_long_as_the_keeper_runs() -> None:
    async def scene(world: World, launched: Launched) -> None:
        record = await kept(world, launched)
        assert record.cause is Cause.MAX_AGE  # and not lease_lapsed, although the lease is a hundredth of the age
        assert record.ended_at is not None
        assert record.ended_at - record.created_at >= timedelta(hours=8)

    play(scene, limits=Limits(lease=timedelta(minutes=5), idle=None, max_age=timedelta(hours=8)))


def test_without_its_keeper_a_leased_server_ends_by_itself() -> None:
    async def scene(world: World, launched: Launched) -> None:
        await anyio.sleep(20 * 60)
        record = await reconcile(world, launched.record)
        assert (record.state, record.cause) == (State.TERMINATED, Cause.LEASE_LAPSED)

    play(scene, limits=Limits(lease=timedelta(minutes=5), idle=None, max_age=None))


def test_an_idle_server_ends_by_itself() -> None:
    async def scene(world: World, launched: Launched) -> None:
        record = await kept(world, launched)
        assert (record.state, record.cause) == (State.TERMINATED, Cause.IDLE)

    play(scene, limits=Limits(idle=timedelta(minutes=30)))


def test_a_preempted_server_is_noticed_with_its_cause() -> None:
    async def scene(world: World, launched: Launched) -> None:
        record = await kept(world, launched)
        assert (record.state, record.cause) == (State.TERMINATED, Cause.PREEMPTED)

    play(scene, limits=Limits(lease=timedelta(hours=1), idle=None, max_age=None), config=SPOT)


def test_a_cloud_that_does_not_answer_is_no_evidence_of_an_end() -> None:
    """Half of all calls fail: the record may be lost for a while, but it is not gone until the market says so."""

    async def scene(world: World, launched: Launched) -> None:
        record = await kept(world, launched)
        assert record.cause is Cause.MAX_AGE
        history = (await world.ledger.histories())[0]
        ended = [move for move in history.transitions if move.after is State.TERMINATED]
        assert len(ended) == 1

    flaky = replace(CALM, unavailable=0.5)
    limits = Limits(lease=timedelta(hours=2), idle=None, max_age=timedelta(hours=6))

    async def body() -> None:
        world = simulated_world(5, flaky, PACE)
        while True:
            try:
                order = await simulated_order(world, "one", limits=limits)
                launched = await launch(world, order, silent)
                break
            except Exception:
                await reap(world, await look(world))
                await anyio.sleep(600)
        await scene(world, launched)

    run_virtual(body)
