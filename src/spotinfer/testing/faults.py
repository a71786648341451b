"""Every fault at every method: each must become the error that the design names, and none may cost a machine.

::

    class TestMyCloudFaults(HttpFaults):
        spending = ("POST", r"/v1/machines")            # the call that rents
        def make_provider(self): ...                    # and the rest as for ProviderContract
        def inject(self, provider, fault): self.cloud.inject(fault)
        def heal(self, provider): self.cloud.heal()
        def account_keys(self): return [self.cloud.token]

Every law goes over all of :data:`~spotinfer.testing.emulators.fault.FAULTS` and reports all cells that are wrong.
"""

from __future__ import annotations

import traceback
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import ClassVar

from ..core.errors import (
    AuthenticationFailed,
    InsufficientFunds,
    NoCapacity,
    NotSupported,
    OfferGone,
    OutcomeUnknown,
    PermissionDenied,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    UnexpectedAnswer,
)
from ..core.model import Want
from ..core.protocols import Provider
from ..core.states import State
from .emulators import fault as faults
from .emulators.fault import FAULTS, Fault
from .harness import TOKEN, Harness, law

Outcomes = tuple["type[ProviderError] | None", ...]
"""What may come out of a call; None is success."""

GENERAL: Mapping[str, Outcomes] = {
    "401": (AuthenticationFailed,),
    "402": (InsufficientFunds,),
    "403": (PermissionDenied,),
    "404": (UnexpectedAnswer,),
    "409": (UnexpectedAnswer,),
    "422": (UnexpectedAnswer,),
    "429": (RateLimited,),
    "429 without Retry-After": (RateLimited,),
    "refused": (ProviderUnavailable,),
}
"""By the name of the fault; every other fault leaves the outcome open and is ``ProviderUnavailable``."""

SPECIAL: Mapping[tuple[str, str], Outcomes] = {
    ("get", "404"): (None,),
    ("terminate", "404"): (None,),
    ("terminate", "409"): (None, NotSupported, UnexpectedAnswer),
    ("terminate", "half a JSON"): (None, ProviderUnavailable),
    ("stop", "404"): (NotSupported, UnexpectedAnswer),
    ("stop", "409"): (None, NotSupported, UnexpectedAnswer),
    ("resume", "404"): (NotSupported, UnexpectedAnswer, NoCapacity),
    ("resume", "409"): (None, NotSupported, UnexpectedAnswer, NoCapacity),
    ("logs", "404"): (None, UnexpectedAnswer),
    ("logs", "half a JSON"): (None, ProviderUnavailable),
    ("create", "404"): (OfferGone, NoCapacity, UnexpectedAnswer),
    ("create", "409"): (OfferGone, NoCapacity, UnexpectedAnswer),
}
"""By method and fault, where it differs from the table above."""


def allowed(method: str, fault: Fault) -> Outcomes:
    open_outcome: Outcomes = (OutcomeUnknown if method == "create" else ProviderUnavailable,)
    return SPECIAL.get((method, fault.name)) or GENERAL.get(fault.name) or open_outcome


class HttpFaults(Harness):
    """The fault matrix of an adapter that speaks HTTP, over an account at an emulated cloud."""

    spending: ClassVar[tuple[str, str]]
    """Method and path (a regular expression) of the call that rents."""
    faults: ClassVar[Sequence[Fault]] = FAULTS
    cells: ClassVar[set[tuple[str, str, str]]] = set()
    """What was visited: name of the provider, method, fault. For reports."""

    @abstractmethod
    def inject(self, provider: Provider, fault: Fault) -> None:
        """Let the fault happen from now on, as often as it says."""

    @abstractmethod
    def heal(self, provider: Provider) -> None:
        """No faults any more."""

    def account_keys(self) -> Sequence[str]:
        """The account's keys, which must not occur in any error."""
        return ()

    def outcomes(self, method: str, fault: Fault) -> Outcomes:
        """Override it where a cloud has good reasons to differ; say which."""
        return allowed(method, fault)

    # --- laws ------------------------------------------------------------------------------------------------------

    @law
    async def test_faults_at_check(self, provider: Provider) -> None:
        await self._visit(provider, "check", lambda: provider.check())

    @law
    async def test_faults_at_list_offers(self, provider: Provider) -> None:
        await self._visit(provider, "list_offers", lambda: provider.list_offers(Want()))

    @law
    async def test_faults_at_list_owned(self, provider: Provider) -> None:
        await self.rent(provider)
        await self._visit(provider, "list_owned", lambda: provider.list_owned(self.owner))

    @law
    async def test_faults_at_get(self, provider: Provider) -> None:
        created = await self.rent(provider)
        await self._visit(provider, "get", lambda: provider.get(created.id))

    @law
    async def test_faults_at_logs(self, provider: Provider) -> None:
        created = await self.rent(provider)
        await self.until(provider, created.id, State.BOOTING)
        await self._visit(provider, "logs", lambda: provider.logs(created.id, 10))

    @law
    async def test_faults_at_charges(self, provider: Provider) -> None:
        since = datetime(2020, 1, 1, tzinfo=timezone.utc)
        if provider.capabilities.charges:
            await self._visit(provider, "charges", lambda: provider.charges(since))

    @law
    async def test_faults_at_stop_and_resume(self, provider: Provider) -> None:
        if not provider.capabilities.stop:
            return
        created = await self.rent(provider)
        ready = partial(self._bring, provider, created.id, State.BOOTING)
        await self._visit(provider, "stop", lambda: provider.stop(created.id), before=ready)
        ready = partial(self._bring, provider, created.id, State.STOPPED)
        await self._visit(provider, "resume", lambda: provider.resume(created.id), before=ready)

    @law
    async def test_faults_at_terminate_leave_it_repeatable(self, provider: Provider) -> None:
        for number, fault in enumerate(self.faults, start=1):
            created = await self.rent(provider, number)
            await self._visit(provider, "terminate", partial(provider.terminate, created.id), only=(fault,))
            await provider.terminate(created.id)
            await self.until(provider, created.id, State.TERMINATED)
            assert not await self.existing(provider)

    @law
    async def test_faults_at_the_call_that_rents(self, provider: Provider) -> None:
        """An error that says "nothing rented" is true, and after a lost answer the machine is found by its key."""
        for number, fault in enumerate(self.faults, start=1):
            await self._create_with(provider, number, fault.on(*self.spending), self.outcomes("create", fault))

    @law
    async def test_faults_at_every_call_of_create(self, provider: Provider) -> None:
        """The same when what goes before the renting fails as well."""
        for number, fault in enumerate(self.faults, start=1):
            open_outcomes = (*self.outcomes("create", fault), *self.outcomes("list_owned", fault))
            await self._create_with(provider, number, fault, open_outcomes)

    @law
    async def test_one_broken_answer_to_a_read_is_survived(self, provider: Provider) -> None:
        """A single 503 is no news: what may be repeated is repeated."""
        created = await self.rent(provider)
        await self.listed(provider, created.key)
        for call in (provider.check, partial(provider.get, created.id), partial(provider.list_owned, self.owner)):
            self.inject(provider, faults.UNAVAILABLE)
            await call()
            self.heal(provider)

    # --- machinery -------------------------------------------------------------------------------------------------

    async def _visit(
        self,
        provider: Provider,
        method: str,
        call: Callable[[], Awaitable[object]],
        *,
        before: Callable[[], Awaitable[object]] | None = None,
        only: Sequence[Fault] = (),
    ) -> None:
        wrong = []
        for fault in only or self.faults:
            if before is not None:
                await before()
            wrong += await self._cell(provider, method, fault, self.outcomes(method, fault), call)
        assert not wrong, "\n".join(wrong)

    async def _cell(
        self,
        provider: Provider,
        method: str,
        fault: Fault,
        outcomes: Outcomes,
        call: Callable[[], Awaitable[object]],
    ) -> list[str]:
        """One call under one fault that lasts; answers what is wrong with its outcome."""
        self.cells.add((provider.name, method, fault.name))
        self.inject(provider, fault.repeated())
        try:
            await call()
        except ProviderError as error:
            return [f"{method}, {fault.name}: {line}" for line in self._wrong(error, fault, outcomes)]
        finally:
            self.heal(provider)
        return [] if None in outcomes else [f"{method}, {fault.name}: returned, expected {_names(outcomes)}"]

    def _wrong(self, error: ProviderError, fault: Fault, outcomes: Outcomes) -> list[str]:
        wrong = []
        if not isinstance(error, tuple(kind for kind in outcomes if kind is not None)):
            wrong.append(f"{type(error).__name__} ({error.message}), expected {_names(outcomes)}")
        if isinstance(error, RateLimited) and fault is faults.RATE_LIMITED and error.retry_after != 7:
            wrong.append(f"Retry-After 7 became {error.retry_after}")
        told = "".join(traceback.format_exception(error)) + repr(vars(error))
        if any(secret in told for secret in (TOKEN, *self.account_keys())):
            wrong.append("a secret is in the error")
        return wrong

    async def _create_with(self, provider: Provider, number: int, fault: Fault, outcomes: Outcomes) -> None:
        spec = await self.spec(provider, number)
        lost = False

        async def create() -> None:
            nonlocal lost
            try:
                await provider.create(spec)
            except OutcomeUnknown:
                lost = True
                raise

        wrong = await self._cell(provider, "create", fault, outcomes, create)
        assert not wrong, "\n".join(wrong)
        if not lost:
            assert not await self.existing(provider), f"{fault.name}: it was said that nothing was rented"
        elif await self.existing(provider):
            await self.listed(provider, spec.key)
        await self.end_all(provider)

    async def _bring(self, provider: Provider, id: str, wanted: State) -> None:
        """Stopped, or running."""
        seen = await provider.get(id)
        assert seen is not None
        stopped = seen.state in (State.STOPPED, State.STOPPING)
        if stopped and wanted is not State.STOPPED:
            await provider.resume(id)
        elif not stopped and wanted is State.STOPPED:
            await self.until(provider, id, State.BOOTING)
            await provider.stop(id)
        await self.until(provider, id, wanted)


def _names(outcomes: Outcomes) -> str:
    return " or ".join("success" if kind is None else kind.__name__ for kind in outcomes)
