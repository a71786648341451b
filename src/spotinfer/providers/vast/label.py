"""The label: the only place on a machine where Vast keeps something for us and shows it in lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...core.errors import NotSupported
from ...core.model import InstanceSpec

PREFIX = "spotinfer"
LONGEST = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """``spotinfer/OWNER/KEY/agent=8001,engine=8000/NAME``.

    The ports stand in it because a list shows which ports of a machine are open but not what they are for. The same
    spec always gives the same text, so a machine can be looked for by it.
    """

    owner: str
    key: str
    ports: Mapping[str, int]
    name: str = ""

    @classmethod
    def of(cls, spec: InstanceSpec) -> Label:
        """Raises :class:`NotSupported` for what would not be found again."""
        label = cls(owner=spec.owner, key=spec.key, ports=dict(spec.ports), name=spec.name)
        found = cls.read(label.text)
        if found is None or (found.owner, found.key, found.ports) != (label.owner, label.key, label.ports):
            raise NotSupported(f"{spec.key!r} of {spec.owner!r} cannot be written into a label", provider="vast")
        return label

    @classmethod
    def read(cls, text: str | None) -> Label | None:
        """None for a label that is not of our making."""
        parts = (text or "").split("/", 4)
        if len(parts) != 5 or parts[0] != PREFIX or not parts[1] or not parts[2]:
            return None
        ports: dict[str, int] = {}
        for pair in filter(None, parts[3].split(",")):
            role, _, port = pair.partition("=")
            if not role or not port.isdecimal():
                return None
            ports[role] = int(port)
        return cls(owner=parts[1], key=parts[2], ports=ports, name=parts[4])

    @property
    def text(self) -> str:
        ports = ",".join(f"{role}={port}" for role, port in sorted(self.ports.items()))
        return f"{PREFIX}/{self.owner}/{self.key}/{ports}/{self.name}"[:LONGEST]
