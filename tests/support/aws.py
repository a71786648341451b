"""An adapter on the emulated EC2, and machines for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from spotinfer.core.clock import WallClock
from spotinfer.core.model import InstanceSpec, Offer, OfferKind, Want
from spotinfer.core.secret import Secret
from spotinfer.providers.aws.adapter import AwsProvider
from spotinfer.testing.emulators.aws import AwsEmulator

OWNER = "owner-1"
HERE = "203.0.113.7"
PORTS = {"agent": 8001, "engine": 8000}


async def here() -> str:
    return HERE


@asynccontextmanager
async def account(cloud: AwsEmulator, **options: object) -> AsyncIterator[AwsProvider]:
    """A fresh adapter; whatever is left of its machines is ended."""
    given = cloud.options(**{"caller": here, "first_wait": 0.001, **options})
    provider = AwsProvider.from_options(given, clock=WallClock())
    try:
        yield provider
    finally:
        await provider.aclose()


async def offer(provider: AwsProvider, kind: OfferKind = OfferKind.SPOT, type: str = "g6.xlarge") -> Offer:
    offers = await provider.list_offers(Want())
    return next(found for found in offers if found.kind is kind and f"/{type}/" in found.id)


def spec(offer: Offer, key: str = "si-0000000000000001", **more: object) -> InstanceSpec:
    env: dict[str, Secret | str] = {"SPOTINFER_CONFIG": Secret("c2VjcmV0LWNvbmZpZw=="), "PLAIN": "it's"}
    given: dict[str, object] = {"env": env, "ports": PORTS, "name": "test", **more}
    return InstanceSpec(key=key, owner=OWNER, offer=offer, command=("python3", "-c", "pass"), **given)  # type: ignore[arg-type]
