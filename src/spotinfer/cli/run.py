"""Runs one command and turns whatever happens into an exit status and at most a few lines on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from ..core.errors import ServerError, SpotinferError
from .app import command
from .signals import INTERRUPTED, Signals

UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # Typer brings its own, older releases that of Click
BROKEN_PIPE = 141


def run(arguments: Sequence[str]) -> int:
    """The exit status. Never raises."""
    signals = Signals()
    signals.install()
    as_json = "--json" in arguments
    try:
        status = command().main(args=list(arguments), prog_name="spotinfer", standalone_mode=False)
        sys.stdout.flush()
        return signals.status if status == INTERRUPTED else int(status or 0)
    except KeyboardInterrupt:
        return signals.status
    except typer.Abort:
        return 1
    except SpotinferError as error:
        _say_error(error, as_json=as_json)
        return 1
    except BrokenPipeError:
        # Whoever read our output has gone (`spotinfer ls | head -1`); flushing at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except UsageError as error:
        return _say_usage(error, as_json=as_json)


def _say_error(error: SpotinferError, *, as_json: bool) -> None:
    from .output import complain, complain_json

    if as_json:
        log = {"log": list(error.log)} if isinstance(error, ServerError) else {}
        complain_json({**error.as_dict(), **log})
    else:
        complain(error.message, hint=error.hint, log=error.log if isinstance(error, ServerError) else ())


def _say_usage(error: Exception, *, as_json: bool) -> int:
    """Unknown options and commands, wrong values: exit status 2."""
    from .output import complain, complain_json

    context = getattr(error, "ctx", None)
    message = str(getattr(error, "format_message", lambda: str(error))()).strip()
    path = context.command_path if context is not None else "spotinfer"
    if not message:  # a group without a command: the help was the answer
        return 2
    if as_json:
        complain_json({"error": "usage", "message": message, "hint": f"{path} --help"})
    else:
        complain(message, hint=f"{path} --help")
    return 2
