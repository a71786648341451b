"""RunPod keeps the contract on its emulator, in virtual time, every call held against the published schema."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar

import anyio
import httpx2
import pytest

from spotinfer.core.clock import LoopClock
from spotinfer.core.errors import (
    AuthenticationFailed,
    ConfigError,
    InsufficientFunds,
    MissingCredentials,
    NoCapacity,
    NotSupported,
    OfferGone,
    OutcomeUnknown,
    ProviderError,
    RateLimited,
    UnknownName,
)
from spotinfer.core.model import Endpoint, Instance, InstanceSpec, Offer, OfferKind, Want
from spotinfer.core.protocols import Provider
from spotinfer.core.secret import Secret
from spotinfer.core.states import State
from spotinfer.core.virtual import run_virtual
from spotinfer.providers.runpod.adapter import BASE_URL, RunpodProvider, log_lines
from spotinfer.providers.runpod.pods import STATES, create_body
from spotinfer.testing.contract import ProviderContract
from spotinfer.testing.emulators.fault import CUT_AFTER, Fault, answered
from spotinfer.testing.emulators.runpod import EmulatedRunpod
from spotinfer.testing.emulators.runpod_market import EmulatedPod
from spotinfer.testing.faults import HttpFaults
from spotinfer.testing.harness import Harness
from support.runpod_spec import NAME, watch
from support.specs import ABSENT, specification

T = TypeVar("T")
RENT = ("POST", r"/v2/pods")


def adapter(cloud: EmulatedRunpod, **options: object) -> RunpodProvider:
    given = {"api_key": Secret(cloud.token), "base_url": cloud.origin, "transport": cloud.transport(), **options}
    return RunpodProvider.from_options(given, clock=cloud.clock)


def machine(
    offer: Offer, *, key: str = "si-0123456789abcdef", owner: str = "a1b2c3", **changes: object
) -> InstanceSpec:
    spec = InstanceSpec(
        key=key,
        owner=owner,
        name="my server",
        offer=offer,
        command=("python3", "-I", "-c", "boot()"),
        env={"SPOTINFER_CONFIG": Secret("what-nobody-may-see")},
        ports={"engine": 8000, "agent": 8001},
        image="vllm/vllm-openai:v0.20.0",
        disk=120 * 10**9,
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


class OnRunpod(Harness):
    def run(self, law: Callable[[], Awaitable[None]]) -> None:
        run_virtual(law)

    async def settle(self) -> None:
        await anyio.sleep(3)

    def make_provider(self) -> Provider:
        self.cloud = EmulatedRunpod(LoopClock())
        watch(self.cloud)
        return adapter(self.cloud)

    def make_spec(self, key: str, offer: Offer) -> InstanceSpec:
        return machine(offer, key=key, owner=self.owner)

    async def existing(self, provider: Provider) -> list[str]:
        return [pod.name.split(".")[2] for pod in self.cloud.existing()]

    def lose_next_answer(self, provider: Provider) -> None:
        self.cloud.inject(CUT_AFTER.on(*RENT))

    def say_native(self, provider: Provider, id: str, native: str) -> None:
        if native in ("PROVISIONING", "STARTING"):
            self.cloud.said.pop(id, None)  # let it boot
            self.cloud.pods[id].timeline.say(self.cloud.now(), native)
        else:
            self.cloud.say(id, native)

    def native_states(self) -> Mapping[str, State]:
        return STATES


class TestRunpod(OnRunpod, ProviderContract):
    pass


class TestRunpodCommunity(OnRunpod, ProviderContract):
    """The same on other people's hardware, on two GPUs."""

    def choose(self, offers: Sequence[Offer]) -> Offer:
        return next(offer for offer in offers if offer.id.endswith(":2:COMMUNITY"))


class TestRunpodFaults(OnRunpod, HttpFaults):
    spending = RENT

    def inject(self, provider: Provider, fault: Fault) -> None:
        self.cloud.inject(fault)

    def heal(self, provider: Provider) -> None:
        self.cloud.heal()

    def account_keys(self) -> list[str]:
        return [self.cloud.token]


# --- what bit others, one by one -------------------------------------------------------------------------------------


def on_cloud(check: Callable[[EmulatedRunpod, RunpodProvider], Awaitable[T]], **options: object) -> T:
    """Run it with a fresh account in virtual time."""

    async def body() -> T:
        cloud = EmulatedRunpod(LoopClock())
        watch(cloud)
        provider = adapter(cloud, **options)
        try:
            return await check(cloud, provider)
        finally:
            await provider.aclose()

    return run_virtual(body)


async def first_offer(provider: Provider, **want: object) -> Offer:
    return (await provider.list_offers(Want(**want)))[0]  # type: ignore[arg-type]


async def fails(error: type[ProviderError], call: Callable[[], Awaitable[object]]) -> ProviderError:
    with pytest.raises(error) as raised:
        await call()
    return raised.value


def test_an_offer_is_the_whole_machine_and_a_pod_costs_what_was_offered() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        offers = await provider.list_offers(Want())
        assert {offer.kind for offer in offers} == {OfferKind.ON_DEMAND}
        for offer in offers:
            assert offer.accelerators is not None
            kind = next(kind for kind in cloud.gpus if kind.id == offer.details["gpu"])
            assert offer.per_hour == kind.price(offer.details["cloud"]) * offer.accelerators.count
            assert offer.accelerators.gpu.memory > kind.memory * 10**9 * 0.9
        eight = next(offer for offer in offers if offer.id.startswith("NVIDIA H100") and ":8:" in offer.id)
        assert eight.per_hour == Decimal("23.92")
        created = await provider.create(machine(eight))
        assert created.per_hour == eight.per_hour

    on_cloud(check)


def test_every_request_names_the_count_and_the_cuda_version() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        offer = await first_offer(provider)
        await provider.create(machine(offer))
        body = next(call.request.body for call in cloud.calls if call.request.method == "POST")
        assert body["gpu"] == {"id": "NVIDIA GeForce RTX 4090", "count": 1, "minCudaVersion": "13.0"}
        assert (body["entrypoint"], body["cmd"]) == (["python3"], ["-I", "-c", "boot()"])
        assert (body["disk"], body["ports"]) == (120, ["8000/tcp", "8001/tcp"])

    on_cloud(check)


def test_without_the_count_the_cloud_would_speak_of_missing_instances() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> str:
        body = create_body(machine(await first_offer(provider)))
        assert isinstance(body["gpu"], dict)
        del body["gpu"]["count"]
        error = await fails(NoCapacity, lambda: provider._http.request("POST", "/pods", json=body, spends=True))
        return error.message

    assert "no instances" in on_cloud(check)


def test_no_spot_is_offered() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        assert await provider.list_offers(Want(kinds=frozenset({OfferKind.SPOT, OfferKind.INTERRUPTIBLE}))) == []

    assert not RunpodProvider.capabilities.spot
    on_cloud(check)


def test_regions_pin_the_secure_cloud_only() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        offers = await provider.list_offers(Want(regions=frozenset({"EU"})))
        assert {(offer.region, offer.details["cloud"]) for offer in offers} == {("EU-RO-1", "SECURE")}
        created = await provider.create(machine(offers[0]))
        assert cloud.pods[created.id].place == ("SECURE", "EU-RO-1")

    on_cloud(check)


def test_a_network_volume_binds_to_its_data_centre() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        cloud.volumes["vol1"] = "EU-RO-1"
        offers = await provider.list_offers(Want())
        assert {offer.region for offer in offers} == {"EU-RO-1"}
        assert await provider.list_offers(Want(regions=frozenset({"US"}))) == []
        created = await provider.create(machine(offers[0]))
        assert cloud.pods[created.id].body["mounts"] == {"network": [{"volumeId": "vol1", "path": "/models"}]}

    on_cloud(check, network_volume="vol1", volume_path="/models")


def test_what_is_sold_out_or_unknown_is_not_offered() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        assert not [offer for offer in await provider.list_offers(Want()) if "AMD" in offer.id]
        cloud.no_capacity()
        assert await provider.list_offers(Want()) == []

    on_cloud(check)


def test_the_offer_that_is_gone_when_it_is_taken() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        offer = await first_offer(provider)
        cloud.no_capacity()
        error = await fails(NoCapacity, partial(provider.create, machine(offer)))
        assert "no instances" in error.message
        assert error.hint is not None
        assert "rule" in error.hint

    on_cloud(check)


def test_a_pool_that_the_account_may_not_use_costs_only_that_offer() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        offer = await first_offer(provider)
        refusal = Fault(name="pool", status=403, body={"title": "Forbidden", "detail": "no access to this pool"})
        cloud.inject(refusal.on(*RENT))
        await fails(OfferGone, partial(provider.create, machine(offer)))

    on_cloud(check)


def test_no_money_for_an_hour() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        offer = await first_offer(provider)
        cloud.balance = Decimal("0.10")
        await fails(InsufficientFunds, partial(provider.create, machine(offer)))
        assert not cloud.existing()

    on_cloud(check)


def test_a_server_error_after_the_pod_was_made_is_found_by_its_key_and_never_sent_again() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        spec = machine(await first_offer(provider))
        cloud.inject(answered(500, after=True).on(*RENT))
        await fails(OutcomeUnknown, partial(provider.create, spec))
        assert len([call for call in cloud.calls if call.request.method == "POST"]) == 1
        assert [pod.key for pod in await provider.list_owned(spec.owner)] == [spec.key]

    on_cloud(check)


def test_an_answer_that_does_not_fit_after_renting_is_no_reason_to_forget_the_pod() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        spec = machine(await first_offer(provider))
        cloud.inject(Fault(name="odd", status=201, body={"unexpected": True}, after=True).on(*RENT))
        await fails(OutcomeUnknown, partial(provider.create, spec))
        assert len(await provider.list_owned(spec.owner)) == 1

    on_cloud(check)


def test_other_peoples_pods_are_left_alone() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        offer = await first_offer(provider)
        body = create_body(machine(offer))
        for name in (
            "my-training-pod",
            "spotinfer.somebody.si-1.x",
            "spotinfer",
            "spotinfer..si-2",
            "xspotinfer.a1b2c3.k",
        ):
            await provider._http.request("POST", "/pods", json={**body, "name": name}, spends=True)
        created = await provider.create(machine(offer, name="näme / with: odd\nthings"))
        assert [pod.id for pod in await provider.list_owned("a1b2c3")] == [created.id]

    on_cloud(check)


def test_endpoints_are_the_mapped_tcp_ports_of_a_running_pod() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        created = await provider.create(machine(await first_offer(provider)))
        assert created.endpoints == {}  # `runtime` is null until it runs
        await anyio.sleep(10)
        seen = await provider.get(created.id)
        ports = cloud.pods[created.id].ports
        assert seen is not None
        assert seen.endpoints == {
            "engine": Endpoint(host="203.0.113.7", port=ports[8000]),
            "agent": Endpoint(host="203.0.113.7", port=ports[8001]),
        }

    on_cloud(check)


def test_a_stopped_pod_whose_gpus_are_taken_cannot_be_resumed() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        created = await provider.create(machine(await first_offer(provider)))
        await anyio.sleep(10)
        await provider.stop(created.id)
        await provider.stop(created.id)  # already: no error
        stopped = await provider.get(created.id)
        assert stopped is not None
        assert (stopped.state, stopped.per_hour) == (State.STOPPED, 0)
        cloud.no_capacity()
        await fails(NoCapacity, partial(provider.resume, created.id))
        await provider.terminate(created.id)
        await fails(NotSupported, partial(provider.resume, created.id))

    on_cloud(check)


def test_an_end_that_answers_500_though_it_ended_is_the_end() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        created = await provider.create(machine(await first_offer(provider)))
        cloud.inject(answered(500, after=True).on("DELETE"))
        await provider.terminate(created.id)
        assert await provider.get(created.id) is None
        assert not cloud.existing()

    on_cloud(check)


def test_the_key_of_a_pod_ends_that_pod_only() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        offer = await first_offer(provider)
        one, two = [await provider.create(machine(offer, key=key)) for key in ("si-1", "si-2")]
        inside = adapter(cloud, api_key=Secret(cloud.pods[one.id].machine_key))
        await fails(ProviderError, lambda: inside.terminate(two.id))
        await fails(ProviderError, lambda: inside.list_owned("a1b2c3"))
        await inside.terminate(one.id)
        assert [pod.id for pod in await provider.list_owned("a1b2c3")] == [two.id]
        await inside.aclose()

    on_cloud(check)


def test_the_recipe_of_the_end_ends_the_pod_with_its_own_key() -> None:
    """As the agent would follow it: the variables are those that RunPod sets in the machine."""

    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        created = await provider.create(machine(await first_offer(provider)))
        (step,) = RunpodProvider.end_recipe
        inside = {"$RUNPOD_POD_ID": created.id, "$RUNPOD_API_KEY": cloud.pods[created.id].machine_key}
        text = json.dumps(step).replace(BASE_URL, cloud.origin)
        for name, value in inside.items():
            text = text.replace(name, value)
        filled = json.loads(text)
        async with httpx2.AsyncClient(transport=cloud.transport()) as client:
            statuses = [
                (await client.request(call["method"], call["url"], headers=call["headers"])).status_code
                for call in (filled["check"], filled, filled)
            ]
        assert (filled["kind"], statuses) == ("http", [200, 204, 401])
        assert not cloud.existing()

    on_cloud(check)


def test_the_machines_secrets_are_not_in_what_we_keep_of_an_answer() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        created = await provider.create(machine(await first_offer(provider)))
        assert cloud.pods[created.id].body["env"] == {"SPOTINFER_CONFIG": "what-nobody-may-see"}  # RunPod echoes it
        assert "what-nobody-may-see" not in repr(await provider._pods())

    on_cloud(check)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image": None}, "image"),
        ({"env": {"RUNPOD_API_KEY": Secret("account-key")}}, "RUNPOD_API_KEY"),
        ({"env": {f"V{n}": "x" for n in range(51)}}, "50"),
        ({"env": {"BIG": "x" * 103_000}}, "larger"),
        ({"ports": {"engine": 9000}}, "8000"),
        ({"owner": "a.b"}, "name"),
    ],
)
def test_what_runpod_would_refuse_or_misread_is_not_sent(changes: dict[str, object], says: str) -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        spec = machine(await first_offer(provider), **changes)  # type: ignore[arg-type]
        error = await fails(ProviderError, partial(provider.create, spec))
        assert says in error.message
        assert "account-key" not in str(error)
        assert not [call for call in cloud.calls if call.request.method == "POST"]

    on_cloud(check)


def test_the_limit_of_calls_says_how_long_to_wait() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> float | None:
        cloud.per_minute = 3
        for _ in range(3):
            await provider.check()
        error = await fails(RateLimited, provider.check)
        assert isinstance(error, RateLimited)
        return error.retry_after

    wait = on_cloud(check)
    assert wait is not None
    assert 50 < wait <= 61


def test_the_bill_is_per_second_and_stops_with_the_pod() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        offer = await first_offer(provider)
        created = await provider.create(machine(offer))
        await anyio.sleep(5400)
        await provider.terminate(created.id)
        await anyio.sleep(36000)
        charges = await provider.charges(cloud.clock.now() - timedelta(days=1))
        pod = cloud.pods[created.id]
        assert {charge.instance_id for charge in charges} == {created.id}
        assert len({charge.id for charge in charges}) == len(charges) == 2
        assert abs(sum(charge.amount for charge in charges) - sum(cloud.invoice(pod, 0, cloud.now()))) < Decimal(
            "0.00001"
        )
        assert offer.per_hour is not None
        compute, disk = cloud.invoice(pod, 0, cloud.now())
        assert abs(compute - offer.per_hour * Decimal("1.5")) < Decimal("0.001")
        assert abs(disk - 120 * Decimal("0.10") / 730 * Decimal("1.5")) < Decimal("0.001")

    on_cloud(check)


def test_the_log_has_both_sources_in_order() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        created = await provider.create(machine(await first_offer(provider)))
        now = cloud.now()
        cloud.pods[created.id].lines += [(now, "container", f"line {n}: ok") for n in range(300)]
        lines = await provider.logs(created.id, 200)
        assert (len(lines), lines[-1]) == (200, "line 299: ok")
        assert (await provider.logs(created.id, 5000))[0].startswith("create container vllm/vllm-openai")
        await provider.terminate(created.id)
        assert await provider.logs(created.id, 10) == []

    on_cloud(check)


def test_a_log_line_that_cannot_be_read_is_left_out() -> None:
    stream = ["id: x", 'data: {"line": "one", "source": "container", "ts": "x"}', "", "data: {", "data: []", ": ping"]
    assert log_lines([*stream, 'data: {"line": "two: three"}']) == ["one", "two: three"]


def test_a_wrong_key_is_said_and_not_shown() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        stranger = adapter(cloud, api_key=Secret("rpa_wrong_key_1234"))
        error = await fails(AuthenticationFailed, stranger.check)
        assert "rpa_wrong_key" not in str(error) + repr(stranger)
        await stranger.aclose()

    on_cloud(check)


def test_options_are_checked() -> None:
    clock, key = LoopClock(), Secret("rpa_key_123456")
    with pytest.raises(MissingCredentials):
        RunpodProvider.from_options({}, clock=clock)
    with pytest.raises(UnknownName, match="did you mean 'clouds'"):
        RunpodProvider.from_options({"api_key": key, "cloud": "secure"}, clock=clock)
    with pytest.raises(ConfigError, match="SECURE and COMMUNITY"):
        RunpodProvider.from_options({"api_key": key, "clouds": ["spot"]}, clock=clock)
    with pytest.raises(ConfigError, match="https"):
        RunpodProvider.from_options({"api_key": key, "base_url": "http://api.runpod.io/v2"}, clock=clock)
    with pytest.raises(ConfigError) as raised:
        RunpodProvider.from_options({"api_key": Secret("rpa_key\nwith a line")}, clock=clock)
    assert "rpa_key" not in str(raised.value)
    assert BASE_URL in repr(RunpodProvider.from_options({"api_key": key, "clouds": "secure"}, clock=clock))


# --- the published schema --------------------------------------------------------------------------------------------


def test_the_examples_of_the_schema_can_be_read() -> None:
    """What RunPod itself gives as answers of the calls that we make."""
    spec = specification(NAME)
    if spec is None:
        pytest.skip(ABSENT)
    pods = spec.document["paths"]["/v2/pods"]["post"]["responses"]["201"]["content"]["application/json"]
    assert set(STATES) == set(spec.document["components"]["schemas"]["PodStatus"]["enum"])
    assert pods["schema"] == {"$ref": "#/components/schemas/Pod"}


def test_the_schema_refuses_what_the_emulator_refuses() -> None:
    spec = specification(NAME)
    if spec is None:
        pytest.skip(ABSENT)

    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> None:
        good = create_body(machine(await first_offer(provider)))
        for name in ("entrypoint", "cmd"):
            del good[name]
        spec.check_schema("CreatePodRequest", good)
        for change in ({"interruptible": True}, {"disk": 0}, {"name": ""}, {"ports": "8000/tcp"}, {"cloud": "ALL"}):
            with pytest.raises(AssertionError):
                spec.check_schema("CreatePodRequest", {**good, **change})
            error = await fails(
                ProviderError, partial(provider._http.request, "POST", "/pods", json={**good, **change})
            )
            assert "422" in error.message or "validation" in error.message

    on_cloud(check)


def test_times_are_utc() -> None:
    async def check(cloud: EmulatedRunpod, provider: RunpodProvider) -> datetime | None:
        return (await provider.create(machine(await first_offer(provider)))).created_at

    created_at = on_cloud(check)
    assert created_at is not None
    assert created_at.tzinfo == timezone.utc


def test_the_fault_matrix_can_fail() -> None:
    """An adapter that takes every failure for "no capacity" is found out, and so is one that shows what it sent."""

    class Careless(RunpodProvider):
        async def create(self, spec: InstanceSpec) -> Instance:
            try:
                return await super().create(spec)
            except OutcomeUnknown as error:
                raise NoCapacity("sold out") from error

        async def get(self, id: str) -> Instance | None:
            try:
                return await super().get(id)
            except ProviderError:
                return None

    class Faults(TestRunpodFaults):
        def make_provider(self) -> Provider:
            self.cloud = EmulatedRunpod(LoopClock())
            given = {"api_key": Secret(self.cloud.token), "base_url": self.cloud.origin}
            return Careless.from_options({**given, "transport": self.cloud.transport()}, clock=self.cloud.clock)

    with pytest.raises(AssertionError, match="NoCapacity"):
        Faults().test_faults_at_the_call_that_rents()
    with pytest.raises(AssertionError, match="get, 401: returned"):
        Faults().test_faults_at_get()


def test_the_schema_finds_an_emulator_that_answers_wrongly() -> None:
    if specification(NAME) is None:
        pytest.skip(ABSENT)

    class Odd(EmulatedRunpod):
        def _shown(self, pod: EmulatedPod) -> dict[str, Any]:
            return {**super()._shown(pod), "cost": "cheap"}

    async def body() -> None:
        cloud = Odd(LoopClock())
        watch(cloud)
        provider = adapter(cloud)
        await provider.create(machine(await first_offer(provider)))

    with pytest.raises(AssertionError, match=r"cost 'cheap' is not of type 'number'"):
        run_virtual(body)
