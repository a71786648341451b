"""The calls of Lambda's API that we make, typed; at most one a second, as its documentation asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...core.errors import OutcomeUnknown, RateLimited, UnexpectedAnswer
from ...core.secret import Secret
from ...core.states import State
from ..http import CloudHttp, Interval, NotFound
from ..wiring import parse
from . import wire
from .codes import TooFast, Upstream
from .machines import STATES
from .offers import NAME

BASE_URL = "https://cloud.lambda.ai"
PREFIX = "/api/v1"
ANY_CALL = Interval("calls", 1.0)
LAUNCH_SECONDS = 12.0
SENT = Interval("launches sent", LAUNCH_SECONDS + ANY_CALL.seconds)
"""Between a launch's turn and the launch other calls are made, so it is paced again when it is sent; the second more is
what waiting for :data:`ANY_CALL` may add to one and not to the next."""


class LambdaApi:
    """Raises what :meth:`CloudHttp.request` raises, :class:`Gone` where Lambda says that a thing does not exist."""

    def __init__(self, http: CloudHttp, *, wait_for_launch: bool) -> None:
        self._http = http
        self._turns = Interval("launches", LAUNCH_SECONDS, wait=wait_for_launch)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def types(self) -> wire.Types:
        return parse(wire.Types, await self._call("GET", "/instance-types"), provider=NAME)

    # --- machines --------------------------------------------------------------------------------------------------

    async def machines(self) -> tuple[wire.Machine, ...]:
        """All of the account: this list has neither pages nor filters."""
        return parse(wire.Machines, await self._call("GET", "/instances"), provider=NAME).data

    async def launch_turn(self) -> None:
        """Wait until another launch is allowed, or raise ``RateLimited`` with the time that is left.

        Taken before the key and the ruleset are made, so that nothing is made for a launch that cannot be sent.
        """
        await self._http.turn(self._turns)

    async def launch(self, body: Mapping[str, object], secrets: Iterable[Secret]) -> str:
        """Rent; answers the id. Raises :class:`OutcomeUnknown` wherever the machine may exist."""
        await self._http.turn(SENT)
        try:
            answer = await self._call("POST", "/instance-operations/launch", json=body, spends=True, secrets=secrets)
        except TooFast as error:
            raise RateLimited(error.message, provider=NAME, retry_after=LAUNCH_SECONDS) from error
        except Upstream as error:
            raise OutcomeUnknown(f"whether Lambda launched is not known: {error.message}", provider=NAME) from error
        try:
            ids = parse(wire.Launched, answer, provider=NAME).data.instance_ids
        except UnexpectedAnswer as error:
            raise OutcomeUnknown(
                f"Lambda's answer to the launch does not fit: {error.message}", provider=NAME
            ) from error
        if not ids:
            raise OutcomeUnknown("Lambda launched, but told no id", provider=NAME)
        return ids[0]

    async def terminate(self, id: str) -> wire.Machine | None:
        """Repeatable: what is ending already, or gone, is success. Answers the machine where it is still shown."""
        body = {"instance_ids": [id]}
        error = UnexpectedAnswer(f"Lambda does not say that it terminated {id}", provider=NAME)
        try:
            answer = await self._call("POST", "/instance-operations/terminate", json=body, idempotent=True)
            for machine in parse(wire.Terminated, answer, provider=NAME).data.terminated_instances:
                if machine.id == id:
                    return machine
        except UnexpectedAnswer as refused:  # also 404 and 409
            error = refused
        # How Lambda answers for a machine that is ending already is not documented: look at it.
        found = await self.find(id)
        if found is not None and STATES.get(found.status) not in (State.TERMINATING, State.TERMINATED):
            raise error
        return found

    async def find(self, id: str) -> wire.Machine | None:
        """None only if Lambda does not know the id *and* its list does not show it: an answer 404 alone may come from
        a proxy, or from a server that has not heard of a new machine yet."""
        try:
            return parse(wire.OneMachine, await self._call("GET", f"/instances/{id}"), provider=NAME).data
        except NotFound:
            return next((machine for machine in await self.machines() if machine.id == id), None)

    # --- what a launch needs besides -------------------------------------------------------------------------------

    async def ssh_keys(self) -> tuple[wire.SshKey, ...]:
        return parse(wire.SshKeys, await self._call("GET", "/ssh-keys"), provider=NAME).data

    async def add_ssh_key(self, name: str, public_key: str) -> wire.SshKey:
        body = {"name": name, "public_key": public_key}
        return parse(wire.OneSshKey, await self._call("POST", "/ssh-keys", json=body), provider=NAME).data

    async def delete_ssh_key(self, id: str) -> None:
        await self._call("DELETE", f"/ssh-keys/{id}")

    async def rulesets(self) -> tuple[wire.Ruleset, ...]:
        return parse(wire.Rulesets, await self._call("GET", "/firewall-rulesets"), provider=NAME).data

    async def add_ruleset(self, name: str, region: str, rules: Iterable[Mapping[str, object]]) -> wire.Ruleset:
        body = {"name": name, "region": region, "rules": list(rules)}
        return parse(wire.OneRuleset, await self._call("POST", "/firewall-rulesets", json=body), provider=NAME).data

    async def delete_ruleset(self, id: str) -> None:
        """Raises :class:`~spotinfer.providers.lambdalabs.codes.Busy` while a machine uses it."""
        await self._call("DELETE", f"/firewall-rulesets/{id}")

    async def _call(self, method: str, path: str, **how: Any) -> Any:
        return await self._http.request(method, PREFIX + path, interval=ANY_CALL, **how)
