from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from .common import can_ask, confirm, open_client
from .parser import Parser, UsageError, add_json, add_yes

if TYPE_CHECKING:
    from ..client.sync import Client
    from ..core.records import Record

PROGRAM = "spotinfer terminate"


def options(parser: Parser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="the servers' names")
    parser.add_argument("--all", action="store_true", help="every server of this computer's ledger")
    add_yes(parser)
    add_json(parser)


def run(arguments: Namespace) -> int:
    """Waits for evidence that they are gone; 1 if that did not come."""
    if bool(arguments.names) == arguments.all:
        raise UsageError("say which server to end, or --all", PROGRAM)
    with open_client() as client:
        if arguments.all:
            if not _agreed(client, arguments.yes):
                return 1
            records = client.terminate_all()
        else:
            records = [client.terminate(name) for name in arguments.names]
    if arguments.json:
        from .data import record_dict, show_json

        show_json([record_dict(record) for record in records])
    else:
        _tell(records)
    return 1 if any(record.live for record in records) else 0


def _agreed(client: Client, yes: bool) -> bool:
    infos = [] if yes else client.servers()
    if not infos:
        return True
    if not can_ask():
        raise UsageError("--all asks, and there is no terminal: say --yes", PROGRAM)
    from .ls import show

    show(infos)
    return confirm(f"End {'it' if len(infos) == 1 else f'these {len(infos)}'}?")


def _tell(records: list[Record]) -> None:
    from . import output

    for record in records:
        if record.live:
            output.complain(
                f"{record.name} is {record.state}: its end is not confirmed yet", hint="`spotinfer reap` looks again"
            )
        else:
            output.say(f"{record.name} is {record.state}.")
    if not records:
        output.say("Nothing runs.", style="dim")
