"""Offers of Vast.ai in our nouns, and the adapter's settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import anyio
import pytest

from spotinfer.core.clock import LoopClock
from spotinfer.core.errors import (
    ConfigError,
    MissingCredentials,
    UnknownName,
)
from spotinfer.core.model import GPU, Accelerators, Offer, OfferKind, Want
from spotinfer.core.protocols import Provider
from spotinfer.core.secret import Secret
from spotinfer.core.states import State
from spotinfer.providers.vast import offers, states, wire
from spotinfer.providers.vast.adapter import VastProvider
from spotinfer.providers.vast.taste import Taste
from spotinfer.providers.wiring import parse
from spotinfer.testing.emulators.vast import EmulatedVast
from support import vast_spec
from support.vast import adapter, on_vast


@on_vast
async def test_offers(cloud: EmulatedVast, provider: VastProvider) -> None:
    offers = await provider.list_offers(Want())
    assert {offer.kind for offer in offers} == {OfferKind.ON_DEMAND, OfferKind.INTERRUPTIBLE}
    for offer in offers:
        assert offer.accelerators is not None
        assert offer.per_hour is not None
        assert offer.extras.storage_running == Decimal("0.15") * 730 / 720
        assert offer.extras.bandwidth_out == Decimal("0.003")
        assert offer.reliability == 0.995
        assert offer.cuda == (13, 0)
        assert offer.disk == 900 * 10**9
        assert offer.region in ("US", "DE", "")
        assert offer.arch == "x86_64"
        assert offer.notice == timedelta(0)
        assert offer.details["verification"] == "verified"
    assert len(offers) == 2 * len([ask for ask in cloud.asks.values() if ask.verified])
    names = {offer.accelerators.gpu.name for offer in offers if offer.accelerators}
    assert names == {"RTX 4090", "RTX 3090", "A100 80GB SXM", "H100 SXM", "RTX 6000 Ada"}


@on_vast
async def test_offers_are_filtered(cloud: EmulatedVast, provider: VastProvider) -> None:
    def gpu_names(offers: Sequence[Offer]) -> set[str]:
        return {offer.accelerators.gpu.name for offer in offers if offer.accelerators}

    assert gpu_names(await provider.list_offers(Want(gpu="A100 80GB SXM"))) == {"A100 80GB SXM"}
    assert list(await provider.list_offers(Want(gpu="A100 40GB SXM"))) == []
    assert {item.region for item in await provider.list_offers(Want(regions=frozenset({"DE"})))} == {"DE"}
    large = await provider.list_offers(Want(min_memory=300 * 2**30))
    assert large
    assert all(item.accelerators is not None and item.accelerators.memory >= 300 * 2**30 for item in large)
    cheap = await provider.list_offers(Want(max_price=Decimal("0.5")))
    assert cheap
    assert all(item.per_hour is not None and item.per_hour <= Decimal("0.5") for item in cheap)
    assert list(await provider.list_offers(Want(kinds=frozenset({OfferKind.SPOT})))) == []
    picky = adapter(cloud, taste=Taste(verified=False, datacenter=True, disk_gb=500))
    assert {item.details["datacenter"] for item in await picky.list_offers(Want())} == {"yes"}
    await picky.aclose()


@on_vast
async def test_both_searches_at_once(cloud: EmulatedVast, provider: VastProvider) -> None:
    cloud.latency = 0.5
    started = anyio.current_time()
    await provider.list_offers(Want())
    assert anyio.current_time() - started == pytest.approx(1.0)


def test_options() -> None:
    clock = LoopClock()
    made = VastProvider.from_options({"api_key": Secret("k" * 20), "disk_gb": 120, "verified": False}, clock=clock)
    assert "k" * 20 not in repr(made) + repr(vars(made))
    assert isinstance(VastProvider.from_options({"api_key": "text"}, clock=clock), Provider)
    for options, error in (
        ({}, MissingCredentials),
        ({"api_key": Secret("")}, MissingCredentials),
        ({"api_key": "k", "disk_gb": 1}, ConfigError),
        ({"api_key": "k", "verified": "yes"}, ConfigError),
        ({"api_key": "k", "transport": 3}, ConfigError),
        ({"api_key": "k", "verfied": True}, UnknownName),
    ):
        with pytest.raises(error):
            VastProvider.from_options(options, clock=clock)


def example(path: str, method: str, *, status: str = "200") -> Any:
    """An answer as the official description shows it."""
    vast_spec.required()
    answer = vast_spec.document()["paths"][path][method]["responses"][status]["content"]["application/json"]
    return answer.get("example") or vast_spec.example(answer["schema"])


def test_the_described_offer() -> None:
    described = example("/api/v0/bundles", "post")["offers"]
    found = parse(wire.Offers, {"offers": [described]}, provider="vast").offers
    (offer,) = offers.offers(OfferKind.ON_DEMAND, found, Want())
    (bid,) = offers.offers(OfferKind.INTERRUPTIBLE, found, Want())
    assert (offer.per_hour, bid.per_hour) == (Decimal("0.123456"), Decimal("0.111111"))
    assert offer.accelerators == Accelerators(
        gpu=GPU(name="Imaginary RTX 9999", memory=24576 << 20, capability=(9, 0)), count=4
    )
    assert (offer.region, offer.cuda, offer.reliability, offer.cpus) == ("AT", (11, 2), 0.9999, 32)
    assert offer.memory == int(65536 * 0.75) << 20


def test_the_described_machines() -> None:
    single = parse(wire.Shown, example("/api/v0/instances/{id}", "get"), provider="vast").machine
    assert single is not None
    seen = states.instance(single, "vast", datetime(2026, 1, 1, tzinfo=timezone.utc))
    assert (seen.id, seen.state, seen.per_hour, seen.key) == ("883", State.BOOTING, Decimal(1), "")
    page = parse(wire.Page, example("/api/v1/instances", "get"), provider="vast")
    assert page.next_token
    listed = states.instance(page.instances[0], "vast", seen.seen_at)
    assert (listed.id, listed.name, listed.per_hour) == ("312", "ML Training Job 2025", Decimal("0.8"))
    assert page.instances[0].ports["22/tcp"] == [wire.HostPort(HostPort=20000)]


def test_the_described_charge_user_and_log() -> None:
    (charged,) = parse(wire.Charges, example("/api/v0/charges", "get"), provider="vast").results
    assert (charged.source, charged.amount) == ("instance-12345678", Decimal("38.421"))
    assert charged.items[0].amount == Decimal("37.344")
    assert parse(wire.LogsAt, example("/api/v0/instances/request_logs/{id}", "put"), provider="vast").result_url
    assert parse(wire.User, {"id": 1}, provider="vast").balance is None
    assert parse(wire.Created, example("/api/v0/asks/{id}", "put"), provider="vast").new_contract == 1234568


@pytest.mark.parametrize(
    ("name", "memory", "canonical"),
    [
        ("RTX 4090", 24564, "RTX 4090"),
        ("A100 SXM4", 40960, "A100 40GB SXM"),
        ("A100 SXM4", 81920, "A100 80GB SXM"),
        ("A100 PCIE", 81251, "A100 80GB PCIe"),
        ("Tesla V100", 16384, "V100 16GB"),
        ("Tesla V100", 32768, "V100 32GB"),
        ("H100 PCIE", 81559, "H100 PCIe"),
        ("RTX PRO 6000 WS", 97887, "RTX PRO 6000"),
        ("Something New", 1000, "Something New"),
    ],
)
def test_names_of_chips(name: str, memory: float, canonical: str) -> None:
    assert offers.chip(name, memory) == canonical
    assert name in offers.vast_names(canonical)


def test_offers_without_a_price_are_none() -> None:
    item = wire.Offer(id=1, gpu_name="L4", num_gpus=1, gpu_ram=23034, dph_base=Decimal(0))
    assert offers.offer(OfferKind.ON_DEMAND, item) is None
    assert offers.offer(OfferKind.INTERRUPTIBLE, item) is None


def test_an_offer_of_another_cloud_is_gone() -> None:
    made = offers.offer(
        OfferKind.ON_DEMAND, wire.Offer(id=7, gpu_name="L4", num_gpus=1, gpu_ram=23034, dph_base=Decimal("0.3"))
    )
    assert made is not None
    assert offers.ask_of(made) == 7
    for id in ("", "7", "x-ondemand", "7-bid", "NVIDIA L4:1"):
        assert offers.ask_of(replace(made, id=id)) is None
