"""What a launch needs at Lambda besides the machine: an SSH key, which the API demands, and open ports.

Both carry the launch's key in their names, cost nothing, and are removed with the machine. A ruleset is in use until
its machine is gone for good, and answers get lost: what is left over is found by its name and swept by a later end.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import anyio

from ...core.clock import utc
from ...core.errors import ProviderError
from ..http import NotFound
from . import wire
from .api import LambdaApi
from .codes import Busy
from .machines import exists
from .offers import NAME

log = logging.getLogger("spotinfer")

NAME_LENGTH = 64
ABANDONED = timedelta(minutes=10)
"""What is older and belongs to no machine was left over; a younger thing may belong to a launch that is under way."""
RELEASE_SECONDS = 30.0
"""How long the end of a machine waits for its ruleset; what is not free by then goes with a later end."""
RELEASE_POLL = 5.0
UNDO_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The name of a thing of ours: for which launch, whose, and since when (an SSH key has no date of its own)."""

    key: str
    owner: str
    made: datetime

    def __str__(self) -> str:
        return f"{self.key}.{self.owner}.{int(self.made.timestamp())}"

    @classmethod
    def read(cls, name: str) -> Mark | None:
        found = re.fullmatch(r"(si-.+)\.([^.]*)\.(\d{1,11})", name)
        return None if found is None else cls(key=found[1], owner=found[2], made=utc(int(found[3])))


@dataclass(slots=True)
class Equipment:
    """What is made for one launch. An id that is still None while its thing was asked for may exist all the same."""

    mark: Mark
    ssh_key_name: str
    asked: set[str] = field(default_factory=set)
    ssh_key_id: str | None = None
    ruleset_id: str | None = None


def locked_public_key(comment: str) -> str:
    """An SSH key of which nobody has the private half: Lambda wants one, and nobody shall log in with it."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return f"{public.decode()} {comment}"


class Leftovers:
    """Makes and removes them. Removing never fails: a machine's end is not called off for what costs nothing."""

    def __init__(self, api: LambdaApi) -> None:
        self._api = api

    async def equip(
        self, mark: Mark, region: str, rules: Iterable[dict[str, object]], ssh_key: str | None
    ) -> Equipment:
        """``ssh_key`` is the name of a key of the user's; None makes one. Raises :class:`ProviderError`; what was made
        by then is removed."""
        name = str(mark)
        if len(name) > NAME_LENGTH:
            raise ProviderError(f"{name!r} has more than {NAME_LENGTH} characters", provider=NAME)
        made = Equipment(mark, ssh_key or name)
        try:
            if ssh_key is None:
                made.asked.add("ssh key")
                made.ssh_key_id = (await self._api.add_ssh_key(name, locked_public_key(name))).id
            made.asked.add("ruleset")
            made.ruleset_id = (await self._api.add_ruleset(name, region, rules)).id
        except BaseException:
            await self.undo(made)
            raise
        return made

    async def undo(self, made: Equipment) -> None:
        """Nothing was rented with it. Goes on while its caller is cancelled, for a moment."""
        name = str(made.mark)
        with anyio.move_on_after(UNDO_SECONDS, shield=True):
            try:
                if "ruleset" in made.asked:
                    known = [made.ruleset_id] if made.ruleset_id else _named(name, await self._api.rulesets())
                    for id in known:
                        await _gone_is_fine(self._api.delete_ruleset, id)
                if "ssh key" in made.asked:
                    known = [made.ssh_key_id] if made.ssh_key_id else _named(name, await self._api.ssh_keys())
                    for id in known:
                        await _gone_is_fine(self._api.delete_ssh_key, id)
            except ProviderError as error:
                log.debug("%s: %s stays for now: %s", NAME, name, error.message)

    async def remove(self, key: str, id: str, now: datetime) -> None:
        """What belongs to the machine ``id`` of the launch ``key`` ("" where that cannot be told any more), and what
        was abandoned."""
        try:
            await self._remove_ssh_keys(key, now)
            await self._remove_rulesets(key, id, now)
        except ProviderError as error:
            log.debug("%s: what %s leaves behind stays for now: %s", NAME, id, error.message)

    async def _remove_ssh_keys(self, key: str, now: datetime) -> None:
        marked = [(item, mark) for item in await self._api.ssh_keys() if (mark := Mark.read(item.name)) is not None]
        ours = [item for item, mark in marked if mark.key == key]
        old = [item for item, mark in marked if mark.key != key and now - mark.made > ABANDONED]
        if old:
            used = {name for machine in await self._api.machines() if exists(machine) for name in machine.ssh_key_names}
            old = [item for item in old if item.name not in used]
        for item in (*ours, *old):
            await _gone_is_fine(self._api.delete_ssh_key, item.id)

    async def _remove_rulesets(self, key: str, id: str, now: datetime) -> None:
        ours, old = [], []
        for item in await self._api.rulesets():
            mark = Mark.read(item.name)
            if mark is None:
                continue
            if mark.key == key or id in item.instance_ids:
                ours.append(item)
            elif not item.instance_ids and now - mark.made > ABANDONED:
                old.append(item)
        for item in old:
            await _gone_is_fine(self._api.delete_ruleset, item.id)
        with anyio.move_on_after(RELEASE_SECONDS):
            for item in ours:
                await self._when_free(item)

    async def _when_free(self, ruleset: wire.Ruleset) -> None:
        while True:
            try:
                return await _gone_is_fine(self._api.delete_ruleset, ruleset.id)
            except Busy:
                await anyio.sleep(RELEASE_POLL)


def _named(name: str, items: Iterable[wire.SshKey | wire.Ruleset]) -> list[str]:
    return [item.id for item in items if item.name == name]


async def _gone_is_fine(delete: Callable[[str], Awaitable[None]], id: str) -> None:
    try:
        await delete(id)
    except NotFound:
        pass
