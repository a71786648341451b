"""Mutual TLS outside, plain TCP on loopback inside: for engines that cannot demand client certificates."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import cast

MAX_CONNECTIONS = 4096


class _Side(asyncio.Protocol):
    """One end of a relayed connection: what arrives here is written to the other side, at the other side's pace."""

    def __init__(self, relay: Relay, other: _Side | None = None) -> None:
        self._relay = relay
        self.other = other
        self.transport: asyncio.Transport | None = None
        self.early: list[bytes] = []
        self.joining: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        # A client that vanished without a word must not keep its place for ever. (asyncio sets TCP_NODELAY itself.)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self.other is None:
            self._relay.opened(self)

    def data_received(self, data: bytes) -> None:
        if self.other and self.other.transport:
            self.other.transport.write(data)
        else:
            self.early.append(data)

    def pause_writing(self) -> None:
        if self.other and self.other.transport:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other and self.other.transport:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.closed(self)
        if self.other and self.other.transport:
            self.other.transport.close()


class Relay:
    """Accepts authenticated clients and joins each with a connection of its own to the engine."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._clients: set[_Side] = set()
        self._server: asyncio.AbstractServer | None = None

    @property
    def connections(self) -> int:
        return len(self._clients)

    async def listen(self, sock: socket.socket, tls: ssl.SSLContext) -> None:
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Side(self), sock=sock, ssl=tls, ssl_handshake_timeout=10, backlog=1024
        )

    def close(self) -> None:
        """Accept nobody else; who is connected stays."""
        if self._server:
            self._server.close()

    def opened(self, client: _Side) -> None:
        assert client.transport is not None
        if len(self._clients) >= MAX_CONNECTIONS:
            client.transport.abort()
            return
        self._clients.add(client)
        client.transport.pause_reading()
        client.joining = asyncio.get_running_loop().create_task(self._join(client, client.transport))

    def closed(self, side: _Side) -> None:
        self._clients.discard(side)

    async def _join(self, client: _Side, transport: asyncio.Transport) -> None:
        engine = _Side(self, client)
        try:
            await asyncio.get_running_loop().create_connection(lambda: engine, "127.0.0.1", self._port)
        except OSError:
            transport.close()
            return
        assert engine.transport is not None
        client.other = engine
        if client not in self._clients:
            engine.transport.close()
            return
        for data in client.early:
            engine.transport.write(data)
        client.early.clear()
        transport.resume_reading()
