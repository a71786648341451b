"""Joins the parts into one program: start the engine, watch it, and end the machine for the first cause that comes.

Exit codes: 0 the machine was ended, 1 no step of the end's recipe worked, 2 bad configuration, 3 the folder is locked.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import sys
import time
from typing import Any, NoReturn

from . import fuse
from .config import VERSION, BadConfig, Config, take
from .control import Control, Refused
from .engine import Engine
from .relay import Relay
from .state import Folder, say
from .watch import Activity, Clock, Limits, Source

TICK_S = 1.0
POLL_FIRST_S, POLL_LEAST_S, POLL_S, POLL_MOST_S = 0.1, 0.5, 1.0, 5.0
READ_S = 5.0
LOOPBACK = "127.0.0.1"


class Agent:
    """One machine from its birth to its end."""

    def __init__(self, config: Config, folder: Folder, lock: int) -> None:
        self.config = config
        self.folder = folder
        self._lock = lock
        self._server_tls = self._context(ssl.PROTOCOL_TLS_SERVER, config.tls.cert)
        self._client_tls = self._context(ssl.PROTOCOL_TLS_CLIENT, config.tls.client)
        self.clock = Clock()
        self.limits = Limits(config.limits, folder, self.clock)
        self.activity = Activity(time.monotonic(), config.metrics.busy, config.metrics.progress)
        self._control = Control(self, config.secret)
        self.engine: Engine | None = None
        self.relay: Relay | None = None
        self._source: Source | None = None
        self.can_end = False
        self._ports = {"agent": 0, "engine": 0, "pid": os.getpid()}
        self._cause: str | None = None
        self._detail = ""
        self._failed_at: float | None = None
        self._drain: tuple[float, float] | None = None  # begun at, wait until
        self._poll_s = POLL_FIRST_S

    def _context(self, protocol: int, certificate: str) -> ssl.SSLContext:
        """Both directions demand a certificate of this launch's own CA, and trust no other."""
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(self.folder.file(self.config.tls.ca))
            context.load_cert_chain(self.folder.file(certificate))
        except OSError as error:
            raise BadConfig(f"tls: {self.config.tls.ca} or {certificate} cannot be used: {error}") from error
        return context

    # -- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Live until a cause comes, then end the engine and the machine."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_complain)
        self._wake, self._poll_now = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGCHLD, self._wake.set)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a detached machine outlives its terminal
        poll = loop.create_task(self._poll())
        try:
            await self._start()
            await self._watch()
        except Exception as error:  # noqa: BLE001 - whatever it is: a machine that nobody watches must not bill on
            self._detail = str(error) or repr(error)
            self.end("engine_failed")
        poll.cancel()
        return await self._finish()

    async def _start(self) -> None:
        """Bind the ports, try the fuse, start the engine; in this order, so that the owner can always ask why."""
        listen, own = self.config.listen, self.config.engine
        control = _bind(listen.host, listen.agent)
        await self._control.listen(control, self._server_tls)
        host = listen.host if own.tls else LOOPBACK
        # Behind the relay the engine cannot have the relay's own port, though an owner may name it for both.
        port = (own.port or listen.engine) if own.tls else own.port * (own.port != listen.engine)
        port = port or _free_port(host)
        self._ports.update(agent=control.getsockname()[1], engine=port)
        if not own.tls:
            self.relay = Relay(port)
            outside = _bind(listen.host, listen.engine)
            await self.relay.listen(outside, self._server_tls)
            self._ports["engine"] = outside.getsockname()[1]
        metrics = self.config.metrics
        reached = LOOPBACK if host in ("", "0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
        tls = self._client_tls if own.tls else None
        self._source = Source(reached, port, metrics.path, metrics.headers, tls, self.config.tls.name)
        self.folder.record("ports.json", self._ports)
        self.can_end = await asyncio.get_running_loop().run_in_executor(None, fuse.can_end, self.config.end)
        cause = self._cause or self.limits.due(0.0)
        if cause:
            self.end(cause)  # the limits passed while the machine was down
            return
        self.engine = Engine(self.config, self.folder, host, port, self._lock)
        self.engine.start()
        self.activity = Activity(time.monotonic(), metrics.busy, metrics.progress)
        self.folder.record("ports.json", {**self._ports, "engine_pid": self.engine.pid})
        say(f"engine started, pid {self.engine.pid}, can_end {self.can_end}")

    async def _watch(self) -> None:
        """End the machine when a limit is reached; notice an engine that ended by itself."""
        while not self._cause:
            self.folder.cap_log()
            if self.engine:
                self.engine.reap()
                if self.engine.exit_code is not None and self._failed_at is None:
                    await self._engine_failed(self.engine)
            cause = self._verdict()
            if cause:
                self.end(cause)
            self._wake.clear()
            nearest = min(self.limits.left(), self._linger_left())
            await _wait(self._wake, min(TICK_S, max(0.02, nearest)))

    async def _engine_failed(self, engine: Engine) -> None:
        self._failed_at = time.monotonic()
        self._detail = f"the engine ended by itself with exit code {engine.exit_code}"
        say(self._detail)
        await engine.stop(min(2.0, self.config.limits.grace_s))  # its workers may have outlived it

    def _linger_left(self) -> float:
        if self._failed_at is None:
            return TICK_S
        return self._failed_at + self.config.limits.linger_s - time.monotonic()

    def _verdict(self) -> str | None:
        now = time.monotonic()
        if self._failed_at is not None:
            return "engine_failed" if self._linger_left() <= 0 else self.limits.due(0.0)
        if self._drain and (now >= self._drain[1] or self.activity.quiet_since(self._drain[0])):
            return "user"
        return self.limits.due(self.activity.proven_idle_s(now))

    async def _poll(self) -> None:
        """Read the counters often enough for the idle limit, seldom enough to cost nothing."""
        names = self.config.metrics.busy + self.config.metrics.progress
        while self._failed_at is None:
            begun = time.monotonic()
            reading = None
            if self._source:
                try:
                    reading = await self._source.read(names, READ_S)
                except Exception:  # noqa: BLE001 - whatever it is: the counters were not read, so we cannot tell
                    reading = None
            now = time.monotonic()
            if reading is not None and not self.activity.ready:
                say("engine answers")
            self.activity.saw(reading, now)
            self._wake.set()
            self._poll_now.clear()
            await _wait(self._poll_now, max(self._next_poll(now), min(10.0, 5 * (now - begun))))

    def _next_poll(self, now: float) -> float:
        limit, idle = self.config.limits.idle_s, self.activity.idle_s(now)
        self._poll_s = min(POLL_MOST_S if idle else POLL_S, self._poll_s * 1.3)
        if not self.activity.ready:
            return self._poll_s
        left = POLL_MOST_S if limit is None else limit - idle
        return max(POLL_LEAST_S, min(POLL_LEAST_S if self._drain else self._poll_s, left))

    # -- the end ------------------------------------------------------------------------------------------------

    def end(self, cause: str) -> None:
        """End for this cause; the first one counts."""
        if self._cause is None:
            self._cause = cause if self._failed_at is None else "engine_failed"  # whatever ends its lingering
            say(f"ending: {self._cause} {self._detail}".rstrip())
        self._wake.set()

    def _on_signal(self) -> None:
        if self._cause and self.engine:
            self.engine.hurry = True
        self.end("terminated")

    async def _finish(self) -> int:
        if self.relay:
            self.relay.close()
        if self.engine:
            await self.engine.stop(self.config.limits.grace_s)
        ended = {"cause": self._cause, "at": self.clock.now(), "detail": self._detail}
        self.folder.record("ended.json", {**ended, "exit_code": self.engine and self.engine.exit_code})
        worked = await fuse.end(self.config.end)
        self._control.close()
        if not worked:
            say("no step of the recipe ended this machine")
        return 0 if worked else 1

    # -- what the control port asks ---------------------------------------------------------------------------------

    @property
    def phase(self) -> str:
        if self._cause:
            return "ending"
        if self._failed_at is not None:
            return "failed"
        if self._drain:
            return "draining"
        return "running" if self.activity.ready else "starting"

    def status(self) -> dict[str, Any]:
        mono, now, engine = time.monotonic(), self.clock.now(), self.engine
        idle_s, age_s = self.activity.idle_s(mono), self.activity.age_s(mono)
        return {
            "version": VERSION,
            "key": self.config.key,
            "now": now,
            "born_at": self.limits.born,
            "phase": self.phase,
            "engine": {
                "pid": engine and engine.pid,
                "exit_code": engine and engine.exit_code,
                "port": self._ports["engine"],
            },
            "can_end": self.can_end,
            "lease_until": self.limits.lease_until,
            "ends_at": self.limits.ends_at(idle_s),
            "idle_s": idle_s,
            "busy_s": self.activity.busy_s,
            "counters": self.activity.counters,
            "counters_at": None if age_s is None else now - age_s,
            "connections": self.relay.connections if self.relay else 0,
            "cause": self._cause or ("engine_failed" if self._failed_at is not None else None),
        }

    def renew(self, seconds: float) -> dict[str, Any]:
        if self._cause:
            raise Refused(409, f"ending: {self._cause}")
        added = self.limits.lease_until is None
        until = self.limits.renew(seconds)
        self._wake.set()
        return {"lease_until": until, "added": added}

    def drain(self, grace_s: float) -> dict[str, Any]:
        if not self._cause and self._failed_at is None:
            now = time.monotonic()
            self._drain = (self._drain[0] if self._drain else now, now + grace_s)
            if self.relay:
                self.relay.close()
            self._poll_now.set()
            self._wake.set()
        return {"phase": self.phase}

    def stop(self, cause: str) -> dict[str, Any]:
        self.end(cause)
        return {"phase": self.phase, "cause": self._cause}


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


def _bind(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    return sock


def _free_port(host: str) -> int:
    with _bind(host, 0) as sock:
        return int(sock.getsockname()[1])


def _complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Strangers' failed handshakes and cut connections are no news; anything else is one line."""
    error = context.get("exception")
    if not isinstance(error, OSError):
        say(f"{context.get('message')}: {error!r}")


def _more_files() -> None:
    """A relayed connection takes two descriptors; the usual soft limit of 1024 is too few."""
    import resource

    with contextlib.suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def main() -> NoReturn:
    """Run the agent on the configuration in the environment; never returns."""
    try:
        config = take(os.environ)
        folder = Folder(os.path.abspath(os.path.expanduser(os.path.expandvars(config.dir))))
        lock = folder.lock()
        folder.forget("ports.json", "ended.json")
        for name, text in config.files.items():
            folder.write(name, text)
        agent = Agent(config, folder, lock)
    except BlockingIOError:
        say("the folder is in use by another agent or its engine")
        sys.exit(3)
    except (BadConfig, OSError) as error:
        say(f"bad configuration: {error}")
        sys.exit(2)
    _more_files()
    sys.exit(asyncio.run(agent.run()))
