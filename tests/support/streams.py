"""A scripted OpenAI-compatible server behind httpx2's transport interface, whose byte blocks a test chooses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai

from spotinfer.client.transport.metered import AsyncMeteredTransport, MeteredTransport, Metering
from spotinfer.core.records import RequestRow

USAGE = {
    "prompt_tokens": 21,
    "completion_tokens": 2,
    "total_tokens": 23,
    "prompt_tokens_details": {"cached_tokens": 20},
}


def chunk(delta: dict[str, Any] | None, finish: str | None = None, **extra: Any) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**head, "choices": choices, **extra}


def sse(events: Sequence[dict[str, Any] | str], *, end: str = "\n", separators: tuple[str, str] = (",", ":")) -> bytes:
    """Server-sent events; a string is a raw line (``: comment`` or ``data: [DONE]``)."""
    lines = [e if isinstance(e, str) else "data: " + json.dumps(e, separators=separators) for e in events]
    return "".join(line + end * 2 for line in lines).encode()


def answer(text: Sequence[str], *, usage: bool, finish: str = "stop") -> list[dict[str, Any] | str]:
    events: list[dict[str, Any] | str] = [chunk({"role": "assistant", "content": ""})]
    events += [chunk({"content": piece}) for piece in text]
    events.append(chunk({}, finish))
    if usage:
        events.append(chunk(None, usage=USAGE))
    return [*events, "data: [DONE]"]


class Blocks(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body in these byte blocks; an exception among them is raised in its place."""

    def __init__(self, blocks: Sequence[bytes | BaseException]) -> None:
        self.blocks = blocks
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        for block in self.blocks:
            if isinstance(block, BaseException):
                raise block
            yield block

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for block in self:
            yield block

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


Answer = Callable[[dict[str, Any]], Sequence["bytes | BaseException"]]


@dataclass
class Server:
    """``answer`` makes the body's blocks from the request's JSON. ``requests`` is what arrived."""

    answer: Answer
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "text/event-stream"})
    requests: list[httpx2.Request] = field(default_factory=list)
    bodies: list[Blocks] = field(default_factory=list)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        body = Blocks(self.answer(json.loads(request.content)))
        self.bodies.append(body)
        return httpx2.Response(self.status, headers=self.headers, stream=body)

    @property
    def asked(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.requests[-1].content)
        return found


class Clients:
    """openai's clients on a :class:`Server`: plain ones, and ones that meter into ``rows``."""

    def __init__(self, server: Callable[[httpx2.Request], httpx2.Response]) -> None:
        self.rows: list[RequestRow] = []
        self.time = 100.0
        metering = Metering("k1", self.rows.append, tag=lambda: "t1", now=self._now)
        inner = httpx2.MockTransport(server)
        self.plain = _sync(inner)
        self.metered = _sync(MeteredTransport(inner, metering))
        self.metered_async = openai.AsyncOpenAI(
            base_url="http://engine/v1",
            api_key="k",
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(transport=AsyncMeteredTransport(inner, metering)),
        )

    def _now(self) -> float:
        self.time += 1
        return self.time

    @property
    def row(self) -> RequestRow:
        (row,) = self.rows
        return row


def _sync(transport: httpx2.BaseTransport) -> openai.OpenAI:
    client = openai.DefaultHttpxClient(transport=transport)
    return openai.OpenAI(base_url="http://engine/v1", api_key="k", max_retries=0, http_client=client)
