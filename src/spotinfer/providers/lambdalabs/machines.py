"""A Lambda instance as one of our machines: its states, and what its tags remember for us.

The API keeps neither a time of creation nor which ports we use, and the adapter holds no state, so tags carry both.
Tags can be read by everybody in the account: nothing secret goes into them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType

from ...core.clock import utc
from ...core.errors import ProviderError
from ...core.model import Endpoint, Instance, InstanceSpec
from ...core.states import Cause, State
from . import wire
from .offers import NAME, per_hour

STATES: Mapping[str, State] = MappingProxyType(
    {
        "booting": State.PROVISIONING,
        "active": State.BOOTING,
        "unhealthy": State.LOST,
        "preempted": State.LOST,
        "terminating": State.TERMINATING,
        "terminated": State.TERMINATED,
    }
)
"""Lambda's words. ``active`` has an address; whether the engine answers, only asking it can tell (machines have been
active with GPUs that failed). ``unhealthy`` failed a health check and bills until it is terminated. ``preempted`` is in
the specification without a word on what it means, so it is read as "may bill" until the machine is gone."""

CAUSES: Mapping[str, Cause] = MappingProxyType({"preempted": Cause.PREEMPTED})
DETAILS: Mapping[str, str] = MappingProxyType(
    {
        "unhealthy": "it failed Lambda's health check and bills until it is terminated",
        "preempted": "Lambda says preempted; whether it still bills is not documented",
    }
)

KEY, OWNER, CREATED, PORTS = "spotinfer-key", "spotinfer-owner", "spotinfer-created", "spotinfer-ports"
TAG_VALUE = 128
NAME_LENGTH = 64


def tags(spec: InstanceSpec, now: datetime) -> dict[str, str]:
    """What the machine remembers. Raises :class:`ProviderError` for a value that a tag cannot hold: a key cut short
    would never be found again."""
    ports = ",".join(f"{role}={port}" for role, port in spec.ports.items())
    made = {KEY: spec.key, OWNER: spec.owner, CREATED: str(int(now.timestamp())), PORTS: ports}
    for name, value in made.items():
        if len(value) > TAG_VALUE:
            raise ProviderError(f"{name} has more than {TAG_VALUE} characters", provider=NAME)
    return made


def shown_name(spec: InstanceSpec) -> str:
    """For people who look at Lambda's dashboard."""
    return f"{spec.name} {spec.key}".strip()[:NAME_LENGTH]


def describe(machine: wire.Machine, now: datetime) -> Instance:
    """The snapshot of a machine. An unknown word for its state is ``LOST`` and is kept."""
    told = {tag.key: tag.value for tag in machine.tags}
    state = STATES.get(machine.status, State.LOST)
    off = state in (State.TERMINATING, State.TERMINATED)
    return Instance(
        provider=NAME,
        id=machine.id,
        key=told.get(KEY, ""),
        state=state,
        native_state=machine.status,
        seen_at=now,
        created_at=_created(told.get(CREATED, "")),
        owner=told.get(OWNER, ""),
        name=machine.name,
        per_hour=per_hour(machine.instance_type) if machine.instance_type is not None else None,
        endpoints={} if off or not machine.ip else _endpoints(machine.ip, told.get(PORTS, "")),
        cause=CAUSES.get(machine.status),
        detail=DETAILS.get(machine.status, ""),
    )


def exists(machine: wire.Machine) -> bool:
    return STATES.get(machine.status, State.LOST) is not State.TERMINATED


def _created(text: str) -> datetime | None:
    return utc(int(text)) if re.fullmatch(r"\d{1,11}", text) else None


def _endpoints(address: str, text: str) -> dict[str, Endpoint]:
    """Ports are the machine's own: its address is public and nothing is mapped."""
    found = re.findall(r"([a-z]+)=(\d{1,5})", text)
    return {role: Endpoint(host=address, port=int(port)) for role, port in found}
