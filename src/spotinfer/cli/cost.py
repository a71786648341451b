from __future__ import annotations

from argparse import Namespace

from .common import open_client
from .parser import Parser, add_json


def options(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="one server; default: all")
    parser.add_argument("--since", metavar="SPAN", help="only the trailing span, for example 7d")
    parser.add_argument("--export", metavar="FILE", help="also write every request to a .csv or .json file")
    add_json(parser)


def run(arguments: Namespace) -> int:
    from ..client.durations import parse_duration

    since = parse_duration(arguments.since, what="--since")
    with open_client() as client:
        meter = client.meter(arguments.name, since=since)
        if arguments.export:
            meter.export(arguments.export)
        if arguments.json:
            from .data import show_json

            show_json(meter.snapshot().as_dict())
        else:
            from .output import show

            show(meter)
    return 0
