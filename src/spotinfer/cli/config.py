from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from .common import JSON

if TYPE_CHECKING:
    from ..client.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def config() -> None:
    """Show settings and where they come from."""


@app.command("show")
def show(as_json: bool = JSON) -> None:
    """Show each setting, its value and where it came from. Secrets are not shown."""
    from ..client.settings import Settings
    from ..client.settings.fields import FIELDS
    from . import output

    settings = Settings.load()
    if as_json:
        output.show_json({field.name: _as_dict(settings, field.name) for field in FIELDS})
        return
    table = output.table("SETTING", "VALUE", "FROM", "MEANING")
    for field in FIELDS:
        said = settings.is_set(field.name)
        table.add_row(
            field.name,
            settings.shown(field.name) or "-",
            str(settings.sources[field.name]) if said else "default",
            field.help,
            style="" if said else "dim",
        )
    exists = "" if settings.config_file.exists() else " (not there yet)"
    output.show(table, "", f"file      {settings.config_file}{exists}", "variables SPOTINFER_<SETTING>")


def _as_dict(settings: Settings, name: str) -> dict[str, object]:
    source = settings.sources[name]
    return {"value": settings.shown(name), "source": source.origin, "where": source.where or None}
