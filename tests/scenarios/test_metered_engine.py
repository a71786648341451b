"""On a real engine: what the meter counted, what the answers said and what the engine counted are the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest

from spotinfer.client.proxy.server import LocalProxy
from spotinfer.client.transport.metered import Metering
from spotinfer.client.transport.openai_clients import make_async_client, make_client
from spotinfer.client.transport.upstream import Upstream
from spotinfer.core.records import RequestRow
from spotinfer.core.secret import Secret
from spotinfer.ledger.tags import current_tag, tag
from support.llama import Counters, Llama, llama_server

pytestmark = pytest.mark.engine
pytest.importorskip("xllamacpp", reason="the extra `local` is not installed")

STREAMS = 200


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    folder: Path = tmp_path_factory.mktemp("llama")
    with llama_server(folder) as server:
        yield server


class Metered:
    """Rows since it was made, and by how much the engine's counters grew."""

    def __init__(self, llama: Llama) -> None:
        self.rows: list[RequestRow] = []
        metering = Metering("k1", self.rows.append, tag=current_tag)
        self.upstream = Upstream(endpoint=llama.endpoint, api_key=Secret("none"), metering=metering)
        self._llama = llama
        self._before = llama.counters()

    @property
    def counted(self) -> Counters:
        assert not any(row.estimated for row in self.rows)
        return Counters(
            sum(row.prompt_tokens for row in self.rows),
            sum(row.cached_tokens for row in self.rows),
            sum(row.completion_tokens for row in self.rows),
        )

    @property
    def grown(self) -> Counters:
        now, before = self._llama.counters(), self._before
        return Counters(now.prompt - before.prompt, now.cached - before.cached, now.completion - before.completion)


def ask(number: int) -> dict[str, Any]:
    """Prompts that share beginnings, so that the engine's cache is used, and answers of different lengths."""
    text = "Count with me. " * (number % 7) + f"From {number}."
    return {
        "model": "tiny",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 5 + number % 20,
        "stream": True,
        **({"stream_options": {"include_usage": True}} if number % 2 else {}),
    }


def told(usage: openai.types.CompletionUsage) -> Counters:
    details = usage.prompt_tokens_details
    return Counters(usage.prompt_tokens, (details and details.cached_tokens) or 0, usage.completion_tokens)


def test_200_concurrent_streams_agree_exactly(llama: Llama) -> None:
    metered = Metered(llama)
    answers: dict[str, Counters] = {}

    async def stream(client: openai.AsyncOpenAI, number: int) -> None:
        with tag(str(number)):
            async for chunk in await client.chat.completions.create(**ask(number)):
                assert chunk.choices or number % 2, "nobody sees a usage chunk that he did not ask for"
                if chunk.usage is not None:
                    answers[str(number)] = told(chunk.usage)

    async def main() -> None:
        async with make_async_client(metered.upstream) as client, anyio.create_task_group() as tasks:
            for number in range(STREAMS):
                tasks.start_soon(stream, client, number)

    anyio.run(main)
    rows = {row.tag: Counters(row.prompt_tokens, row.cached_tokens, row.completion_tokens) for row in metered.rows}
    assert len(metered.rows) == len(rows) == STREAMS
    assert {(row.status, row.stream) for row in metered.rows} == {("ok", True)}
    assert len(answers) == STREAMS // 2
    assert {number: rows[number] for number in answers} == answers
    assert all(rows[str(number)].completion == ask(number)["max_tokens"] for number in range(STREAMS))
    assert metered.counted == metered.grown
    assert metered.grown.cached > 0, "else this proves nothing about cached tokens"


def test_each_answers_own_usage_is_its_row(llama: Llama) -> None:
    metered = Metered(llama)
    with make_client(metered.upstream) as client:
        plain = [client.chat.completions.create(**{**ask(0), "max_tokens": n, "stream": False}).usage for n in (1, 4)]
        streamed = [list(client.chat.completions.create(**ask(n)))[-1].usage for n in (1, 3)]
        text = client.completions.create(model="tiny", prompt="Once", max_tokens=3).usage
        lines = list(client.completions.create(model="tiny", prompt="Once", max_tokens=3, stream=True))
        response = client.responses.create(model="tiny", input="Hello", max_output_tokens=3).usage
        events = list(client.responses.create(model="tiny", input="Hello", max_output_tokens=3, stream=True))
    assert response is not None
    for row, usage in zip(metered.rows, [*plain, *streamed, text, lines[-1].usage], strict=False):
        assert usage is not None
        assert (row.prompt_tokens, row.completion_tokens) == (usage.prompt_tokens, usage.completion_tokens)
    assert events[-1].type == "response.completed"
    assert [row.endpoint for row in metered.rows[-2:]] == ["/responses"] * 2
    assert (metered.rows[-2].prompt_tokens, metered.rows[-2].completion_tokens) == (response.input_tokens, 3)
    assert metered.counted == metered.grown


def test_traffic_of_the_loopback_proxy_is_metered_too(llama: Llama) -> None:
    metered = Metered(llama)

    async def main() -> None:
        async with LocalProxy(metered.upstream) as proxy:
            client = openai.AsyncOpenAI(base_url=proxy.url, api_key=proxy.key.reveal())

            async def stream(number: int) -> None:
                async for chunk in await client.chat.completions.create(**ask(number)):
                    assert chunk.choices or number % 2

            async with client, anyio.create_task_group() as tasks:
                for number in range(40):
                    tasks.start_soon(stream, number)

    anyio.run(main)
    assert len(metered.rows) == 40
    assert metered.counted == metered.grown


def test_a_stream_that_the_caller_stops_stops_the_engine_and_is_estimated(llama: Llama) -> None:
    metered = Metered(llama)
    with make_client(metered.upstream) as client:
        stream = client.chat.completions.create(**{**ask(0), "max_tokens": 400})
        got = [next(stream) for _ in range(10)]
        stream.close()
    (row,) = metered.rows
    assert (row.status, row.estimated) == ("cancelled", True)
    assert len(got) - 1 <= row.completion_tokens <= 400
    assert row.prompt_tokens > 0
