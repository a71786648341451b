"""Lambda Cloud's JSON (API 1.10.0), as far as we use it. Every answer is an envelope: ``{"data": ...}``."""

from __future__ import annotations

from datetime import datetime

from ..wiring import Wire


class Region(Wire):
    name: str


class Specs(Wire):
    vcpus: int
    memory_gib: int
    storage_gib: int
    gpus: int


class InstanceType(Wire):
    name: str
    gpu_description: str
    price_cents_per_hour: int
    """For the whole machine, the same in every region."""
    specs: Specs


class TypeItem(Wire):
    instance_type: InstanceType
    regions_with_capacity_available: tuple[Region, ...]


class Types(Wire):
    data: dict[str, TypeItem]


class Tag(Wire):
    key: str
    value: str


class Machine(Wire):
    """An instance. There is no time of creation, and ``ip`` is absent until late; tags are ours."""

    id: str
    name: str = ""
    status: str
    """Text, not an enumeration: a word that we do not know must not make a machine unreadable."""
    ip: str | None = None
    ssh_key_names: tuple[str, ...] = ()
    instance_type: InstanceType | None = None
    tags: tuple[Tag, ...] = ()


class OneMachine(Wire):
    data: Machine


class Machines(Wire):
    data: tuple[Machine, ...]


class TerminatedMachines(Wire):
    terminated_instances: tuple[Machine, ...]


class Terminated(Wire):
    data: TerminatedMachines


class LaunchedIds(Wire):
    instance_ids: tuple[str, ...]


class Launched(Wire):
    data: LaunchedIds


class SshKey(Wire):
    id: str
    name: str


class OneSshKey(Wire):
    data: SshKey


class SshKeys(Wire):
    data: tuple[SshKey, ...]


class Ruleset(Wire):
    id: str
    name: str
    region: Region
    created: datetime | None = None
    instance_ids: tuple[str, ...] = ()


class OneRuleset(Wire):
    data: Ruleset


class Rulesets(Wire):
    data: tuple[Ruleset, ...]
