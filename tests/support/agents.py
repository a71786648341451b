"""Starts a real agent process from a configuration, the way a machine does: program and configuration in variables."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from spotinfer.agent.pack import packed_agent

from .certs import DNS_NAME, Pki

STAND_IN = Path(__file__).with_name("stand_in_engine.py")
SECRET = "lease-secret"
PYTHON = os.environ.get("SPOTINFER_TEST_AGENT_PYTHON", sys.executable)
BOOT = """
import base64, os, sys, tempfile, zlib
handle, path = tempfile.mkstemp(suffix=".zip")
os.write(handle, zlib.decompress(base64.b64decode(os.environ["SPOTINFER_AGENT"])))
os.close(handle)
sys.path.insert(0, path)
from agent.main import main
os.unlink(path)
main()
"""


def agent_config(folder: Path, pki: Pki, *traits: str, **limits: float | None) -> dict[str, Any]:
    """A configuration of an agent over the stand-in engine, with no limits but those given."""
    tls = "tls" in traits
    arguments = [*traits, *(("{dir}/tls/server.pem", "{dir}/tls/ca.pem") if tls else ())]
    none = {"lease_s": None, "idle_s": None, "max_age_s": None, "budget_s": None}
    return {
        "version": 1,
        "key": f"si-{uuid.uuid4().hex}",
        "dir": str(folder),
        "files": {"tls/server.pem": pki.server, "tls/ca.pem": pki.ca, "tls/agent.pem": pki.agent},
        "engine": {"argv": [sys.executable, "-I", str(STAND_IN), "{port}", *arguments], "env": {}, "tls": tls},
        "listen": {"host": "127.0.0.1", "agent": 0, "engine": 0},
        "tls": {"cert": "tls/server.pem", "ca": "tls/ca.pem", "client": "tls/agent.pem", "name": DNS_NAME},
        "secret": SECRET,
        "metrics": {"path": "/metrics", "headers": {}, "busy": ["engine:busy"], "progress": ["engine:tokens_total"]},
        "limits": {**none, "linger_s": 5, "grace_s": 1, **limits},
        "end": [{"kind": "exit"}],
        "strip": ["STRANGE_"],
        "unknown": "ignored",
    }


class AgentProcess:
    """One agent, its ports, and how to end it for certain."""

    def __init__(self, config: Mapping[str, Any], pki: Pki, environ: Mapping[str, str] | None = None) -> None:
        self.config = config
        self.pki = pki
        self.dir = Path(config["dir"])
        packed = base64.b64encode(zlib.compress(json.dumps(config).encode())).decode()
        self.process = subprocess.Popen(
            [PYTHON, "-I", "-c", BOOT],
            env={**os.environ, **(environ or {}), "SPOTINFER_AGENT": packed_agent(), "SPOTINFER_CONFIG": packed},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> AgentProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        assert self.process.stderr
        self.process.stderr.close()
        eventually(lambda: not self.engine_processes(), 10)

    @property
    def ports(self) -> dict[str, int]:
        """`ports.json`, once the engine was started."""
        path = self.dir / "ports.json"
        eventually(lambda: path.exists() and "engine_pid" in json.loads(path.read_text()), 10)
        return json.loads(path.read_text())

    @property
    def ended(self) -> dict[str, Any]:
        return json.loads((self.dir / "ended.json").read_text())

    def call(self, method: str, path: str, body: object = None, **kwargs: Any) -> tuple[int, Any]:
        """One request to the control port; the status and the JSON answer."""
        headers = {"Authorization": f"Bearer {kwargs.pop('secret', SECRET)}", **kwargs.pop("headers", {})}
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        with self.connect("agent", **kwargs) as sock:
            connection = http.client.HTTPConnection(DNS_NAME)
            connection.sock = sock
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def engine(self, path: str) -> str:
        """One GET to the engine from outside."""
        with self.connect("engine") as sock:
            connection = http.client.HTTPConnection(DNS_NAME)
            connection.sock = sock
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.status == 200
            return answer.read().decode()

    def connect(self, port: str, certificate: str | None = None) -> ssl.SSLSocket:
        sock = socket.create_connection(("127.0.0.1", self.ports[port]), timeout=5)
        return self.pki.client_context(certificate).wrap_socket(sock, server_hostname=DNS_NAME)

    def status(self) -> dict[str, Any]:
        status, answer = self.call("GET", "/status")
        assert status == 200, answer
        assert isinstance(answer, dict)
        return answer

    def until(self, wanted: Callable[[dict[str, Any]], bool], seconds: float = 8) -> dict[str, Any]:
        """The first status that is as wanted."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found.append(self.status())
            return wanted(found[-1])

        eventually(look, seconds)
        return found[-1]

    def running(self) -> AgentProcess:
        self.until(lambda status: status["phase"] == "running")
        return self

    def wait(self, seconds: float = 10) -> int:
        return self.process.wait(seconds)

    def stderr(self) -> str:
        assert self.process.stderr
        return self.process.stderr.read()

    def engine_processes(self) -> list[int]:
        """Living processes that carry this machine's mark."""
        found = []
        for process in psutil.process_iter():
            try:
                marked = process.environ().get("SPOTINFER_KEY") == self.config["key"]
                if marked and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found


def eventually(check: Callable[[], object], seconds: float, pause: float = 0.05) -> None:
    """Wait until the check holds; fail with its name after `seconds`."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds} s: {check}"
        time.sleep(pause)
