"""The agent as a real process: who gets an answer from its two ports, and what the relay carries."""

from __future__ import annotations

import socket
import ssl
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from spotinfer.serving.tiny import tiny_model
from support.agents import AgentProcess, agent_config
from support.certs import Pki, make_pki


@pytest.fixture(scope="module")
def pki() -> Pki:
    return make_pki()


@pytest.fixture
def agent(tmp_path: Path, pki: Pki) -> Iterator[AgentProcess]:
    """A running agent without limits."""
    with AgentProcess(agent_config(tmp_path, pki), pki) as process:
        yield process.running()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[AgentProcess]:
    """A running agent for the tests that do not end it."""
    with AgentProcess(agent_config(tmp_path_factory.mktemp("shared"), pki), pki) as process:
        yield process.running()


# -- strangers --------------------------------------------------------------------------------------------------------


def _answer_to_stranger(agent: AgentProcess, port: str, certificate: str) -> bytes:
    """What a client with this certificate gets for a request; b"" where the connection is refused."""
    try:
        with agent.connect(port, certificate) as sock:
            sock.sendall(b"GET /status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer lease-secret\r\n\r\n")
            return sock.recv(1000)
    except (ssl.SSLError, ConnectionError):
        return b""


def test_strangers_get_no_answer_and_make_no_noise(agent: AgentProcess) -> None:
    for port in ("agent", "engine"):
        assert _answer_to_stranger(agent, port, agent.pki.client).startswith(b"HTTP/1.1 ")
        for certificate in ("", make_pki().client, agent.pki.server):
            assert _answer_to_stranger(agent, port, certificate) == b""
        with socket.create_connection(("127.0.0.1", agent.ports[port])) as plain:
            plain.sendall(b"GET /status HTTP/1.1\r\n\r\n")
            assert b"HTTP" not in plain.recv(1000)
    with agent.connect("agent") as open_until_the_end:
        open_until_the_end.sendall(b"GET /status HTTP/1.1\r\n")
        agent.call("POST", "/stop")
        agent.wait()
    assert [line.split(" ", 2)[2] for line in agent.stderr().splitlines()][1:] == ["engine answers", "ending: user"]


def test_the_control_port_refuses_what_is_wrong(shared: AgentProcess) -> None:
    assert shared.call("GET", "/status", secret="wrong")[0] == 401
    assert shared.call("GET", "/nothing", secret="wrong")[0] == 401
    assert shared.call("GET", "/nothing")[0] == 404
    assert shared.call("POST", "/status")[0] == 405
    assert shared.call("POST", "/lease", b"{no json")[0] == 400
    assert shared.call("POST", "/lease", [1])[0] == 400
    for seconds in (None, "5", True, -1, 1e12):
        assert shared.call("POST", "/lease", {"seconds": seconds})[0] == 400
    assert shared.call("POST", "/stop", {"cause": "No Word"})[0] == 400
    assert shared.call("GET", "/log?tail=x")[0] == 400
    assert shared.call("POST", "/lease", b"x" * 70_000)[0] == 413
    status, answer = shared.call("GET", "/status", headers={"X-Long": "x" * 20_000})
    assert status == 431
    assert "error" in answer
    assert shared.status()["phase"] == "running"


def test_a_lease_can_be_added_and_that_is_said(shared: AgentProcess) -> None:
    assert shared.status()["lease_until"] is None
    status, answer = shared.call("POST", "/lease", {"seconds": 60})
    assert (status, answer["added"]) == (200, True)
    assert shared.status()["lease_until"] == pytest.approx(time.time() + 60, abs=2)


# -- the relay and TLS engines ----------------------------------------------------------------------------------------


def test_two_hundred_streams_pass_at_once(shared: AgentProcess) -> None:
    before = shared.until(lambda status: status["counters"]["engine:busy"] == 0)["counters"]["engine:tokens_total"]
    with ThreadPoolExecutor(200) as pool:
        streams = list(pool.map(shared.engine, ["/slow?10"] * 200))
    assert all(stream.count("data:") == 10 for stream in streams)
    shared.until(lambda status: status["connections"] == 0)
    shared.until(lambda status: status["counters"]["engine:tokens_total"] == before + 2000)


def test_a_client_that_leaves_ends_the_engines_side(shared: AgentProcess) -> None:
    with shared.connect("engine") as sock:
        sock.sendall(b"GET /slow?500 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(10)
        shared.until(lambda status: status["counters"]["engine:busy"] == 1)
    shared.until(lambda status: status["counters"]["engine:busy"] == 0, 3)
    assert shared.status()["connections"] == 0


def test_a_slow_reader_holds_the_engine_back_and_not_the_agents_memory(shared: AgentProcess) -> None:
    size = 64 << 20
    agent = psutil.Process(shared.process.pid)
    before = agent.memory_info().rss
    with shared.connect("engine") as sock:
        sock.sendall(b"GET /large?%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % size)
        sock.recv(1)
        time.sleep(0.5)
        assert agent.memory_info().rss - before < 16 << 20
        received = 1
        while data := sock.recv(1 << 20):
            received += len(data)
    assert received > size


def test_an_engine_with_its_own_tls_is_watched_through_it(tmp_path: Path, pki: Pki) -> None:
    with AgentProcess(agent_config(tmp_path, pki, "tls", idle_s=1), pki) as agent:
        agent.running()
        assert agent.engine("/health") == "ok"
        agent.engine("/bump?3")
        agent.until(lambda status: status["counters"]["engine:tokens_total"] == 3)
        assert agent.wait() == 0
        assert agent.ended["cause"] == "idle"


def test_the_tail_of_a_large_log_is_quick(shared: AgentProcess) -> None:
    with (shared.dir / "engine.log").open("a") as log:
        log.writelines(f"line {number}\n" for number in range(2_000_000))
    started = time.monotonic()
    lines = shared.call("GET", "/log?tail=3")[1]["lines"]
    assert time.monotonic() - started < 0.5
    assert lines == ["line 1999997", "line 1999998", "line 1999999"]
    assert len(shared.call("GET", "/log?tail=99999")[1]["lines"]) == 2000


@pytest.mark.engine
def test_real_llama_cpp_under_the_agent(tmp_path: Path, pki: Pki) -> None:
    pytest.importorskip("xllamacpp")
    tiny = tiny_model(tmp_path / "tiny.gguf", format="gguf")
    code = (
        "import sys, time, xllamacpp\n"
        "p = xllamacpp.CommonParams(); p.model.path = sys.argv[2]; p.endpoint_metrics = True\n"
        "p.port = int(sys.argv[1]); server = xllamacpp.Server(p); time.sleep(600)\n"
    )
    config = agent_config(tmp_path / "machine", pki, idle_s=30)
    config["engine"]["argv"] = [sys.executable, "-c", code, "{port}", str(tiny)]
    config["metrics"]["busy"] = ["llamacpp:requests_processing"]
    config["metrics"]["progress"] = ["llamacpp:prompt_tokens_total", "llamacpp:tokens_predicted_total"]
    with AgentProcess(config, pki) as agent:
        agent.until(lambda status: status["phase"] == "running", 30)
        assert "ok" in agent.engine("/health")
        assert "llamacpp:prompt_tokens_total" in agent.status()["counters"]
        agent.call("POST", "/stop")
        assert agent.wait(15) == 0
        assert agent.engine_processes() == []
