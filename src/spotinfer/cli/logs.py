from __future__ import annotations

import typer

from .common import JSON, NAME, open_client

app = typer.Typer(add_completion=False)


@app.command()
def logs(
    name: str = NAME,
    tail: int = typer.Option(100, min=1, max=100_000, help="How many of the last lines."),
    as_json: bool = JSON,
) -> None:
    """Print a server's last lines of output, also of one that has ended."""
    with open_client() as client:
        lines = client.logs(name, tail)
    if as_json:
        from .output import show_json

        show_json({"name": name, "lines": lines})
    else:
        for line in lines:
            print(line)
