"""Vast.ai behind the provider protocol, by its REST interface.

Its create call cannot be repeated: a label, looked for before and after, takes the place of an idempotency token.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar

import anyio
import httpx2

from ...core.clock import Clock, WallClock, utc
from ...core.errors import (
    ConfigError,
    MissingCredentials,
    OfferGone,
    Outbid,
    OutcomeUnknown,
    ProviderError,
    ProviderUnavailable,
    UnexpectedAnswer,
)
from ...core.model import Account, Capabilities, Charge, Instance, InstanceSpec, Offer, OfferKind, Want
from ...core.protocols import ProviderOptions
from ...core.secret import Secret
from ..http import CloudHttp, Interval, NotFound
from ..once import OnePerKey
from ..options import only_known
from ..redact import secrets_of
from ..together import together
from ..wiring import W, parse
from . import offers, states, wire
from .answers import NoSuchMachine, RentedAnyway, refine
from .label import Label
from .rental import rental
from .taste import Taste, switch, taste_of

URL = "https://console.vast.ai"

# Vast refuses calls of one endpoint that follow each other faster; the figures are those of its refusals.
CREATE = Interval("create", 4.5)
SHOW = Interval("show", 2.0)
LIST = Interval("list", 1.0)
DESTROY = Interval("destroy", 3.0)
MANAGE = Interval("manage", 1.0)
CHARGES = Interval("charges", 1.0)

PAGE = 25
"""Machines on a page; Vast gives no more."""
CHARGES_PAGE = 500
MOST_PAGES = 1000
COLUMNS = tuple(wire.Machine.model_fields)
"""What lists ask for. Left out above all: the environment, in which the machine's secrets are."""
LIFETIME = timedelta(days=366)
"""How long before the time asked for a contract with charges may have begun."""
DAY = timedelta(days=1)
"""Times of charges are those of whole days; whether an end is the day's beginning or its end is not said."""
DISCARD_SECONDS = 60.0
LOG_TRIES = 30
LOG_PAUSE = 0.3
OPTIONS = ("api_key", "base_url", "transport", "verified", "datacenter", "disk_gb", "wait_for_launch")


def end_recipe(base_url: str) -> tuple[Mapping[str, object], ...]:
    """How a machine ends itself, for the agent: with a key that Vast puts into it and that is good for it alone. [U]
    that this key may delete over REST in a container without SSH; the agent tries the reading half before it starts."""
    url = f"{base_url}/api/v0/instances/$CONTAINER_ID/"
    headers = {"Authorization": "Bearer $CONTAINER_API_KEY"}
    check = {"method": "GET", "url": url, "headers": headers}
    return ({"kind": "http", "method": "DELETE", "url": url, "headers": headers, "check": check},)


class VastProvider:
    """An account at Vast.ai.

    A machine is a container on somebody's computer: the host can read its environment. One that was outbid stops, its
    disk bills, and Vast starts it again by itself once the bid is high enough: destroy what is not wanted back.
    """

    name: ClassVar[str] = "vast"
    api: ClassVar[int] = 1
    # [U] How long lists lag behind: no figure is published; two minutes are far more than anybody reports.
    capabilities: ClassVar[Capabilities] = Capabilities(
        spot=True, stop=True, charges=True, fuse=True, settle=timedelta(minutes=2)
    )
    end_recipe: tuple[Mapping[str, object], ...] = end_recipe(URL)

    def __init__(
        self,
        api_key: Secret,
        *,
        clock: Clock | None = None,
        base_url: str = URL,
        transport: httpx2.AsyncBaseTransport | None = None,
        taste: Taste | None = None,
        wait_for_launch: bool = False,
    ) -> None:
        self._clock = clock or WallClock()
        self._taste = taste or Taste()
        self._once = OnePerKey()
        self._create = replace(CREATE, wait=wait_for_launch)
        self.end_recipe = end_recipe(base_url.rstrip("/"))
        self._http = CloudHttp(self.name, base_url, api_key, clock=self._clock, transport=transport, refine=refine)

    @classmethod
    def from_options(cls, options: ProviderOptions, *, clock: Clock) -> VastProvider:
        """``api_key``; ``verified`` (True) and ``datacenter`` (False) choose hosts; ``disk_gb`` (80) is the disk of a
        machine; ``wait_for_launch`` (False): two rentals must be 4.5 s apart; one that comes too early waits instead of
        raising ``RateLimited``.
        ``base_url`` and ``transport`` are for tests and emulators."""
        only_known(cls.name, options, OPTIONS)
        key, url = options.get("api_key"), options.get("base_url", URL)
        if isinstance(key, str):
            key = Secret(key)
        if not isinstance(key, Secret) or not key:
            raise MissingCredentials("the provider vast needs an API key (api_key, or VAST_API_KEY)")
        transport = options.get("transport")
        if not isinstance(url, str) or not isinstance(transport, (httpx2.AsyncBaseTransport, type(None))):
            raise ConfigError("the provider vast takes base_url= (an address) and transport= (of httpx2)")
        return cls(
            key,
            clock=clock,
            base_url=url,
            transport=transport,
            taste=taste_of(options),
            wait_for_launch=switch(options, "wait_for_launch", False),
        )

    def __repr__(self) -> str:
        return f"VastProvider({self._http.base_url!r})"

    async def aclose(self) -> None:
        await self._http.aclose()

    # --- looking at the market -------------------------------------------------------------------------------------

    async def check(self) -> Account:
        user = self._parse(wire.User, await self._http.request("GET", "/api/v0/users/current/"))
        notes = ("there is no credit left: machines are stopped, then deleted",) if _empty(user.balance) else ()
        return Account(provider=self.name, user=user.email or str(user.id), balance=user.balance, notes=notes)

    async def list_offers(self, want: Want) -> Sequence[Offer]:
        """On-demand offers, then bids; both are searched for at once."""
        kinds = [kind for kind in offers.TYPES if kind in want.kinds]
        found = await together([partial(self._search, kind, want) for kind in kinds])
        return [offer for one in found for offer in one]

    async def _search(self, kind: OfferKind, want: Want) -> list[Offer]:
        taste = self._taste
        body = offers.query(kind, want, disk_gb=taste.disk_gb, verified=taste.verified, datacenter=taste.datacenter)
        answer = await self._http.request("POST", "/api/v0/bundles/", json=body, idempotent=True)
        return offers.offers(kind, self._parse(wire.Offers, answer).offers, want)

    # --- renting ---------------------------------------------------------------------------------------------------

    async def create(self, spec: InstanceSpec) -> Instance:
        ask = offers.ask_of(spec.offer)
        if ask is None:
            raise OfferGone(f"{spec.offer.id!r} is no offer of Vast", provider=self.name)
        body, label = rental(spec, disk_gb=self._taste.disk_gb), Label.of(spec)
        async with self._once(spec.key):
            for machine in await self._labelled(label):
                return self._instance(machine)
            id = await self._rent(ask, body, spec, label)
        now = self._clock.now()
        return states.instance(wire.Machine(id=id, label=label.text, start_date=now.timestamp()), self.name, now)

    async def _rent(self, ask: int, body: Mapping[str, object], spec: InstanceSpec, label: Label) -> int:
        try:
            answer = await self._http.request(
                "PUT",
                f"/api/v0/asks/{ask}/",
                json=body,
                spends=True,
                interval=self._create,
                secrets=secrets_of(spec.env),
            )
        except RentedAnyway as error:
            await self._discard([error.contract], error)
            raise _too_low(spec, error) from error
        except NotFound as error:
            raise OfferGone(error.message, provider=self.name) from error
        except (Outbid, UnexpectedAnswer) as error:
            await self._discard_leftover(label, error)
            raise
        try:
            return self._parse(wire.Created, answer).new_contract
        except UnexpectedAnswer as error:
            raise OutcomeUnknown(f"it is not known what was rented: {error.message}", provider=self.name) from error

    async def _discard_leftover(self, label: Label, why: ProviderError) -> None:
        """A refusal that is not plainly "nothing was rented" may have left a stopped machine all the same."""
        try:
            left = [machine.id for machine in await self._labelled(label)]
        except ProviderError as error:
            raise OutcomeUnknown(f"refused, and perhaps rented: {why.message}", provider=self.name) from error
        await self._discard(left, why)

    async def _discard(self, ids: Sequence[int], why: ProviderError) -> None:
        """Destroy what a refused call has rented, whoever is cancelled meanwhile."""
        with anyio.move_on_after(DISCARD_SECONDS, shield=True) as limit:
            for id in ids:
                try:
                    await self.terminate(str(id))
                except ProviderError as error:
                    raise OutcomeUnknown(f"machine {id} was rented: {why.message}", provider=self.name) from error
        if limit.cancelled_caught:
            raise OutcomeUnknown(f"machines {ids} were rented: {why.message}", provider=self.name) from why

    # --- a machine -------------------------------------------------------------------------------------------------

    async def get(self, id: str) -> Instance | None:
        if not id.isdecimal():
            return None  # no machine is called that
        try:
            answer = await self._http.request("GET", _path(id), interval=SHOW)
        except NoSuchMachine:
            return None
        except NotFound:
            machine = None
        else:
            machine = self._parse(wire.Shown, answer).machine
        if machine is None:
            machine = await self._listed(id)
        return None if machine is None else self._instance(machine)

    async def stop(self, id: str) -> None:
        await self._manage(id, "stopped")

    async def resume(self, id: str) -> None:
        """Vast starts it when its GPUs are free and its bid is high enough; until then it stays stopped."""
        await self._manage(id, "running")

    async def _manage(self, id: str, state: str) -> None:
        if not id.isdecimal():
            raise NoSuchMachine(f"{id!r} is no machine", provider=self.name)
        await self._http.request("PUT", _path(id), json={"state": state}, interval=MANAGE)

    async def terminate(self, id: str) -> None:
        if not id.isdecimal():
            return
        try:
            await self._http.request("DELETE", _path(id), interval=DESTROY)
        except NoSuchMachine:
            return
        except NotFound as error:
            if await self._listed(id) is not None:
                raise ProviderUnavailable(f"{id} was not ended: {error.message}", provider=self.name) from error

    async def logs(self, id: str, tail: int) -> Sequence[str]:
        """Of the container; where that says nothing, of the host's daemon, which knows why it did not start."""
        if tail <= 0 or not id.isdecimal():
            return []
        return await self._log(id, {"tail": str(tail)}, tail) or await self._log(
            id, {"tail": str(tail), "daemon_logs": "true"}, tail
        )

    async def _log(self, id: str, body: Mapping[str, str], tail: int) -> list[str]:
        """The host uploads its log on demand; the address that Vast answers holds it some seconds later."""
        try:
            answer = await self._http.request("PUT", f"/api/v0/instances/request_logs/{id}/", json=body)
        except NotFound:
            return []
        url = self._parse(wire.LogsAt, answer).result_url
        for _ in range(LOG_TRIES):
            text = await self._http.download(url)
            if text is not None:
                return text.splitlines()[-tail:]
            await anyio.sleep(LOG_PAUSE)
        return []

    # --- lists -----------------------------------------------------------------------------------------------------

    async def list_owned(self, owner: str) -> Sequence[Instance]:
        found = [self._instance(machine) async for machine in self._machines({})]
        return [instance for instance in found if instance.owner == owner]

    async def _labelled(self, label: Label) -> list[wire.Machine]:
        filters = {"label": {"eq": label.text}}
        found = [(machine, Label.read(machine.label)) async for machine in self._machines(filters)]
        return [machine for machine, read in found if read and (read.owner, read.key) == (label.owner, label.key)]

    async def _listed(self, id: str) -> wire.Machine | None:
        """The evidence of a complete list, for answers that alone prove nothing."""
        filters = {"id": {"eq": int(id)}}
        return next(iter([machine async for machine in self._machines(filters) if machine.id == int(id)]), None)

    async def _machines(self, filters: Mapping[str, object]) -> AsyncIterator[wire.Machine]:
        params = {
            "limit": PAGE,
            "order_by": json.dumps([{"col": "id", "dir": "asc"}]),
            "select_cols": json.dumps(COLUMNS),
            "select_filters": json.dumps(filters),
        }
        async for page in self._pages(wire.Page, "/api/v1/instances/", params, LIST):
            for machine in page.instances:
                yield machine

    async def charges(self, since: datetime) -> Sequence[Charge]:
        """One for each machine, over its whole life: whatever part of it is asked for, the amount stays whole."""
        day = {"gte": int((since - LIFETIME).timestamp()), "lte": int(self._clock.now().timestamp())}
        params = {
            "limit": CHARGES_PAGE,
            "latest_first": "false",
            "select_filters": json.dumps({"day": day, "type": {"in": ["instance"]}}),
        }
        pages = self._pages(wire.Charges, "/api/v0/charges/", params, CHARGES)
        found = [charged async for page in pages for charged in page.results]
        return [_charge(item, self.name) for item in found if utc(item.end) >= since - DAY]

    async def _pages(
        self, model: type[W], path: str, params: Mapping[str, object], interval: Interval
    ) -> AsyncIterator[Any]:
        """All pages, or it raises: a list that is cut off must not look like a whole one."""
        seen: set[str] = set()
        token: str | None = None
        while len(seen) < MOST_PAGES:
            answer = await self._http.request("GET", path, params={**params, "after_token": token}, interval=interval)
            page: Any = self._parse(model, answer)
            yield page
            token = page.next_token
            if not token:
                return
            if token in seen:
                break
            seen.add(token)
        raise UnexpectedAnswer(f"the pages of {path} do not end", provider=self.name)

    # --- small things ----------------------------------------------------------------------------------------------

    def _instance(self, machine: wire.Machine) -> Instance:
        return states.instance(machine, self.name, self._clock.now())

    def _parse(self, model: type[W], answer: Any) -> W:
        return parse(model, answer, provider=self.name)


def _path(id: str) -> str:
    return f"/api/v0/instances/{id}/"


def _empty(balance: Decimal | None) -> bool:
    return balance is not None and balance <= 0


def _too_low(spec: InstanceSpec, error: RentedAnyway) -> ProviderError:
    if spec.offer.kind is OfferKind.INTERRUPTIBLE:
        return Outbid(f"the bid of {spec.offer.per_hour} was not high enough: {error.message}", provider="vast")
    return OfferGone(f"it could not start: {error.message}", provider="vast")


def _charge(item: wire.Charged, provider: str) -> Charge:
    kind, _, id = item.source.partition("-")
    parts = ", ".join(f"{part.type} {part.amount}" for part in item.items)
    return Charge(
        provider=provider,
        id=item.source,
        amount=item.amount,
        start=utc(item.start),
        end=utc(item.end),
        instance_id=id if kind == "instance" and id else None,
        description=parts or item.description,
    )
