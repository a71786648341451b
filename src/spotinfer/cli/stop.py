from __future__ import annotations

import typer

from .common import JSON, NAME, open_client

app = typer.Typer(add_completion=False)


@app.command()
def stop(name: str = NAME, as_json: bool = JSON) -> None:
    """Turn a server's machine off and keep its disk, where the provider can."""
    with open_client() as client:
        record = client.stop(name)
    from . import output

    if as_json:
        output.show_json(output.record_dict(record))
    else:
        output.say(f"{record.name} is {record.state}. Its disk usually costs money: spotinfer terminate {record.name}")
