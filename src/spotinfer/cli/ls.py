from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from .common import open_client
from .parser import Parser, add_json

if TYPE_CHECKING:
    from ..client.server_info import ServerInfo


def options(parser: Parser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="also those that have ended")
    add_json(parser)


def run(arguments: Namespace) -> int:
    with open_client() as client:
        infos = client.servers(ended=arguments.all)
    if arguments.json:
        from .data import show_json

        show_json([as_dict(info) for info in infos])
    elif infos:
        show(infos)
    else:
        from .output import say

        say("Nothing runs.", style="dim")
    return 0


def as_dict(info: ServerInfo) -> dict[str, object]:
    from .data import record_dict

    endpoint = None if info.endpoint is None else str(info.endpoint)
    return {**record_dict(info.record), "endpoint": endpoint, "age": info.age, "accrued": info.accrued}


def show(infos: list[ServerInfo]) -> None:
    from ..client.durations import format_duration
    from . import output

    table = output.table(
        "NAME", "STATE", "MODEL", "ENGINE", "PROVIDER", "AGE", "ACCRUED", "ENDS", right=("AGE", "ACCRUED")
    )
    for info in infos:
        record = info.record
        table.add_row(
            record.name,
            output.state(record.state),
            record.model,
            record.engine,
            record.provider,
            format_duration(info.age),
            output.dollars(info.accrued),
            output.limits_text(record) if record.live else f"ended: {record.cause}",
        )
    output.show(table)
