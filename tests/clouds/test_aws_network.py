"""Who may reach a machine at EC2: the security group, and that none is left over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest

pytest.importorskip("boto3", reason="the extra aws is not installed")
pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[server,ec2,ssm]'")

from spotinfer.core.errors import NoCapacity, ProviderUnavailable
from spotinfer.providers.aws.adapter import AwsProvider
from spotinfer.testing.emulators.aws import AwsEmulator
from support.aws import HERE, account, here, offer, spec


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


# --- who may reach it ----------------------------------------------------------------------------------------------


def rules(group: Any) -> set[tuple[int, str]]:
    return {(int(rule.from_port), rule.ip_range["CidrIp"]) for rule in group.ingress_rules}


@pytest.mark.parametrize(
    ("options", "networks"),
    [({}, {f"{HERE}/32"}), ({"allow_from": "198.51.100.0/24, 192.0.2.9/32"}, {"198.51.100.0/24", "192.0.2.9/32"})],
)
def test_only_our_ports_are_open_and_only_to_the_caller(
    cloud: AwsEmulator, options: dict[str, object], networks: set[str]
) -> None:
    async def body(provider: AwsProvider) -> None:
        await provider.create(spec(await offer(provider)))

    run(cloud, body, **options)
    (group,) = cloud.groups()
    assert rules(group) == {(port, network) for port in (8000, 8001) for network in networks}


def test_one_group_serves_many_machines_and_goes_with_the_last(cloud: AwsEmulator) -> None:
    async def body(provider: AwsProvider) -> None:
        first, second = [await provider.create(spec(await offer(provider), key=f"si-{n}")) for n in (1, 2)]
        assert len(cloud.groups()) == 1
        for ended in (first, first):
            await provider.terminate(ended.id)
        assert len(cloud.groups()) == 1, "the other machine needs it"
        await provider.terminate(second.id)
        await provider.terminate(second.id)
        assert not cloud.groups()

    run(cloud, body)


def test_a_group_that_a_launch_did_not_need_goes_when_the_adapter_is_closed(cloud: AwsEmulator) -> None:
    async def body(provider: AwsProvider) -> None:
        wanted = await offer(provider)
        cloud.refuse("RunInstances", "InsufficientInstanceCapacity", times=20)
        for number in range(20):
            with pytest.raises(NoCapacity):
                await provider.create(spec(wanted, key=f"si-{number}"))
        assert len(cloud.groups()) == 1
        assert len(cloud.asked("CreateSecurityGroup")) == len(cloud.asked("GetParameter")) == 1, (
            "nothing is asked twice"
        )

    run(cloud, body)
    assert not cloud.groups()


def test_a_group_that_was_swept_meanwhile_is_made_again(cloud: AwsEmulator) -> None:
    async def body(provider: AwsProvider) -> None:
        wanted = await offer(provider)
        first = await provider.create(spec(wanted))
        async with account(cloud) as other:
            await other.terminate(first.id)
            await other.terminate(first.id)
        assert not cloud.groups()
        cloud.refuse("RunInstances", "InvalidGroup.NotFound")
        await provider.create(spec(wanted, key="si-2"))
        assert len(cloud.groups()) == 1

    run(cloud, body)


def test_a_group_left_without_rules_is_opened_by_the_next_launch(cloud: AwsEmulator) -> None:
    async def dies(provider: AwsProvider) -> None:
        cloud.refuse("AuthorizeSecurityGroupIngress", "InternalError", times=3, status=500)
        cloud.refuse("DeleteSecurityGroup", "InternalError", times=3, status=500)
        with pytest.raises(ProviderUnavailable):
            await provider.create(spec(await offer(provider)))

    async def lives(provider: AwsProvider) -> None:
        await provider.create(spec(await offer(provider)))

    run(cloud, dies)
    assert not cloud.machines()
    (group,) = cloud.groups()
    assert not rules(group)
    cloud.heal()
    run(cloud, lives)
    (group,) = cloud.groups()
    assert len(rules(group)) == 2


def test_the_default_way_to_find_the_address_is_not_taken_where_one_is_given(cloud: AwsEmulator) -> None:
    asked = []

    async def counted() -> str:
        asked.append(1)
        return await here()

    async def body(provider: AwsProvider) -> None:
        wanted = await offer(provider)
        for number in range(3):
            await provider.create(spec(wanted, key=f"si-{number}"))

    run(cloud, body, caller=counted)
    assert len(asked) == 1
    run(cloud, body, caller=counted, allow_from=["0.0.0.0/0"])
    assert len(asked) == 1
