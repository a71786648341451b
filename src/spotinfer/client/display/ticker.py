"""A thread that draws at intervals. Drawing may fail (a closed terminal); it then stops, and the launch goes on."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

UNDRAWABLE = (OSError, ValueError)
"""A stream that is closed, cut, or cannot encode the text."""


class Ticker:
    def __init__(self, draw: Callable[[], None], every: float) -> None:
        self._draw = draw
        self._every = every
        self._over = threading.Event()
        # A kernel keeps in its context to which cell output belongs.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="spotinfer-progress", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(timeout=2.0)

    def _run(self) -> None:
        while not self._over.wait(self._every):
            try:
                self._draw()
            except UNDRAWABLE:
                return
