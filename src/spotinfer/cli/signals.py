"""SIGTERM and a closed terminal end a command as Ctrl-C does: the work is cancelled and its clean-up waited for."""

from __future__ import annotations

import signal
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT


class Signals:
    """``status`` is the exit status that the last signal asks for."""

    def __init__(self) -> None:
        self.status = INTERRUPTED

    def install(self) -> None:
        signal.signal(signal.SIGTERM, self._interrupt)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup asks to be left alone
            signal.signal(signal.SIGHUP, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.status = 128 + number
        raise KeyboardInterrupt
