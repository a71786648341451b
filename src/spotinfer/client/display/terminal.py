"""For a terminal: a live line per phase with its time and the money so far; phases that are over stay, with a tick.

Several launches at once share one live region: two would draw over each other.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ...core.model import Phase, Progress
from .board import Board, Outcome, Row
from .ticker import UNDRAWABLE, Ticker

EVERY: Final = 0.125
QUIET: Final = 0.25
"""Seconds before anything is drawn when there is nothing to tell: what is over by then needs no display."""


class TerminalDisplay:
    def __init__(self) -> None:
        self._board = Board(time.monotonic)

    def open(self) -> None:
        SCREEN.add(self._board)

    def take(self, progress: Progress) -> None:
        self._board.take(progress)

    def close(self, *, failed: bool) -> None:
        self._board.close(failed=failed)
        SCREEN.remove(self._board)


class Screen:
    """The live region of this process: open while there is at least one board on it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._boards: list[Board] = []
        self._live: Live | None = None
        self._ticker: Ticker | None = None
        self._spinner = Spinner("dots", style="cyan")

    def add(self, board: Board) -> None:
        with self._lock:
            self._boards.append(board)
            if self._ticker is None:
                self._ticker = Ticker(self._draw, EVERY)
                self._ticker.start()

    def remove(self, board: Board) -> None:
        with self._lock:
            last = len(self._boards) == 1
            ticker = self._ticker if last else None
        if ticker is not None:
            ticker.stop()  # without the lock, which its thread may be waiting for
        with self._lock:
            try:
                self._take_away(board)
            except UNDRAWABLE:
                self._live = None

    def _take_away(self, board: Board) -> None:
        self._boards.remove(board)
        if not self._boards:
            live, self._live, self._ticker = self._live, None, None
            if live is None and board.rows():
                console().print(self._render(board))
            elif live is not None:
                live.update(self._render(board))
                live.stop()
        elif self._live is not None:
            self._live.console.print(self._render(board))

    def _draw(self) -> None:
        with self._lock:
            if self._live is None:
                if all(not board.rows() and board.now - board.started < QUIET for board in self._boards):
                    return
                self._live = Live(console=console(), auto_refresh=False, transient=False)
                self._live.start()
            self._live.update(Group(*(self._render(board) for board in self._boards)), refresh=True)

    def _render(self, board: Board) -> RenderableType:
        rows = board.rows() or (Row(phase=Phase.PLAN, message="looking for offers", began=board.started),)
        table = Table.grid(padding=(0, 2, 0, 0), expand=False)
        table.add_column(width=1)
        table.add_column(style="bold", min_width=9)
        table.add_column(overflow="ellipsis", no_wrap=True, ratio=None)
        table.add_column(justify="right", style="dim", min_width=5)
        table.add_column(justify="right", style="green", min_width=7)
        for row in rows:
            spent = board.spent() if row is rows[-1] else ""
            table.add_row(self._mark(row), str(row.phase), Text(row.line()), row.took(board.now), spent)
        return table

    def _mark(self, row: Row) -> RenderableType:
        if row.outcome is Outcome.RUNNING:
            return self._spinner
        return Text("✓", style="green") if row.outcome is Outcome.DONE else Text("✗", style="red")


def console() -> Console:
    return Console(stderr=True)


SCREEN = Screen()
