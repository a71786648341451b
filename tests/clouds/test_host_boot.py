"""A rented host from its user data to a serving engine: the real script, the real agent, a stand-in for the metal."""

from __future__ import annotations

import base64
import gzip
import json
import signal
import subprocess
import zlib
from pathlib import Path

import pytest

from spotinfer.agent.pack import packed_agent
from spotinfer.control.boot import BOOT
from spotinfer.core.model import InstanceSpec, Offer, OfferKind
from spotinfer.core.secret import Secret
from spotinfer.providers.cloudinit import compressed_user_data, user_data
from support.agents import STAND_IN, AgentProcess, agent_config, eventually
from support.certs import make_pki
from support.hosts import Host


class BootedAgent(AgentProcess):
    """The agent of a host, started as its service is."""

    def __init__(self, host: Host, key: str, *, compressed: bool) -> None:
        self.pki = make_pki()
        self.config = {**agent_config(host.root, self.pki), "key": key, "dir": "$SPOTINFER_DIR/agent"}
        self.config["engine"] = {"argv": ["vllm", "{port}"], "env": {"ENGINE_SECRET": "hidden"}, "tls": False}
        self.dir = host.root / "machine" / "agent"
        spec = self._spec(key)
        small = gzip.decompress(compressed_user_data(spec, limit=16_384)).decode() if compressed else ""
        host.boot(small or user_data(spec, limit=1_000_000))
        self.process = subprocess.Popen(
            [str(host.root / "start")],
            env=host.env,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def _spec(self, key: str) -> InstanceSpec:
        packed = base64.b64encode(zlib.compress(json.dumps(self.config).encode())).decode()
        return InstanceSpec(
            key=key,
            owner="me",
            name="n",
            offer=Offer(provider="lambda", id="x", kind=OfferKind.ON_DEMAND, per_hour=None),
            command=("python3", "-I", "-c", BOOT),
            env={"SPOTINFER_AGENT": packed_agent(), "SPOTINFER_CONFIG": Secret(packed)},
            image="org/image:1",
        )


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_a_rented_host_boots_the_agent_and_its_engine_serves(tmp_path: Path, compressed: bool) -> None:
    host = Host(tmp_path, container=STAND_IN)
    with BootedAgent(host, f"si-host-{tmp_path.name}", compressed=compressed) as agent:
        agent.running()
        engine = agent.ports["engine_pid"]
        eventually(lambda: _serves(agent), 10)
        log = (agent.dir / "engine.log").read_text()
        assert "pulling image org/image:1" in log
        seen = json.loads(next(line for line in log.splitlines() if line.startswith("ENV "))[4:])
        assert seen["ENGINE_SECRET"] == "hidden"
        assert not [name for name in seen if name.startswith("SPOTINFER_")]
        agent.process.send_signal(signal.SIGTERM)
        assert agent.wait() == 0
        assert not Path(f"/proc/{engine}").exists()


def _serves(agent: AgentProcess) -> bool:
    try:
        return agent.engine("/health") == "ok"
    except OSError:
        return False
