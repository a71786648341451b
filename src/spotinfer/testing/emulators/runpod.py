"""An emulated RunPod, REST version 2: pods, catalogue, logs and bills, by RunPod's documented rules.

It refuses what the published schema refuses, and also what only experience tells: a create without ``gpu.count`` finds
"no instances", and out of capacity is a 400 in prose. It shares no code with the adapter.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from ...core.clock import Clock
from .base import EmulatedCloud, Refused, Reply, Request, route
from .runpod_market import (
    AMOUNTS,
    HOUR,
    RUNNING,
    EmulatedPod,
    GpuKind,
    buckets,
    catalogue_line,
    invoice,
    number,
    rfc3339,
    unix,
    usual_gpus,
)
from .runpod_rules import check_create, check_query, problem
from .timeline import Timeline

ACTIONS: Mapping[str, tuple[str, ...]] = {
    "PROVISIONING": ("stop", "terminate"),
    "STARTING": ("stop", "restart", "terminate"),
    "RUNNING": ("stop", "restart", "terminate"),
    "EXITED": ("start", "terminate"),
    "ERROR": ("terminate",),
    "TERMINATED": (),
}


class EmulatedRunpod(EmulatedCloud):
    """An account at an emulated RunPod.

    ``boot`` is seconds from the creation to STARTING and from there to RUNNING. ``list_lag`` is how long a new pod is
    missing from the list. ``machine_key_ends``: whether the key that a pod gets may delete it; nobody has verified
    that on version 2. ``per_minute`` is the limit of calls, None for no limit. ``address`` is where pods are reached.
    """

    origin = "http://127.0.0.1/v2"
    address = "203.0.113.7"

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        boot: tuple[float, float] = (2.0, 5.0),
        list_lag: float = 0.0,
        balance: Decimal = Decimal(1000),
        machine_key_ends: bool = True,
        per_minute: int | None = None,
    ) -> None:
        super().__init__(clock)
        self.boot, self.list_lag, self.balance, self.per_minute = boot, list_lag, balance, per_minute
        self.machine_key_ends = machine_key_ends
        self.gpus = usual_gpus()
        self.volumes: dict[str, str] = {}
        """Network volumes: id -> data centre."""
        self.pods: dict[str, EmulatedPod] = {}
        self.said: dict[str, str] = {}
        """Pods whose status a test has named."""

    def existing(self) -> list[EmulatedPod]:
        """Pods that are not terminated."""
        return [pod for pod in self.pods.values() if self.status(pod) != "TERMINATED"]

    def status(self, pod: EmulatedPod) -> str:
        return self.said.get(pod.id) or pod.timeline.at(self.now())

    def say(self, id: str, status: str) -> None:
        """Call the pod's status so from now on, whatever happens to it."""
        self.said[id] = status

    def no_capacity(self) -> None:
        for kind in self.gpus:
            kind.stock = dict.fromkeys(kind.stock, 0)

    # --- who may call ----------------------------------------------------------------------------------------------

    def authorise(self, request: Request) -> Reply | None:
        if secrets.compare_digest(request.key, self.token):
            return None
        own = next((pod for pod in self.existing() if secrets.compare_digest(request.key, pod.machine_key)), None)
        if own is None:
            return problem(401, "invalid API key" if request.key else "missing bearer token")
        if self.machine_key_ends and request.path == f"/v2/pods/{own.id}" and request.method in ("GET", "DELETE"):
            return None
        return problem(403, "access denied")

    def admit(self, request: Request) -> Reply | None:
        if self.per_minute is not None:
            recent = [call for call in self.calls if call.at > self.now() - 60 and call.acted]
            if len(recent) >= self.per_minute:
                wait = max(1, int(recent[0].at + 60 - self.now()) + 1)
                limit = {"Retry-After": str(wait), "RateLimit": f'"minute";r=0;t={wait}'}
                return problem(429, "rate limit exceeded for the minute window", limit)
        return problem(422, "the body is no JSON") if not request.readable else None

    def problem(self, status: int, message: str) -> Reply:
        return problem(status, message)

    # --- catalogue -------------------------------------------------------------------------------------------------

    @route("GET", "/v2/catalog/gpus")
    def catalogue(self, request: Request) -> Reply:
        refused = check_query(request.query)
        if refused is not None:
            return refused
        cloud, count = request.query.get("cloud", "SECURE"), int(request.query.get("count", "1"))
        told = request.query.get("include") == "AVAILABILITY"
        return Reply(body={"gpus": [catalogue_line(kind, cloud, count, told) for kind in self.gpus]})

    @route("GET", "/v2/network-volumes/{id}")
    def volume(self, request: Request, id: str) -> Reply:
        if id not in self.volumes:
            return problem(404, "network volume not found")
        place = self.volumes[id]
        return Reply(body={"id": id, "name": "data", "size": 100, "dataCenter": place, "type": "STANDARD"})

    # --- pods ------------------------------------------------------------------------------------------------------

    @route("POST", "/v2/pods")
    def create(self, request: Request) -> Reply:
        body = request.body
        refused = check_create(body)
        if refused is not None:
            return refused
        wanted, cloud = body["gpu"], body.get("cloud", "SECURE")
        kind = next((kind for kind in self.gpus if kind.id == wanted["id"]), None)
        if kind is None:
            return problem(400, f"unknown GPU type {wanted['id']}")
        place = self._place(kind, cloud, body)
        rate = kind.price(cloud) * wanted["count"]
        if self.balance - self.owed() < rate:
            return problem(402, "insufficient balance: one hour of this pod is needed")
        kind.stock[cloud, place] -= wanted["count"]
        pod = self._rent(body, rate, (cloud, place))
        return Reply(status=201, body=self._shown(pod))

    def _place(self, kind: GpuKind, cloud: str, body: dict[str, Any]) -> str:
        """A data centre with enough free GPUs, or the refusal that RunPod words like this whatever the reason."""
        allowed = body.get("dataCenterIds") or [place for _, place in kind.stock]
        for mount in body.get("mounts", {}).get("network", []):
            if mount["volumeId"] not in self.volumes:
                raise Refused(problem(404, "network volume not found"))
            allowed = [place for place in allowed if place == self.volumes[mount["volumeId"]]]
        floor = body["gpu"].get("minCudaVersion", "0.0")
        new_enough = any(number(version) >= number(floor) for version in kind.cuda)
        for (where, place), free in kind.stock.items():
            if where == cloud and place in allowed and new_enough and free >= body["gpu"]["count"]:
                return place
        raise Refused(problem(400, "There are no instances currently available"))

    def _rent(self, body: dict[str, Any], rate: Decimal, place: tuple[str, str]) -> EmulatedPod:
        now = self.now()
        timeline = Timeline(now, "PROVISIONING")
        timeline.plan([(now + self.boot[0], "STARTING"), (now + sum(self.boot), "RUNNING")])
        pod = EmulatedPod(
            id=secrets.token_hex(7),
            body=body,
            rate=rate,
            place=place,
            timeline=timeline,
            machine_key=f"rpa_{secrets.token_hex(20)}",
        )
        pod.lines.append((now, "system", f"create container {body['image']}"))
        self.pods[pod.id] = pod
        return pod

    @route("GET", "/v2/pods")
    def list_all(self, request: Request) -> Reply:
        listed = self.now() - self.list_lag
        found = [pod for pod in self.existing() if pod.timeline.began <= listed]
        return Reply(body={"pods": [self._shown(pod) for pod in found]})

    @route("GET", "/v2/pods/{id}")
    def show(self, request: Request, id: str) -> Reply:
        return Reply(body=self._shown(self._pod(id)))

    @route("DELETE", "/v2/pods/{id}")
    def delete(self, request: Request, id: str) -> Reply:
        self._end(self._pod(id))
        return Reply(status=204)

    @route("POST", "/v2/pods/{id}/action")
    def act(self, request: Request, id: str) -> Reply:
        pod, now = self._pod(id), self.now()
        action = request.body.get("action") if isinstance(request.body, dict) else None
        if action not in ("start", "stop", "restart", "terminate") or set(request.body) != {"action"}:
            return problem(422, "$.action: must be one of start, stop, restart, terminate")
        if action not in ACTIONS.get(self.status(pod), ()):
            return problem(409, f"cannot {action} a pod that is {self.status(pod)}")
        if action == "terminate":
            self._end(pod)
            return Reply(status=204)
        kind = next(kind for kind in self.gpus if kind.id == pod.body["gpu"]["id"])
        if action == "stop":
            kind.stock[pod.place] += pod.gpus
            pod.timeline.say(now, "EXITED")
        else:
            if action == "start":
                if kind.stock[pod.place] < pod.gpus:
                    return problem(400, "not enough free GPUs on the host machine to start this pod")
                kind.stock[pod.place] -= pod.gpus
            pod.timeline.say(now, "STARTING")
            pod.timeline.plan([(now + self.boot[1], "RUNNING")])
        return Reply(body=self._shown(pod))

    def _end(self, pod: EmulatedPod) -> None:
        if pod.timeline.at(self.now()) in RUNNING:
            kind = next(kind for kind in self.gpus if kind.id == pod.body["gpu"]["id"])
            kind.stock[pod.place] += pod.gpus
        self.said.pop(pod.id, None)
        pod.timeline.say(self.now(), "TERMINATED")

    def _pod(self, id: str) -> EmulatedPod:
        pod = self.pods.get(id)
        if pod is None or (self.status(pod) == "TERMINATED" and id not in self.said):
            raise Refused(problem(404, "pod not found"))
        return pod

    def _shown(self, pod: EmulatedPod) -> dict[str, Any]:
        status, body = self.status(pod), pod.body
        running = status == "RUNNING"
        return {
            "id": pod.id,
            "name": pod.name,
            "status": status,
            "actions": [*ACTIONS.get(status, ())],
            "image": body["image"],
            "args": body.get("args", ""),
            "disk": body.get("disk", 20),
            "mounts": body.get("mounts", {}),
            "ports": body.get("ports", []),
            "env": body.get("env", {}),
            "registry": None,
            "gpu": {"id": body["gpu"]["id"], "count": pod.gpus},
            "cloud": pod.place[0],
            "dataCenterId": pod.place[1],
            "cudaVersion": "13.0",
            "ssh": {"proxy": None, "direct": None},
            "template": None,
            "cost": float(pod.rate) if status in RUNNING else 0.0,
            "locked": False,
            "globalNetworking": {"enabled": False},
            "runtime": {"uptime": 1, "gpus": [], "ports": self._ports(pod)} if running else None,
            "createdAt": rfc3339(pod.timeline.began),
            "startedAt": rfc3339(pod.timeline.since(self.now())) if running else None,
        }

    def _ports(self, pod: EmulatedPod) -> list[dict[str, Any]]:
        found = []
        for entry in pod.body.get("ports", []):
            private, kind = entry.split("/")
            public = pod.ports.setdefault(int(private), 40000 + secrets.randbelow(20000))
            found.append({"private": int(private), "public": public, "type": kind, "ip": self.address})
        return found

    @route("GET", "/v2/pods/{id}/logs")
    def logs(self, request: Request, id: str) -> Reply:
        pod = self._pod(id)
        tail, source = int(request.query.get("tail", "100")), request.query.get("source")
        if not 0 <= tail <= 5000:
            return problem(422, "tail must be from 0 to 5000")
        lines = [line for line in pod.lines if source in (None, line[1])][-tail:] if tail else []
        events = (
            f"id: {rfc3339(at)}\ndata: {json.dumps({'ts': rfc3339(at), 'source': where, 'line': text})}\n\n"
            for at, where, text in lines
        )
        return Reply(raw="".join(events).encode(), content_type="text/event-stream")

    # --- bills -----------------------------------------------------------------------------------------------------

    def invoice(self, pod: EmulatedPod, start: float, end: float) -> tuple[Decimal, Decimal]:
        """Dollars for compute and for the container disk within a time."""
        return invoice(pod, start, end)

    def owed(self) -> Decimal:
        now = self.now()
        return sum((part for pod in self.pods.values() for part in invoice(pod, 0, now)), Decimal(0))

    @route("GET", "/v2/billing/pods")
    def billing(self, request: Request) -> Reply:
        size = {"hour": HOUR, "day": 24 * HOUR}.get(request.query.get("bucketSize", "day"))
        if size is None:
            return problem(422, "bucketSize must be hour or day here")
        start = unix(request.query.get("startTime"), self.now() - 30 * 24 * HOUR) // size * size
        end = -(-unix(request.query.get("endTime"), self.now()) // size) * size
        only = request.query.get("podId")
        pods = [pod for pod in self.pods.values() if only in (None, pod.id)]
        records = [record for pod in pods for record in buckets(pod, start, end, size, self.now())]
        totals = {name: sum(record[name] for record in records) for name in AMOUNTS}
        query = {
            "startTime": rfc3339(start),
            "endTime": rfc3339(end),
            "bucketSize": "hour" if size == HOUR else "day",
            "podId": only,
        }
        metadata = {"query": query, "recordCount": len(records), "uniquePodCount": len(pods), "totals": totals}
        return Reply(body={"records": records, "metadata": metadata})
