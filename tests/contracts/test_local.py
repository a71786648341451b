"""The provider ``local`` keeps the contract, with real processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from spotinfer.core.model import InstanceSpec, Offer
from spotinfer.core.protocols import Provider
from spotinfer.providers.local.adapter import LocalProvider
from spotinfer.testing.contract import ProviderContract
from support import local_machines

NO_WIRE = "never: there is no wire between the adapter and this computer on which an answer could be lost"
OWN_WORDS = "never: the words are the adapter's own, see tests/unit/test_local_states.py"


class TestLocal(ProviderContract):
    gaps: ClassVar[Mapping[str, str]] = {
        "test_lost_answer_leaves_an_owned_machine": NO_WIRE,
        "test_create_after_a_lost_answer_does_not_double": NO_WIRE,
        "test_every_native_state_maps": OWN_WORDS,
        "test_unknown_native_state_is_lost_and_kept": OWN_WORDS,
    }

    @pytest.fixture(autouse=True)
    def _home(self, tmp_path: Path) -> None:
        self.home = tmp_path

    def make_provider(self) -> Provider:
        return LocalProvider(self.home)

    def make_spec(self, key: str, offer: Offer) -> InstanceSpec:
        return local_machines.spec(key, offer=offer, owner=self.owner)

    async def existing(self, provider: Provider) -> list[str]:
        return local_machines.machines(self.home)
