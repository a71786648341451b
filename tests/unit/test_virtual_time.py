"""The loop whose clock jumps, and the time of day that follows it."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from random import Random

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotinfer.core.clock import LoopClock, WallClock, utc
from spotinfer.core.virtual import run_virtual

DAY = 86400.0


def test_thirty_days_pass_at_once() -> None:
    async def month() -> float:
        for _ in range(30 * 24):
            await anyio.sleep(3600)
        return anyio.current_time()

    began = time.perf_counter()
    assert run_virtual(month) == pytest.approx(30 * DAY)
    assert time.perf_counter() - began < 0.5


def test_the_time_of_day_follows() -> None:
    async def look() -> tuple[datetime, datetime]:
        clock = LoopClock(datetime(2026, 2, 1, tzinfo=timezone.utc))
        first = clock.now()
        await anyio.sleep(28 * DAY)
        return first, clock.now()

    first, second = run_virtual(look)
    assert (first, second) == (datetime(2026, 2, 1, tzinfo=timezone.utc), datetime(2026, 3, 1, tzinfo=timezone.utc))


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=20))
def test_sleepers_wake_in_the_order_of_their_time(delays: list[int]) -> None:
    async def sleepers() -> list[tuple[float, int]]:
        woken: list[tuple[float, int]] = []

        async def sleeper(number: int, delay: int) -> None:
            await anyio.sleep(delay)
            woken.append((anyio.current_time(), number))

        async with anyio.create_task_group() as tasks:
            for number, delay in enumerate(delays):
                tasks.start_soon(sleeper, number, delay)
        return woken

    woken = run_virtual(sleepers)
    assert [delays[number] for _, number in woken] == sorted(delays)
    assert all(at == pytest.approx(delays[number]) for at, number in woken)
    assert woken == run_virtual(sleepers)


def test_deadlines_are_virtual_too() -> None:
    async def late() -> float:
        with pytest.raises(TimeoutError):
            with anyio.fail_after(DAY):
                await anyio.sleep(2 * DAY)
        with anyio.move_on_after(DAY) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        return anyio.current_time()

    assert run_virtual(late) == pytest.approx(2 * DAY)


def test_the_same_seed_tells_the_same_story() -> None:
    async def story(seed: int) -> list[tuple[float, int]]:
        random, told = Random(seed), list[tuple[float, int]]()

        async def hero(number: int) -> None:
            for _ in range(20):
                await anyio.sleep(random.expovariate(1 / 60))
                told.append((anyio.current_time(), number))

        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(hero, number)
        return told

    assert run_virtual(story, 1) == run_virtual(story, 1)
    assert run_virtual(story, 1) != run_virtual(story, 2)


def test_a_busy_loop_does_not_move_the_clock() -> None:
    async def busy() -> float:
        for _ in range(1000):
            await anyio.lowlevel.checkpoint()
        return anyio.current_time()

    assert run_virtual(busy) == 0.0


def test_errors_come_out() -> None:
    async def fails() -> None:
        await anyio.sleep(DAY)
        raise KeyError("out")

    with pytest.raises(KeyError, match="out"):
        run_virtual(fails)


def test_times_are_aware() -> None:
    assert WallClock().now().utcoffset() == timedelta(0)
    assert utc(0) == datetime(1970, 1, 1, tzinfo=timezone.utc)
