"""The agent's own port: a minimal HTTP/1.1 server behind mutual TLS. Every head, body and wait is bounded."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import socket
import ssl
from typing import TYPE_CHECKING, Any, Callable, NamedTuple  # noqa: UP035 - Python 3.8
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from .main import Agent

MAX_HEAD = 16 << 10
MAX_BODY = 64 << 10
MAX_CONNECTIONS = 64
MAX_LINES = 2000
MAX_SPAN_S = 30 * 86400.0
REQUEST_S = 10.0
IDLE_S = 75.0


class Refused(Exception):
    """The request gets this HTTP status and, as JSON, this reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Request(NamedTuple):
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes = b""

    def number(self, name: str, default: float | None) -> float:
        """A number of seconds in the JSON body."""
        value: Any = self.data().get(name, default)
        if type(value) not in (int, float) or not 0 <= value <= MAX_SPAN_S:  # NaN is not in that range either
            raise Refused(400, f"{name} must be a number between 0 and {MAX_SPAN_S:g}")
        return float(value)

    def data(self) -> dict[str, Any]:
        try:
            data = json.loads(self.body or b"{}")
        except ValueError as error:
            raise Refused(400, "the body is not JSON") from error
        if not isinstance(data, dict):
            raise Refused(400, "the body must be a JSON object")
        return data


class Control:
    """Serves status, log, lease, drain and stop to the holder of the certificate and the secret."""

    def __init__(self, agent: Agent, secret: str) -> None:
        self._agent = agent
        self._bearer = f"Bearer {secret}".encode()
        self._open = 0
        self._server: asyncio.AbstractServer | None = None
        self._routes: dict[str, tuple[str, Callable[[_Request], dict[str, Any]]]] = {
            "/status": ("GET", lambda _: agent.status()),
            "/log": ("GET", self._log),
            "/lease": ("POST", lambda request: agent.renew(request.number("seconds", None))),
            "/drain": ("POST", lambda request: agent.drain(request.number("grace_s", 60))),
            "/stop": ("POST", self._stop),
        }

    async def listen(self, sock: socket.socket, tls: ssl.SSLContext) -> None:
        self._server = await asyncio.start_server(
            self._serve, sock=sock, ssl=tls, ssl_handshake_timeout=10, limit=MAX_HEAD
        )

    def close(self) -> None:
        """Answer nobody else."""
        if self._server:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            while self._open <= MAX_CONNECTIONS and await self._exchange(reader, writer):
                pass
        except (OSError, EOFError, asyncio.TimeoutError, asyncio.CancelledError):
            pass  # the client went away or fell silent, or the agent ends: nobody is left to tell
        finally:
            self._open -= 1
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection can carry another, which after a refusal it does not."""
        keep = False
        try:
            request = await self._read(reader)
            status, answer = 200, self._answer(request)
            keep = request.headers.get("connection", "").lower() != "close"
        except Refused as refusal:
            status, answer = refusal.status, {"error": str(refusal)}
        body = json.dumps(answer).encode()
        head = (
            f"HTTP/1.1 {status} \r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: {'keep-alive' if keep else 'close'}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await asyncio.wait_for(writer.drain(), REQUEST_S)
        return keep

    async def _read(self, reader: asyncio.StreamReader) -> _Request:
        first = await asyncio.wait_for(reader.readexactly(1), IDLE_S)
        try:
            head = first + await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), REQUEST_S)
        except asyncio.LimitOverrunError as error:
            raise Refused(431, f"the head is longer than {MAX_HEAD} bytes") from error
        start, *lines = head.decode("latin-1").split("\r\n")[:-2]
        parts = start.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            raise Refused(400, "not HTTP/1.1")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._authorise(headers)  # before the body: a stranger may not make us read it
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not re.fullmatch("[0-9]{1,9}", length):
            raise Refused(411, "a body needs a Content-Length")
        if int(length) > MAX_BODY:
            raise Refused(413, f"the body is longer than {MAX_BODY} bytes")
        body = await asyncio.wait_for(reader.readexactly(int(length)), REQUEST_S)
        target = urlsplit(parts[1])
        return _Request(parts[0], target.path, parse_qs(target.query), headers, body)

    def _authorise(self, headers: dict[str, str]) -> None:
        given = headers.get("authorization", "").encode("latin-1", "replace")
        if not hmac.compare_digest(given, self._bearer):
            raise Refused(401, "the secret is missing or wrong")

    def _answer(self, request: _Request) -> dict[str, Any]:
        if request.path not in self._routes:
            raise Refused(404, f"no such path; there are {', '.join(self._routes)}")
        method, handler = self._routes[request.path]
        if request.method != method:
            raise Refused(405, f"{request.path} takes {method}")
        return handler(request)

    def _log(self, request: _Request) -> dict[str, Any]:
        tail = request.query.get("tail", ["100"])[-1]
        if not re.fullmatch("[0-9]{1,9}", tail) or int(tail) < 1:
            raise Refused(400, "tail must be a positive number")
        return {"lines": self._agent.folder.tail_log(min(MAX_LINES, int(tail)))}

    def _stop(self, request: _Request) -> dict[str, Any]:
        cause = request.data().get("cause", "user")
        if not isinstance(cause, str) or not re.fullmatch("[a-z_]{1,40}", cause):
            raise Refused(400, "cause must be a word of a-z and _")
        return self._agent.stop(cause)
