from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from .common import JSON, YES, can_ask, confirm, open_client

if TYPE_CHECKING:
    from ..client.sync import Client
    from ..core.records import Record

app = typer.Typer(add_completion=False)

NAMES = typer.Argument(None, help="The servers' names.", show_default=False)


@app.command()
def terminate(
    names: list[str] | None = NAMES,
    all: bool = typer.Option(False, "--all", help="Every server of this computer's ledger."),
    yes: bool = YES,
    as_json: bool = JSON,
) -> None:
    """End servers, and wait for evidence that they are gone."""
    if bool(names) == all:
        raise typer.BadParameter("say which server, or --all", param_hint="NAME")
    with open_client() as client:
        records = _everything(client, yes) if all else [client.terminate(name) for name in names or ()]
    from . import output

    if as_json:
        output.show_json([output.record_dict(record) for record in records])
    else:
        for record in records:
            _tell(record)
        if not records:
            output.say("Nothing runs.", style="dim")
    if any(record.live for record in records):
        raise typer.Exit(1)


def _everything(client: Client, yes: bool) -> list[Record]:
    infos = client.servers()
    if infos and not yes:
        if not can_ask():
            raise typer.BadParameter("there is nobody to ask: say --yes", param_hint="--all")
        from .ls import show

        show(infos)
        if not confirm(f"End {len(infos)} of {len(infos)}?"):
            raise typer.Abort
    return client.terminate_all()


def _tell(record: Record) -> None:
    from . import output

    if record.live:
        output.complain(
            f"{record.name} is {record.state}: its end is not confirmed yet", hint="`spotinfer reap` looks again"
        )
    else:
        output.say(f"{record.name} is {record.state}.")
