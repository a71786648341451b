"""The error tree. The class decides the reaction; the message says what happened; the hint says what to do.

::

    SpotinferError
    ├── ConfigError            MissingCredentials · UnknownName · PluginError · MissingExtra
    ├── PlanningError          NoFeasiblePlan · BudgetExceeded
    ├── ProviderError          (see :class:`Reaction`)
    ├── InstanceError          BootTimeout · Preempted · Lost · NameTaken · IllegalMove
    ├── ServerError            StartFailed · OutOfMemory · ModelNotFound · … · Unhealthy
    ├── LedgerError            LedgerCorrupt · LedgerUnwritable
    └── GatewayError
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from enum import Enum
from typing import ClassVar


class SpotinferError(Exception):
    """Root of everything this library raises on purpose.

    ``code`` is stable and meant for programs; ``hint`` is one sentence, often a command, meant for people.
    """

    code: ClassVar[str] = "error"
    default_hint: ClassVar[str | None] = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def as_dict(self) -> dict[str, object]:
        """For ``--json``: the stable code, the message and the hint."""
        return {"error": self.code, "message": self.message, "hint": self.hint}


# --- what the caller asked for -------------------------------------------------------------------------------------


class ConfigError(SpotinferError):
    """The call, a setting or the installation is wrong; nothing was rented."""

    code = "config"


class MissingCredentials(ConfigError):
    code = "missing_credentials"
    default_hint = "run `spotinfer init` to add the key, or `spotinfer config show` to see where it is looked for"


class UnknownName(ConfigError):
    """A provider, engine, model path or server of that name does not exist."""

    code = "unknown_name"

    def __init__(self, kind: str, name: str, known: Sequence[str] = (), *, hint: str | None = None) -> None:
        close = get_close_matches(str(name), known, n=1)  # a caller may have passed anything
        suggestion = f" (did you mean {close[0]!r}?)" if close else ""
        listed = f"known: {', '.join(sorted(known))}" if known else None
        super().__init__(f"no {kind} is called {name!r}{suggestion}", hint=hint or listed)
        self.kind, self.name, self.known = kind, name, tuple(known)


class PluginError(ConfigError):
    """An installed plug-in cannot be loaded, or two claim one name."""

    code = "plugin"


class MissingExtra(ConfigError, ImportError):
    """An optional dependency is not installed; also an ``ImportError``, so that feature probes work."""

    code = "missing_extra"

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra {extra!r}", hint=f"pip install 'spotinfer[{extra}]'")
        self.extra = extra


# --- planning ------------------------------------------------------------------------------------------------------


class PlanningError(SpotinferError):
    code = "planning"


class NoFeasiblePlan(PlanningError):
    """No offer is acceptable. ``rejected`` maps every offer looked at to its reason."""

    code = "no_feasible_plan"

    def __init__(self, message: str, rejected: Mapping[str, str], *, hint: str | None = None) -> None:
        reasons = "".join(f"\n  - {offer}: {reason}" for offer, reason in rejected.items())
        super().__init__(message + reasons, hint=hint)
        self.rejected = dict(rejected)


class BudgetExceeded(PlanningError):
    code = "budget_exceeded"


# --- clouds --------------------------------------------------------------------------------------------------------


class Reaction(Enum):
    """What the launch saga does when a provider raises; a class attribute of every :class:`ProviderError`."""

    SKIP_PROVIDER = "skip this provider"
    NEXT_OFFER = "try the next offer"
    RETRY_HERE = "wait and try again here"
    RECONCILE = "find out by key what happened, before anything else"
    FAIL = "give up"


class ProviderError(SpotinferError):
    code = "provider"
    reaction: ClassVar[Reaction] = Reaction.FAIL

    def __init__(self, message: str, *, provider: str | None = None, hint: str | None = None) -> None:
        super().__init__(f"{provider}: {message}" if provider else message, hint=hint)
        self.provider = provider


class AuthenticationFailed(ProviderError):
    code = "authentication_failed"
    reaction = Reaction.SKIP_PROVIDER
    default_hint = "the key was refused: `spotinfer init` replaces it"


class PermissionDenied(ProviderError):
    code = "permission_denied"
    reaction = Reaction.SKIP_PROVIDER


class InsufficientFunds(ProviderError):
    code = "insufficient_funds"
    reaction = Reaction.SKIP_PROVIDER
    default_hint = "add credit at the provider, or allow another provider"


class QuotaExceeded(ProviderError):
    code = "quota_exceeded"
    reaction = Reaction.SKIP_PROVIDER


class NoCapacity(ProviderError):
    code = "no_capacity"
    reaction = Reaction.NEXT_OFFER


class OfferGone(ProviderError):
    code = "offer_gone"
    reaction = Reaction.NEXT_OFFER


class Outbid(ProviderError):
    code = "outbid"
    reaction = Reaction.NEXT_OFFER


class RateLimited(ProviderError):
    """``retry_after`` is in seconds, where the provider told."""

    code = "rate_limited"
    reaction = Reaction.RETRY_HERE

    def __init__(
        self,
        message: str,
        *,
        provider: str | None = None,
        retry_after: float | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, provider=provider, hint=hint)
        self.retry_after = retry_after


class ProviderUnavailable(ProviderError):
    code = "provider_unavailable"
    reaction = Reaction.RETRY_HERE


class OutcomeUnknown(ProviderError):
    """A call that spends was sent and its answer was lost: the machine may exist and cost money."""

    code = "outcome_unknown"
    reaction = Reaction.RECONCILE
    default_hint = "`spotinfer reap` looks for the machine by its key and ends it"


class NotSupported(ProviderError):
    code = "not_supported"


class UnexpectedAnswer(ProviderError):
    """The adapter did not understand the cloud: a bug of ours. ``body`` is kept, with secrets removed."""

    code = "unexpected_answer"
    default_hint = "please report this with the body shown above"

    def __init__(self, message: str, *, provider: str | None = None, body: str = "", hint: str | None = None) -> None:
        super().__init__(f"{message}\n{body}" if body else message, provider=provider, hint=hint)
        self.body = body


# --- machines ------------------------------------------------------------------------------------------------------


class InstanceError(SpotinferError):
    code = "instance"


class BootTimeout(InstanceError):
    code = "boot_timeout"


class Preempted(InstanceError):
    code = "preempted"


class Lost(InstanceError):
    code = "lost"
    default_hint = "it may still run and cost money: `spotinfer reap` looks again"


class NameTaken(InstanceError):
    """A server of that name is live already and ``if_exists="error"``."""

    code = "name_taken"


class IllegalMove(InstanceError):
    """A transition that the state table does not know: a bug of ours."""

    code = "illegal_move"


# --- engines -------------------------------------------------------------------------------------------------------


class ServerError(SpotinferError):
    """The engine did not start or does not answer. ``log`` is the tail of its log."""

    code = "server"

    def __init__(self, message: str, *, hint: str | None = None, log: Sequence[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.log = tuple(log)

    def __str__(self) -> str:
        tail = "".join(f"\n  | {line}" for line in self.log[-20:])
        return super().__str__() + (f"\n  last lines of the engine's log:{tail}" if tail else "")


class StartFailed(ServerError):
    code = "start_failed"


class OutOfMemory(StartFailed):
    code = "out_of_memory"


class ModelNotFound(StartFailed):
    code = "model_not_found"


class ModelGated(StartFailed):
    code = "model_gated"


class BadEngineOption(StartFailed):
    code = "bad_engine_option"


class UnsupportedModel(StartFailed):
    code = "unsupported_model"


class CudaMismatch(StartFailed):
    code = "cuda_mismatch"


class PortTaken(StartFailed):
    code = "port_taken"


class Unhealthy(ServerError):
    code = "unhealthy"


# --- records and endpoint ------------------------------------------------------------------------------------------


class LedgerError(SpotinferError):
    code = "ledger"


class LedgerCorrupt(LedgerError):
    code = "ledger_corrupt"


class LedgerUnwritable(LedgerError):
    code = "ledger_unwritable"


class GatewayError(SpotinferError):
    code = "gateway"
