"""What the simulated market sells, and how unkind it is. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from ...core.model import GPU, Accelerators, Billing, OfferKind

GIB = 1 << 30
L4 = GPU(name="L4", memory=24 * GIB, capability=(8, 9))
RTX_4090 = GPU(name="RTX 4090", memory=24 * GIB, capability=(8, 9))
A100 = GPU(name="A100 80GB", memory=80 * GIB, capability=(8, 0))
H100 = GPU(name="H100", memory=80 * GIB, capability=(9, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One kind of machine on sale. ``per_hour`` is its usual price in dollars; ``capacity`` how many there are."""

    id: str
    kind: OfferKind
    accelerators: Accelerators
    per_hour: Decimal
    region: str
    capacity: int = 16
    notice: timedelta = timedelta(0)
    cpus: int = 8
    memory: int = 64 * GIB


def _listing(gpu: GPU, kind: OfferKind, price: str, *, region: str = "sim-1", notice: int = 0) -> Listing:
    return Listing(
        id=f"{gpu.name.lower().replace(' ', '-')}-{kind}-{region}",
        kind=kind,
        accelerators=Accelerators(gpu=gpu),
        per_hour=Decimal(price),
        region=region,
        notice=timedelta(seconds=notice),
    )


CATALOGUE: tuple[Listing, ...] = (
    _listing(L4, OfferKind.SPOT, "0.24", notice=120),
    _listing(L4, OfferKind.ON_DEMAND, "0.71"),
    _listing(RTX_4090, OfferKind.INTERRUPTIBLE, "0.29"),
    _listing(RTX_4090, OfferKind.ON_DEMAND, "0.44"),
    _listing(A100, OfferKind.SPOT, "0.78", notice=120),
    _listing(A100, OfferKind.ON_DEMAND, "1.64", region="sim-2"),
    _listing(H100, OfferKind.SPOT, "1.31", region="sim-2", notice=120),
    _listing(H100, OfferKind.ON_DEMAND, "2.89", region="sim-2"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketConfig:
    """The market's rules. Rates of faults are probabilities per call or per machine, durations are in seconds.

    ``price_step`` and ``volatility``: prices of spot and interruptible machines are constant for a step, then move by
    a mean-reverting random walk of their logarithm with this standard deviation a step. On-demand prices do not move.

    ``bid_headroom``: an interruptible machine is offered, bid for and billed at this multiple of the market price, and
    is stopped when the market price exceeds its bid. A spot machine pays the market price and is ended at random,
    ``preemptions_per_day`` times a day on average, with the listing's notice.

    ``scarcity``: in a ``capacity_step``, the probability that a listing has no machine left.

    ``boot`` is (least, most) time from create to an address, ``load`` from there until the engine answers; with the
    probability ``boot_failure`` a machine never gets an address and bills all the same. ``end`` is how long stopping
    and terminating take; a terminated machine can be looked up for another ``retention``.

    ``lost_answers``: a create whose machine exists but whose answer is lost; ``lost_requests``: the same to the
    caller, but nothing was rented. ``unavailable``: any other call fails. ``listing_lag``: a machine is not listed
    until it is this old. ``calls_per_minute``: beyond it, calls are refused; None for no limit.

    ``tokens_per_second``: what the engine of every machine generates; 0 leaves machines idle.
    """

    catalogue: tuple[Listing, ...] = CATALOGUE
    billing: Billing = Billing(granularity=1, minimum=60)
    stopped_per_hour: Decimal = Decimal("0.01")
    offer_life: float = 600.0
    price_step: float = 600.0
    volatility: float = 0.03
    bid_headroom: Decimal = Decimal("1.25")
    preemptions_per_day: float = 0.5
    scarcity: float = 0.0
    capacity_step: float = 3600.0
    boot: tuple[float, float] = (20.0, 90.0)
    load: tuple[float, float] = (30.0, 120.0)
    end: float = 3.0
    retention: float = 3600.0
    boot_failure: float = 0.0
    lost_answers: float = 0.0
    lost_requests: float = 0.0
    unavailable: float = 0.0
    listing_lag: float = 0.0
    calls_per_minute: int | None = None
    latency: float = 0.05
    tokens_per_second: float = 0.0
