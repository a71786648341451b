"""This computer as a provider. A machine is a private folder (see ``folder.py``) and the agent's process."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import repeat
from pathlib import Path
from typing import ClassVar, NoReturn

import anyio
from anyio import to_thread

from ...core.clock import Clock, WallClock
from ...core.errors import ConfigError, NotSupported, ProviderError, ProviderUnavailable
from ...core.model import Account, Capabilities, Charge, Instance, InstanceSpec, Offer, OfferKind, Want
from ...core.money import MachineHour, money
from ...core.protocols import ProviderOptions
from ..options import only_known
from . import hardware, processes, states
from .environment import machine_environment
from .folder import Card, Folder, folders

KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
"""A key becomes the name of a folder."""
KILLS = 100
"""How often, 0.05 s apart, what remains of a machine is killed before it is said that it does not die."""


class LocalProvider:
    """Machines on this computer.

    ``home`` is where their folders are; ``price_per_hour`` what the owner says this computer costs, in dollars; None
    means that no price is known, which is not the same as free. ``grace`` is how long :meth:`terminate` waits for the
    agent to end its engine before it kills both, in seconds.
    """

    name: ClassVar[str] = "local"
    api: ClassVar[int] = 1
    capabilities: ClassVar[Capabilities] = Capabilities(fuse=True, remote=False, settle=timedelta(0))

    def __init__(
        self, home: Path, price_per_hour: MachineHour | None = None, clock: Clock | None = None, *, grace: float = 15.0
    ) -> None:
        self.home = home.expanduser().absolute()  # machines get it as a variable and run in another folder
        self.price_per_hour = price_per_hour
        self.grace = grace
        self._clock = clock or WallClock()

    @classmethod
    def from_options(cls, options: ProviderOptions, *, clock: Clock) -> LocalProvider:
        """``home`` (a folder) and ``price_per_hour`` (dollars); both may be left out."""
        only_known(cls.name, options, ("home", "price_per_hour"))
        home, price = options.get("home"), options.get("price_per_hour")
        if home is not None and not isinstance(home, (str, Path)):
            raise ConfigError(f"home of the provider local must be a folder, not {home!r}")
        if price is not None and not isinstance(price, (Decimal, int, float, str)):
            raise ConfigError(f"price_per_hour of the provider local must be dollars, not {price!r}")
        return cls(
            Path(home) if home is not None else _default_home(),
            None if price is None else MachineHour(money(price, what="price_per_hour")),
            clock,
        )

    async def check(self) -> Account:
        found = await to_thread.run_sync(hardware.survey)
        chips = str(found.accelerators) if found.accelerators else "no GPU"
        size = f"{chips}, {found.cpus} CPUs, {found.memory / 2**30:.1f} GiB of memory"
        return Account(provider=self.name, notes=(size, *found.notes))

    async def list_offers(self, want: Want) -> Sequence[Offer]:
        found = await to_thread.run_sync(hardware.survey)
        return [
            Offer(
                provider=self.name,
                id="computer",
                kind=OfferKind.OWNED,
                per_hour=self.price_per_hour,
                accelerators=found.accelerators,
                cpus=found.cpus,
                memory=found.memory,
                arch=found.arch,
            )
        ]

    # --- the life of a machine -------------------------------------------------------------------------------------

    async def create(self, spec: InstanceSpec) -> Instance:
        """Start ``spec.command`` in a folder of its own.

        A cancelled call leaves either nothing or a machine that :meth:`list_owned` shows: the thread that starts it is
        waited for, and writes whose it is before it does.
        """
        if not KEY.fullmatch(spec.key):
            raise ProviderError(f"{spec.key!r} cannot be the name of a folder", provider=self.name)
        folder = Folder(self.home, spec.key)
        async with folder.guard(create=True):
            await to_thread.run_sync(self._start, folder, spec)
        instance = await self.get(spec.key)
        if instance is None:
            raise ProviderError(f"{spec.key} was terminated while it was created", provider=self.name)
        return instance

    def _start(self, folder: Folder, spec: InstanceSpec) -> None:
        if folder.card() is not None and not self._half_made(folder):
            return  # the same key again: the same machine
        card = Card(
            key=spec.key,
            owner=spec.owner,
            name=spec.name,
            created_at=self._clock.now(),
            per_hour=spec.offer.per_hour,
        )
        env = machine_environment(os.environ, spec.env, key=spec.key, folder=str(folder.path))
        try:
            folder.write_card(card)  # whose it is, before there is anything to own
            pid, started = processes.start(spec.command, env, folder.path)
            folder.write_card(replace(card, pid=pid, started=started))
        except (OSError, ValueError) as error:
            processes.kill(processes.marked(spec.key))
            folder.remove()
            program = spec.command[0] if spec.command else "nothing"
            raise ProviderError(
                f"cannot start {program}: {_reason(error)}",
                provider=self.name,
                hint=f"{folder.path} must be writable and on a disk with free space, and {program} a program",
            ) from error

    @staticmethod
    def _half_made(folder: Folder) -> bool:
        """Whether whoever created it died before the process was started."""
        card = folder.card()
        return (card is None or card.pid is None) and not folder.agent.exists() and not processes.marked(folder.key)

    async def get(self, id: str) -> Instance | None:
        if not KEY.fullmatch(id):
            return None  # no machine can be called that
        return await to_thread.run_sync(states.describe, Folder(self.home, id), self._clock.now())

    async def terminate(self, id: str) -> None:
        """Ask the agent to end, wait ``grace`` seconds, kill what is left, and remove the folder but keep its logs.

        Raises :class:`ProviderUnavailable` when something of the machine still lives.
        """
        if not KEY.fullmatch(id):
            return
        folder = Folder(self.home, id)
        async with folder.guard(create=False):
            await self._end(folder)
            await to_thread.run_sync(folder.remove)

    async def _end(self, folder: Folder) -> None:
        agent = await to_thread.run_sync(_ask_to_end, folder)
        if agent is not None:
            with anyio.move_on_after(self.grace):
                await _until_ended(folder, agent)
        left: list[int] = []
        for _ in range(KILLS):
            left = await to_thread.run_sync(_kill, folder)
            if not left and not await to_thread.run_sync(folder.agent_lock_held):
                return
            await anyio.sleep(0.05)
        raise ProviderUnavailable(
            f"{folder.key} does not die (processes {left})", provider=self.name, hint="try again, or kill them"
        )

    async def stop(self, id: str) -> None:
        self._cannot("stop", id)

    async def resume(self, id: str) -> None:
        self._cannot("resume", id)

    def _cannot(self, what: str, id: str) -> NoReturn:
        raise NotSupported(
            f"cannot {what} {id}: an engine on this computer either runs or is gone",
            provider=self.name,
            hint=f"spotinfer terminate {id}",
        )

    # --- looking ---------------------------------------------------------------------------------------------------

    async def list_owned(self, owner: str) -> Sequence[Instance]:
        """Every folder of ``owner``, also of machines that ended and were not cleaned up by :meth:`terminate`."""
        return await to_thread.run_sync(self._list, owner)

    def _list(self, owner: str) -> list[Instance]:
        found = [states.describe(folder, self._clock.now()) for folder in folders(self.home)]
        # A folder without a card was left before anything was started in it: it is nobody's and costs nothing.
        return [instance for instance in found if instance is not None and instance.owner == owner]

    async def charges(self, since: datetime) -> Sequence[Charge]:
        raise NotSupported("nobody sends a bill for this computer", provider=self.name)

    async def logs(self, id: str, tail: int) -> Sequence[str]:
        """Of the agent and the engine; after :meth:`terminate` what was kept of them."""
        return await to_thread.run_sync(Folder(self.home, id).logs, tail) if KEY.fullmatch(id) else []

    async def aclose(self) -> None:
        """Nothing to close: machines go on without this object."""


def _default_home() -> Path:
    from platformdirs import user_state_path

    return user_state_path("spotinfer") / "local"


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _card_if_any(folder: Folder) -> Card | None:
    """A damaged card must not keep a machine from being ended: its processes carry its key."""
    try:
        return folder.card()
    except ProviderUnavailable:
        return None


def _ask_to_end(folder: Folder) -> Card | None:
    """SIGTERM to the agent, if it runs: it ends its engine and says why it ended."""
    card = _card_if_any(folder)
    if card is None or card.pid is None or not processes.lives(card.pid, card.started, folder.key):
        return None
    processes.ask(card.pid)
    return card


async def _until_ended(folder: Folder, card: Card) -> None:
    """Poll: the agent may be another process's child, so nobody could wait for it."""
    pause = 0.02
    for _ in repeat(None):
        if not await to_thread.run_sync(processes.lives, card.pid, card.started, folder.key):
            return
        await anyio.sleep(pause)
        pause = min(0.25, pause * 1.5)


def _kill(folder: Folder) -> list[int]:
    """Kill everything of the machine; the numbers of what had to be killed, empty when nothing was left."""
    left = states.survivors(folder, _card_if_any(folder))
    if not left and folder.agent_lock_held():
        left = processes.holders(folder.agent / "lock")
    processes.kill(left)
    return [process.pid for process in left]
