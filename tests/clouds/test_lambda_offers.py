"""Lambda's instance types as offers, and its instances as machines."""

from __future__ import annotations

from datetime import datetime, timezone
from decimal import Decimal

import pytest

from spotinfer.core.errors import OfferGone, ProviderError
from spotinfer.core.model import Endpoint, InstanceSpec, Offer, OfferKind, Want
from spotinfer.core.states import State
from spotinfer.providers.lambdalabs import wire
from spotinfer.providers.lambdalabs.leftovers import Mark, locked_public_key
from spotinfer.providers.lambdalabs.machines import STATES, describe, tags
from spotinfer.providers.lambdalabs.offers import accelerators, offer_place, offers
from spotinfer.testing.emulators.lambda_forms import TYPES, instance_type
from support.specs import ABSENT, specification

NOW = datetime(2026, 11, 21, tzinfo=timezone.utc)
SPEC = "lambda/openapi-1.10.0.json"


def listed(want: Want | None = None) -> list[Offer]:
    data = {
        kind["name"]: {
            "instance_type": kind,
            "regions_with_capacity_available": [{"name": region, "description": ""} for region in regions],
        }
        for kind, regions in TYPES
    }
    return offers(wire.Types.model_validate({"data": data}), want or Want(), NOW)


def kind(gpu: str, count: int = 1) -> wire.InstanceType:
    return wire.InstanceType.model_validate(instance_type("t", gpu, 100, (count, 1, 1, 1)))


def test_an_offer_is_a_type_in_a_region_that_has_some() -> None:
    assert [offer.id for offer in listed()] == [
        "gpu_1x_a10@us-west-1",
        "gpu_1x_a10@us-east-1",
        "gpu_1x_a100_sxm4@us-east-1",
        "gpu_1x_gh200@us-east-1",
        "gpu_8x_h100_sxm5@us-west-1",
    ]


def test_the_price_is_that_of_the_whole_machine() -> None:
    """Eight GPUs for $23.92, not eight times that."""
    found = next(offer for offer in listed() if offer.id.startswith("gpu_8x_h100"))
    assert found.per_hour == Decimal("23.92")
    assert found.accelerators is not None
    assert (found.accelerators.count, found.accelerators.gpu.name) == (8, "H100")
    assert found.accelerators.memory == 8 * 80 << 30
    assert found.accelerators.gpu.capability == (9, 0)
    assert (found.memory, found.disk, found.cpus) == (1800 << 30, 22528 << 30, 208)


def test_an_offer_says_what_lambda_documents() -> None:
    for offer in listed():
        assert (offer.kind, offer.notice.total_seconds()) == (OfferKind.ON_DEMAND, 0)
        assert offer.billing.granularity == 60
        assert offer.extras.bandwidth_out == offer.extras.bandwidth_in == 0
        assert offer.expires_at is not None
        assert offer.expires_at > NOW


def test_grace_machines_are_arm() -> None:
    assert {offer.arch for offer in listed() if "gh200" in offer.id} == {"arm64"}
    assert {offer.arch for offer in listed() if "gh200" not in offer.id} == {"x86_64"}


def test_spot_is_not_sold() -> None:
    assert listed(Want(kinds=frozenset({OfferKind.SPOT, OfferKind.INTERRUPTIBLE}))) == []


def test_regions_are_filtered_and_those_without_firewall_left_out() -> None:
    assert {offer.region for offer in listed(Want(regions=frozenset({"us-west-1"})))} == {"us-west-1"}
    assert "us-south-1" not in {offer.region for offer in listed()}


@pytest.mark.parametrize(
    ("text", "name", "gib"),
    [
        ("A10 (24 GB PCIe)", "A10", 24),
        ("GH200 (96 GB)", "GH200", 96),
        ("Tesla V100 (16 GB)", "V100", 16),
        ("RTX 6000 (24 GB)", "RTX 6000", 24),
        ("A6000 (48 GB)", "RTX A6000", 48),
        ("NVIDIA B200 (180 GB SXM6)", "B200", 180),
        ("Z9 (1000 GB)", "Z9", 1000),
    ],
)
def test_chips_get_their_canonical_name_and_bytes(text: str, name: str, gib: int) -> None:
    found = accelerators(kind(text, 2))
    assert found is not None
    assert (found.gpu.name, found.gpu.memory, found.count) == (name, gib << 30, 2)


@pytest.mark.parametrize(("text", "count"), [("N/A", 0), ("H100", 1), ("A10 (24 GB PCIe)", 0)])
def test_what_is_no_gpu_machine_is_no_offer(text: str, count: int) -> None:
    assert accelerators(kind(text, count)) is None


@pytest.mark.parametrize("id", ["", "@", "gpu_1x_a10", "@us-west-1", "gpu_1x_a10@"])
def test_an_id_that_is_none_is_a_gone_offer(id: str) -> None:
    with pytest.raises(OfferGone):
        offer_place(Offer(provider="lambda", id=id, kind=OfferKind.ON_DEMAND, per_hour=None))


# --- machines --------------------------------------------------------------------------------------------------------


def make_spec(key: str = "si-1", owner: str = "me") -> InstanceSpec:
    return InstanceSpec(
        key=key, owner=owner, name="n", offer=listed()[0], command=(), ports={"engine": 8000, "agent": 8001}
    )


def machine(status: str = "active", ip: str | None = "192.0.2.7") -> wire.Machine:
    marked = tuple(wire.Tag(key=key, value=value) for key, value in tags(make_spec(), NOW).items())
    return wire.Machine(id="1", status=status, ip=ip, tags=marked, instance_type=kind("A10 (24 GB PCIe)"))


def test_tags_bring_back_what_the_api_does_not_keep() -> None:
    seen = describe(machine(), NOW)
    assert (seen.key, seen.owner, seen.created_at, seen.per_hour) == ("si-1", "me", NOW, Decimal(1))
    assert seen.endpoints == {
        "engine": Endpoint(host="192.0.2.7", port=8000),
        "agent": Endpoint(host="192.0.2.7", port=8001),
    }


@pytest.mark.parametrize(
    ("status", "ip"), [("booting", None), ("terminating", "192.0.2.7"), ("terminated", "192.0.2.7")]
)
def test_there_is_no_address_before_and_after(status: str, ip: str | None) -> None:
    assert describe(machine(status, ip), NOW).endpoints == {}


def test_every_state_of_the_specification_is_mapped_and_no_other() -> None:
    spec = specification(SPEC)
    if spec is None:
        pytest.skip(ABSENT)
    assert set(STATES) == set(spec.document["components"]["schemas"]["InstanceStatus"]["enum"])


def test_an_unknown_state_is_lost_and_kept() -> None:
    seen = describe(machine("pondering"), NOW)
    assert (seen.state, seen.native_state) == (State.LOST, "pondering")


def test_what_may_bill_is_not_called_gone() -> None:
    assert describe(machine("preempted"), NOW).state is State.LOST
    assert describe(machine("unhealthy"), NOW).state is State.LOST


def test_tags_fit_the_specification() -> None:
    spec = specification(SPEC)
    if spec is None:
        pytest.skip(ABSENT)
    for key, value in tags(make_spec(), NOW).items():
        spec.check_schema("RequestedTagEntry", {"key": key, "value": value})


def test_a_key_that_a_tag_cannot_hold_is_refused() -> None:
    with pytest.raises(ProviderError, match="spotinfer-key"):
        tags(make_spec(key="k" * 200), NOW)


def test_marks_are_read_back_and_strangers_are_not() -> None:
    mark = Mark(key="si-0123456789abcdef", owner="0123456789abcdef", made=NOW)
    assert Mark.read(str(mark)) == mark
    assert len(str(mark)) <= 64
    assert Mark.read("My Firewall Ruleset") is None
    assert Mark.read("si-x.me.soon") is None


def test_nobody_has_the_private_half_of_our_ssh_key() -> None:
    one, other = locked_public_key("c"), locked_public_key("c")
    assert one.startswith("ssh-ed25519 ")
    assert one != other
