"""The laws that every provider adapter keeps, as a test class: in the tree, in a plug-in, or in a company's own code.

::

    from spotinfer.testing.contract import ProviderContract

    class TestMyCloud(ProviderContract):
        def make_provider(self): return MyCloud(...)
        def make_spec(self, key, offer): return InstanceSpec(key=key, owner=self.owner, offer=offer, ...)
        async def existing(self, provider): return [...]     # keys, seen past the adapter

pytest collects the class and runs every law. A law that a cloud cannot keep or that cannot be shown there goes into
``gaps`` with its reason, "never: ..." or "not yet: ...", and is reported as skipped with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from decimal import Decimal
from functools import partial

import anyio

from ..core.errors import NotSupported, OutcomeUnknown
from ..core.model import Account, Capabilities, Want
from ..core.protocols import Provider
from ..core.states import State
from .cancelling import cancelled_at
from .harness import TOKEN, Harness, Listener, check_charge, check_instance, check_offer, law, raises

CANCEL_LIMIT = 200
"""No method may have more suspension points than this: cancelling at each would take too long."""


class ProviderContract(Harness):
    """Subclass it, name the subclass ``Test...``, and say how to make the adapter and its machines."""

    # --- laws: what it says of itself ------------------------------------------------------------------------------

    @law
    async def test_class_attributes_need_no_credentials(self, provider: Provider) -> None:
        cls = type(provider)
        assert isinstance(cls.capabilities, Capabilities)
        assert cls.api == 1
        assert cls.name
        assert cls.name == cls.name.lower()

    @law
    async def test_check_describes_the_account(self, provider: Provider) -> None:
        account = await provider.check()
        assert isinstance(account, Account)
        assert account.provider == provider.name
        assert account.balance is None or isinstance(account.balance, Decimal)

    @law
    async def test_offers_are_priced_and_unique(self, provider: Provider) -> None:
        offers = await provider.list_offers(Want())
        assert offers
        assert len({offer.id for offer in offers}) == len(offers)
        for offer in offers:
            check_offer(offer, provider)

    # --- laws: create ----------------------------------------------------------------------------------------------

    @law
    async def test_created_machine_is_described_and_listed(self, provider: Provider) -> None:
        created = await self.rent(provider)
        found = await self.listed(provider, created.key)
        looked_up = await provider.get(created.id)
        assert looked_up is not None
        for instance in (created, found, looked_up):
            check_instance(instance, provider, created)
            assert instance.state is not State.TERMINATED
        assert found.owner in ("", self.owner)
        assert list(await self.existing(provider)) == [created.key]

    @law
    async def test_same_key_twice_is_one_machine(self, provider: Provider) -> None:
        first = await self.rent(provider)
        assert (await self.rent(provider)).id == first.id
        assert len(await provider.list_owned(self.owner)) == 1
        assert list(await self.existing(provider)) == [first.key]

    @law
    async def test_same_key_at_the_same_time_is_one_machine(self, provider: Provider) -> None:
        spec = await self.spec(provider)
        ids: list[str] = []

        async def create() -> None:
            ids.append((await provider.create(spec)).id)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(create)
        await self.listed(provider, spec.key)
        assert len(set(ids)) == 1
        assert len(await provider.list_owned(self.owner)) == 1
        assert len(await self.existing(provider)) == 1

    @law
    async def test_two_keys_are_two_machines(self, provider: Provider) -> None:
        first, second = await self.rent(provider, 1), await self.rent(provider, 2)
        assert first.id != second.id
        await provider.terminate(first.id)
        await self.until(provider, first.id, State.TERMINATED)
        assert (await self.listed(provider, second.key)).state is not State.TERMINATED

    @law
    async def test_lost_answer_leaves_an_owned_machine(self, provider: Provider) -> None:
        spec = await self.spec(provider)
        self.lose_next_answer(provider)
        error = await raises(OutcomeUnknown, partial(provider.create, spec))
        assert TOKEN not in str(error)
        assert (await self.listed(provider, spec.key)).key == spec.key

    @law
    async def test_create_after_a_lost_answer_does_not_double(self, provider: Provider) -> None:
        spec = await self.spec(provider)
        self.lose_next_answer(provider)
        await raises(OutcomeUnknown, partial(provider.create, spec))
        await self.listed(provider, spec.key)
        again = await provider.create(spec)
        assert [instance.id for instance in await provider.list_owned(self.owner)] == [again.id]

    @law
    async def test_create_cancelled_anywhere_leaves_nothing_unowned(self, provider: Provider) -> None:
        finished = False
        for point in range(1, CANCEL_LIMIT):
            spec = await self.spec(provider, point)
            finished = not await cancelled_at(point, partial(provider.create, spec))
            await self.end_all(provider)
            if finished:
                break
        assert finished, f"create has more than {CANCEL_LIMIT} suspension points"
        assert point > 1, "create was never suspended, so nothing was tried"

    # --- laws: the end ---------------------------------------------------------------------------------------------

    @law
    async def test_terminate_ends_it_and_can_be_repeated(self, provider: Provider) -> None:
        created = await self.rent(provider)
        await provider.terminate(created.id)
        await provider.terminate(created.id)
        await self.until(provider, created.id, State.TERMINATED)
        await provider.terminate(created.id)
        assert not await self.existing(provider)
        left = await provider.list_owned(self.owner)
        assert all(instance.state is State.TERMINATED for instance in left)

    @law
    async def test_terminate_cancelled_anywhere_can_be_repeated(self, provider: Provider) -> None:
        finished = False
        for point in range(1, CANCEL_LIMIT):
            created = await self.rent(provider, point)
            finished = not await cancelled_at(point, partial(provider.terminate, created.id))
            await provider.terminate(created.id)
            await self.until(provider, created.id, State.TERMINATED)
            if finished:
                break
        assert finished, f"terminate has more than {CANCEL_LIMIT} suspension points"

    @law
    async def test_unknown_id_is_gone(self, provider: Provider) -> None:
        for unknown in self.unknown_ids():
            assert await provider.get(unknown) is None
            await provider.terminate(unknown)

    def unknown_ids(self) -> Sequence[str]:
        """Ids that no machine has; override it where the cloud's ids have a form."""
        return ("no-such-machine", "si-0000000000000000", "../up", "")

    @law
    async def test_other_owners_machines_are_not_ours(self, provider: Provider) -> None:
        created = await self.rent(provider)
        await self.listed(provider, created.key)
        assert list(await provider.list_owned("somebody-else")) == []

    # --- laws: states and capabilities -----------------------------------------------------------------------------

    @law
    async def test_every_native_state_maps(self, provider: Provider) -> None:
        states = self.native_states()
        assert states
        for number, (native, state) in enumerate(states.items(), start=1):
            created = await self.rent(provider, number)
            self.say_native(provider, created.id, native)
            seen = await provider.get(created.id)
            assert (State.TERMINATED if seen is None else seen.state) is state
            assert seen is None or seen.native_state == native
            self.say_native(provider, created.id, next(iter(states)))

    @law
    async def test_unknown_native_state_is_lost_and_kept(self, provider: Provider) -> None:
        created = await self.rent(provider)
        self.say_native(provider, created.id, "contemplating")
        seen = await provider.get(created.id)
        assert seen is not None
        assert (seen.state, seen.native_state) == (State.LOST, "contemplating")
        assert (await self.listed(provider, created.key)).state is State.LOST

    @law
    async def test_stop_and_resume_as_announced(self, provider: Provider) -> None:
        created = await self.rent(provider)
        if not provider.capabilities.stop:
            await raises(NotSupported, partial(provider.stop, created.id))
            await raises(NotSupported, partial(provider.resume, created.id))
            return
        await self.until(provider, created.id, State.BOOTING)
        await provider.stop(created.id)
        await self.until(provider, created.id, State.STOPPED)
        assert (await self.listed(provider, created.key)).state is State.STOPPED, "what is stopped may still bill"
        await provider.resume(created.id)
        await self.until(provider, created.id, State.BOOTING)

    @law
    async def test_charges_as_announced(self, provider: Provider) -> None:
        since = datetime(2020, 1, 1, tzinfo=timezone.utc)
        created = await self.rent(provider)
        if not provider.capabilities.charges:
            await raises(NotSupported, partial(provider.charges, since))
            return
        await self.settle()
        for charge in await provider.charges(since):
            check_charge(charge, provider, created)

    @law
    async def test_logs_are_at_most_the_tail(self, provider: Provider) -> None:
        created = await self.rent(provider)
        await self.settle()
        assert len(await provider.logs(created.id, 1)) <= 1
        assert list(await provider.logs(created.id, 0)) == []
        assert all(isinstance(line, str) for line in await provider.logs(created.id, 50))

    # --- laws: secrets ---------------------------------------------------------------------------------------------

    @law
    async def test_no_secret_gets_out(self, provider: Provider) -> None:
        heard = Listener()
        with heard:
            spec = await self.spec(provider)
            created = await provider.create(spec)
            seen = [repr(spec), repr(created), repr(await provider.get(created.id)), repr(provider)]
            seen += [repr(item) for item in await provider.list_owned(self.owner)]
            seen += await provider.logs(created.id, 100)
            await provider.terminate(created.id)
        assert not [text for text in (*seen, *heard.lines) if TOKEN in text]
