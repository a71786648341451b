"""An emulated cloud on a real socket, for other processes. Loopback only: renting there may run commands here.

::

    async with served(EmulatedRunpod(WallClock())) as address:      # http://127.0.0.1:40123
        ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import unquote

import anyio
import h11
from anyio.abc import SocketAttribute, SocketStream

from .base import Cut, EmulatedCloud

LOOPBACK = "127.0.0.1"
CHUNK = 65536
PATIENCE = 30.0
"""Seconds that a silent connection is kept."""


@asynccontextmanager
async def served(cloud: EmulatedCloud, *, port: int = 0) -> AsyncIterator[str]:
    """Serve it until the block ends; gives its address without a path. ``port`` 0 takes any free one."""
    listener = await anyio.create_tcp_listener(local_host=LOOPBACK, local_port=port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, _Handler(cloud))
        try:
            port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - anyio's, not Django's
            yield f"http://{LOOPBACK}:{port}"
        finally:
            tasks.cancel_scope.cancel()


class _Handler:
    def __init__(self, cloud: EmulatedCloud) -> None:
        self._cloud = cloud

    async def __call__(self, stream: SocketStream) -> None:
        """One connection, call by call. A fault that cuts the answer closes it, as does anything that is no HTTP."""
        async with stream:
            # What a customer does to the connection must not end the cloud.
            with suppress(Cut, anyio.BrokenResourceError, anyio.EndOfStream, h11.RemoteProtocolError, TimeoutError):
                await self._converse(stream)

    async def _converse(self, stream: SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        while True:
            event = await _next(connection, stream)
            if not isinstance(event, h11.Request):
                return
            content = b""
            while isinstance(part := await _next(connection, stream), h11.Data):
                content += bytes(part.data)
            await self._call(connection, stream, event, content)
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    async def _call(self, connection: h11.Connection, stream: SocketStream, event: h11.Request, content: bytes) -> None:
        path, _, query = event.target.decode("ascii").partition("?")
        method = event.method.decode("ascii")
        if self._cloud.take_fault(method, path, refusing=True) is not None:
            raise Cut  # a server that runs cannot refuse one connection: this is the nearest to it
        scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": unquote(path),
            "query_string": query.encode("ascii"),
            "headers": [(bytes(name), bytes(value)) for name, value in event.headers],
        }

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            await _send(connection, stream, message, head_only=method == "HEAD")

        await self._cloud(scope, receive, send)


async def _next(connection: h11.Connection, stream: SocketStream) -> object:
    while True:
        event = connection.next_event()
        if event is not h11.NEED_DATA:
            return event
        with anyio.fail_after(PATIENCE):
            try:
                connection.receive_data(await stream.receive(CHUNK))
            except anyio.EndOfStream:
                connection.receive_data(b"")


async def _send(
    connection: h11.Connection, stream: SocketStream, message: MutableMapping[str, Any], *, head_only: bool
) -> None:
    if message["type"] == "http.response.start":
        event = h11.Response(status_code=message["status"], headers=message["headers"])
        await stream.send(connection.send(event) or b"")
        return
    body = b"" if head_only else message.get("body", b"")
    sent = connection.send(h11.Data(data=body)) if body else b""
    await stream.send((sent or b"") + (connection.send(h11.EndOfMessage()) or b""))
