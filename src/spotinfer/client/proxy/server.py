"""A loopback address for programs that have no client certificate: curl, LangChain, a load generator.

HTTP/1.1 by h11 on asyncio streams. Requests carry a random key of the proxy's own; it is replaced by the server's, and
the request goes on through the metering transport, so this traffic is in the meter too.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
from types import TracebackType

import httpx2

from ...core.errors import ConfigError, PortTaken
from ...core.secret import Secret
from ..transport.upstream import Upstream
from .http import Connection

HOST = "127.0.0.1"
_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=100)


class LocalProxy:
    """``async with LocalProxy(upstream) as proxy``: serves ``proxy.url`` for those who send ``proxy.key``.

    Listens on 127.0.0.1 only. :meth:`start` and :meth:`aclose` may be called from different tasks of one asyncio loop.
    ``port`` 0 takes any free one. ``max_body`` bounds a request's body, in bytes.
    """

    def __init__(
        self, upstream: Upstream, *, port: int = 0, key: Secret | None = None, max_body: int = 64 * 1024 * 1024
    ) -> None:
        if not isinstance(port, int) or not 0 <= port <= 65535:
            raise ConfigError(f"{port} is no port number", hint="1 to 65535, or 0 for any free one")
        self.key = key or Secret(secrets.token_urlsafe(32))
        self.max_body = max_body
        self._upstream = upstream
        self._port = port
        self._transport: httpx2.AsyncBaseTransport | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        """The base URL for clients of the OpenAI API; other paths of the engine are reached beside ``/v1``."""
        return f"http://{HOST}:{self._port}/v1"

    async def start(self) -> LocalProxy:
        """Listen. Raises :class:`PortTaken`, or :class:`ConfigError` where the port is not allowed."""
        try:
            self._server = await asyncio.start_server(self._accept, HOST, self._port, backlog=512, limit=2**17)
        except OSError as error:
            raise _cannot_listen(self._port, error) from error
        self._port = self._server.sockets[0].getsockname()[1]
        self._transport = self._upstream.async_transport(_LIMITS)
        return self

    async def aclose(self) -> None:
        """Stop listening, cut what is still running. Repeatable."""
        server, self._server = self._server, None
        transport, self._transport = self._transport, None
        if server is not None:
            server.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if transport is not None:
            await transport.aclose()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = self._transport
        if transport is None:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await Connection(reader, writer, transport, self._upstream, self.key, self.max_body).serve()
        except asyncio.CancelledError:  # from aclose(); asyncio would report it as an unhandled error of its callback
            writer.transport.abort()
        finally:
            self._connections.discard(task)
            writer.close()

    async def __aenter__(self) -> LocalProxy:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<LocalProxy {self.url} for {self._upstream.origin}>"


def _cannot_listen(port: int, error: OSError) -> ConfigError | PortTaken:
    if error.errno == errno.EADDRINUSE:
        return PortTaken(f"port {port} is taken on {HOST}", hint="another port, or 0 for any free one")
    return ConfigError(f"cannot listen on {HOST}:{port}: {error.strerror}", hint="another port, or 0 for any free one")
