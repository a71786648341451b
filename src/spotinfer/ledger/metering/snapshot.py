"""What a meter shows, as values."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from enum import Enum

from ...core.records import RequestRow


class LineKind(str, Enum):
    """What a part of the accrued money was spent on."""

    TAG = "tag"
    PROBE = "probe"
    OTHER = "other traffic"
    COLD = "cold start"
    IDLE = "idle"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One part of the accrued money; all lines of a snapshot sum to it exactly. ``amount`` None: no price is set.

    ``seconds`` is machine time; for requests their share of it, so that requests side by side do not count it twice.
    """

    kind: LineKind
    label: str
    amount: Decimal | None
    seconds: float
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class RequestCost:
    """A request and its part of the money accrued in the window."""

    row: RequestRow
    amount: Decimal | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the machines of a meter have cost and done between ``since`` and ``until``.

    *Accrued* is measured (rate × time by the provider's rounding rules), *billed* is what the provider said,
    *predicted* what the plan expected; each is None where it is not known. Money belongs to the window in which the
    time was used, a request and its tokens to the one in which it ended, a charge to the one in which its period ended.
    """

    since: datetime | None
    until: datetime
    names: tuple[str, ...]
    """Of the machines, oldest first; a name used again later is there twice."""
    owned: bool
    """Every machine is the user's own hardware."""
    price_known: bool
    """False where a machine has no price set; then there is no accrued amount, which is not the same as $0."""
    accrued: Decimal | None
    billed: Decimal | None
    predicted: Decimal | None = None
    requests: int
    ok: int
    failed: int
    cancelled: int
    estimated: int
    """Requests whose token counts are ours, since the engine's were not received."""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    """Part of ``prompt_tokens``."""
    reasoning_tokens: int
    """Part of ``completion_tokens``."""
    other_prompt_tokens: int
    other_completion_tokens: int
    """What the engine's counters show beyond our own requests."""
    cold_seconds: float
    ready_seconds: float
    busy_seconds: float
    """Part of ``ready_seconds`` with at least one of our requests in flight."""
    idle_seconds: float
    lines: tuple[Line, ...]
    rows: tuple[RequestCost, ...] = field(repr=False)

    @property
    def drift(self) -> Decimal | None:
        """Billed minus accrued, in dollars."""
        return None if self.billed is None or self.accrued is None else self.billed - self.accrued

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def other_tokens(self) -> int:
        return self.other_prompt_tokens + self.other_completion_tokens

    @property
    def utilisation(self) -> float | None:
        """Share of the ready time with at least one request in flight; None before anything was ready."""
        return None if self.ready_seconds <= 0 else self.busy_seconds / self.ready_seconds

    @property
    def ours(self) -> Decimal | None:
        """Accrued for us: cold start and idle time included, other people's traffic not."""
        if self.accrued is None:
            return None
        others = (line.amount for line in self.lines if line.kind is LineKind.OTHER)
        return self.accrued - sum((amount for amount in others if amount is not None), Decimal(0))

    @property
    def per_million_tokens(self) -> Decimal | None:
        """Dollars per million tokens, prompt and completion together."""
        return self._each(self.tokens, 1_000_000)

    @property
    def per_million_output_tokens(self) -> Decimal | None:
        return self._each(self.completion_tokens, 1_000_000)

    @property
    def per_request(self) -> Decimal | None:
        return self._each(self.requests, 1)

    def _each(self, count: int, scale: int) -> Decimal | None:
        ours = self.ours
        return None if ours is None or count <= 0 else (ours * scale / count).quantize(Decimal("0.000000001"))

    def as_dict(self) -> dict[str, object]:
        """For JSON: money as exact strings, times in ISO 8601. Without the single requests."""
        names = [item.name for item in fields(self) if item.name not in ("lines", "rows")]
        names += ["drift", "utilisation", "per_million_tokens", "per_million_output_tokens", "per_request"]
        shown: dict[str, object] = {name: plain(getattr(self, name)) for name in names}
        shown["lines"] = [{item.name: plain(getattr(line, item.name)) for item in fields(line)} for line in self.lines]
        return shown


def plain(value: object) -> object:
    """A value as JSON has it."""
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value
