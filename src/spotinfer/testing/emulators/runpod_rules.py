"""What RunPod refuses before anything is rented: its published schema, as far as a caller of ours can break it, and the
rules between fields that only its prose tells."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .base import Reply

LARGEST_BODY = 102_400
MOST_VARIABLES = 50

FIELDS = frozenset(
    {"name", "image", "gpu", "cpu", "cloud", "dataCenterIds", "disk", "args", "ports", "env", "mounts", "registry"}
    | {"templateId", "globalNetworking", "startJupyter", "startSsh", "entrypoint", "cmd"}
)
"""``entrypoint`` and ``cmd`` are live but not in the published schema."""
GPU_FIELDS = frozenset({"id", "count", "allowedCudaVersions", "minCudaVersion", "minRamPerGpu", "minVcpuCountPerGpu"})
VERSION = re.compile(r"\d+\.\d+")
TITLES: Mapping[int, str] = {
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    413: "Content Too Large",
    422: "Unprocessable Entity",
    429: "Too Many Requests",
}


def problem(
    status: int, detail: str, headers: Mapping[str, str] | None = None, errors: list[str] | None = None
) -> Reply:
    """RFC 9457, as RunPod answers every error."""
    body: dict[str, Any] = {"title": TITLES.get(status, "Error"), "status": status, "detail": detail}
    if errors:
        body["errors"] = errors
    return Reply(status=status, body=body, headers=dict(headers or {}), content_type="application/problem+json")


def check_create(body: Any) -> Reply | None:
    if len(json.dumps(body).encode()) > LARGEST_BODY:
        return problem(413, "request body too large")
    wrong = list(_violations(body))
    if wrong:
        return problem(422, "Request validation failed.", errors=wrong)
    if ("gpu" in body) == ("cpu" in body):
        return problem(400, "exactly one of gpu or cpu must be set")
    if "cpu" in body:
        return problem(400, "CPU pods are not emulated")
    if body["gpu"].get("allowedCudaVersions") and "minCudaVersion" in body["gpu"]:
        return problem(400, "allowedCudaVersions and minCudaVersion are mutually exclusive")
    if {"persistent", "network"} <= set(body.get("mounts", {})):
        return problem(400, "mounts.persistent and mounts.network are mutually exclusive")
    if len(body.get("env", {})) > MOST_VARIABLES:
        return problem(400, f"at most {MOST_VARIABLES} environment variables")
    if "count" not in body["gpu"]:
        return problem(400, "There are no instances currently available")
    return None


def _violations(body: Any) -> Iterator[str]:
    if not isinstance(body, dict):
        yield "$: must be an object"
        return
    for name in sorted(set(body) - FIELDS):
        yield f"$: additional properties {name!r} not allowed"
    if not isinstance(body.get("name"), str) or not body["name"]:
        yield "$.name: required"
    if not isinstance(body.get("image"), str) and "templateId" not in body:
        yield "$.image: required"
    if body.get("cloud", "SECURE") not in ("SECURE", "COMMUNITY"):
        yield "$.cloud: must be SECURE or COMMUNITY"
    if not _whole(body.get("disk", 1), 1):
        yield "$.disk: must be an integer of at least 1"
    for name, kind in (("ports", str), ("dataCenterIds", str), ("entrypoint", str), ("cmd", str)):
        items = body.get(name, [])
        if not isinstance(items, list) or not all(isinstance(item, kind) for item in items):
            yield f"$.{name}: must be an array of strings"
    env = body.get("env", {})
    if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
        yield "$.env: must be an object of strings"
    yield from _gpu_violations(body.get("gpu", {"id": ""}))
    yield from _mount_violations(body.get("mounts", {}))


def _gpu_violations(gpu: Any) -> Iterator[str]:
    if not isinstance(gpu, dict) or not isinstance(gpu.get("id"), str):
        yield "$.gpu.id: required"
        return
    for name in sorted(set(gpu) - GPU_FIELDS):
        yield f"$.gpu: additional properties {name!r} not allowed"
    if not _whole(gpu.get("count", 1), 1):
        yield "$.gpu.count: must be an integer of at least 1"
    for version in (gpu.get("minCudaVersion", "1.0"), *gpu.get("allowedCudaVersions", [])):
        if not isinstance(version, str) or not VERSION.fullmatch(version):
            yield "$.gpu: a CUDA version is major.minor"


def _mount_violations(mounts: Any) -> Iterator[str]:
    if not isinstance(mounts, dict) or set(mounts) - {"persistent", "network"}:
        yield "$.mounts: additional properties not allowed"
        return
    network = mounts.get("network", [])
    if not isinstance(network, list) or len(network) > 1:
        yield "$.mounts.network: at most one"
    elif not all(isinstance(item, dict) and set(item) == {"volumeId", "path"} for item in network):
        yield "$.mounts.network: volumeId and path are required"


def check_query(query: Mapping[str, str]) -> Reply | None:
    """Of the catalogue."""
    include, product = query.get("include"), query.get("product")
    if include not in (None, "AVAILABILITY"):
        return problem(422, "include: must be AVAILABILITY")
    if (include is None) != (product is None) or (include is None and {"count", "cloud"} & set(query)):
        return problem(400, "product is required with include=AVAILABILITY, and filters are valid only with it")
    if product is not None and not set(product.split(",")) <= {"POD", "CLUSTER", "SERVERLESS"}:
        return problem(422, "product: unknown")
    if query.get("cloud", "SECURE") not in ("SECURE", "COMMUNITY"):
        return problem(422, "cloud: must be SECURE or COMMUNITY")
    if not query.get("count", "1").isdecimal() or int(query.get("count", "1")) < 1:
        return problem(422, "count: must be an integer of at least 1")
    return None


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
