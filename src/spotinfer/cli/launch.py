from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from .common import open_client, record_of
from .parser import Parser, add_json, add_progress, whole

if TYPE_CHECKING:
    from ..client.sync import Client, Server
    from ..core.records import Record

OPTIONS = {
    "provider": ("NAME", "only this provider"),
    "engine": ("NAME", "vllm or llamacpp (default: by rule)"),
    "name": ("NAME", "the server's name (default: made from the model's)"),
    "budget": ("DOLLARS", "end when this is spent"),
    "max_price": ("DOLLARS", "what an offer may cost an hour"),
    "idle_timeout": ("SPAN", "end after this long without work: 10m, or never (default: 30m)"),
    "max_age": ("SPAN", "end at this age: 8h, or never (default: 1d)"),
    "timeout": ("SPAN", "how long the launch may take"),
    "revision": ("REVISION", "of the model at the hub"),
}
"""As :class:`LaunchOptions` has them; it is checked there."""


def options(parser: Parser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a hub id, a folder, a .gguf file, or tiny")
    for name, (metavar, help) in OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=help)
    parser.add_argument("--if-exists", choices=["error", "attach"], help="what to do if the name is live")
    parser.add_argument("--context", type=int, metavar="TOKENS", help="longest context")
    parser.add_argument("--slots", type=int, metavar="N", help="requests served at once")
    parser.add_argument("--port", type=whole(0, 65535), help="the engine's port on this computer")
    parser.add_argument(
        "--engine-arg",
        action="append",
        dest="engine_args",
        metavar="OPTION",
        help="a further option of the engine, repeatable: --engine-arg=--max-num-seqs=8",
    )
    parser.add_argument("--attach", action="store_true", help="stay in the foreground; Ctrl-C ends the server")
    parser.add_argument("--dry-run", action="store_true", help="show the plan and rent nothing")
    add_progress(parser)
    add_json(parser)


def run(arguments: Namespace) -> int:
    names = (*OPTIONS, "if_exists", "context", "slots", "port", "engine_args")
    chosen: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    with open_client(arguments.progress) as client:
        if arguments.dry_run:
            _show_plan(client, arguments.model, chosen, arguments.json)
            return 0
        server = client.launch(arguments.model, **chosen, detach=not arguments.attach)
        try:
            _announce(server, record_of(client, server), arguments)
            return _stay(server) if arguments.attach else 0
        except KeyboardInterrupt:
            _leave(server, arguments.attach)
            raise


def _show_plan(client: Client, model: str, options: dict[str, Any], as_json: bool) -> None:
    plan = client.plan(model, **options)
    if as_json:
        from .data import show_json

        show_json(plan.as_dict())
    else:
        print(plan.explain())


def _announce(server: Server, record: Record, arguments: Namespace) -> None:
    if arguments.json:
        from .data import record_dict, show_json

        show_json({**record_dict(record), "endpoint": str(server.endpoint)})
        return
    from . import output

    price = "owned, no price set" if record.per_hour is None else f"{output.dollars(record.per_hour)} an hour"
    end = "Ctrl-C" if arguments.attach else f"spotinfer terminate {server.name}"
    output.show(
        output.facts(
            ("server", f"{server.name}: {server.model} on {server.engine}, {server.provider}, {price}"),
            ("shell", f"spotinfer proxy {server.name}"),
            ("Python", f'spotinfer.connect("{server.name}").client'),
            ("end it", f"{end}; ends itself at {output.limits_text(record)}"),
        )
    )


def _stay(server: Server) -> int:
    """Until it ends by itself, which the progress tells. 0 if somebody wanted its end."""
    from ..core.states import Cause

    return 0 if server.wait_ended().cause in (Cause.USER, Cause.IDLE, Cause.MAX_AGE, Cause.BUDGET) else 1


def _leave(server: Server, attached: bool) -> None:
    from .output import say

    if not attached:
        say(f"{server.name} runs on; to end it: spotinfer terminate {server.name}")
        return
    say(f"Ending {server.name} ...")
    server.close()
    say(f"{server.name} is {server.state}.")
