"""The meter as people see it, tags, windows, export; over a real ledger."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import anyio
import pytest
from rich.console import Console

from spotinfer.core.errors import ConfigError
from spotinfer.core.states import Cause, State
from spotinfer.ledger.meter import Meter, Snapshot
from spotinfer.ledger.store import SqlLedger, open_ledger
from spotinfer.ledger.tags import current_tag, tag
from support.histories import T0, at, intent, row


class Fixed:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def now(self) -> datetime:
        return at(self.seconds)


NASTY = '<b>&"quoted", ünïcode'


@pytest.fixture(params=[False, True], ids=["thread", "inline"])
def ledger(request: pytest.FixtureRequest) -> Iterator[SqlLedger]:
    """One machine, ready after 10 seconds, with two requests."""
    ledger = open_ledger(":memory:", inline=request.param)

    async def fill() -> None:
        await ledger.intend(intent(name="<one>"))
        await ledger.move("si-1", State.READY, Cause.PROGRESS, at(10))
        ledger.request(row(20, 30, tag=NASTY, tokens=(1000, 500)))
        ledger.request(row(40, 50, tokens=(10, 5), status="cancelled", estimated=True))

    anyio.run(fill)
    yield ledger
    ledger.close()


@pytest.fixture
def meter(ledger: SqlLedger) -> Meter:
    return Meter(ledger, ["si-1"], clock=Fixed(100))


def test_the_snapshot_is_the_same_for_sync_async_and_other_threads(meter: Meter) -> None:
    found: list[Snapshot] = [meter.snapshot()]

    async def main() -> None:
        found.append(await meter.asnapshot())
        found.append(meter.snapshot())  # as a notebook does: a loop is running in this thread

    anyio.run(main)
    thread = threading.Thread(target=lambda: found.append(meter.snapshot()))
    thread.start()
    thread.join()
    assert len(found) == 4
    assert all(shot == found[0] for shot in found)
    assert (found[0].accrued, found[0].requests) == (Decimal("0.1"), 2)


def test_what_people_read(meter: Meter) -> None:
    text = str(meter)
    for expected in (
        "accrued (measured)",
        "$0.10",
        "billed",
        "predicted",
        "1,010 in",
        "per million tokens",
        "idle",
        NASTY,
    ):
        assert expected in text
    assert "cost" not in text
    assert repr(meter) == "<Meter <one>: $0.10 accrued, 1,010 in + 505 out tokens, 2 requests>"
    page = meter._repr_html_()
    assert "&lt;b&gt;&amp;&quot;quoted" in page
    assert "<b>&" not in page
    assert "&lt;one&gt;" in page


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_a_terminal_and_shows_what_the_text_shows(meter: Meter, width: int) -> None:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(meter)
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(len(line) for line in drawn.splitlines()) <= width
    for expected in ("accrued (measured)", "cold start", "idle", "total", "$0.01", "$0.07", "share", "10%"):
        assert expected in drawn
    assert "…" not in drawn.replace("ünïcode", "")


def test_a_repr_does_not_raise_when_the_ledger_is_gone(ledger: SqlLedger, meter: Meter) -> None:
    ledger.close()
    assert "memory was closed" in repr(meter)


def test_windows(meter: Meter) -> None:
    last = meter.window(minutes=1)
    assert (last.since, last.accrued, last.requests) == (at(40), Decimal("0.06"), 1)
    assert meter.window(days=7).accrued == Decimal("0.1")
    early = meter.snapshot(until=at(40))
    assert (early.accrued, early.requests) == (Decimal("0.04"), 1)
    assert meter.snapshot(since=timedelta(seconds=60)) == last
    assert Meter(meter._ledger, since=timedelta(seconds=60), clock=Fixed(100)).snapshot() == last


@pytest.mark.parametrize(
    "wrong",
    [
        lambda meter: meter.window(),
        lambda meter: meter.window(days=-1),
        lambda meter: meter.snapshot(since=at(50), until=at(40)),
        lambda meter: meter.snapshot(since=datetime(2026, 1, 1)),
        lambda meter: meter.export("meter.xlsx"),
        lambda meter: meter.export("/nonexistent/meter.csv"),
        lambda meter: meter.tag(""),
        lambda meter: meter.tag("x" * 300),
        lambda meter: meter.tag("two\nlines"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_hint(meter: Meter, wrong: object) -> None:
    with pytest.raises(ConfigError) as refused:
        wrong(meter)  # type: ignore[operator]
    assert refused.value.hint


def test_export_as_json(meter: Meter, tmp_path: Path) -> None:
    path = meter.export(tmp_path / "meter.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["accrued"] == "0.100000000"
    assert sum(Decimal(line["amount"]) for line in document["lines"]) == Decimal(document["accrued"])
    first = document["request_rows"][0]
    assert (first["tag"], first["accrued_usd"], first["started"]) == (NASTY, "0.010000000", at(20).isoformat())
    assert list(tmp_path.iterdir()) == [path]


def test_export_as_csv(meter: Meter, tmp_path: Path) -> None:
    path = meter.export(tmp_path / "meter.csv")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = [item for item in rows if item["record"] == "line"]
    requests = [item for item in rows if item["record"] == "request"]
    assert sum(Decimal(item["accrued_usd"]) for item in lines) == Decimal("0.1")
    assert [(item["tag"], item["status"], item["completion_tokens"]) for item in requests] == [
        (NASTY, "ok", "500"),
        ("", "cancelled", "5"),
    ]


def test_exporting_without_a_price_leaves_the_amount_empty(tmp_path: Path) -> None:
    ledger = open_ledger(":memory:", inline=True)
    anyio.run(ledger.intend, intent(per_hour=None))
    meter = Meter(ledger, clock=Fixed(100))
    assert "owned, no price set" in str(meter)
    document = json.loads(meter.export(tmp_path / "m.json").read_text())
    assert (document["accrued"], document["price_known"]) == (None, False)
    with meter.export(tmp_path / "m.csv").open(newline="") as file:
        assert {item["accrued_usd"] for item in csv.DictReader(file)} == {""}
    ledger.close()


def test_tags_nest_and_follow_tasks() -> None:
    assert current_tag() == ""
    with tag("outer"):
        with tag("inner"):
            assert current_tag() == "inner"
        assert current_tag() == "outer"
    seen: dict[str, str] = {}

    async def work(name: str) -> None:
        async with tag(name):
            await anyio.sleep(0)
            seen[name] = current_tag()

    async def main() -> None:
        with tag("around"):
            async with anyio.create_task_group() as group:
                for name in ("a", "b"):
                    group.start_soon(work, name)
            seen["thread"] = await anyio.to_thread.run_sync(current_tag)
            assert current_tag() == "around"

    anyio.run(main)
    assert seen == {"a": "a", "b": "b", "thread": "around"}
    assert current_tag() == ""


def test_a_tag_survives_an_error_and_can_be_used_again() -> None:
    again = tag("again")
    with pytest.raises(ValueError, match="boom"), again:
        raise ValueError("boom")
    with again, again:
        assert current_tag() == "again"
    assert current_tag() == ""


def test_a_meter_of_several_processes_time() -> None:
    """The rows of another process are in it as soon as they are durable: the meter holds no numbers itself."""
    ledger = open_ledger(":memory:")
    meter = Meter(ledger, clock=Fixed(100))
    assert meter.snapshot().requests == 0
    anyio.run(ledger.intend, intent(when=T0))
    ledger.request(row(1, 2))
    assert meter.snapshot().requests == 1
    ledger.close()
