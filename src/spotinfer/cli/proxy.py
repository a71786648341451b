from __future__ import annotations

from argparse import Namespace

from .common import open_client
from .parser import Parser, add_json, add_name, whole


def options(parser: Parser) -> None:
    add_name(parser)
    parser.add_argument("--port", type=whole(0, 65535), default=0, help="port on 127.0.0.1 (default: any free one)")
    add_json(parser)


def run(arguments: Namespace) -> int:
    """Until Ctrl-C, or until the server ends, which the progress tells."""
    from .output import say

    with open_client() as client, client.connect(arguments.name) as server:
        address = server.local_url(arguments.port)
        if arguments.json:
            from .data import show_json

            show_json({"name": server.name, "model": server.model, "url": address.url, "key": address.key.reveal()})
        else:
            lines = (f"export {variable}={value}" for variable, value in address.environment.items())
            print("\n".join(lines), flush=True)
            say(f'Open until Ctrl-C. model="{server.model}"', style="dim")
        server.wait_ended()
    return 0
