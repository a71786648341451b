"""The seams: what a provider, an engine, a ledger and a progress listener are. Control code sees nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import ClassVar, Protocol, runtime_checkable

from .errors import ServerError
from .model import (
    Account,
    AgentStatus,
    Capabilities,
    Charge,
    EngineCommand,
    EngineSettings,
    Instance,
    InstanceSpec,
    LaunchSecrets,
    MetricNames,
    Model,
    Offer,
    Phase,
    Probed,
    Progress,
    Want,
)
from .records import History, Intent, Record, RequestRow, Sample
from .states import Cause, State

ProgressListener = Callable[[Progress], None]
"""Called from the thread of the async core; must return quickly and must not raise."""


@runtime_checkable
class Provider(Protocol):
    """A cloud, or this computer. Async only; holds no state but its connection; raises only ``ProviderError``."""

    name: ClassVar[str]
    api: ClassVar[int]
    """The version of this protocol that the adapter speaks: 1."""
    capabilities: ClassVar[Capabilities]

    async def check(self) -> Account:
        """Verify that the credentials work. Raises ``AuthenticationFailed``, ``PermissionDenied``."""
        ...

    async def list_offers(self, want: Want) -> Sequence[Offer]:
        """What can be rented now. Filters are hints; the planner filters again."""
        ...

    async def create(self, spec: InstanceSpec) -> Instance:
        """Rent. The same ``spec.key`` twice gives one machine.

        Raises ``NoCapacity``, ``OfferGone``, ``Outbid`` when nothing was rented; ``OutcomeUnknown`` when the answer
        was lost and the machine may exist.
        """
        ...

    async def get(self, id: str) -> Instance | None:
        """The machine now; None *only* on positive evidence that it is gone. Raises when it could not tell."""
        ...

    async def stop(self, id: str) -> None:
        """Turn it off and keep its disk. Raises ``NotSupported``."""
        ...

    async def resume(self, id: str) -> None:
        """Turn a stopped machine on. Raises ``NotSupported``, ``NoCapacity``, ``Outbid``."""
        ...

    async def terminate(self, id: str) -> None:
        """End it and everything that bills with it. Repeatable; an id that does not exist is success."""
        ...

    async def list_owned(self, owner: str) -> Sequence[Instance]:
        """Everything of ``owner`` that can still cost money: all pages, or it raises."""
        ...

    async def charges(self, since: datetime) -> Sequence[Charge]:
        """What the cloud says it billed. Raises ``NotSupported``."""
        ...

    async def logs(self, id: str, tail: int) -> Sequence[str]:
        """The machine's last ``tail`` lines of output, oldest first."""
        ...

    async def aclose(self) -> None: ...


class Host(Protocol):
    """What an engine needs to know of the machine that it is to run on."""

    @property
    def gpus(self) -> int: ...
    @property
    def local(self) -> bool: ...


@runtime_checkable
class Engine(Protocol):
    """How to start an inference server, and how to tell that it is ready, busy or broken. Holds no state."""

    name: ClassVar[str]
    format: ClassVar[str]
    """The form in which it takes a model that we make ourselves: ``safetensors`` or ``gguf``."""
    closes_streams: ClassVar[bool]
    """It closes the connection after a streamed answer without having said so; a client must not use it again."""
    metrics: ClassVar[MetricNames]
    metrics_path: ClassVar[str]

    def unavailable(self, model: Model, host: Host) -> str | None:
        """Why it cannot serve ``model`` there; None when it can."""
        ...

    def command(self, model: Model, settings: EngineSettings, host: Host, api_key: str) -> EngineCommand:
        """The command line. ``api_key`` must be demanded of every client."""
        ...

    def phase(self, line: str) -> tuple[Phase, str] | None:
        """What a line of its log says about progress, with a short message; None for all other lines."""
        ...

    def diagnose(self, log: Sequence[str], exit_code: int | None) -> ServerError:
        """The most specific error for an engine that ended before it was ready."""
        ...


@runtime_checkable
class Ledger(Protocol):
    """Append-only record; the only truth after a crash. Every method is durable when it returns.

    Raises only ``LedgerError``, and ``NameTaken`` from :meth:`intend`.
    """

    @property
    def owner(self) -> str:
        """The random id of this installation; written on every machine that it rents."""
        ...

    async def intend(self, intent: Intent) -> Record:
        """Record the intent and claim its name, atomically over all processes.

        Raises ``NameTaken`` if a machine of that name is live.
        """
        ...

    async def created(self, key: str, instance_id: str, at: datetime) -> None:
        """Bind the provider's id to the intent."""
        ...

    async def move(self, key: str, after: State, cause: Cause, at: datetime, detail: str = "") -> Record:
        """Append a transition from the state that is recorded now. Raises ``IllegalMove``; a move to the state that it
        is in already is no error and writes nothing."""
        ...

    async def want_end(self, key: str, cause: Cause, at: datetime, detail: str = "") -> Record:
        """Note that the machine is to end; it stays live until there is evidence that it is gone."""
        ...

    async def want_stop(self, key: str, wanted: bool, at: datetime) -> Record: ...

    async def rate(self, key: str, per_hour: Decimal | None, at: datetime) -> None: ...

    async def sample(self, sample: Sample) -> None: ...

    async def add_charges(self, charges: Iterable[Charge]) -> None:
        """Store what was billed; a charge id that is known already is replaced."""
        ...

    def request(self, row: RequestRow) -> None:
        """Queue a finished request; durable within a second, or at :meth:`flush`. Never blocks, never raises."""
        ...

    async def flush(self) -> None: ...

    async def record(self, key: str) -> Record | None: ...

    async def find(self, name: str) -> Record | None:
        """The live machine of that name."""
        ...

    async def records(self, *, live: bool | None = None) -> Sequence[Record]: ...

    async def histories(
        self, *, keys: Sequence[str] | None = None, since: datetime | None = None, until: datetime | None = None
    ) -> Sequence[History]:
        """Machines that were live in the window, with what happened to them in it."""
        ...

    async def aclose(self) -> None: ...


class MachineLink(Protocol):
    """The owner's line to one machine: its agent, and its engine's readiness. Raises only ``ServerError``."""

    async def status(self) -> AgentStatus:
        """Raises ``Unhealthy`` when the agent does not answer."""
        ...

    async def renew(self, lease: timedelta) -> None: ...

    async def drain(self, grace: timedelta) -> None:
        """Let running requests finish for at most ``grace``, then end."""
        ...

    async def end(self, cause: Cause) -> None:
        """End now. Success when nobody answers any more, too."""
        ...

    async def log(self, tail: int) -> Sequence[str]: ...

    async def probe(self, model: str) -> Probed:
        """Generate one token. Raises ``Unhealthy`` while that does not work yet."""
        ...

    async def aclose(self) -> None: ...


class KeyStore(Protocol):
    """Launch secrets on disk (0600), synced before they are used. Raises only ``LedgerError``."""

    def save(self, secrets: LaunchSecrets) -> None: ...
    def load(self, key: str) -> LaunchSecrets | None: ...
    def delete(self, key: str) -> None:
        """Repeatable."""
        ...

    def keys(self) -> Sequence[str]: ...


class HoldStore(Protocol):
    """Which machines a live process on this computer stands behind."""

    def hold(self, key: str) -> None: ...
    def release(self, key: str) -> None: ...
    def forget(self, key: str) -> None: ...
    def held(self, key: str) -> bool | None:
        """None: not known on this computer."""
        ...


ProviderOptions = Mapping[str, object]
"""What a provider's constructor is given: its own settings by name."""
