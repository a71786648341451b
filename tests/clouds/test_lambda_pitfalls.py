"""What bit other users of Lambda, one by one: rate limits, error codes, what a 404 means, the bill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise

import anyio
import pytest

from spotinfer.core.clock import WallClock
from spotinfer.core.errors import (
    ConfigError,
    MissingCredentials,
    NoCapacity,
    OfferGone,
    OutcomeUnknown,
    PermissionDenied,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    UnexpectedAnswer,
    UnknownName,
)
from spotinfer.core.model import Want
from spotinfer.core.secret import Secret
from spotinfer.core.states import State
from spotinfer.core.virtual import run_virtual
from spotinfer.providers.lambdalabs import wire
from spotinfer.providers.lambdalabs.adapter import LambdaProvider
from spotinfer.testing.emulators.fault import RATE_LIMITED_SILENTLY, UNAVAILABLE, Fault
from support.lambda_account import SPEC, TOKEN, Account, on_account
from support.specs import ABSENT, specification

NOTHING_ENDED = {"data": {"terminated_instances": []}}
LAUNCH = ("POST", r"/api/v1/instance-operations/launch")


async def refused(account: Account, code: str, status: int = 400) -> ProviderError:
    """What a launch raises that is answered with this code."""
    body = {"error": {"code": code, "message": "no", "suggestion": "try"}}
    account.cloud.inject(Fault(name=code, status=status, body=body).on(*LAUNCH))
    with pytest.raises(ProviderError) as raised:
        await account.provider.create(await account.spec())
    return raised.value


# --- rate limits: a client that did not know them left machines running ---------------------------------------------


@on_account()
async def test_launches_are_twelve_seconds_apart(account: Account) -> None:
    for number in range(3):
        await account.provider.create(await account.spec(number))
    at = [call.at for call in account.cloud.calls if call.request.path.endswith("/launch")]
    assert [later - earlier >= 12 for earlier, later in pairwise(at)] == [True, True]
    assert not [call for call in account.cloud.calls if call.status == 429]


@on_account(wait_for_launch=False)
async def test_a_launch_that_comes_too_early_says_so_and_makes_nothing(account: Account) -> None:
    await account.provider.create(await account.spec(1))
    made, spec = len(account.clutter()), await account.spec(2)
    with pytest.raises(RateLimited) as raised:
        await account.provider.create(spec)
    assert raised.value.retry_after is not None
    assert 0 < raised.value.retry_after <= 12
    assert len(account.clutter()) == made
    await anyio.sleep(raised.value.retry_after)
    await account.provider.create(spec)


@on_account()
async def test_calls_are_one_second_apart(account: Account) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(account.provider.check)
    at = [call.at for call in account.cloud.calls]
    assert all(later - earlier > 0.99 for earlier, later in pairwise(at))


@on_account()
async def test_a_429_without_retry_after_does_not_stop_the_end_of_a_machine(account: Account) -> None:
    created = await account.provider.create(await account.spec())
    account.cloud.inject(RATE_LIMITED_SILENTLY.on("POST", r".*/terminate"))
    await account.provider.terminate(created.id)
    assert not account.cloud.existing()


@on_account()
async def test_a_429_at_the_launch_names_the_documented_interval(account: Account) -> None:
    account.cloud.inject(RATE_LIMITED_SILENTLY.on(*LAUNCH))
    with pytest.raises(RateLimited) as raised:
        await account.provider.create(await account.spec())
    assert raised.value.retry_after == 12


# --- codes -----------------------------------------------------------------------------------------------------------


@on_account()
async def test_no_capacity_leaves_nothing_behind_and_the_next_offer_works(account: Account) -> None:
    spec = await account.spec()
    account.cloud.sold_out.add(spec.offer.id)
    with pytest.raises(NoCapacity):
        await account.provider.create(spec)
    assert not account.clutter()
    other = (await account.provider.list_offers(Want()))[1]
    await account.provider.create(replace(spec, offer=other))
    assert len(account.cloud.existing()) == 1


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("instance-operations/launch/insufficient-capacity", 400, NoCapacity),
        ("global/quota-exceeded", 400, QuotaExceeded),
        ("global/account-inactive", 403, PermissionDenied),
        ("global/invalid-address", 403, PermissionDenied),
        ("global/object-does-not-exist", 404, OfferGone),
        ("global/object-does-not-exist", 400, OfferGone),
        ("global/invalid-parameters", 400, UnexpectedAnswer),
        ("provider/internal-unavailable", 400, OutcomeUnknown),
        ("provider/internal-unavailable", 503, OutcomeUnknown),
        ("global/internal-error", 409, OutcomeUnknown),
        ("global/internal-error", 500, OutcomeUnknown),
        # A 5xx may come after the machine was made, whatever it says.
        ("instance-operations/launch/insufficient-capacity", 500, OutcomeUnknown),
    ],
)
def test_the_code_decides(code: str, status: int, kind: type[ProviderError]) -> None:
    async def main() -> None:
        account = Account()
        error = await refused(account, code, status)
        assert type(error) is kind
        # What a lost answer may need is kept, everything else is removed.
        assert bool(account.clutter()) == (kind is OutcomeUnknown)

    run_virtual(main)


@on_account()
async def test_a_launch_that_is_answered_strangely_may_have_rented(account: Account) -> None:
    for body in ({"data": {}}, {"data": {"instance_ids": []}}, ["?"]):
        account.cloud.inject(Fault(name="odd", status=200, body=body, after=True).on(*LAUNCH))
        spec = await account.spec()
        with pytest.raises(OutcomeUnknown):
            await account.provider.create(spec)
        found = await account.provider.list_owned("me")
        assert [instance.key for instance in found] == [spec.key]
        await account.provider.terminate(found[0].id)


# --- gone, or not ----------------------------------------------------------------------------------------------------


@on_account()
async def test_a_404_of_a_proxy_is_not_gone(account: Account) -> None:
    created = await account.provider.create(await account.spec())
    account.cloud.inject(Fault(name="proxy", status=404, body="<html>").on("GET", f".*/{created.id}"))
    assert await account.provider.get(created.id) is not None


@on_account()
async def test_nothing_is_gone_while_the_list_cannot_be_read(account: Account) -> None:
    created = await account.provider.create(await account.spec())
    account.cloud.inject(Fault(name="proxy", status=404, body="<html>").on("GET", f".*/{created.id}"))
    account.cloud.inject(UNAVAILABLE.repeated().on("GET", r"/api/v1/instances"))
    with pytest.raises(ProviderUnavailable):
        await account.provider.get(created.id)


@on_account()
async def test_a_refused_end_of_a_running_machine_is_no_success(account: Account) -> None:
    created = await account.provider.create(await account.spec())
    for odd in (Fault(name="404", status=404, body={}), Fault(name="{}", status=200, body=NOTHING_ENDED)):
        account.cloud.inject(odd.on("POST", r".*/terminate"))
        with pytest.raises(UnexpectedAnswer):
            await account.provider.terminate(created.id)
        assert account.cloud.existing()
    await account.provider.terminate(created.id)
    assert not account.cloud.existing()


@on_account()
async def test_a_machine_whose_end_is_refused_because_it_is_ending_is_success(account: Account) -> None:
    created = await account.provider.create(await account.spec())
    account.cloud.say(created.id, "terminating")
    account.cloud.inject(Fault(name="odd", status=409, body={"error": {"code": "global/conflict"}}).on("POST"))
    await account.provider.terminate(created.id)


@on_account()
async def test_machines_of_other_people_are_not_ours(account: Account) -> None:
    created = await account.provider.create(await account.spec())
    account.cloud.machines[created.id].asked["tags"].clear()  # type: ignore[attr-defined]
    assert await account.provider.list_owned("me") == []
    seen = await account.provider.get(created.id)
    assert seen is not None
    assert (seen.key, seen.owner, seen.endpoints) == ("", "", {})


@on_account()
async def test_a_terminated_machine_no_longer_counts(account: Account) -> None:
    created = await account.provider.create(await account.spec())
    await account.provider.terminate(created.id)
    seen = await account.provider.get(created.id)
    assert seen is not None
    assert seen.state is State.TERMINATED
    assert await account.provider.list_owned("me") == []
    await anyio.sleep(120)
    assert await account.provider.get(created.id) is None


# --- secrets ---------------------------------------------------------------------------------------------------------


@on_account()
async def test_secrets_are_in_the_user_data_and_nowhere_else(account: Account) -> None:
    await account.provider.create(await account.spec())
    (body,) = account.launches()
    user_data = body.pop("user_data")
    assert TOKEN in user_data
    assert account.cloud.token not in user_data, "an account's key never goes onto a machine"
    others = [call.request.body for call in account.cloud.calls if not call.request.path.endswith("/launch")]
    assert TOKEN not in json.dumps([body, others])
    assert account.cloud.token not in repr(account.provider)


# --- the bill --------------------------------------------------------------------------------------------------------


@on_account()
async def test_the_invoice_is_per_minute_from_the_first_healthy_moment(account: Account) -> None:
    created = await account.provider.create(await account.spec())
    assert account.cloud.invoice() == {created.id: Decimal(0)}
    booted = account.cloud.machines[created.id].timeline.began + account.cloud.boot
    await anyio.sleep(booted + 61 - account.cloud.now())
    assert account.cloud.invoice() == {created.id: Decimal(75) * 2 / 6000}
    await account.provider.terminate(created.id)
    billed = account.cloud.invoice()
    await anyio.sleep(3600)
    assert account.cloud.invoice() == billed


# --- settings and the specification ----------------------------------------------------------------------------------


def test_settings_are_checked() -> None:
    make = LambdaProvider.from_options
    with pytest.raises(MissingCredentials):
        make({}, clock=WallClock())
    with pytest.raises(UnknownName, match="ssh_key"):
        make({"api_key": Secret("k" * 20), "ssh_keys": "x"}, clock=WallClock())
    wrong: list[Mapping[str, object]] = [
        {"allow_from": "everybody"},
        {"wait_for_launch": "yes"},
        {"base_url": "http://x"},
    ]
    for options in wrong:
        with pytest.raises(ConfigError):
            make({"api_key": Secret("k" * 20), **options}, clock=WallClock())
    assert "kkk" not in repr(make({"api_key": Secret("k" * 20)}, clock=WallClock()))


def test_our_models_read_the_examples_of_the_specification() -> None:
    spec = specification(SPEC)
    if spec is None:
        pytest.skip(ABSENT)
    schemas = spec.document["components"]["schemas"]
    read = wire.Types.model_validate({"data": schemas["InstanceTypes"]["example"]})
    assert read.data["gpu_8x_example"].instance_type.price_cents_per_hour == 1592
    answers = spec.document["paths"]["/api/v1/instance-operations/terminate"]["post"]["responses"]["200"]
    example = answers["content"]["application/json"]["schema"]["properties"]["data"]["examples"][0]
    (machine,) = wire.Terminated.model_validate({"data": example}).data.terminated_instances
    assert (machine.status, machine.ip) == ("terminating", "198.51.100.2")
    assert [tag.key for tag in machine.tags] == ["key1", "key2"]


def test_our_models_ask_for_nothing_that_the_specification_does_not_promise() -> None:
    spec = specification(SPEC)
    if spec is None:
        pytest.skip(ABSENT)
    pairs = {
        "Instance": wire.Machine,
        "InstanceType": wire.InstanceType,
        "InstanceTypeSpecs": wire.Specs,
        "InstanceTypesItem": wire.TypeItem,
        "Region": wire.Region,
        "SSHKey": wire.SshKey,
        "FirewallRuleset": wire.Ruleset,
        "TagEntry": wire.Tag,
        "InstanceLaunchResponse": wire.LaunchedIds,
        "InstanceTerminateResponse": wire.TerminatedMachines,
    }
    for name, model in pairs.items():
        schema = spec.document["components"]["schemas"][name]
        needed = {field for field, info in model.model_fields.items() if info.is_required()}
        assert needed <= set(schema["required"]), name
        assert set(model.model_fields) <= set(schema["properties"]), name
