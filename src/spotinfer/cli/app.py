"""Which commands there are. A command's file is imported when it is used; it imports what is heavy when it runs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from ..core.errors import UnknownName

COMMANDS = (
    "launch",
    "ls",
    "cost",
    "logs",
    "proxy",
    "stop",
    "terminate",
    "reap",
    "init",
    "doctor",
    "config",
    "demo",
)
"""In the order of the help. Each is a module here with an ``app``."""


class LazyGroup(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in self.commands:
            loaded = get_command(import_module(f".{cmd_name}", __package__).app)
            loaded.name = cmd_name
            self.commands[cmd_name] = loaded
        return self.commands[cmd_name]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS:
            ctx.fail(UnknownName("command", args[0], COMMANDS).message)
        return super().resolve_command(ctx, args)


def command() -> Any:
    """The whole program."""
    return get_command(app)


def _version(asked: bool) -> None:
    if asked:
        from .. import __version__

        print(f"spotinfer {__version__}")
        raise typer.Exit


app = typer.Typer(cls=LazyGroup, add_completion=True, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def spotinfer(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Run open-weight LLMs at the price of the metal."""
