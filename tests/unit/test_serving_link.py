from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest

from spotinfer.core.clock import WallClock
from spotinfer.core.errors import Unhealthy
from spotinfer.core.model import Endpoint
from spotinfer.core.protocols import MachineLink
from spotinfer.core.states import Cause
from spotinfer.serving.access import issue
from spotinfer.serving.link import HttpLink
from support.machines import store

SECRETS = issue("si-link", timedelta(hours=1), datetime.now(timezone.utc))
STATUS: dict[str, Any] = {
    "version": 1,
    "key": "si-link",
    "now": 1_800_000_100.0,
    "born_at": 1_800_000_000.0,
    "phase": "running",
    "engine": {"pid": 42, "exit_code": None, "port": 8000},
    "can_end": True,
    "lease_until": 1_800_000_300.0,
    "ends_at": {"lease": 1_800_000_300.0, "idle": None, "age": 1_800_086_400.0, "budget": None},
    "idle_s": 1.5,
    "busy_s": 20.25,
    "counters": {"llamacpp:prompt_tokens_total": 3},
    "counters_at": 1_800_000_099.0,
    "connections": 2,
    "cause": None,
}
USAGE = {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 4}}


class FarSide(ThreadingHTTPServer):
    """Answers what it was told to, behind real mutual TLS, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, tuple[int, object]] = {}
        self.asked: list[tuple[str, str, str | None, Any]] = []
        assert SECRETS.server is not None
        certificate = folder / "server.pem"
        certificate.write_text(SECRETS.server.reveal())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(certificate)
        context.load_verify_locations(cadata=SECRETS.ca)
        self.socket = context.wrap_socket(self.socket, server_side=True)


class Handler(BaseHTTPRequestHandler):
    server: FarSide

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.asked.append((self.command, self.path, self.headers["Authorization"], body))
        status, answer = self.server.answers.get(self.path, (404, {"error": "no such path"}))
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET  # noqa: N815 - the name that http.server calls

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def far(tmp_path: Path) -> Iterator[FarSide]:
    server = FarSide(tmp_path)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join(5)
    server.server_close()


def call(far: FarSide | int, folder: Path, method: str, *arguments: object) -> Any:
    port = far if isinstance(far, int) else far.server_address[1]
    context = store(SECRETS, folder / "keys")

    async def run() -> Any:
        endpoint = Endpoint(host="127.0.0.1", port=port)
        link: MachineLink = HttpLink({"agent": endpoint, "engine": endpoint}, SECRETS, context, WallClock())
        try:
            return await getattr(link, method)(*arguments)
        finally:
            await link.aclose()

    return anyio.run(run)


@pytest.fixture
def nobody() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def test_status_is_read_in_our_terms(far: FarSide, tmp_path: Path) -> None:
    far.answers["/status"] = (200, STATUS)
    status = call(far, tmp_path, "status")
    assert status.phase == "running"
    assert status.born_at == datetime(2027, 1, 15, 8, 0, tzinfo=timezone.utc)
    assert status.lease_until == status.born_at + timedelta(minutes=5)
    assert status.ends_at == {"lease": status.lease_until, "age": status.born_at + timedelta(days=1)}
    assert (status.can_end, status.engine_exit_code, status.cause) == (True, None, None)
    assert (status.idle_seconds, status.busy_seconds) == (1.5, 20.25)
    assert status.counters == {"llamacpp:prompt_tokens_total": 3.0}
    assert far.asked == [("GET", "/status", f"Bearer {SECRETS.agent_secret.reveal()}", None)]


@pytest.mark.parametrize(("word", "cause"), [("idle", Cause.IDLE), ("a word of next year", None)])
def test_causes_of_a_newer_agent_are_no_error(far: FarSide, tmp_path: Path, word: str, cause: Cause | None) -> None:
    far.answers["/status"] = (200, {**STATUS, "cause": word, "engine": {"exit_code": 1}, "lease_until": None})
    status = call(far, tmp_path, "status")
    assert (status.cause, status.engine_exit_code, status.lease_until) == (cause, 1, None)


@pytest.mark.parametrize(
    "answer",
    [
        (401, {"error": "the secret is missing or wrong"}),
        (500, b"oops"),
        (200, b"<html>"),
        (200, []),
        (200, {}),
        (200, {**STATUS, "engine": None}),
        (200, {**STATUS, "born_at": "yesterday"}),
        (200, {**STATUS, "born_at": 1e300}),
    ],
)
def test_every_other_answer_is_unhealthy(far: FarSide, tmp_path: Path, answer: tuple[int, object]) -> None:
    far.answers["/status"] = answer
    with pytest.raises(Unhealthy) as caught:
        call(far, tmp_path, "status")
    assert SECRETS.agent_secret.reveal() not in str(caught.value)


def test_nobody_there_is_unhealthy_but_a_good_end(nobody: int, tmp_path: Path) -> None:
    for method, arguments in (("status", ()), ("renew", (timedelta(1),)), ("log", (5,)), ("probe", ("m",))):
        with pytest.raises(Unhealthy, match="no answer from"):
            call(nobody, tmp_path, method, *arguments)
    call(nobody, tmp_path, "end", Cause.USER)


def test_a_stranger_at_the_address_is_unhealthy(far: FarSide, tmp_path: Path) -> None:
    other = issue("si-other", None, datetime.now(timezone.utc))
    context = store(other, tmp_path / "other")

    async def run() -> None:
        endpoint = Endpoint(host="127.0.0.1", port=far.server_address[1])
        link = HttpLink({"agent": endpoint, "engine": endpoint}, other, context, WallClock())
        try:
            await link.status()
        finally:
            await link.aclose()

    with pytest.raises(Unhealthy, match="CERTIFICATE_VERIFY_FAILED"):
        anyio.run(run)
    assert far.asked == []


def test_what_is_sent_to_the_agent(far: FarSide, tmp_path: Path) -> None:
    far.answers |= {path: (200, {}) for path in ("/lease", "/drain", "/stop")}
    call(far, tmp_path, "renew", timedelta(minutes=5))
    call(far, tmp_path, "drain", timedelta(seconds=2.5))
    call(far, tmp_path, "end", Cause.BUDGET)
    assert [(method, path, body) for method, path, _, body in far.asked] == [
        ("POST", "/lease", {"seconds": 300.0}),
        ("POST", "/drain", {"grace_s": 2.5}),
        ("POST", "/stop", {"cause": "budget"}),
    ]


def test_an_end_that_was_refused_is_an_error(far: FarSide, tmp_path: Path) -> None:
    far.answers["/stop"] = (401, {"error": "the secret is missing or wrong"})
    with pytest.raises(Unhealthy, match="401"):
        call(far, tmp_path, "end", Cause.USER)


def test_log(far: FarSide, tmp_path: Path) -> None:
    far.answers["/log?tail=2"] = (200, {"lines": ["one", "two"]})
    assert call(far, tmp_path, "log", 2) == ["one", "two"]
    far.answers["/log?tail=3"] = (200, {"lines": "one"})
    with pytest.raises(Unhealthy):
        call(far, tmp_path, "log", 3)


def test_the_probe_generates_one_token(far: FarSide, tmp_path: Path) -> None:
    far.answers |= {"/health": (200, b""), "/v1/completions": (200, {"usage": USAGE})}
    probed = call(far, tmp_path, "probe", "tiny")
    assert (probed.prompt_tokens, probed.cached_tokens, probed.completion_tokens) == (5, 4, 1)
    assert timedelta(0) <= probed.ended - probed.started < timedelta(seconds=5)
    assert far.asked[1][2] == f"Bearer {SECRETS.api_key.reveal()}"
    assert far.asked[1][3]["model"] == "tiny"
    assert far.asked[1][3]["max_tokens"] == 1


def test_an_engine_that_only_says_healthy_is_not_ready(far: FarSide, tmp_path: Path) -> None:
    far.answers["/health"] = (503, {"error": "Loading model"})
    with pytest.raises(Unhealthy, match=r"503.*Loading model"):
        call(far, tmp_path, "probe", "tiny")
    assert [path for _, path, _, _ in far.asked] == ["/health"]
    far.answers["/health"] = (200, {})
    for answer in ((500, b""), (200, {}), (200, {"usage": {**USAGE, "completion_tokens": 0}})):
        far.answers["/v1/completions"] = answer
        with pytest.raises(Unhealthy):
            call(far, tmp_path, "probe", "tiny")


def test_usage_without_details_counts_as_nothing_cached(far: FarSide, tmp_path: Path) -> None:
    usage = {**USAGE, "prompt_tokens_details": None}
    far.answers |= {"/health": (200, b""), "/v1/completions": (200, {"usage": usage})}
    assert call(far, tmp_path, "probe", "tiny").cached_tokens == 0


def test_addresses_of_ip_version_6_are_put_in_brackets() -> None:
    endpoint = Endpoint(host="::1", port=9)

    async def run() -> None:
        link = HttpLink(
            {"agent": endpoint, "engine": endpoint}, SECRETS, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), WallClock()
        )
        try:
            await link.status()
        finally:
            await link.aclose()

    with pytest.raises(Unhealthy, match=r"https://\[::1\]:9/status"):
        anyio.run(run)
