"""What a server object can do, on a real engine, through the public interface."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import anyio
import httpx2
import pytest

from spotinfer import AsyncClient, AsyncServer, Cause, Client, Settings, State
from spotinfer.core.errors import NotSupported, UnknownName
from spotinfer.ledger.metering.snapshot import LineKind
from support.worlds import machine_processes

pytestmark = pytest.mark.engine

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[Client]:
    with Client(Settings.load(home=home, local_price_per_hour="0.36"), progress="none") as client:
        yield client
    assert machine_processes(home) == []


def test_running_requests_finish_before_a_drained_server_ends(client: Client) -> None:
    with client.launch("tiny", name="drained") as server:
        stream = server.client.chat.completions.create(model=server.model, messages=HELLO, max_tokens=1500, stream=True)
        first = next(stream)
        draining = threading.Thread(target=server.drain, args=(timedelta(seconds=30),))
        draining.start()
        rest = list(stream)
        draining.join()
        assert first.choices
        assert rest[-1].choices[0].finish_reason in ("length", "stop")
        assert (server.state, server.cause) == (State.TERMINATED, Cause.USER)
        snapshot = server.meter.snapshot()
        assert (snapshot.ok, snapshot.requests) == (1, 1)


def test_an_idle_server_ends_and_whoever_waits_is_told_why(client: Client) -> None:
    with client.launch("tiny", name="idle", idle_timeout=2) as server:
        record = server.wait_ended()
        assert (record.state, record.cause) == (State.TERMINATED, Cause.IDLE)
        assert any("idle" in line for line in server.logs(50))
    assert any("idle" in line for line in client.logs("idle"))


def test_a_plan_explains_itself_and_can_be_launched(client: Client) -> None:
    plan = client.plan("tiny")
    assert "llamacpp" in plan.explain()
    assert "$0.36 an hour" in plan.explain()
    with client.launch(plan, name="planned") as server:
        assert server.engine == "llamacpp"
    assert server.state is State.TERMINATED


def test_two_handles_share_a_server_and_only_the_owner_ends_it(client: Client) -> None:
    with client.launch("tiny", name="shared") as owner:
        with client.connect("shared") as guest:
            guest.client.completions.create(model=guest.model, prompt="hi", max_tokens=2)
        assert owner.state is State.READY
        owner.client.completions.create(model=owner.model, prompt="hi", max_tokens=2)
        assert owner.meter.snapshot().requests == 2
    assert owner.state is State.TERMINATED


def test_a_detached_server_stays_until_it_is_ended_by_name(home: Path) -> None:
    settings = Settings.load(home=home)
    with Client(settings, progress="none") as first, first.launch("tiny", name="detached", detach=True) as server:
        assert server.state is State.READY
    assert machine_processes(home) != []
    with Client(settings, progress="none") as second:
        assert [info.record.name for info in second.servers()] == ["detached"]
        assert second.terminate("detached").state is State.TERMINATED
        assert second.servers() == []
        with pytest.raises(UnknownName):
            second.connect("detached")
    assert machine_processes(home) == []


def test_what_cannot_be_stopped_and_kept_says_what_to_do(client: Client) -> None:
    with client.launch("tiny", name="stopped") as server, pytest.raises(NotSupported, match="spotinfer terminate"):
        server.stop()


def test_the_meter_knows_the_price_of_owned_hardware(client: Client) -> None:
    with client.launch("tiny", name="priced") as server:
        with server.meter.tag("greeting"):
            server.client.chat.completions.create(model=server.model, messages=HELLO, max_tokens=4)
        snapshot = server.meter.snapshot()
        assert snapshot.price_known
        assert snapshot.accrued is not None
        assert snapshot.accrued > 0
        assert sum(line.amount for line in snapshot.lines) == snapshot.accrued
        assert "greeting" in str(server.meter)
        assert "$" in str(server.meter)


def test_the_async_face_does_the_same(home: Path) -> None:
    async def scenario() -> None:
        async with AsyncClient(Settings.load(home=home), progress="none") as client:
            async with client.launch("tiny", name="async") as server:
                reply = await server.aclient.chat.completions.create(model=server.model, messages=HELLO, max_tokens=4)
                assert reply.usage is not None
                url = await server.local_url()
                assert url.url.startswith("http://127.0.0.1:")
                assert await server.logs(5)
                async with await client.connect("async") as guest:
                    assert guest.name == "async"
                assert server.state is State.READY
                meter = await client.meter("async")
                assert meter.snapshot().completion_tokens == reply.usage.completion_tokens
            assert server.state is State.TERMINATED

    asyncio.run(scenario())


def test_many_launches_at_once_do_not_disturb_each_other(home: Path) -> None:
    async def scenario() -> None:
        async with AsyncClient(Settings.load(home=home), progress="none") as client:

            async def one(name: str) -> None:
                async with client.launch("tiny", name=name) as server:
                    await server.aclient.completions.create(model=server.model, prompt=name, max_tokens=2)

            async with anyio.create_task_group() as tasks:
                for number in range(4):
                    tasks.start_soon(one, f"many-{number}")
            assert await client.servers() == []

    asyncio.run(scenario())


def test_a_request_after_a_stream_never_meets_a_connection_that_is_closing(client: Client) -> None:
    """llama.cpp closes after a stream without saying so; without openai's retries every request must still succeed."""
    with client.launch("tiny", name="closing") as server:
        openai_client = server.client.with_options(max_retries=0)
        for _ in range(15):
            chunks = list(openai_client.completions.create(model=server.model, prompt="hi", max_tokens=2, stream=True))
            reply = openai_client.completions.create(model=server.model, prompt="hi", max_tokens=2)
            assert chunks
            assert reply.usage is not None


def test_200_concurrent_streams_agree_with_the_meter_and_with_the_engine(home: Path) -> None:
    """The whole road: the real client, mutual TLS, the agent's relay, llama.cpp, the ledger, the meter."""

    async def scenario() -> None:
        async with (
            AsyncClient(Settings.load(home=home), progress="none") as client,
            client.launch("tiny", name="crowd") as server,
        ):
            told = [0, 0, 0]

            async def one(number: int) -> None:
                stream = await server.aclient.chat.completions.create(
                    model=server.model,
                    messages=[{"role": "user", "content": f"Hello for the {number % 20}th time"}],
                    max_tokens=4 + number % 7,
                    stream=True,
                    stream_options={"include_usage": True},
                )
                async for chunk in stream:
                    if chunk.usage is not None:
                        details = chunk.usage.prompt_tokens_details
                        told[0] += chunk.usage.prompt_tokens
                        told[1] += details.cached_tokens or 0 if details else 0
                        told[2] += chunk.usage.completion_tokens

            async with anyio.create_task_group() as tasks:
                for number in range(200):
                    tasks.start_soon(one, number)
            snapshot = await server.meter.asnapshot()
            assert (snapshot.requests, snapshot.ok, snapshot.estimated) == (200, 200, 0)
            metered = (snapshot.prompt_tokens, snapshot.cached_tokens, snapshot.completion_tokens)
            assert metered == tuple(told)
            assert metered == await engine_says(server)

    asyncio.run(scenario())


async def engine_says(server: AsyncServer) -> tuple[int, int, int]:
    """The engine's own counters less the readiness probe: prompt (processed and cached), cached, generated."""
    text = (await server.aclient.get(f"https://{server.endpoint}/metrics", cast_to=httpx2.Response)).text
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("llamacpp:"))
    processed, cached, generated = (
        int(float(found[f"llamacpp:{name}"]))
        for name in ("prompt_tokens_total", "prompt_tokens_cached_total", "tokens_predicted_total")
    )
    probe = next(line for line in (await server.meter.asnapshot()).lines if line.kind is LineKind.PROBE)
    return processed + cached - probe.prompt_tokens, cached, generated - probe.completion_tokens
