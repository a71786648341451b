"""Everything that control code touches, handed in: a simulation hands in other things and runs the same code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random, SystemRandom

from ..core.clock import Clock, WallClock
from ..core.errors import UnknownName
from ..core.model import Instance, LaunchSecrets, Progress
from ..core.protocols import Engine, HoldStore, KeyStore, Ledger, MachineLink, ProgressListener, Provider

OpenLink = Callable[[Instance, LaunchSecrets], MachineLink]
Issue = Callable[[str, "timedelta | None", datetime], LaunchSecrets]
"""(key, lifetime, now) -> secrets of one launch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often control code looks, in seconds, and when it gives up."""

    first_poll: float = 0.03
    max_poll: float = 2.0
    boot_limit: float = 30 * 60
    end_limit: float = 60.0
    sample_every: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    ledger: Ledger
    keystore: KeyStore
    holds: HoldStore
    providers: Mapping[str, Provider]
    engines: Mapping[str, Engine]
    open_link: OpenLink
    issue: Issue
    clock: Clock = field(default_factory=WallClock)
    pace: Pace = Pace()
    random: Random = field(default_factory=SystemRandom)

    def provider(self, name: str) -> Provider:
        if name not in self.providers:
            raise UnknownName("provider", name, list(self.providers))
        return self.providers[name]

    def new_key(self) -> str:
        """Unique per intent; also a legal tag, host name and file name at every provider."""
        return f"si-{self.random.getrandbits(64):016x}"


def silent(progress: Progress) -> None:
    """A progress listener for those who asked for none."""


__all__ = ["Issue", "OpenLink", "Pace", "ProgressListener", "World", "silent"]
