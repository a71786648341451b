"""Runs one command and turns whatever happens into an exit status and at most a few lines on stderr."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

from ..core.errors import ServerError, SpotinferError
from .commands import execute
from .parser import UsageError
from .signals import Signals

BROKEN_PIPE = 141


def run(arguments: list[str]) -> int:
    """The exit status."""
    signals = Signals()
    signals.install()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a tick that the terminal cannot show is no reason to fail
    as_json = "--json" in arguments
    try:
        status = execute(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return signals.status
    except BrokenPipeError:
        # Whoever read our output has gone (`spotinfer ls | head -1`); flushing at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except UsageError as error:
        _tell({"error": "usage", "message": error.message, "hint": error.hint}, as_json=as_json)
        return 2
    except SpotinferError as error:
        log = {"log": list(error.log)} if isinstance(error, ServerError) else {}
        _tell({**error.as_dict(), **log}, as_json=as_json)
        return 1


def _tell(fault: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        from .data import complain_json

        complain_json(fault)
        return
    from .output import complain

    hint, log = fault["hint"], fault.get("log")
    complain(
        str(fault["message"]),
        hint=None if hint is None else str(hint),
        log=[str(line) for line in log] if isinstance(log, list) else (),
    )
