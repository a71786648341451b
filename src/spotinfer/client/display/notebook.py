"""For a notebook: one output, updated from a thread of its own so that the kernel's loop is never waited for."""

from __future__ import annotations

import html
import time
import uuid
from collections.abc import Callable
from importlib import import_module

from ...core.model import Phase, Progress
from .board import Board, Outcome, Row
from .ticker import Ticker

EVERY = 0.5
_MARKS = {Outcome.RUNNING: "…", Outcome.DONE: "✓", Outcome.FAILED: "✗"}


class NotebookDisplay:
    def __init__(self) -> None:
        self._board = Board(time.monotonic)
        self._ticker = Ticker(self._draw, EVERY)
        self._id = uuid.uuid4().hex
        self._shown: str | None = None

    def open(self) -> None:
        """In the thread that runs the cell, since the output belongs to that cell."""
        self._publish(self._rows(), update=False)
        self._ticker.start()

    def take(self, progress: Progress) -> None:
        self._board.take(progress)

    def close(self, *, failed: bool) -> None:
        self._ticker.stop()
        self._board.close(failed=failed)
        self._publish(self._board.rows(), update=True)

    def _draw(self) -> None:
        self._publish(self._rows(), update=True)

    def _rows(self) -> tuple[Row, ...]:
        looking = Row(phase=Phase.PLAN, message="looking for offers", began=self._board.started)
        return self._board.rows() or (looking,)

    def _publish(self, rows: tuple[Row, ...], *, update: bool) -> None:
        page = self._html(rows)
        if page != self._shown:
            self._shown = page
            bundle = {"text/html": page, "text/plain": self._text(rows)}
            # Loaded already, or this display would not have been chosen.
            display: Callable[..., object] = import_module("IPython.display").display
            display(bundle, raw=True, display_id=self._id, update=update)

    def _cells(self, row: Row, rows: tuple[Row, ...]) -> tuple[str, str, str, str, str]:
        spent = self._board.spent() if row is rows[-1] else ""
        return _MARKS[row.outcome], str(row.phase), row.line(), row.took(self._board.now), spent

    def _html(self, rows: tuple[Row, ...]) -> str:
        body = "".join(
            "<tr>" + "".join(f'<td style="text-align:left">{html.escape(cell)}</td>' for cell in cells) + "</tr>"
            for cells in (self._cells(row, rows) for row in rows)
        )
        return f'<table style="margin:0">{body}</table>' if rows else ""

    def _text(self, rows: tuple[Row, ...]) -> str:
        return "\n".join("  ".join(cell for cell in self._cells(row, rows) if cell) for row in rows)
