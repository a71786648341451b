from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator

import anyio
import pytest

from spotinfer.client.session.portal import Portal
from spotinfer.core.errors import ConfigError


@pytest.fixture
def portal() -> Iterator[Portal]:
    portal = Portal()
    yield portal
    portal.close()


class Launch:
    """Stands for work that must clean up: ``ended`` only after the shielded part."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.ended = False

    async def __call__(self) -> None:
        self.started.set()
        try:
            await anyio.sleep(30)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.2)
            self.ended = True


async def answer() -> int:
    await anyio.sleep(0)
    return 42


def test_it_works_without_and_within_a_running_loop(portal: Portal) -> None:
    async def cell() -> int:
        return portal.call(answer)

    assert portal.call(answer) == 42
    assert asyncio.run(cell()) == 42


def test_the_async_way_leaves_the_callers_loop_free(portal: Portal) -> None:
    async def both() -> tuple[int, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        async def slow() -> int:
            await anyio.sleep(0.3)
            return 7

        ticking = asyncio.create_task(tick())
        result = await portal.acall(slow)
        ticking.cancel()
        return result, ticks

    result, ticks = asyncio.run(both())
    assert result == 7
    assert ticks > 5


def test_an_error_comes_through_as_the_same_object(portal: Portal) -> None:
    error = ValueError("mine")

    async def fail() -> None:
        raise error

    with pytest.raises(ValueError) as caught:
        portal.call(fail)
    assert caught.value is error

    async def both() -> None:
        await portal.acall(fail)

    with pytest.raises(ValueError) as caught:
        asyncio.run(both())
    assert caught.value is error


def test_ctrl_c_cancels_and_waits_for_the_clean_up(portal: Portal) -> None:
    work = Launch()

    def interrupt() -> None:
        work.started.wait()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        portal.call(work)
    assert work.ended


def test_a_cancelled_task_waits_for_the_clean_up(portal: Portal) -> None:
    work = Launch()

    async def cancelled() -> None:
        with anyio.move_on_after(0.1):
            await portal.acall(work)
        assert work.ended

    asyncio.run(cancelled())


@pytest.mark.parametrize("how", ["sync", "async"])
def test_what_was_done_when_the_wait_broke_is_undone(portal: Portal, how: str) -> None:
    undone: list[int] = []

    async def stubborn() -> int:
        if how == "sync":
            os.kill(os.getpid(), signal.SIGINT)
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.2)
        return 42

    async def undo(value: int) -> None:
        undone.append(value)

    async def cancelled() -> None:
        with anyio.move_on_after(0.05):
            await portal.acall(stubborn, undo=undo)

    if how == "async":
        asyncio.run(cancelled())
    else:
        with pytest.raises(KeyboardInterrupt):
            portal.call(stubborn, undo=undo)
    assert undone == [42]


def test_a_sync_call_from_its_own_loop_is_refused_instead_of_hanging(portal: Portal) -> None:
    async def nested() -> int:
        return portal.call(answer)

    with pytest.raises(ConfigError, match="own loop"):
        portal.call(nested)


def test_a_forked_child_starts_a_loop_of_its_own(portal: Portal) -> None:
    assert portal.call(answer) == 42
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # since 3.12 a fork beside threads warns: it is what we try
        child = os.fork()
    if child == 0:
        try:
            os._exit(0 if portal.call(answer) == 42 else 1)
        finally:
            os._exit(2)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0
            return
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")
