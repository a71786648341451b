"""The AWS adapter keeps the contract, against moto's server with what AWS does and moto does not in front of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import pytest

pytest.importorskip("boto3", reason="the extra aws is not installed")
pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[server,ec2,ssm]'")

from spotinfer.core.clock import WallClock
from spotinfer.core.errors import ProviderUnavailable, UnexpectedAnswer
from spotinfer.core.model import InstanceSpec, Offer, OfferKind
from spotinfer.core.protocols import Provider
from spotinfer.core.states import State
from spotinfer.providers.aws.adapter import AwsProvider
from spotinfer.providers.aws.wire import STATES
from spotinfer.testing.contract import ProviderContract
from spotinfer.testing.emulators import fault as faults
from spotinfer.testing.emulators.aws import AwsEmulator
from spotinfer.testing.emulators.fault import FAULTS, Fault
from spotinfer.testing.faults import HttpFaults, Outcomes
from spotinfer.testing.harness import Harness

ATTEMPTS = 3
HERE = "203.0.113.7"


async def here() -> str:
    return HERE


@pytest.fixture(scope="session")
def emulator() -> Iterator[AwsEmulator]:
    with AwsEmulator() as running:
        yield running


class OnMoto(Harness):
    kind: ClassVar[OfferKind] = OfferKind.SPOT
    timeout: ClassVar[float] = 30.0

    @pytest.fixture(autouse=True)
    def _cloud(self, emulator: AwsEmulator) -> None:
        self.cloud = emulator

    def make_provider(self) -> Provider:
        self.cloud.reset()
        options = self.cloud.options(caller=here, timeout=self.timeout, first_wait=0.001)
        return AwsProvider.from_options(options, clock=WallClock())

    def make_spec(self, key: str, offer: Offer) -> InstanceSpec:
        ports = {"agent": 8001, "engine": 8000}
        command = ("python3", "-I", "-c", "print('agent')")
        return InstanceSpec(key=key, owner=self.owner, name="test", offer=offer, command=command, ports=ports)

    def choose(self, offers: Sequence[Offer]) -> Offer:
        return next(offer for offer in offers if offer.kind is self.kind and "/g6.xlarge/" in offer.id)

    async def existing(self, provider: Provider) -> list[str]:
        return self.cloud.keys()


class TestAwsSpot(OnMoto, ProviderContract):
    gaps: ClassVar[Mapping[str, str]] = {
        "test_stop_and_resume_as_announced": "never: EC2 does not stop one-time spot machines (on-demand does)",
    }

    def lose_next_answer(self, provider: Provider) -> None:
        lost = faults.CUT_AFTER.on("POST", "RunInstances")
        self.cloud.inject(lost.repeated(ATTEMPTS))

    def say_native(self, provider: Provider, id: str, native: str) -> None:
        self.cloud.machine(id)._state.name = native

    def native_states(self) -> Mapping[str, State]:
        return STATES


class TestAwsOnDemand(TestAwsSpot):
    kind = OfferKind.ON_DEMAND
    gaps: ClassVar[Mapping[str, str]] = {}


class TestAwsFaults(OnMoto, HttpFaults):
    """``refused`` is tried elsewhere (test_aws.py in unit): a server that answers cannot refuse one call."""

    kind = OfferKind.ON_DEMAND
    timeout = 0.5
    spending = ("POST", "RunInstances")
    faults: ClassVar[Sequence[Fault]] = tuple(fault for fault in FAULTS if fault is not faults.REFUSED)

    def inject(self, provider: Provider, fault: Fault) -> None:
        self.cloud.inject(fault)

    def heal(self, provider: Provider) -> None:
        self.cloud.heal()

    def account_keys(self) -> Sequence[str]:
        return [self.cloud.secret_key]

    def outcomes(self, method: str, fault: Fault) -> Outcomes:
        if fault.name in ("404", "409", "422"):
            # EC2 says what it means by codes such as InvalidInstanceID.NotFound. A bare status is somebody else's, and
            # must neither end a machine in our books nor count as its end.
            return (UnexpectedAnswer,)
        if fault.name == "half a JSON" and method in ("terminate", "logs"):
            return (ProviderUnavailable,)
        return super().outcomes(method, fault)
