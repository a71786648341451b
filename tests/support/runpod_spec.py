"""RunPod's published schema as a judge of every call and answer, and where the service is known to be ahead of it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from spotinfer.testing.emulators.base import Reply, Request
from spotinfer.testing.emulators.runpod import EmulatedRunpod

from .specs import Specification, specification

NAME = "runpod/openapi-v2.json"
AHEAD: Mapping[str, str] = {
    "entrypoint": "live since October 2026 and sent by other tools; the schema is of August",
    "cmd": "as entrypoint",
}
"""Fields of ``POST /v2/pods`` that the schema does not know -> why they are sent."""
MODELS: Mapping[tuple[str, str], tuple[str | None, str | None]] = {
    ("GET", "/v2/catalog/gpus"): (None, "ListGpuTypesResponse"),
    ("GET", "/v2/network-volumes/{id}"): (None, "NetworkVolume"),
    ("GET", "/v2/pods"): (None, "ListPodsResponse"),
    ("POST", "/v2/pods"): ("CreatePodRequest", "Pod"),
    ("GET", "/v2/pods/{id}"): (None, "Pod"),
    ("DELETE", "/v2/pods/{id}"): (None, None),
    ("POST", "/v2/pods/{id}/action"): ("PodActionRequest", "Pod"),
    ("GET", "/v2/pods/{id}/logs"): (None, None),
    ("GET", "/v2/billing/pods"): (None, "ListPodBillingResponse"),
}
"""What each call that we make carries and what it answers."""


def watch(cloud: EmulatedRunpod) -> None:
    """Hold every call of this emulator and its answer against the schema, where it is present."""
    spec = specification(NAME)
    if spec is not None:
        cloud.observers.append(Judge(spec, cloud))


class Judge:
    def __init__(self, spec: Specification, cloud: EmulatedRunpod) -> None:
        self._spec, self._cloud = spec, cloud

    def __call__(self, request: Request, reply: Reply) -> None:
        template = self._spec._template(request.path)
        assert template is not None, f"the schema has no {request.path}"
        asks, answers = MODELS[request.method, template]
        operation = self._spec.document["paths"][template][request.method.lower()]
        if reply.status >= 400:
            assert str(reply.status) in operation["responses"] or "default" in operation["responses"]
            self._spec.check_schema("ErrorResponse", reply.body)
            return
        self._parameters(operation, request)
        if asks is not None:
            sent = {name: value for name, value in request.body.items() if name not in AHEAD}
            self._spec.check_schema(asks, sent)
        else:
            assert request.body is None
        assert str(reply.status) in operation["responses"]
        if answers is not None and reply.status != 204:
            self._spec.check_schema(answers, self._plain(reply.body))

    def _parameters(self, operation: Mapping[str, Any], request: Request) -> None:
        described = {item["name"]: item for item in map(self._resolved, operation.get("parameters", []))}
        assert not set(request.query) - set(described), f"{request.path} takes no {set(request.query) - set(described)}"

    def _resolved(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        if "$ref" not in item:
            return item
        found: Mapping[str, Any] = self._spec.document["components"]["parameters"][item["$ref"].rpartition("/")[2]]
        return found

    def _plain(self, body: Any) -> Any:
        """Without the words that a test has put into the service's mouth."""
        told = deepcopy(body)
        for pod in told.get("pods", [told]) if isinstance(told, dict) else []:
            if pod.get("id") in self._cloud.said:
                pod["status"] = "RUNNING"
        return told
