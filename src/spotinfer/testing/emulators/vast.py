"""Vast.ai, emulated: a market of hosts, machines that boot, bids that are exceeded, and charges.

It refuses what the real one refuses (limits, wrong keys, calls that follow each other too fast) in the real one's
words, and has its habits: a bid that is too low is an error *and* a machine, a bad key is a 404 at some endpoints, and
an outbid machine starts again by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from ...core.clock import Clock
from .base import EmulatedCloud, Refused, Reply, Request, route
from .timeline import Timeline
from .vast_market import NEVER_STARTED, Ask, Contract, as_charged, as_machine, as_offer, market
from .vast_query import THRESHOLDS, id_after, limited_as, matches, token_of

SEARCH_WORDS = frozenset({"type", "order", "limit", "allocated_storage"})
UNFILTERABLE = frozenset({"dph_total", "num_gpus", "dph_base", "ports"})
RUNTYPES = ("ssh", "jupyter", "args", "ssh_proxy", "ssh_direct", "jupyter_proxy", "jupyter_direct")
PAGE = 25
OFF = ("stopped", NEVER_STARTED)
WRONG_KEY = "Invalid user key"


class EmulatedVast(EmulatedCloud):
    """An account at an emulated Vast.ai.

    In seconds: ``boot`` is how long a machine takes to run, ``cold_log`` how long its log takes to be there, ``lag``
    how long a new machine is missing from lists. ``boot_failure``: machines that start from now on never run, and
    say this. ``machine_key_ends``: whether a machine's key may destroy it; nobody has verified that. ``on_launch`` and
    ``on_end`` are called with each machine, to run something for it.
    """

    boot: float = 40.0
    cold_log: float = 1.0
    lag: float = 0.0
    boot_failure: str | None = None
    machine_key_ends: bool = True
    on_launch: Callable[[Contract], None] | None = None
    on_end: Callable[[Contract], None] | None = None

    def __init__(self, clock: Clock | None = None, asks: list[Ask] | None = None) -> None:
        super().__init__(clock)
        self.asks = {ask.id: ask for ask in (asks if asks is not None else market())}
        self.contracts: dict[int, Contract] = {}
        self.balance = Decimal(100)
        self.searches_left = 10**9
        self.output: dict[int, list[str]] = {}
        """What a machine's container has written, by its id."""
        self._log_at: dict[str, tuple[float, str]] = {}

    # --- for tests -------------------------------------------------------------------------------------------------

    def existing(self) -> list[Contract]:
        """Machines that may bill."""
        return [contract for contract in self.contracts.values() if contract.ended is None]

    def say(self, id: int, native: str) -> None:
        """From now on ``actual_status`` is this word (``null``: not known)."""
        self.contracts[id].timeline.say(self.now(), native)

    def raise_bids(self, ask: Ask, least: Decimal) -> None:
        """Somebody else bids: machines with lower bids are stopped, and start again when ``least`` falls below."""
        ask.min_bid = least
        for contract in self.existing():
            if contract.ask is ask and contract.is_bid and contract.intended == "running":
                off = contract.native(self.now()) in OFF
                if contract.rate < least and not off:
                    contract.timeline.say(self.now(), "stopped")
                elif contract.rate >= least and off:
                    self._start(contract)

    def invoice(self, id: int) -> Decimal:
        """What a machine cost until now, unrounded."""
        contract = self.contracts[id]
        return sum(contract.bill(contract.timeline.began, self.now()).values(), Decimal(0))

    # --- who may call, and how often -------------------------------------------------------------------------------

    def authorise(self, request: Request) -> Reply | None:
        path = request.path
        if path.startswith("/instance_logs/"):
            # Another company's storage: it refuses a second kind of credentials, and must never see Vast's key.
            return Reply(status=400, raw=b"<Error/>") if "authorization" in request.headers else None
        if request.key == self.token or (not request.key and path.startswith("/api/v0/bundles")):
            return None
        own = next((contract for contract in self.existing() if contract.key == request.key), None)
        if own is not None:
            allowed = self.machine_key_ends and path.rstrip("/") == f"/api/v0/instances/{own.id}"
            return None if allowed else self.refusal(403, "not_authorized", "This key is for one instance only")
        if not request.key:
            return self.refusal(403, "auth_error", "This action requires login.")
        strange = path.startswith(("/api/v0/bundles", "/api/v0/charges"))
        return self.refusal(404 if strange else 401, "auth_error", WRONG_KEY)

    def admit(self, request: Request) -> Reply | None:
        kind = limited_as(request)
        if kind is not None and self.too_early(f"{kind} {request.key}", THRESHOLDS[kind]) is not None:
            text = f"API requests too frequent: endpoint threshold={THRESHOLDS[kind]}"
            return Reply(status=429, raw=text.encode(), content_type="text/plain")
        if not request.readable:
            return self.refusal(400, "invalid_request", "Invalid json body")
        return None

    def refusal(self, status: int, error: str, msg: str, **more: object) -> Reply:
        return Reply(status=status, body={"success": False, "error": error, "msg": msg, **more})

    def problem(self, status: int, message: str) -> Reply:
        return self.refusal(status, "invalid_request", message)

    def refuse(self, status: int, error: str, msg: str, **more: object) -> Refused:
        return Refused(self.refusal(status, error, msg, **more))

    # --- account and market ----------------------------------------------------------------------------------------

    @route("GET", "/api/v0/users/current/?")
    def user(self, request: Request) -> Reply:
        return Reply(body={"id": 1, "key_id": 2, "email": "user@example.com", "balance": float(self.balance)})

    @route("POST", "/api/v0/bundles/?")
    def search(self, request: Request) -> Reply:
        body = self._object(request)
        if self.searches_left <= 0:
            return self.refusal(429, "search_quota_exceeded", "Daily search quota exceeded")
        self.searches_left -= 1
        kind = body.get("type", "ondemand")
        if kind not in ("ondemand", "bid", "reserved"):
            raise self.refuse(400, "invalid_request", f"invalid type {kind!r}")
        defaults = {"verified": {"eq": True}, "rentable": {"eq": True}, "rented": {"eq": False}}
        filters = {**defaults, **{name: value for name, value in body.items() if name not in SEARCH_WORDS}}
        disk = Decimal(str(body.get("allocated_storage", 8)))
        found = [as_offer(ask, bid=kind == "bid", disk=disk, now=self.now()) for ask in self._free(kind)]
        found = [offer for offer in found if self._matches(offer, filters)]
        for column, direction in reversed(body.get("order", [])):
            found.sort(key=lambda offer: offer[column], reverse=direction == "desc")
        return Reply(body={"offers": found[: body.get("limit", 64)]})

    def _free(self, kind: str) -> list[Ask]:
        """A machine that somebody bid for can still be had, by a higher bid or at the full price."""
        taken = {contract.ask.id for contract in self.existing() if not contract.is_bid}
        return [ask for ask in self.asks.values() if ask.id not in taken]

    def _matches(self, row: Mapping[str, Any], filters: Mapping[str, Any]) -> bool:
        try:
            return matches(row, filters)
        except ValueError as error:
            raise self.refuse(400, "invalid_request", f"Error in query parameters: {error}") from error

    # --- renting ---------------------------------------------------------------------------------------------------

    @route("PUT", "/api/v0/asks/{id}/?")
    def create(self, request: Request, id: str) -> Reply:
        body = self._object(request)
        ask = self.asks.get(int(id)) if id.isdecimal() else None
        if ask is None:
            raise self.refuse(
                404, "invalid_args", f"error 404/3603: no_such_ask Instance type by id {id} is not available."
            )
        self._check_rental(body, ask)
        if ask.sold_out or ask not in self._free("ondemand"):
            raise self.refuse(
                410,
                "no_such_ask",
                f"error 410/3907: no_such_ask Instance type {id} is no longer available.",
                ask_id=ask.id,
            )
        if self.balance <= 0:
            raise self.refuse(400, "insufficient_credit", "Your account lacks credit; see the billing page.")
        contract = self._contract(body, ask)
        if contract.is_bid and contract.rate < ask.min_bid:
            contract.intended = "stopped"
            said = f"error 400/3540: bid is too low, the minimum is {ask.min_bid}"
            return self.refusal(400, "invalid_price", said, ask_id=ask.id, new_contract=contract.id)
        self._start(contract)
        if not contract.is_bid:
            self._preempt(ask)
        return Reply(body={"success": True, "new_contract": contract.id})

    def _check_rental(self, body: Mapping[str, Any], ask: Ask) -> None:
        args, env = body.get("args", []), body.get("env", {})
        price = body.get("price")
        command = sum(map(len, args)) + len(body.get("args_str") or "") + len(body.get("onstart") or "")
        wrong = (
            (not isinstance(body.get("image"), str), "'image' is required"),
            (body.get("runtype", "ssh") not in RUNTYPES, "unknown runtype"),
            (not isinstance(env, Mapping) or len(json.dumps(env)) > 32768, "env is no object or too long"),
            (command > 4096, "args and onstart are too long"),
            (len(body.get("label") or "") > 256, "label is too long"),
            (not 8 <= body.get("disk", 8) <= ask.disk_space, "disk is too small or too large"),
        )
        for is_wrong, why in wrong:
            if is_wrong:
                raise self.refuse(400, "invalid_args", f"error 400/3467: Invalid args: {why}", ask_id=ask.id)
        if price is not None and not 0.001 <= price <= 128.0:
            raise self.refuse(400, "invalid_price", "Please set a bid price >= 0.001.", ask_id=ask.id)

    def _contract(self, body: Mapping[str, Any], ask: Ask) -> Contract:
        id = 1_000_001 + len(self.contracts)
        price = body.get("price")
        env = dict(body.get("env", {}))
        ports = [int(name.split(":")[1]) for name in env if name.startswith("-p ")]
        contract = Contract(
            id=id,
            ask=ask,
            timeline=Timeline(self.now(), NEVER_STARTED),
            image=body["image"],
            label=body.get("label"),
            disk=Decimal(str(body.get("disk", 8))),
            onstart=body.get("onstart", ""),
            args=list(body.get("args", [])),
            env={name: value for name, value in env.items() if not name.startswith("-p ")},
            rate=ask.dph if price is None else Decimal(str(price)),
            is_bid=price is not None,
            host_ports={port: 40000 + len(self.contracts) * 10 + n for n, port in enumerate(ports)},
        )
        self.contracts[id] = contract
        return contract

    def _start(self, contract: Contract) -> None:
        """Plan its way up."""
        now = self.now()
        contract.intended = "running"
        contract.timeline.say(now, "null")
        contract.status_msg = self.boot_failure
        steps = (("loading", 0.1), ("created", 0.8), ("running", 1.0))[: 2 if self.boot_failure else 3]
        contract.timeline.plan((now + self.boot * part, native) for native, part in steps)
        if self.on_launch is not None:
            self.on_launch(contract)

    def _preempt(self, ask: Ask) -> None:
        """Who pays the full price displaces those who bid."""
        for contract in self.existing():
            if contract.ask is ask and contract.is_bid and contract.native(self.now()) not in OFF:
                contract.timeline.say(self.now(), "stopped")

    # --- machines --------------------------------------------------------------------------------------------------

    @route("GET", "/api/v0/instances/{id}/?")
    def show(self, request: Request, id: str) -> Reply:
        row = as_machine(self._machine(id), self.now())
        # A single machine's environment is shown as a flat list.
        return Reply(body={"instances": {**row, "extra_env": [name for name, _ in row["extra_env"]]}})

    @route("PUT", "/api/v0/instances/{id}/?")
    def manage(self, request: Request, id: str) -> Reply:
        contract, body = self._machine(id), self._object(request)
        state, label = body.get("state"), body.get("label")
        if state not in (None, "stopped", "running") or (state is None and label is None):
            raise self.refuse(400, "invalid_args", "state must be 'stopped' or 'running'")
        if label is not None:
            contract.label = str(label)
        off = contract.native(self.now()) in OFF
        if state == "stopped":
            contract.intended = "stopped"
            if not off:
                contract.timeline.say(self.now(), "stopped")
        elif state == "running" and off:
            contract.intended = "running"
            if not contract.is_bid or contract.rate >= contract.ask.min_bid:
                self._start(contract)
        return Reply(body={"success": True})

    @route("DELETE", "/api/v0/instances/{id}/?")
    def destroy(self, request: Request, id: str) -> Reply:
        contract = self._machine(id)
        contract.ended = self.now()
        if self.on_end is not None:
            self.on_end(contract)
        return Reply(body={"success": True, "msg": "Instance destroyed successfully"})

    @route("GET", "/api/v1/instances/?")
    def instances(self, request: Request) -> Reply:
        filters = self._json(request, "select_filters", "{}")
        for column in filters:
            if column in UNFILTERABLE:
                said = f"Error in query parameters: {column} is not a valid search key"
                raise self.refuse(400, "invalid_request", said)
        listed = self.now() - self.lag
        rows = [as_machine(item, self.now()) for item in self.existing() if item.timeline.began <= listed]
        rows = [row for row in rows if self._matches(row, filters)]
        after, limit = self._after(request), min(PAGE, int(request.query.get("limit", PAGE)))
        left = [row for row in rows if row["id"] > after]
        page = left[: limit if limit > 0 else 5]
        columns = self._json(request, "select_cols", '["*"]')
        shown = page if columns == ["*"] else [{name: row.get(name) for name in columns} for row in page]
        token = token_of(page[-1]["id"]) if len(left) > len(page) else None
        body = {"success": True, "instances_found": len(page), "total_instances": len(rows)}
        return Reply(body={**body, "next_token": token, "instances": shown})

    @route("PUT", "/api/v0/instances/request_logs/{id}/?")
    def request_logs(self, request: Request, id: str) -> Reply:
        contract, body = self._machine(id, error="invalid_id"), self._object(request)
        if body.get("daemon_logs"):
            lines = [f"{contract.native(self.now())} {contract.status_msg or ''}".strip()]
        else:
            lines = self.output.get(contract.id, [])
        name = f"/instance_logs/{len(self._log_at):08x}.log"
        text = "\n".join(lines[-int(body.get("tail", 1000)) :])
        self._log_at[name] = (self.now() + self.cold_log, text)
        host = request.headers.get("host", "127.0.0.1")
        return Reply(body={"success": True, "result_url": f"http://{host}{name}"})

    @route("GET", "/instance_logs/{name}")
    def log(self, request: Request, name: str) -> Reply:
        ready, text = self._log_at.get(request.path, (float("inf"), ""))
        if self.now() < ready:
            return Reply(status=403, raw=b"<Error><Code>AccessDenied</Code></Error>", content_type="application/xml")
        return Reply(raw=text.encode(), content_type="text/plain")

    @route("GET", "/api/v0/charges/?")
    def charges(self, request: Request) -> Reply:
        filters = self._json(request, "select_filters", "{}")
        day = filters.get("day", {})
        if not {"gte", "lte"} <= set(day):
            raise Refused(
                Reply(status=400, body={"success": False, "msg": "Must provide both 'day' gte and lte filters"})
            )
        since, until = float(day["gte"]), min(float(day["lte"]), self.now())
        rows = [contract for contract in self.contracts.values() if contract.timeline.began <= until]
        rows = [contract for contract in rows if contract.ended is None or contract.ended >= since]
        after, limit = self._after(request), min(500, int(request.query.get("limit", 100)))
        left = [contract for contract in rows if contract.id > after]
        page = left[:limit]
        token = token_of(page[-1].id) if len(left) > len(page) else None
        results = [as_charged(contract, since, until) for contract in page]
        body = {"success": True, "count": len(page), "total": len(rows), "next_token": token}
        return Reply(body={**body, "results": results})

    # --- small things ----------------------------------------------------------------------------------------------

    def _object(self, request: Request) -> Mapping[str, Any]:
        if not isinstance(request.body, Mapping):
            raise self.refuse(400, "invalid_request", "Invalid json body")
        return request.body

    def _json(self, request: Request, name: str, default: str) -> Any:
        try:
            return json.loads(request.query.get(name, default))
        except ValueError as error:
            raise self.refuse(400, "invalid_request", f"{name} is not JSON") from error

    def _machine(self, id: str, error: str = "no_such_instance") -> Contract:
        if not id.isdecimal():
            raise self.refuse(400, "invalid_args", "invalid instance_id")
        contract = self.contracts.get(int(id))
        if contract is None or contract.ended is not None:
            raise self.refuse(404, error, "Instance with that ID does not exist.")
        return contract

    def _after(self, request: Request) -> int:
        try:
            return id_after(request.query.get("after_token"))
        except ValueError as error:
            raise self.refuse(400, "invalid_token", "Invalid pagination token") from error
