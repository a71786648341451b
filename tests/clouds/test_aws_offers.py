"""What the AWS adapter offers and at which price, and what its settings may be."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal

import anyio
import pytest

pytest.importorskip("boto3", reason="the extra aws is not installed")
pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[server,ec2,ssm]'")

from spotinfer.core.clock import WallClock
from spotinfer.core.errors import (
    AuthenticationFailed,
    ConfigError,
    MissingExtra,
    OfferGone,
    PermissionDenied,
    ProviderUnavailable,
    UnknownName,
)
from spotinfer.core.model import Offer, OfferKind, Want
from spotinfer.core.secret import Secret
from spotinfer.providers.aws import chips, market, wire
from spotinfer.providers.aws.adapter import AwsProvider
from spotinfer.testing.emulators.aws import AwsEmulator
from spotinfer.testing.harness import Listener
from support.aws import account, offer, spec

SPOT, ON_DEMAND = OfferKind.SPOT, OfferKind.ON_DEMAND


@pytest.fixture(scope="module")
def running() -> Iterator[AwsEmulator]:
    with AwsEmulator() as emulator:
        yield emulator


@pytest.fixture
def cloud(running: AwsEmulator) -> AwsEmulator:
    running.reset()
    return running


def offers(cloud: AwsEmulator, want: Want | None = None, **options: object) -> list[Offer]:
    found: list[Offer] = []

    async def body(provider: AwsProvider) -> None:
        found.extend(await provider.list_offers(want or Want()))

    run(cloud, body, **options)
    return found


def run(cloud: AwsEmulator, body: Callable[[AwsProvider], Awaitable[None]], **options: object) -> None:
    async def main() -> None:
        async with account(cloud, **options) as provider:
            await body(provider)

    anyio.run(main)


# --- offers --------------------------------------------------------------------------------------------------------


def test_prices_are_of_whole_machines_and_of_their_zone(cloud: AwsEmulator) -> None:
    found = {offer.id: offer for offer in offers(cloud)}
    four = found["us-east-1/us-east-1a/g6.12xlarge/spot"]
    assert four.per_hour == Decimal("1.9204")
    assert four.accelerators is not None
    assert (four.accelerators.count, four.accelerators.gpu.name) == (4, "L4")
    assert (four.cpus, four.memory, four.notice.total_seconds()) == (48, 192 << 30, 120)
    listed = found["us-east-1/us-east-1b/g6.12xlarge/on-demand"]
    assert (listed.per_hour, listed.notice.total_seconds()) == (Decimal("4.6016"), 0)
    assert listed.extras.storage_stopped == (Decimal("0.08") * 10**9 / 2**30).quantize(Decimal("1e-9"))
    assert (listed.extras.bandwidth_out, listed.extras.bandwidth_in) == (None, None), "not told"
    assert found["us-east-1/us-east-1a/g5g.xlarge/spot"].arch == "arm64"


def test_every_offer_has_a_price_that_aws_told(cloud: AwsEmulator) -> None:
    spot = {offer.id.split("/")[2] for offer in offers(cloud, Want(kinds=frozenset({SPOT})))}
    listed = {offer.id.split("/")[2] for offer in offers(cloud, Want(kinds=frozenset({ON_DEMAND})))}
    assert (spot, listed) == (set(cloud.spot_prices), set(cloud.list_prices)), "all pages, and nothing invented"


def test_all_regions_asked_for(cloud: AwsEmulator) -> None:
    both = {offer.region for offer in offers(cloud, regions=["us-east-1", "us-west-2"])}
    assert both == {"us-east-1", "us-west-2"}
    assert {offer.region for offer in offers(cloud, Want(regions=frozenset({"us-west-2"})))} == {"us-west-2"}
    assert offers(cloud, Want(regions=frozenset({"EU-RO-1", "Europe"}))) == [], "regions of other clouds"


def test_a_region_that_fails_costs_its_own_offers_only(cloud: AwsEmulator, caplog: pytest.LogCaptureFixture) -> None:
    cloud.refuse("DescribeInstanceTypes", "UnauthorizedOperation")
    found = offers(cloud, regions=["us-east-1", "us-west-2"])
    assert len({offer.region for offer in found}) == 1
    assert "no offers of us-" in caplog.text
    cloud.refuse("DescribeInstanceTypes", "UnauthorizedOperation", times=2)
    with pytest.raises(PermissionDenied):
        offers(cloud, regions=["us-east-1", "us-west-2"])


def test_without_the_price_list_there_is_spot_only(cloud: AwsEmulator, caplog: pytest.LogCaptureFixture) -> None:
    cloud.refuse("GetProducts", "AccessDeniedException", times=2)
    found = offers(cloud)
    assert {offer.kind for offer in found} == {SPOT}
    assert {offer.extras.storage_running for offer in found} == {None}
    assert "no on-demand prices" in caplog.text
    cloud.refuse("GetProducts", "AccessDeniedException", times=2)
    with pytest.raises(PermissionDenied):
        offers(cloud, Want(kinds=frozenset({ON_DEMAND})))


def test_a_second_listing_asks_for_spot_prices_only(cloud: AwsEmulator) -> None:
    async def body(provider: AwsProvider) -> None:
        await provider.list_offers(Want())
        cloud.calls.clear()
        cloud.spot_prices["g6.xlarge"] = "0.4"
        assert (await offer(provider)).per_hour == Decimal("0.4")
        assert {call.action for call in cloud.calls} == {"DescribeSpotPriceHistory"}

    run(cloud, body)


def test_the_dearest_is_left_out(cloud: AwsEmulator) -> None:
    assert all(offer.per_hour <= 1 for offer in offers(cloud, Want(max_price=Decimal(1))) if offer.per_hour is not None)


def machine(**gpu: object) -> wire.InstanceType:
    described = {"Name": "L4", "Manufacturer": "NVIDIA", "Count": 1, "MemoryInfo": {"SizeInMiB": 22888}, **gpu}
    return wire.InstanceType.model_validate({"InstanceType": "g6.xlarge", "GpuInfo": {"Gpus": [described]}})


@pytest.mark.parametrize(
    ("gpu", "name"),
    [
        ({}, "L4"),
        ({"Name": "A100", "MemoryInfo": {"SizeInMiB": 40960}}, "A100 40GB SXM"),
        ({"Name": "A100", "MemoryInfo": {"SizeInMiB": 81920}}, "A100 80GB SXM"),
        ({"Name": "H100", "MemoryInfo": {"SizeInMiB": 81920}}, "H100 SXM"),
        ({"Name": "R200", "MemoryInfo": {"SizeInMiB": 294912}}, "R200"),
        ({"Count": 0}, None),  # a slice of a chip (g6f)
        ({"Name": "V100"}, None),
        ({"Manufacturer": "AMD"}, None),
    ],
)
def test_chips(gpu: dict[str, object], name: str | None) -> None:
    found = chips.accelerators(machine(**gpu))
    assert (found and found.gpu.name) == name
    assert found is None or found.gpu.memory > 1 << 30


@pytest.mark.parametrize("price", ["0.0000000000", "", None, "NaN"])
def test_a_product_without_a_price_is_none(price: str | None) -> None:
    dimension = {"unit": "Hrs", "pricePerUnit": {"USD": price}}
    product = {"product": {"attributes": {}}, "terms": {"OnDemand": {"a": {"priceDimensions": {"b": dimension}}}}}
    assert market.product_price(product, "Hrs") is None
    assert market.product_price({"product": {}, "terms": {"Reserved": {}}}, "Hrs") is None


# --- settings and secrets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"regoins": ["us-east-1"]}, UnknownName),
        ({"regions": "virginia"}, ConfigError),
        ({"regions": 7}, ConfigError),
        ({"access_key": "AKIA"}, ConfigError),
        ({"access_key": "AKIA", "secret_key": "not a Secret"}, ConfigError),
        ({"allow_from": "203.0.113.7/24"}, ConfigError),
        ({"allow_from": 7}, ConfigError),
        ({"disk": 0}, ConfigError),
        ({"disk": True}, ConfigError),
        ({"caller": "203.0.113.7"}, ConfigError),
    ],
)
def test_a_wrong_setting_is_named(options: dict[str, object], error: type[ConfigError]) -> None:
    with pytest.raises(error, match="|".join(options)) as caught:
        AwsProvider.from_options(options, clock=WallClock())
    assert "not a Secret" not in str(caught.value)


def test_without_boto3_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingExtra, match=r"spotinfer\[aws\]"):
        AwsProvider.from_options({}, clock=WallClock())


def test_a_profile_that_does_not_exist(cloud: AwsEmulator) -> None:
    async def main() -> None:
        options = {"profile": "nobody-has-this", "endpoint_url": cloud.url, "first_wait": 0.001}
        provider = AwsProvider.from_options(options, clock=WallClock())
        with pytest.raises(AuthenticationFailed, match="credentials"):
            await provider.check()

    anyio.run(main)


def test_a_wrong_key_is_refused(cloud: AwsEmulator) -> None:
    async def body(provider: AwsProvider) -> None:
        with pytest.raises(AuthenticationFailed):
            await provider.check()
        with pytest.raises(AuthenticationFailed):
            await provider.list_offers(Want())

    run(cloud, body, access_key="AKIAWRONG")


def test_the_end_recipe_is_data_and_needs_no_key() -> None:
    assert json.loads(json.dumps(AwsProvider.end_recipe)) == [{"kind": "command", "argv": ["shutdown", "-h", "now"]}]


def test_an_offer_of_somebody_else_is_gone(cloud: AwsEmulator) -> None:
    async def body(provider: AwsProvider) -> None:
        strange = Offer(provider="aws", id="12345", kind=SPOT, per_hour=None)
        with pytest.raises(OfferGone):
            await provider.create(spec(strange))

    run(cloud, body)


def test_boto3_logs_neither_user_data_nor_session_tokens(cloud: AwsEmulator) -> None:
    heard = Listener()

    async def body(provider: AwsProvider) -> None:
        with heard:
            await provider.create(spec(await offer(provider)))
            logging.getLogger("botocore.endpoint").debug("somebody else's request")

    run(cloud, body, session_token=Secret("session-token-1234"))
    (call,) = cloud.asked("RunInstances")
    assert call.parameters["UserData"]
    told = "\n".join(heard.lines)
    assert call.parameters["UserData"] not in told
    assert "session-token-1234" not in told
    assert "somebody else's request" in told, "who uses boto3 beside us keeps the logs"


def test_the_address_is_asked_of_aws_and_a_failure_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from spotinfer.providers.aws import network

    monkeypatch.setattr(network, "CHECK_IP", "http://127.0.0.1:9/")
    with pytest.raises(ProviderUnavailable) as caught:
        anyio.run(network.public_address)
    assert "allow_from" in str(caught.value)
