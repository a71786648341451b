"""How commands print for people: data on stdout, remarks and errors on stderr."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..client.durations import format_duration
from ..core.money import usd

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..core.records import Record

NO_WIDTH = 4000
"""A pipe has none: do not break what another program reads."""


def stdout() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=NO_WIDTH)


def stderr() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def show(*items: RenderableType) -> None:
    console = stdout()
    for item in items:
        console.print(item)


def say(text: str, *, style: str = "") -> None:
    """A remark for people, on stderr."""
    stderr().print(Text(text, style=style))


def complain(message: str, *, hint: str | None = None, log: Sequence[str] = ()) -> None:
    console = stderr()
    first, *rest = message.splitlines() or [""]
    console.print(Text.assemble(("error: ", "bold red"), (first, "red")))
    for line in rest:
        console.print(Text(line))
    if hint:
        console.print(Text.assemble(("hint:  ", "bold"), hint))
    for line in log[-20:]:
        console.print(Text(f"  | {line}", style="dim"))


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    result = Table(box=None, padding=(0, 3, 0, 0), header_style="dim", pad_edge=False)
    for column in columns:  # where it is narrow the last one breaks, and no name is cut
        last = column == columns[-1]
        result.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=not last,
            overflow="fold" if last else "ellipsis",
        )
    return result


def facts(*pairs: tuple[str, str]) -> Table:
    """What something is, one fact a line."""
    result = Table.grid(padding=(0, 3, 0, 0))
    result.add_column(style="dim", no_wrap=True)
    result.add_column(overflow="fold")
    for name, value in pairs:
        result.add_row(name, Text(value))
    return result


STYLES = {"ready": "green", "terminated": "dim", "lost": "red", "stopped": "yellow"}


def state(value: object) -> Text:
    return Text(str(value), style=STYLES.get(str(value), "cyan"))


def dollars(amount: Decimal | None) -> str:
    """Owned hardware without a price is not free."""
    return "no price set" if amount is None else usd(amount)


def limits_text(record: Record) -> str:
    """``30m idle, 1d old, $0.50``."""
    limits = record.limits
    parts = [
        f"{format_duration(limits.idle)} idle" if limits.idle else "",
        f"{format_duration(limits.max_age)} old" if limits.max_age else "",
        f"{usd(limits.budget)} spent" if limits.budget is not None else "",
    ]
    return ", ".join(part for part in parts if part) or "never"
