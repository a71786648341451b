"""What every emulated cloud is made of: an ASGI app with routes, a token, faults on demand and a log of its calls.

::

    class MyCloud(EmulatedCloud):
        @route("GET", "/v1/machines/{id}")
        def show(self, request: Request, id: str) -> Reply:
            return Reply(body={"id": id})

    cloud = MyCloud()
    adapter = MyAdapter(key=cloud.token, transport=cloud.transport(), base_url=cloud.base_url)

A handler is an ordinary function, so what it does is done at once or not at all, wherever the caller is cancelled;
what takes time is the way to it and back (``latency``, in seconds of the event loop's clock, virtual or real).
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import parse_qsl

import anyio
import httpx2

from ...core.clock import Clock, LoopClock
from .fault import Fault

Handler = Callable[..., "Reply"]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Cut(Exception):
    """The connection ends without a whole answer. A transport or server turns it into what a client sees then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A call as it arrived. ``body`` is its JSON; ``readable`` is False when it was none; header names are small."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    body: Any = field(default=None, repr=False)
    readable: bool = True

    @property
    def key(self) -> str:
        """The bearer token that it carries."""
        scheme, _, value = self.headers.get("authorization", "").partition(" ")
        return value.strip() if scheme.lower() == "bearer" else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """``body`` is sent as JSON, unless ``raw`` is given."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    content_type: str = "application/json"

    def content(self) -> bytes:
        if self.raw is not None:
            return self.raw
        return b"" if self.body is None else json.dumps(self.body).encode()


class Refused(Exception):
    """Raised by a handler to answer with an error from anywhere inside it."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One line of the log of calls. ``acted``: the cloud carried it out, whatever the caller learned."""

    at: float
    request: Request
    status: int | None
    acted: bool
    fault: str = ""


def route(method: str, path: str) -> Callable[[Handler], Handler]:
    """The handler of ``method`` and ``path``; ``{name}`` in it matches one segment and becomes an argument."""

    def mark(handler: Handler) -> Handler:
        marked: list[tuple[str, str]] = [*getattr(handler, "routes", []), (method, path)]
        handler.routes = marked  # type: ignore[attr-defined]
        return handler

    return mark


Observer = Callable[[Request, Reply], None]
"""Called with every call that was carried out and its true answer, before any fault; may raise to fail a test."""


class EmulatedCloud:
    """Subclass it with handlers marked by :func:`route`. ``origin`` is where its paths begin for clients in-process."""

    origin: ClassVar[str] = "http://127.0.0.1"
    latency: float = 0.01

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or LoopClock()
        self.token = secrets.token_urlsafe(24)
        """What its only customer must send; random, since renting here may start programs on this computer."""
        self.calls: list[Call] = []
        self.faults: list[Fault] = []
        self.observers: list[Observer] = []
        self._last_call: dict[str, float] = {}
        self._routes = [
            (method, re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)), getattr(self, name))
            for name in dir(type(self))
            for method, path in getattr(getattr(type(self), name), "routes", [])
        ]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.calls)} calls)"

    # --- for tests -------------------------------------------------------------------------------------------------

    def transport(self) -> httpx2.AsyncBaseTransport:
        """The way to it inside this process: no socket, so it also works under virtual time."""
        return EmulatorTransport(self)

    def inject(self, *faults: Fault) -> None:
        """Let these happen to the calls that they match, in this order, as often as each says."""
        self.faults += faults

    def heal(self) -> None:
        self.faults.clear()

    def take_fault(self, method: str, path: str, *, refusing: bool) -> Fault | None:
        """The next fault for this call, used up once. ``refusing`` asks for those that let no connection be made."""
        for index, fault in enumerate(self.faults):
            if fault.refused == refusing and fault.matches(method, path):
                left = fault.less()
                self.faults[index : index + 1] = [left] if left is not None else []
                return fault
        return None

    # --- for subclasses --------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Unix seconds by the injected clock."""
        return self.clock.now().timestamp()

    def authorise(self, request: Request) -> Reply | None:
        """None lets the call through. Override it for keys of machines, open paths and the cloud's own error body."""
        return None if secrets.compare_digest(request.key, self.token) else self.problem(401, "invalid API key")

    def admit(self, request: Request) -> Reply | None:
        """After the token was good: rate limits, validation of the body. None lets the call through."""
        return None

    def problem(self, status: int, message: str) -> Reply:
        """An error as this cloud words it."""
        return Reply(status=status, body={"error": message})

    def too_early(self, name: str, seconds: float) -> float | None:
        """A minimum interval between calls of one ``name``: the seconds that are left, None when it may pass (which
        starts the next interval)."""
        now = self.now()
        left = self._last_call.get(name, now - seconds) + seconds - now
        if left > 1e-6:
            return left
        self._last_call[name] = now
        return None

    # --- the app ---------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        request = await _read(scope, receive)
        reply = await self._answer(request)
        headers = {"content-type": reply.content_type, **reply.headers}
        start = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": start})
        await send({"type": "http.response.body", "body": reply.content()})

    async def _answer(self, request: Request) -> Reply:
        fault = self.take_fault(request.method, request.path, refusing=False)
        await anyio.sleep(self.latency)
        if fault is not None and not fault.after:
            self._log(request, fault.status, acted=False, fault=fault)
            await anyio.sleep(fault.slow)
            return _spoilt(fault, Reply(status=200, body={}), request)
        reply = self._act(request)
        self._log(request, reply.status, acted=True, fault=fault)
        for observer in self.observers:
            observer(request, reply)
        await anyio.sleep(self.latency + (fault.slow if fault is not None else 0.0))
        return reply if fault is None else _spoilt(fault, reply, request)

    def _act(self, request: Request) -> Reply:
        refused = self.authorise(request) or self.admit(request)
        if refused is not None:
            return refused
        handler, arguments, allowed = self._handler(request)
        if handler is None:
            return self.problem(405 if allowed else 404, f"no {request.method} {request.path}")
        try:
            return handler(request, **arguments)
        except Refused as error:
            return error.reply

    def _handler(self, request: Request) -> tuple[Handler | None, dict[str, str], bool]:
        path_known = False
        for method, pattern, handler in self._routes:
            match = pattern.fullmatch(request.path)
            if match and method == request.method:
                return handler, match.groupdict(), True
            path_known = path_known or match is not None
        return None, {}, path_known

    def _log(self, request: Request, status: int | None, *, acted: bool, fault: Fault | None) -> None:
        name = "" if fault is None else fault.name
        self.calls.append(Call(at=self.now(), request=request, status=status, acted=acted, fault=name))


class EmulatorTransport(httpx2.AsyncBaseTransport):
    """From an httpx2 client straight to an emulated cloud; cuts and refusals become what httpx2 says of real ones."""

    def __init__(self, cloud: EmulatedCloud) -> None:
        self._cloud = cloud
        self._asgi = httpx2.ASGITransport(app=cloud)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self._cloud.take_fault(request.method, request.url.path, refusing=True) is not None:
            raise httpx2.ConnectError("connection refused", request=request)
        try:
            return await self._asgi.handle_async_request(request)
        except Cut as error:
            raise httpx2.RemoteProtocolError("the peer closed the connection", request=request) from error


def _spoilt(fault: Fault, reply: Reply, request: Request) -> Reply:
    if fault.cut:
        raise Cut
    if fault.half:
        whole = reply.content() or b"{}"
        return Reply(status=reply.status, raw=whole[: max(1, len(whole) // 2)])
    if fault.status is not None:
        body = fault.body
        if fault.echo:
            told = f"{request.headers.get('authorization')} {json.dumps(request.body)}"
            body = {**body, "detail": told, "echo": request.body}
        return Reply(status=fault.status, body=body, headers=dict(fault.headers))
    return reply


async def _read(scope: Scope, receive: Receive) -> Request:
    content = b""
    while True:
        message = await receive()
        content += message.get("body", b"")
        if not message.get("more_body"):
            break
    readable, body = True, None
    if content:
        try:
            body = json.loads(content)
        except ValueError:
            readable = False
    return Request(
        method=scope["method"],
        path=scope["path"],
        query=dict(parse_qsl(scope["query_string"].decode(), keep_blank_values=True)),
        headers={name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]},
        body=body,
        readable=readable,
    )


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
