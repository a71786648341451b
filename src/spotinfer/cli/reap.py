from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from .common import can_ask, confirm, open_client
from .parser import Parser, add_json, add_yes

if TYPE_CHECKING:
    from ..control.reap import Found, ReapReport


def options(parser: Parser) -> None:
    add_yes(parser)
    parser.add_argument("--dry-run", action="store_true", help="only look")
    add_json(parser)


def run(arguments: Namespace) -> int:
    """1 if something could not be asked or ended, or is left because nobody agreed."""
    with open_client() as client:
        report = client.reap(dry_run=True)
        if not arguments.json:
            _show(report)
        wanted = bool(report.unowned) and not arguments.dry_run and _agreed(arguments, len(report.unowned))
        if wanted:
            report = client.reap()
    if arguments.json:
        from .data import show_json

        show_json(as_dict(report))
    else:
        _tell(report)
    left = bool(report.unowned) and not wanted and not arguments.dry_run
    return 1 if report.failed or left else 0


def as_dict(report: ReapReport) -> dict[str, object]:
    return {
        "found": [_found_dict(item) for item in report.found],
        "ended": [item.key for item in report.ended],
        "failed": report.failed,
    }


def _found_dict(item: Found) -> dict[str, object]:
    names = ("provider", "id", "key", "name", "state", "age", "spent", "why")
    return {"owned": item.why is None, **{name: getattr(item, name) for name in names}}


def _agreed(arguments: Namespace, count: int) -> bool:
    if arguments.yes:
        return True
    if arguments.json or not can_ask():
        from .output import say

        say("Nothing was ended: --yes ends what nobody owns.")
        return False
    return confirm(f"End {'it' if count == 1 else f'these {count}'}?")


def _show(report: ReapReport) -> None:
    from ..client.durations import format_duration
    from . import output

    if not report.found:
        output.say("Nothing of yours was found.", style="dim")
        return
    table = output.table("NAME", "STATE", "PROVIDER", "MACHINE", "AGE", "ACCRUED", "OWNED", right=("AGE", "ACCRUED"))
    for item in report.found:
        table.add_row(
            item.name,
            output.state(item.state),
            item.provider,
            item.id or "-",
            "-" if item.age is None else format_duration(item.age),
            output.dollars(item.spent),
            "yes" if item.why is None else f"no: {item.why}",
        )
    output.show(table)


def _tell(report: ReapReport) -> None:
    from . import output

    for item in report.ended:
        output.say(f"{item.name or item.id} is ended.")
    for what, reason in report.failed.items():
        output.complain(f"{what}: {reason}", hint="try again: spotinfer reap")
