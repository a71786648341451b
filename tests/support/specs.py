"""The clouds' official specifications, where they are beside the repository: every call of a test is held against them,
in both directions. They are fixtures of ours and not part of the package."""

from __future__ import annotations

import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from spotinfer.testing.emulators.base import EmulatedCloud, Reply, Request

ROOT = Path(os.environ.get("SPOTINFER_SHARED") or Path(__file__).parents[3] / "shared") / "specs"
ABSENT = f"the official specifications are not at {ROOT} (SPOTINFER_SHARED names another place)"
URN = "urn:spec"


def specification(name: str) -> Specification | None:
    """The OpenAPI 3.1 document ``name`` below ``specs``; None where it is absent."""
    path = ROOT / name
    return _read(path) if path.exists() else None


def validated(cloud: EmulatedCloud, name: str, *, unmodelled: frozenset[int] = frozenset({429})) -> None:
    """Hold every call and its true answer against the specification, where there is one. Statuses in ``unmodelled``
    are answered by real clouds and missing in their documents. A violation fails the test that made the call."""
    spec = specification(name)
    if spec is not None:
        cloud.observers.append(lambda request, reply: spec.check(request, reply, unmodelled=unmodelled))


class Specification:
    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self._registry = Registry().with_resource(URN, Resource(contents=document, specification=DRAFT202012))
        self._paths = [(re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), path) for path in document["paths"]]
        self._validators: dict[str, Draft202012Validator] = {}

    def check(self, request: Request, reply: Reply, *, unmodelled: frozenset[int] = frozenset()) -> None:
        """Raises ``AssertionError`` with the first thing that the specification does not allow."""
        if not self.answers_only(request, reply):
            self.check_request(request.method, request.path, request.body)
        if reply.status not in unmodelled:
            self.check_reply(request.method, request.path, reply.status, json.loads(reply.content() or b"null"))

    def answers_only(self, request: Request, reply: Reply) -> bool:
        """A call that the cloud refused as wrong was meant to be wrong."""
        return reply.status in (400, 404, 405, 422) and self._template(request.path) is None

    def check_request(self, method: str, path: str, body: object) -> None:
        where, operation = self._operation(method, path)
        asked = operation.get("requestBody")
        if asked is None:
            assert body is None, f"{method} {path} takes no body"
            return
        schema = f"{where}/requestBody/content/application~1json/schema"
        self._validate(schema, body, f"{method} {path}")
        known = operation["requestBody"]["content"]["application/json"]["schema"].get("properties")
        if known is not None and isinstance(body, dict):
            assert not set(body) - set(known), f"{method} {path}: unknown fields {sorted(set(body) - set(known))}"

    def check_reply(self, method: str, path: str, status: int, body: object) -> None:
        where, operation = self._operation(method, path)
        assert str(status) in operation["responses"], f"{method} {path} never answers {status}"
        if "content" in operation["responses"][str(status)]:
            schema = f"{where}/responses/{status}/content/application~1json/schema"
            self._validate(schema, body, f"{method} {path} -> {status}")

    def check_schema(self, name: str, value: object) -> None:
        """``value`` is a ``#/components/schemas/name``."""
        self._validate(f"{URN}#/components/schemas/{name}", value, name)

    def _operation(self, method: str, path: str) -> tuple[str, dict[str, Any]]:
        template = self._template(path)
        assert template is not None, f"the specification has no {path}"
        operation = self.document["paths"][template].get(method.lower())
        assert operation is not None, f"the specification has no {method} {path}"
        pointer = template.replace("~", "~0").replace("/", "~1").replace("{", "%7B").replace("}", "%7D")
        return f"{URN}#/paths/{pointer}/{method.lower()}", operation

    def _template(self, path: str) -> str | None:
        fitting = [template for pattern, template in self._paths if pattern.fullmatch(path)]
        return min(fitting, key=lambda template: template.count("{"), default=None)

    def _validate(self, ref: str, value: object, what: str) -> None:
        if ref not in self._validators:
            self._validators[ref] = Draft202012Validator({"$ref": ref}, registry=self._registry)
        error = next(self._validators[ref].iter_errors(value), None)
        assert error is None, f"{what}: {error.json_path if error else ''} {error.message if error else ''}"


@lru_cache(maxsize=8)
def _read(path: Path) -> Specification:
    text = path.read_text("utf-8")
    if path.suffix in (".yaml", ".yml"):
        import yaml

        return Specification(yaml.safe_load(text))
    return Specification(json.loads(text))
