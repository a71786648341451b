"""Cancel a coroutine at exactly its n-th suspension point, to visit them all one after the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any

import anyio


async def cancelled_at(point: int, call: Callable[[], Awaitable[object]]) -> bool:
    """Run ``call()`` and cancel it when it is suspended for the ``point``-th time (from 1).

    Returns whether it got that far: False means that it had finished before, so every point has been visited. As with
    a real cancellation, what is shielded goes on, and a call that has nothing more to wait for may return normally.
    Other errors come through.
    """
    with anyio.CancelScope() as scope:
        counted = _Counted(call(), point, scope)
        await counted
    return scope.cancel_called


class _Counted:
    """Drives an awaitable by hand and counts how often it is suspended."""

    def __init__(self, inner: Awaitable[object], point: int, scope: anyio.CancelScope) -> None:
        self._inner = inner
        self._left = point
        self._scope = scope

    def __await__(self) -> Generator[Any, Any, object]:
        steps = self._inner.__await__()
        send, value = steps.send, None
        while True:
            try:
                waiting = send(value)
            except StopIteration as done:
                return done.value
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()
            try:
                value = yield waiting
                send = steps.send
            except BaseException as error:  # noqa: BLE001 - a cancellation above all: it goes where it would have gone
                value, send = error, steps.throw
