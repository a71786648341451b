"""For a log: a line when a phase begins, and a sign of life every ten seconds."""

from __future__ import annotations

import sys
import threading
import time
from datetime import timedelta

from ...core.model import Progress
from ..durations import format_duration
from .board import Board, Row
from .ticker import UNDRAWABLE, Ticker

SIGN_OF_LIFE = 10.0
SAME_PHASE = 2.0
"""A new message within a phase is worth a line, but not more often."""


class PlainDisplay:
    def __init__(self) -> None:
        self._board = Board(time.monotonic)
        self._ticker = Ticker(self._tick, 0.5)
        self._lock = threading.Lock()
        self._said: tuple[float, Row | None] = (time.monotonic(), None)

    def open(self) -> None:
        self._ticker.start()

    def take(self, progress: Progress) -> None:
        self._board.take(progress)
        with self._lock:
            at, before = self._said
            row = self._board.rows()[-1]
            fresh = before is None or before.phase is not row.phase
            if fresh or (before is not None and before.line() != row.line() and self._board.now - at >= SAME_PHASE):
                self._say(row, row.line())

    def close(self, *, failed: bool) -> None:
        self._ticker.stop()
        self._board.close(failed=failed)

    def _tick(self) -> None:
        with self._lock:
            if self._board.now - self._said[0] < SIGN_OF_LIFE:
                return
            rows = self._board.rows()
            if rows:
                self._say(rows[-1], f"still at it: {rows[-1].line()}")
            else:
                self._said = (self._board.now, None)
                say("still looking for offers")

    def _say(self, row: Row, message: str) -> None:
        self._said = (self._board.now, row)
        since = format_duration(timedelta(seconds=self._board.now - self._board.started))
        spent = self._board.spent()
        name = f"{self._board.name}: " if self._board.name else ""
        say(f"{name}{row.phase}: {message} ({since}{', ' + spent if spent else ''})")


def say(text: str) -> None:
    """One line to stderr, whole, whatever other threads write."""
    try:
        sys.stderr.write(f"spotinfer: {text}\n")
        sys.stderr.flush()
    except UNDRAWABLE:
        return
