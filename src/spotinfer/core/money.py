"""Money is ``Decimal`` US dollars. A float given by a caller enters by ``Decimal(str(x))`` and never again."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_DOWN, Decimal, InvalidOperation
from typing import NewType

from .errors import ConfigError

MachineHour = NewType("MachineHour", Decimal)
"""Dollars per hour for a whole machine: the only price that an offer may carry."""
GpuHour = NewType("GpuHour", Decimal)
"""Dollars per hour for one GPU of a machine. Some clouds quote this; a mix-up is an error of types."""


def whole_machine(price: GpuHour, gpus: int) -> MachineHour:
    return MachineHour(price * gpus)


ZERO = Decimal(0)
NANO = Decimal("0.000000001")
"""The smallest amount that is attributed to a request: a billionth of a dollar."""

SECONDS_PER_HOUR = Decimal(3600)
MILLION = Decimal(1_000_000)


def money(value: Decimal | int | float | str, *, what: str = "amount") -> Decimal:
    """Dollars out of what a caller may write (``"0.50"``, ``0.5``, ``"$3"``).

    Raises :class:`ConfigError` for anything that is not a finite amount of at least zero.
    """
    if isinstance(value, bool):
        raise ConfigError(f"{what} must be an amount in dollars, not {value!r}", hint=f'for example {what}="0.50"')
    try:
        amount = value if isinstance(value, Decimal) else Decimal(str(value).strip().lstrip("$"))
    except InvalidOperation as error:
        raise ConfigError(
            f"{what} must be an amount in dollars, not {value!r}", hint=f'for example {what}="0.50"'
        ) from error
    if not amount.is_finite() or amount < 0:
        raise ConfigError(f"{what} must not be negative or infinite: {value!r}", hint=f'for example {what}="0.50"')
    return amount


def for_time(per_hour: Decimal, seconds: Decimal | int | float) -> Decimal:
    """What ``seconds`` cost at a price per hour, to the nano-dollar (rounded down)."""
    amount = per_hour * Decimal(str(seconds)) / SECONDS_PER_HOUR
    return amount.quantize(NANO, rounding=ROUND_DOWN)


def split(total: Decimal, weights: Sequence[Decimal | int | float], quantum: Decimal = NANO) -> list[Decimal]:
    """Divide ``total`` in proportion to ``weights`` so that the parts sum to it exactly.

    Largest remainder (Hamilton): every part is rounded down to ``quantum`` and the quanta left over go to the largest
    fractions, ties to the earlier one. What is finer than ``quantum`` in ``total`` goes to the largest part. All
    weights zero: equal parts.

    >>> split(Decimal("0.10"), [1, 1, 1], Decimal("0.01"))
    [Decimal('0.04'), Decimal('0.03'), Decimal('0.03')]
    """
    if not weights:
        return []
    shares = [Decimal(str(weight)) for weight in weights]
    whole = sum(shares, ZERO)
    if whole == 0:
        shares, whole = [Decimal(1)] * len(shares), Decimal(len(shares))
    exact = [total * share / whole for share in shares]
    parts = [amount.quantize(quantum, rounding=ROUND_DOWN) for amount in exact]
    left = total - sum(parts, ZERO)
    order = sorted(range(len(parts)), key=lambda index: (parts[index] - exact[index], index))
    for position in range(int(left / quantum)):
        parts[order[position % len(order)]] += quantum
    parts[order[0]] += total - sum(parts, ZERO)
    return parts


def usd(amount: Decimal, *, digits: int | None = None) -> str:
    """``$1.23``; small amounts keep enough digits to say something (``$0.000042``)."""
    if digits is not None:
        return f"${amount:,.{digits}f}"
    wanted = 2 if amount == 0 or abs(amount) >= 1 else min(9, max(4, 1 - amount.adjusted()))
    whole, _, fraction = f"{amount:,.{wanted}f}".partition(".")
    return f"${whole}.{fraction[:2]}{fraction[2:].rstrip('0')}"


def per_million(amount: Decimal, tokens: int) -> Decimal | None:
    """Dollars per million tokens; None when there are no tokens to divide by."""
    return None if tokens <= 0 else (amount * MILLION / tokens).quantize(NANO)
