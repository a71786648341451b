"""Starts an engine the way a launch on this computer does: our agent, our command line, our certificates."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import httpx2

from spotinfer.control.boot import instance_spec
from spotinfer.core.clock import WallClock
from spotinfer.core.errors import Unhealthy
from spotinfer.core.model import Endpoint, EngineSettings, LaunchSecrets, Limits, Model, Offer, OfferKind, Probed
from spotinfer.core.protocols import Engine
from spotinfer.core.secret import Secret
from spotinfer.serving.access import client_context, issue
from spotinfer.serving.link import HttpLink

from .agents import eventually

HERE = SimpleNamespace(gpus=0, local=True)
OFFER = Offer(provider="local", id="here", kind=OfferKind.OWNED, per_hour=None)


def reveal(env: Mapping[str, Secret | str]) -> dict[str, str]:
    return {name: value.reveal() if isinstance(value, Secret) else value for name, value in env.items()}


def store(secrets: LaunchSecrets, folder: Path) -> ssl.SSLContext:
    """What the key store and the transport do: certificates in files, a context out of them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ca.pem").write_text(secrets.ca)
    (folder / "client.pem").write_text(secrets.client.reveal())
    return client_context(str(folder / "ca.pem"), str(folder / "client.pem"))


class Machine:
    """One engine under an agent; ends both for certain."""

    def __init__(
        self, engine: Engine, model: Model, folder: Path, settings: EngineSettings | None = None, port: int = 0
    ) -> None:
        self.engine, self.model, self.folder = engine, model, folder
        self.secrets = issue(f"si-{os.urandom(8).hex()}", None, datetime.now(timezone.utc))
        self.context = store(self.secrets, folder / "keys")
        command = engine.command(model, settings or EngineSettings(), HERE, self.secrets.api_key.reveal())
        spec = instance_spec(
            secrets=self.secrets,
            owner="test",
            name="test",
            offer=OFFER,
            engine=engine,
            command=command,
            limits=Limits(),
            local=True,
            port=port,
        )
        self._process = subprocess.Popen(
            spec.command,
            env={**os.environ, **reveal(spec.env), "SPOTINFER_DIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)

    @property
    def ports(self) -> dict[str, int]:
        path = self.folder / "agent" / "ports.json"
        eventually(lambda: path.exists() and "engine_pid" in json.loads(path.read_text()), 20)
        found: dict[str, int] = json.loads(path.read_text())
        return found

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.ports['engine']}"

    def link(self) -> HttpLink:
        endpoints = {role: Endpoint(host="127.0.0.1", port=self.ports[role]) for role in ("agent", "engine")}
        return HttpLink(endpoints, self.secrets, self.context, WallClock())

    def wait_ready(self, seconds: float = 30) -> Probed:
        """What `launch` does: ask for a token until there is one, or the engine has ended."""

        async def run() -> Probed:
            link = self.link()
            try:
                with anyio.fail_after(seconds):
                    while True:
                        try:
                            status = await link.status()
                            if status.engine_exit_code is not None:
                                raise self.engine.diagnose(await link.log(200), status.engine_exit_code)
                            return await link.probe(self.model.served_name)
                        except Unhealthy:
                            await anyio.sleep(0.05)
            finally:
                await link.aclose()

        return anyio.run(run)

    def client(self, context: ssl.SSLContext | None = None) -> httpx2.Client:
        """A plain HTTP client with the key and, unless another context is given, the right certificate."""
        return httpx2.Client(
            base_url=self.url,
            verify=context or self.context,
            trust_env=False,
            timeout=60,
            headers={"Authorization": f"Bearer {self.secrets.api_key.reveal()}"},
        )

    def ask(self, client: httpx2.Client, path: str, body: object = None) -> httpx2.Response:
        method = "GET" if body is None else "POST"
        return client.request(method, path, json=body, extensions={"sni_hostname": self.secrets.dns_name})

    def chat(self, client: httpx2.Client, text: str, **options: Any) -> Any:
        body = {"model": self.model.served_name, "messages": [{"role": "user", "content": text}], **options}
        answer = self.ask(client, "/v1/chat/completions", body)
        assert answer.status_code == 200, answer.text
        return answer.json()
