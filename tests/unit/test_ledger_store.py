"""The ledger as its protocol promises it: the same tests on SQLite (threaded, inline) and on a real PostgreSQL."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import inspect

from spotinfer.core.errors import ConfigError, IllegalMove, LedgerError, LedgerUnwritable, MissingExtra, NameTaken
from spotinfer.core.model import Billing, Charge, Limits
from spotinfer.core.states import LEGAL, Cause, State
from spotinfer.ledger.sql.engine import Location
from spotinfer.ledger.sql.migrate import migrate
from spotinfer.ledger.sql.schema import MIGRATIONS, metadata
from spotinfer.ledger.store import SqlLedger, open_ledger
from support.histories import at, intent, row, sample
from support.postgres import Server, running

Open = Callable[[], SqlLedger]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place where there is no ledger yet."""
    if request.param == "postgres":
        server: Server = request.getfixturevalue("postgres")
        return server.create()
    return str(tmp_path / "home" / "ledger.db")


@pytest.fixture(params=[False, True], ids=["thread", "inline"])
def reopen(request: pytest.FixtureRequest, where: str) -> Iterator[Open]:
    """Opens the same ledger, as often as it is called."""
    opened: list[SqlLedger] = []

    def again() -> SqlLedger:
        opened.append(open_ledger(where, inline=request.param))
        return opened[-1]

    yield again
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(reopen: Open) -> SqlLedger:
    return reopen()


def test_an_intent_is_there_for_everybody_with_everything_that_was_said(ledger: SqlLedger, reopen: Open) -> None:
    asked = intent(
        owner=ledger.owner,
        per_hour="0.4242424242424242424242",
        billing=Billing(granularity=60, minimum=600),
        limits=Limits(lease=None, budget=Decimal("0.50")),
    )

    async def main() -> None:
        record = await ledger.intend(asked)
        await ledger.created("si-1", "i-77", at(1))
        await ledger.created("si-1", "i-77", at(2))
        assert (record.state, record.cause, record.created_at, record.instance_id) == (
            State.REQUESTED,
            Cause.USER,
            asked.at,
            None,
        )
        other = reopen()
        found = await other.find("one")
        assert found == await ledger.record("si-1")
        assert found is not None
        assert found.instance_id == "i-77"
        assert (found.limits, found.billing, found.per_hour) == (
            asked.limits,
            asked.offer.billing,
            asked.offer.per_hour,
        )
        assert other.owner == ledger.owner
        assert list(await other.records()) == list(await other.records(live=True)) == [found]

    anyio.run(main)


def test_a_live_name_is_taken_and_free_again_after_the_end(ledger: SqlLedger) -> None:
    async def main() -> None:
        await ledger.intend(intent("si-1"))
        with pytest.raises(NameTaken, match="si-1") as taken:
            await ledger.intend(intent("si-2"))
        assert "attach" in (taken.value.hint or "")
        assert await ledger.record("si-2") is None
        await ledger.move("si-1", State.TERMINATED, Cause.RECONCILED, at(5))
        second = await ledger.intend(intent("si-3", when=at(6)))
        assert await ledger.find("one") == second
        assert [record.key for record in await ledger.records(live=False)] == ["si-1"]
        assert [record.key for record in await ledger.records()] == ["si-1", "si-3"]

    anyio.run(main)


def test_a_key_is_used_once(ledger: SqlLedger) -> None:
    async def main() -> None:
        await ledger.intend(intent("si-1", "one"))
        with pytest.raises(LedgerError, match="exists"):
            await ledger.intend(intent("si-1", "two"))
        assert await ledger.find("two") is None
        await ledger.intend(intent("si-2", "two"))  # the failed intent did not keep the name

    anyio.run(main)


def test_moves(ledger: SqlLedger) -> None:
    async def main() -> None:
        await ledger.intend(intent())
        await ledger.move("si-1", State.READY, Cause.PROGRESS, at(3))
        same = await ledger.move("si-1", State.READY, Cause.USER, at(4))
        assert (same.cause, same.state_at, same.ready_at) == (Cause.PROGRESS, at(3), at(3))
        with pytest.raises(IllegalMove):
            await ledger.move("si-1", State.BOOTING, Cause.PROGRESS, at(5))
        gone = await ledger.move("si-1", State.TERMINATED, Cause.PREEMPTED, at(6), "odd \x00 text \ud800")
        assert (gone.ended_at, gone.cause, gone.live) == (at(6), Cause.PREEMPTED, False)
        [history] = await ledger.histories()
        assert [(move.before, move.after) for move in history.transitions] == [
            (State.PLANNED, State.REQUESTED),
            (State.REQUESTED, State.READY),
            (State.READY, State.TERMINATED),
        ]
        with pytest.raises(LedgerError, match="no machine"):
            await ledger.move("si-9", State.READY, Cause.USER, at(0))

    anyio.run(main)


def test_the_first_who_wants_the_end_is_the_cause_until_it_is_gone(ledger: SqlLedger) -> None:
    async def main() -> None:
        await ledger.intend(intent())
        await ledger.move("si-1", State.READY, Cause.PROGRESS, at(3))
        await ledger.want_end("si-1", Cause.BUDGET, at(4))
        record = await ledger.want_end("si-1", Cause.USER, at(5))
        assert (record.end_wanted, record.cause, record.state) == (True, Cause.BUDGET, State.READY)
        gone = await ledger.move("si-1", State.TERMINATED, Cause.PREEMPTED, at(6))
        assert gone.cause is Cause.PREEMPTED
        assert await ledger.want_end("si-1", Cause.USER, at(7)) == gone

    anyio.run(main)


def test_a_machine_lost_on_its_way_down_is_still_to_end(ledger: SqlLedger) -> None:
    async def main() -> None:
        await ledger.intend(intent())
        await ledger.move("si-1", State.TERMINATING, Cause.IDLE, at(3))
        lost = await ledger.move("si-1", State.LOST, Cause.RECONCILED, at(4))
        assert (lost.end_wanted, lost.cause) == (True, Cause.IDLE)

    anyio.run(main)


def test_stop_is_wanted_until_it_is_not(ledger: SqlLedger) -> None:
    async def main() -> None:
        await ledger.intend(intent())
        assert (await ledger.want_stop("si-1", True, at(1))).stop_wanted
        assert (await ledger.want_stop("si-1", True, at(2))).stop_wanted
        assert not (await ledger.want_stop("si-1", False, at(3))).stop_wanted

    anyio.run(main)


def test_rates_samples_and_charges(ledger: SqlLedger) -> None:
    charge = Charge(
        provider="local", id="c1", amount=Decimal("1.20"), start=at(0), end=at(60), instance_id="i-1", description="x"
    )
    revised = Charge(
        provider="local", id="c1", amount=Decimal("1.10"), start=at(0), end=at(60), instance_id="i-1", description="x"
    )

    async def main() -> None:
        await ledger.intend(intent())
        await ledger.created("si-1", "i-1", at(1))
        await ledger.rate("si-1", Decimal("3.60"), at(10))
        await ledger.rate("si-1", Decimal("1.80"), at(20))
        await ledger.rate("si-1", None, at(30))
        await ledger.sample(sample(5, 10, 20, 1.25))
        for billed in (charge, charge, revised):
            await ledger.add_charges([billed])
        [history] = await ledger.histories()
        rates = [(change.at, change.per_hour) for change in history.rates]
        assert rates == [(at(0), Decimal("3.60")), (at(20), Decimal("1.80")), (at(30), None)]
        assert history.record.per_hour is None
        assert history.samples == (sample(5, 10, 20, 1.25),)
        assert history.charges == (revised,)

    anyio.run(main)


def test_requests_are_there_for_the_next_reader_and_after_closing(ledger: SqlLedger, reopen: Open) -> None:
    rows = [row(index, index + 0.5, tag=f"t{index}") for index in range(3)]

    async def main() -> None:
        await ledger.intend(intent())
        for one in rows:
            ledger.request(one)
        [history] = await ledger.histories()
        assert history.requests == tuple(rows)
        ledger.request(row(9, 10))
        assert len(ledger.histories_sync()[0].requests) == 4  # within the running loop
        ledger.request(row(11, 12))
        await ledger.aclose()
        await ledger.aclose()

    anyio.run(main)
    assert len(reopen().histories_sync()[0].requests) == 5
    ledger.request(row(13, 14))  # a stream that ended late: the ledger opens again
    assert len(ledger.histories_sync()[0].requests) == 6


def test_a_queued_request_is_durable_within_a_second(ledger: SqlLedger, reopen: Open) -> None:
    anyio.run(ledger.intend, intent())
    reader = reopen()
    ledger.request(row(1, 2))
    deadline = time.monotonic() + 1
    while not reader.histories_sync()[0].requests:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_is_no_request_is_told_and_holds_nothing_up(ledger: SqlLedger) -> None:
    async def main() -> None:
        await ledger.intend(intent())
        good, bad = row(1, 2, tag="nul \x00 and \udcff"), row(3, 4, tokens=(-1, 0))
        for one in (good, bad, row(5, 6)):
            ledger.request(one)
        with pytest.raises(LedgerError, match="token count"):
            await ledger.flush()
        await ledger.flush()
        [history] = await ledger.histories()
        assert [one.tag for one in history.requests] == ["nul  and ?", ""]

    anyio.run(main)


def test_a_window_has_what_touches_it_and_the_sample_before(ledger: SqlLedger) -> None:
    async def main() -> None:
        await ledger.intend(intent("si-1", "old"))
        await ledger.move("si-1", State.TERMINATED, Cause.USER, at(50))
        await ledger.intend(intent("si-2", "new", when=at(40)))
        for second in (10, 90, 110, 130):
            await ledger.sample(sample(second, second, 0, 0, key="si-2"))
        for start, end in ((20, 30), (95, 105), (120, 121), (150, 160)):
            ledger.request(row(start, end, key="si-2"))
        [history] = await ledger.histories(since=at(100), until=at(140))
        assert history.record.key == "si-2"
        assert [one.at for one in history.samples] == [at(90), at(110), at(130)]
        assert [one.started for one in history.requests] == [at(95).timestamp(), at(120).timestamp()]
        assert await ledger.histories(keys=["si-1"], since=at(100)) == []
        assert [one.record.key for one in await ledger.histories(until=at(30))] == ["si-1"]

    anyio.run(main)


def test_a_cancelled_write_happens_whole(where: str) -> None:
    ledger = open_ledger(where)

    async def main() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await ledger.intend(intent())
        assert scope.cancelled_caught
        with anyio.fail_after(2):
            record = await ledger.record("si-1")  # queued behind it
        assert record is not None
        assert record == await ledger.find("one")
        await ledger.aclose()

    anyio.run(main)


def test_the_writer_outlives_the_loop_that_waited_for_it(where: str) -> None:
    ledger = open_ledger(where)

    async def leave() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(ledger.intend, intent())
            await anyio.sleep(0)
            group.cancel_scope.cancel()

    anyio.run(leave)
    assert [history.record.key for history in ledger.histories_sync()] == ["si-1"]
    ledger.close()


def test_a_database_that_was_restarted_is_connected_again(postgres: Server) -> None:
    ledger = open_ledger(postgres.create())
    anyio.run(ledger.intend, intent())
    postgres.disconnect_everybody()
    ledger.request(row(1, 2))
    assert len(ledger.histories_sync()[0].requests) == 1
    ledger.close()


# --- opening --------------------------------------------------------------------------------------------------------


def test_the_migrations_make_the_tables_that_the_queries_use(ledger: SqlLedger, where: str) -> None:
    engine = Location(where).connect()
    with engine.begin() as connection:
        found = inspect(connection)
        assert set(found.get_table_names()) == set(metadata.tables)
        for name, table in metadata.tables.items():
            columns = {column["name"]: column for column in found.get_columns(name)}
            assert set(columns) == set(table.columns.keys())
    engine.dispose()


def test_a_failed_migration_leaves_nothing_and_the_next_one_goes_on(ledger: SqlLedger, where: str) -> None:
    location = Location(where)
    good, bad = ("ALTER TABLE claims ADD COLUMN note TEXT",), ("CREATE TABLE half (id {serial})", "SELECT nonsense(")
    engine = location.connect()

    def apply(*new: tuple[str, ...]) -> None:
        with engine.begin() as connection:
            migrate(connection, location, at(0), migrations=(*MIGRATIONS, *new))

    def tables() -> dict[str, set[str]]:
        with engine.begin() as connection:
            found = inspect(connection)
            return {name: {c["name"] for c in found.get_columns(name)} for name in found.get_table_names()}

    with pytest.raises(Exception, match="nonsense"):
        apply(good, bad)
    assert "half" not in tables()
    assert "note" not in tables()["claims"]
    apply(good)
    apply(good)
    assert "note" in tables()["claims"]
    engine.dispose()
    with pytest.raises(LedgerError, match="schema 2") as newer:
        open_ledger(where)
    assert "upgrade" in (newer.value.hint or "")


def test_many_open_a_new_ledger_at_once(where: str) -> None:
    owners: list[str] = []

    def one() -> None:
        ledger = open_ledger(where)
        owners.append(ledger.owner)
        ledger.close()

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(owners) == 6
    assert len(set(owners)) == 1


def test_money_comes_back_digit_for_digit(ledger: SqlLedger) -> None:
    amounts = ["0", "0E-9", "1.10", "0.1234567890123456789012345", "12345678901234567890.01", "1E+3"]

    async def main() -> None:
        for number, amount in enumerate(amounts):
            await ledger.intend(intent(f"si-{number}", f"n{number}", per_hour=amount))
        found = await ledger.records()
        assert [str(record.per_hour) for record in found] == amounts

    anyio.run(main)


# --- properties, in memory ------------------------------------------------------------------------------------------


def in_memory(action: Callable[[SqlLedger], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        ledger = open_ledger(":memory:", inline=True, owner="me")
        try:
            return await action(ledger)
        finally:
            await ledger.aclose()

    return anyio.run(main)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([state for state in State if state is not State.PLANNED]), max_size=12))
def test_the_fold_of_the_transitions_is_the_state_machine(wanted: list[State]) -> None:
    async def walk(ledger: SqlLedger) -> None:
        state, ready = (await ledger.intend(intent())).state, None
        for second, after in enumerate(wanted, start=1):
            if after is not state and after not in LEGAL[state]:
                with pytest.raises(IllegalMove):
                    await ledger.move("si-1", after, Cause.PROGRESS, at(second))
                continue
            record = await ledger.move("si-1", after, Cause.PROGRESS, at(second))
            ready = at(second) if ready is None and after is State.READY else ready
            state = after
            assert (record.state, record.ready_at, record.live) == (state, ready, state is not State.TERMINATED)
        assert (await ledger.find("one") is None) is (state is State.TERMINATED)

    in_memory(walk)


@settings(max_examples=30, deadline=None)
@given(st.decimals(min_value=0, allow_nan=False, allow_infinity=False))
def test_any_amount_survives(amount: Decimal) -> None:
    async def keep(ledger: SqlLedger) -> None:
        record = await ledger.intend(intent(per_hour=str(amount), limits=Limits(budget=amount)))
        assert str(record.per_hour) == str(record.limits.budget) == str(amount)

    in_memory(keep)


# --- bad places -----------------------------------------------------------------------------------------------------


def test_the_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "ledger.db"
    ledger = open_ledger(path)
    anyio.run(ledger.intend, intent())
    assert path.parent.stat().st_mode & 0o777 == path.parent.parent.stat().st_mode & 0o777 == 0o700
    files = list(path.parent.iterdir())
    assert len(files) == 3  # with the write-ahead log and its index
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    ledger.close()
    path.chmod(0o644)
    open_ledger(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_ledger_in_memory_is_gone_after_closing() -> None:
    ledger = open_ledger(":memory:")
    anyio.run(ledger.intend, intent())
    anyio.run(ledger.aclose)
    with pytest.raises(LedgerError, match="memory"):
        ledger.histories_sync()


@pytest.mark.parametrize("url", ["mysql://u:hunter2@h/d", "nonsense://", "postgres://u:hunter2@h:port/d"])
def test_a_url_that_we_cannot_use(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        open_ledger(url)
    assert "hunter2" not in str(refused.value)


def test_a_database_that_does_not_answer_and_the_password_is_not_shown() -> None:
    with pytest.raises(LedgerError) as failed:
        open_ledger("postgresql://u:hunter2@127.0.0.1:1/d?connect_timeout=2")
    assert "127.0.0.1" in str(failed.value)
    assert "hunter2" not in str(failed.value)
    assert failed.value.__cause__ is not None


def test_psycopg_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(MissingExtra, match="postgres"):
        open_ledger("postgresql://u@h/d")


@pytest.mark.parametrize("place", ["folder", "file/below"])
def test_a_place_where_no_file_can_be(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir(mode=0o755)
    (tmp_path / "file").touch()
    with pytest.raises(LedgerUnwritable) as told:
        open_ledger(tmp_path / place)
    assert told.value.hint
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o755


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(LedgerError, match="another program"):
        open_ledger(path)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
    connection.close()
