"""How the agent gets onto a machine: a command line without secrets, and everything else in two variables.

The same road is used on this computer and on rented ones: ``python3 -I -c BOOT`` unpacks the agent (a zip in
``SPOTINFER_AGENT``) into the machine's private folder and runs it; the agent reads ``SPOTINFER_CONFIG``.
"""

from __future__ import annotations

import base64
import json
import sys
import zlib
from collections.abc import Mapping
from datetime import timedelta

from ..agent.pack import packed_agent
from ..core.model import EngineCommand, InstanceSpec, LaunchSecrets, Limits, MetricNames, Offer
from ..core.protocols import Engine
from ..core.records import budget_span
from ..core.secret import Secret

BOOT = """\
import base64, os, sys, zlib
folder = os.environ.setdefault("SPOTINFER_DIR", os.path.expanduser("~/.spotinfer"))
os.makedirs(folder, 0o700, exist_ok=True)
path = os.path.join(folder, "agent.zip")
with open(path, "wb") as file:
    file.write(zlib.decompress(base64.b64decode(os.environ.pop("SPOTINFER_AGENT"))))
sys.path.insert(0, path)
from agent.main import main
sys.exit(main())
"""
PORTS: Mapping[str, int] = {"engine": 8000, "agent": 8001}
"""Ports inside a rented machine; on this computer any free one is taken."""

LINGER_SECONDS = 60
"""How long a failed engine's log stays readable before the machine ends."""
GRACE_SECONDS = 10
"""Between asking the engine to end and killing it."""


def instance_spec(
    *,
    secrets: LaunchSecrets,
    owner: str,
    name: str,
    offer: Offer,
    engine: Engine,
    command: EngineCommand,
    limits: Limits,
    local: bool,
    port: int = 0,
) -> InstanceSpec:
    """The machine to ask for. ``port`` fixes the engine's port on this computer; 0 is any free one."""
    ports = {"engine": port, "agent": 0} if local else dict(PORTS)
    config = agent_config(secrets=secrets, offer=offer, engine=engine, command=command, limits=limits, ports=ports)
    config["listen"] = {**ports, "host": "127.0.0.1" if local else "0.0.0.0"}  # noqa: S104 - mutual TLS on every port
    packed = base64.b64encode(zlib.compress(json.dumps(config).encode(), 9)).decode()
    return InstanceSpec(
        key=secrets.key,
        owner=owner,
        name=name,
        offer=offer,
        command=(sys.executable if local else "python3", "-I", "-c", BOOT),
        env={"SPOTINFER_AGENT": packed_agent(), "SPOTINFER_CONFIG": Secret(packed)},
        ports=ports,
        image=command.image,
    )


def agent_config(
    *,
    secrets: LaunchSecrets,
    offer: Offer,
    engine: Engine,
    command: EngineCommand,
    limits: Limits,
    ports: Mapping[str, int],
) -> dict[str, object]:
    """What the agent is told (its ``config.py`` documents every key)."""
    assert secrets.server is not None, "the server's certificate exists only while a launch is being prepared"
    env = {name: value.reveal() if isinstance(value, Secret) else value for name, value in command.env.items()}
    return {
        "version": 1,
        "key": secrets.key,
        "dir": "$SPOTINFER_DIR/agent",
        "files": {
            "tls/ca.pem": secrets.ca,
            "tls/server.pem": secrets.server.reveal(),
            "tls/agent.pem": secrets.agent.reveal(),
        },
        "engine": {"argv": list(command.argv), "env": env, "tls": command.tls, "port": ports["engine"]},
        "tls": {
            "cert": "tls/server.pem",
            "ca": "tls/ca.pem",
            "client": "tls/agent.pem",
            "name": secrets.dns_name,
        },
        "secret": secrets.agent_secret.reveal(),
        "metrics": {
            "path": engine.metrics_path,
            "headers": {"Authorization": f"Bearer {secrets.api_key.reveal()}"},
            "busy": list(engine.metrics.busy),
            "progress": progress_counters(engine.metrics),
        },
        "limits": agent_limits(limits, offer),
        "end": [{"kind": "exit"}],
    }


def progress_counters(names: MetricNames) -> list[str]:
    """Everything that grows with work: what says "not idle", and the token totals that the meter compares with."""
    totals = (names.prompt_tokens, names.cached_tokens, names.generated_tokens)
    return list(dict.fromkeys([*names.progress, *totals]))


def agent_limits(limits: Limits, offer: Offer) -> dict[str, float | None]:
    """Durations in seconds. The budget becomes the time that it lasts at the offered rate."""

    def seconds(span: timedelta | None) -> float | None:
        return None if span is None else span.total_seconds()

    return {
        "lease_s": seconds(limits.lease),
        "idle_s": seconds(limits.idle),
        "max_age_s": seconds(limits.max_age),
        "budget_s": seconds(budget_span(limits.budget, offer.per_hour)),
        "linger_s": LINGER_SECONDS,
        "grace_s": GRACE_SECONDS,
    }
