"""RunPod's catalogue as offers. The catalogue quotes one GPU; an offer is a whole machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal

from ...core.model import Accelerators, Billing, Extras, Offer, OfferKind, Want
from ...core.money import ZERO, GpuHour, whole_machine
from . import wire
from .chips import CHIPS

NAME = "runpod"
SECURE, COMMUNITY = "SECURE", "COMMUNITY"
CLOUDS = (SECURE, COMMUNITY)
COUNTS = (1, 2, 4, 8)
"""GPUs per machine that are asked for: what tensor parallelism can use."""

BILLING = Billing(granularity=1)
"""Compute and storage per second. Whether the time of the image's download is billed is not known; RunPod says "from
creation", so it is taken as billed."""
EXTRAS = Extras(
    storage_running=Decimal("0.10"),  # container disk; not in the API, and not verified on a bill
    storage_stopped=ZERO,  # the container disk is wiped by a stop; we make no host-local volume, which would cost 0.20
    bandwidth_out=ZERO,
    bandwidth_in=ZERO,
)


def catalogue_query(cloud: str, count: int) -> dict[str, object]:
    """Availability is told only with ``product``, and only for one cloud and count at a time."""
    return {"include": "AVAILABILITY", "product": "POD", "cloud": cloud, "count": count}


def offers(gpus: Iterable[wire.Gpu], cloud: str, count: int, want: Want) -> Iterator[Offer]:
    """What of the catalogue, asked for ``cloud`` and ``count``, can be rented now and fits the filter.

    Without regions in the filter the scheduler may choose any data centre, which finds capacity more often; the price
    is the same everywhere. Community machines cannot be pinned to a place, so a filter by region leaves them out.
    """
    if OfferKind.ON_DEMAND not in want.kinds:
        return
    for gpu in gpus:
        rate = _rate(gpu, cloud)
        if rate is None or count > _most(gpu, cloud) or gpu.availability == "NONE" or gpu.id not in CHIPS:
            continue
        for region in _regions(gpu, cloud, want):
            yield _offer(gpu, cloud, count, rate, region)


def _offer(gpu: wire.Gpu, cloud: str, count: int, rate: GpuHour, region: str) -> Offer:
    return Offer(
        provider=NAME,
        id=":".join(filter(None, (gpu.id, str(count), cloud, region))),
        kind=OfferKind.ON_DEMAND,
        per_hour=whole_machine(rate, count),
        accelerators=Accelerators(gpu=CHIPS[gpu.id], count=count),
        region=region,
        billing=BILLING,
        extras=EXTRAS,
        cuda=newest_cuda(gpu.cuda),
        details={"gpu": gpu.id, "cloud": cloud, "availability": gpu.availability},
    )


def _rate(gpu: wire.Gpu, cloud: str) -> GpuHour | None:
    offered, price = (gpu.secure, gpu.price.secure) if cloud == SECURE else (gpu.community, gpu.price.community)
    return GpuHour(price) if offered and price else None


def _most(gpu: wire.Gpu, cloud: str) -> int:
    return gpu.max_count.secure if cloud == SECURE else gpu.max_count.community


def _regions(gpu: wire.Gpu, cloud: str, want: Want) -> list[str]:
    if not want.regions:
        return [""]
    if cloud == COMMUNITY:
        return []
    return [
        center.id
        for center in gpu.data_centers
        if center.availability != "NONE" and any(_within(center.id, region) for region in want.regions)
    ]


def _within(center: str, region: str) -> bool:
    """``US-KS-2`` is in ``US-KS-2``, in ``US-KS`` and in ``US``."""
    return center == region or center.startswith(f"{region}-")


def newest_cuda(versions: Iterable[wire.Cuda]) -> tuple[int, int] | None:
    """Of those on which a machine is free now."""
    found = [tuple(map(int, item.version.split("."))) for item in versions if item.available and _version(item)]
    return max(((pair[0], pair[1]) for pair in found), default=None)


def _version(item: wire.Cuda) -> bool:
    major, _, minor = item.version.partition(".")
    return major.isdecimal() and minor.isdecimal()
