"""RunPod behind the provider protocol. On-demand pods only: RunPod has sold no spot pods since May 2026.

A pod is found again by its name, the only marker that RunPod keeps. There is no idempotency key and a failed create may
have rented, so every create looks for its key first and is sent once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import ClassVar

import httpx2

from ...core.clock import Clock, WallClock
from ...core.errors import (
    ConfigError,
    MissingCredentials,
    NoCapacity,
    NotSupported,
    OfferGone,
    OutcomeUnknown,
    ProviderError,
    UnexpectedAnswer,
)
from ...core.model import Account, Capabilities, Charge, Instance, InstanceSpec, Offer, Want
from ...core.protocols import ProviderOptions
from ...core.secret import Secret
from ...core.states import State
from ..http import Answer, CloudHttp, Conflict, NotFound, plain_id
from ..once import OnePerKey
from ..options import only_known
from ..redact import secrets_of
from ..together import together
from ..wiring import W, parse
from . import wire
from .offers import CLOUDS, COMMUNITY, COUNTS, NAME, SECURE, catalogue_query, offers
from .pods import create_body, instance

BASE_URL = "https://api.runpod.io/v2"
LARGEST_BODY = 102_400
"""Bytes; RunPod answers 413 to more."""
VOLUME_PATH = "/workspace"
LONGEST_TAIL = 5000
EVENTS = 4
"""Lines of text in one event of the log stream: at least ``id:``, ``data:`` and an empty one."""


KEY_OF_MACHINE: Mapping[str, str] = {"Authorization": "Bearer $RUNPOD_API_KEY"}
ITSELF = f"{BASE_URL}/pods/$RUNPOD_POD_ID"
END: tuple[Mapping[str, object], ...] = (
    {
        "kind": "http",
        "method": "DELETE",
        "url": ITSELF,
        "headers": KEY_OF_MACHINE,
        "check": {"method": "GET", "url": ITSELF, "headers": KEY_OF_MACHINE},
    },
)
"""How a pod ends itself; RunPod puts both variables into it, and the key is good for that pod only. That the key may
delete was seen on version 1 of the interface; on version 2 it is not verified, so the agent tries its fuse first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """An existing network volume that every pod gets. Its pods run in its data centre, on the secure cloud."""

    id: str
    path: str


class RunpodProvider:
    """An account at RunPod.

    ``clouds`` is which hardware is offered: RunPod's own (``SECURE``), other people's (``COMMUNITY``), or both.
    """

    name: ClassVar[str] = NAME
    api: ClassVar[int] = 1
    capabilities: ClassVar[Capabilities] = Capabilities(
        spot=False,
        stop=True,  # the container disk is wiped; the pod and its place on the host are kept
        charges=True,
        fuse=True,
        settle=timedelta(minutes=2),
    )
    end_recipe: ClassVar[tuple[Mapping[str, object], ...]] = END
    """The agent's way to end its machine (``agent/fuse.py``); ``$NAMES`` are variables of the machine."""

    def __init__(
        self,
        http: CloudHttp,
        *,
        clock: Clock | None = None,
        clouds: Sequence[str] = CLOUDS,
        counts: Sequence[int] = COUNTS,
        volume: Volume | None = None,
    ) -> None:
        self._http, self._clock = http, clock or WallClock()
        self._clouds, self._counts, self._volume = tuple(clouds), tuple(counts), volume
        self._one_per_key = OnePerKey()

    @classmethod
    def from_options(cls, options: ProviderOptions, *, clock: Clock) -> RunpodProvider:
        """``api_key`` (needed), ``clouds`` (``"secure"``, ``"community"``, or both in a list), ``network_volume`` (its
        id) and ``volume_path``; for tests ``base_url`` and ``transport``."""
        only_known(NAME, options, ("api_key", "clouds", "network_volume", "volume_path", "base_url", "transport"))
        key, transport = options.get("api_key"), options.get("transport")
        if not isinstance(key, Secret) or not key:
            raise MissingCredentials("there is no key for RunPod")
        if transport is not None and not isinstance(transport, httpx2.AsyncBaseTransport):
            raise ConfigError("transport of the provider runpod must be an httpx2 transport")
        base_url = _text(options, "base_url", BASE_URL)
        http = CloudHttp(NAME, base_url, key, clock=clock, transport=transport, refine=refine)
        return cls(http, clock=clock, clouds=_clouds(options.get("clouds", CLOUDS)), volume=_volume(options))

    def __repr__(self) -> str:
        return f"RunpodProvider({self._http.base_url!r})"

    async def check(self) -> Account:
        """Reads the list of pods: the permission without which nothing that was rented could be found again."""
        pods = await self._pods()
        return Account(provider=NAME, notes=(f"{len(pods)} pods", "RunPod's interface tells no balance"))

    async def list_offers(self, want: Want) -> Sequence[Offer]:
        """One question for each cloud and number of GPUs, all at once. Prices are list prices and do not expire."""
        clouds = self._clouds
        if self._volume is not None:
            clouds = tuple(cloud for cloud in clouds if cloud == SECURE)
            volume = await self._get(wire.Volume, f"/network-volumes/{self._volume.id}")
            want = _only_in(want, volume.data_center)
            if want.regions == frozenset():
                return []
        asked = [(cloud, count) for cloud in clouds for count in self._counts]
        answers = await together([partial(self._catalogue, cloud, count) for cloud, count in asked])
        return [
            offer
            for (cloud, count), gpus in zip(asked, answers, strict=True)
            for offer in offers(gpus, cloud, count, want)
        ]

    async def _catalogue(self, cloud: str, count: int) -> list[wire.Gpu]:
        return (await self._get(wire.Gpus, "/catalog/gpus", catalogue_query(cloud, count))).gpus

    # --- the life of a pod -----------------------------------------------------------------------------------------

    async def create(self, spec: InstanceSpec) -> Instance:
        """Rent a pod.

        Raises :class:`NoCapacity` for status 400, which RunPod also uses for requests that break a rule: when every
        offer answers so, the message tells which. ``OfferGone`` when the account may not use this kind of machine.
        """
        volume = None if self._volume is None else (self._volume.id, self._volume.path)
        body = create_body(spec, volume)
        if len(json.dumps(body).encode()) > LARGEST_BODY:
            raise ProviderError(f"the request is larger than {LARGEST_BODY} bytes", provider=NAME)
        async with self._one_per_key(spec.key):
            for found in await self.list_owned(spec.owner):
                if found.key == spec.key:
                    return found
            answer = await self._http.request("POST", "/pods", json=body, spends=True, secrets=secrets_of(spec.env))
        try:
            return self._instance(parse(wire.Pod, answer, provider=NAME))
        except UnexpectedAnswer as error:
            raise OutcomeUnknown(f"a pod was rented, but {error.message}", provider=NAME) from error

    async def get(self, id: str) -> Instance | None:
        if not plain_id(id):
            return None
        try:
            return self._instance(await self._get(wire.Pod, f"/pods/{id}"))
        except NotFound:
            return None

    async def stop(self, id: str) -> None:
        """Releases the GPU and wipes the container disk. What stops cleanly bills nothing."""
        await self._act(id, "stop", State.STOPPED)

    async def resume(self, id: str) -> None:
        """On the host where it was: when its GPUs are taken, :class:`NoCapacity`."""
        await self._act(id, "start", State.PROVISIONING, State.BOOTING)

    async def _act(self, id: str, action: str, *reached: State) -> None:
        """An action that was carried out before, or whose answer was lost, is a conflict now: then what counts is
        where the pod is."""
        if not plain_id(id):
            raise _absent(id, action)
        try:
            await self._http.request("POST", f"/pods/{id}/action", json={"action": action}, idempotent=True)
        except NotFound as error:
            raise _absent(id, action) from error
        except Conflict as error:
            found = await self.get(id)
            if found is None or found.state not in reached:
                state = "gone" if found is None else found.native_state
                raise NotSupported(f"cannot {action} {id}: it is {state}", provider=NAME) from error

    async def terminate(self, id: str) -> None:
        """The container disk goes with it; a network volume is the user's and stays."""
        if not plain_id(id):
            return
        try:
            await self._http.request("DELETE", f"/pods/{id}")
        except NotFound:
            return
        except Conflict:
            found = await self.get(id)  # it may be ending already
            if found is not None and found.state is not State.TERMINATED:
                raise

    # --- looking ---------------------------------------------------------------------------------------------------

    async def list_owned(self, owner: str) -> Sequence[Instance]:
        """RunPod answers all pods at once: there are no pages, and no filter on their side."""
        found = [self._instance(pod) for pod in await self._pods()]
        return [pod for pod in found if pod.owner == owner and pod.key and pod.state is not State.TERMINATED]

    async def charges(self, since: datetime) -> Sequence[Charge]:
        """By the hour and pod, over all pods of the account; the current hour is replaced as it grows."""
        query = {"startTime": _rfc3339(since), "bucketSize": "hour"}
        records = (await self._get(wire.Billing, "/billing/pods", query)).records
        return [
            Charge(
                provider=NAME,
                id=f"{record.pod_id}:{_rfc3339(record.start)}",
                amount=record.total,
                start=record.start,
                end=record.end,
                instance_id=record.pod_id,
                description="pod, one hour",
            )
            for record in records
            if record.total
        ]

    async def logs(self, id: str, tail: int) -> Sequence[str]:
        """What the container wrote and what the system says of it (image, driver), by time. The stream does not end
        by itself, so it is read until it is quiet."""
        if tail <= 0 or not plain_id(id):
            return []
        tail = min(tail, LONGEST_TAIL)
        try:
            lines = await self._http.lines(f"/pods/{id}/logs", params={"tail": tail}, most=tail * EVENTS)
        except NotFound:
            return []
        return log_lines(lines)[-tail:]

    async def aclose(self) -> None:
        await self._http.aclose()

    # --- small things ----------------------------------------------------------------------------------------------

    async def _get(self, model: type[W], path: str, params: Mapping[str, object] | None = None) -> W:
        return parse(model, await self._http.request("GET", path, params=params), provider=NAME)

    async def _pods(self) -> list[wire.Pod]:
        return (await self._get(wire.Pods, "/pods")).pods

    def _instance(self, pod: wire.Pod) -> Instance:
        return instance(pod, self._clock.now())


def refine(answer: Answer) -> ProviderError | None:
    """What RunPod's refusals of a create mean; see its documentation of that call."""
    if answer.call != "POST /pods" and not answer.call.endswith("/action"):
        return None
    if answer.status == 400:
        return NoCapacity(
            answer.message or "no capacity",
            provider=NAME,
            hint="RunPod says so too when a request breaks a rule, and above the account's spend limit per hour",
        )
    if answer.status == 403 and "pool" in answer.message.lower():
        return OfferGone(f"this account may not use it: {answer.message}", provider=NAME)
    return None


def log_lines(stream: Sequence[str]) -> list[str]:
    """The text of a Server-Sent Events stream; what cannot be read is left out, for logs are best effort."""
    found: list[str] = []
    for line in stream:
        field, _, value = line.partition(":")
        if field == "data":
            try:
                found.append(parse(wire.LogLine, json.loads(value), provider=NAME).line)
            except (ValueError, UnexpectedAnswer):
                continue
    return found


def _absent(id: str, what: str) -> NotSupported:
    return NotSupported(f"cannot {what} {id}: it does not exist any more", provider=NAME)


def _only_in(want: Want, region: str) -> Want:
    fits = not want.regions or any(region == item or region.startswith(f"{item}-") for item in want.regions)
    return replace(want, regions=frozenset({region} if fits else ()))


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _text(options: ProviderOptions, name: str, default: str) -> str:
    value = options.get(name, default)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{name} of the provider runpod must be a text, not {value!r}")
    return value


def _clouds(value: object) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, (list, tuple)) or not given or any(str(item).upper() not in CLOUDS for item in given):
        raise ConfigError(f"clouds of the provider runpod must be of {SECURE} and {COMMUNITY}, not {value!r}")
    return tuple(dict.fromkeys(str(item).upper() for item in given))


def _volume(options: ProviderOptions) -> Volume | None:
    if "network_volume" not in options:
        return None
    id, path = _text(options, "network_volume", ""), _text(options, "volume_path", VOLUME_PATH)
    if not plain_id(id):
        raise ConfigError(f"{id!r} is no id of a network volume")
    return Volume(id=id, path=path)
