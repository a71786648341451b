"""What to rent: candidates in the order in which they will be tried, and a reason for every offer left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from ..core.errors import NoFeasiblePlan
from ..core.model import Limits, Model, Offer
from ..core.money import usd


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An offer together with how the model would be served on it. ``why`` explains the choice of engine."""

    offer: Offer
    engine: str
    model: Model
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Ranked candidates (cheapest per hour first), rejected offers by label, and the limits it was made for.

    :meth:`explain` says in words what would happen; nothing has been rented.
    """

    model: str
    candidates: tuple[Candidate, ...]
    rejected: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = Limits()

    @property
    def best(self) -> Candidate:
        """Raises :class:`NoFeasiblePlan` when every offer was rejected."""
        if not self.candidates:
            raise NoFeasiblePlan(f"nothing can serve {self.model!r}:", self.rejected, hint=FIT_HINT)
        return self.candidates[0]

    def explain(self) -> str:
        lines = [f"plan for {self.model}"]
        for position, candidate in enumerate(self.candidates, start=1):
            lines.append(f"{position:>3}. {candidate.offer.label}, {price_text(candidate.offer)}")
            lines.append(f"     engine {candidate.engine}: {candidate.why}")
        lines += [f"  -  {offer}: {reason}" for offer, reason in self.rejected.items()]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        """For ``--json``; money as strings."""
        return {
            "model": self.model,
            "candidates": [
                {
                    "provider": candidate.offer.provider,
                    "offer": candidate.offer.id,
                    "label": candidate.offer.label,
                    "kind": str(candidate.offer.kind),
                    "per_hour": None if candidate.offer.per_hour is None else str(candidate.offer.per_hour),
                    "engine": candidate.engine,
                    "why": candidate.why,
                }
                for candidate in self.candidates
            ],
            "rejected": dict(self.rejected),
        }

    __str__ = explain


FIT_HINT = "allow another provider or a higher price, or choose a smaller model"


def price_text(offer: Offer) -> str:
    return "no price set" if offer.per_hour is None else f"{usd(offer.per_hour)} an hour"


def memory_needed(model: Model) -> int:
    """Bytes for weights, KV cache and activations: weights times 1.2, until the planner knows better."""
    return 0 if model.weights is None else model.weights * 6 // 5


def reject(offer: Offer, model: Model, max_price: Decimal | None) -> str | None:
    """Why an offer is not acceptable; None when it is."""
    if max_price is not None and offer.per_hour is not None and offer.per_hour > max_price:
        return f"{usd(offer.per_hour)} an hour is above the maximum of {usd(max_price)}"
    memory = offer.accelerators.memory if offer.accelerators else offer.memory
    needed = memory_needed(model)
    if memory and needed > memory:
        return f"needs {needed / 2**30:.1f} GiB of memory, has {memory / 2**30:.1f} GiB"
    return None


def rank(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Cheapest per hour first; owned hardware without a price before everything that is rented; ties by label."""
    return tuple(sorted(candidates, key=lambda item: (item.offer.per_hour or Decimal(0), item.offer.label)))
