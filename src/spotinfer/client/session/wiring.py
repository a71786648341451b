"""Puts the real parts together: the one place that knows which class stands behind which protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import TypeVar

from ...control.world import World
from ...core.clock import WallClock
from ...core.model import Instance, LaunchSecrets
from ...core.protocols import Engine, MachineLink, Provider
from ...ledger.holds import Holds
from ...ledger.keys import FileKeyStore
from ...ledger.store import SqlLedger
from ...providers import registry
from ..settings import Settings

T = TypeVar("T")


class Loaded(Mapping[str, T]):
    """Objects made when they are first asked for, since imports cost time.

    Iterates over ``names``, those in use; gives any of ``installed``, since an old machine may be at a cloud that is
    no longer in use.
    """

    def __init__(self, names: Iterable[str], installed: Iterable[str], make: Callable[[str], T]) -> None:
        self._names = tuple(names)
        self._installed = frozenset(installed)
        self._make = make
        self._made: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        if name not in self._installed:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._installed

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def made(self) -> tuple[T, ...]:
        return tuple(self._made.values())


def build_world(settings: Settings, ledger: SqlLedger, keystore: FileKeyStore) -> World:
    clock = WallClock()
    clouds, engines = registry.provider_names(), registry.engine_names()

    def provider(name: str) -> Provider:
        return registry.load_provider(name).from_options(settings.provider_options(name), clock=clock)

    def engine(name: str) -> Engine:
        return registry.load_engine(name)(**settings.engine_options(name))

    def open_link(instance: Instance, secrets: LaunchSecrets) -> MachineLink:
        from ...serving.access import client_context
        from ...serving.link import HttpLink

        context = client_context(str(keystore.ca_pem(secrets.key)), str(keystore.client_pem(secrets.key)))
        return HttpLink(endpoints=instance.endpoints, secrets=secrets, context=context, clock=clock)

    return World(
        ledger=ledger,
        keystore=keystore,
        holds=Holds(settings.home / "keys"),
        providers=Loaded(settings.enabled_providers(clouds), clouds, provider),
        engines=Loaded(engines, engines, engine),
        open_link=open_link,
        issue=_issue,
        clock=clock,
    )


def _issue(key: str, lifetime: timedelta | None, now: datetime) -> LaunchSecrets:
    from ...serving.access import issue  # on use: making certificates imports cryptography

    return issue(key, lifetime=lifetime, now=now)
