"""An emulated Lambda Cloud (API 1.10.0): launches, tags, SSH keys, firewall rulesets, rate limits, and an invoice.

It refuses what the specification refuses, with its codes. What the specification leaves open is marked as such.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from ...core.clock import Clock, utc
from .base import EmulatedCloud, Reply, Request, route
from .lambda_forms import (
    REGIONS,
    TYPES,
    check_rule,
    checked_launch,
    data_reply,
    error_reply,
    is_text,
    object_of,
    refuse,
    region_of,
)
from .timeline import Timeline

LAUNCH_INTERVAL, CALL_INTERVAL = 12.0, 1.0
SLACK = 0.9
"""A real limiter counts when calls arrive; a call that was sent in time must not fail for a jitter on the way."""
ALIVE = frozenset({"booting", "active", "unhealthy", "preempted"})
HEALTHY = frozenset({"active"})


@dataclass(slots=True, kw_only=True)
class LambdaMachine:
    """One emulated instance. ``asked`` is the body of its launch, ``user_data`` in it with all secrets."""

    id: str
    asked: Mapping[str, Any] = field(repr=False)
    kind: Mapping[str, Any]
    ip: str
    ip_from: float
    timeline: Timeline = field(repr=False)
    ended: float | None = None

    @property
    def tags(self) -> dict[str, str]:
        return {tag["key"]: tag["value"] for tag in self.asked.get("tags", ())}


class EmulatedLambda(EmulatedCloud):
    """Give :attr:`token` and :meth:`transport` (or a socket's address) to the adapter.

    ``boot``, ``ending`` and ``forget`` are how long an instance boots, is ``terminating``, and is still shown as
    ``terminated``, in seconds. ``lag`` is how late a new instance is shown (nothing is documented). ``sold_out`` holds
    ``type@region`` that the offers still show: the list of capacity is advisory. ``on_launch`` and ``on_end`` are
    called with each machine, to run something for it.
    """

    boot: float = 180.0
    ending: float = 20.0
    forget: float = 60.0
    lag: float = 0.0
    quota: int = 10**6
    rate_limits: bool = True

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.types = {kind["name"]: (kind, list(regions)) for kind, regions in TYPES}
        self.machines: dict[str, LambdaMachine] = {}
        self.ssh_keys: dict[str, dict[str, Any]] = {}
        self.rulesets: dict[str, dict[str, Any]] = {}
        self.sold_out: set[str] = set()
        self.on_launch: Callable[[LambdaMachine], None] | None = None
        self.on_end: Callable[[LambdaMachine], None] | None = None
        self._made = 0

    # --- for tests -------------------------------------------------------------------------------------------------

    def existing(self) -> list[LambdaMachine]:
        """Machines that may bill."""
        return [machine for machine in self.machines.values() if machine.ended is None]

    def status(self, machine: LambdaMachine) -> str:
        return machine.timeline.at(self.now())

    def say(self, id: str, native: str) -> None:
        self.machines[id].timeline.say(self.now(), native)

    def invoice(self) -> dict[str, Decimal]:
        """Dollars per machine by Lambda's rule: whole minutes begun, from the first time that it was healthy to the
        call that terminated it."""
        return {machine.id: self._bill(machine) for machine in self.machines.values()}

    def _bill(self, machine: LambdaMachine) -> Decimal:
        until = self.now() if machine.ended is None else machine.ended
        healthy = machine.timeline.first(HEALTHY, until)
        minutes = 0 if healthy is None else -(-round((until - healthy) * 1000) // 60_000)
        return Decimal(machine.kind["price_cents_per_hour"] * minutes) / Decimal(6000)

    # --- admission -------------------------------------------------------------------------------------------------

    def authorise(self, request: Request) -> Reply | None:
        refused = super().authorise(request)
        return None if refused is None else error_reply(401, "global/invalid-api-key", "API key was invalid")

    def admit(self, request: Request) -> Reply | None:
        if not self.rate_limits:
            return None
        launch = request.path.endswith("/launch")
        limits = [("calls", CALL_INTERVAL), *([("launches", LAUNCH_INTERVAL)] if launch else [])]
        for name, seconds in limits:
            if self.too_early(name, seconds * SLACK) is not None:
                # The specification has no 429: code and headers are a guess.
                return error_reply(429, "global/rate-limited", f"too many requests: one in {seconds:g} s")
        return None

    def problem(self, status: int, message: str) -> Reply:
        return error_reply(status, "global/not-found", message)

    # --- offers ----------------------------------------------------------------------------------------------------

    @route("GET", "/api/v1/instance-types")
    def list_types(self, request: Request) -> Reply:
        return data_reply(
            {
                name: {
                    "instance_type": kind,
                    "regions_with_capacity_available": [region_of(region) for region in regions],
                }
                for name, (kind, regions) in self.types.items()
            }
        )

    # --- machines --------------------------------------------------------------------------------------------------

    @route("GET", "/api/v1/instances")
    def list_machines(self, request: Request) -> Reply:
        return data_reply([self._shown(machine) for machine in self._visible()])

    @route("GET", "/api/v1/instances/{id}")
    def show_machine(self, request: Request, id: str) -> Reply:
        return data_reply(self._shown(self._machine(id)))

    @route("POST", "/api/v1/instance-operations/launch")
    def launch(self, request: Request) -> Reply:
        asked = checked_launch(request.body)
        kind = self._rentable(asked)
        self._made += 1
        now = self.now()
        id = UUID(int=(self._made << 64) | 0x8000_0000_0000_0000 | self._made).hex
        timeline = Timeline(now, "booting")
        timeline.plan([(now + self.boot, "active")])
        machine = LambdaMachine(
            id=id,
            asked=asked,
            kind=kind,
            # Linux answers on all of 127/8: every machine has an address and all ports of its own.
            ip=str(ipaddress.IPv4Address("127.1.0.0") + self._made),
            ip_from=now + self.boot * 0.6,
            timeline=timeline,
        )
        self.machines[id] = machine
        if self.on_launch is not None:
            self.on_launch(machine)
        return data_reply({"instance_ids": [id]})

    def _rentable(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        name, region = asked["instance_type_name"], asked["region_name"]
        if name not in self.types or region not in REGIONS:
            refuse(404, "global/object-does-not-exist", "no such instance type or region")
        if asked["ssh_key_names"][0] not in {key["name"] for key in self.ssh_keys.values()}:
            refuse(400, "global/object-does-not-exist", "no such SSH key")
        for entry in asked.get("firewall_rulesets", ()):
            ruleset = self.rulesets.get(entry["id"])
            if ruleset is None or ruleset["region"]["name"] != region:
                refuse(400, "global/object-does-not-exist", "no such firewall ruleset in this region")
        kind, regions = self.types[name]
        if region not in regions or f"{name}@{region}" in self.sold_out:
            refuse(400, "instance-operations/launch/insufficient-capacity", "Not enough capacity to fulfill request.")
        if len(self.existing()) >= self.quota:
            refuse(400, "global/quota-exceeded", "Quota exceeded.")
        return kind

    @route("POST", "/api/v1/instance-operations/terminate")
    def terminate(self, request: Request) -> Reply:
        ids = request.body.get("instance_ids") if isinstance(request.body, dict) else None
        if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
            refuse(400, "global/invalid-parameters", "instance_ids must be a list of identifiers")
        machines = [self._machine(id) for id in ids]
        for machine in machines:
            self._end(machine)
        return data_reply({"terminated_instances": [self._shown(machine) for machine in machines]})

    def _end(self, machine: LambdaMachine) -> None:
        """Ending it once more is success (how Lambda answers then is not documented)."""
        if machine.ended is not None:
            return
        now = machine.ended = self.now()
        machine.timeline.say(now, "terminating")
        machine.timeline.plan([(now + self.ending, "terminated")])
        if self.on_end is not None:
            self.on_end(machine)

    def _visible(self) -> Iterator[LambdaMachine]:
        now = self.now()
        for machine in self.machines.values():
            gone = machine.ended is not None and now >= machine.ended + self.ending + self.forget
            if not gone and now >= machine.timeline.began + self.lag:
                yield machine

    def _machine(self, id: str) -> LambdaMachine:
        machine = next((machine for machine in self._visible() if machine.id == id), None)
        return machine or refuse(404, "global/object-does-not-exist", "Specified instance does not exist.")

    def _shown(self, machine: LambdaMachine) -> dict[str, Any]:
        asked, status = machine.asked, self.status(machine)
        blocked = {"available": False, "reason_code": "vm-is-terminating", "reason_description": "It is terminating."}
        actions = {"available": True} if status in ALIVE else blocked
        shown = {
            "id": machine.id,
            "name": asked.get("name", ""),
            "status": status,
            "ssh_key_names": asked["ssh_key_names"],
            "file_system_names": [],
            "region": region_of(asked["region_name"]),
            "instance_type": machine.kind,
            "is_reserved": False,
            "actions": dict.fromkeys(("migrate", "rebuild", "restart", "cold_reboot", "terminate"), actions),
            "tags": list(asked.get("tags", ())),
            "firewall_rulesets": list(asked.get("firewall_rulesets", ())),
        }
        if self.now() >= machine.ip_from and status in ALIVE:
            shown |= {"ip": machine.ip, "hostname": machine.ip}
        return shown

    # --- SSH keys and firewall rulesets ----------------------------------------------------------------------------

    @route("GET", "/api/v1/ssh-keys")
    def list_ssh_keys(self, request: Request) -> Reply:
        return data_reply(list(self.ssh_keys.values()))

    @route("POST", "/api/v1/ssh-keys")
    def add_ssh_key(self, request: Request) -> Reply:
        asked = object_of(request.body)
        name, public = str(asked.get("name", "")), str(asked.get("public_key", ""))
        # Without a public key the real one makes a pair and answers both halves; nobody here asks for that.
        if not is_text(name, 1, 64) or not is_text(public, 1, 4096) or not public.startswith(("ssh-", "ecdsa-")):
            refuse(400, "global/invalid-parameters", "name and public_key must be an OpenSSH key")
        if name in {key["name"] for key in self.ssh_keys.values()}:
            refuse(400, "global/invalid-parameters", "an SSH key of that name exists")
        made = {"id": self._new_id(), "name": name, "public_key": public}
        self.ssh_keys[made["id"]] = made
        return data_reply(made)

    @route("DELETE", "/api/v1/ssh-keys/{id}")
    def delete_ssh_key(self, request: Request, id: str) -> Reply:
        if self.ssh_keys.pop(id, None) is None:
            refuse(404, "global/object-does-not-exist", "Specified SSH key does not exist.")
        return data_reply({})

    @route("GET", "/api/v1/firewall-rulesets")
    def list_rulesets(self, request: Request) -> Reply:
        return data_reply([{**ruleset, "instance_ids": self._users(id)} for id, ruleset in self.rulesets.items()])

    @route("POST", "/api/v1/firewall-rulesets")
    def add_ruleset(self, request: Request) -> Reply:
        asked = object_of(request.body)
        if not is_text(asked.get("name"), 0, 64) or asked.get("region") not in REGIONS:
            refuse(400, "global/invalid-parameters", "name and region are required")
        for rule in asked.get("rules") or refuse(400, "global/invalid-parameters", "rules are required"):
            check_rule(rule)
        made = {
            "id": self._new_id(),
            "name": asked["name"],
            "region": region_of(asked["region"]),
            "rules": asked["rules"],
            "created": utc(self.now()).isoformat(),
        }
        self.rulesets[made["id"]] = made
        return data_reply({**made, "instance_ids": []})

    @route("DELETE", "/api/v1/firewall-rulesets/{id}")
    def delete_ruleset(self, request: Request, id: str) -> Reply:
        if id not in self.rulesets:
            refuse(404, "global/object-does-not-exist", "Specified firewall ruleset does not exist.")
        if self._users(id):
            refuse(400, "firewall-rulesets/firewall-ruleset-in-use", "Firewall ruleset is in use.")
        del self.rulesets[id]
        return data_reply({})

    def _users(self, id: str) -> list[str]:
        return [
            machine.id
            for machine in self.machines.values()
            if {"id": id} in machine.asked.get("firewall_rulesets", ()) and self.status(machine) != "terminated"
        ]

    def _new_id(self) -> str:
        self._made += 1
        return UUID(int=self._made).hex
