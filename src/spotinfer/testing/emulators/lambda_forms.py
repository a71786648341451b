"""The forms of an emulated Lambda Cloud: its types and regions, what it accepts, and how it words an answer."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from .base import Refused, Reply

TAG_KEY = re.compile(r"^[a-z][a-z0-9-:]+$")
HOSTNAME = re.compile(r"^[a-z0-9][0-9a-z-]{0,62}$")
REGIONS = {"us-west-1": "California, USA", "us-east-1": "Virginia, USA", "us-south-1": "Texas, USA"}
SUGGESTIONS = {
    "global/invalid-api-key": "Check your API key.",
    "global/object-does-not-exist": "Check the identifier.",
    "global/quota-exceeded": "Request a higher quota.",
    "firewall-rulesets/firewall-ruleset-in-use": "Terminate the instances that use it.",
    "global/account-inactive": "Activate the account.",
}


def instance_type(name: str, gpu: str, cents: int, specs: tuple[int, int, int, int]) -> dict[str, Any]:
    """``specs``: GPUs, vCPUs, memory and storage in GiB."""
    gpus, vcpus, memory, storage = specs
    return {
        "name": name,
        "description": f"{gpus}x {gpu}" if gpus else f"{vcpus} vCPUs",
        "gpu_description": gpu,
        "price_cents_per_hour": cents,
        "specs": {"vcpus": vcpus, "memory_gib": memory, "storage_gib": storage, "gpus": gpus},
    }


TYPES: tuple[tuple[dict[str, Any], tuple[str, ...]], ...] = (
    (instance_type("gpu_1x_a10", "A10 (24 GB PCIe)", 75, (1, 30, 200, 1400)), ("us-west-1", "us-east-1")),
    (instance_type("gpu_1x_a100_sxm4", "A100 (40 GB SXM4)", 129, (1, 30, 200, 512)), ("us-east-1", "us-south-1")),
    (instance_type("gpu_1x_gh200", "GH200 (96 GB)", 149, (1, 64, 432, 4096)), ("us-east-1",)),
    (instance_type("gpu_8x_h100_sxm5", "H100 (80 GB SXM5)", 2392, (8, 208, 1800, 22528)), ("us-west-1",)),
    (instance_type("gpu_8x_b200_sxm6", "B200 (180 GB SXM6)", 3992, (8, 208, 2900, 22528)), ()),
    (instance_type("cpu_4x_general", "N/A", 20, (0, 4, 16, 100)), ("us-west-1",)),
)
"""Types and where there are some. Prices are of the order of real ones."""


def checked_launch(body: object) -> dict[str, Any]:
    asked = object_of(body)
    keys = asked.get("ssh_key_names")
    tags = asked.get("tags", [])
    good = (
        is_text(asked.get("region_name"), 1, 64)
        and is_text(asked.get("instance_type_name"), 1, 64)
        and isinstance(keys, list)
        and len(keys) == 1
        and is_text(asked.get("name", ""), 0, 64)
        and ("hostname" not in asked or HOSTNAME.fullmatch(asked["hostname"]) is not None)
        and is_text(asked.get("user_data", ""), 0, 1_000_000)
        and "quantity" not in asked  # it is gone from the API; old clients still send it
        and all(TAG_KEY.match(tag["key"]) and len(tag["key"]) <= 55 and len(tag["value"]) <= 128 for tag in tags)
    )
    if not good:
        refuse(400, "global/invalid-parameters", "Invalid request data.")
    return asked


def check_rule(rule: Mapping[str, Any]) -> None:
    ports = rule.get("port_range")
    good = (
        rule.get("protocol") in ("tcp", "udp", "icmp", "all")
        and is_text(rule.get("description"), 0, 128)
        and (
            rule["protocol"] == "icmp"
            or (isinstance(ports, list) and len(ports) == 2 and all(1 <= port <= 65535 for port in ports))
        )
    )
    try:
        ipaddress.IPv4Network(str(rule.get("source_network")))
    except ValueError:
        good = False
    if not good:
        refuse(400, "global/invalid-parameters", "Invalid firewall rule.")


def object_of(body: object) -> dict[str, Any]:
    return body if isinstance(body, dict) else refuse(400, "global/invalid-parameters", "the body must be an object")


def is_text(value: object, least: int, most: int) -> bool:
    return isinstance(value, str) and least <= len(value) <= most


def region_of(name: str) -> dict[str, str]:
    return {"name": name, "description": REGIONS[name]}


def data_reply(value: object) -> Reply:
    return Reply(body={"data": value})


def error_reply(status: int, code: str, message: str) -> Reply:
    error = {"code": code, "message": message}
    if code in SUGGESTIONS:
        error["suggestion"] = SUGGESTIONS[code]
    return Reply(status=status, body={"error": error})


def refuse(status: int, code: str, message: str) -> NoReturn:
    raise Refused(error_reply(status, code, message))
