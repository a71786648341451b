"""An emulated Vast.ai with an adapter, in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import Any

import anyio

from spotinfer.core.clock import LoopClock
from spotinfer.core.model import InstanceSpec, Offer, OfferKind, Want
from spotinfer.core.secret import Secret
from spotinfer.core.virtual import run_virtual
from spotinfer.providers.vast.adapter import VastProvider
from spotinfer.testing.emulators.vast import EmulatedVast
from support import vast_spec

RENTS = ("PUT", r"/api/v0/asks/\d+/?")
OWNER = "test-owner"
SINCE = datetime(2020, 1, 1, tzinfo=timezone.utc)


def adapter(cloud: EmulatedVast, **options: Any) -> VastProvider:
    key = options.pop("key", None) or Secret(cloud.token)
    given = {"base_url": cloud.origin, "transport": cloud.transport(), "wait_for_launch": True, **options}
    return VastProvider(key, clock=cloud.clock, **given)


def machine_spec(offer: Offer, key: str = "si-1", owner: str = OWNER, **more: Any) -> InstanceSpec:
    given = {
        "key": key,
        "owner": owner,
        "name": "a name/with a slash",
        "offer": offer,
        "command": ("python3", "-I", "-c", "print('agent')"),
        "env": {"HF_TOKEN": Secret("hf-secret-1234567890"), "PLAIN": "1"},
        "ports": {"engine": 8000, "agent": 8001},
        "image": "vllm/vllm-openai:v0.32.0",
    }
    return InstanceSpec(**{**given, **more})


def on_vast(check: Callable[[EmulatedVast, VastProvider], Awaitable[None]]) -> Callable[[], None]:
    """A test with a fresh account; where the official description is at hand, it judges every call and answer."""

    def test() -> None:
        async def body() -> None:
            cloud = EmulatedVast(LoopClock())
            if vast_spec.missing() is None:
                cloud.observers.append(vast_spec.Judge())
            provider = adapter(cloud)
            try:
                await check(cloud, provider)
            finally:
                await provider.aclose()

        run_virtual(body)

    test.__name__, test.__doc__ = check.__name__, check.__doc__
    return test


async def offer_of(provider: VastProvider, kind: OfferKind = OfferKind.ON_DEMAND) -> Offer:
    return (await provider.list_offers(Want(kinds=frozenset({kind}))))[0]


async def running(cloud: EmulatedVast, provider: VastProvider, kind: OfferKind = OfferKind.ON_DEMAND) -> str:
    created = await provider.create(machine_spec(await offer_of(provider, kind)))
    await anyio.sleep(cloud.boot + 1)
    return created.id
