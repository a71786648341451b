"""An asyncio loop whose clock jumps to the next timer instead of waiting for it.

Found by trying: real sockets time out at once under a clock that jumps, and worker threads are not waited for
deterministically, so a simulated path uses neither. Trio's ``MockClock`` was not deterministic between runs.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop for simulations: starts at time 0 and runs as fast as the processor allows."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self.elapsed


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:  # nothing is scheduled: only a signal or a thread can wake the loop
            return super().select(None)
        self._loop.elapsed += timeout
        return ready


def run_virtual(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """``anyio.run`` on virtual time."""
    return anyio.run(function, *args, backend="asyncio", backend_options={"loop_factory": VirtualTimeLoop})
