"""EC2's answers as far as we use them, its words for states, and the tags that carry what is ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_pascal

from ...core.model import Endpoint, Instance, InstanceSpec, OfferKind
from ...core.money import MachineHour
from ...core.states import Cause, State
from ..wiring import Wire, parse
from .failures import NAME

STATES: Mapping[str, State] = MappingProxyType(
    {
        "pending": State.PROVISIONING,
        "running": State.BOOTING,
        "shutting-down": State.TERMINATING,
        "terminated": State.TERMINATED,
        "stopping": State.STOPPING,
        "stopped": State.STOPPED,
    }
)
CAUSES: Mapping[str, Cause] = MappingProxyType(
    {
        # [U] the exact code of an interruption; the API reference lists both.
        "Server.SpotInstanceTermination": Cause.PREEMPTED,
        "Server.SpotInstanceShutdown": Cause.PREEMPTED,
    }
)
KEY, OWNER, LABEL, PORTS = "spotinfer:key", "spotinfer:owner", "spotinfer:name", "spotinfer:ports"
ZONED = re.compile(r"[a-z]{2}(?:-[a-z]+)+-\d+")
"""What a region is called."""
ID = re.compile(rf"(?P<region>{ZONED.pattern})/(?P<instance>i-(?:[0-9a-f]{{8}}|[0-9a-f]{{17}}))")
"""Our id of a machine: its region and EC2's id, since EC2 answers for one region at a time."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a machine is: what our id says."""

    region: str
    instance: str

    def __str__(self) -> str:
        return f"{self.region}/{self.instance}"

    @classmethod
    def of(cls, id: str) -> Place | None:
        """None for what is no id of ours: no machine can be called that."""
        found = ID.fullmatch(id)
        return None if found is None else cls(found["region"], found["instance"])


class AwsWire(Wire):
    model_config = ConfigDict(alias_generator=to_pascal)


class Tag(AwsWire):
    key: str
    value: str = ""


class Named(AwsWire):
    name: str = ""


class Zone(AwsWire):
    availability_zone: str = ""


class Region(AwsWire):
    region_name: str


class Reason(AwsWire):
    code: str = ""
    message: str = ""


class Attachment(AwsWire):
    attach_time: datetime | None = None
    device_index: int = 0


class Interface(AwsWire):
    attachment: Attachment | None = None


class Ec2Instance(AwsWire):
    instance_id: str
    instance_type: str = ""
    instance_lifecycle: str = ""
    state: Named = Named()
    state_reason: Reason = Reason()
    launch_time: datetime | None = None
    placement: Zone = Zone()
    public_ip_address: str = ""
    tags: tuple[Tag, ...] = ()
    network_interfaces: tuple[Interface, ...] = ()

    @property
    def labels(self) -> Mapping[str, str]:
        return {tag.key: tag.value for tag in self.tags}

    @property
    def kind(self) -> OfferKind:
        return OfferKind.SPOT if self.instance_lifecycle == "spot" else OfferKind.ON_DEMAND

    @property
    def created_at(self) -> datetime | None:
        """A stopped machine that is started gets a new launch time; its first interface keeps the old one."""
        attached = [item.attachment.attach_time for item in self.network_interfaces if item.attachment]
        times = [time for time in (self.launch_time, *attached) if time is not None]
        return min(times, default=None)


def instances(reservations: list[Any]) -> list[Ec2Instance]:
    return [
        parse(Ec2Instance, item, provider=NAME) for held in reservations for item in dict(held).get("Instances", [])
    ]


def to_instance(raw: Ec2Instance, region: str, seen_at: datetime, per_hour: MachineHour | None = None) -> Instance:
    labels, native = raw.labels, raw.state.name
    return Instance(
        provider=NAME,
        id=str(Place(region, raw.instance_id)),
        key=labels.get(KEY, ""),
        owner=labels.get(OWNER, ""),
        name=labels.get(LABEL, ""),
        state=STATES.get(native, State.LOST),
        native_state=native or "(none)",
        seen_at=seen_at,
        created_at=raw.created_at,
        per_hour=per_hour,
        endpoints=_endpoints(raw),
        cause=CAUSES.get(raw.state_reason.code),
        detail=raw.state_reason.message or raw.state_reason.code,
    )


def _endpoints(raw: Ec2Instance) -> Mapping[str, Endpoint]:
    if not raw.public_ip_address or raw.state.name != "running":
        return {}
    ports = dict(re.findall(r"([a-z_]+)=(\d+)", raw.labels.get(PORTS, "")))
    return {role: Endpoint(host=raw.public_ip_address, port=int(port)) for role, port in ports.items()}


def tags(spec: InstanceSpec) -> list[dict[str, str]]:
    """What every part of a machine is marked with. No time or chance in it: with the same ClientToken EC2 refuses a
    request that differs in anything."""
    ports = " ".join(f"{role}={port}" for role, port in sorted(spec.ports.items()))
    label = re.sub(r"[^A-Za-z0-9 +\-=._:/@]", "_", spec.name)[:200]
    marks = {KEY: spec.key, OWNER: spec.owner, LABEL: label, PORTS: ports, "Name": f"spotinfer {label}".strip()}
    return [{"Key": key, "Value": value} for key, value in marks.items()]


# --- what is offered -------------------------------------------------------------------------------------------------


class GpuMemory(AwsWire):
    size_in_mi_b: int = Field(default=0, validation_alias="SizeInMiB")


class Gpu(AwsWire):
    name: str = ""
    manufacturer: str = ""
    count: int = 0
    memory_info: GpuMemory = GpuMemory()


class GpuInfo(AwsWire):
    gpus: tuple[Gpu, ...] = ()


class Cpus(AwsWire):
    default_v_cpus: int = Field(default=0, validation_alias="DefaultVCpus")


class Processor(AwsWire):
    supported_architectures: tuple[str, ...] = ()


class InstanceType(AwsWire):
    instance_type: str
    supported_usage_classes: tuple[str, ...] = ()
    gpu_info: GpuInfo = GpuInfo()
    memory_info: GpuMemory = GpuMemory()
    v_cpu_info: Cpus = Field(default=Cpus(), validation_alias="VCpuInfo")
    processor_info: Processor = Processor()


class SpotPrice(AwsWire):
    availability_zone: str
    instance_type: str
    product_description: str = ""
    spot_price: str
    timestamp: datetime
