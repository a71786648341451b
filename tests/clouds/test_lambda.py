"""The provider ``lambda`` keeps the contract on the emulated Lambda Cloud, on virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import anyio
import pytest

from spotinfer.core.clock import LoopClock
from spotinfer.core.errors import UnexpectedAnswer
from spotinfer.core.model import InstanceSpec, Offer
from spotinfer.core.protocols import Provider
from spotinfer.core.secret import Secret
from spotinfer.core.states import State
from spotinfer.core.virtual import run_virtual
from spotinfer.providers.lambdalabs.adapter import LambdaProvider
from spotinfer.providers.lambdalabs.machines import STATES
from spotinfer.testing.contract import ProviderContract
from spotinfer.testing.emulators.fault import BROKEN, CUT_AFTER, Fault
from spotinfer.testing.emulators.lambdalabs import EmulatedLambda
from spotinfer.testing.faults import HttpFaults, Outcomes
from spotinfer.testing.harness import Harness
from support.specs import validated

LAUNCH = ("POST", r"/api/v1/instance-operations/launch")


class OnLambda(Harness):
    def run(self, law: Callable[[], Awaitable[None]]) -> None:
        run_virtual(law)

    async def settle(self) -> None:
        await anyio.sleep(5)

    def make_provider(self) -> Provider:
        self.cloud = EmulatedLambda()
        validated(self.cloud, "lambda/openapi-1.10.0.json")
        return LambdaProvider(
            Secret(self.cloud.token),
            clock=LoopClock(),
            base_url=self.cloud.origin,
            transport=self.cloud.transport(),
            wait_for_launch=True,
        )

    def make_spec(self, key: str, offer: Offer) -> InstanceSpec:
        ports = {"agent": 8001, "engine": 8000}
        return InstanceSpec(
            key=key, owner=self.owner, name="test", offer=offer, command=("agent",), ports=ports, image="org/image:1"
        )

    async def existing(self, provider: Provider) -> list[str]:
        return [machine.tags["spotinfer-key"] for machine in self.cloud.existing()]

    def lose_next_answer(self, provider: Provider) -> None:
        self.cloud.inject(CUT_AFTER.on(*LAUNCH))

    def say_native(self, provider: Provider, id: str, native: str) -> None:
        if native not in STATES:
            self.cloud.observers.clear()  # no specification allows a word that nobody has heard yet
        self.cloud.say(id, native)

    def native_states(self) -> Mapping[str, State]:
        return STATES


class TestLambda(OnLambda, ProviderContract):
    async def end_all(self, provider: Provider) -> None:
        """Not even what costs nothing is left, wherever a call was cancelled."""
        await super().end_all(provider)
        assert not self.cloud.ssh_keys
        assert not self.cloud.rulesets


class TestLambdaFaults(OnLambda, HttpFaults):
    spending = LAUNCH
    gaps = {"test_faults_at_logs": "never: Lambda has no log API, so there is no call that could fail"}

    def inject(self, provider: Provider, fault: Fault) -> None:
        self.cloud.inject(fault)

    def heal(self, provider: Provider) -> None:
        self.cloud.heal()

    def account_keys(self) -> Sequence[str]:
        return [self.cloud.token]

    def outcomes(self, method: str, fault: Fault) -> Outcomes:
        if fault.name == "404" and method in ("get", "terminate"):
            # Lambda says "gone" with a code of its own. Any other 404 is doubted, and settled by the list, which here
            # answers 404 as well: "could not tell".
            return (UnexpectedAnswer,)
        return super().outcomes(method, fault)


def test_a_law_can_fail() -> None:
    """An adapter that leaves the SSH key and the ruleset of a refused launch behind is found out."""

    class Careless(TestLambda):
        def make_provider(self) -> Provider:
            provider = super().make_provider()
            self.cloud.inject(BROKEN.repeated().on("DELETE"))
            return provider

    with pytest.raises(AssertionError, match="ssh_keys"):
        Careless().test_terminate_ends_it_and_can_be_repeated()
