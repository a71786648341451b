from __future__ import annotations

from pathlib import Path

import typer

from .common import JSON, open_client

app = typer.Typer(add_completion=False)

EXPORT = typer.Option(None, help="Also write a .csv or .json file with every request.", show_default=False)


@app.command()
def cost(
    name: str | None = typer.Argument(None, help="One server; default: all.", show_default=False),
    since: str | None = typer.Option(None, help="Only the trailing span, for example 7d.", show_default=False),
    export: Path | None = EXPORT,
    as_json: bool = JSON,
) -> None:
    """Show what servers have cost and done: by tag, with idle time and cold start."""
    from ..client.durations import parse_duration

    with open_client() as client:
        meter = client.meter(name, since=parse_duration(since, what="since"))
        if export is not None:
            meter.export(export)
        from . import output

        if as_json:
            output.show_json(meter.snapshot().as_dict())
        else:
            output.show(meter)
