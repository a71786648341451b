"""A snapshot for people: plain text, a rich table, HTML. All three show the same facts and the same rows."""

from __future__ import annotations

import html
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from ...core.money import usd
from .snapshot import Line, LineKind, Snapshot

if TYPE_CHECKING:
    from rich.console import RenderableType

UNKNOWN = "—"
NO_PRICE = "owned, no price set"
_HEAD = ("where it went", "requests", "tokens in", "out", "time", "accrued", "share")


def facts(shot: Snapshot) -> list[tuple[str, str]]:
    """What is said above the table."""
    said = [
        ("accrued (measured)", _accrued(shot)),
        ("billed", _billed(shot)),
        ("predicted", _amount(shot.predicted)),
        ("per million tokens", _rates(shot)),
        ("tokens", _tokens(shot)),
        ("requests", _requests(shot)),
        ("time", _times(shot)),
    ]
    if shot.other_tokens:
        said.append(("other traffic", f"{shot.other_prompt_tokens:,} in · {shot.other_completion_tokens:,} out"))
    return said


def rows(shot: Snapshot) -> list[tuple[str, ...]]:
    """The lines of the table, in the order of ``_HEAD``; they sum to the accrued amount, which is the last row."""
    seconds = sum(line.seconds for line in shot.lines)
    total = ("total", f"{shot.requests:,}", "", "", span(seconds), _amount(shot.accrued), "")
    return [*(_row(line, shot.accrued) for line in shot.lines), total]


def title(shot: Snapshot) -> str:
    if not shot.names:
        return "no machine yet"
    return shot.names[0] if len(shot.names) == 1 else f"{len(shot.names)} machines"


def short(shot: Snapshot) -> str:
    """One line."""
    tokens = f"{shot.prompt_tokens:,} in + {shot.completion_tokens:,} out"
    return f"{title(shot)}: {_accrued(shot)} accrued, {tokens} tokens, {shot.requests:,} requests"


def as_text(shot: Snapshot) -> str:
    said = facts(shot)
    label = max(len(name) for name, _ in said)
    lines = [f"meter · {title(shot)}", *(f"  {name:<{label}}  {value}" for name, value in said), ""]
    table = [_HEAD, *rows(shot)]
    widths = [max(len(row[column]) for row in table) for column in range(len(_HEAD))]
    for row in table:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def as_rich(shot: Snapshot) -> RenderableType:
    from rich import box
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    head = Table.grid(padding=(0, 2))
    head.add_column(style="dim", no_wrap=True)
    head.add_column()
    for name, value in facts(shot):
        head.add_row(name, Text(value, style="bold green" if name.startswith("accrued") else ""))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    *body, total = rows(shot)
    for column, name in enumerate(_HEAD):
        # Numbers are never cut; a long tag is folded, and only it.
        widest = max(len(row[column]) for row in (_HEAD, *body, total)) if column else 8
        side: Literal["left", "right"] = "right" if column else "left"
        table.add_column(name, justify=side, no_wrap=column > 0, overflow="fold", min_width=widest)
    for line, row in zip(shot.lines, body, strict=True):
        table.add_row(*(Text(cell) for cell in row), style="" if line.kind is LineKind.TAG else "dim")
    table.add_section()
    table.add_row(*total, style="bold")
    heading = Text(f"meter · {title(shot)}")
    return Panel(Group(head, "", table), title=heading, title_align="left", box=box.ROUNDED, expand=False)


def as_html(shot: Snapshot) -> str:
    def cells(row: Sequence[str], tag: str, side: str = "right") -> str:
        styled = zip(row, ("left", *[side] * (len(row) - 1)), strict=True)
        return "".join(f'<{tag} style="text-align:{at}">{html.escape(cell)}</{tag}>' for cell, at in styled)

    said = "".join(f"<tr>{cells(fact, 'td', 'left')}</tr>" for fact in facts(shot))
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows(shot))
    return (
        f'<div class="spotinfer-meter"><b>meter · {html.escape(title(shot))}</b><table>{said}</table>'
        f"<table><thead><tr>{cells(_HEAD, 'th')}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _amount(amount: Decimal | None) -> str:
    return UNKNOWN if amount is None else usd(amount)


def _accrued(shot: Snapshot) -> str:
    if shot.accrued is not None:
        return usd(shot.accrued)
    return NO_PRICE if shot.owned else "a machine has no price set"


def _billed(shot: Snapshot) -> str:
    if shot.billed is None:
        return UNKNOWN
    drift = shot.drift
    if drift is None or not shot.accrued:
        return usd(shot.billed)
    sign = "+" if drift >= 0 else "-"
    return f"{usd(shot.billed)} ({sign}{usd(abs(drift))}, {sign}{abs(drift) / shot.accrued:.1%} against accrued)"


def _rates(shot: Snapshot) -> str:
    if shot.accrued is None:
        return f"{UNKNOWN} ({_accrued(shot)})"
    if shot.per_million_tokens is None:
        return UNKNOWN
    output = _amount(shot.per_million_output_tokens)
    return f"{usd(shot.per_million_tokens)} in and out · {output} output only"


def _tokens(shot: Snapshot) -> str:
    cached = f" ({shot.cached_tokens:,} cached)" if shot.cached_tokens else ""
    reasoning = f" ({shot.reasoning_tokens:,} reasoning)" if shot.reasoning_tokens else ""
    return f"{shot.prompt_tokens:,} in{cached} · {shot.completion_tokens:,} out{reasoning}"


def _requests(shot: Snapshot) -> str:
    parts = [f"{shot.ok:,} ok"]
    named = ((shot.failed, "failed"), (shot.cancelled, "cancelled"), (shot.estimated, "estimated"))
    parts += [f"{count:,} {name}" for count, name in named if count]
    each = f" · {usd(shot.per_request)} each" if shot.per_request is not None else ""
    return ", ".join(parts) + each


def _times(shot: Snapshot) -> str:
    used = "" if shot.utilisation is None else f", {shot.utilisation:.0%} in use"
    return f"{span(shot.cold_seconds)} cold start · {span(shot.ready_seconds)} ready{used}"


def _row(line: Line, total: Decimal | None) -> tuple[str, ...]:
    counted = line.kind in (LineKind.TAG, LineKind.PROBE)
    tokens = line.kind not in (LineKind.COLD, LineKind.IDLE)
    return (
        line.label,
        f"{line.requests:,}" if counted else "",
        f"{line.prompt_tokens:,}" if tokens else "",
        f"{line.completion_tokens:,}" if tokens else "",
        span(line.seconds),
        _amount(line.amount),
        f"{line.amount / total:.0%}" if total and line.amount is not None else "",
    )


def span(seconds: float) -> str:
    """``0.42 s``, ``12 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 10:
        return f"{seconds:.2f} s" if seconds else "0 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
