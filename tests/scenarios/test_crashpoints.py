"""kill -9 of the owner at every seam of a launch: whatever it left, `reap` finds and ends, and the books are right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from spotinfer.control.ending import end
from spotinfer.control.launch import launch
from spotinfer.control.reap import look, reap, sweep
from spotinfer.control.world import silent
from spotinfer.core.states import Cause, State
from support.worlds import local_world, machine_processes

pytestmark = [pytest.mark.engine, pytest.mark.slow]

SCRIPT = Path(__file__).parents[1] / "support" / "crash_launch.py"
STEP = 1
LAST = 46
"""More seams than a launch crosses when the engine starts quickly; a later one dies with the server ready."""


def die_at(home: Path, seam: int, mode: str) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(home), str(seam), mode],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    return done.stdout.strip()


async def _nothing_is_left(home: Path) -> None:
    async with local_world(home) as world:
        report = await reap(world, await look(world))
        assert report.failed == {}
        assert machine_processes(home) == []
        assert await world.ledger.records(live=True) == []
        assert list(world.keystore.keys()) == []


async def _ended_because_ready(home: Path) -> bool:
    """How many calls a launch makes depends on how fast it is; a detached server that was ready is not to be reaped."""
    async with local_world(home) as world:
        ready = [record for record in await world.ledger.records(live=True) if record.ready_at is not None]
        for record in ready:
            await end(world, record, Cause.USER)
        return bool(ready)


@pytest.mark.parametrize("seam", range(1, LAST, STEP))
def test_a_launch_killed_at_any_seam_is_reaped(tmp_path: Path, seam: int) -> None:
    die_at(tmp_path, seam, "attached")
    anyio.run(_nothing_is_left, tmp_path)


@pytest.mark.parametrize("seam", range(3, LAST, 5))
def test_a_detached_launch_killed_on_the_way_is_reaped(tmp_path: Path, seam: int) -> None:
    said = die_at(tmp_path, seam, "detached")
    if anyio.run(_ended_because_ready, tmp_path):
        pytest.skip(f"the launch was over by then, so the server rightly ran on: {said}")
    anyio.run(_nothing_is_left, tmp_path)


def test_a_detached_server_outlives_its_launcher_and_is_ended_by_name(tmp_path: Path) -> None:
    assert die_at(tmp_path, 10_000, "detached").startswith("done")

    async def scenario() -> None:
        async with local_world(tmp_path) as world:
            report = await reap(world, await look(world))
            assert report.ended == ()
            [record] = await world.ledger.records(live=True)
            assert record.state is State.READY
            assert machine_processes(tmp_path) != []
            await end(world, record, Cause.USER)
            assert machine_processes(tmp_path) == []

    anyio.run(scenario)


def test_the_next_launch_ends_what_a_killed_owner_left_and_may_take_its_name(tmp_path: Path) -> None:
    from support.worlds import local_order

    assert die_at(tmp_path, 10_000, "attached").startswith("done")

    async def scenario() -> None:
        async with local_world(tmp_path) as world:
            await sweep(world)
            launched = await launch(world, await local_order(world, tmp_path), silent)
            assert len(await world.ledger.records(live=True)) == 1
            await end(world, launched.record, Cause.USER)
            await launched.link.aclose()
            assert machine_processes(tmp_path) == []

    anyio.run(scenario)
