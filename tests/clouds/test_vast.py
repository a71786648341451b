"""Vast.ai keeps the contract on its emulator, in virtual time, and its known traps catch nobody."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import ClassVar

import anyio
import pytest

from spotinfer.core.clock import LoopClock
from spotinfer.core.errors import (
    UnexpectedAnswer,
)
from spotinfer.core.model import InstanceSpec, Offer, OfferKind
from spotinfer.core.protocols import Provider
from spotinfer.core.states import State
from spotinfer.core.virtual import run_virtual
from spotinfer.providers.vast.states import STATES
from spotinfer.testing.contract import ProviderContract
from spotinfer.testing.emulators import fault as faults
from spotinfer.testing.emulators.fault import Fault
from spotinfer.testing.emulators.vast import EmulatedVast
from spotinfer.testing.faults import HttpFaults, Outcomes
from spotinfer.testing.harness import Harness
from support import vast_spec
from support.vast import RENTS, adapter, machine_spec


class VastAccount(Harness):
    def run(self, law: Callable[[], Awaitable[None]]) -> None:
        run_virtual(law)

    async def settle(self) -> None:
        await anyio.sleep(3)

    def make_provider(self) -> Provider:
        self.cloud = EmulatedVast(LoopClock())
        return adapter(self.cloud)

    def make_spec(self, key: str, offer: Offer) -> InstanceSpec:
        return machine_spec(offer, key, self.owner)

    async def existing(self, provider: Provider) -> list[str]:
        return [(machine.label or "").split("/")[2] for machine in self.cloud.existing()]


class TestVast(VastAccount, ProviderContract):
    def lose_next_answer(self, provider: Provider) -> None:
        self.cloud.inject(faults.CUT_AFTER.on(*RENTS))

    def say_native(self, provider: Provider, id: str, native: str) -> None:
        self.cloud.say(int(id), native)

    def native_states(self) -> Mapping[str, State]:
        return STATES

    def unknown_ids(self) -> Sequence[str]:
        return (*super().unknown_ids(), "1", "999999999", "1.5", "-1")


class TestVastBid(TestVast):
    """The same on a machine that was bid for."""

    def choose(self, offers: Sequence[Offer]) -> Offer:
        return next(offer for offer in offers if offer.kind is OfferKind.INTERRUPTIBLE)


class TestVastLagging(TestVast):
    """New machines show up in lists half a minute late."""

    gaps: ClassVar[Mapping[str, str]] = {
        "test_same_key_twice_is_one_machine": "never: asks for the list at once",
        "test_unknown_native_state_is_lost_and_kept": "never: asks for the list at once",
        "test_same_key_at_the_same_time_is_one_machine": "never: Vast has no token, and the list does not know yet",
    }

    def make_provider(self) -> Provider:
        provider = super().make_provider()
        assert not isinstance(provider, Awaitable)
        self.cloud.lag = 30.0
        return provider


class TestVastBySpec(TestVast):
    """The same again, with every call and answer judged by the official description."""

    @pytest.fixture(autouse=True)
    def _described(self) -> None:
        vast_spec.required()

    def make_provider(self) -> Provider:
        provider = super().make_provider()
        assert not isinstance(provider, Awaitable)
        self.cloud.observers.append(vast_spec.Judge())
        return provider


class TestVastFaults(VastAccount, HttpFaults):
    spending: ClassVar[tuple[str, str]] = RENTS

    def inject(self, provider: Provider, fault: Fault) -> None:
        self.cloud.inject(fault)

    def heal(self, provider: Provider) -> None:
        self.cloud.heal()

    def account_keys(self) -> Sequence[str]:
        return [self.cloud.token]

    def outcomes(self, method: str, fault: Fault) -> Outcomes:
        # A 404 in somebody else's words proves nothing: Vast has its own for a machine that is gone, and the second
        # opinion, a list, is refused as well under this fault.
        if method in ("get", "terminate") and fault is faults.NOT_FOUND:
            return (UnexpectedAnswer,)
        return super().outcomes(method, fault)
