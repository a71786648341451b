"""The forms in which AWS is asked and answers: two protocols, two kinds of errors, one signature."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsCall:
    """One request: what was asked in which region, and with which parameters."""

    service: str
    region: str
    action: str
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False)
    signed_with: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    content_type: str = "text/xml"


def read_call(environ: Mapping[str, Any], content: bytes) -> AwsCall:
    """Who asks for what, from the signature's scope and either protocol of AWS."""
    scope = str(environ.get("HTTP_AUTHORIZATION", "")).partition("Credential=")[2].partition(",")[0].split("/")
    key, region, service = (scope[0], scope[2], scope[3]) if len(scope) == 5 else ("", "", "")
    target = str(environ.get("HTTP_X_AMZ_TARGET", ""))
    if target:
        given = {
            name: value if isinstance(value, str) else json.dumps(value) for name, value in json.loads(content).items()
        }
        action = target.rpartition(".")[2]
    else:
        given = {name: values[0] for name, values in parse_qs(content.decode(), keep_blank_values=True).items()}
        action = given.get("Action", "")
    return AwsCall(service=service, region=region, action=action, parameters=given, signed_with=key)


def product(attributes: Mapping[str, str], price: str, unit: str) -> str:
    """An entry of the price list, in AWS's form: a text that holds JSON. There are tiers without a price in it, too."""
    priced = {"unit": unit, "pricePerUnit": {"USD": str(Decimal(price))}}
    free = {"unit": unit, "pricePerUnit": {"USD": "0.0000000000"}}
    terms = {"OnDemand": {"A.1": {"priceDimensions": {"A.1.0": free, "A.1.1": priced}}}}
    return json.dumps({"product": {"attributes": dict(attributes)}, "terms": terms})


def xml(name: str, inner: str) -> Reply:
    return Reply(200, f'<{name} xmlns="{NAMESPACE}"><requestId>emulated</requestId>{inner}</{name}>'.encode())


def as_json(body: Mapping[str, object], status: int = 200) -> Reply:
    return Reply(status, json.dumps(body).encode(), "application/x-amz-json-1.1")


def refusal(call: AwsCall, code: str, message: str, status: int) -> Reply:
    """An error in the form of the service that was called."""
    if call.service not in ("ec2", "sts", ""):
        return as_json({"__type": code, "message": message}, status)
    inner = f"<Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error>"
    body = f"<ErrorResponse>{inner}</ErrorResponse>" if call.service == "sts" else f"<Errors>{inner}</Errors>"
    return Reply(status, f"<Response>{body}<RequestID>emulated</RequestID></Response>".encode())


def send(start_response: Callable[..., Any], reply: Reply, headers: Mapping[str, str] | None = None) -> list[bytes]:
    given = [("Content-Type", reply.content_type), ("Content-Length", str(len(reply.body))), *(headers or {}).items()]
    start_response(f"{reply.status} Emulated", given)
    return [reply.body]


def broken_off(environ: Mapping[str, Any], body: bytes) -> list[bytes]:
    """Send half of it, or nothing at all, and hang up."""
    connection: socket.socket = environ["werkzeug.socket"]
    if body:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        connection.sendall(head + body[: len(body) // 2])
    connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionError("hung up on purpose")
