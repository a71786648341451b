"""Machines at Vast.ai: their states, addresses, logs, charges and ends, against the emulator."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import anyio
import pytest

from spotinfer.core.errors import (
    NotSupported,
    ProviderError,
)
from spotinfer.core.model import Endpoint, OfferKind, Want
from spotinfer.core.secret import Secret
from spotinfer.core.states import Cause, State
from spotinfer.providers.http import CloudHttp
from spotinfer.providers.vast.adapter import VastProvider
from spotinfer.providers.vast.answers import refine
from spotinfer.testing.emulators.vast import EmulatedVast
from support.vast import OWNER, SINCE, machine_spec, offer_of, on_vast, running


@on_vast
async def test_outbid_and_started_again_by_itself(cloud: EmulatedVast, provider: VastProvider) -> None:
    id = await running(cloud, provider, OfferKind.INTERRUPTIBLE)
    seen = await provider.get(id)
    assert seen is not None
    assert (seen.state, set(seen.endpoints)) == (State.BOOTING, {"engine", "agent"})
    contract = cloud.contracts[int(id)]
    cloud.raise_bids(contract.ask, contract.rate + 1)
    seen = await provider.get(id)
    assert seen is not None
    assert (seen.state, seen.cause, dict(seen.endpoints)) == (State.STOPPED, Cause.OUTBID, {})
    cloud.raise_bids(contract.ask, contract.rate)
    await anyio.sleep(cloud.boot + 1)
    seen = await provider.get(id)
    assert seen is not None
    assert (seen.state, seen.cause) == (State.BOOTING, None)


@on_vast
async def test_stopped_by_us_is_not_outbid(cloud: EmulatedVast, provider: VastProvider) -> None:
    id = await running(cloud, provider, OfferKind.INTERRUPTIBLE)
    await provider.stop(id)
    seen = await provider.get(id)
    assert seen is not None
    assert (seen.state, seen.cause) == (State.STOPPED, None)


@on_vast
async def test_full_price_displaces_a_bid(cloud: EmulatedVast, provider: VastProvider) -> None:
    id = await running(cloud, provider, OfferKind.INTERRUPTIBLE)
    offers = await provider.list_offers(Want(kinds=frozenset({OfferKind.ON_DEMAND})))
    same = next(item for item in offers if item.id.startswith(f"{cloud.contracts[int(id)].ask.id}-"))
    await provider.create(machine_spec(same, "si-2"))
    seen = await provider.get(id)
    assert seen is not None
    assert (seen.state, seen.cause) == (State.STOPPED, Cause.OUTBID)


@on_vast
async def test_a_container_that_cannot_start(cloud: EmulatedVast, provider: VastProvider) -> None:
    """The status stays at "created" for ever; the message knows."""
    cloud.boot_failure = "Error: OCI runtime create failed: unsatisfied condition: cuda>=13.0\n"
    id = await running(cloud, provider)
    seen = await provider.get(id)
    assert seen is not None
    assert (seen.state, seen.native_state) == (State.LOST, "created")
    assert "cuda>=13.0" in seen.detail
    assert "cuda>=13.0" in (await provider.logs(id, 5))[0], "the host's daemon is asked where nothing was said"


@on_vast
async def test_addresses(cloud: EmulatedVast, provider: VastProvider) -> None:
    """Padded with blanks, random ports, and only while it runs."""
    created = await provider.create(machine_spec(await offer_of(provider)))
    assert not created.endpoints
    await anyio.sleep(cloud.boot / 2)
    seen = await provider.get(created.id)
    assert seen is not None
    assert not seen.endpoints
    await anyio.sleep(cloud.boot)
    ports = cloud.contracts[int(created.id)].host_ports
    expected = {
        role: Endpoint(host="203.0.113.7", port=ports[inside]) for role, inside in (("engine", 8000), ("agent", 8001))
    }
    for instance in (await provider.get(created.id), *await provider.list_owned(OWNER)):
        assert instance is not None
        assert instance.endpoints == expected


@on_vast
async def test_logs(cloud: EmulatedVast, provider: VastProvider) -> None:
    """They lie at another company, to which the key must not go, and some seconds late."""
    id = await running(cloud, provider)
    cloud.output[int(id)] = ["one", "two", "three"]
    assert list(await provider.logs(id, 2)) == ["two", "three"]
    (*early, last) = [call for call in cloud.calls if call.request.path.startswith("/instance_logs/")]
    assert {call.status for call in early} == {403}
    assert last.status == 200
    assert "authorization" not in last.request.headers
    cloud.cold_log = 3600.0
    assert list(await provider.logs(id, 2)) == [], "it does not wait for ever"
    assert list(await provider.logs("999", 2)) == []


@on_vast
async def test_charges_are_whole_and_agree_with_the_bill(cloud: EmulatedVast, provider: VastProvider) -> None:
    """Asked again for less, the same charge must not become smaller: the ledger replaces it."""
    id = await running(cloud, provider)
    await anyio.sleep(3 * 86400)
    await provider.terminate(id)
    await anyio.sleep(3600)
    now = cloud.clock.now()
    (whole,), (again,) = await provider.charges(SINCE), await provider.charges(now - timedelta(days=1))
    assert whole == again
    assert (whole.instance_id, whole.id) == (id, f"instance-{id}")
    assert abs(whole.amount - cloud.invoice(int(id))) <= Decimal("0.0005")
    assert list(await provider.charges(now + timedelta(days=5))) == []
    gpu = cloud.contracts[int(id)].rate * 72
    assert gpu < whole.amount < gpu * Decimal("1.1"), "the disk is billed besides"


@on_vast
async def test_a_stopped_machine_pays_for_its_disk(cloud: EmulatedVast, provider: VastProvider) -> None:
    id = await running(cloud, provider)
    await provider.stop(id)
    before = cloud.invoice(int(id))
    await anyio.sleep(720 * 3600)
    contract = cloud.contracts[int(id)]
    month = cloud.invoice(int(id)) - before
    assert month == pytest.approx(contract.disk * contract.ask.storage_cost, rel=Decimal("0.001"))


@on_vast
async def test_a_machine_ends_itself_with_its_own_key(cloud: EmulatedVast, provider: VastProvider) -> None:
    """As the agent does by the recipe; the key is good for nothing else."""
    id, other = await running(cloud, provider), await offer_of(provider)
    second = await provider.create(machine_spec(other, "si-2"))
    (step,) = provider.end_recipe
    contract = cloud.contracts[int(id)]
    http = CloudHttp(
        "vast", cloud.origin, Secret(contract.key), transport=cloud.transport(), clock=cloud.clock, refine=refine
    )
    assert step["headers"] == {"Authorization": "Bearer $CONTAINER_API_KEY"}
    assert VastProvider.end_recipe[0]["url"] == "https://console.vast.ai/api/v0/instances/$CONTAINER_ID/"
    path = str(step["url"]).removeprefix(cloud.origin)
    with pytest.raises(ProviderError):
        await http.request("DELETE", path.replace("$CONTAINER_ID", second.id))
    await http.request("GET", path.replace("$CONTAINER_ID", id))
    cloud.machine_key_ends = False
    with pytest.raises(ProviderError):
        await http.request("GET", path.replace("$CONTAINER_ID", id))
    cloud.machine_key_ends = True
    await http.request(str(step["method"]), path.replace("$CONTAINER_ID", id))
    assert [machine.id for machine in cloud.existing()] == [int(second.id)]
    await http.aclose()


@on_vast
async def test_nothing_is_sent_that_vast_would_refuse(cloud: EmulatedVast, provider: VastProvider) -> None:
    offer = await offer_of(provider)
    calls = len(cloud.calls)
    impossible: list[dict[str, Any]] = [
        {"image": None},
        {"command": ()},
        {"command": ("python3", "-c", "x" * 4100)},
        {"env": {"BIG": "x" * 33000}},
        {"owner": "a/b"},
        {"owner": ""},
        {"key": "k" * 300},
    ]
    for change in impossible:
        with pytest.raises(NotSupported):
            await provider.create(machine_spec(offer, **{"key": "si-1", **change}))
    assert len(cloud.calls) == calls


@on_vast
async def test_somebody_elses_machines(cloud: EmulatedVast, provider: VastProvider) -> None:
    """Rented by hand, or labelled by another program: not ours, and no reason to stumble."""
    created = await provider.create(machine_spec(await offer_of(provider)))
    for label in (None, "", "my own", "spotinfer/", f"spotinfer/{OWNER}x/si-2/agent=1/n", "spotinfer/a/b/c=d/e"):
        cloud.contracts[int(created.id)].label = label
        assert list(await provider.list_owned(OWNER)) == []
        seen = await provider.get(created.id)
        assert seen is not None
