from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from .common import JSON, PROGRESS, open_client, record_of

if TYPE_CHECKING:
    from ..client.sync import Client, Server
    from ..core.records import Record

app = typer.Typer(add_completion=False)


def _option(help: str) -> Any:
    return typer.Option(None, help=help, show_default=False)


ENGINE_ARG = _option("A further option of the engine; repeatable: --engine-arg=--max-num-seqs=8")


@app.command()
def launch(
    model: str = typer.Argument(help="A hub id, a folder, a .gguf file, or tiny.", show_default=False),
    provider: str | None = _option("Only this provider."),
    engine: str | None = _option("vllm or llamacpp; default: by rule."),
    name: str | None = _option("The server's name; default: made from the model's."),
    if_exists: str = typer.Option("error", help="If a server of that name is live: error or attach."),
    budget: str | None = _option("Dollars after which it is ended."),
    max_price: str | None = _option("Dollars an hour that an offer may cost."),
    idle_timeout: str | None = _option("End after this long without work: 10m, or never.  [default: 30m]"),
    max_age: str | None = _option("End at this age: 8h, or never.  [default: 1d]"),
    revision: str | None = _option("The model's revision at the hub."),
    context: int | None = _option("Longest context in tokens."),
    slots: int | None = _option("Requests served at once."),
    engine_arg: list[str] | None = ENGINE_ARG,
    port: int | None = _option("The engine's port on this computer; default: any free one."),
    timeout: str | None = _option("How long the launch may take."),
    attach: bool = typer.Option(False, "--attach", help="Stay in the foreground; Ctrl-C ends the server."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show the plan and rent nothing."),
    progress: str | None = PROGRESS,
    as_json: bool = JSON,
) -> None:
    """Launch a server. It runs on when this command ends, until a limit ends it."""
    options = {
        "provider": provider,
        "engine": engine,
        "name": name,
        "if_exists": if_exists,
        "budget": budget,
        "max_price": max_price,
        "idle_timeout": idle_timeout,
        "max_age": max_age,
        "revision": revision,
        "context": context,
        "slots": slots,
        "engine_args": engine_arg,
        "port": port,
        "timeout": timeout,
    }
    options = {option: value for option, value in options.items() if value is not None}
    with open_client(progress) as client:
        if dry_run:
            _show_plan(client, model, options, as_json)
        else:
            server = client.launch(model, **options, detach=not attach)  # type: ignore[arg-type]  # checked there
            record = record_of(client, server)
            _announce(server, record, attach, as_json)
            if attach:
                _stay(server)


def _show_plan(client: Client, model: str, options: dict[str, Any], as_json: bool) -> None:
    from . import output

    plan = client.plan(model, **options)
    if as_json:
        output.show_json(plan.as_dict())
    else:
        output.stdout().print(plan.explain(), markup=False)


def _announce(server: Server, record: Record, attach: bool, as_json: bool) -> None:
    from . import output

    if as_json:
        output.show_json({**output.record_dict(record), "endpoint": str(server.endpoint)})
        return
    price = "owned, no price set" if record.per_hour is None else f"{output.dollars(record.per_hour)} an hour"
    end = "Ctrl-C" if attach else f"spotinfer terminate {server.name}"
    output.show(
        output.facts(
            ("server", f"{server.name}: {server.model} on {server.engine}, {server.provider}, {price}"),
            ("shell", f"spotinfer proxy {server.name}"),
            ("Python", f'spotinfer.connect("{server.name}").client'),
            ("end it", f"{end}; ends itself at {output.limits_text(record)}"),
        )
    )


def _stay(server: Server) -> None:
    """Until it ends by itself, or until Ctrl-C or SIGTERM, which end it."""
    from . import output

    try:
        record = server.wait_ended()
    except KeyboardInterrupt:
        output.say(f"Ending {server.name} ...")
        server.close()
        output.say(f"{server.name} is {server.state}.")
        raise
    output.say(f"{server.name} has ended ({record.cause}).")
