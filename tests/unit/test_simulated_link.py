"""The owner's line to a simulated machine, and what its agent does by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import anyio
import pytest

from spotinfer.core.errors import Unhealthy
from spotinfer.core.model import OfferKind
from spotinfer.core.protocols import MachineLink
from spotinfer.core.states import Cause
from spotinfer.providers.simulated.adapter import SimulatedProvider
from spotinfer.providers.simulated.config import MarketConfig
from spotinfer.providers.simulated.link import SimulatedLink
from support.markets import DAY, HOUR, offer_of, simulate, spec, until

CALM = MarketConfig(preemptions_per_day=0.0, volatility=0.0)
LOADED = MarketConfig(preemptions_per_day=0.0, volatility=0.0, tokens_per_second=100.0)
Scenario = Callable[[SimulatedProvider, SimulatedLink], Awaitable[None]]


def linked(
    scenario: Scenario, config: MarketConfig = CALM, kind: OfferKind = OfferKind.ON_DEMAND, **limits: float
) -> None:
    """Run a scenario over a machine that has just got its address."""

    async def body(provider: SimulatedProvider) -> None:
        made = await provider.create(spec("si-1", await offer_of(provider, kind), **limits))
        link: MachineLink = provider.open_link(made)
        with pytest.raises(Unhealthy):
            await link.status()
        await until(provider, made.id, "running")
        assert isinstance(link, SimulatedLink)
        await scenario(provider, link)

    simulate(body, config)


async def probed(link: SimulatedLink) -> None:
    with anyio.fail_after(300):
        while True:
            try:
                await link.probe("tiny")
            except Unhealthy:
                await anyio.sleep(1)
            else:
                return


def test_it_answers_after_its_load_time() -> None:
    async def scenario(provider: SimulatedProvider, link: SimulatedLink) -> None:
        assert (await link.status()).phase == "starting"
        assert await link.log(5) == ["loading the model"]
        began = anyio.current_time()
        await probed(link)
        assert CALM.load[0] <= anyio.current_time() - began + 2
        status = await link.status()
        assert (status.phase, status.can_end, status.counters) == ("running", True, {})
        assert await link.log(5) == ["loading the model", "ready"]

    linked(scenario)


def test_counters_grow_with_the_load() -> None:
    async def scenario(provider: SimulatedProvider, link: SimulatedLink) -> None:
        await probed(link)
        first = await link.status()
        await anyio.sleep(HOUR)
        second = await link.status()
        assert second.busy_seconds - first.busy_seconds == pytest.approx(3600, abs=1)
        grown = second.counters["engine:tokens_total"] - first.counters["engine:tokens_total"]
        assert grown == pytest.approx(360_000, abs=100)

    linked(scenario, LOADED, idle_s=600)


def test_the_probe_is_counted() -> None:
    async def scenario(provider: SimulatedProvider, link: SimulatedLink) -> None:
        await probed(link)
        probe = await link.probe("tiny")
        counted = (await link.status()).counters
        assert counted["engine:prompt_total"] == 2 * probe.prompt_tokens
        assert counted["engine:tokens_total"] == 2 * probe.completion_tokens
        assert counted["engine:cached_prompt_total"] == 0

    linked(scenario, idle_s=3600)


def test_a_renewed_lease_holds_and_a_forgotten_one_ends_the_machine() -> None:
    async def scenario(provider: SimulatedProvider, link: SimulatedLink) -> None:
        for _ in range(20):
            await anyio.sleep(200)
            await link.renew(timedelta(minutes=5))
        until_then = (await link.status()).lease_until
        assert until_then is not None
        await until(provider, "m-1", "deleted", HOUR, pause=10)
        (*_, last) = provider.market.events
        assert (last.cause, last.at) == (Cause.LEASE_LAPSED, until_then.timestamp())

    linked(scenario, LOADED, lease_s=300)


@pytest.mark.parametrize(
    ("limits", "cause"),
    [
        ({"idle_s": 1800.0}, Cause.IDLE),
        ({"max_age_s": 7200.0}, Cause.MAX_AGE),
        ({"budget_s": 7200.0}, Cause.BUDGET),
        ({"budget_s": 7200.0, "max_age_s": 3600.0, "lease_s": 10_000.0}, Cause.MAX_AGE),
    ],
)
def test_limits_end_it_without_anybody(limits: dict[str, float], cause: Cause) -> None:
    async def scenario(provider: SimulatedProvider, link: SimulatedLink) -> None:
        born = (await link.status()).born_at
        seen = await until(provider, "m-1", "deleted", DAY, pause=30)
        assert seen.cause is cause
        lived = provider.market.events[-1].at - born.timestamp()
        assert lived == pytest.approx(min(limits.values()), abs=CALM.load[1])
        with pytest.raises(Unhealthy):
            await link.status()

    linked(scenario, CALM, **limits)


def test_a_restart_does_not_renew_its_age() -> None:
    async def scenario(provider: SimulatedProvider, link: SimulatedLink) -> None:
        await anyio.sleep(HOUR)
        await provider.stop("m-1")
        await until(provider, "m-1", "off")
        await anyio.sleep(2 * HOUR)
        await provider.resume("m-1")
        seen = await until(provider, "m-1", "deleted", HOUR, pause=10)
        assert seen.cause is Cause.MAX_AGE

    linked(scenario, CALM, max_age_s=2 * HOUR)


def test_notice_is_given_before_a_spot_machine_goes() -> None:
    async def scenario(provider: SimulatedProvider, link: SimulatedLink) -> None:
        await probed(link)
        provider.market.preempt("m-1", timedelta(seconds=600))
        assert (await link.status()).cause is None
        await anyio.sleep(500)
        status = await link.status()
        assert (status.phase, status.cause) == ("draining", Cause.PREEMPTED)
        assert "preempted" in status.ends_at
        seen = await until(provider, "m-1", "deleted", HOUR, pause=10)
        assert seen.cause is Cause.PREEMPTED

    linked(scenario, CALM, OfferKind.SPOT)


def test_drain_ends_it_at_once_without_load_and_after_the_grace_with_it() -> None:
    async def scenario(provider: SimulatedProvider, link: SimulatedLink) -> None:
        await probed(link)
        began = anyio.current_time()
        await link.drain(timedelta(seconds=100))
        seen = await until(provider, "m-1", "deleted", HOUR, pause=10)
        assert seen.cause is Cause.USER
        took.append(anyio.current_time() - began)

    took: list[float] = []
    linked(scenario, CALM)
    linked(scenario, LOADED)
    assert took[0] < 15
    assert 95 < took[1] < 115


def test_end_is_repeatable() -> None:
    async def scenario(provider: SimulatedProvider, link: SimulatedLink) -> None:
        await link.end(Cause.IDLE)
        await link.end(Cause.USER)
        seen = await provider.get("m-1")
        assert seen is not None
        assert (seen.native_state, seen.cause) == ("deleted", Cause.IDLE)
        await link.aclose()

    linked(scenario)
