"""Lambda's instance types as offers: one price per type, for the whole machine, and one offer per region that says it
has some. That list is advisory: a launch may still be refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from types import MappingProxyType

from ...core.errors import OfferGone
from ...core.model import GPU, Accelerators, Billing, Extras, Offer, OfferKind, Want
from ...core.money import ZERO, MachineHour
from . import wire

NAME = "lambda"

CAPABILITY: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "V100": (7, 0),
        "RTX 6000": (7, 5),
        "A100": (8, 0),
        "A10": (8, 6),
        "RTX A6000": (8, 6),
        "H100": (9, 0),
        "H200": (9, 0),
        "GH200": (9, 0),
        "B200": (10, 0),
        "GB200": (10, 0),
        "B300": (10, 3),
    }
)
"""CUDA compute capability by canonical name (NVIDIA's list). Lambda's "RTX 6000" is the Quadro of 24 GB."""
ALIASES: Mapping[str, str] = MappingProxyType({"A6000": "RTX A6000", "Quadro RTX 6000": "RTX 6000"})
ARM = frozenset({"GH200", "GB200", "GB300"})
"""Chips that sit on a Grace processor: these machines are arm64. The API does not tell a type's architecture."""
NO_FIREWALL = frozenset({"us-south-1"})
"""Regions without firewall rulesets (older docs of Lambda; unverified). Whether our ports can be reached there is not
known, so nothing is offered there rather than rent what may not answer."""

BILLING = Billing(granularity=60)
"""Per minute from the first passed health check to the end; no minimum is documented."""
EXTRAS = Extras(storage_running=ZERO, bandwidth_out=ZERO, bandwidth_in=ZERO)
"""The machine's own disk and traffic are included. There is no stopped state, so no price for it."""
FRESH = timedelta(minutes=5)
"""How long an offer is believed; the cloud promises nothing."""
GIB = 1 << 30

_CHIP = re.compile(r"(?P<name>.+?) \((?P<gb>\d+) GB(?: (?P<form>[^)]+))?\)")


def offers(types: wire.Types, want: Want, now: datetime) -> list[Offer]:
    """What can be rented now, machines without a GPU left out: our engines' images need one there."""
    if OfferKind.ON_DEMAND not in want.kinds:
        return []
    return [
        offer
        for item in types.data.values()
        for offer in _offers(item, now)
        if not want.regions or offer.region in want.regions
    ]


def offer_place(offer: Offer) -> tuple[str, str]:
    """(instance type, region) out of an offer's id. Raises :class:`OfferGone` for an id that is none of ours."""
    kind, at, region = offer.id.partition("@")
    if not (kind and at and region):
        raise OfferGone(f"{offer.id!r} is no offer of Lambda", provider=NAME)
    return kind, region


def per_hour(kind: wire.InstanceType) -> MachineHour:
    return MachineHour(Decimal(kind.price_cents_per_hour) / 100)


def _offers(item: wire.TypeItem, now: datetime) -> Iterator[Offer]:
    kind = item.instance_type
    chips = accelerators(kind)
    if chips is None:
        return
    for region in item.regions_with_capacity_available:
        if region.name in NO_FIREWALL:
            continue
        yield Offer(
            provider=NAME,
            id=f"{kind.name}@{region.name}",
            kind=OfferKind.ON_DEMAND,
            per_hour=per_hour(kind),
            accelerators=chips,
            cpus=kind.specs.vcpus,
            memory=kind.specs.memory_gib * GIB,
            disk=kind.specs.storage_gib * GIB,
            region=region.name,
            arch="arm64" if chips.gpu.name in ARM else "x86_64",
            billing=BILLING,
            extras=EXTRAS,
            expires_at=now + FRESH,
            details={"instance_type": kind.name, "gpu_description": kind.gpu_description},
        )


def accelerators(kind: wire.InstanceType) -> Accelerators | None:
    """``H100 (80 GB SXM5)`` as a chip; None for a machine without one, or one whose memory is not told."""
    found = _CHIP.fullmatch(kind.gpu_description.strip())
    if kind.specs.gpus < 1 or found is None:
        return None
    name = chip_name(found["name"])
    gpu = GPU(name=name, memory=int(found["gb"]) * GIB, capability=CAPABILITY.get(name))
    return Accelerators(gpu=gpu, count=kind.specs.gpus)


def chip_name(name: str) -> str:
    """The canonical name: without the maker and the line (``NVIDIA``, ``Tesla``, ``GeForce``)."""
    words = [word for word in name.split() if word not in ("NVIDIA", "Tesla", "GeForce")]
    plain = " ".join(words) or name
    return ALIASES.get(plain, plain)
