"""A live server seen from beside our client: its counters over a connection of our own, its processes by the system."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import httpx2
import psutil

from spotinfer import AsyncServer, Server
from spotinfer.core.model import MetricNames
from spotinfer.core.records import RequestRow
from spotinfer.ledger.keys import FileKeyStore
from spotinfer.serving.access import client_context
from spotinfer.serving.metrics import Tokens, tokens

from .agents import eventually


class Owner:
    """The keys of one launch, and what its engine says to whoever has them."""

    def __init__(self, home: Path, server: Server | AsyncServer, names: MetricNames) -> None:
        keystore = FileKeyStore(home / "keys")
        secrets = keystore.load(server.key)
        assert secrets is not None
        self.secrets = secrets
        self.address = (server.endpoint.host, server.endpoint.port)
        self.context: ssl.SSLContext = client_context(
            str(keystore.ca_pem(server.key)), str(keystore.client_pem(server.key))
        )
        self._names = names

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secrets.api_key.reveal()}"}

    def get(self, path: str) -> httpx2.Response:
        """Over a connection that is closed at once: one that stays open would delay the engine's end."""
        host, port = self.address
        with httpx2.Client(verify=self.context, trust_env=False, timeout=60, headers=self.headers) as client:
            answer: httpx2.Response = client.get(
                f"https://{host}:{port}{path}", extensions={"sni_hostname": self.secrets.dns_name}
            )
        return answer

    def counters(self) -> Tokens:
        """Once the engine has nothing to do and its counters stand still."""
        seen: list[tuple[Tokens, float]] = []

        def still() -> bool:
            seen.append(self._read())
            return len(seen) > 1 and seen[-1][1] == 0 and seen[-1] == seen[-2]

        eventually(still, 30)
        return seen[-1][0]

    def _read(self) -> tuple[Tokens, float]:
        answer = self.get("/metrics")
        assert answer.status_code == 200, answer.text
        found: dict[str, float] = {}
        for line in answer.text.splitlines():
            if not line.startswith("#"):
                name, number = line.split("{")[0].split()[0], line.rsplit(" ", 1)[1]
                found[name] = found.get(name, 0.0) + float(number)
        totals = tokens(found, self._names)
        assert totals is not None, "the engine does not count"
        return totals, sum(found[name] for name in self._names.busy)


class Told(NamedTuple):
    """Token counts of requests, whoever says them. ``prompt`` includes ``cached``."""

    prompt: int
    cached: int
    generated: int

    @classmethod
    def sum(cls, rows: Iterable[RequestRow]) -> Told:
        counts = [(row.prompt_tokens, row.cached_tokens, row.completion_tokens) for row in rows]
        return cls(*(sum(column) for column in zip(*counts, strict=True))) if counts else cls(0, 0, 0)


class Counted:
    """The meter's rows since it was made, and by how much the engine's own counters grew."""

    def __init__(self, server: Server | AsyncServer, owner: Owner) -> None:
        self._server, self._owner = server, owner
        self._before = owner.counters()
        self._old = {cost.row for cost in server.meter.snapshot().rows}

    @property
    def rows(self) -> list[RequestRow]:
        """In the order in which they began."""
        new = [cost.row for cost in self._server.meter.snapshot().rows if cost.row not in self._old]
        return sorted(new, key=lambda row: row.started)

    @property
    def metered(self) -> Told:
        return Told.sum(self.rows)

    @property
    def grown(self) -> Told:
        now = self._owner.counters()
        return Told(*(after - before for after, before in zip(now, self._before, strict=True)))


class Family:
    """Every process of a machine while it lives. vLLM's workers rename themselves, which overwrites the mark in their
    environment, so they are remembered as descendants.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        marked = self._marked()
        (self.agent,) = [process for process in marked if process.ppid() not in {other.pid for other in marked}]
        self.engine = [*self.agent.children(recursive=True)]

    @property
    def names(self) -> set[str]:
        return {process.name() for process in self.engine}

    def living(self) -> list[str]:
        """Command lines of what still runs of it, found by the mark or remembered."""
        found = {*self._marked(), *filter(_alive, [self.agent, *self.engine])}
        return [_command_line(process) for process in found]

    def _marked(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if _mark(process) == self._key and _alive(process)]


def running_from(folder: Path) -> list[str]:
    """Command lines of processes that work for a machine of this home: its folders are among their arguments."""
    me = psutil.Process()
    others = (process for process in psutil.process_iter() if process != me)
    return [line for line in map(_command_line, others) if str(folder) in line]


def _mark(process: psutil.Process) -> str | None:
    try:
        mark: str | None = process.environ().get("SPOTINFER_KEY")
    except psutil.Error:
        return None
    return mark


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
