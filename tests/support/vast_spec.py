"""The official description of Vast's interface judges every call and answer; what is known to be wrong in it is listed.

It is not part of this repository: ``SPOTINFER_SHARED`` says where it is, by default ``../shared`` beside the checkout.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from spotinfer.testing.emulators.base import Reply, Request

ROOT = Path(__file__).resolve().parents[2]

DEVIATIONS: Mapping[tuple[str, str, str], str] = {
    ("PUT /api/v0/asks/{id}", "request", "env"): "a string there; the service's own tools and its prose send an object",
    ("GET /api/v0/instances/{id}", "200", "ports"): "a list of numbers there; an object here, as in /api/v1/instances",
    ("PUT /api/v0/asks/{id}", "400", "error"): "its enumeration lacks the refusal for want of credit",
}
"""(operation, "request" or the status, top-level field) -> why it is not checked there."""
UNDOCUMENTED: Mapping[tuple[str, str], str] = {
    ("GET /api/v0/instances/{id}", "404"): "what becomes of a machine that was destroyed is not described",
    ("PUT /api/v0/instances/request_logs/{id}", "400"): "an id that is no number",
}
PLAIN_TEXT = ("429",)
"""Field reports have these as plain text, not as the object that is described."""
ANYWHERE = ("401", "403", "429")
"""The frame around all operations answers these, whether an operation lists them or not."""


def location() -> Path:
    shared = os.environ.get("SPOTINFER_SHARED")
    return (Path(shared) if shared else ROOT.parent / "shared") / "specs" / "vast" / "openapi.yaml"


def missing() -> str | None:
    """Why nothing can be judged here; None where it can."""
    for module in ("yaml", "jsonschema"):
        if find_spec(module) is None:
            return f"{module} is not installed"
    if not location().exists():
        return f"the official description of Vast's interface is not at {location()} (set SPOTINFER_SHARED)"
    return None


def required() -> None:
    """Skip where nothing can be judged."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)


@lru_cache(maxsize=1)
def document() -> dict[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with location().open(encoding="utf-8") as file:
        return yaml.load(file, Loader=loader)


class Judge:
    """An observer of the emulator: raises for what the description does not allow. ``seen`` are the operations."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, str]] = set()
        self._paths = document()["paths"]
        self._patterns = {path: re.compile(re.sub(r"\{\w+\}", "([^/]+)", path)) for path in self._paths}

    def __call__(self, request: Request, reply: Reply) -> None:
        if request.path.startswith("/instance_logs/"):
            return  # another company's storage
        name, operation = self._operation(request)
        self.seen.add((name, str(reply.status)))
        problems = [*self._asked(name, operation, request), *self._answered(name, operation, reply)]
        assert not problems, f"{name}: {problems}"

    def _operation(self, request: Request) -> tuple[str, dict[str, Any]]:
        path = request.path.rstrip("/")  # the service's own tools send a slash at the end, the description has none
        for template in sorted(self._patterns, key=lambda item: item.count("{")):
            if self._patterns[template].fullmatch(path) and request.method.lower() in self._paths[template]:
                return f"{request.method} {template}", self._paths[template][request.method.lower()]
        raise AssertionError(f"{request.method} {path} is not described")

    def _asked(self, name: str, operation: dict[str, Any], request: Request) -> list[str]:
        described = {item["name"]: item for item in operation.get("parameters", []) if item["in"] == "query"}
        problems = [f"parameter {key} is not described" for key in request.query if key not in described]
        for key, item in described.items():
            if item.get("required") and key not in request.query:
                problems.append(f"parameter {key} is missing")
            elif key in request.query:
                problems += _errors(item["schema"], _typed(request.query[key], item["schema"]), (name, "request"))
        body = operation.get("requestBody")
        if body is not None and request.body is not None:
            problems += _errors(_schema(body), request.body, (name, "request"))
        elif body is not None and body.get("required"):
            problems.append("the body is missing")
        return problems

    def _answered(self, name: str, operation: dict[str, Any], reply: Reply) -> list[str]:
        status = str(reply.status)
        if (name, status) in UNDOCUMENTED or (status in PLAIN_TEXT and reply.raw is not None):
            return []
        described = operation["responses"].get(status)
        if described is None:
            return [] if status in ANYWHERE else [f"status {status} is not described"]
        return _errors(_schema(described), reply.body, (name, status))


def _schema(part: dict[str, Any]) -> dict[str, Any]:
    return part["content"]["application/json"]["schema"]


def _typed(text: str, schema: dict[str, Any]) -> object:
    if schema.get("type") == "integer":
        return int(text)
    return text == "true" if schema.get("type") == "boolean" else text


def _errors(schema: dict[str, Any], value: object, where: tuple[str, str]) -> list[str]:
    from jsonschema import Draft202012Validator

    whole = {**schema, "components": document()["components"]}
    found = []
    for error in Draft202012Validator(whole).iter_errors(value):
        path = [part for part in error.absolute_path if isinstance(part, str) and part != "instances"]
        if (*where, path[0] if path else "") not in DEVIATIONS:
            found.append(f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}")
    return found


def example(schema: dict[str, Any]) -> Any:
    """The value that a schema's own examples make up."""
    if "$ref" in schema:
        return example(document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    if "example" in schema:
        return schema["example"]
    if "properties" in schema:
        return {name: example(part) for name, part in schema["properties"].items()}
    return [example(schema["items"])] if "items" in schema else None
