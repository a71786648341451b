"""Signs of life while something takes long: on a terminal, in a notebook, in a log, or none. Always on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from ...core.errors import UnknownName
from ...core.model import Phase, Progress
from ...core.protocols import ProgressListener

PROGRESS = ("auto", "plain", "none")


class Display(Protocol):
    """``take`` may be called from any thread, and must be quick."""

    def open(self) -> None: ...
    def take(self, progress: Progress) -> None: ...
    def close(self, *, failed: bool) -> None: ...


class Silent:
    def open(self) -> None: ...
    def take(self, progress: Progress) -> None: ...
    def close(self, *, failed: bool) -> None: ...


@contextmanager
def listener(progress: str = "auto") -> Iterator[ProgressListener]:
    """Show what is reported to the listener for as long as the block lasts.

    ``"auto"``: live on a terminal and in a notebook, lines elsewhere; ``"plain"``: lines; ``"none"``: nothing. What is
    reported after the block (a server that ends by itself) is one line. Raises :class:`UnknownName` for other words.
    """
    display = choose(progress)
    open_ = True

    def listen(update: Progress) -> None:
        if open_:
            display.take(update)
        elif update.phase is Phase.END and not isinstance(display, Silent):
            from .plain import say

            say(f"{update.name}: {update.message}")

    display.open()
    try:
        yield listen
    except BaseException:
        open_ = False
        display.close(failed=True)
        raise
    open_ = False
    display.close(failed=False)


def choose(progress: str) -> Display:
    if progress not in PROGRESS:
        raise UnknownName("kind of progress", progress, PROGRESS)
    if progress == "none":
        return Silent()
    if progress == "auto" and in_notebook():
        from .notebook import NotebookDisplay

        return NotebookDisplay()
    if progress == "auto" and on_terminal():
        from .terminal import TerminalDisplay

        return TerminalDisplay()
    from .plain import PlainDisplay

    return PlainDisplay()


def in_notebook() -> bool:
    """Whether this is a Jupyter kernel. Nobody who has not imported IPython is in one."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")


def on_terminal() -> bool:
    """Whether stderr is a terminal that can redraw a line."""
    try:
        return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    except (AttributeError, ValueError):  # no stderr at all, or a closed one
        return False


__all__ = ["Display", "listener"]
