"""What an emulated Vast.ai has to rent, what was rented, and what that costs by Vast's own rules."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from .timeline import Timeline

GPU_BILLED = ("running",)
"""Loading and stopped machines pay for their disk only."""
NOTHING_BILLED = ("offline",)
MONTH_SECONDS = Decimal(720 * 3600)
HOUR_SECONDS = Decimal(3600)
GB = Decimal(10**9)
NEVER_STARTED = "never"
"""Not a word of Vast's: a machine whose ``actual_status`` stays null, stopped before it ever started."""


@dataclass(kw_only=True)
class Ask:
    """A machine that its host offers; prices are dollars an hour for the whole of it."""

    id: int
    gpu_name: str
    num_gpus: int
    gpu_ram: int
    compute_cap: int
    dph: Decimal
    min_bid: Decimal
    storage_cost: Decimal = Decimal("0.15")
    up_cost: Decimal = Decimal("0.003")
    down_cost: Decimal = Decimal("0.002")
    disk_space: float = 900.0
    geolocation: str | None = "California, US"
    cuda: float = 13.0
    verified: bool = True
    hosting_type: int = 0
    reliability: float = 0.995
    ports: int = 100
    sold_out: bool = False
    """It is shown, but whoever tries to rent it is told that it is no longer available."""


@dataclass(kw_only=True)
class Contract:
    """A rented machine."""

    id: int
    ask: Ask
    timeline: Timeline
    image: str
    label: str | None
    disk: Decimal
    onstart: str
    args: list[str]
    env: Mapping[str, str] = field(repr=False)
    rate: Decimal
    """Dollars an hour while it runs, without its disk: the bid, or the host's price when it was rented."""
    is_bid: bool
    intended: str = "running"
    bytes_up: int = 0
    bytes_down: int = 0
    ended: float | None = None
    status_msg: str | None = None
    key: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    """``CONTAINER_API_KEY``: good for this machine only."""
    address: str = "203.0.113.7 \n"
    """As Vast has it, padded with blanks."""
    host_ports: dict[int, int] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """What its container gets: its own variables and those that Vast adds."""
        mapped = {f"VAST_TCP_PORT_{inside}": str(outside) for inside, outside in self.host_ports.items()}
        told = {"CONTAINER_ID": str(self.id), "CONTAINER_API_KEY": self.key, "PUBLIC_IPADDR": self.address.strip()}
        return {**self.env, **told, **mapped}

    @property
    def storage_per_hour(self) -> Decimal:
        return self.disk * self.ask.storage_cost / 720

    def native(self, now: float) -> str:
        return self.timeline.at(now)

    def bill(self, since: float, until: float) -> dict[str, Decimal]:
        """Dollars by the kinds of Vast's charges, for a stretch of time: GPUs by the second while it runs, its disk by
        the second from its creation to its end, and every byte."""
        until = until if self.ended is None else min(until, self.ended)
        gpu = Decimal(str(self.timeline.seconds(GPU_BILLED, since, until)))
        start = max(since, self.timeline.began)
        offline = self.timeline.seconds(NOTHING_BILLED, start, until)
        disk = Decimal(str(max(0.0, until - start - offline)))
        return {
            "gpu": self.rate * gpu / HOUR_SECONDS,
            "disk": self.disk * self.ask.storage_cost * disk / MONTH_SECONDS,
            "bwu": self.ask.up_cost * self.bytes_up / GB,
            "bwd": self.ask.down_cost * self.bytes_down / GB,
        }


def market() -> list[Ask]:
    """Enough of everything; the same every time."""
    chips = (
        ("RTX 4090", 24564, 890, "0.40"),
        ("RTX 3090", 24576, 860, "0.22"),
        ("A100 SXM4", 81920, 800, "1.10"),
        ("H100 SXM", 81559, 900, "2.20"),
        ("RTX 6000Ada", 49140, 890, "0.80"),
    )
    asks = []
    for number in range(60):
        name, memory, capability, price = chips[number % len(chips)]
        gpus = (1, 2, 4, 8)[number // len(chips) % 4]
        dph = Decimal(price) * gpus + Decimal(number) / 10000
        asks.append(
            Ask(
                id=7_000_000 + number,
                gpu_name=name,
                num_gpus=gpus,
                gpu_ram=memory,
                compute_cap=capability,
                dph=dph,
                min_bid=(dph * Decimal("0.6")).quantize(Decimal("0.0001")),
                geolocation=("California, US", "Bavaria, DE", None)[number % 3],
                verified=number % 10 != 9,
                hosting_type=number % 2,
            )
        )
    return asks


def as_offer(ask: Ask, *, bid: bool, disk: Decimal, now: float) -> dict[str, Any]:
    """An element of ``offers``. ``dph_total`` is for a disk of ``disk`` GB."""
    base = ask.min_bid if bid else ask.dph
    storage = disk * ask.storage_cost / 720
    return {
        "id": ask.id,
        "ask_contract_id": ask.id,
        "machine_id": ask.id % 1000,
        "host_id": ask.id % 100,
        "gpu_name": ask.gpu_name,
        "num_gpus": ask.num_gpus,
        "gpu_ram": ask.gpu_ram,
        "gpu_total_ram": ask.gpu_ram * ask.num_gpus,
        "gpu_arch": "nvidia",
        "gpu_frac": 1.0,
        "compute_cap": ask.compute_cap,
        "cpu_arch": "amd64",
        "cpu_cores": None,
        "cpu_cores_effective": 16.0,
        "cpu_ram": 128576,
        "disk_space": ask.disk_space,
        "storage_cost": float(ask.storage_cost),
        "storage_total_cost": float(storage),
        "inet_up_cost": float(ask.up_cost),
        "inet_down_cost": float(ask.down_cost),
        "dph_base": float(base),
        "dph_total": float(base + storage),
        "min_bid": float(ask.min_bid),
        "is_bid": bid,
        "reliability": ask.reliability,
        "reliability2": ask.reliability,
        "geolocation": ask.geolocation,
        "cuda_max_good": ask.cuda,
        "direct_port_count": ask.ports,
        "duration": 30 * 86400.0,
        "end_date": now + 30 * 86400.0,
        "verified": ask.verified,
        "verification": "verified" if ask.verified else "unverified",
        "hosting_type": ask.hosting_type,
        "datacenter": bool(ask.hosting_type),
        "external": False,
        "rentable": True,
        "rented": False,
    }


def as_machine(contract: Contract, now: float) -> dict[str, Any]:
    """An instance as lists show it."""
    native = contract.native(now)
    status = None if native in ("null", NEVER_STARTED) else native
    settled = "stopped" if native in ("stopped", NEVER_STARTED) else "running"
    mapped = {
        f"{inside}/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(outside)}]  # noqa: S104 - what Vast shows
        for inside, outside in contract.host_ports.items()
    }
    return {
        "id": contract.id,
        "label": contract.label,
        "actual_status": status,
        "intended_status": contract.intended,
        "cur_state": settled,
        "next_state": contract.intended,
        "status_msg": contract.status_msg,
        "image_uuid": contract.image,
        "image_args": contract.args,
        "image_runtype": "args",
        "onstart": contract.onstart,
        "extra_env": [[name, value] for name, value in contract.env.items()],
        "start_date": contract.timeline.began,
        "is_bid": contract.is_bid,
        "min_bid": float(contract.ask.min_bid),
        "dph_base": float(contract.rate),
        "dph_total": float(contract.rate + contract.storage_per_hour),
        "storage_cost": float(contract.ask.storage_cost),
        "storage_total_cost": float(contract.storage_per_hour),
        "disk_space": float(contract.disk),
        "gpu_name": contract.ask.gpu_name,
        "num_gpus": contract.ask.num_gpus,
        "public_ipaddr": contract.address if status == "running" else "",
        "ports": mapped if status == "running" else None,
    }


def as_charged(contract: Contract, since: float, until: float) -> dict[str, Any]:
    """A row of charges, rounded as Vast rounds it."""
    start, end = int(contract.timeline.began), int(min(until, contract.ended or until))
    parts = {kind: round(float(amount), 3) for kind, amount in contract.bill(since, until).items()}
    items = [
        {"start": start, "end": end, "type": kind, "source": None, "description": "", "amount": amount}
        for kind, amount in parts.items()
    ]
    total = sum(contract.bill(since, until).values(), Decimal(0))
    return {
        "start": start,
        "end": end,
        "type": "instance",
        "source": f"instance-{contract.id}",
        "description": f"Instance {contract.id} Charges",
        "amount": round(float(total), 3),
        "metadata": {"label": contract.label} if contract.label is not None else {},
        "items": [{**item, "metadata": {}, "items": []} for item in items],
    }
