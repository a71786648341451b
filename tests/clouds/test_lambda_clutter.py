"""What a launch makes at Lambda besides the machine (an SSH key, a firewall ruleset) goes with it: nothing of ours is
left, and nothing of anybody else's is touched."""

from __future__ import annotations

import anyio
import pytest

from spotinfer.core.errors import OfferGone, ProviderUnavailable
from spotinfer.testing.emulators.fault import CUT_AFTER, UNAVAILABLE
from support.lambda_account import Account, on_account


@on_account()
async def test_only_our_ports_are_opened_and_they_close_with_the_machine(account: Account) -> None:
    created = await account.provider.create(await account.spec())
    (ruleset,) = account.cloud.rulesets.values()
    assert [rule["port_range"] for rule in ruleset["rules"]] == [[8000, 8000], [8001, 8001]]
    assert {rule["protocol"] for rule in ruleset["rules"]} == {"tcp"}
    assert not [call for call in account.cloud.calls if "firewall-rules/" in call.request.path], (
        "global rules are not ours"
    )
    await account.provider.terminate(created.id)
    assert not account.clutter()


@on_account(allow_from="203.0.113.7")
async def test_ports_can_be_opened_to_one_network_only(account: Account) -> None:
    await account.provider.create(await account.spec())
    (ruleset,) = account.cloud.rulesets.values()
    assert {rule["source_network"] for rule in ruleset["rules"]} == {"203.0.113.7/32"}


@on_account(ssh_key="mine")
async def test_the_users_own_ssh_key_is_used_and_left_alone(account: Account) -> None:
    account.cloud.ssh_keys["1"] = {"id": "1", "name": "mine", "public_key": "ssh-ed25519 AAAA"}
    created = await account.provider.create(await account.spec())
    assert account.launches()[0]["ssh_key_names"] == ["mine"]
    await account.provider.terminate(created.id)
    assert account.clutter() == ["mine"]


@on_account(ssh_key="mine")
async def test_a_named_ssh_key_that_does_not_exist_rents_nothing(account: Account) -> None:
    with pytest.raises(OfferGone, match="SSH key"):
        await account.provider.create(await account.spec())
    assert not account.clutter()


@on_account()
async def test_what_a_lost_answer_left_behind_is_swept_by_a_later_end(account: Account) -> None:
    account.cloud.inject(CUT_AFTER.on("POST", r".*/firewall-rulesets"))
    account.cloud.inject(UNAVAILABLE.repeated().on("DELETE"), UNAVAILABLE.repeated().on("GET", r".*/firewall-rulesets"))
    with pytest.raises(ProviderUnavailable):
        await account.provider.create(await account.spec(1))
    account.cloud.heal()
    left = account.clutter()
    assert len(left) == 2

    young = await account.provider.create(await account.spec(2))
    await account.provider.terminate(young.id)
    assert account.clutter() == left, "what is young may belong to a launch that is under way"

    await anyio.sleep(15 * 60)
    old = await account.provider.create(await account.spec(3))
    await account.provider.terminate(old.id)
    assert not account.clutter()


@on_account()
async def test_what_others_made_or_running_machines_use_is_not_swept(account: Account) -> None:
    theirs = {"id": "f", "name": "Office", "region": {"name": "us-west-1", "description": ""}, "rules": []}
    account.cloud.rulesets["f"] = {**theirs, "created": "2020-01-01T00:00:00+00:00"}
    running = await account.provider.create(await account.spec(1))
    await anyio.sleep(24 * 3600)
    other = await account.provider.create(await account.spec(2))
    assert len(account.clutter()) == 5
    await account.provider.terminate(other.id)
    assert len(account.clutter()) == 3, "the other machine still runs"
    await account.provider.terminate(running.id)
    assert account.clutter() == ["Office"]


@on_account()
async def test_clutter_that_does_not_go_does_not_hide_that_the_machine_ended(account: Account) -> None:
    created = await account.provider.create(await account.spec())
    account.cloud.inject(UNAVAILABLE.repeated().on("DELETE"))
    await account.provider.terminate(created.id)
    assert not account.cloud.existing()


@on_account()
async def test_a_ruleset_that_stays_in_use_is_not_waited_for_forever(account: Account) -> None:
    account.cloud.ending = 600.0
    created = await account.provider.create(await account.spec())
    began = anyio.current_time()
    await account.provider.terminate(created.id)
    assert anyio.current_time() - began < 40
