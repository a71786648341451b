"""The saga against an unkind market, one unkindness at a time, on virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import anyio
import pytest

from spotinfer.control.launch import launch
from spotinfer.control.reap import look, reap
from spotinfer.control.world import World, silent
from spotinfer.core.errors import NoFeasiblePlan
from spotinfer.core.model import Phase, Progress
from spotinfer.core.states import Cause, State
from spotinfer.core.virtual import run_virtual
from spotinfer.providers.simulated.adapter import SimulatedProvider
from spotinfer.providers.simulated.config import MarketConfig
from spotinfer.testing.simulation import simulated_order, simulated_world

CALM = MarketConfig(preemptions_per_day=0.0)


def play(scene: Callable[[World], Awaitable[None]], config: MarketConfig = CALM, seed: int = 1) -> None:
    async def body() -> None:
        await scene(simulated_world(seed, config))

    run_virtual(body)


def machines(world: World) -> list[str]:
    provider = world.providers["simulated"]
    assert isinstance(provider, SimulatedProvider)
    return [machine.key for machine in provider.market.existing() if machine.owner == world.ledger.owner]


def test_a_lost_answer_is_found_by_its_key_and_adopted() -> None:
    async def scene(world: World) -> None:
        provider = world.providers["simulated"]
        assert isinstance(provider, SimulatedProvider)
        provider.market.lose_next_answer()
        said: list[Progress] = []
        launched = await launch(world, await simulated_order(world, "one"), said.append)
        assert any("answer was lost" in item.message for item in said)
        assert launched.record.state is State.READY
        assert machines(world) == [launched.record.key]

    play(scene, replace(CALM, listing_lag=60.0))


def test_a_request_that_never_arrived_goes_on_to_the_next_offer_after_the_list_has_settled() -> None:
    async def scene(world: World) -> None:
        with pytest.raises(NoFeasiblePlan) as caught:
            await launch(world, await simulated_order(world, "one"), silent)
        assert all("nothing was rented" in reason for reason in caught.value.rejected.values())
        assert machines(world) == []
        settle = world.providers["simulated"].capabilities.settle.total_seconds()
        assert anyio.current_time() >= settle * len(caught.value.rejected)
        for record in await world.ledger.records():
            assert (record.state, record.cause) == (State.TERMINATED, Cause.LAUNCH_FAILED)

    play(scene, replace(CALM, lost_requests=1.0))


def test_no_capacity_goes_to_the_next_offer() -> None:
    async def scene(world: World) -> None:
        launched = await launch(world, await simulated_order(world, "one"), silent)
        assert launched.record.state is State.READY
        assert machines(world) == [launched.record.key]

    for seed in range(5):
        play(scene, replace(CALM, scarcity=0.5), seed)


def test_a_machine_that_never_boots_is_ended_and_the_next_offer_is_tried() -> None:
    async def scene(world: World) -> None:
        said: list[Progress] = []
        with pytest.raises(NoFeasiblePlan):
            await launch(world, await simulated_order(world, "one"), said.append)
        assert machines(world) == []
        records = await world.ledger.records()
        assert len(records) > 1
        assert {record.cause for record in records} == {Cause.BOOT_TIMEOUT}
        assert [item for item in said if item.phase is Phase.END]

    play(scene, replace(CALM, boot_failure=1.0))


def test_a_launch_that_is_cancelled_while_the_answer_travels_owns_nothing_after_the_reaper_came() -> None:
    """Cancelled at every moment of the first minutes: whatever was rented is ended, by clean-up or by the reaper."""

    async def scene(world: World) -> None:
        for moment in range(40):
            with anyio.move_on_after(moment * 0.03 if moment < 20 else moment * 4.0):
                launched = await launch(world, await simulated_order(world, f"n-{moment}"), silent)
                await launched.link.aclose()
                pytest.fail("a launch cannot be over that soon")
            await anyio.sleep(400)
            report = await reap(world, await look(world))
            assert report.failed == {}
            assert machines(world) == []
            assert await world.ledger.records(live=True) == []

    play(scene, replace(CALM, boot=(100, 100), load=(100, 100), listing_lag=20.0, latency=0.2))


@pytest.mark.parametrize("seed", range(5))
def test_a_machine_that_boots_is_not_given_up_because_its_cloud_does_not_answer(seed: int) -> None:
    async def scene(world: World) -> None:
        provider = world.providers["simulated"]
        assert isinstance(provider, SimulatedProvider)
        order = await simulated_order(world, "one")

        def break_the_cloud(progress: Progress) -> None:
            if progress.phase is Phase.BOOT:
                provider.market.config = replace(CALM, unavailable=0.6)

        launched = await launch(world, replace(order, candidates=order.candidates[:1]), break_the_cloud)
        assert launched.record.state is State.READY
        assert machines(world) == [launched.record.key]

    play(scene, CALM, seed)
