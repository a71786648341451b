"""The queue between the hot path and a database that fails."""

from __future__ import annotations

import threading

from spotinfer.core.errors import LedgerError, LedgerUnwritable
from spotinfer.ledger.sql.engine import RowExists
from spotinfer.ledger.sql.usage import UsageQueue
from support.histories import row

Rows = list[dict[str, object]]


class Database:
    """Stands where the database is: keeps rows by identity, whole batches only, and fails as told."""

    def __init__(self) -> None:
        self.rows: dict[tuple[object, object], dict[str, object]] = {}
        self.refuse: LedgerError | None = None
        self.lose_answer = False

    def write(self, rows: Rows) -> None:
        if self.refuse:
            raise self.refuse
        identities = {(item["writer"], item["seq"]) for item in rows}
        if identities & set(self.rows):
            raise RowExists("the row exists already")
        self.rows.update({(item["writer"], item["seq"]): item for item in rows})
        if self.lose_answer:
            self.lose_answer = False
            raise LedgerError("the connection broke while committing")


def test_rows_wait_while_nothing_can_be_written() -> None:
    database = Database()
    queue = UsageQueue(database.write)
    database.refuse = LedgerUnwritable("disk is full")
    for index in range(3):
        queue.append(row(index, index + 1))
    queue.flush()
    queue.append(row(8, 9))
    queue.flush()
    assert queue.failing
    assert (len(queue), len(database.rows)) == (4, 0)
    assert queue.take_error() is queue.take_error() is database.refuse
    database.refuse = None
    queue.flush()
    assert (len(queue), len(database.rows)) == (0, 4)
    assert queue.take_error() is None


def test_a_lost_answer_counts_no_request_twice() -> None:
    database = Database()
    queue = UsageQueue(database.write)
    database.lose_answer = True
    queue.append(row(1, 2))
    queue.flush()
    assert queue.failing
    queue.append(row(3, 4))
    queue.flush()
    assert not queue.failing
    assert [item["seq"] for item in database.rows.values()] == [1, 2]


def test_a_row_that_exists_for_no_reason_is_an_error() -> None:
    database = Database()
    queue = UsageQueue(database.write)
    queue.append(row(1, 2))
    queue.flush()
    queue._seq = 0
    queue.append(row(3, 4))
    queue.flush()
    assert isinstance(queue.take_error(), RowExists)


def test_nothing_is_lost_between_threads_that_append_and_one_that_flushes() -> None:
    database = Database()
    queue = UsageQueue(database.write)

    def work(thread: int) -> None:
        for index in range(500):
            queue.append(row(index, index + 1, tag=str(thread)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        queue.flush()
    queue.flush()
    assert len(database.rows) == 2000
