"""Reads command lines: the standard library's parser, with "did you mean" and errors that the caller prints.

Typer was measured: it builds a pydantic schema for every option, 80 ms of processor time at each start, which is a
sixth of what `spotinfer ls` may use.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import NoReturn


class UsageError(Exception):
    """The command line itself is wrong: exit status 2. ``program`` is what ``--help`` helps with."""

    def __init__(self, message: str, program: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = f"{program} --help"


class Parser(argparse.ArgumentParser):
    """``name`` is the command, empty for the whole program."""

    def __init__(self, name: str, description: str, *, epilog: str | None = None) -> None:
        super().__init__(
            prog=f"spotinfer {name}".strip(),
            description=description,
            epilog=epilog,
            allow_abbrev=False,  # an option that is added later must not change what an abbreviation means
            formatter_class=_Formatter,
        )

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Raises :class:`UsageError`."""
        found, unknown = self.parse_known_args(arguments)
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            wrong = next((argument for argument in unknown if argument.startswith("-")), None)
            if wrong is None:
                self.error(f"nothing is expected at {unknown[0]!r}")
            self.error(f"there is no option {wrong.partition('=')[0]}{did_you_mean(wrong.partition('=')[0], options)}")
        return found

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, self.prog)


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def whole(least: int, most: int) -> type[int]:
    """A whole number within bounds, as the ``type`` of an option."""

    class Whole(int):
        def __new__(cls, text: str) -> Whole:
            number = super().__new__(cls, text)
            if not least <= number <= most:
                raise ValueError(text)
            return number

    Whole.__name__ = f"number from {least} to {most}"  # argparse: "invalid <name> value"
    return Whole


def add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON: stable keys, money as text")


def add_yes(parser: Parser) -> None:
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def add_name(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", help="the server's name")


def add_progress(parser: Parser) -> None:
    parser.add_argument("--progress", metavar="KIND", help="how progress is shown: auto, plain or none")
