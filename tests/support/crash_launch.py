"""Launches on real parts and dies at the n-th call across a seam: `crash_launch.py HOME N MODE`.

Every call of the ledger, the key store, the provider and the link counts twice: before it and after it. At N the
process kills itself as `kill -9` would. Prints `done COUNT` when the launch ended before N.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

sys.path[0] = str(Path(__file__).parents[1])

from spotinfer.control.launch import launch
from spotinfer.control.world import silent
from spotinfer.core.model import Limits
from support.worlds import local_order, local_world


class Fuse:
    """Counts, and kills the process when the count is reached."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.count = 0

    def tick(self, where: str) -> None:
        self.count += 1
        if self.count == self.at:
            print(f"dies at {where}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


class Watched:
    """Stands before a real part and ticks at each of its methods."""

    def __init__(self, part: Any, fuse: Fuse) -> None:
        self._part, self._fuse = part, fuse

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._part, name)
        if not callable(value) or isinstance(value, type):
            return value
        label = f"{type(self._part).__name__}.{name}"
        return self._awaited(value, label) if inspect.iscoroutinefunction(value) else self._plain(value, label)

    def _awaited(self, function: Callable[..., Any], label: str) -> Callable[..., Any]:
        async def call(*args: Any, **options: Any) -> Any:
            self._fuse.tick(f"before {label}")
            result = await function(*args, **options)
            self._fuse.tick(f"after {label}")
            return result

        return call

    def _plain(self, function: Callable[..., Any], label: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self._fuse.tick(f"before {label}")
            result = function(*args, **options)
            self._fuse.tick(f"after {label}")
            return result

        return call


async def main(home: Path, at: int, mode: str) -> None:
    async with local_world(home) as real:
        fuse = Fuse(at)
        world = replace(
            real,
            ledger=Watched(real.ledger, fuse),
            keystore=Watched(real.keystore, fuse),
            providers={"local": Watched(real.providers["local"], fuse)},
            open_link=lambda instance, secrets: Watched(real.open_link(instance, secrets), fuse),
        )
        detached = mode == "detached"
        order = await local_order(real, home, detached=detached, limits=Limits(lease=None) if detached else Limits())
        launched = await launch(world, order, silent)
        await launched.link.aclose()
        print(f"done {fuse.count}", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)  # the owner never says goodbye


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
