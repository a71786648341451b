"""What to search for at Vast, and an offer of theirs in our nouns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from types import MappingProxyType

from ...core.clock import utc
from ...core.model import GPU, Accelerators, Billing, Extras, Offer, OfferKind, Want
from ...core.money import MachineHour
from . import wire

GB = 10**9
MIB = 1 << 20
MOST = 500
"""Offers asked for at once, cheapest first. There are no further pages."""
PORTS = 2
"""What a machine of ours publishes: the engine and the agent."""
LONG_ENOUGH = 24 * 3600
"""Seconds that a host must go on offering its machine: when the offer ends, the machine does."""
TURING = 750
"""The oldest compute capability (times 100) that a current inference engine supports."""

TYPES: Mapping[OfferKind, str] = MappingProxyType({OfferKind.ON_DEMAND: "ondemand", OfferKind.INTERRUPTIBLE: "bid"})
"""Our kind -> the ``type`` of a search. The same machine is found by both, at two prices."""

CHIPS: Mapping[str, str] = MappingProxyType(
    {
        "H100 PCIE": "H100 PCIe",
        "H200 SXM": "H200",
        "GH200 SXM": "GH200",
        "RTX 6000Ada": "RTX 6000 Ada",
        "RTX 5000Ada": "RTX 5000 Ada",
        "RTX 4000Ada": "RTX 4000 Ada",
        "RTX PRO 6000 S": "RTX PRO 6000 Server",
        "RTX PRO 6000 WS": "RTX PRO 6000",
        "Tesla T4": "T4",
    }
)
"""Vast's names (with blanks; the underscores are its command line's) that differ from the canonical ones."""
SIZES: Mapping[str, str] = MappingProxyType(
    {"A100 SXM4": "A100 {}GB SXM", "A100 PCIE": "A100 {}GB PCIe", "Tesla V100": "V100 {}GB"}
)
"""Vast's names for chips of two sizes; the memory tells which."""

OUR_MONTH, THEIR_MONTH = Decimal(730), Decimal(720)
"""Hours in a month of storage. Vast's specification shows 10 GB at 0.1493 for 0.002074 an hour: a month of 720."""
ARCHITECTURES: Mapping[str, str] = MappingProxyType({"amd64": "x86_64", "arm64": "arm64", "aarch64": "arm64"})


def query(kind: OfferKind, want: Want, *, disk_gb: int, verified: bool, datacenter: bool) -> dict[str, object]:
    """The body of a search. Without ``allocated_storage`` the totals would be for a disk of 8 GB."""
    body: dict[str, object] = {
        "type": TYPES[kind],
        "rentable": {"eq": True},
        "rented": {"eq": False},
        "external": {"eq": False},
        "gpu_arch": {"eq": "nvidia"},
        "compute_cap": {"gte": TURING},
        "direct_port_count": {"gte": PORTS},
        "disk_space": {"gte": disk_gb},
        "duration": {"gte": LONG_ENOUGH},
        "allocated_storage": disk_gb,
        # The second entry keeps equal prices in one order, and the specification asks for two.
        "order": [["dph_total", "asc"], ["id", "asc"]],
        "limit": MOST,
    }
    if verified:
        body["verified"] = {"eq": True}
    if datacenter:
        body["datacenter"] = {"eq": True}
    if want.min_memory:
        body["gpu_total_ram"] = {"gte": want.min_memory // MIB}
    if want.gpu is not None:
        body["gpu_name"] = {"in": sorted(vast_names(want.gpu))}
    return body


def vast_names(canonical: str) -> set[str]:
    """Every name under which Vast may list a chip."""
    names = {theirs for theirs, ours in CHIPS.items() if ours == canonical}
    names |= {theirs for theirs, ours in SIZES.items() if canonical in {ours.format(size) for size in (16, 32, 40, 80)}}
    return names or {canonical}


def chip(name: str, memory_mib: float) -> str:
    """The canonical name of Vast's ``gpu_name``; one that is not in the tables is canonical already."""
    if name in SIZES:
        sizes = (16, 32) if name == "Tesla V100" else (40, 80)
        return SIZES[name].format(min(sizes, key=lambda size: abs(size * 1024 - memory_mib)))
    return CHIPS.get(name, name)


def offers(kind: OfferKind, found: Iterable[wire.Offer], want: Want) -> list[Offer]:
    """In our nouns, without those that ``want`` excludes."""
    translated = (offer(kind, item) for item in found)
    return [item for item in translated if item is not None and _fits(item, want)]


def offer(kind: OfferKind, item: wire.Offer) -> Offer | None:
    """None where Vast names no price for this kind."""
    price = item.min_bid if kind is OfferKind.INTERRUPTIBLE else item.dph_base
    if price is None or price <= 0 or item.num_gpus < 1:
        return None
    storage = None if item.storage_cost is None else item.storage_cost * OUR_MONTH / THEIR_MONTH
    return Offer(
        provider="vast",
        id=offer_id(item.id, kind),
        kind=kind,
        per_hour=MachineHour(price),  # a bid, too, is for the whole machine
        accelerators=Accelerators(gpu=gpu(item), count=item.num_gpus),
        cpus=int(item.cpu_cores_effective or item.cpu_cores or 0),
        # [U] cpu_ram is the host's; who rents a part of its GPUs gets that part.
        memory=int((item.cpu_ram or 0) * (item.gpu_frac or 1)) * MIB,
        disk=int(item.disk_space) * GB,
        region=region(item.geolocation),
        arch=ARCHITECTURES.get(item.cpu_arch or "amd64", item.cpu_arch or "x86_64"),
        billing=Billing(granularity=1, minimum=0),
        extras=Extras(
            storage_running=storage,
            storage_stopped=storage,  # at least: hosts often ask more for a stopped machine, and offers do not tell
            bandwidth_out=item.inet_up_cost,
            bandwidth_in=item.inet_down_cost,
        ),
        reliability=item.reliability2 if item.reliability2 is not None else item.reliability,
        cuda=None if item.cuda_max_good is None else version(item.cuda_max_good),
        expires_at=None if item.end_date is None else utc(item.end_date),
        details=details(item),
    )


def offer_id(ask: int, kind: OfferKind) -> str:
    """One ask is found by both searches."""
    return f"{ask}-{TYPES[kind]}"


def ask_of(offer: Offer) -> int | None:
    """The id to rent by; None for an offer that is not of our making."""
    ask, _, kind = offer.id.partition("-")
    return int(ask) if ask.isdecimal() and kind == TYPES.get(offer.kind) else None


def gpu(item: wire.Offer) -> GPU:
    capability = None if not item.compute_cap else (item.compute_cap // 100, item.compute_cap % 100 // 10)
    return GPU(name=chip(item.gpu_name, item.gpu_ram), memory=int(item.gpu_ram) * MIB, capability=capability)


def version(number: float) -> tuple[int, int]:
    """``12.8`` -> (12, 8)."""
    major, _, minor = str(number).partition(".")
    return int(major), int(minor or 0)


def region(geolocation: str | None) -> str:
    """``California, US`` -> ``US``; "" where the host does not say."""
    return (geolocation or "").rpartition(",")[2].strip()


def details(item: wire.Offer) -> dict[str, str]:
    told = {
        "machine": item.machine_id,
        "where": item.geolocation,
        "datacenter": None if item.hosting_type is None else ("yes" if item.hosting_type else "no"),
        "verification": item.verification,
        "ports": item.direct_port_count,
    }
    return {name: str(value) for name, value in told.items() if value is not None}


def _fits(offer: Offer, want: Want) -> bool:
    assert offer.accelerators is not None
    assert offer.per_hour is not None
    return (
        (want.gpu is None or offer.accelerators.gpu.name == want.gpu)
        and offer.accelerators.memory >= want.min_memory
        and (want.max_price is None or offer.per_hour <= want.max_price)
        and (not want.regions or offer.region in want.regions)
    )
