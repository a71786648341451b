"""What EC2 offers and at which price: types and zones, the spot price of each zone, and the on-demand price list.

Prices are AWS's own and are read, never written down here: spot from ``DescribeSpotPriceHistory`` per region, the
rest from the Price List API. What it does not tell, is not offered. The price list and the types change over weeks
and are kept for an hour; spot prices are asked for anew by every listing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any, TypeVar

import anyio

from ...core.clock import Clock
from ...core.errors import PermissionDenied, ProviderError, ProviderUnavailable, RateLimited
from ...core.model import Accelerators, Billing, Extras, Offer, OfferKind, Want
from ...core.money import NANO, MachineHour
from ..together import together
from ..wiring import parse
from . import chips, wire
from .calls import Aws
from .failures import NAME, Refused

log = logging.getLogger("spotinfer")
T = TypeVar("T")
SpotPrices = Mapping[tuple[str, str], Decimal]
"""(zone, type) -> dollars per hour."""

PRICE_LIST_REGION = "us-east-1"
"""The Price List API answers in a few regions only, for all of them."""
KEPT = timedelta(hours=1)
PRICE_KEPT = timedelta(minutes=5)
"""How long an offer is good for, and how long a machine's own price is believed."""
NOTICE = timedelta(minutes=2)
"""Of an interruption; the recommendation to rebalance may come earlier, or not at all."""
FAMILIES = ["g*.*", "p*.*"]
"""Where the GPUs are. What else begins like that has none that we can use and is left out by ``chips.py``."""
USAGE: Mapping[OfferKind, str] = {OfferKind.SPOT: "spot", OfferKind.ON_DEMAND: "on-demand"}
LINUX = "Linux/UNIX"
# [U] 60 s is the minimum of on-demand; assumed for spot too, so that the meter never says less than the invoice.
BILLING = Billing(granularity=1, minimum=60)
GIBI = Decimal(1 << 30) / Decimal(10**9)
MACHINE_FILTERS = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "marketoption": "OnDemand",
    "instanceFamily": "GPU instance",
}
DISK_FILTERS = {"productFamily": "Storage", "volumeApiName": "gp3"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A type of machine of one region, and the zones that have it."""

    type: str
    accelerators: Accelerators
    cpus: int
    memory: int
    arch: str
    usage: frozenset[str]
    zones: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceList:
    """On-demand dollars per hour by type, and dollars per gigabyte (10^9 bytes) and month of gp3 disk."""

    machines: Mapping[str, Decimal] = field(default_factory=dict)
    disk: Decimal | None = None


@dataclass(slots=True)
class Kept:
    value: Any
    until: datetime


class Market:
    """``disk`` is what a machine gets unless its launch says otherwise, in bytes; with an ``own_image`` of the user
    nothing is known of the driver."""

    def __init__(self, aws: Aws, clock: Clock, *, disk: int, own_image: bool = False) -> None:
        self._aws, self._clock, self._disk = aws, clock, disk
        self._cuda = None if own_image else chips.CUDA
        self._kept: dict[tuple[str, ...], Kept] = {}

    async def offers(self, want: Want, regions: Iterable[str]) -> list[Offer]:
        """All regions at once. A region that fails costs its own offers only, unless all of them do."""
        found: dict[str, list[Offer]] = {}
        failed: dict[str, ProviderError] = {}

        async def ask(region: str) -> None:
            try:
                found[region] = await self._region(want, region)
            except ProviderError as error:
                failed[region] = error

        wanted = list(dict.fromkeys(regions))
        async with anyio.create_task_group() as tasks:
            for region in wanted:
                tasks.start_soon(ask, region)
        if failed and not found:
            raise next(failed[region] for region in wanted if region in failed)
        for region, error in failed.items():
            log.warning("aws: no offers of %s: %s", region, error.message)
        return [offer for region in wanted for offer in found.get(region, [])]

    async def rate(self, region: str, machine: wire.Ec2Instance) -> MachineHour | None:
        """What the cloud asks for such a machine now; None where it cannot be told. Never raises for that reason."""
        zone = machine.placement.availability_zone
        try:
            if machine.kind is OfferKind.SPOT:
                prices = await self._remember(
                    PRICE_KEPT,
                    lambda: self._spot(region, [machine.instance_type]),
                    region,
                    "rate",
                    machine.instance_type,
                )
                price = prices.get((zone, machine.instance_type))
            else:
                price = (await self._price_list(region)).machines.get(machine.instance_type)
        except ProviderError as error:
            log.debug("aws: no price of %s: %s", machine.instance_id, error.message)
            return None
        return None if price is None else MachineHour(price)

    # --- one region ------------------------------------------------------------------------------------------------

    async def _region(self, want: Want, region: str) -> list[Offer]:
        kinds = [kind for kind in USAGE if kind in want.kinds]
        if not kinds:
            return []
        listed = PriceList()

        async def types_and_spot() -> tuple[Mapping[str, Machine], SpotPrices]:
            machines = await self._remember(KEPT, lambda: self._machines(region), region, "machines")
            wanted = list(machines) if OfferKind.SPOT in kinds else []
            return machines, await self._spot(region, wanted) if wanted else {}

        async def list_prices() -> tuple[Mapping[str, Machine], SpotPrices]:
            nonlocal listed
            listed = await self._price_list_or_nothing(region, OfferKind.SPOT in kinds)
            return {}, {}

        (machines, spot), _ = await together([types_and_spot, list_prices])
        return [
            offer
            for machine in machines.values()
            for zone in machine.zones
            for kind in kinds
            if USAGE[kind] in machine.usage
            and (offer := self._offer(region, zone, machine, kind, spot, listed)) is not None
            and (want.max_price is None or offer.per_hour is None or offer.per_hour <= want.max_price)
        ]

    def _offer(
        self,
        region: str,
        zone: str,
        machine: Machine,
        kind: OfferKind,
        spot: SpotPrices,
        listed: PriceList,
    ) -> Offer | None:
        price = spot.get((zone, machine.type)) if kind is OfferKind.SPOT else listed.machines.get(machine.type)
        if price is None:
            return None
        return Offer(
            provider=NAME,
            id=f"{region}/{zone}/{machine.type}/{kind}",
            kind=kind,
            per_hour=MachineHour(price),
            accelerators=machine.accelerators,
            cpus=machine.cpus,
            memory=machine.memory,
            disk=self._disk,
            region=region,
            arch=machine.arch,
            billing=BILLING,
            extras=Extras(storage_running=listed.disk, storage_stopped=listed.disk),
            cuda=self._cuda,
            notice=NOTICE if kind is OfferKind.SPOT else timedelta(0),
            expires_at=self._clock.now() + PRICE_KEPT,
            details={"zone": zone, "instance_type": machine.type},
        )

    async def _machines(self, region: str) -> Mapping[str, Machine]:
        named = [{"Name": "instance-type", "Values": FAMILIES}]
        ask = partial(self._aws.pages, "ec2", region, Filters=named)
        types, offerings = await together(
            [
                partial(ask, "describe_instance_types", "InstanceTypes"),
                partial(
                    ask,
                    "describe_instance_type_offerings",
                    "InstanceTypeOfferings",
                    LocationType="availability-zone",
                ),
            ]
        )
        zones: dict[str, list[str]] = {}
        for item in offerings:
            zones.setdefault(item["InstanceType"], []).append(item["Location"])
        parsed = [parse(wire.InstanceType, item, provider=NAME) for item in types]
        found = [_machine(item, zones.get(item.instance_type, [])) for item in parsed]
        return {machine.type: machine for machine in found if machine is not None and machine.zones}

    async def _spot(self, region: str, types: list[str]) -> SpotPrices:
        """With ``StartTime`` now the answer is the price in effect, and nothing else."""
        history = await self._aws.pages(
            "ec2",
            region,
            "describe_spot_price_history",
            "SpotPriceHistory",
            InstanceTypes=types,
            ProductDescriptions=[LINUX],
            StartTime=self._clock.now(),
        )
        newest: dict[tuple[str, str], wire.SpotPrice] = {}
        for item in history:
            entry = parse(wire.SpotPrice, item, provider=NAME)
            place = (entry.availability_zone, entry.instance_type)
            if entry.product_description.startswith(LINUX) and (
                place not in newest or entry.timestamp > newest[place].timestamp
            ):
                newest[place] = entry
        priced = {place: _dollars(entry.spot_price) for place, entry in newest.items()}
        return {place: price for place, price in priced.items() if price is not None}

    # --- the price list --------------------------------------------------------------------------------------------

    async def _price_list_or_nothing(self, region: str, enough_without: bool) -> PriceList:
        """Without it there are no on-demand offers and no disk prices; spot offers do not depend on it."""
        try:
            return await self._price_list(region)
        except (PermissionDenied, ProviderUnavailable, RateLimited, Refused) as error:
            if not enough_without:
                raise
            log.warning("aws: no on-demand prices of %s, so spot only: %s", region, error.message)
            return PriceList()

    async def _price_list(self, region: str) -> PriceList:
        return await self._remember(KEPT, lambda: self._ask_price_list(region), region, "list")

    async def _ask_price_list(self, region: str) -> PriceList:
        machines, disks = await together(
            [
                partial(self._products, {**MACHINE_FILTERS, "regionCode": region}, "Hrs"),
                partial(self._products, {**DISK_FILTERS, "regionCode": region}, "GB-Mo"),
            ]
        )
        return PriceList(
            machines={str(product.get("instanceType", "")): price for product, price in machines},
            # What AWS calls a gigabyte of disk is 2^30 bytes.
            disk=(disks[0][1] / GIBI).quantize(NANO) if disks else None,
        )

    async def _products(self, filters: Mapping[str, str], unit: str) -> list[tuple[Mapping[str, Any], Decimal]]:
        terms = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in filters.items()]
        listed = await self._aws.pages(
            "pricing", PRICE_LIST_REGION, "get_products", "PriceList", ServiceCode="AmazonEC2", Filters=terms
        )
        priced = [product_price(json.loads(item) if isinstance(item, str) else item, unit) for item in listed]
        return [found for found in priced if found is not None]

    async def _remember(self, span: timedelta, ask: Callable[[], Awaitable[T]], *what: str) -> T:
        kept = self._kept.get(what)
        if kept is None or kept.until <= self._clock.now():
            kept = Kept(await ask(), self._clock.now() + span)
            self._kept[what] = kept
        value: T = kept.value
        return value


def product_price(product: Mapping[str, Any], unit: str) -> tuple[Mapping[str, Any], Decimal] | None:
    """A product's attributes and its on-demand price per ``unit``; None where it has none or it is zero, as it is for
    capacity that is paid for elsewhere."""
    for term in product.get("terms", {}).get("OnDemand", {}).values():
        for dimension in term.get("priceDimensions", {}).values():
            price = _dollars(dimension.get("pricePerUnit", {}).get("USD"))
            if dimension.get("unit") == unit and price:
                return product.get("product", {}).get("attributes", {}), price
    return None


def _machine(item: wire.InstanceType, zones: list[str]) -> Machine | None:
    found = chips.accelerators(item)
    if found is None:
        return None
    return Machine(
        type=item.instance_type,
        accelerators=found,
        cpus=item.v_cpu_info.default_v_cpus,
        memory=item.memory_info.size_in_mi_b * chips.MIB,
        arch="arm64" if "arm64" in item.processor_info.supported_architectures else "x86_64",
        usage=frozenset(item.supported_usage_classes),
        zones=tuple(sorted(zones)),
    )


def _dollars(value: object) -> Decimal | None:
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and amount >= 0 else None
