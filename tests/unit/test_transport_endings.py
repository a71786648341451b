"""One row for every request, however it ends, and nothing for the caller to notice."""

from __future__ import annotations

import gc
import json
import logging
from typing import Any

import anyio
import httpx2
import openai
import pytest

from spotinfer.client.transport.metered import MeteredTransport, Metering
from spotinfer.core.records import RequestRow
from support.streams import USAGE, Blocks, Clients, Server, answer, chunk, sse

MESSAGES: Any = [{"role": "user", "content": "x" * 400}]
JSON = {"content-type": "application/json"}
HEAD = sse([chunk({"role": "assistant", "content": ""}), chunk({"content": "a"}), chunk({"content": "b"})])


def stream_with(*blocks: bytes | BaseException) -> Clients:
    return Clients(Server(lambda _: blocks))


def read(clients: Clients) -> None:
    list(clients.metered.chat.completions.create(model="m", messages=MESSAGES, stream=True))


def test_closed_early_by_the_caller_is_cancelled_and_estimated() -> None:
    server = Server(lambda _: [HEAD, sse(answer(["c"], usage=True))])
    clients = Clients(server)
    stream = clients.metered.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    next(stream), next(stream)
    assert clients.rows == []
    stream.close()
    row = clients.row
    assert (row.status, row.completion_tokens, row.estimated, row.http_status) == ("cancelled", 2, True, 200)
    assert (
        row.prompt_tokens
        == len(server.requests[0].content.replace(b',"stream_options":{"include_usage":true}', b"")) // 4
    )
    assert server.bodies[0].closed
    stream.close()
    gc.collect()
    assert len(clients.rows) == 1


def test_a_caller_who_stops_at_the_finish_reason_is_not_cancelled() -> None:
    clients = stream_with(HEAD, sse([chunk({"content": "c"}, "stop")]), sse([chunk(None, usage=USAGE), "data: [DONE]"]))
    for part in clients.metered.chat.completions.create(model="m", messages=MESSAGES, stream=True):
        if part.choices[0].finish_reason:
            break
    gc.collect()
    assert (clients.row.status, clients.row.completion_tokens, clients.row.estimated) == ("ok", 3, True)


def test_a_stream_that_is_dropped_unread_is_still_a_row() -> None:
    clients = stream_with(HEAD)
    clients.metered.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    gc.collect()
    assert (clients.row.status, clients.row.completion_tokens) == ("cancelled", 0)


@pytest.mark.parametrize(
    "error", [httpx2.ReadError("gone"), httpx2.ReadTimeout("slow"), httpx2.RemoteProtocolError("cut")]
)
def test_a_broken_connection_is_cut_and_raises_the_very_same_error(error: httpx2.TransportError) -> None:
    half = sse([chunk({"content": "c"})])[:20]
    clients = stream_with(HEAD, half, error)
    with pytest.raises(openai.APIConnectionError) as raised:
        read(clients)
    assert raised.value.__cause__ is error
    assert (clients.row.status, clients.row.completion_tokens, clients.row.estimated) == ("cut", 2, True)


def test_half_an_event_before_the_break_still_reaches_the_caller() -> None:
    clients = stream_with(HEAD, b"data: {half", httpx2.ReadError("gone"))
    got: list[bytes] = []
    with (
        clients.metered._client.stream("POST", "http://e/v1/completions", json={"stream": True}) as response,
        pytest.raises(httpx2.ReadError),
    ):
        got.extend(response.iter_raw())
    assert b"".join(got) == HEAD + b"data: {half"


@pytest.mark.parametrize("blocks", [(HEAD,), (HEAD, sse([chunk({}, "stop")])), ()])
def test_a_clean_end_without_done_is_cut(blocks: tuple[bytes, ...]) -> None:
    clients = stream_with(*blocks)
    read(clients)
    assert clients.row.status == "cut"


def test_vllms_abort_is_cut_although_it_looks_complete() -> None:
    clients = stream_with(HEAD, sse([chunk({}, "abort"), chunk(None, usage=USAGE), "data: [DONE]"]))
    read(clients)
    assert (clients.row.status, clients.row.completion_tokens, clients.row.estimated) == ("cut", 2, False)


def test_an_error_event_is_an_error() -> None:
    clients = stream_with(HEAD, sse(['data: {"error": {"message": "EngineCore died", "code": 500}}', "data: [DONE]"]))
    with pytest.raises(openai.APIError, match="EngineCore died"):
        read(clients)
    assert (clients.row.status, clients.row.completion_tokens, clients.row.estimated) == ("error", 2, True)


def test_text_about_errors_is_no_error() -> None:
    text = '{"error":{"message":"x"}} "finish_reason":"abort" data: [DONE]'
    clients = Clients(Server(lambda _: [sse(answer([text], usage=True))]))
    read(clients)
    assert clients.row.status == "ok"


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_an_error_answer(status: int) -> None:
    server = Server(lambda _: [json.dumps({"error": {"message": "no"}}).encode()], status, JSON)
    clients = Clients(server)
    with pytest.raises(openai.APIStatusError):
        read(clients)
    row = clients.row
    assert (row.status, row.http_status, row.stream, row.estimated) == ("error", status, True, True)
    assert (row.prompt_tokens, row.completion_tokens) == (0, 0), "the engine refused it"


@pytest.mark.parametrize(
    ("error", "prompt"), [(httpx2.ConnectError("refused"), 0), (httpx2.ReadTimeout("no answer"), 8)]
)
def test_no_answer_at_all(error: Exception, prompt: int) -> None:
    rows: list[RequestRow] = []

    def fail(request: httpx2.Request) -> httpx2.Response:
        raise error

    client = httpx2.Client(transport=MeteredTransport(httpx2.MockTransport(fail), Metering("k", rows.append)))
    with pytest.raises(type(error)) as raised:
        client.post("http://engine/v1/completions", content=b'{"model": "m", "prompt": "hello!!"}')
    assert raised.value is error
    (row,) = rows
    assert (row.status, row.http_status, row.completion_tokens, row.prompt_tokens) == ("error", 0, 0, prompt)


def test_every_retry_is_a_row() -> None:
    clients = Clients(Server(lambda _: [b"{}"], 500, JSON))
    with pytest.raises(openai.InternalServerError):
        clients.metered.with_options(max_retries=1).chat.completions.create(model="m", messages=MESSAGES)
    assert [row.status for row in clients.rows] == ["error", "error"]


def test_a_plain_answer() -> None:
    body = {"choices": [], "model": "m", "object": "chat.completion", "created": 1, "id": "c", "usage": USAGE}
    clients = Clients(Server(lambda _: [json.dumps(body).encode()], headers=JSON))
    assert clients.metered.chat.completions.create(model="m", messages=MESSAGES).usage.total_tokens == 23  # type: ignore[union-attr]
    row = clients.row
    assert (row.status, row.stream, row.prompt_tokens, row.completion_tokens, row.cached_tokens) == (
        "ok",
        False,
        21,
        2,
        20,
    )
    assert (row.first_token, row.tag, row.key, row.endpoint) == (None, "t1", "k1", "/chat/completions")


@pytest.mark.parametrize("usage_first", [True, False])
def test_a_large_answer_says_its_usage_at_either_end(usage_first: bool) -> None:
    parts = [('"usage"', json.dumps({"prompt_tokens": 8})), ('"data"', json.dumps([{"embedding": [0.5] * 20_000}]))]
    body = "{" + ",".join(f"{name}:{value}" for name, value in parts[:: 1 if usage_first else -1]) + "}"
    blocks = [body.encode()[at : at + 9000] for at in range(0, len(body), 9000)]
    clients = Clients(Server(lambda _: blocks, headers=JSON))
    clients.metered.embeddings.create(model="m", input="x", encoding_format="float")
    row = clients.row
    assert (row.endpoint, row.prompt_tokens, row.completion_tokens, row.estimated) == ("/embeddings", 8, 0, False)


def test_a_plain_answer_that_breaks_is_estimated_by_its_size() -> None:
    clients = Clients(Server(lambda _: [b"x" * 40_000, httpx2.ReadError("gone")], headers=JSON))
    with pytest.raises(openai.APIConnectionError):
        clients.metered.chat.completions.create(model="m", messages=MESSAGES)
    assert (clients.row.status, clients.row.completion_tokens, clients.row.estimated) == ("cut", 10_000, True)


def test_the_responses_api() -> None:
    usage = {"input_tokens": 4, "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 1}}
    events = [
        {"type": "response.created", "response": {"usage": None}},
        {"type": "response.output_text.delta", "delta": "a"},
        {"type": "response.completed", "response": {"id": "r", "usage": usage, "metadata": {}}},
    ]
    lines = "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events).encode()
    clients = Clients(Server(lambda _: [lines]))
    seen = [event.type for event in clients.metered.responses.create(model="m", input="x", stream=True)]
    assert seen == [event["type"] for event in events]
    row = clients.row
    assert (row.endpoint, row.status, row.prompt_tokens, row.completion_tokens, row.reasoning_tokens) == (
        "/responses", "ok", 4, 2, 1,
    )  # fmt: skip
    assert row.first_token is not None


def test_other_endpoints_pass_without_a_row() -> None:
    clients = Clients(lambda _: httpx2.Response(200, json={"object": "list", "data": []}))
    assert clients.metered.models.list().data == []
    assert clients.rows == []


def test_a_body_that_streams_is_left_alone() -> None:
    rows: list[RequestRow] = []
    sent: list[bytes] = []

    def serve(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.read())
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Blocks([HEAD]))

    client = httpx2.Client(transport=MeteredTransport(httpx2.MockTransport(serve), Metering("k", rows.append)))
    body = iter([b'{"model":"m",', b'"stream":true}'])
    client.post("http://engine/v1/chat/completions", content=body)
    assert sent == [b'{"model":"m","stream":true}']
    assert [(row.completion_tokens, row.estimated, row.stream) for row in rows] == [(2, True, True)]


def test_an_answer_made_in_memory_is_metered_too() -> None:
    body = sse(answer(["a"], usage=True))
    clients = Clients(lambda _: httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body))
    with clients.metered._client.stream("POST", "http://e/v1/completions", json={"stream": True}) as response:
        assert response.read() == sse(answer(["a"], usage=False))
        assert "content-length" not in response.headers, "it would be wrong: an event was stripped"
    assert clients.row.completion_tokens == 2


def test_the_name_in_the_certificate_goes_with_every_request() -> None:
    seen: list[object] = []

    def serve(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.extensions["sni_hostname"])
        return httpx2.Response(200, json={})

    metering = Metering("k", [].append, sni="engine.spotinfer.internal")
    client = httpx2.Client(transport=MeteredTransport(httpx2.MockTransport(serve), metering))
    client.post("http://e/v1/completions", json={})
    client.get("http://e/v1/models")
    assert seen == ["engine.spotinfer.internal"] * 2


def test_a_sink_that_fails_is_reported_and_the_caller_gets_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    def full(row: RequestRow) -> None:
        raise OSError("disk full")

    inner = httpx2.MockTransport(Server(lambda _: [b'{"usage":{"prompt_tokens":1}}'], headers=JSON))
    client = httpx2.Client(transport=MeteredTransport(inner, Metering("k", full)))
    with caplog.at_level(logging.ERROR, "spotinfer.meter"):
        assert client.post("http://e/v1/completions", json={}).json()["usage"]["prompt_tokens"] == 1
    assert "not metered" in caplog.text


def test_cancelling_a_task_is_cancelled_and_closes_the_body() -> None:
    class Silent(Blocks):
        async def __aiter__(self) -> Any:
            yield HEAD
            await anyio.sleep_forever()

    body = Silent([])
    clients = Clients(lambda _: httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=body))

    async def main() -> None:
        with anyio.move_on_after(0.2):
            stream = await clients.metered_async.chat.completions.create(model="m", messages=MESSAGES, stream=True)
            async for _ in stream:
                pass

    anyio.run(main)
    assert (clients.row.status, clients.row.completion_tokens) == ("cancelled", 2)
    assert body.closed


def test_cancelling_before_the_answer_is_cancelled() -> None:
    async def hang(request: httpx2.Request) -> httpx2.Response:
        await anyio.sleep_forever()
        raise AssertionError

    clients = Clients(hang)  # type: ignore[arg-type]

    async def main() -> None:
        with anyio.move_on_after(0.1):
            await clients.metered_async.completions.create(model="m", prompt="x")

    anyio.run(main)
    assert (clients.row.status, clients.row.http_status) == ("cancelled", 0)


def test_closing_an_async_stream_early() -> None:
    clients = stream_with(HEAD, HEAD)

    async def main() -> None:
        stream = await clients.metered_async.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        await anext(aiter(stream))
        await stream.close()

    anyio.run(main)
    assert (clients.row.status, clients.row.completion_tokens) == ("cancelled", 2)
