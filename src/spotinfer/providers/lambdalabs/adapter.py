"""Lambda Cloud behind the provider protocol: on-demand machines only, and the agent runs on the host (cloud-init)."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import ClassVar

import httpx2

from ...core.clock import Clock, WallClock
from ...core.errors import ConfigError, MissingCredentials, NotSupported, OfferGone, OutcomeUnknown
from ...core.model import Account, Capabilities, Charge, Instance, InstanceSpec, Offer, Want
from ...core.protocols import ProviderOptions
from ...core.secret import Secret
from ..cloudinit import user_data
from ..http import CloudHttp, plain_id
from ..once import OnePerKey
from ..options import only_known
from ..redact import secrets_of
from . import wire
from .api import BASE_URL, LambdaApi
from .codes import Gone, refine
from .leftovers import Leftovers, Mark
from .machines import KEY, OWNER, describe, exists, shown_name, tags
from .offers import NAME, offer_place, offers

USER_DATA_LIMIT = 1_000_000
"""Bytes of plain text; the documentation says 1 MB."""
EVERYWHERE = "0.0.0.0/0"
"""Our ports answer nobody without a certificate of the launch (mutual TLS), and the owner's address may change."""
OPTIONS = ("api_key", "base_url", "transport", "ssh_key", "allow_from", "image_family", "wait_for_launch")


class LambdaProvider:
    """An account at Lambda.

    ``ssh_key`` is the name of a key of the account that may log in to machines; without it nobody can. ``allow_from``
    is the IPv4 network that reaches the engine and the agent. ``image_family`` is the machine image (by default
    Lambda's own choice). Lambda allows one launch in 12 s: with ``wait_for_launch`` a launch that comes too early
    waits, otherwise it raises ``RateLimited`` at once, so that another cloud can be tried meanwhile.

    There is no way to stop a machine, no log, no bill by API, and nothing on a machine can end it (``shutdown`` does
    not stop the billing).
    """

    name: ClassVar[str] = NAME
    api: ClassVar[int] = 1
    # How long the list may lag is not documented: the cautious default.
    capabilities: ClassVar[Capabilities] = Capabilities(fuse=False, settle=timedelta(minutes=5))

    def __init__(
        self,
        api_key: Secret,
        *,
        clock: Clock | None = None,
        base_url: str = BASE_URL,
        transport: httpx2.AsyncBaseTransport | None = None,
        ssh_key: str | None = None,
        allow_from: str = EVERYWHERE,
        image_family: str | None = None,
        wait_for_launch: bool = False,
    ) -> None:
        self._clock = clock or WallClock()
        http = CloudHttp(NAME, base_url, api_key, clock=self._clock, transport=transport, refine=refine)
        self._api = LambdaApi(http, wait_for_launch=wait_for_launch)
        self._leftovers = Leftovers(self._api)
        self._once = OnePerKey()
        self._ssh_key, self._image_family = ssh_key, image_family
        self._allow_from = _network(allow_from)

    @classmethod
    def from_options(cls, options: ProviderOptions, *, clock: Clock) -> LambdaProvider:
        """``api_key`` (a Secret) and what the class documents. Raises ``ConfigError``."""
        only_known(cls.name, options, OPTIONS)
        key, given = options.get("api_key"), {name: options[name] for name in OPTIONS[1:] if name in options}
        if not isinstance(key, Secret):
            raise MissingCredentials("there is no key for Lambda (LAMBDA_API_KEY)")
        for name, value in given.items():
            kind = {"transport": httpx2.AsyncBaseTransport, "wait_for_launch": bool}.get(name, str)
            if not isinstance(value, kind):
                raise ConfigError(f"{name} of the provider lambda must be a {kind.__name__}, not {value!r}")
        return cls(key, clock=clock, **given)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    async def check(self) -> Account:
        machines = await self._api.machines()
        running = sum(exists(machine) for machine in machines)
        return Account(
            provider=NAME,
            notes=(f"{running} machines in the account", "Lambda tells neither the balance nor the quota"),
        )

    async def list_offers(self, want: Want) -> Sequence[Offer]:
        return offers(await self._api.types(), want, self._clock.now())

    # --- the life of a machine -------------------------------------------------------------------------------------

    async def create(self, spec: InstanceSpec) -> Instance:
        """Raises ``NoCapacity``, ``OfferGone``, ``RateLimited`` (one launch in 12 s) when nothing was rented,
        ``OutcomeUnknown`` when the machine may exist. A create that rents nothing leaves nothing behind."""
        kind, region = offer_place(spec.offer)
        async with self._once(spec.key):
            for machine in await self._api.machines():
                if exists(machine) and _tag(machine, KEY) == spec.key:
                    return describe(machine, self._clock.now())
            await self._api.launch_turn()
            return await self._rent(spec, kind, region)

    async def _rent(self, spec: InstanceSpec, kind: str, region: str) -> Instance:
        now = self._clock.now()
        body, secrets = self._launch_body(spec, kind, region, now)
        mark = Mark(key=spec.key, owner=spec.owner, made=now)
        equipment = await self._leftovers.equip(mark, region, self._rules(spec), self._ssh_key)
        body["ssh_key_names"] = [equipment.ssh_key_name]
        body["firewall_rulesets"] = [{"id": equipment.ruleset_id}]
        try:
            id = await self._api.launch(body, secrets)
        except OutcomeUnknown:
            raise  # the machine may exist, and then needs them
        except BaseException as error:
            await self._leftovers.undo(equipment)
            if isinstance(error, Gone):
                raise OfferGone(f"type, region or SSH key does not exist: {error.message}", provider=NAME) from error
            raise
        marked = tuple(wire.Tag(key=name, value=value) for name, value in tags(spec, now).items())
        seen = wire.Machine(id=id, name=shown_name(spec), status="booting", tags=marked)
        return describe(seen, self._clock.now())

    def _launch_body(
        self, spec: InstanceSpec, kind: str, region: str, now: datetime
    ) -> tuple[dict[str, object], tuple[Secret, ...]]:
        """What to send, and the secrets that are in it. All of them are in ``user_data`` and nowhere else."""
        script = user_data(spec, limit=USER_DATA_LIMIT)
        body: dict[str, object] = {
            "region_name": region,
            "instance_type_name": kind,
            "name": shown_name(spec),
            "user_data": script,
            "tags": [{"key": name, "value": value} for name, value in tags(spec, now).items()],
        }
        if self._image_family is not None:
            body["image"] = {"family": self._image_family}
        return body, (*secrets_of(spec.env), Secret(script))

    def _rules(self, spec: InstanceSpec) -> list[dict[str, object]]:
        return [
            {
                "protocol": "tcp",
                "port_range": [port, port],
                "source_network": self._allow_from,
                "description": f"spotinfer {role}",
            }
            for role, port in spec.ports.items()
        ]

    async def get(self, id: str) -> Instance | None:
        machine = await self._api.find(id) if plain_id(id) else None
        return None if machine is None else describe(machine, self._clock.now())

    async def terminate(self, id: str) -> None:
        """End it, then remove its SSH key and its ruleset; waits a moment until the ruleset is free."""
        if not plain_id(id):
            return
        machine = await self._api.terminate(id)
        key = "" if machine is None else _tag(machine, KEY)
        await self._leftovers.remove(key, id, self._clock.now())

    async def stop(self, id: str) -> None:
        raise _cannot_stop(id)

    async def resume(self, id: str) -> None:
        raise _cannot_stop(id)

    # --- looking ---------------------------------------------------------------------------------------------------

    async def list_owned(self, owner: str) -> Sequence[Instance]:
        now = self._clock.now()
        return [
            describe(machine, now)
            for machine in await self._api.machines()
            if exists(machine) and _tag(machine, OWNER) == owner
        ]

    async def charges(self, since: datetime) -> Sequence[Charge]:
        raise NotSupported(
            "Lambda tells no bill by its API", provider=NAME, hint="its weekly invoices are at cloud.lambda.ai"
        )

    async def logs(self, id: str, tail: int) -> Sequence[str]:
        """Always none: Lambda has no log API. The agent tells the engine's log as soon as it answers."""
        return []

    async def aclose(self) -> None:
        await self._api.aclose()


def _tag(machine: wire.Machine, name: str) -> str:
    return next((tag.value for tag in machine.tags if tag.key == name), "")


def _cannot_stop(id: str) -> NotSupported:
    return NotSupported(
        f"{id} cannot be stopped or resumed: a machine at Lambda runs, and bills, until it is terminated",
        provider=NAME,
        hint=f"spotinfer terminate {id}",
    )


def _network(text: str) -> str:
    """Raises :class:`ConfigError` for what is no IPv4 network in CIDR notation."""
    try:
        return str(ipaddress.IPv4Network(text, strict=False))
    except ValueError as error:
        raise ConfigError(
            f"allow_from of the provider lambda must be an IPv4 network, not {text!r}",
            hint='for example "203.0.113.7/32"',
        ) from error
