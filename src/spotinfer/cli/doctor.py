from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from .common import open_client
from .parser import Parser, add_json

if TYPE_CHECKING:
    from ..client.doctor import Finding

MARKS = {"ok": ("✓", "green"), "note": ("-", "yellow"), "problem": ("✗", "bold red")}


def options(parser: Parser) -> None:
    add_json(parser)


def run(arguments: Namespace) -> int:
    """1 if there is a problem."""
    from ..client.doctor import Verdict, examine
    from ..client.settings import Settings

    settings = Settings.load()
    findings: list[Finding] = []
    with open_client() as client:
        for finding in examine(client, settings):
            first = not findings or findings[-1].area != finding.area
            findings.append(finding)
            if not arguments.json:
                _show(finding, first)
    problems = [finding for finding in findings if finding.verdict is Verdict.PROBLEM]
    if arguments.json:
        from .data import show_json

        names = ("area", "verdict", "text", "hint")
        show_json([{name: getattr(finding, name) for name in names} for finding in findings])
    else:
        _sum_up(len(problems))
    return 1 if problems else 0


def _show(finding: Finding, first: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from . import output

    mark, style = MARKS[finding.verdict.value]
    text = Text(finding.text)
    if finding.hint:
        text.append(f"  ->  {finding.hint}", style="dim" if finding.verdict.value == "note" else "yellow")
    line = Table.grid(padding=(0, 1, 0, 0))
    line.add_column(style="bold", width=10)
    line.add_column(width=1, style=style)
    line.add_column(overflow="fold")
    line.add_row(finding.area if first else "", mark, text)
    output.show(line)


def _sum_up(problems: int) -> None:
    from . import output

    if problems:
        output.say(f"\n{problems} problem{'' if problems == 1 else 's'}.", style="bold red")
    else:
        output.say("\nEverything that a launch on this computer needs is there: spotinfer demo", style="green")
