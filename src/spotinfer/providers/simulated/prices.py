"""Prices and capacity over time: piecewise constant, drawn step by step as far as somebody looks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal
from random import Random

from ...core.money import ZERO, for_time

QUANTUM = Decimal("0.0001")
PULL = 0.97
"""How much of its distance from the usual price the walk keeps at each step."""
LEAST, MOST = 0.4, 2.5


class PricePath:
    """The market price in dollars per hour at any time from ``origin`` (Unix seconds) on."""

    def __init__(self, random: Random, base: Decimal, origin: float, step: float, volatility: float) -> None:
        self._random = random
        self._base = float(base)
        self._origin = origin
        self._step = step
        self._volatility = volatility
        self._log = 0.0
        self._prices = [base]

    def at(self, time: float) -> Decimal:
        index = self._index(time)
        while len(self._prices) <= index:
            self._prices.append(self._next())
        return self._prices[index]

    def next_change(self, time: float) -> float:
        """When the step after the one at ``time`` begins."""
        if not self._volatility:
            return math.inf
        return self._origin + (self._index(time) + 1) * self._step

    def cost(self, start: float, end: float) -> Decimal:
        """What the time from ``start`` to ``end`` costs at the price of each moment, in dollars."""
        return sum((for_time(self.at(begin), stop - begin) for begin, stop in self._pieces(start, end)), ZERO)

    def _pieces(self, start: float, end: float) -> Iterator[tuple[float, float]]:
        while start < end:
            stop = min(end, self.next_change(start))
            yield start, stop
            start = stop

    def _index(self, time: float) -> int:
        return max(0, int((time - self._origin) // self._step)) if self._volatility else 0

    def _next(self) -> Decimal:
        self._log = self._log * PULL + self._random.gauss(0.0, self._volatility)
        factor = min(MOST, max(LEAST, math.exp(self._log)))
        return Decimal(str(self._base * factor)).quantize(QUANTUM)
