"""A machine of ours as RunPod's pod, in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from types import MappingProxyType

from ...core.errors import ProviderError
from ...core.model import Endpoint, Instance, InstanceSpec
from ...core.money import MachineHour
from ...core.secret import Secret
from ...core.states import State
from . import wire
from .offers import COMMUNITY, NAME, SECURE

STATES: Mapping[str, State] = MappingProxyType(
    {
        "PROVISIONING": State.PROVISIONING,
        "STARTING": State.BOOTING,
        "RUNNING": State.BOOTING,  # the container runs; whether the engine answers only the engine can tell
        "EXITED": State.STOPPED,
        "ERROR": State.LOST,  # "unrecoverable"; whether it still bills is not said
        "TERMINATED": State.TERMINATED,
    }
)

ROLES: Mapping[int, str] = MappingProxyType({8000: "engine", 8001: "agent"})
"""Ports inside the machine. A pod tells its ports but cannot carry what they are for."""

MARK = "spotinfer"
OURS = re.compile(rf"{MARK}\.(?P<owner>[A-Za-z0-9_-]+)\.(?P<key>[A-Za-z0-9_-]+)(?:\.(?P<name>.*))?")
"""A pod has no tags: its name is the only marker."""
WORD = re.compile(r"[A-Za-z0-9_-]+")
LONGEST_NAME = 150

DEFAULT_DISK = 100 * 10**9
"""Bytes of container disk where the caller does not say: the weights of a model for one GPU, and room to unpack."""
ENV_LIMIT = 50
RESERVED = frozenset({"RUNPOD_API_KEY", "RUNPOD_POD_ID"})
"""RunPod sets these in the machine; the key is good for that pod only, and the machine ends itself with it."""


def pod_name(spec: InstanceSpec) -> str:
    if not (WORD.fullmatch(spec.owner) and WORD.fullmatch(spec.key)):
        raise ProviderError("a pod's name can carry only letters, digits, - and _ of owner and key", provider=NAME)
    shown = re.sub(r"[^A-Za-z0-9 _-]+", "-", spec.name).strip()
    return f"{MARK}.{spec.owner}.{spec.key}.{shown}"[:LONGEST_NAME] if shown else f"{MARK}.{spec.owner}.{spec.key}"


def create_body(spec: InstanceSpec, volume: tuple[str, str] | None = None) -> dict[str, object]:
    """The body of ``POST /pods``. ``volume`` is a network volume's id and where it is mounted.

    Raises :class:`ProviderError` for what RunPod would refuse or misunderstand.
    """
    details, chips = spec.offer.details, spec.offer.accelerators
    if spec.image is None:
        raise ProviderError("a pod needs an image", provider=NAME, hint="choose an engine that names one")
    if chips is None or "gpu" not in details or details.get("cloud") not in (SECURE, COMMUNITY):
        raise ProviderError(f"{spec.offer.id!r} is no offer of RunPod", provider=NAME)
    if RESERVED & set(spec.env) or len(spec.env) > ENV_LIMIT:
        raise ProviderError(
            f"a pod takes at most {ENV_LIMIT} variables, and not {' or '.join(sorted(RESERVED))}", provider=NAME
        )
    # Always the count: without it no machine matches, and the refusal speaks of missing capacity.
    gpu: dict[str, object] = {"id": details["gpu"], "count": chips.count}
    if spec.offer.cuda is not None:
        # The offer promises it, and a machine with an older driver would fail to start the container.
        gpu["minCudaVersion"] = f"{spec.offer.cuda[0]}.{spec.offer.cuda[1]}"
    body: dict[str, object] = {
        "name": pod_name(spec),
        "image": spec.image,
        "gpu": gpu,
        "cloud": details["cloud"],
        "disk": max(1, -(-(spec.disk or DEFAULT_DISK) // 10**9)),
        "ports": [f"{port}/tcp" for port in _ports(spec.ports)],
        "env": {name: value.reveal() if isinstance(value, Secret) else value for name, value in spec.env.items()},
        # `args` only adds to the image's entrypoint. These two are live but newer than the published schema.
        "entrypoint": list(spec.command[:1]),
        "cmd": list(spec.command[1:]),
    }
    if spec.offer.region:
        body["dataCenterIds"] = [spec.offer.region]
    if volume is not None:
        body["mounts"] = {"network": [{"volumeId": volume[0], "path": volume[1]}]}
    return body


def _ports(ports: Mapping[str, int]) -> Iterable[int]:
    for role, port in ports.items():
        if ROLES.get(port) != role:
            known = ", ".join(f"{role} {port}" for port, role in ROLES.items())
            raise ProviderError(f"the ports of a pod are {known}, not {role} {port}", provider=NAME)
    return ports.values()


def instance(pod: wire.Pod, seen_at: datetime) -> Instance:
    """The pod in our words. A pod that is not ours has an empty key and owner."""
    ours = OURS.fullmatch(pod.name)
    state = STATES.get(pod.status, State.LOST)
    return Instance(
        provider=NAME,
        id=pod.id,
        key=ours["key"] if ours else "",
        owner=ours["owner"] if ours else "",
        name=(ours["name"] or "") if ours else pod.name,
        state=state,
        native_state=pod.status,
        seen_at=seen_at,
        created_at=_utc(pod.created_at),
        per_hour=None if pod.cost is None else MachineHour(pod.cost),
        endpoints=dict(_endpoints(pod)) if pod.status == "RUNNING" else {},
        detail="RunPod calls it unrecoverable" if pod.status == "ERROR" else "",
    )


def _endpoints(pod: wire.Pod) -> Iterable[tuple[str, Endpoint]]:
    """TCP mappings only: the HTTPS proxy is public, not ours to authenticate, and cuts a request after 100 s."""
    ports = pod.runtime.ports if pod.runtime is not None else None
    for port in ports or ():
        role = ROLES.get(port.private)
        if role is not None and port.type == "tcp" and port.public and port.ip:
            yield role, Endpoint(host=port.ip.strip(), port=port.public)


def _utc(moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)
