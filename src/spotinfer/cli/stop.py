from __future__ import annotations

from argparse import Namespace

from .common import open_client
from .parser import Parser, add_json, add_name


def options(parser: Parser) -> None:
    add_name(parser)
    add_json(parser)


def run(arguments: Namespace) -> int:
    with open_client() as client:
        record = client.stop(arguments.name)
    if arguments.json:
        from .data import record_dict, show_json

        show_json(record_dict(record))
    else:
        from .output import say

        say(f"{record.name} is {record.state}. Its disk usually costs money: spotinfer terminate {record.name}")
    return 0
