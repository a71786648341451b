from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from .common import JSON, YES, can_ask, confirm, open_client

if TYPE_CHECKING:
    from ..control.reap import Found, ReapReport

app = typer.Typer(add_completion=False)


@app.command()
def reap(
    yes: bool = YES,
    dry_run: bool = typer.Option(False, "--dry-run", help="Only look."),
    as_json: bool = JSON,
) -> None:
    """Find machines that nobody owns any more, and end them."""
    with open_client() as client:
        report = client.reap(dry_run=True)
        if not as_json:
            _show(report)
        wanted = bool(report.unowned) and not dry_run and _agreed(yes, as_json, len(report.unowned))
        if wanted:
            report = client.reap()
    if as_json:
        from .output import show_json

        show_json(as_dict(report))
    else:
        _tell(report)
    left = bool(report.unowned) and not wanted and not dry_run
    if report.failed or left:
        raise typer.Exit(1)


def as_dict(report: ReapReport) -> dict[str, object]:
    return {
        "found": [_found_dict(item) for item in report.found],
        "ended": [item.key for item in report.ended],
        "failed": report.failed,
    }


def _found_dict(item: Found) -> dict[str, object]:
    names = ("provider", "id", "key", "name", "state", "age", "spent", "why")
    return {"owned": item.why is None, **{name: getattr(item, name) for name in names}}


def _agreed(yes: bool, as_json: bool, count: int) -> bool:
    if yes:
        return True
    if as_json or not can_ask():
        from .output import say

        say("Nothing was ended: --yes ends what nobody owns.")
        return False
    return confirm(f"End {count}?")


def _show(report: ReapReport) -> None:
    from ..client.durations import format_duration
    from . import output

    if not report.found:
        output.say("Nothing of yours was found.", style="dim")
        return
    table = output.table("NAME", "STATE", "PROVIDER", "MACHINE", "AGE", "COST", "OWNED", right=("AGE", "COST"))
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
