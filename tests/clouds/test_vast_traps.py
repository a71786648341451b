"""What bit others on Vast.ai: each known trap once, against the emulator."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal
from functools import partial
from typing import Any

import anyio
import pytest

from spotinfer.core.errors import (
    AuthenticationFailed,
    InsufficientFunds,
    OfferGone,
    Outbid,
    OutcomeUnknown,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    UnexpectedAnswer,
)
from spotinfer.core.model import OfferKind, Want
from spotinfer.core.secret import Secret
from spotinfer.core.states import State
from spotinfer.providers.together import together
from spotinfer.providers.vast.adapter import VastProvider
from spotinfer.testing.emulators import fault as faults
from spotinfer.testing.emulators.fault import Fault
from spotinfer.testing.emulators.vast import EmulatedVast
from support.vast import OWNER, RENTS, SINCE, adapter, machine_spec, offer_of, on_vast, running


@on_vast
async def test_a_bid_that_is_too_low_rents_nothing(cloud: EmulatedVast, provider: VastProvider) -> None:
    """Vast refuses and makes a stopped machine all the same, whose disk bills: it is destroyed."""
    offer = await offer_of(provider, OfferKind.INTERRUPTIBLE)
    cloud.raise_bids(cloud.asks[int(offer.id.split("-")[0])], Decimal(100))
    with pytest.raises(Outbid) as caught:
        await provider.create(machine_spec(offer))
    assert "hf-secret" not in str(caught.value)
    assert len(cloud.contracts) == 1
    assert cloud.existing() == []


@on_vast
async def test_a_low_bid_that_cannot_be_undone_is_told(cloud: EmulatedVast, provider: VastProvider) -> None:
    offer = await offer_of(provider, OfferKind.INTERRUPTIBLE)
    cloud.raise_bids(cloud.asks[int(offer.id.split("-")[0])], Decimal(100))
    cloud.inject(faults.UNAVAILABLE.on("DELETE").repeated())
    with pytest.raises(OutcomeUnknown):
        await provider.create(machine_spec(offer))
    cloud.heal()
    (left,) = await provider.list_owned(OWNER)
    assert left.state is State.STOPPED, "it never started, and only its disk bills"
    assert left.cause is None


@on_vast
async def test_a_refusal_that_hides_its_machine(cloud: EmulatedVast, provider: VastProvider) -> None:
    """The same where the error does not name the machine: it is looked for by its label."""
    offer = await offer_of(provider, OfferKind.INTERRUPTIBLE)
    words = {"success": False, "error": "invalid_args", "msg": "error 400/1: something"}
    cloud.inject(Fault(name="hidden", status=400, body=words, after=True).on(*RENTS))
    with pytest.raises(UnexpectedAnswer):
        await provider.create(machine_spec(offer))
    assert len(cloud.contracts) == 1
    assert cloud.existing() == []


@on_vast
async def test_a_bid_is_for_the_machine_and_not_for_a_gpu(cloud: EmulatedVast, provider: VastProvider) -> None:
    offers = await provider.list_offers(Want(kinds=frozenset({OfferKind.INTERRUPTIBLE})))
    offer = next(item for item in offers if item.accelerators is not None and item.accelerators.count == 8)
    ask = cloud.asks[int(offer.id.split("-")[0])]
    assert offer.per_hour == ask.min_bid
    created = await provider.create(machine_spec(offer))
    (contract,) = cloud.existing()
    assert (contract.is_bid, contract.rate) == (True, ask.min_bid)
    seen = await provider.get(created.id)
    assert seen is not None
    assert seen.per_hour == offer.per_hour


@on_vast
async def test_on_demand_is_not_a_bid(cloud: EmulatedVast, provider: VastProvider) -> None:
    offer = await offer_of(provider)
    created = await provider.create(machine_spec(offer))
    (contract,) = cloud.existing()
    assert not contract.is_bid
    seen = await provider.get(created.id)
    assert seen is not None
    assert seen.per_hour == offer.per_hour == contract.ask.dph


@on_vast
async def test_what_is_asked_for(cloud: EmulatedVast, provider: VastProvider) -> None:
    await provider.create(machine_spec(await offer_of(provider, OfferKind.INTERRUPTIBLE), disk=95 * 10**9 + 1))
    (body,) = [call.request.body for call in cloud.calls if call.request.method == "PUT"]
    assert body["cancel_unavail"] is True, "or a bid that cannot start leaves a stopped machine"
    assert (body["runtype"], body["onstart"], body["args"]) == ("args", "python3", ["-I", "-c", "print('agent')"])
    assert body["disk"] == 96
    assert body["env"] == {"HF_TOKEN": "hf-secret-1234567890", "PLAIN": "1", "-p 8000:8000": "1", "-p 8001:8001": "1"}
    assert cloud.token not in repr(body)


@on_vast
async def test_lists_do_not_fetch_environments(cloud: EmulatedVast, provider: VastProvider) -> None:
    await provider.create(machine_spec(await offer_of(provider)))
    answers: list[Any] = []
    cloud.observers.append(lambda request, reply: answers.append(reply.body))
    assert await provider.list_owned(OWNER)
    assert "hf-secret" not in repr(answers)


@on_vast
async def test_offers_that_are_gone(cloud: EmulatedVast, provider: VastProvider) -> None:
    offer = await offer_of(provider)
    ask = cloud.asks[int(offer.id.split("-")[0])]
    ask.sold_out = True
    with pytest.raises(OfferGone):
        await provider.create(machine_spec(offer))
    del cloud.asks[ask.id]
    with pytest.raises(OfferGone):
        await provider.create(machine_spec(offer))
    assert not cloud.contracts


@on_vast
async def test_a_failed_offer_costs_one_look_and_one_try(cloud: EmulatedVast, provider: VastProvider) -> None:
    offer = await offer_of(provider)
    cloud.asks[int(offer.id.split("-")[0])].sold_out = True
    before, started = len(cloud.calls), anyio.current_time()
    with pytest.raises(OfferGone):
        await provider.create(machine_spec(offer))
    assert [call.request.method for call in cloud.calls[before:]] == ["GET", "PUT"]
    assert anyio.current_time() - started == pytest.approx(4 * cloud.latency)


@on_vast
async def test_no_credit(cloud: EmulatedVast, provider: VastProvider) -> None:
    cloud.balance = Decimal(0)
    offer = await offer_of(provider)
    with pytest.raises(InsufficientFunds):
        await provider.create(machine_spec(offer))
    account = await provider.check()
    assert account.balance == 0
    assert account.notes


@on_vast
async def test_a_wrong_key_is_a_404_at_some_endpoints(cloud: EmulatedVast, provider: VastProvider) -> None:
    """It must never look as if a machine were gone."""
    created = await provider.create(machine_spec(await offer_of(provider)))
    stranger = adapter(cloud, key=Secret("not-the-key-at-all"))
    calls: list[Callable[[], Awaitable[object]]] = [
        stranger.check,
        partial(stranger.list_offers, Want()),
        partial(stranger.get, created.id),
        partial(stranger.terminate, created.id),
        partial(stranger.list_owned, OWNER),
        partial(stranger.charges, SINCE),
        partial(stranger.create, machine_spec(await offer_of(provider))),
    ]
    for call in calls:
        with pytest.raises(AuthenticationFailed):
            await call()
    cloud.inject(Fault(name="404", status=404, body={"success": False, "msg": "Invalid user key"}, times=9))
    with pytest.raises(AuthenticationFailed):
        await provider.get(created.id)
    assert len(cloud.existing()) == 1
    await stranger.aclose()


@on_vast
async def test_a_bare_404_is_no_evidence(cloud: EmulatedVast, provider: VastProvider) -> None:
    """Something on the way may answer it; only the list decides."""
    created = await provider.create(machine_spec(await offer_of(provider)))
    path = r"/api/v0/instances/\d+/"
    cloud.inject(faults.NOT_FOUND.on("GET", path))
    seen = await provider.get(created.id)
    assert seen is not None
    assert seen.id == created.id
    cloud.inject(faults.NOT_FOUND.on("DELETE", path))
    with pytest.raises(ProviderUnavailable):
        await provider.terminate(created.id)
    cloud.inject(Fault(name="null", status=200, body={"instances": None}).on("GET", path))
    assert await provider.get(created.id) is not None
    await provider.terminate(created.id)
    cloud.inject(Fault(name="null", status=200, body={"instances": None}).on("GET", path))
    assert await provider.get(created.id) is None


@on_vast
async def test_success_false_with_status_200(cloud: EmulatedVast, provider: VastProvider) -> None:
    id = await running(cloud, provider)
    no = {"success": False, "error": "internal", "msg": "not now"}
    for method, call in (("PUT", provider.stop), ("DELETE", provider.terminate)):
        cloud.inject(Fault(name="no", status=200, body=no).on(method))
        with pytest.raises(UnexpectedAnswer, match="not now"):
            await call(id)


@on_vast
async def test_all_pages(cloud: EmulatedVast, provider: VastProvider) -> None:
    offers = await provider.list_offers(Want(kinds=frozenset({OfferKind.ON_DEMAND})))
    for number in range(27):
        await provider.create(machine_spec(offers[number], f"si-{number}"))
    assert {item.key for item in await provider.list_owned(OWNER)} == {f"si-{number}" for number in range(27)}
    assert len(await provider.charges(SINCE)) == 27
    pages = [call for call in cloud.calls if call.request.path == "/api/v1/instances/"]
    assert "after_token" in pages[-1].request.query
    assert (await provider.list_owned(OWNER))[0].name == "a name/with a slash"


@on_vast
async def test_pages_without_end(cloud: EmulatedVast, provider: VastProvider) -> None:
    body = {"success": True, "instances": [], "next_token": "the-same"}
    cloud.inject(Fault(name="circle", status=200, body=body).repeated().on("GET"))
    with pytest.raises(UnexpectedAnswer, match="do not end"):
        await provider.list_owned(OWNER)


@on_vast
async def test_a_list_without_machines_is_not_an_empty_one(cloud: EmulatedVast, provider: VastProvider) -> None:
    cloud.inject(Fault(name="nothing", status=200, body={"success": True}).repeated().on("GET"))
    with pytest.raises(UnexpectedAnswer):
        await provider.list_owned(OWNER)


@on_vast
async def test_calls_keep_their_distance(cloud: EmulatedVast, provider: VastProvider) -> None:
    """Vast refuses faster calls, and a refused call is a round trip lost."""
    offers = await provider.list_offers(Want())
    ids = [(await provider.create(machine_spec(offers[number], f"si-{number}"))).id for number in range(3)]
    for id in ids:
        await provider.get(id)
        await provider.list_owned(OWNER)
        await provider.terminate(id)
    assert not [call for call in cloud.calls if call.status == 429]


@on_vast
async def test_another_process_is_calling_too(cloud: EmulatedVast, provider: VastProvider) -> None:
    """Its calls count as well; the wait that the refusal names is waited out."""
    id = await running(cloud, provider)
    await provider.get(id)
    other = adapter(cloud)
    assert await other.get(id) is not None
    assert [call.status for call in cloud.calls[-2:]] == [429, 200]
    offers = await provider.list_offers(Want())
    await provider.create(machine_spec(offers[0], "si-2"))
    with pytest.raises(RateLimited) as caught:
        await other.create(machine_spec(offers[1], "si-3"))
    assert caught.value.retry_after == 4.5, "what rents is not sent twice; the saga waits or goes elsewhere"
    await other.aclose()


@on_vast
async def test_somebody_who_does_not_wait(cloud: EmulatedVast, provider: VastProvider) -> None:
    """The launch saga tries another cloud meanwhile."""
    offers = await provider.list_offers(Want())
    hasty = adapter(cloud, wait_for_launch=False)
    await hasty.create(machine_spec(offers[0]))
    with pytest.raises(RateLimited) as caught:
        await hasty.create(machine_spec(offers[1], "si-2"))
    assert 0 < (caught.value.retry_after or 0) < 4.5
    assert len(cloud.contracts) == 1
    await hasty.aclose()


@on_vast
async def test_searches_of_a_day(cloud: EmulatedVast, provider: VastProvider) -> None:
    cloud.searches_left = 0
    with pytest.raises(QuotaExceeded):
        await provider.list_offers(Want())
    assert len(cloud.calls) <= 2, "it does not help to ask again before midnight"


@on_vast
async def test_the_error_itself_names_the_machine(cloud: EmulatedVast, provider: VastProvider) -> None:
    """Lists may lag behind, so what a refusal tells is believed at once."""
    cloud.lag = 3600.0
    offer = await offer_of(provider, OfferKind.INTERRUPTIBLE)
    cloud.raise_bids(cloud.asks[int(offer.id.split("-")[0])], Decimal(100))
    with pytest.raises(Outbid):
        await provider.create(machine_spec(offer))
    assert len(cloud.contracts) == 1
    assert cloud.existing() == []


@on_vast
async def test_one_key_while_the_answer_is_on_its_way(cloud: EmulatedVast, provider: VastProvider) -> None:
    """The same intent from two tasks, and a create that takes longer than the interval between two lists."""
    offer = await offer_of(provider)
    cloud.latency = 5.0
    ids = await together([partial(provider.create, machine_spec(offer)) for _ in range(3)])
    assert len({instance.id for instance in ids}) == 1
    assert len(cloud.existing()) == 1
