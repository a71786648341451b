"""Vast.ai's JSON, as far as we use it. Prices are dollars an hour for a whole machine, never for one GPU.

The published specification leaves offers untyped and contradicts the service in places; where the two differ the
models here accept both forms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import BeforeValidator, Field

from ..wiring import Dollars, Wire


def _ports(value: object) -> object:
    """``{"8000/tcp": [{"HostPort": "40123"}]}`` while it runs, else null; the specification says a list of numbers."""
    return value if isinstance(value, Mapping) else {}


def _one(value: object) -> object:
    """``{"instances": {...}}`` holds one machine; null or an empty list says that there is none."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return value[0] if value else None
    return value or None


class Offer(Wire):
    """An "ask". Memory is in MiB, disk in 10^9 bytes, ``storage_cost`` dollars for a gigabyte and 720 hours."""

    id: int
    gpu_name: str
    num_gpus: int
    gpu_ram: float
    dph_base: Dollars
    min_bid: Dollars | None = None
    compute_cap: int | None = None
    cuda_max_good: float | None = None
    cpu_arch: str | None = None
    cpu_cores: float | None = None
    cpu_cores_effective: float | None = None
    cpu_ram: float | None = None
    gpu_frac: float | None = None
    disk_space: float = 0.0
    storage_cost: Dollars | None = None
    inet_up_cost: Dollars | None = None
    inet_down_cost: Dollars | None = None
    reliability: float | None = None
    reliability2: float | None = None
    geolocation: str | None = None
    direct_port_count: int = 0
    end_date: float | None = None
    machine_id: int | None = None
    hosting_type: int | None = None
    verification: str | None = None


class Offers(Wire):
    offers: list[Offer]


class Created(Wire):
    """``new_contract`` is the machine's id."""

    new_contract: int


class HostPort(Wire):
    port: int = Field(alias="HostPort")


class Machine(Wire):
    """An instance. ``actual_status`` is null until its host has heard of it."""

    id: int
    label: str | None = None
    actual_status: str | None = None
    intended_status: str | None = None
    cur_state: str | None = None
    next_state: str | None = None
    status_msg: str | None = None
    start_date: float | None = None
    is_bid: bool | None = None
    dph_base: Dollars | None = None
    dph_total: Dollars | None = None
    storage_total_cost: Dollars | None = None
    public_ipaddr: str | None = None
    ports: Annotated[dict[str, list[HostPort] | None], BeforeValidator(_ports)] = Field(default_factory=dict)


class Shown(Wire):
    machine: Annotated[Machine | None, BeforeValidator(_one)] = Field(default=None, alias="instances")


class Page(Wire):
    """One page of machines. ``instances`` has no default: an answer without it is no empty account."""

    instances: list[Machine]
    next_token: str | None = None


class ChargedItem(Wire):
    type: str
    amount: Dollars


class Charged(Wire):
    """What one contract cost. ``source`` is ``instance-<id>``; times are Unix seconds."""

    source: str
    amount: Dollars
    start: int
    end: int
    description: str = ""
    items: list[ChargedItem] = Field(default_factory=list)


class Charges(Wire):
    results: list[Charged]
    next_token: str | None = None


class User(Wire):
    id: int
    email: str | None = None
    balance: Dollars | None = None


class LogsAt(Wire):
    result_url: str
