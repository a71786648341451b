from __future__ import annotations

from argparse import Namespace

from .common import open_client
from .parser import Parser, add_json, add_name, whole


def options(parser: Parser) -> None:
    add_name(parser)
    parser.add_argument(
        "--tail", type=whole(1, 100_000), default=100, metavar="N", help="how many lines (default: 100)"
    )
    add_json(parser)


def run(arguments: Namespace) -> int:
    with open_client() as client:
        lines = client.logs(arguments.name, arguments.tail)
    if arguments.json:
        from .data import show_json

        show_json({"name": arguments.name, "lines": lines})
    else:
        for line in lines:
            print(line)
    return 0
