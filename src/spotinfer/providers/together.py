"""Several calls of one adapter at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

from ..core.errors import ProviderError

T = TypeVar("T")


async def together(calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Their answers in order. The first :class:`ProviderError` ends the others and is raised, not in a group."""
    answers: dict[int, T] = {}
    failed: list[ProviderError] = []

    async def run(index: int, call: Callable[[], Awaitable[T]]) -> None:
        try:
            answers[index] = await call()
        except ProviderError as error:
            failed.append(error)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for index, call in enumerate(calls):
            tasks.start_soon(run, index, call)
    if failed:
        raise failed[0]
    return [answers[index] for index in range(len(calls))]
