"""The nouns (DESIGN §3): frozen, slotted, keyword-only. Money is Decimal dollars, memory bytes, times aware UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum

from .money import MachineHour
from .secret import Secret
from .states import Cause, State

# --- hardware and offers -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class GPU:
    """One chip by its canonical name, with its memory in bytes and CUDA compute capability (major, minor)."""

    name: str
    memory: int
    capability: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerators:
    """``count`` chips of one kind."""

    gpu: GPU
    count: int = 1

    @property
    def memory(self) -> int:
        """Bytes over all chips."""
        return self.gpu.memory * self.count

    def __str__(self) -> str:
        return f"{self.count}x {self.gpu.name}" if self.count != 1 else self.gpu.name


class OfferKind(str, Enum):
    OWNED = "owned"
    ON_DEMAND = "on-demand"
    SPOT = "spot"
    """Taken back by the cloud, with ``Offer.notice`` of warning."""
    INTERRUPTIBLE = "interruptible"
    """Outbid by another customer; the disk usually stays."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Billing:
    """How a provider turns time into money: whole ``granularity`` seconds, at least ``minimum`` seconds a start."""

    granularity: int = 1
    minimum: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What is charged besides the hour, in dollars; zero is free, None is not told.

    Storage is per gigabyte (10^9 bytes) and month of 730 hours, while the machine runs and while it is stopped;
    bandwidth is per gigabyte, out of the machine and into it.
    """

    storage_running: Decimal | None = None
    storage_stopped: Decimal | None = None
    bandwidth_out: Decimal | None = None
    bandwidth_in: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A thing that can be rented now.

    ``per_hour`` is dollars per hour for the *whole* machine; None means owned hardware for which the user set no
    price, which is not the same as free. ``reliability`` is the share of time that the machine was up, where the
    cloud tells; ``cuda`` the newest CUDA version that its driver runs.
    """

    provider: str
    id: str
    kind: OfferKind
    per_hour: MachineHour | None
    accelerators: Accelerators | None = None
    cpus: int = 0
    memory: int = 0
    disk: int = 0
    region: str = ""
    arch: str = "x86_64"
    billing: Billing = Billing()
    extras: Extras = Extras()
    reliability: float | None = None
    cuda: tuple[int, int] | None = None
    notice: timedelta = timedelta(0)
    expires_at: datetime | None = None
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        chip = str(self.accelerators) if self.accelerators else f"{self.cpus} CPUs"
        where = f" in {self.region}" if self.region else ""
        return f"{self.provider} {chip} {self.kind}{where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """A filter for ``list_offers``; providers may ignore it, the planner filters again. Memory in bytes."""

    gpu: str | None = None
    min_memory: int = 0
    max_price: Decimal | None = None
    kinds: frozenset[OfferKind] = frozenset(OfferKind)
    regions: frozenset[str] = frozenset()


# --- limits --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a server ends by itself. None means unlimited and must have been said by the user.

    ``budget`` is dollars; the rest are durations. ``lease`` is renewed by the owner; None in detached mode.
    """

    lease: timedelta | None = timedelta(minutes=5)
    idle: timedelta | None = timedelta(minutes=30)
    max_age: timedelta | None = timedelta(hours=24)
    budget: Decimal | None = None

    @property
    def self_ending(self) -> bool:
        """Whether it ends even if nobody renews anything."""
        return not (self.idle is None and self.max_age is None and self.budget is None)


# --- machines ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSpec:
    """What ``create`` is asked for. ``key`` is unique per intent and is written where ``list_owned`` reads it.

    ``ports`` maps a role (``"engine"``, ``"agent"``) to the port inside the machine, 0 for any free one.
    ``command`` and ``env`` start the agent; every secret travels in ``env``. ``disk`` is bytes.
    """

    key: str
    owner: str
    name: str
    offer: Offer
    command: tuple[str, ...]
    env: Mapping[str, Secret | str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    image: str | None = None
    disk: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """The machine as the provider last described it: a snapshot taken at ``seen_at``.

    ``state`` is ours, ``native_state`` the cloud's own word. ``per_hour`` is what the cloud shows now, for the whole
    machine. ``cause`` is set where the machine told why it ended.
    """

    provider: str
    id: str
    key: str
    state: State
    native_state: str
    seen_at: datetime
    created_at: datetime | None = None
    owner: str = ""
    name: str = ""
    per_hour: MachineHour | None = None
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    cause: Cause | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What ``check`` learned. ``balance`` in dollars where the cloud tells."""

    provider: str
    user: str = ""
    balance: Decimal | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """An amount that the provider says it billed for a period, in dollars."""

    provider: str
    id: str
    amount: Decimal
    start: datetime
    end: datetime
    instance_id: str | None = None
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a provider can do, readable without credentials.

    ``fuse``: a machine there can end itself. ``settle``: how long ``list_owned`` may lag behind ``create``; only after
    it has passed is a missing machine evidence that nothing was rented.
    """

    spot: bool = False
    stop: bool = False
    charges: bool = False
    fuse: bool = True
    remote: bool = True
    settle: timedelta = timedelta(minutes=5)


# --- models and engines --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Which model to serve: a hub id, a folder or a file. ``served_name`` is what clients put into ``model=``.

    ``weights`` is bytes, where known without a download.
    """

    source: str
    served_name: str
    revision: str | None = None
    path: str | None = None
    format: str = "hub"
    weights: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How to run the engine. ``context`` in tokens; ``extra`` are raw options, passed through last."""

    context: int | None = None
    slots: int | None = None
    extra: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    hf_token: Secret | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCommand:
    """A command line for the agent; ``{port}``, ``{host}`` and ``{dir}`` are filled in on the machine.

    ``tls``: the engine demands client certificates itself; otherwise the agent relays mutual TLS to it.
    """

    argv: tuple[str, ...]
    env: Mapping[str, Secret | str] = field(default_factory=dict)
    tls: bool = False
    image: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricNames:
    """What an engine calls its counters: gauges that say "busy", counters that grow with work, token totals."""

    busy: tuple[str, ...]
    progress: tuple[str, ...]
    prompt_tokens: str
    cached_tokens: str
    generated_tokens: str
    prompt_includes_cached: bool


class Phase(str, Enum):
    """What a launch is doing, in the order in which it usually happens."""

    PLAN = "plan"
    RENT = "rent"
    BOOT = "boot"
    IMAGE = "image"
    WEIGHTS = "weights"
    PROFILING = "profiling"
    GRAPHS = "graphs"
    PROBE = "probe"
    READY = "ready"
    END = "end"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One sign of life of a long operation. ``spent`` is dollars accrued so far, None where no price is known."""

    phase: Phase
    message: str
    elapsed: timedelta
    spent: Decimal | None = None
    fraction: float | None = None
    name: str = ""


# --- reaching a machine --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSecrets:
    """What only this launch knows: made before ``create``, kept in the key store, deleted after the end.

    PEM texts: ``ca`` is the certificate that both sides trust; ``server``, ``client`` and ``agent`` are a certificate
    followed by its private key. ``server`` is None when read back from the key store: only the machine has it.
    ``dns_name`` is what the server certificate says and what clients send as SNI, whatever the address.
    """

    key: str
    api_key: Secret
    agent_secret: Secret
    dns_name: str
    ca: str
    client: Secret
    agent: Secret
    server: Secret | None
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStatus:
    """What the agent says of its machine. ``busy_seconds`` is cumulative; ``counters`` are the engine's own, raw."""

    phase: str
    born_at: datetime
    can_end: bool
    engine_exit_code: int | None = None
    lease_until: datetime | None = None
    ends_at: Mapping[str, datetime] = field(default_factory=dict)
    idle_seconds: float = 0.0
    busy_seconds: float = 0.0
    counters: Mapping[str, float] = field(default_factory=dict)
    cause: Cause | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """One generated token: the only proof of readiness. The tokens it used are ours, not the user's."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    started: datetime
    ended: datetime
