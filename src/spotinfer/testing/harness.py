"""What the laws of the contract stand on: what a subclass says of its adapter, and an account that is left empty."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from inspect import isawaitable
from random import SystemRandom
from typing import ClassVar, TypeVar
from unittest import SkipTest

import anyio

from ..core.model import Charge, Instance, InstanceSpec, Offer, OfferKind, Want
from ..core.protocols import Provider
from ..core.secret import Secret
from ..core.states import State

TOKEN = "contract-secret-4d1f"  # noqa: S105 - it exists to be looked for


E = TypeVar("E", bound=Exception)
H = TypeVar("H", bound="Harness")


def law(check: Callable[[H, Provider], Awaitable[None]]) -> Callable[[H], None]:
    """Make a test out of an async check: it gets a fresh adapter, and afterwards no machine may be left."""

    def test(self: H) -> None:
        async def body() -> None:
            async with self.account() as provider:
                await check(self, provider)

        self.run(body)

    # Not functools.wraps: pytest would follow it and take `provider` for a fixture.
    test.__name__, test.__doc__ = check.__name__, check.__doc__
    return test


class Harness(ABC):
    """What :class:`~spotinfer.testing.contract.ProviderContract` asks of a subclass, and how it runs a law."""

    gaps: ClassVar[Mapping[str, str]] = {}
    """Name of a law -> why it is not kept or cannot be shown."""
    owner: ClassVar[str] = "contract-owner"
    polls: ClassVar[int] = 100
    """How often :meth:`settle` may pass before something that must show up has to."""

    _run: ClassVar[str] = f"{SystemRandom().getrandbits(48):012x}"

    # --- what a subclass says --------------------------------------------------------------------------------------

    @abstractmethod
    def make_provider(self) -> Provider | Awaitable[Provider]:
        """A fresh adapter over an empty account. Called inside the event loop, once a law."""

    @abstractmethod
    def make_spec(self, key: str, offer: Offer) -> InstanceSpec:
        """A machine that starts quickly. Its owner must be :attr:`owner`."""

    @abstractmethod
    async def existing(self, provider: Provider) -> Sequence[str]:
        """The key of each machine that really exists, once a machine, seen past the adapter: processes, or the
        emulator's own state."""

    def run(self, law: Callable[[], Awaitable[None]]) -> None:
        """Run a law on an event loop; override it for virtual time."""
        anyio.run(law)

    async def settle(self) -> None:
        """Let a moment pass between two polls."""
        await anyio.sleep(0.02)

    def choose(self, offers: Sequence[Offer]) -> Offer:
        """The offer that laws rent."""
        return offers[0]

    def lose_next_answer(self, provider: Provider) -> None:
        """Arrange that the next create rents and its answer is lost. A cloud where that cannot be done has a gap."""
        raise SkipTest("not yet: no way to lose an answer is given (lose_next_answer)")

    def say_native(self, provider: Provider, id: str, native: str) -> None:
        """Arrange that the cloud calls a machine's state ``native`` from now on."""
        raise SkipTest("not yet: no way to name a state is given (say_native)")

    def native_states(self) -> Mapping[str, State]:
        """The adapter's own table of native states."""
        raise SkipTest("not yet: no table of states is given (native_states)")

    # --- machinery -------------------------------------------------------------------------------------------------

    def setup_method(self, method: Callable[..., object]) -> None:
        """Called by pytest before each law."""
        if method.__name__ in self.gaps:
            raise SkipTest(self.gaps[method.__name__])

    @asynccontextmanager
    async def account(self) -> AsyncIterator[Provider]:
        made = self.make_provider()
        provider = await made if isawaitable(made) else made
        assert isinstance(provider, Provider)
        try:
            yield provider
        finally:
            with anyio.CancelScope(shield=True):
                await self.end_all(provider)
                await provider.aclose()

    async def end_all(self, provider: Provider) -> None:
        """What ``reap`` does: end whatever ``list_owned`` shows. Afterwards nothing may exist."""
        for _ in range(self.polls):
            for instance in await provider.list_owned(self.owner):
                await provider.terminate(instance.id)
            if not await self.existing(provider):
                return
            await self.settle()
        raise AssertionError(f"unowned machines are left: {await self.existing(provider)}")

    def key(self, number: int = 1) -> str:
        """The key of a law's machine; another run on the same account or computer has others."""
        return f"si-{self._run}-{number}"

    async def rent(self, provider: Provider, number: int = 1) -> Instance:
        return await provider.create(await self.spec(provider, number))

    async def spec(self, provider: Provider, number: int = 1) -> InstanceSpec:
        """The subclass's machine with a secret in its environment."""
        key = self.key(number)
        spec = self.make_spec(key, self.choose(await provider.list_offers(Want())))
        assert spec.key == key
        assert spec.owner == self.owner
        return replace(spec, env={**spec.env, "CONTRACT_TOKEN": Secret(TOKEN)})

    async def listed(self, provider: Provider, key: str) -> Instance:
        """The machine as ``list_owned`` shows it, within :attr:`polls` polls."""
        for _ in range(self.polls):
            for instance in await provider.list_owned(self.owner):
                if instance.key == key:
                    return instance
            await self.settle()
        raise AssertionError(f"{key} is not listed after {self.polls} polls")

    async def until(self, provider: Provider, id: str, *states: State) -> Instance | None:
        """Poll ``get`` until the machine is in one of ``states``, or gone where TERMINATED is one of them."""
        seen: Instance | None = None
        for _ in range(self.polls):
            seen = await provider.get(id)
            if (State.TERMINATED if seen is None else seen.state) in states:
                return seen
            await self.settle()
        raise AssertionError(f"{id} is {seen and seen.native_state} after {self.polls} polls, not {states}")


# --- what a thing must be --------------------------------------------------------------------------------------------


def check_offer(offer: Offer, provider: Provider) -> None:
    """An offer is a whole machine with a price in dollars, or owned hardware without one."""
    assert offer.provider == provider.name
    assert offer.per_hour is not None or offer.kind is OfferKind.OWNED
    assert offer.per_hour is None or (isinstance(offer.per_hour, Decimal) and offer.per_hour >= 0)
    assert isinstance(offer.kind, OfferKind)
    assert provider.capabilities.spot or offer.kind not in (OfferKind.SPOT, OfferKind.INTERRUPTIBLE)
    assert offer.accelerators is None or (offer.accelerators.count > 0 and offer.accelerators.memory > 1 << 20)
    assert offer.memory >= 0
    assert offer.notice.total_seconds() >= 0
    assert offer.billing.granularity >= 1
    assert offer.expires_at is None or offer.expires_at.tzinfo is not None


def check_instance(instance: Instance, provider: Provider, created: Instance) -> None:
    assert (instance.id, instance.key, instance.provider) == (created.id, created.key, provider.name)
    assert instance.native_state
    assert instance.seen_at.tzinfo is not None
    assert instance.created_at is None or instance.created_at.tzinfo is not None
    assert instance.per_hour is None or isinstance(instance.per_hour, Decimal)


def check_charge(charge: Charge, provider: Provider, created: Instance) -> None:
    assert (charge.provider, charge.instance_id) == (provider.name, created.id)
    assert isinstance(charge.amount, Decimal)
    assert charge.amount >= 0
    assert charge.start <= charge.end


async def raises(error: type[E], call: Callable[[], Awaitable[object]]) -> E:
    """The call raises this error, with a message; answers the error."""
    try:
        await call()
    except error as raised:
        if not raised.args or not str(raised.args[0]):
            raise AssertionError("an error must say what happened") from raised
        return raised
    raise AssertionError(f"the call must raise {error.__name__}")


class Listener(logging.Handler):
    """Collects everything that anybody logs, at every level."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def __enter__(self) -> Listener:
        root = logging.getLogger()
        self._level = root.level
        root.addHandler(self)
        root.setLevel(logging.DEBUG)
        return self

    def __exit__(self, *exc: object) -> None:
        root = logging.getLogger()
        root.setLevel(self._level)
        root.removeHandler(self)
