from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from .common import JSON, open_client

if TYPE_CHECKING:
    from ..client.session import ServerInfo

app = typer.Typer(add_completion=False)


@app.command()
def ls(
    all: bool = typer.Option(False, "--all", "-a", help="Also those that have ended."), as_json: bool = JSON
) -> None:
    """List the servers that run, as their providers show them now."""
    with open_client() as client:
        infos = client.servers(ended=all)
    from . import output

    if as_json:
        output.show_json([as_dict(info) for info in infos])
    elif infos:
        show(infos)
    else:
        output.say("Nothing runs.", style="dim")


def as_dict(info: ServerInfo) -> dict[str, object]:
    from .output import record_dict

    return {
        **record_dict(info.record),
        "endpoint": None if info.endpoint is None else str(info.endpoint),
        "age": info.age,
        "accrued": info.accrued,
    }


def show(infos: list[ServerInfo]) -> None:
    from ..client.durations import format_duration
    from . import output

    table = output.table(
        "NAME", "STATE", "MODEL", "ENGINE", "PROVIDER", "AGE", "COST", "ENDS AT", right=("AGE", "COST")
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
