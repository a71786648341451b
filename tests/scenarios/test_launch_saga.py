"""The saga on real parts: SQLite, this computer, the agent, llama.cpp. No fake anywhere."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import anyio
import pytest

from spotinfer.control.ending import end
from spotinfer.control.launch import launch
from spotinfer.control.reap import look, reap
from spotinfer.control.world import silent
from spotinfer.core.errors import BootTimeout, NameTaken, PortTaken, StartFailed
from spotinfer.core.model import EngineSettings, Limits, Phase, Progress
from spotinfer.core.states import Cause, State
from support.worlds import local_order, local_world, machine_processes

pytestmark = pytest.mark.engine


def test_a_launch_ends_with_a_token_and_its_end_with_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with local_world(tmp_path) as world:
            seen: list[Progress] = []
            launched = await launch(world, await local_order(world, tmp_path), seen.append)
            assert launched.record.state is State.READY
            assert [item.phase for item in seen][-1] is Phase.READY
            assert len(machine_processes(tmp_path)) >= 2  # the agent and the engine
            record = await end(world, launched.record, Cause.USER)
            await launched.link.aclose()
            assert (record.state, record.cause) == (State.TERMINATED, Cause.USER)
            assert machine_processes(tmp_path) == []
            assert list(world.keystore.keys()) == []
            [history] = await world.ledger.histories()
            states = [move.after for move in history.transitions if move.after is not State.PLANNED]
            assert states == [
                State.REQUESTED,
                State.PROVISIONING,
                State.BOOTING,
                State.LOADING,
                State.READY,
                State.TERMINATING,
                State.TERMINATED,
            ]
            [probe] = history.requests
            assert probe.probe
            assert probe.completion_tokens == 1

    anyio.run(scenario)


LOADING = {Phase.WEIGHTS, Phase.PROFILING, Phase.PROBE}
"""A quick engine may be past its weights when it is looked at first."""


@pytest.mark.parametrize("phases", [{Phase.RENT}, {Phase.BOOT}, LOADING], ids=["rent", "boot", "loading"])
def test_a_launch_that_is_cancelled_leaves_nothing(tmp_path: Path, phases: set[Phase]) -> None:
    async def scenario() -> None:
        async with local_world(tmp_path) as world:
            with anyio.CancelScope() as scope:

                def cancel_at(progress: Progress) -> None:
                    if progress.phase in phases:
                        scope.cancel()

                await launch(world, await local_order(world, tmp_path), cancel_at)
            assert scope.cancelled_caught
            assert machine_processes(tmp_path) == []
            assert await world.ledger.records(live=True) == []
            for record in await world.ledger.records():
                assert record.cause is Cause.INTERRUPTED

    anyio.run(scenario)


def test_a_model_that_the_engine_refuses_is_a_typed_error_with_its_log(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"

    async def scenario() -> None:
        async with local_world(tmp_path) as world:
            order = await local_order(world, tmp_path)
            [candidate] = order.candidates
            assert candidate.model.path is not None
            broken.write_bytes(Path(candidate.model.path).read_bytes()[:200_000])  # its weights are cut off
            order = replace(order, candidates=(replace(candidate, model=replace(candidate.model, path=str(broken))),))
            with pytest.raises(StartFailed) as caught:
                await launch(world, order, silent)
            assert caught.value.hint
            assert caught.value.log
            assert machine_processes(tmp_path) == []
            [record] = await world.ledger.records()
            assert (record.state, record.cause) == (State.TERMINATED, Cause.ENGINE_FAILED)

    anyio.run(scenario)


def test_a_port_that_is_taken_is_a_typed_error_and_leaves_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with local_world(tmp_path) as world, await anyio.create_tcp_listener(local_host="127.0.0.1") as taken:
            port = taken.listeners[0].extra(anyio.abc.SocketAttribute.local_port)
            with pytest.raises(PortTaken) as caught:
                await launch(world, await local_order(world, tmp_path, port=port), silent)
            assert str(port) in str(caught.value)
            assert caught.value.hint
            assert machine_processes(tmp_path) == []

    anyio.run(scenario)


def test_a_name_is_launched_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with local_world(tmp_path) as world:
            order = await local_order(world, tmp_path)
            first = await launch(world, order, silent)
            with pytest.raises(NameTaken):
                await launch(world, order, silent)
            assert len(await world.ledger.records(live=True)) == 1
            assert list(world.keystore.keys()) == [first.record.key]
            await end(world, first.record, Cause.USER)
            await first.link.aclose()

    anyio.run(scenario)


def test_a_launch_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with local_world(tmp_path) as world:
            with pytest.raises(BootTimeout, match=r"0\.1 s"):
                await launch(world, await local_order(world, tmp_path, timeout=0.1), silent)
            assert machine_processes(tmp_path) == []
            assert await world.ledger.records(live=True) == []

    anyio.run(scenario)


def test_a_budget_ends_the_machine_without_its_owner(tmp_path: Path) -> None:
    """At $3.60 an hour a tenth of a cent lasts one second; the agent keeps the limit, nobody renews or watches."""

    async def scenario() -> None:
        async with local_world(tmp_path, price=Decimal("3.60")) as world:
            limits = Limits(lease=None, idle=None, max_age=None, budget=Decimal("0.001"))
            order = await local_order(world, tmp_path, limits=limits, detached=True)
            launched = await launch(world, order, silent)
            await launched.link.aclose()
            with anyio.fail_after(15):
                while machine_processes(tmp_path):
                    await anyio.sleep(0.1)
            report = await reap(world, await look(world))
            assert report.failed == {}
            [record] = await world.ledger.records()
            assert (record.state, record.cause) == (State.TERMINATED, Cause.BUDGET)

    anyio.run(scenario)


def test_an_option_that_the_engine_does_not_know_is_a_typed_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with local_world(tmp_path) as world:
            order = await local_order(world, tmp_path, settings=EngineSettings(extra=("--no-such-option", "1")))
            with pytest.raises(StartFailed) as caught:
                await launch(world, order, silent)
            assert "no" in caught.value.message
            assert caught.value.hint
            assert machine_processes(tmp_path) == []

    anyio.run(scenario)


def test_what_its_lease_ended_is_recorded_as_that(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with local_world(tmp_path) as world:
            order = await local_order(world, tmp_path, limits=Limits(lease=timedelta(seconds=1.5)))
            launched = await launch(world, order, silent)
            await launched.link.aclose()
            with anyio.fail_after(15):
                while machine_processes(tmp_path):
                    await anyio.sleep(0.1)
            await reap(world, await look(world))
            record = await world.ledger.record(launched.record.key)
            assert record is not None
            assert (record.state, record.cause) == (State.TERMINATED, Cause.LEASE_LAPSED)

    anyio.run(scenario)
