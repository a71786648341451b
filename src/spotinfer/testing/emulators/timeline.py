"""What an emulated machine was, when, and what is planned for it: the ground of its state and of its bill."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable


class Timeline:
    """Native states by the time (Unix seconds) at which each begins. Those in the future are plans: boot steps, an
    outbid, a spot notice. What is said at a time replaces every plan after it."""

    def __init__(self, at: float, native: str) -> None:
        self._moments: list[tuple[float, str]] = [(at, native)]

    @property
    def began(self) -> float:
        return self._moments[0][0]

    def plan(self, moments: Iterable[tuple[float, str]]) -> None:
        self._moments = sorted([*self._moments, *moments], key=lambda moment: moment[0])

    def say(self, at: float, native: str) -> None:
        self._moments = [moment for moment in self._moments if moment[0] <= at]
        self._moments.append((at, native))

    def at(self, when: float) -> str:
        return self._moments[max(0, bisect_right(self._moments, when, key=lambda moment: moment[0]) - 1)][1]

    def since(self, when: float) -> float:
        """When the state of that moment began; moments of the same state in a row count as one."""
        past = [moment for moment in self._moments if moment[0] <= when] or self._moments[:1]
        while len(past) > 1 and past[-2][1] == past[-1][1]:
            past.pop()
        return past[-1][0]

    def first(self, states: Collection[str], until: float) -> float | None:
        """When it was first in one of ``states``, up to ``until``."""
        return next((at for at, native in self._moments if native in states and at <= until), None)

    def spans(self, states: Collection[str], start: float, end: float) -> list[tuple[float, float]]:
        """The stretches within ``start``..``end`` that it spent in one of ``states``, joined where they touch."""
        found: list[tuple[float, float]] = []
        ends = [at for at, _ in self._moments[1:]] + [float("inf")]
        for (at, native), until in zip(self._moments, ends, strict=True):
            begin, finish = max(at, start), min(until, end)
            if native not in states or finish <= begin:
                continue
            if found and found[-1][1] == begin:
                begin = found.pop()[0]
            found.append((begin, finish))
        return found

    def seconds(self, states: Collection[str], start: float, end: float) -> float:
        return sum(finish - begin for begin, finish in self.spans(states, start, end))
