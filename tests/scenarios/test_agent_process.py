"""The agent as a real process over a real engine process: every end, every stranger, every thing it must not leak."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.agents import AgentProcess, agent_config, eventually
from support.certs import Pki, make_pki


@pytest.fixture(scope="module")
def pki() -> Pki:
    return make_pki()


@pytest.fixture
def agent(tmp_path: Path, pki: Pki) -> Iterator[AgentProcess]:
    """A running agent without limits."""
    with AgentProcess(agent_config(tmp_path, pki), pki) as process:
        yield process.running()


# -- ends -------------------------------------------------------------------------------------------------------------


def test_each_limit_ends_the_machine_and_all_its_processes(tmp_path: Path, pki: Pki) -> None:
    causes = {"lease_s": "lease_lapsed", "idle_s": "idle", "max_age_s": "max_age", "budget_s": "budget"}
    with ExitStack() as stack:
        agents = {}
        for limit, cause in causes.items():
            config = agent_config(tmp_path / cause, pki, "child", "orphan", **{limit: 1.5})
            agents[cause] = stack.enter_context(AgentProcess(config, pki))
        started = time.monotonic()
        for agent in agents.values():
            assert agent.ports["engine_pid"] in agent.engine_processes()
        stack.enter_context(agents["idle"].connect("engine"))  # a connection without work is idle
        for cause, agent in agents.items():
            assert agent.wait() == 0
            assert time.monotonic() - started < 6
            assert agent.engine_processes() == []
            assert agent.ended == {**agent.ended, "cause": cause, "exit_code": -signal.SIGTERM, "detail": ""}
            assert f"ending: {cause}" in agent.stderr()


def test_a_renewed_lease_keeps_the_machine_and_a_stored_one_is_not_renewed_by_a_restart(
    tmp_path: Path, pki: Pki
) -> None:
    config = agent_config(tmp_path, pki, lease_s=1)
    with AgentProcess(config, pki) as agent:
        for _ in range(5):
            status, answer = agent.call("POST", "/lease", {"seconds": 1})
            assert (status, answer["added"]) == (200, False)
            time.sleep(0.3)
        assert agent.status()["ends_at"]["lease"] == pytest.approx(time.time() + 0.8, abs=0.5)
        assert agent.wait() == 0
        assert agent.ended["cause"] == "lease_lapsed"
    with AgentProcess(config, pki) as again:
        assert again.wait() == 0
        assert again.ended["cause"] == "lease_lapsed"
        assert "engine started" not in again.stderr()


def test_work_is_not_idle_by_gauge_or_by_counter(tmp_path: Path, pki: Pki) -> None:
    with AgentProcess(agent_config(tmp_path, pki, idle_s=1.2), pki) as agent:
        agent.running().engine("/busy?1")
        time.sleep(1.6)
        assert agent.status()["idle_s"] < 1.2
        agent.engine("/busy?0")
        for _ in range(4):
            agent.engine("/bump?10")
            time.sleep(0.4)
        status = agent.status()
        assert status["counters"] == {"engine:busy": 0.0, "engine:tokens_total": 40.0}
        assert status["busy_s"] > 1.5
        assert agent.wait() == 0
        assert agent.ended["cause"] == "idle"


def test_a_failed_engine_stays_readable_then_ends(tmp_path: Path, pki: Pki) -> None:
    with AgentProcess(agent_config(tmp_path, pki, "child", "fail", linger_s=1.5), pki) as agent:
        status = agent.until(lambda status: status["phase"] == "failed")
        assert status["engine"]["exit_code"] == 7
        assert status["cause"] == "engine_failed"
        eventually(lambda: not agent.engine_processes(), 3)  # the engine's worker does not linger
        assert agent.call("GET", "/log?tail=1")[1] == {"lines": ["fatal: no such model"]}
        assert agent.wait() == 0
        assert agent.ended["cause"] == "engine_failed"
        assert agent.ended["exit_code"] == 7


def test_a_failed_engine_does_not_linger_when_told_to_stop(tmp_path: Path, pki: Pki) -> None:
    with AgentProcess(agent_config(tmp_path, pki, "fail", linger_s=60), pki) as agent:
        agent.until(lambda status: status["phase"] == "failed")
        agent.call("POST", "/stop", {"cause": "user"})
        assert agent.wait(3) == 0
        assert agent.ended["cause"] == "engine_failed"


def test_a_command_that_cannot_be_started_is_a_failed_engine(tmp_path: Path, pki: Pki) -> None:
    config = agent_config(tmp_path, pki)
    config["engine"]["argv"] = ["/no/such/engine"]
    with AgentProcess(config, pki) as agent:
        status = agent.until(lambda status: status["phase"] == "failed")
        assert status["engine"]["exit_code"] == 127
        assert "/no/such/engine" in agent.call("GET", "/log")[1]["lines"][-1]
        agent.call("POST", "/stop")
        assert agent.wait(3) == 0


def test_a_taken_port_ends_the_machine_with_the_reason(tmp_path: Path, pki: Pki) -> None:
    config = agent_config(tmp_path, pki)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config["listen"]["agent"] = taken.getsockname()[1]
        with AgentProcess(config, pki) as agent:
            assert agent.wait() == 0
            assert agent.ended["cause"] == "engine_failed"
            assert str(taken.getsockname()[1]) in agent.ended["detail"]


def test_stop_ends_at_once_and_kills_what_ignores_sigterm(tmp_path: Path, pki: Pki) -> None:
    with AgentProcess(agent_config(tmp_path, pki, "stubborn", "child", grace_s=0.5), pki) as agent:
        assert agent.running().call("POST", "/stop", {"cause": "reconciled"})[0] == 200
        assert agent.wait(5) == 0
        assert agent.ended == {**agent.ended, "cause": "reconciled", "exit_code": -signal.SIGKILL}
        assert agent.engine_processes() == []


def test_drain_lets_the_stream_finish_and_takes_no_other(agent: AgentProcess) -> None:
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(agent.engine, "/slow?40")
        agent.until(lambda status: status["counters"]["engine:busy"] == 1)
        assert agent.call("POST", "/drain", {"grace_s": 20})[1] == {"phase": "draining"}
        with pytest.raises(OSError):
            agent.engine("/health")
        assert stream.result(10).count("data:") == 40
    assert agent.wait(5) == 0
    assert agent.ended["cause"] == "user"


def test_drain_waits_no_longer_than_its_grace(agent: AgentProcess) -> None:
    agent.engine("/busy?1")
    agent.until(lambda status: status["counters"]["engine:busy"] == 1)
    agent.call("POST", "/drain", {"grace_s": 0.5})
    assert agent.wait(4) == 0


def test_sigterm_ends_the_machine_and_a_second_one_kills_at_once(tmp_path: Path, pki: Pki) -> None:
    with AgentProcess(agent_config(tmp_path, pki, "stubborn", grace_s=60), pki) as agent:
        agent.running().process.send_signal(signal.SIGTERM)
        agent.until(lambda status: status["phase"] == "ending")
        agent.process.send_signal(signal.SIGTERM)
        assert agent.wait(3) == 0
        assert agent.ended["cause"] == "terminated"
        assert agent.engine_processes() == []


def test_a_killed_agent_leaves_no_engine(tmp_path: Path, pki: Pki) -> None:
    with AgentProcess(agent_config(tmp_path, pki, "stubborn", "child"), pki) as agent:
        assert len(agent.running().engine_processes()) == 2
        agent.process.kill()
        agent.wait()
        eventually(lambda: not agent.engine_processes(), 3)


# -- birth, lock, files -----------------------------------------------------------------------------------------------


def test_age_counts_from_the_first_birth(tmp_path: Path, pki: Pki) -> None:
    (tmp_path / "born").write_text(str(time.time() - 3600))
    with AgentProcess(agent_config(tmp_path, pki, max_age_s=3602), pki) as agent:
        assert agent.status()["born_at"] == pytest.approx(time.time() - 3600, abs=5)
        assert agent.wait() == 0
        assert agent.ended["cause"] == "max_age"


def test_a_birth_in_the_future_does_not_lengthen_life(tmp_path: Path, pki: Pki) -> None:
    (tmp_path / "born").write_text(str(time.time() + 86400))  # the clock was set back while the machine was down
    with AgentProcess(agent_config(tmp_path, pki, max_age_s=1), pki) as agent:
        assert agent.wait() == 0
        assert agent.ended["cause"] == "max_age"


def test_the_lock_is_held_by_agent_and_engine_and_refuses_a_second(tmp_path: Path, pki: Pki) -> None:
    config = agent_config(tmp_path, pki)
    with AgentProcess(config, pki) as agent:
        ports = agent.running().ports
        assert ports["pid"] == agent.process.pid
        descriptors = Path(f"/proc/{ports['engine_pid']}/fd").iterdir()
        assert str(tmp_path / "lock") in [os.readlink(descriptor) for descriptor in descriptors]
        with AgentProcess({**config, "key": "si-second"}, pki) as second:
            assert second.wait() == 3
            assert "in use" in second.stderr()
        assert agent.status()["phase"] == "running"


def test_private_files_are_private(agent: AgentProcess) -> None:
    assert agent.dir.stat().st_mode & 0o777 == 0o700
    names = ["tls/server.pem", "engine.log", "lock", "ports.json", "born"]
    assert {name: (agent.dir / name).stat().st_mode & 0o777 for name in names} == dict.fromkeys(names, 0o600)


def test_the_engine_sees_no_key_and_no_secret(tmp_path: Path, pki: Pki) -> None:
    leaked = dict.fromkeys(("OPENAI_API_KEY", "RUNPOD_API_KEY", "AWS_SECRET_ACCESS_KEY", "STRANGE_THING"), "leaked")
    config = agent_config(tmp_path, pki)
    config["engine"]["env"] = {"ENGINE_KEY": "x{port}", "BRACES": '{"a": {}}', "VLLM_API_KEY": "wanted"}
    with AgentProcess(config, pki, {**leaked, "HF_HOME": "/cache"}) as agent:
        lines = agent.running().call("GET", "/log?tail=2000")[1]["lines"]
        environ = json.loads(next(line for line in lines if line.startswith("ENV "))[4:])
    assert "leaked" not in environ.values()
    assert [name for name in environ if name.startswith("SPOTINFER_")] == ["SPOTINFER_KEY"]
    assert environ["HF_HOME"] == "/cache"
    assert environ["BRACES"] == '{"a": {}}'
    assert environ["VLLM_API_KEY"] == "wanted"
    assert environ["ENGINE_KEY"][1:].isdigit()


def test_a_bad_configuration_is_one_clear_line(tmp_path: Path, pki: Pki) -> None:
    config = agent_config(tmp_path, pki)
    del config["limits"]["lease_s"]
    with AgentProcess(config, pki) as agent:
        assert agent.wait() == 2
        assert agent.stderr().rstrip().endswith("agent: bad configuration: limits.lease_s is missing")


def test_bad_certificates_are_a_bad_configuration(tmp_path: Path, pki: Pki) -> None:
    config = agent_config(tmp_path, pki)
    config["files"]["tls/server.pem"] = "no certificate"
    with AgentProcess(config, pki) as agent:
        assert agent.wait() == 2
        assert "tls/server.pem cannot be used" in agent.stderr()


def test_no_configuration_is_one_clear_line() -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environ.pop("SPOTINFER_CONFIG", None)
    done = subprocess.run(
        [sys.executable, "-m", "spotinfer.agent"], env=environ, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 2
    assert "SPOTINFER_CONFIG is not set" in done.stderr
