"""The simulated market: the same for one seed, fair in its bills, unkind as configured."""

from __future__ import annotations

import dataclasses
import math
import time
from datetime import datetime, timezone
from decimal import Decimal

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotinfer.core.clock import LoopClock, WallClock, utc
from spotinfer.core.errors import (
    ConfigError,
    NoCapacity,
    NotSupported,
    OfferGone,
    Outbid,
    OutcomeUnknown,
    ProviderUnavailable,
    RateLimited,
    UnknownName,
)
from spotinfer.core.model import Billing, OfferKind, Want
from spotinfer.core.states import Cause, State
from spotinfer.providers.simulated.adapter import SimulatedProvider
from spotinfer.providers.simulated.config import MarketConfig
from support.markets import DAY, HOUR, offer_of, simulate, spec, until

EPOCH = datetime(2020, 1, 1, tzinfo=timezone.utc)
CALM = MarketConfig(preemptions_per_day=0.0, volatility=0.0)


# --- one seed, one world ---------------------------------------------------------------------------------------------


async def month(provider: SimulatedProvider) -> list[object]:
    """Twenty machines, looked at every ten minutes."""
    offers = await provider.list_offers(Want())
    for number in range(20):
        await provider.create(spec(f"si-{number}", offers[number % len(offers)]))
    for _ in range(30 * 24 * 6):
        await anyio.sleep(600)
        await provider.list_owned("me")
    return [*provider.market.events, *await provider.charges(EPOCH)]


def test_a_month_of_twenty_servers_is_cheap_and_repeats_itself() -> None:
    began = time.process_time()
    first = simulate(month)
    assert time.process_time() - began < 3, "a month must not take its time"
    assert len(first) > 60
    assert simulate(month) == first


def test_other_seeds_are_other_worlds() -> None:
    async def prices(provider: SimulatedProvider) -> list[Decimal | None]:
        await provider.list_offers(Want())
        await anyio.sleep(DAY)
        return [offer.per_hour for offer in await provider.list_offers(Want())]

    assert simulate(prices, seed=1) == simulate(prices, seed=1) != simulate(prices, seed=2)


def test_looking_changes_nothing() -> None:
    async def fate(provider: SimulatedProvider, pause: float, others: int) -> list[object]:
        offer = await offer_of(provider, OfferKind.SPOT)
        for number in range(others):
            await provider.create(spec(f"si-other-{number}", offer))
        began = provider.market.now()
        mine = await provider.create(spec("si-mine", offer))
        while anyio.current_time() < 20 * DAY:
            await anyio.sleep(pause)
            await provider.list_owned("me")
        events = [event for event in provider.market.events if event.machine == mine.id]
        return [(round(event.at - began, 6), event.native, event.cause) for event in events]

    often = simulate(lambda provider: fate(provider, 60, 0))
    seldom = simulate(lambda provider: fate(provider, 3 * DAY, 3))
    assert [row[1:] for row in often] == [row[1:] for row in seldom]  # type: ignore[index]
    assert [row[0] for row in often] == pytest.approx([row[0] for row in seldom], abs=1)  # type: ignore[index]
    assert often[-1][2] is Cause.PREEMPTED  # type: ignore[index]


def test_prices_move_in_steps_and_stay_sane() -> None:
    async def walk(provider: SimulatedProvider) -> None:
        seen: dict[str, set[Decimal]] = {}
        for _ in range(500):
            for offer in await provider.list_offers(Want()):
                assert offer.per_hour is not None
                seen.setdefault(offer.id, set()).add(offer.per_hour)
                assert offer.expires_at is not None
                assert offer.expires_at > utc(provider.market.now())
            await anyio.sleep(HOUR)
        for listing in provider.market.config.catalogue:
            moved = len(seen[listing.id])
            assert moved == 1 if listing.kind is OfferKind.ON_DEMAND else moved > 50
            assert all(listing.per_hour / 3 < price < listing.per_hour * 4 for price in seen[listing.id])

    simulate(walk)


# --- bills -----------------------------------------------------------------------------------------------------------


@given(
    seconds=st.floats(1, 40 * HOUR), granularity=st.sampled_from([1, 60, 3600]), minimum=st.sampled_from([0, 60, 600])
)
def test_an_on_demand_bill_is_whole_units_at_one_price(seconds: float, granularity: int, minimum: int) -> None:
    config = MarketConfig(billing=Billing(granularity=granularity, minimum=minimum))

    async def bill(provider: SimulatedProvider) -> None:
        offer = await offer_of(provider, OfferKind.ON_DEMAND)
        made = await provider.create(spec("si-1", offer))
        await anyio.sleep(seconds)
        await provider.terminate(made.id)
        await anyio.sleep(HOUR)
        (charge,) = await provider.charges(EPOCH)
        lived = (charge.end - charge.start).total_seconds()
        assert seconds < lived < seconds + 10
        billed = max(math.ceil(lived / granularity) * granularity, minimum)
        assert offer.per_hour is not None
        assert charge.amount == pytest.approx(offer.per_hour * billed / 3600, abs=Decimal("0.00001"))
        await anyio.sleep(DAY)
        assert list(await provider.charges(EPOCH)) == [charge]
        assert list(await provider.charges(charge.end)) == []

    simulate(bill, config)


def test_a_spot_bill_follows_the_market_price() -> None:
    config = MarketConfig(preemptions_per_day=0.0, latency=0.0, billing=Billing(granularity=1, minimum=0))

    async def bill(provider: SimulatedProvider) -> None:
        made = await provider.create(spec("si-1", await offer_of(provider, OfferKind.SPOT)))
        expected = Decimal(0)
        for _ in range(200):
            seen = await provider.get(made.id)
            assert seen is not None
            assert seen.per_hour is not None
            expected += seen.per_hour / 6
            await anyio.sleep(600)
        (charge,) = await provider.charges(EPOCH)
        assert charge.amount == pytest.approx(expected, abs=Decimal("0.0001"))

    simulate(bill, config)


def test_a_stopped_machine_bills_its_disk() -> None:
    async def bill(provider: SimulatedProvider) -> None:
        made = await provider.create(spec("si-1", await offer_of(provider, OfferKind.ON_DEMAND)))
        await until(provider, made.id, "running")
        await provider.stop(made.id)
        stopped = await until(provider, made.id, "off")
        assert stopped.per_hour == CALM.stopped_per_hour
        await anyio.sleep(100 * HOUR)
        disk = (await provider.charges(EPOCH))[1]
        assert disk.amount == pytest.approx(Decimal(1), abs=Decimal("0.001"))
        await provider.resume(made.id)
        await until(provider, made.id, "running")
        assert len(await provider.charges(EPOCH)) == 3

    simulate(bill, CALM)


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_an_interruptible_machine_is_outbid_when_the_price_passes_its_bid() -> None:
    async def auction(provider: SimulatedProvider) -> None:
        offer = await offer_of(provider, OfferKind.INTERRUPTIBLE)
        made = await provider.create(spec("si-1", offer))
        seen = await until(provider, made.id, "outbid", pause=300)
        assert (seen.state, seen.cause) == (State.STOPPED, Cause.OUTBID)
        assert offer.per_hour is not None
        with pytest.raises(Outbid):
            await provider.resume(made.id)
        with pytest.raises(Outbid):
            await provider.create(spec("si-2", offer))
        for _ in range(1000):
            now = await offer_of(provider, OfferKind.INTERRUPTIBLE)
            assert now.per_hour is not None
            if now.per_hour / provider.market.config.bid_headroom <= offer.per_hour:
                break
            await anyio.sleep(HOUR)
        await provider.resume(made.id)
        await until(provider, made.id, "running")

    simulate(auction)


def test_a_spot_machine_is_taken_back() -> None:
    async def loss(provider: SimulatedProvider) -> None:
        made = await provider.create(spec("si-1", await offer_of(provider, OfferKind.SPOT)))
        seen = await until(provider, made.id, "deleted", 60 * DAY, pause=300)
        assert (seen.state, seen.cause) == (State.TERMINATED, Cause.PREEMPTED)
        assert await provider.list_owned("me") == []
        await anyio.sleep(provider.market.config.retention)
        assert await provider.get(made.id) is None

    simulate(loss)


def test_a_machine_that_never_boots_bills_all_the_same() -> None:
    async def stuck(provider: SimulatedProvider) -> None:
        made = await provider.create(spec("si-1", await offer_of(provider, OfferKind.ON_DEMAND)))
        await anyio.sleep(DAY)
        seen = await provider.get(made.id)
        assert seen is not None
        assert (seen.state, dict(seen.endpoints)) == (State.PROVISIONING, {})
        (charge,) = await provider.charges(EPOCH)
        assert charge.amount > 10
        await provider.terminate(made.id)
        await until(provider, made.id, "deleted")

    simulate(stuck, MarketConfig(boot_failure=1.0))


def test_lost_answers_and_lost_requests_look_the_same_to_the_caller() -> None:
    async def lost(provider: SimulatedProvider) -> list[str]:
        offer = await offer_of(provider, OfferKind.ON_DEMAND)
        with pytest.raises(OutcomeUnknown):
            await provider.create(spec("si-1", offer))
        return [instance.key for instance in await provider.list_owned("me")]

    assert simulate(lost, MarketConfig(lost_answers=1.0)) == ["si-1"]
    assert simulate(lost, MarketConfig(lost_requests=1.0)) == []


def test_capacity_runs_out_and_comes_back() -> None:
    async def buy(provider: SimulatedProvider) -> None:
        offer = await offer_of(provider, OfferKind.ON_DEMAND)
        made = [await provider.create(spec(f"si-{number}", offer)) for number in range(16)]
        with pytest.raises(NoCapacity):
            await provider.create(spec("si-16", offer))
        assert offer.id not in {left.id for left in await provider.list_offers(Want())}
        await provider.terminate(made[0].id)
        await anyio.sleep(10)
        await provider.create(spec("si-16", offer))

    simulate(buy, CALM)


def test_scarce_markets_sell_sometimes() -> None:
    async def shop(provider: SimulatedProvider) -> float:
        on_sale = 0
        for _ in range(200):
            await anyio.sleep(HOUR)
            on_sale += len(await provider.list_offers(Want()))
        return on_sale / 200 / len(provider.market.config.catalogue)

    assert simulate(shop, MarketConfig(scarcity=0.3)) == pytest.approx(0.7, abs=0.05)


def test_calls_are_limited_and_fail_as_configured() -> None:
    async def hurry(provider: SimulatedProvider) -> None:
        for _ in range(10):
            await provider.check()
        with pytest.raises(RateLimited) as caught:
            await provider.check()
        assert caught.value.retry_after is not None
        await anyio.sleep(caught.value.retry_after)
        await provider.check()

    simulate(hurry, MarketConfig(calls_per_minute=10))

    async def unlucky(provider: SimulatedProvider) -> int:
        failed = 0
        for _ in range(500):
            try:
                await provider.list_owned("me")
            except ProviderUnavailable:
                failed += 1
        return failed

    assert 60 < simulate(unlucky, MarketConfig(unavailable=0.2)) < 140


def test_what_is_not_on_sale_or_gone_is_refused() -> None:
    async def refused(provider: SimulatedProvider) -> None:
        offer = await offer_of(provider, OfferKind.ON_DEMAND)
        with pytest.raises(OfferGone):
            await provider.create(spec("si-1", dataclasses.replace(offer, id="yesterday")))
        with pytest.raises(NotSupported):
            await provider.stop("m-404")

    simulate(refused)


def test_offers_are_filtered_by_kind_and_region() -> None:
    async def look(provider: SimulatedProvider) -> None:
        want = Want(kinds=frozenset({OfferKind.SPOT}), regions=frozenset({"sim-2"}))
        found = await provider.list_offers(want)
        assert found
        assert {(offer.kind, offer.region) for offer in found} == {(OfferKind.SPOT, "sim-2")}

    simulate(look)


def test_options() -> None:
    provider = SimulatedProvider.from_options({"seed": 3, "scarcity": 0.5, "latency": 1}, clock=LoopClock())
    assert (provider.market.config.scarcity, provider.market.config.latency) == (0.5, 1.0)
    with pytest.raises(UnknownName, match="did you mean 'scarcity'"):
        SimulatedProvider.from_options({"scarcit": 0.5}, clock=WallClock())
    for wrong in ({"seed": "x"}, {"scarcity": -1}, {"scarcity": "much"}, {"config": {}}):
        with pytest.raises(ConfigError):
            SimulatedProvider.from_options(wrong, clock=WallClock())
