"""The queue of finished requests between the hot path and the database."""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Callable

from ...core.errors import LedgerError
from ...core.records import RequestRow
from .engine import RowExists
from .write import request_values

_log = logging.getLogger("spotinfer.ledger")

_BATCH = 2000


class UsageQueue:
    """Rows wait here until they are written; a failed write keeps them and remembers why.

    Each row has an identity (``writer``, ``seq``) and a batch stays the same until it is known to be written, so that
    writing it again after a lost answer cannot count a request twice.
    """

    def __init__(self, write: Callable[[list[dict[str, object]]], None]) -> None:
        self._write = write
        self._rows: deque[RequestRow] = deque()
        self._batch: list[dict[str, object]] = []
        self._attempted = False
        self._writer = secrets.randbits(62)
        self._seq = 0
        self._dropped: LedgerError | None = None
        self.armed = False
        """Whether the writer knows that there is something to write."""
        self.error: LedgerError | None = None

    def append(self, row: RequestRow) -> None:
        self._rows.append(row)

    def __len__(self) -> int:
        return len(self._rows) + len(self._batch)

    @property
    def failing(self) -> bool:
        return self.error is not None

    def clear(self) -> None:
        """Forget everything: after a fork the rows are the parent's to write."""
        self.__init__(self._write)  # type: ignore[misc]

    def take_error(self) -> LedgerError | None:
        """The error to surface now: rows that could not be written yet, or (once) rows that never can."""
        dropped, self._dropped = self._dropped, None
        return self.error or dropped

    def flush(self) -> None:
        """Write everything that is queued. Never raises: see ``error``."""
        self.armed = False  # before taking rows: one that is appended from here on is announced again
        while self._fill():
            try:
                self._write_batch()
            except LedgerError as error:
                if self.error is None:
                    _log.warning("%d usage rows wait: %s", len(self), error.message)
                self.error = error
                return
            self._batch = []
            self._attempted = False
        self.error = None

    def _fill(self) -> bool:
        while not self._batch and self._rows:
            taken = (self._values(self._rows.popleft()) for _ in range(min(_BATCH, len(self._rows))))
            self._batch = [values for values in taken if values is not None]
        return bool(self._batch)

    def _values(self, row: RequestRow) -> dict[str, object] | None:
        self._seq += 1
        try:
            return request_values(row, self._writer, self._seq)
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            self._dropped = LedgerError(f"a request could not be recorded: {error}")
            self._dropped.__cause__ = error
            _log.warning("%s", self._dropped.message)
            return None

    def _write_batch(self) -> None:
        again, self._attempted = self._attempted, True
        try:
            self._write(self._batch)
        except RowExists:
            if not again:  # else the answer to an earlier attempt was lost: the batch, being whole, is there
                raise
