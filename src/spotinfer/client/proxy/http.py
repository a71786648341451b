"""One client's connection to the loopback proxy: reads requests, checks them, forwards them, streams the answers."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final, cast

import anyio
import h11
import httpx2

from ...core.secret import Secret
from ..transport.metered import GENERATING
from ..transport.upstream import Upstream

log = logging.getLogger("spotinfer.proxy")

READ_SIZE: Final = 64 * 1024
MAX_HEAD: Final = 64 * 1024
IDLE: Final = 120.0
"""Seconds that a connection may rest between requests, and that a head may take."""

LINGER: Final = 2.0
MAX_LINGER: Final = 16 * 1024 * 1024

_TIMEOUTS: Final = {"connect": 10.0, "read": 600.0, "write": 600.0, "pool": 600.0}
_LOCAL_NAMES: Final = (b"127.0.0.1", b"localhost", b"[::1]")
_HOP_BY_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
     b"trailer", b"transfer-encoding", b"upgrade")
)  # fmt: skip
_OURS: Final = frozenset((b"host", b"authorization", b"content-length", b"expect", b"accept-encoding"))


class Refused(Exception):
    """This request is answered by us; it never reaches the engine."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Gone(Exception):
    """The client left."""


class Connection:
    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        transport: httpx2.AsyncBaseTransport,
        upstream: Upstream,
        key: Secret,
        max_body: int,
    ) -> None:
        self._reader, self._writer = reader, writer
        self._transport, self._upstream = transport, upstream
        self._key = key.reveal().encode()
        self._max_body = max_body
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)

    async def serve(self) -> None:
        """Serve requests until either side wants the connection closed. Never raises but for cancellation."""
        try:
            while await self._serve_one():
                pass
        # OSError: to close our half of a connection that is gone already is ENOTCONN, which is no ConnectionError.
        except (Gone, OSError, asyncio.TimeoutError, h11.LocalProtocolError) as error:
            log.debug("connection ended: %s", type(error).__name__)
            self._writer.transport.abort()

    async def _serve_one(self) -> bool:
        """One request; False when the connection is to be closed (in order, whatever was to be said is said)."""
        try:
            event = await asyncio.wait_for(self._event(), IDLE)
            if not isinstance(event, h11.Request):
                return False  # the client closed between requests
            self._check(event)
            await self._exchange(event)
        except h11.RemoteProtocolError as error:
            await self._refuse(Refused(error.error_status_hint, "bad_request", str(error)))
        except Refused as refused:
            await self._refuse(refused)
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    # --- reading -----------------------------------------------------------------------------------------------------

    async def _event(self) -> h11.Event | type[h11.PAUSED]:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self._http.receive_data(await self._reader.read(READ_SIZE))
        return cast("h11.Event | type[h11.PAUSED]", event)

    async def _body(self) -> AsyncIterator[bytes]:
        size = 0
        while True:
            event = await self._event()
            if not isinstance(event, h11.Data):
                if isinstance(event, h11.EndOfMessage):
                    return
                raise Gone
            size += len(event.data)
            if size > self._max_body:
                raise self._too_large()
            yield bytes(event.data)

    def _too_large(self) -> Refused:
        return Refused(413, "too_large", f"the request's body has more than {self._max_body} bytes")

    # --- checking ----------------------------------------------------------------------------------------------------

    def _check(self, request: h11.Request) -> None:
        if sum(len(name) + len(value) for name, value in request.headers) > MAX_HEAD:
            raise Refused(431, "head_too_large", f"the request's head has more than {MAX_HEAD} bytes")
        names = [name for name, _ in request.headers]
        headers = dict(request.headers)
        # A web page can make a browser call us under a name of its own that resolves to 127.0.0.1.
        host = headers.get(b"host", b"")
        name = host if host.endswith(b"]") else host.rpartition(b":")[0] or host
        if name.lower() not in _LOCAL_NAMES:
            raise Refused(403, "wrong_host", "this proxy answers to localhost and 127.0.0.1 only")
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._key):
            raise Refused(401, "invalid_api_key", "send this proxy's key: Authorization: Bearer <key>")
        if b"transfer-encoding" in names and b"content-length" in names:
            raise Refused(400, "bad_request", "both Transfer-Encoding and Content-Length")
        if request.method == b"CONNECT" or not request.target.startswith(b"/"):
            raise Refused(400, "bad_request", "the target must be a path")
        if int(headers.get(b"content-length", b"0")) > self._max_body:
            raise self._too_large()

    async def _refuse(self, refused: Refused) -> None:
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            raise Gone
        error = {"message": refused.message, "type": "proxy_error", "param": None, "code": refused.code}
        body = json.dumps({"error": error}).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        if self._http.their_state is not h11.DONE:
            headers.append(("Connection", "close"))  # what is left of the request will not be read
        await self._send(h11.Response(status_code=refused.status, headers=headers))
        await self._send(h11.Data(data=body))
        await self._send(h11.EndOfMessage())
        if self._http.their_state is not h11.DONE:
            await self._linger()

    async def _linger(self) -> None:
        """Read away what is still coming: closing with unread bytes resets, and the client may lose our answer."""
        if self._writer.can_write_eof():
            self._writer.write_eof()
        left = MAX_LINGER
        with anyio.move_on_after(LINGER):
            while left > 0 and (data := await self._reader.read(READ_SIZE)):
                left -= len(data)

    # --- forwarding --------------------------------------------------------------------------------------------------

    async def _exchange(self, head: h11.Request) -> None:
        path = head.target.partition(b"?")[0]
        framing = {name for name, _ in head.headers} & {b"content-length", b"transfer-encoding"}
        if framing and path[path.rfind(b"/") :] not in GENERATING:
            await self._forward(self._request(head, self._body()))
            return
        # What generates cannot begin before the engine has all of this, and the meter asks for usage in it.
        body = b"".join([block async for block in self._body()])
        await self._watched(self._request(head, body))

    def _request(self, head: h11.Request, content: bytes | AsyncIterator[bytes]) -> httpx2.Request:
        dropped = _HOP_BY_HOP | _OURS | _named_in_connection(head)
        headers = [(name, value) for name, value in head.headers if name not in dropped]
        headers.append((b"authorization", b"Bearer " + self._upstream.api_key.reveal().encode()))
        size = dict(head.headers).get(b"content-length")
        if size is not None and not isinstance(content, bytes):
            headers.append((b"content-length", size))
        try:
            return httpx2.Request(
                head.method.decode("ascii"),
                self._upstream.origin + head.target.decode("ascii"),
                headers=headers,
                content=content,
                extensions={"timeout": _TIMEOUTS},
            )
        except httpx2.InvalidURL as error:
            raise Refused(400, "bad_request", "the target is no valid path") from error

    async def _watched(self, request: httpx2.Request) -> None:
        """Forward, and stop at once when the client leaves: nobody should pay for tokens that nobody reads."""
        forward = asyncio.ensure_future(self._forward(request))
        watch = asyncio.ensure_future(self._until_gone())
        try:
            await asyncio.wait({forward, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not forward.done():
                raise Gone
            await forward
        finally:
            for task in (forward, watch):
                task.cancel()
            await asyncio.gather(forward, watch, return_exceptions=True)

    async def _until_gone(self) -> None:
        """Return when the client has closed. What it sends meanwhile belongs to its next request."""
        early = 0
        while data := await self._reader.read(READ_SIZE):
            self._http.receive_data(data)
            early += len(data)
            if early > MAX_HEAD:
                await asyncio.Event().wait()  # enough read ahead; whether it has left will show when we write

    async def _forward(self, request: httpx2.Request) -> None:
        try:
            response = await self._transport.handle_async_request(request)
        except httpx2.TransportError as error:
            raise Refused(502, "upstream_failed", f"the engine did not answer ({type(error).__name__})") from error
        stream = cast(httpx2.AsyncByteStream, response.stream)
        try:
            await self._send(h11.Response(status_code=response.status_code, headers=_answer_headers(response)))
            async with aclosing(cast("AsyncGenerator[bytes, None]", stream.__aiter__())) as blocks:
                async for block in blocks:
                    await self._send(h11.Data(data=block))
            await self._send(h11.EndOfMessage())
        except httpx2.TransportError as error:
            raise Gone from error  # never end cleanly what was cut: clients would take it for complete
        finally:
            await stream.aclose()

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)
            await self._writer.drain()


def _named_in_connection(head: h11.Request) -> set[bytes]:
    lists = (value.split(b",") for name, value in head.headers if name == b"connection")
    return {name.strip().lower() for names in lists for name in names}


def _answer_headers(response: httpx2.Response) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in response.headers.raw if name.lower() not in _HOP_BY_HOP]
