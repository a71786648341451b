"""The emulated RunPod's goods and books: what it offers, what a pod is, and what it charges for one."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from .timeline import Timeline

HOUR = 3600
RUNNING = frozenset({"PROVISIONING", "STARTING", "RUNNING"})
"""Compute bills from the creation on, whatever the container does."""
GB_MONTH = Decimal("0.10")
"""Dollars for a gigabyte of container disk and month of 730 hours, while the pod is not stopped."""
AMOUNTS = ("totalAmount", "gpuAmount", "cpuAmount", "diskAmount")


@dataclass(kw_only=True)
class GpuKind:
    """A line of the catalogue. ``stock`` is how many GPUs are free in each cloud and data centre."""

    id: str
    name: str
    memory: int
    secure: str
    community: str
    stock: dict[tuple[str, str], int]
    cuda: tuple[str, ...] = ("12.4", "12.8", "13.0")

    def most(self, cloud: str) -> int:
        return max((free for (where, _), free in self.stock.items() if where == cloud), default=0)

    def price(self, cloud: str) -> Decimal:
        return Decimal(self.secure if cloud == "SECURE" else self.community)


def usual_gpus() -> list[GpuKind]:
    def kind(id: str, name: str, memory: int, secure: str, community: str, free: int) -> GpuKind:
        places = {("SECURE", "US-KS-2"): free, ("SECURE", "EU-RO-1"): free, ("COMMUNITY", "CA-MTL-1"): free // 2}
        return GpuKind(id=id, name=name, memory=memory, secure=secure, community=community, stock=places)

    return [
        kind("NVIDIA GeForce RTX 4090", "RTX 4090", 24, "0.69", "0.34", 8),
        kind("NVIDIA L4", "L4", 24, "0.39", "0.0", 4),
        kind("NVIDIA A100 80GB PCIe", "A100 PCIe", 80, "1.64", "1.19", 8),
        kind("NVIDIA H100 80GB HBM3", "H100 SXM", 80, "2.99", "2.69", 8),
        kind("AMD Instinct MI300X OAM", "MI300X", 192, "2.49", "2.49", 8),
    ]


@dataclass(kw_only=True)
class EmulatedPod:
    id: str
    body: dict[str, Any] = field(repr=False)
    rate: Decimal
    place: tuple[str, str]
    timeline: Timeline
    machine_key: str = field(repr=False)
    lines: list[tuple[float, str, str]] = field(default_factory=list)
    ports: dict[int, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.body["name"])

    @property
    def gpus(self) -> int:
        return int(self.body["gpu"]["count"])


def catalogue_line(kind: GpuKind, cloud: str, count: int, told: bool) -> dict[str, Any]:
    """The GPU as the catalogue shows it; ``told``: with its availability in ``cloud`` for ``count`` on one machine."""
    line: dict[str, Any] = {
        "id": kind.id,
        "name": kind.name,
        "pool": None,
        "manufacturer": kind.id.split()[0],
        "memory": kind.memory,
        "secure": float(kind.secure) > 0,
        "community": float(kind.community) > 0,
        "price": {"secure": float(kind.secure), "community": float(kind.community)},
        "maxCount": {"secure": 8, "community": 4},
    }
    if not told:
        return line
    stock = {place: free for (where, place), free in kind.stock.items() if where == cloud}
    line["availability"] = _level(max(stock.values(), default=0), count)
    line["dataCenters"] = [
        {"id": place, "name": place, "availability": _level(free, count)} for place, free in stock.items()
    ]
    if kind.id.startswith("NVIDIA"):
        free = line["availability"] != "NONE"
        line["cudaVersions"] = [{"version": version, "available": free} for version in kind.cuda]
    return line


def invoice(pod: EmulatedPod, start: float, end: float) -> tuple[Decimal, Decimal]:
    """Dollars for compute and for the container disk within a time: per second while it is not stopped."""
    seconds = Decimal(str(pod.timeline.seconds(RUNNING, start, end)))
    disk = Decimal(pod.body.get("disk", 20)) * GB_MONTH / Decimal(730)
    return pod.rate * seconds / HOUR, disk * seconds / HOUR


def buckets(pod: EmulatedPod, start: float, end: float, size: int, now: float) -> list[dict[str, Any]]:
    """The pod's bill by stretches of ``size`` seconds; one without cost is left out."""
    records = []
    first = max(start, pod.timeline.began // size * size)
    for bucket in range(int(first), int(min(end, now + size)), size):
        gpu, disk = (_shown(part) for part in invoice(pod, bucket, min(bucket + size, now)))
        if gpu or disk:
            record = {"podId": pod.id, "startTime": rfc3339(bucket), "endTime": rfc3339(bucket + size)}
            amounts = {"totalAmount": gpu + disk, "gpuAmount": gpu, "cpuAmount": 0.0, "diskAmount": disk}
            records.append({**record, **amounts})
    return records


def _shown(amount: Decimal) -> float:
    """A bill's amounts are doubles with a few digits."""
    return float(amount.quantize(Decimal("0.000001"), rounding=ROUND_HALF_UP))


def _level(free: int, count: int) -> str:
    if free < count:
        return "NONE"
    return "HIGH" if free >= 4 * count else "MEDIUM" if free >= 2 * count else "LOW"


def number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def rfc3339(at: float) -> str:
    return datetime.fromtimestamp(int(at), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def unix(text: str | None, default: float) -> float:
    return default if text is None else datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
