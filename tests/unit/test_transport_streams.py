"""A metered stream looks to the caller like a plain one, however its bytes are cut, and is counted right."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.streams import USAGE, Blocks, Clients, Server, answer, chunk, sse

MESSAGES: Any = [{"role": "user", "content": 'a "stream":true b'}]
TEXTS = st.lists(
    st.sampled_from(
        ["Hel", "lo", "é", "\n", "data: [DONE]", '{"usage":{"prompt_tokens":9}}', '"choices":[]', '"', "\\"]
    ),
    min_size=1,
    max_size=6,
)
END = st.sampled_from(["\n", "\r\n", "\r"])
SPACES = st.sampled_from([(",", ":"), (", ", ": ")])


def cut(body: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = [0, *sorted(place % (len(body) + 1) for place in cuts), len(body)]
    return [body[a:b] for a, b in pairwise(places)]


def engine(
    text: Sequence[str],
    cuts: Sequence[int],
    end: str = "\n",
    spaces: tuple[str, str] = (",", ":"),
    comment: bool = False,
) -> Server:
    """Tells usage exactly when it was asked for, as vLLM and llama.cpp do."""

    def blocks(request: dict[str, Any]) -> list[bytes]:
        events = answer(text, usage=bool((request.get("stream_options") or {}).get("include_usage")))
        if comment:
            events.insert(2, ": keep-alive")
        return cut(sse(events, end=end, separators=spaces), cuts)

    return Server(blocks)


CUTS = st.lists(st.integers(0, 5000), max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    text=TEXTS,
    cuts=CUTS,
    end=END,
    spaces=SPACES,
    comment=st.booleans(),
    options=st.sampled_from([None, {}, {"include_usage": False}, {"include_usage": True}]),
)
def test_the_caller_sees_the_same_chunks(
    text: list[str], cuts: list[int], end: str, spaces: tuple[str, str], comment: bool, options: Any
) -> None:
    server = engine(text, cuts, end, spaces, comment)
    clients = Clients(server)
    extra = {} if options is None else {"stream_options": options}
    plain, metered = (
        [
            part.model_dump()
            for part in client.chat.completions.create(model="m", messages=MESSAGES, stream=True, **extra)
        ]
        for client in (clients.plain, clients.metered)
    )
    assert metered == plain
    row = clients.row
    assert (row.prompt_tokens, row.completion_tokens, row.cached_tokens, row.estimated) == (21, 2, 20, False)
    assert (row.status, row.stream, row.http_status, row.model) == ("ok", True, 200, "m")


@settings(max_examples=50, deadline=None)
@given(text=TEXTS, cuts=CUTS, end=END)
def test_async_sees_the_same_too(text: list[str], cuts: list[int], end: str) -> None:
    clients = Clients(engine(text, cuts, end))

    async def metered() -> list[dict[str, Any]]:
        stream = await clients.metered_async.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        return [part.model_dump() async for part in stream]

    plain = [
        part.model_dump() for part in clients.plain.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    ]
    assert anyio.run(metered) == plain
    assert (clients.row.status, clients.row.completion_tokens, clients.row.estimated) == ("ok", 2, False)


def test_every_single_cut_of_one_stream() -> None:
    size = len(sse(answer(["a", "b"], usage=True)))
    seen = set()
    for place in range(size):
        clients = Clients(engine(["a", "b"], [place]))
        parts = list(clients.metered.chat.completions.create(model="m", messages=MESSAGES, stream=True))
        seen.add((tuple(part.model_dump_json() for part in parts), clients.row.completion_tokens, clients.row.status))
    assert len(seen) == 1


def test_what_is_sent_upstream() -> None:
    server = engine(["a"], [])
    clients = Clients(server)
    list(clients.metered.chat.completions.create(model="m", messages=MESSAGES, stream=True, temperature=0))
    assert server.asked["stream_options"] == {"include_usage": True}
    assert server.asked["messages"] == MESSAGES
    sent = server.requests[-1].headers
    assert sent["content-length"] == str(len(server.requests[-1].content))
    assert sent["accept-encoding"] == "identity"


def test_the_callers_request_object_stays_as_it_is() -> None:
    clients = Clients(engine(["a"], []))
    with clients.metered.chat.completions.with_streaming_response.create(
        model="m", messages=MESSAGES, stream=True
    ) as response:
        request = response.http_request
        response.read()
    assert b"stream_options" not in request.content
    assert request.headers["accept-encoding"] != "identity"
    assert request.headers["content-length"] == str(len(request.content))


def test_timings_of_llama_cpp_stay_on_the_chunk_that_finishes() -> None:
    timings = {"prompt_n": 1, "prompt_ms": 13.411952380952382}

    def blocks(request: dict[str, Any]) -> list[bytes]:
        if "stream_options" in request:
            last = [chunk({}, "stop"), chunk(None, usage=USAGE, timings=timings)]
        else:
            last = [chunk({}, "stop", timings=timings)]
        body = sse([chunk({"content": "a"}), *last, "data: [DONE]"])
        return cut(body, cuts)

    for place in range(150, 500, 7):
        cuts = [place]
        clients = Clients(Server(blocks))
        plain, metered = (
            [part.model_dump() for part in client.chat.completions.create(model="m", messages=MESSAGES, stream=True)]
            for client in (clients.plain, clients.metered)
        )
        if place != len(sse([chunk({"content": "a"}), chunk({}, "stop")])):  # else it was delivered before they came
            assert metered == plain


def test_usage_on_a_chunk_with_choices_is_no_usage_event() -> None:
    """As llama.cpp's /completions and vLLM's continuous_usage_stats send it."""
    events = [chunk({"content": "a"}, usage={**USAGE, "completion_tokens": 1}), chunk({}, "stop", usage=USAGE)]
    clients = Clients(Server(lambda _: [sse([*events, "data: [DONE]"])]))
    parts = list(clients.metered.chat.completions.create(model="m", messages=MESSAGES, stream=True))
    assert [part.usage.completion_tokens for part in parts if part.usage] == [1, 2]
    assert (clients.row.completion_tokens, clients.row.estimated) == (2, False)


def test_first_token_is_when_the_first_text_came() -> None:
    empty, text = sse([chunk({"role": "assistant", "content": ""})]), sse([chunk({"content": "a"})])
    clients = Clients(Server(lambda _: [b": wait\n\n", empty, text, text, sse(["data: [DONE]"])]))
    list(clients.metered.chat.completions.create(model="m", messages=MESSAGES, stream=True))
    row = clients.row
    assert (row.started, row.first_token, row.ended) == (101, 102, 103)


def test_tool_calls_and_reasoning_count_as_tokens() -> None:
    call = {"tool_calls": [{"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}]}
    events = [chunk({"role": "assistant", "content": None}), chunk({"reasoning_content": "hm"}), chunk(call)]
    clients = Clients(Server(lambda _: [sse([*events, chunk({}, "tool_calls"), "data: [DONE]"])]))
    list(clients.metered.chat.completions.create(model="m", messages=MESSAGES, stream=True))
    assert (clients.row.completion_tokens, clients.row.estimated, clients.row.status) == (2, True, "ok")


def test_a_very_long_event_is_not_held_back_without_end() -> None:
    long = sse([chunk({"content": "x" * 300_000})])
    blocks = [long[i : i + 50_000] for i in range(0, len(long), 50_000)]
    body = Blocks([*blocks, sse([chunk({}, "stop"), chunk(None, usage=USAGE), "data: [DONE]"])])
    clients = Clients(Server(lambda _: body.blocks))
    parts = list(clients.metered.chat.completions.create(model="m", messages=MESSAGES, stream=True))
    assert [len(part.choices) for part in parts] == [1, 1]
    assert (clients.row.completion_tokens, clients.row.status) == (2, "ok")


def test_long_streams_are_counted_when_usage_is_missing() -> None:
    events = [chunk({"content": f"data: {i}"}) for i in range(1000)]
    clients = Clients(Server(lambda _: [sse([event]) for event in events] + [sse([chunk({}, "stop"), "data: [DONE]"])]))
    list(clients.metered.chat.completions.create(model="m", messages=MESSAGES, stream=True))
    assert (clients.row.completion_tokens, clients.row.estimated) == (1000, True)


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_a_compressed_stream_passes_unread(encoding: str) -> None:
    server = Server(lambda _: [b"\x1f\x8b not for us"])
    server.headers["content-encoding"] = encoding
    clients = Clients(server)
    with clients.metered._client.stream("POST", "http://engine/v1/completions", json={"stream": True}) as response:
        assert b"".join(response.iter_raw()) == b"\x1f\x8b not for us"
    assert clients.row.estimated
