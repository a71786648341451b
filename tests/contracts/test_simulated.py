"""The simulated market keeps the contract, on virtual time: a kind market, and one whose lists lag behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from random import Random

import anyio
import pytest

from spotinfer.core.clock import LoopClock
from spotinfer.core.model import InstanceSpec, Offer
from spotinfer.core.protocols import Provider
from spotinfer.core.states import State
from spotinfer.core.virtual import run_virtual
from spotinfer.providers.simulated.adapter import SimulatedProvider
from spotinfer.providers.simulated.config import MarketConfig
from spotinfer.providers.simulated.machine import STATES
from spotinfer.providers.simulated.market import Market
from spotinfer.testing.contract import ProviderContract


class TestSimulated(ProviderContract):
    config = MarketConfig()

    def run(self, law: Callable[[], Awaitable[None]]) -> None:
        run_virtual(law)

    async def settle(self) -> None:
        await anyio.sleep(3)

    def make_provider(self) -> Provider:
        self.market = Market(Random(7), LoopClock(), self.config)
        return SimulatedProvider(self.market)

    def make_spec(self, key: str, offer: Offer) -> InstanceSpec:
        ports = {"agent": 8001, "engine": 8000}
        return InstanceSpec(key=key, owner=self.owner, name="test", offer=offer, command=("agent",), ports=ports)

    async def existing(self, provider: Provider) -> list[str]:
        return [machine.key for machine in self.market.existing()]

    def lose_next_answer(self, provider: Provider) -> None:
        self.market.lose_next_answer()

    def say_native(self, provider: Provider, id: str, native: str) -> None:
        machine = self.market.machine(id)
        assert machine is not None
        machine.say(native)

    def native_states(self) -> Mapping[str, State]:
        return STATES


class TestInterruptible(TestSimulated):
    """The same on a machine that was bid for."""

    def choose(self, offers: list[Offer]) -> Offer:  # type: ignore[override]
        return next(offer for offer in offers if offer.kind.value == "interruptible")


class TestLaggingLists(TestSimulated):
    """What was created shows up in lists half a minute late."""

    config = MarketConfig(listing_lag=30.0)
    gaps = dict.fromkeys(
        ("test_same_key_twice_is_one_machine", "test_unknown_native_state_is_lost_and_kept"),
        "never: asks for the list at once",
    )


def test_a_law_can_fail() -> None:
    """An adapter that forgets what it rented is found out."""

    class Forgetful(SimulatedProvider):
        async def list_owned(self, owner: str) -> list[object]:  # type: ignore[override]
            return []

    class Contract(TestSimulated):
        polls = 3

        def make_provider(self) -> Provider:
            self.market = Market(Random(7), LoopClock(), self.config)
            return Forgetful(self.market)

    with pytest.raises(AssertionError, match="unowned machines"):
        Contract().test_create_cancelled_anywhere_leaves_nothing_unowned()
