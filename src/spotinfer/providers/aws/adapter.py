"""AWS EC2 behind the provider protocol: spot (one-time, ended when interrupted) and on-demand machines."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ClassVar

import anyio

from ...core.clock import Clock, WallClock
from ...core.errors import (
    NotSupported,
    OfferGone,
    OutcomeUnknown,
    ProviderError,
    ProviderUnavailable,
)
from ...core.model import Account, Capabilities, Charge, Instance, InstanceSpec, Offer, Want
from ...core.protocols import ProviderOptions
from ...core.states import State
from ..redact import secrets_of
from ..together import together
from ..wiring import parse
from . import wire
from .account import describe_account
from .calls import Aws, must_be_installed
from .failures import GONE, NAME, Refused
from .machine import Images, Rental, run_request
from .market import KEPT, Market
from .network import NO_GROUP, Network
from .options import Settings, read
from .wire import Place

log = logging.getLogger("spotinfer")

DEFAULT_REGION = "us-east-1"
GOODBYE_S = 5.0
"""How long :meth:`AwsProvider.aclose` tries to remove groups that nobody needs."""


class AwsProvider:
    """An account at AWS. ``settings`` are documented at :class:`~spotinfer.providers.aws.options.Settings`.

    The id of a machine is ``region/i-…``. Machines have no role and no key of the account; they end themselves by
    shutting down. Only on-demand machines can be stopped. What AWS billed is not asked for: Cost Explorer charges for
    every question and answers a day late.
    """

    name: ClassVar[str] = NAME
    api: ClassVar[int] = 1
    # EC2's lists are eventually consistent; its documentation advises to look again for up to five minutes.
    capabilities: ClassVar[Capabilities] = Capabilities(spot=True, stop=True, settle=timedelta(minutes=5))
    end_recipe: ClassVar[tuple[Mapping[str, object], ...]] = ({"kind": "command", "argv": ["shutdown", "-h", "now"]},)
    """How the agent ends its machine (DESIGN §4a): see ``InstanceInitiatedShutdownBehavior`` in ``machine.py``."""

    def __init__(self, settings: Settings | None = None, *, clock: Clock | None = None) -> None:
        self._settings = settings or Settings()
        self._clock = clock or WallClock()
        self._aws = Aws(
            self._settings.login,
            endpoint_url=self._settings.endpoint_url,
            timeout=self._settings.timeout,
            connect_timeout=self._settings.connect_timeout,
            first_wait=self._settings.first_wait,
        )
        self._network = Network(
            self._aws,
            subnets=self._settings.subnets,
            allow_from=self._settings.allow_from,
            caller=self._settings.caller,
        )
        self._images = Images(self._aws, ami=self._settings.ami)
        self._market = Market(
            self._aws, self._clock, disk=self._settings.disk, own_image=self._settings.ami is not None
        )
        self._enabled: tuple[tuple[str, ...], datetime] | None = None
        self._fresh: dict[str, Instance] = {}
        self._ended: dict[str, Place] = {}

    @classmethod
    def from_options(cls, options: ProviderOptions, *, clock: Clock) -> AwsProvider:
        """The fields of :class:`Settings` by name, and ``profile``, or ``access_key`` with ``secret_key`` and
        ``session_token`` (Secrets); without them boto3's own chain. Raises ``ConfigError``, ``MissingExtra``."""
        must_be_installed()
        return cls(read(options), clock=clock)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._settings.regions)})"

    async def check(self) -> Account:
        """Who we are, whether we may look for machines, and the GPU quotas of the first region, where AWS tells."""
        region = (await self._regions())[0]
        return await describe_account(self._aws, region, len(await self._search_regions(afresh=True)))

    async def list_offers(self, want: Want) -> Sequence[Offer]:
        """Every zone of ``want.regions``, else of the regions in the settings. A region that fails is left out with a
        warning unless all do."""
        asked = sorted(region for region in want.regions if wire.ZONED.fullmatch(region))
        if want.regions and not asked:
            return []  # regions of other clouds
        return await self._market.offers(want, asked or await self._regions())

    # --- the life of a machine -------------------------------------------------------------------------------------

    async def create(self, spec: InstanceSpec) -> Instance:
        """Rent in the offer's zone. ``spec.key`` is the ClientToken, so EC2 itself makes one machine of one key.

        A thread that is sending cannot be cancelled: it is waited for. Whoever is cancelled there has either nothing or
        a machine that carries its tags from its first moment.
        """
        rental = Rental.of(spec)
        image, (subnet, vpc), allowed = await self._prepared(rental)
        for last in (False, True):
            group = await self._network.group(rental.region, vpc, spec.owner, allowed, spec.ports.values())
            request = run_request(spec, rental, image=image, subnet=subnet, group=group, disk=self._settings.disk)
            try:
                return await self._run(spec, rental, request, group)
            except Refused as error:
                if last or error.aws_code not in NO_GROUP:
                    raise _refused(error, rental) from error
                self._network.forget(group)  # somebody swept it between our two calls
        raise AssertionError("unreachable: the second turn returns or raises")

    async def _prepared(self, rental: Rental) -> tuple[Any, tuple[str, str], tuple[str, ...]]:
        calls: list[Any] = [
            partial(self._images.image, rental.region, rental.arch),
            partial(self._network.subnet, rental.region, rental.zone),
            self._network.allowed,
        ]
        image, subnet, allowed = await together(calls)
        return image, subnet, allowed

    async def _run(self, spec: InstanceSpec, rental: Rental, request: dict[str, Any], group: str) -> Instance:
        secrets = secrets_of(spec.env)
        try:
            answer = await self._aws.call(
                "ec2", rental.region, "run_instances", needs="Instances", spends=True, secrets=secrets, **request
            )
        except Refused as error:
            if error.aws_code != "IdempotentParameterMismatch":
                raise
            # Asked for before, with an older image or from another address: that machine is the one.
            found = await self._by_key(rental.region, spec)
            if found is None:
                raise OutcomeUnknown(error.message, provider=NAME) from error
            return found
        machines = wire.instances([answer])
        if not machines:
            raise OutcomeUnknown("the answer to run_instances names no machine", provider=NAME)
        self._network.used(group)
        now = self._clock.now()
        instance = wire.to_instance(machines[0], rental.region, now)
        self._fresh = {id: made for id, made in self._fresh.items() if made.seen_at + self.capabilities.settle > now}
        self._fresh[instance.id] = replace(instance, key=spec.key, owner=spec.owner, name=instance.name or spec.name)
        return self._fresh[instance.id]

    async def _by_key(self, region: str, spec: InstanceSpec) -> Instance | None:
        marks = {f"tag:{wire.OWNER}": spec.owner, f"tag:{wire.KEY}": spec.key}
        found = await self._listed(region, marks)
        return found[0] if found else None

    async def get(self, id: str) -> Instance | None:
        place = Place.of(id)
        if place is None:
            _no_bare_id(id)
            return None
        raw = await self._describe(place)
        if raw is None:
            return self._just_made(id)
        rate = await self._market.rate(place.region, raw) if raw.state.name == "running" else None
        return wire.to_instance(raw, place.region, self._clock.now(), rate)

    async def _describe(self, place: Place) -> wire.Ec2Instance | None:
        try:
            answer = await self._aws.call(
                "ec2", place.region, "describe_instances", needs="Reservations", InstanceIds=[place.instance]
            )
        except Refused as error:
            if error.aws_code in GONE:
                return None
            raise
        found = wire.instances(answer.get("Reservations", []))
        return found[0] if found else None

    def _just_made(self, id: str) -> Instance | None:
        """EC2 may not know a machine yet that it has just made: then what it said when it made it holds."""
        made = self._fresh.get(id)
        return made if made is not None and self._clock.now() < made.seen_at + self.capabilities.settle else None

    async def terminate(self, id: str) -> None:
        """End it; its disk and its interface go with it. Of one that has ended already, remove the security group.

        A group is in use until its machine is gone for good, so only a later call, or :meth:`aclose`, can remove it.
        """
        place = Place.of(id)
        if place is None:
            _no_bare_id(id)
            return
        try:
            answer = await self._aws.call(
                "ec2", place.region, "terminate_instances", needs="TerminatingInstances", InstanceIds=[place.instance]
            )
        except Refused as error:
            if error.aws_code not in GONE:
                raise
            if self._just_made(id) is not None:
                raise ProviderUnavailable(f"EC2 does not show {id} yet", provider=NAME) from error
            return
        before = [item.get("PreviousState", {}).get("Name") for item in answer["TerminatingInstances"]]
        if before == ["terminated"]:
            self._fresh.pop(id, None)
            self._ended.pop(place.region, None)
            await self._sweep_after(place)
        else:
            self._ended[place.region] = place

    async def _sweep_after(self, place: Place) -> None:
        """What is swept costs nothing: no failure of it may look like a machine that does not end."""
        try:
            raw = await self._describe(place)
            if raw is not None and raw.labels.get(wire.OWNER):
                await self._network.sweep(place.region, raw.labels[wire.OWNER])
        except ProviderError as error:
            log.warning("aws: a security group is left in %s and costs nothing: %s", place.region, error.message)

    async def stop(self, id: str) -> None:
        """On-demand machines only: EC2 refuses to stop a one-time spot machine."""
        await self._switch(id, "stop", "stop_instances")

    async def resume(self, id: str) -> None:
        await self._switch(id, "resume", "start_instances")

    async def _switch(self, id: str, what: str, operation: str) -> None:
        place = Place.of(id)
        if place is None:
            raise NotSupported(f"cannot {what} {id!r}: it is no machine of AWS", provider=NAME)
        try:
            await self._aws.call("ec2", place.region, operation, InstanceIds=[place.instance])
        except Refused as error:
            if error.aws_code == "IncorrectInstanceState":
                raise ProviderUnavailable(f"cannot {what} {id} yet: {error.message}", provider=NAME) from error
            if error.aws_code == "UnsupportedOperation" or error.aws_code in GONE:
                raise NotSupported(
                    f"cannot {what} {id}: {error.message}", provider=NAME, hint=f"spotinfer terminate {id}"
                ) from error
            raise

    # --- looking ---------------------------------------------------------------------------------------------------

    async def list_owned(self, owner: str) -> Sequence[Instance]:
        """In every region at once. Raises when one of them does not answer."""
        marks = {f"tag:{wire.OWNER}": owner}
        regions = await self._search_regions()
        found = await together([partial(self._listed, region, marks) for region in regions])
        return [instance for instances in found for instance in instances]

    async def _listed(self, region: str, marks: Mapping[str, str]) -> list[Instance]:
        filters = [{"Name": name, "Values": [value]} for name, value in marks.items()]
        try:
            reservations = await self._aws.pages("ec2", region, "describe_instances", "Reservations", Filters=filters)
        except ProviderError as error:
            if error.hint is None:
                error.hint = f"if {region} is closed to you, name the others: search_regions=[...]"
            raise
        now = self._clock.now()
        # Not filtered by state at EC2: a word that we do not know must show up, too.
        found = [wire.to_instance(raw, region, now) for raw in wire.instances(reservations)]
        return [instance for instance in found if instance.state is not State.TERMINATED]

    async def charges(self, since: datetime) -> Sequence[Charge]:
        raise NotSupported(
            "AWS charges for every question about a bill, and answers a day late",
            provider=NAME,
            hint="Cost Explorer, by the tag spotinfer:key",
        )

    async def logs(self, id: str, tail: int) -> Sequence[str]:
        """The console. EC2 keeps it some minutes late, and the engine's own log is at the agent."""
        place = Place.of(id)
        if place is None or tail <= 0:
            return []
        try:
            answer = await self._aws.call(
                "ec2", place.region, "get_console_output", InstanceId=place.instance, Latest=True
            )
        except Refused as error:
            if error.aws_code in GONE:
                return []
            if error.aws_code != "UnsupportedOperation":
                raise
            # Only machines on Nitro show the latest output.
            answer = await self._aws.call("ec2", place.region, "get_console_output", InstanceId=place.instance)
        return str(answer.get("Output") or "").splitlines()[-tail:]

    async def aclose(self) -> None:
        """Remove the security groups that no machine of ours needs any more, as far as that goes quickly, and close."""
        with anyio.move_on_after(GOODBYE_S):
            for place in self._ended.values():
                await self._sweep_after(place)
            try:
                await self._network.sweep_unused()
            except ProviderError as error:
                log.warning("aws: a security group is left and costs nothing: %s", error.message)
        self._ended.clear()
        await self._aws.aclose()

    # --- regions ---------------------------------------------------------------------------------------------------

    async def _regions(self) -> tuple[str, ...]:
        return self._settings.regions or (await self._aws.home() or DEFAULT_REGION,)

    async def _search_regions(self, *, afresh: bool = False) -> tuple[str, ...]:
        """Where machines of ours may be: by default everywhere, since a setting may have been another yesterday."""
        if self._settings.search_regions:
            return self._settings.search_regions
        now = self._clock.now()
        if afresh or self._enabled is None or self._enabled[1] <= now:
            answer = await self._aws.call(
                "ec2", (await self._regions())[0], "describe_regions", needs="Regions", AllRegions=False
            )
            named = [parse(wire.Region, item, provider=NAME).region_name for item in answer.get("Regions", [])]
            self._enabled = (tuple(sorted(named)), now + KEPT)
        return self._enabled[0]


def _refused(error: Refused, rental: Rental) -> ProviderError:
    """What a code that the table leaves open means for a machine that was asked for."""
    if error.aws_code == "UnsupportedOperation":
        return OfferGone(f"{rental.type} cannot be had in {rental.zone}: {error.message}", provider=NAME)
    return error


def _no_bare_id(id: str) -> None:
    """A machine may well be called that, but its region is missing: gone would be a guess."""
    if id.startswith("i-") and Place.of(f"{DEFAULT_REGION}/{id}") is not None:
        raise NotSupported(f"{id} says no region", provider=NAME, hint=f"write it as {DEFAULT_REGION}/{id}")
