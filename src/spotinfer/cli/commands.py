"""Which commands there are. A command's file is imported when it is used; it imports what is heavy when it runs."""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Protocol, cast

from .parser import Parser, did_you_mean

COMMANDS = {
    "launch": "launch a server, which runs on until a limit ends it",
    "ls": "list the servers that run",
    "cost": "show what servers have cost and done",
    "logs": "print a server's last lines of output",
    "proxy": "open a loopback address to a server for other programs",
    "stop": "turn a server's machine off and keep its disk",
    "terminate": "end servers",
    "reap": "find machines that nobody owns any more, and end them",
    "init": "ask for the keys of the clouds, check each, and keep them",
    "doctor": "look whether all is there that a launch needs",
    "config": "show the settings and where they come from",
    "demo": "launch a tiny model here, talk to it, see the meter",
}
"""In the order of the help. Each is a module of this folder."""


class Command(Protocol):
    """What the module of a command has."""

    def options(self, parser: Parser) -> None: ...
    def run(self, arguments: argparse.Namespace) -> int:
        """The exit status. Raises ``SpotinferError``, ``UsageError``."""
        ...


def execute(arguments: list[str]) -> int:
    """Read the command line and run its command."""
    if not arguments or arguments[0].startswith("-"):
        return _program(arguments)
    name, *rest = arguments
    if name not in COMMANDS:
        _top().error(f"there is no command {name!r}{did_you_mean(name, COMMANDS)}")
    command = cast("Command", import_module(f".{name}", __package__))
    parser = Parser(name, f"{COMMANDS[name][0].upper()}{COMMANDS[name][1:]}.")
    command.options(parser)
    return command.run(parser.read(rest))


def _program(arguments: list[str]) -> int:
    parser = _top()
    parser.add_argument("--version", action="store_true", help="show the version")
    if not parser.read(arguments).version:
        parser.print_help()
        return 0 if arguments else 2
    from .. import __version__

    print(f"spotinfer {__version__}")
    return 0


def _top() -> Parser:
    parser = Parser("", "Run open-weight LLMs at the price of the metal.", epilog="spotinfer COMMAND --help says more.")
    parser.usage = "spotinfer [--help] [--version] COMMAND ..."
    group = parser.add_argument_group("commands")
    for name, help in COMMANDS.items():
        group.add_argument(name, nargs="?", help=help, metavar=name)
    return parser
