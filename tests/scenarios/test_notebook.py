"""In a real Jupyter kernel, where an event loop is running already and cells may block it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agents import eventually
from support.homes import apart, client_at, nothing_left
from support.notebooks import Kernel, running

pytestmark = pytest.mark.engine

START = """
import asyncio, time
from datetime import timedelta
import spotinfer
from spotinfer.client import options

def body(server):
    return dict(model=server.model, messages=[{"role": "user", "content": "Hello"}], max_tokens=4)

async def tick(ticks):
    while True:
        ticks.append(time.monotonic())
        await asyncio.sleep(0.01)

asyncio.get_running_loop().is_running()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("notebook")
    with apart(path, SPOTINFER_PROGRESS="auto"):
        yield path


@pytest.fixture(scope="module")
def kernel(folder: Path) -> Iterator[Kernel]:
    with running() as kernel:
        assert kernel.run(START).text == "True"
        yield kernel
    nothing_left(folder / "home")


def test_a_sync_launch_under_the_running_loop(kernel: Kernel, folder: Path) -> None:
    launched = kernel.run("server = spotinfer.launch('tiny', name='one'); server")
    assert (launched.error, launched.text[:19]) == (None, "<Server 'one' ready")
    assert "<b>one</b> (ready)" in launched.html
    assert "ready" in launched.display
    asked = kernel.run("server.client.chat.completions.create(**body(server)).usage.completion_tokens")
    assert asked.text == "4"
    meter = kernel.run("server.meter")
    assert meter.text.startswith("<Meter one: owned, no price set accrued")
    assert "<table>" in meter.html
    assert "no price set" in meter.html
    with client_at(folder / "home") as client:  # what the notebook did is in everybody's meter
        assert client.meter("one").snapshot().requests == 1
    assert kernel.run("server.terminate(); str(server.state)").text == "'terminated'"
    nothing_left(folder / "home")


def test_an_async_launch_leaves_the_loop_free(kernel: Kernel, folder: Path) -> None:
    launched = kernel.run(
        """
ticks = []
ticking = asyncio.get_running_loop().create_task(tick(ticks))
start = time.monotonic()
server = await spotinfer.alaunch("tiny", name="two")
took = time.monotonic() - start
reply = await server.aclient.chat.completions.create(**body(server))
ticking.cancel()
longest = max(b - a for a, b in zip(ticks, ticks[1:]))
(reply.usage.completion_tokens, len(ticks) > 10, longest < took / 2)
"""
    )
    assert (launched.error, launched.text) == (None, "(4, True, True)")
    assert "ready" in launched.display
    assert kernel.run("server").text.startswith("<AsyncServer 'two' ready")
    kernel.run("await server.terminate()")
    nothing_left(folder / "home")


def test_a_cell_that_blocks_longer_than_the_lease_does_not_end_the_server(kernel: Kernel, folder: Path) -> None:
    """The lease is five minutes; here it is made short, by the constant that the launch reads."""
    kernel.run("lease, options.LEASE = options.LEASE, timedelta(seconds=2)")
    launched = kernel.run("server = await spotinfer.alaunch('tiny', name='three')")
    assert launched.error is None
    kernel.run("time.sleep(5)")
    asked = kernel.run("(await server.aclient.chat.completions.create(**body(server))).usage.completion_tokens")
    assert asked.text == "4"
    kernel.run("await server.terminate(); options.LEASE = lease")
    nothing_left(folder / "home")


@pytest.mark.parametrize("how", ["spotinfer.launch('tiny')", "await spotinfer.alaunch('tiny')"])
def test_a_launch_that_is_interrupted_leaves_nothing(kernel: Kernel, folder: Path, how: str) -> None:
    machines = folder / "home" / "local" / "machines"
    stopped = kernel.run_and_interrupt(how, lambda: list(machines.glob("*/agent.zip")))
    assert stopped.error in ("KeyboardInterrupt", "CancelledError")
    eventually(lambda: not list(machines.iterdir()), 10)
    nothing_left(folder / "home")
    assert kernel.run("1 + 1").text == "2"
