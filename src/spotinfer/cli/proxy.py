from __future__ import annotations

import typer

from .common import JSON, NAME, open_client

app = typer.Typer(add_completion=False)


@app.command()
def proxy(
    name: str = NAME,
    port: int = typer.Option(0, min=0, max=65535, help="Port on 127.0.0.1; 0: any free one."),
    as_json: bool = JSON,
) -> None:
    """Open a loopback address to a server for other programs, until Ctrl-C."""
    from . import output

    with open_client() as client, client.connect(name) as server:
        address = server.local_url(port)
        if as_json:
            output.show_json({"name": name, "model": server.model, "url": address.url, "key": address.key.reveal()})
        else:
            lines = (f"export {variable}={value}" for variable, value in address.environment.items())
            print("\n".join(lines), flush=True)
            output.say(f'Open until Ctrl-C. model="{server.model}"', style="dim")
        record = server.wait_ended()
        output.say(f"{name} has ended ({record.cause}).")
