"""HTTP transports that meter. What the caller sees is what it would see without them.

The rules are in :mod:`.exchange`, :mod:`.request_body` and :mod:`.usage`; here are two thin drivers, sync and async.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Final, cast

import httpx2

from ...core.records import RequestRow
from . import request_body
from .exchange import Ending, Exchange

GENERATING: Final = {
    b"/completions": "/completions",
    b"/embeddings": "/embeddings",
    b"/responses": "/responses",
}
_ENDS_WITH_USAGE: Final = ("/chat/completions", "/completions")
"""Where ``stream_options.include_usage`` exists; the Responses API always tells usage."""
_NEVER_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)


def no_tag() -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Metering:
    """What both transports need to know: whose requests these are, and where their rows go.

    ``sni`` is the name that the server's certificate carries, whatever the address. ``now`` is in Unix seconds.
    ``sink`` must accept a row from any thread at any moment, also while garbage is collected. ``closes_streams``: the
    engine closes the connection after a streamed answer without saying so; we say it, or the next request would be
    sent into a connection that is closing (behind TLS a pool cannot see that in time).
    """

    key: str
    sink: Callable[[RequestRow], None]
    sni: str | None = None
    tag: Callable[[], str] = no_tag
    closes_streams: bool = False
    now: Callable[[], float] = time.time

    def begin(self, request: httpx2.Request) -> tuple[httpx2.Request, Exchange | None]:
        """What to send for ``request``, and its meter if it generates anything. The caller's request keeps its body and
        headers: what has to differ is sent as a copy.
        """
        if self.sni is not None:
            request.extensions["sni_hostname"] = self.sni
        endpoint = _endpoint(request)
        if endpoint is None:
            return request, None
        try:
            body = request.content
        except httpx2.RequestNotRead:  # a body that is still to be read passes untouched
            body = b""
        asked = request_body.read(body, add_usage=endpoint in _ENDS_WITH_USAGE) if body else request_body.NOTHING
        exchange = Exchange(
            self.sink,
            self.now,
            key=self.key,
            endpoint=endpoint,
            tag=self.tag(),
            model=asked.model,
            stream=asked.stream,
            strip=asked.body is not None,
            prompt_size=len(body) or int(request.headers.get("content-length", "0")),
        )
        closing = self.closes_streams and asked.stream
        if asked.body is None and not closing and request.headers.get("accept-encoding") == "identity":
            return request, exchange
        return _copy(request, asked.body, closing=closing), exchange


def _endpoint(request: httpx2.Request) -> str | None:
    if request.method != "POST":
        return None
    path = request.url.raw_path.partition(b"?")[0]
    found = GENERATING.get(path[path.rfind(b"/") :])
    return "/chat/completions" if found == "/completions" and path.endswith(b"/chat/completions") else found


def _copy(request: httpx2.Request, body: bytes | None, *, closing: bool) -> httpx2.Request:
    sent = httpx2.Request(
        request.method,
        request.url,
        headers=request.headers,
        stream=request.stream if body is None else httpx2.ByteStream(body),
        extensions=request.extensions,
    )
    if sent.headers.get("accept-encoding") != "identity":
        sent.headers["accept-encoding"] = "identity"  # a compressed tail cannot be read
    if body is not None:
        sent.headers["content-length"] = str(len(body))
    if closing:
        sent.headers["connection"] = "close"
    return sent


def _answered(exchange: Exchange, response: httpx2.Response) -> httpx2.Response:
    headers = response.headers
    exchange.answered(response.status_code, headers.get("content-type", ""), headers)
    if response.is_closed:  # made from a body in memory, as a mock transport does: give its bytes a way past the meter
        content = httpx2.ByteStream(response.content)
        response = httpx2.Response(
            response.status_code, headers=headers, stream=content, extensions=response.extensions
        )
    if exchange.strip and "content-length" in headers:
        del response.headers["content-length"]
    return response


class MeteredTransport(httpx2.BaseTransport):
    """Passes requests on to ``inner`` and gives one row to ``metering.sink`` for each that generates tokens.

    Every attempt is a row, so a retry by the client on top is one more. Nothing is raised that ``inner`` did not raise.
    """

    def __init__(self, inner: httpx2.BaseTransport, metering: Metering) -> None:
        self._inner = inner
        self._metering = metering

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        sent, exchange = self._metering.begin(request)
        if exchange is None:
            return self._inner.handle_request(sent)
        try:
            response = self._inner.handle_request(sent)
        except BaseException as exc:
            exchange.failed(exc, sent=not isinstance(exc, _NEVER_SENT))
            raise
        response = _answered(exchange, response)
        response.stream = _Body(cast(httpx2.SyncByteStream, response.stream), exchange)
        return response

    def close(self) -> None:
        self._inner.close()


class _Body(httpx2.SyncByteStream):
    def __init__(self, inner: httpx2.SyncByteStream, exchange: Exchange) -> None:
        self._inner = inner
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        exchange = self._exchange
        feed = exchange.feed_stripping if exchange.strip else exchange.feed
        try:
            for block in self._inner:
                if shown := feed(block):
                    yield shown
        except GeneratorExit:
            raise  # dropped halfway: close(), or the exchange itself, ends it
        except BaseException as exc:
            rest = exchange.rest()
            exchange.end(Ending.of(exc))
            if rest and isinstance(exc, Exception):
                yield rest
            raise
        rest = exchange.rest()
        exchange.end(Ending.COMPLETE)
        if rest:
            yield rest

    def close(self) -> None:
        try:
            self._inner.close()
        finally:
            self._exchange.end(Ending.CLOSED)


class AsyncMeteredTransport(httpx2.AsyncBaseTransport):
    """:class:`MeteredTransport` for async clients."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, metering: Metering) -> None:
        self._inner = inner
        self._metering = metering

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        sent, exchange = self._metering.begin(request)
        if exchange is None:
            return await self._inner.handle_async_request(sent)
        try:
            response = await self._inner.handle_async_request(sent)
        except BaseException as exc:
            exchange.failed(exc, sent=not isinstance(exc, _NEVER_SENT))
            raise
        response = _answered(exchange, response)
        response.stream = _AsyncBody(cast(httpx2.AsyncByteStream, response.stream), exchange)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _AsyncBody(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, exchange: Exchange) -> None:
        self._inner = inner
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        exchange = self._exchange
        feed = exchange.feed_stripping if exchange.strip else exchange.feed
        blocks = self._inner.__aiter__()
        try:
            async for block in blocks:
                if shown := feed(block):
                    yield shown
        except GeneratorExit:
            raise
        except BaseException as exc:
            rest = exchange.rest()
            exchange.end(Ending.of(exc))
            if rest and isinstance(exc, Exception):
                yield rest
            raise
        finally:
            aclose = getattr(blocks, "aclose", None)
            if aclose is not None:
                await aclose()
        rest = exchange.rest()
        exchange.end(Ending.COMPLETE)
        if rest:
            yield rest

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            self._exchange.end(Ending.CLOSED)
