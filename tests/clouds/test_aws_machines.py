"""Renting and ending at EC2: what is sent, what a refusal means, and that nothing is lost or doubled."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from random import Random

import anyio
import pytest

pytest.importorskip("boto3", reason="the extra aws is not installed")
pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[server,ec2,ssm]'")

from spotinfer.control.attempt import HostView
from spotinfer.control.boot import instance_spec
from spotinfer.core.errors import (
    AuthenticationFailed,
    NoCapacity,
    NotSupported,
    OfferGone,
    Outbid,
    OutcomeUnknown,
    PermissionDenied,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    Reaction,
    UnexpectedAnswer,
)
from spotinfer.core.model import EngineSettings, Limits, Model, OfferKind
from spotinfer.core.states import Cause, State
from spotinfer.providers.aws.adapter import AwsProvider
from spotinfer.serving.access import issue
from spotinfer.serving.vllm import VllmEngine
from spotinfer.testing.emulators import fault as faults
from spotinfer.testing.emulators.aws import AwsEmulator, tags
from spotinfer.testing.emulators.fault import Fault
from support.aws import OWNER, account, offer, spec
from support.hosts import Host

KEY = "si-0000000000000001"
RENT = ("POST", "RunInstances")


@pytest.fixture(scope="module")
def running() -> Iterator[AwsEmulator]:
    with AwsEmulator() as emulator:
        yield emulator


@pytest.fixture
def cloud(running: AwsEmulator) -> AwsEmulator:
    running.reset()
    return running


def run(cloud: AwsEmulator, body: Callable[[AwsProvider], Awaitable[None]], **options: object) -> None:
    async def main() -> None:
        async with account(cloud, **options) as provider:
            await body(provider)

    anyio.run(main)


# --- what is sent --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [OfferKind.SPOT, OfferKind.ON_DEMAND])
def test_a_machine_is_marked_ends_with_its_shutdown_and_is_not_rented_again(
    cloud: AwsEmulator, kind: OfferKind
) -> None:
    async def body(provider: AwsProvider) -> None:
        await provider.create(spec(await offer(provider, kind), disk=200 * 10**9))

    run(cloud, body)
    (call,) = cloud.asked("RunInstances")
    sent = dict(call.parameters)
    assert sent["ClientToken"] == KEY
    assert sent["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert sent["MetadataOptions.HttpTokens"] == "required"
    assert (sent["MinCount"], sent["MaxCount"]) == ("1", "1")
    assert "IamInstanceProfile.Name" not in sent
    assert sent["BlockDeviceMapping.1.DeviceName"] == "/dev/sda1"
    assert sent["BlockDeviceMapping.1.Ebs.VolumeSize"] == "187"  # 200 GB, rounded up to GiB
    assert sent["BlockDeviceMapping.1.Ebs.DeleteOnTermination"] == "true"
    marked = [value for name, value in sent.items() if name.endswith("ResourceType")]
    spot = [name for name in sent if name.startswith("InstanceMarketOptions")]
    if kind is OfferKind.SPOT:
        assert marked == ["instance", "volume", "network-interface", "spot-instances-request"]
        assert sent["InstanceMarketOptions.SpotOptions.SpotInstanceType"] == "one-time"
        assert sent["InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior"] == "terminate"
        assert not [name for name in spot if "MaxPrice" in name]
    else:
        assert marked == ["instance", "volume", "network-interface"]
        assert not spot
    for part in range(1, len(marked) + 1):
        prefix = f"TagSpecification.{part}.Tag."
        written = {sent[f"{prefix}{n}.Key"]: sent[f"{prefix}{n}.Value"] for n in range(1, 6)}
        assert (written["spotinfer:key"], written["spotinfer:owner"]) == (KEY, OWNER)


def test_user_data_is_a_script_that_fits(cloud: AwsEmulator, tmp_path: Path) -> None:
    async def body(provider: AwsProvider) -> None:
        wanted = await offer(provider)
        await provider.create(spec(wanted))
        too_long = spec(wanted, key="si-2", env={"LONG": Random(1).randbytes(20_000).hex()})
        with pytest.raises(ProviderError, match="16384"):
            await provider.create(too_long)

    run(cloud, body)
    (call,) = cloud.asked("RunInstances")
    script = gzip.decompress(base64.b64decode(call.parameters["UserData"])).decode()
    assert script.startswith("#!")
    host = Host(tmp_path)
    host.boot(script)
    assert "c2VjcmV0LWNvbmZpZw==" in (host.root / "environment").read_text()


def test_the_agent_with_its_secrets_fits(cloud: AwsEmulator) -> None:
    """Not by far: whoever makes the agent longer is told here before a user is."""

    async def body(provider: AwsProvider) -> None:
        engine, model = VllmEngine(), Model(source="Qwen/Qwen3-235B-A22B", served_name="Qwen/Qwen3-235B-A22B")
        secrets = issue(KEY, timedelta(days=1), datetime.now(timezone.utc))
        host = HostView(gpus=8, local=False)
        command = engine.command(model, EngineSettings(context=32768), host, secrets.api_key.reveal())
        whole = instance_spec(
            secrets=secrets,
            owner=OWNER,
            name="test",
            offer=await offer(provider),
            engine=engine,
            command=command,
            limits=Limits(),
            local=False,
        )
        assert (await provider.create(whole)).key == KEY

    run(cloud, body)


def test_a_machine_has_addresses_once_it_runs(cloud: AwsEmulator) -> None:
    async def body(provider: AwsProvider) -> None:
        created = await provider.create(spec(await offer(provider)))
        seen = await provider.get(created.id)
        assert seen is not None
        assert {role: end.port for role, end in seen.endpoints.items()} == {"agent": 8001, "engine": 8000}
        assert str(seen.per_hour) == cloud.spot_prices["g6.xlarge"]
        cloud.machine(created.id)._state.name = "pending"
        seen = await provider.get(created.id)
        assert seen is not None
        assert not seen.endpoints

    run(cloud, body)


# --- refusals ------------------------------------------------------------------------------------------------------

REFUSALS: list[tuple[str, type[ProviderError], Reaction]] = [
    ("InsufficientInstanceCapacity", NoCapacity, Reaction.NEXT_OFFER),
    ("UnfulfillableCapacity", NoCapacity, Reaction.NEXT_OFFER),
    ("SpotMaxPriceTooLow", Outbid, Reaction.NEXT_OFFER),
    ("Unsupported", OfferGone, Reaction.NEXT_OFFER),
    ("UnsupportedOperation", OfferGone, Reaction.NEXT_OFFER),
    ("MaxSpotInstanceCountExceeded", QuotaExceeded, Reaction.SKIP_PROVIDER),
    ("VcpuLimitExceeded", QuotaExceeded, Reaction.SKIP_PROVIDER),
    ("UnauthorizedOperation", PermissionDenied, Reaction.SKIP_PROVIDER),
    ("PendingVerification", PermissionDenied, Reaction.SKIP_PROVIDER),
    ("ExpiredToken", AuthenticationFailed, Reaction.SKIP_PROVIDER),
    ("RequestLimitExceeded", RateLimited, Reaction.RETRY_HERE),
    ("InvalidParameterCombination", UnexpectedAnswer, Reaction.FAIL),
]


@pytest.mark.parametrize(("code", "kind", "reaction"), REFUSALS, ids=[row[0] for row in REFUSALS])
def test_a_refusal_is_the_error_of_its_code(
    cloud: AwsEmulator, code: str, kind: type[ProviderError], reaction: Reaction
) -> None:
    async def body(provider: AwsProvider) -> None:
        wanted = await offer(provider)
        cloud.refuse("RunInstances", code, times=3)
        with pytest.raises(kind) as caught:
            await provider.create(spec(wanted))
        assert caught.value.reaction is reaction
        assert code in caught.value.message

    run(cloud, body)
    assert not cloud.machines()


def test_no_quota_is_said_plainly(cloud: AwsEmulator) -> None:
    async def body(provider: AwsProvider) -> None:
        wanted = await offer(provider)
        cloud.refuse("RunInstances", "MaxSpotInstanceCountExceeded")
        with pytest.raises(QuotaExceeded) as caught:
            await provider.create(spec(wanted))
        assert "L-3819A6DF" in str(caught.value)
        assert "new accounts have 0" in str(caught.value)
        account = await provider.check()
        assert any("L-3819A6DF" in note and "is 0" in note for note in account.notes)
        cloud.quotas["L-3819A6DF"] = 8
        assert any("8 G and VT spot vCPUs" in note for note in (await provider.check()).notes)
        cloud.refuse("GetServiceQuota", "AccessDeniedException", times=99)
        assert any("could not be read" in note for note in (await provider.check()).notes)

    run(cloud, body)


def test_a_zone_without_a_subnet_is_no_offer(cloud: AwsEmulator) -> None:
    async def body(provider: AwsProvider) -> None:
        with pytest.raises(OfferGone, match="no named subnet in us-east-1a"):
            await provider.create(spec(await offer(provider)))

    run(cloud, body, subnets=["subnet-0123456789abcdef0"])


# --- lost answers, the same key ------------------------------------------------------------------------------------


def test_one_lost_answer_is_asked_again_with_the_same_token(cloud: AwsEmulator) -> None:
    async def body(provider: AwsProvider) -> None:
        wanted = await offer(provider)
        cloud.inject(faults.CUT_AFTER.on(*RENT))
        created = await provider.create(spec(wanted))
        assert [created.key] == cloud.keys()

    run(cloud, body)
    assert [call.parameters["ClientToken"] for call in cloud.asked("RunInstances")] == [KEY, KEY]


def test_a_refusal_after_an_open_attempt_leaves_the_outcome_open(cloud: AwsEmulator) -> None:
    async def body(provider: AwsProvider) -> None:
        wanted = await offer(provider)
        cloud.inject(faults.CUT_AFTER.on(*RENT))
        cloud.inject(Fault(name="denied", status=403).on(*RENT))
        with pytest.raises(OutcomeUnknown):
            await provider.create(spec(wanted))
        assert [instance.key for instance in await provider.list_owned(OWNER)] == [KEY]

    run(cloud, body)


def test_nothing_is_open_when_nothing_was_sent() -> None:
    async def main() -> None:
        with AwsEmulator() as cloud:
            async with account(cloud) as provider:
                wanted = await offer(provider)
                cloud.refuse("RunInstances", "InsufficientInstanceCapacity")
                with pytest.raises(NoCapacity):
                    await provider.create(spec(wanted))  # everything before the renting is known now
                cloud._server.shutdown()
                cloud._server.server_close()
                for call in (partial(provider.create, spec(wanted)), partial(provider.list_owned, OWNER)):
                    with pytest.raises(ProviderUnavailable):
                        await call()  # type: ignore[operator]
                provider._network._unused.clear()
            cloud._server.server_close()

    anyio.run(main)


def test_a_key_that_was_used_from_another_address_is_the_same_machine(cloud: AwsEmulator) -> None:
    async def elsewhere() -> str:
        return "198.51.100.4"

    async def body(provider: AwsProvider) -> None:
        wanted = await offer(provider)
        first = await provider.create(spec(wanted))
        async with account(cloud, caller=elsewhere) as moved:
            assert (await moved.create(spec(wanted))).id == first.id
        assert len(cloud.machines()) == 1

    run(cloud, body)


def test_a_cancelled_create_leaves_a_machine_that_is_found(cloud: AwsEmulator) -> None:
    """The thread that sends cannot be cancelled."""

    async def body(provider: AwsProvider) -> None:
        wanted = await offer(provider)
        cloud.inject(Fault(name="slow", slow=0.3).on(*RENT))
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(provider.create, spec(wanted))
                while not cloud.asked("RunInstances"):
                    await anyio.sleep(0.01)
                scope.cancel()
        assert [instance.key for instance in await provider.list_owned(OWNER)] == [KEY]
        assert tags(cloud.machines()[0])["spotinfer:owner"] == OWNER

    run(cloud, body)


def test_a_machine_that_ec2_does_not_show_yet_is_not_gone(cloud: AwsEmulator) -> None:
    async def body(provider: AwsProvider) -> None:
        created = await provider.create(spec(await offer(provider)))
        cloud.refuse("DescribeInstances", "InvalidInstanceID.NotFound", times=2)
        cloud.refuse("TerminateInstances", "InvalidInstanceID.NotFound", times=2)
        assert await provider.get(created.id) == created
        with pytest.raises(ProviderUnavailable):
            await provider.terminate(created.id)
        async with account(cloud) as other:
            assert await other.get(created.id) is None
            await other.terminate(created.id)

    run(cloud, body)


# --- states and ids ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["Server.SpotInstanceTermination", "Server.SpotInstanceShutdown"])
def test_an_interruption_is_the_cause(cloud: AwsEmulator, code: str) -> None:
    async def body(provider: AwsProvider) -> None:
        created = await provider.create(spec(await offer(provider)))
        machine = cloud.machine(created.id)
        machine._state.name = "terminated"
        machine.state_reason.code, machine.state_reason.message = code, f"{code}: interrupted"
        seen = await provider.get(created.id)
        assert seen is not None
        assert (seen.state, seen.cause) == (State.TERMINATED, Cause.PREEMPTED)
        assert code in seen.detail

    run(cloud, body)


def test_a_spot_machine_cannot_be_stopped(cloud: AwsEmulator) -> None:
    async def body(provider: AwsProvider) -> None:
        created = await provider.create(spec(await offer(provider)))
        with pytest.raises(NotSupported, match="one-time"):
            await provider.stop(created.id)

    run(cloud, body)


def test_an_id_without_its_region_is_refused_and_not_called_gone(cloud: AwsEmulator) -> None:
    async def body(provider: AwsProvider) -> None:
        for call in (provider.get, provider.terminate, provider.stop):
            with pytest.raises(NotSupported):
                await call("i-0123456789abcdef0")

    run(cloud, body)


def test_machines_are_found_in_every_region_or_the_list_is_an_error(cloud: AwsEmulator) -> None:
    async def body(provider: AwsProvider) -> None:
        async with account(cloud, regions=["us-west-2"]) as west:
            created = await west.create(spec(await offer(west)))
        assert created.id.startswith("us-west-2/i-")
        assert [instance.id for instance in await provider.list_owned(OWNER)] == [created.id]
        cloud.refuse("DescribeInstances", "UnauthorizedOperation")
        with pytest.raises(PermissionDenied) as caught:
            await provider.list_owned(OWNER)
        assert "policy" in str(caught.value)

    run(cloud, body)
