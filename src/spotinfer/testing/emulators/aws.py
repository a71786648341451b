"""EC2 for tests: moto's server on loopback, and in front of it what moto lacks or does otherwise than AWS.

moto (``moto[server,ec2,ssm]``) keeps the machines. In front of it stand: a random key that is demanded, the
ClientToken, spot prices and the price list, wildcards in the filter of offerings, the Deep Learning AMI's parameter,
quotas, refusals by error code, faults on demand, and what AWS refuses and moto does not (to stop a one-time spot
machine, to remove a security group in use).

    with AwsEmulator() as cloud:
        adapter = AwsProvider.from_options(cloud.options(), clock=WallClock())

moto's machines are kept per process: two emulators in one process show the same ones.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ...core.secret import Secret
from .aws_protocol import AwsCall, Reply, as_json, broken_off, product, read_call, refusal, send, xml
from .fault import FOREVER, Fault

ACCOUNT = "123456789012"  # moto's own
REGIONS = ("us-east-1", "us-west-2")
ZONES = ("a", "b")
IMAGE = "ami-dca37ea5"
"""One of moto's images: it stands for the newest Deep Learning AMI."""
SLOW_S = 3.0
"""What "never answers" means here; use an adapter with a shorter time-out."""
SPOT_PRICES: Mapping[str, str] = {
    "g6.xlarge": "0.3012",
    "g6.12xlarge": "1.9204",
    "p5.48xlarge": "19.75",
    "g5g.xlarge": "0.13",
}
LIST_PRICES: Mapping[str, str] = {"g6.xlarge": "0.8048", "g6.12xlarge": "4.6016", "p5.48xlarge": "55.04"}
DISK_PRICE = "0.08"
PAGE = 3
"""Entries of a page of spot prices: small, so that following pages is always tried."""


class AwsEmulator:
    """``regions`` are those that the account has enabled. Prices are of this emulator only."""

    def __init__(self, regions: Sequence[str] = REGIONS) -> None:
        self.regions = tuple(regions)
        self.access_key = f"AKIA{secrets.token_hex(8).upper()}"
        self.secret_key = secrets.token_urlsafe(30)
        self.spot_prices = dict(SPOT_PRICES)
        self.list_prices = dict(LIST_PRICES)
        self.quotas: dict[str, float] = {}
        self.calls: list[AwsCall] = []
        self._faults: list[Fault] = []
        self._refusals: dict[str, list[tuple[str, int]]] = {}
        self._tokens: dict[tuple[str, str], tuple[str, Reply]] = {}
        self._renting, self._healed = threading.Lock(), threading.Event()
        self._answers: Mapping[str, Callable[[AwsCall], Reply]] = {
            "DescribeRegions": self._describe_regions,
            "DescribeInstanceTypeOfferings": self._offerings,
            "DescribeSpotPriceHistory": self._spot_prices,
            "GetParameter": self._parameter,
            "GetProducts": self._products,
            "GetServiceQuota": self._quota,
        }

    # --- life ------------------------------------------------------------------------------------------------------

    def __enter__(self) -> AwsEmulator:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        from moto.moto_api._internal.models import moto_api_backend
        from moto.moto_server.werkzeug_app import (
            DomainDispatcherApplication,
            MotoRequestHandler,
            create_backend_app,
        )
        from werkzeug.serving import make_server

        class Quiet(MotoRequestHandler):  # type: ignore[misc, unused-ignore]
            def log(self, type: str, message: str, *args: Any) -> None:
                """moto's server prints every request."""

        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._wsgi, threaded=True, request_handler=Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        moto_api_backend.reset()
        self.reset()

    def stop(self) -> None:
        self.heal()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reset(self) -> None:
        """An empty account. moto's own reset would make the network of every region anew: half a second."""
        for region in self.regions:
            self._backend(region).reservations.clear()
            for group in self.groups(region):
                self._backend(region).delete_security_group(group_id=group.id)
        self.heal()
        self._tokens.clear()
        self.calls.clear()
        self.spot_prices, self.list_prices, self.quotas = dict(SPOT_PRICES), dict(LIST_PRICES), {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def options(self, **more: object) -> dict[str, object]:
        """What :meth:`AwsProvider.from_options` needs to come here."""
        keys = {"access_key": self.access_key, "secret_key": Secret(self.secret_key), "endpoint_url": self.url}
        return {**keys, "regions": self.regions[:1], **more}

    # --- what a test arranges --------------------------------------------------------------------------------------

    def inject(self, fault: Fault) -> None:
        """Its ``method`` is ``POST`` and its ``path`` the action, for example ``RunInstances``."""
        self._healed.clear()
        self._faults.append(fault)

    def refuse(self, action: str, code: str, *, times: int = 1, status: int = 400) -> None:
        """Answer the next calls of ``action`` with AWS's error ``code``."""
        self._refusals.setdefault(action, []).extend([(code, status)] * times)

    def heal(self) -> None:
        self._faults.clear()
        self._refusals.clear()
        self._healed.set()

    def machines(self) -> list[Any]:
        """moto's machines that are not terminated, in all regions."""
        found = [machine for region in self.regions for machine in self._known(region)]
        return [machine for machine in found if machine.state != "terminated"]

    def keys(self) -> list[str]:
        """The key of each machine that exists."""
        return [str(tags(machine).get("spotinfer:key", "")) for machine in self.machines()]

    def machine(self, id: str) -> Any:
        """moto's machine by our id, ``region/i-…``."""
        region, _, instance = id.partition("/")
        return self._backend(region).get_instance(instance)

    def groups(self, *regions: str) -> list[Any]:
        """The security groups besides the default ones."""
        found = [group for name in regions or self.regions for group in self._backend(name).describe_security_groups()]
        return [group for group in found if group.name != "default"]

    def asked(self, action: str) -> list[AwsCall]:
        return [call for call in self.calls if call.action == action]

    # --- answering -------------------------------------------------------------------------------------------------

    def _wsgi(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        content = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        call = read_call(environ, content)
        self.calls.append(call)
        fault = self._next_fault(call.action)
        if fault is not None:
            if fault.after:
                self._act(call, environ, content)
            if fault.slow:
                self._healed.wait(min(fault.slow, SLOW_S))
            if 0 < fault.slow < FOREVER:
                return send(start_response, self._act(call, environ, content))
            if fault.half:
                return broken_off(environ, self._act(call, environ, content).body)
            if fault.status is None:
                return broken_off(environ, b"")
            words = f"injected {fault.status} {self.access_key} {content.decode(errors='replace')}"
            reply = refusal(call, f"Injected{fault.status}", words if fault.echo else "injected", fault.status)
            return send(start_response, reply, fault.headers)
        return send(start_response, self._act(call, environ, content))

    def _next_fault(self, action: str) -> Fault | None:
        for index, fault in enumerate(self._faults):
            if fault.matches("POST", action):
                left = fault.less()
                self._faults[index : index + 1] = [left] if left is not None else []
                return fault
        return None

    def _act(self, call: AwsCall, environ: dict[str, Any], content: bytes) -> Reply:
        if call.signed_with != self.access_key:
            return refusal(call, "AuthFailure", "AWS was not able to validate the provided access credentials", 401)
        if self._refusals.get(call.action):
            code, status = self._refusals[call.action].pop(0)
            return refusal(call, code, f"injected {code}", status)
        if call.action in self._answers:
            return self._answers[call.action](call)
        why = self._forbidden(call)
        if why is not None:
            return refusal(call, *why, 400)
        if call.action == "RunInstances":
            return self._rent(call, environ, content)
        if call.action == "TerminateInstances" and (ended := self._ended(call)) is not None:
            return ended
        return self._ask_moto(environ, content)

    def _rent(self, call: AwsCall, environ: dict[str, Any], content: bytes) -> Reply:
        """The same token and the same request are the same machine."""
        token = call.parameters.get("ClientToken", "")
        asked = json.dumps(call.parameters, sort_keys=True)
        with self._renting:
            before = self._tokens.get((call.region, token))
            if before is None:
                reply = self._ask_moto(environ, content)
                if reply.status == 200 and token:
                    self._tokens[call.region, token] = (asked, reply)
                return reply
        if before[0] != asked:
            return refusal(call, "IdempotentParameterMismatch", "the token was used with other parameters", 400)
        return before[1]

    def _forbidden(self, call: AwsCall) -> tuple[str, str] | None:
        """What AWS refuses and moto allows."""
        if call.action == "StopInstances":
            machines = {machine.id: machine for machine in self._known(call.region)}
            asked = [machines.get(value) for name, value in call.parameters.items() if name.startswith("InstanceId")]
            if any(machine is not None and machine.lifecycle == "spot" for machine in asked):
                return "UnsupportedOperation", "You can't stop a Spot Instance of a one-time request"
        if call.action == "DeleteSecurityGroup":
            group = call.parameters.get("GroupId")
            if any(group in groups_of(machine) for machine in self.machines()):
                return "DependencyViolation", f"resource {group} has a dependent object"
        return None

    def _ended(self, call: AwsCall) -> Reply | None:
        """To end what has ended is no error at AWS; moto looks for its interface in vain."""
        id = call.parameters.get("InstanceId.1", "")
        if not any(machine.id == id and machine.state == "terminated" for machine in self._known(call.region)):
            return None
        state = "<code>48</code><name>terminated</name>"
        item = (
            f"<instanceId>{id}</instanceId><currentState>{state}</currentState><previousState>{state}</previousState>"
        )
        return xml("TerminateInstancesResponse", f"<instancesSet><item>{item}</item></instancesSet>")

    def _known(self, region: str) -> list[Any]:
        return [machine for held in self._backend(region).reservations.values() for machine in held.instances]

    def _ask_moto(self, environ: dict[str, Any], content: bytes) -> Reply:
        import io

        heard: list[tuple[str, list[tuple[str, str]]]] = []
        # moto must not find what an earlier reading of the body left in the environment.
        fresh = {name: value for name, value in environ.items() if not name.startswith("werkzeug.request")}
        answer = self._moto({**fresh, "wsgi.input": io.BytesIO(content)}, lambda s, h, e=None: heard.append((s, h)))
        body = b"".join(answer)
        status, headers = heard[0]
        return Reply(int(status.split()[0]), body, dict(headers).get("Content-Type", "text/xml"))

    # --- what moto lacks -------------------------------------------------------------------------------------------

    def _describe_regions(self, call: AwsCall) -> Reply:
        items = "".join(
            f"<item><regionName>{name}</regionName><optInStatus>opt-in-not-required</optInStatus></item>"
            for name in self.regions
        )
        return xml("DescribeRegionsResponse", f"<regionInfo>{items}</regionInfo>")

    def _offerings(self, call: AwsCall) -> Reply:
        patterns = [value for name, value in call.parameters.items() if name.startswith("Filter.1.Value.")]
        items = "".join(
            f"<item><instanceType>{item['InstanceType']}</instanceType><locationType>availability-zone</locationType>"
            f"<location>{item['Location']}</location></item>"
            for item in self._backend(call.region).describe_instance_type_offerings("availability-zone")
            if any(fnmatchcase(item["InstanceType"], pattern) for pattern in patterns)
        )
        return xml(
            "DescribeInstanceTypeOfferingsResponse", f"<instanceTypeOfferingSet>{items}</instanceTypeOfferingSet>"
        )

    def _spot_prices(self, call: AwsCall) -> Reply:
        asked = [value for name, value in call.parameters.items() if name.startswith("InstanceType.")]
        start = call.parameters.get("StartTime", "2026-01-01T00:00:00Z")
        rows = [
            f"<item><instanceType>{type}</instanceType><productDescription>Linux/UNIX</productDescription>"
            f"<spotPrice>{self.spot_prices[type]}</spotPrice><timestamp>{start}</timestamp>"
            f"<availabilityZone>{call.region}{zone}</availabilityZone></item>"
            for type in asked
            if type in self.spot_prices
            for zone in ZONES
        ]
        first = int(call.parameters.get("NextToken") or 0)
        more = str(first + PAGE) if first + PAGE < len(rows) else ""
        items = "".join(rows[first : first + PAGE])
        return xml(
            "DescribeSpotPriceHistoryResponse",
            f"<spotPriceHistorySet>{items}</spotPriceHistorySet><nextToken>{more}</nextToken>",
        )

    def _parameter(self, call: AwsCall) -> Reply:
        name = call.parameters.get("Name", "")
        if not name.startswith("/aws/service/deeplearning/ami/"):
            return refusal(call, "ParameterNotFound", f"Parameter {name} not found.", 400)
        return as_json({"Parameter": {"Name": name, "Type": "String", "Value": IMAGE, "Version": 7}})

    def _products(self, call: AwsCall) -> Reply:
        wanted = {item["Field"]: item["Value"] for item in json.loads(call.parameters.get("Filters", "[]"))}
        if wanted.get("volumeApiName") == "gp3":
            found = [product({"volumeApiName": "gp3"}, DISK_PRICE, "GB-Mo")]
        else:
            found = [product({"instanceType": type}, price, "Hrs") for type, price in self.list_prices.items()]
        return as_json({"FormatVersion": "aws_v1", "PriceList": found})

    def _quota(self, call: AwsCall) -> Reply:
        code = call.parameters.get("QuotaCode", "")
        return as_json({"Quota": {"ServiceCode": "ec2", "QuotaCode": code, "Value": self.quotas.get(code, 0.0)}})

    def _backend(self, region: str) -> Any:
        from moto.backends import get_backend

        return get_backend("ec2")[ACCOUNT][region]


def tags(machine: Any) -> dict[str, str]:
    return {str(tag["key"]): str(tag["value"]) for tag in machine.get_tags()}


def groups_of(machine: Any) -> set[str]:
    return {str(group.id) for nic in machine.nics.values() for group in nic.group_set}
