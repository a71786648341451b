"""The body that rents a machine, checked against Vast's limits before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ...core.errors import NotSupported
from ...core.model import InstanceSpec, OfferKind
from ...core.secret import Secret
from .label import Label
from .offers import GB

SMALLEST_DISK = 8
LONGEST_COMMAND = 4096
LONGEST_START = 4048
LARGEST_ENVIRONMENT = 32768


def rental(spec: InstanceSpec, *, disk_gb: int) -> dict[str, object]:
    """Raises :class:`NotSupported` for what Vast would refuse, or silently rent as something else.

    The machine's program is ``onstart``, which takes the place of the image's entrypoint, with ``args``. Whatever
    happens, nothing but a running machine is wanted: without ``cancel_unavail`` a bid that cannot start leaves a
    stopped one whose disk bills.
    """
    if not spec.image:
        raise NotSupported("a machine there is a container: it needs an image", provider="vast")
    if not spec.command:
        raise NotSupported("a machine needs a command", provider="vast")
    body: dict[str, object] = {
        "client_id": "me",
        "image": spec.image,
        "label": Label.of(spec).text,
        "disk": max(SMALLEST_DISK, -(-spec.disk // GB) or disk_gb),
        "runtype": "args",
        "onstart": spec.command[0],
        "args": list(spec.command[1:]),
        "env": environment(spec.env, spec.ports),
        "cancel_unavail": True,
        "target_state": "running",
    }
    if spec.offer.kind is OfferKind.INTERRUPTIBLE:
        # The price makes it a bid: without one Vast rents on demand, at the full price.
        if spec.offer.per_hour is None:
            raise NotSupported("a bid needs a price", provider="vast")
        body["price"] = float(spec.offer.per_hour)
    _check_lengths(spec)
    return body


def environment(env: Mapping[str, Secret | str], ports: Mapping[str, int]) -> dict[str, str]:
    """Variables, and as Vast has it the ports among them, in the words of ``docker run``. Secrets are in clear here.

    The specification says a string of options; the service's own tools send this object, which needs no quoting.
    """
    values = {name: value.reveal() if isinstance(value, Secret) else value for name, value in env.items()}
    return {**values, **{f"-p {port}:{port}": "1" for port in sorted(ports.values())}}


def _check_lengths(spec: InstanceSpec) -> None:
    command = sum(map(len, spec.command))
    if command > LONGEST_COMMAND or len(spec.command[0]) > LONGEST_START:
        raise NotSupported(f"the command has {command} characters, at most {LONGEST_COMMAND} fit", provider="vast")
    size = len(json.dumps(environment(spec.env, spec.ports)))
    if size > LARGEST_ENVIRONMENT:
        raise NotSupported(
            f"the environment has {size} characters, at most {LARGEST_ENVIRONMENT} fit",
            provider="vast",
            hint="pass fewer or shorter variables to the engine",
        )
