from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from .parser import Parser, add_json

if TYPE_CHECKING:
    from ..client.settings import Settings


def options(parser: Parser) -> None:
    parser.add_argument("what", choices=["show"], help="each setting, its value and where it came from; no secrets")
    add_json(parser)


def run(arguments: Namespace) -> int:
    from ..client.settings import Settings
    from ..client.settings.fields import FIELDS

    settings = Settings.load()
    if arguments.json:
        from .data import show_json

        show_json({field.name: _as_dict(settings, field.name) for field in FIELDS})
    else:
        _show(settings)
    return 0


def _show(settings: Settings) -> None:
    from ..client.settings.fields import FIELDS
    from . import output

    table = output.table("SETTING", "VALUE", "FROM", "MEANING")
    for field in FIELDS:
        source, style = str(settings.sources[field.name]), "" if settings.is_set(field.name) else "dim"
        table.add_row(field.name, settings.shown(field.name) or "-", source, field.help, style=style)
    exists = "" if settings.config_file.exists() else " (not there yet)"
    output.show(table, "", f"file       {settings.config_file}{exists}", "variables  SPOTINFER_<SETTING>")


def _as_dict(settings: Settings, name: str) -> dict[str, object]:
    source = settings.sources[name]
    return {"value": settings.shown(name), "source": source.origin, "where": source.where or None}
