"""The ledger between processes, through their deaths, and on disks that fail."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from spotinfer.core.errors import LedgerCorrupt, LedgerError, LedgerUnwritable
from spotinfer.core.states import Cause, State
from spotinfer.ledger.keys import FileKeyStore
from spotinfer.ledger.store import open_ledger
from support.histories import at, intent, row, sample
from support.secrets import launch_secrets

TESTS = Path(__file__).parents[1]
HEAD = """
import os, sys, time, anyio
from support.histories import at, intent, row, sample
from spotinfer.core.errors import NameTaken
from spotinfer.ledger.store import open_ledger
path, number = sys.argv[1], int(sys.argv[2])
"""


def start(body: str, path: Path, number: int = 0) -> subprocess.Popen[str]:
    places = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, "-c", HEAD + body, str(path), str(number)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str], seconds: float = 20) -> str:
    """What it printed; a process that hangs or fails fails the test."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert process.returncode == 0, err
    assert not err, err
    return out


def stored(path: Path) -> dict[str, int]:
    """Requests by machine, as a process that comes later sees them."""
    ledger = open_ledger(path)
    try:
        return {history.record.key: len(history.requests) for history in ledger.histories_sync()}
    finally:
        ledger.close()


WRITER = """
async def main():
    ledger = open_ledger(path)
    key = f"si-{number}"
    await ledger.intend(intent(key, key))
    for index in range(40):
        ledger.request(row(index, index + 1, key=key))
        await ledger.sample(sample(index, index, index, 0, key=key))
    await ledger.aclose()
anyio.run(main)
"""


def test_four_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    for process in [start(WRITER, path, number) for number in range(4)]:
        finish(process)
    assert stored(path) == {f"si-{number}": 40 for number in range(4)}


CLAIM = """
async def main():
    ledger = open_ledger(path)
    print("open", flush=True)
    while not os.path.exists(path + ".go"):
        time.sleep(0.001)
    try:
        await ledger.intend(intent(f"si-{number}", "one"))
        print("won")
    except NameTaken as error:
        print("lost", error.hint)
    await ledger.aclose()
anyio.run(main)
"""


def test_of_four_processes_that_claim_one_name_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    processes = [start(CLAIM, path, number) for number in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
    Path(f"{path}.go").touch()
    said = sorted(finish(process).split()[0] for process in processes)
    assert said == ["lost", "lost", "lost", "won"]
    assert len(stored(path)) == 1


KILLED = """
async def main():
    ledger = open_ledger(path)
    await ledger.intend(intent())
    index = 0
    while True:
        ledger.request(row(index, index + 1))
        index += 1
        print(index, time.time(), flush=True)
        await anyio.sleep(0.02)
        if index % 10 == 0:
            await ledger.sample(sample(index, index, 0, 0))
anyio.run(main)
"""


def test_kill_9_loses_nothing_that_was_awaited_and_no_request_older_than_a_second(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    process = start(KILLED, path)
    time.sleep(2.5)
    process.kill()
    killed = time.time()
    out, _ = process.communicate(timeout=5)
    lines = [line.split() for line in out.splitlines()]
    old = sum(float(when) < killed - 1 for _, when in lines)
    assert old > 10
    assert old <= stored(path)["si-1"] <= int(lines[-1][0]) + 1
    ledger = open_ledger(path)
    [history] = ledger.histories_sync()
    ledger.close()
    awaited = (int(lines[-1][0]) - 1) // 10  # the last one may have been killed while it waited
    assert len(history.samples) >= awaited
    assert integrity(path) == "ok"


def integrity(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        answer: str = connection.execute("PRAGMA integrity_check").fetchone()[0]
        return answer
    finally:
        connection.close()


LEFT_OPEN = """
async def main():
    ledger = open_ledger(path)
    await ledger.intend(intent())
    for index in range(100):
        ledger.request(row(index, index + 1))
    return ledger
kept = anyio.run(main)
"""


def test_the_end_of_the_interpreter_writes_what_is_queued(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    finish(start(LEFT_OPEN, path))
    assert stored(path) == {"si-1": 100}


FORK = """
ledger = open_ledger(path)
anyio.run(ledger.intend, intent())
for index in range(50):
    ledger.request(row(index, index + 1))
for child in range(3):
    pid = os.fork()
    if pid == 0:
        ledger.request(row(1000 + child, 1001 + child))
        assert len(ledger.histories_sync()) == 1
        anyio.run(ledger.sample, sample(child, child, 0, 0))
        anyio.run(ledger.aclose)
        os._exit(0)
    ledger.request(row(2000 + child, 2001 + child))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
ledger.close()
"""


def test_a_forked_child_has_a_ledger_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    process = start("import warnings; warnings.simplefilter('ignore', DeprecationWarning)" + FORK, path)
    finish(process)
    assert stored(path) == {"si-1": 56}
    assert integrity(path) == "ok"


# --- files that are damaged -----------------------------------------------------------------------------------------


def make_ledger(path: Path, rows: int = 500) -> bytes:
    ledger = open_ledger(path)
    anyio.run(ledger.intend, intent())
    for index in range(rows):
        ledger.request(row(index, index + 1))
    ledger.close()
    return path.read_bytes()


@pytest.mark.parametrize("damage", ["header", "middle", "cut"])
def test_a_corrupt_file_is_told_and_left_untouched(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "ledger.db"
    good = make_ledger(path)
    bad = {
        "header": b"not a ledger at all" + good[19:],
        "middle": good[:4096] + b"\x5a" * (len(good) - 4096),
        "cut": good[: len(good) // 2],
    }[damage]
    path.write_bytes(bad)
    with pytest.raises(LedgerCorrupt) as told:
        stored(path)
    assert str(path) in told.value.message
    assert told.value.hint
    assert path.read_bytes() == bad


# --- disks that do not take anything --------------------------------------------------------------------------------


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"mounting is not permitted here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_read_only_folder(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with tmpfs(folder, "size=2m"):
        make_ledger(folder / "ledger.db", rows=1)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        for path in (folder / "ledger.db", folder / "new.db", folder / "sub" / "new.db"):
            with pytest.raises(LedgerUnwritable) as told:
                make_ledger(path)
            assert told.value.hint
        with pytest.raises(LedgerUnwritable):
            FileKeyStore(folder / "keys").save(launch_secrets())


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with tmpfs(folder, "size=1m"):
        path, filler = folder / "ledger.db", folder / "filler"
        ledger = open_ledger(path)

        async def main() -> None:
            await ledger.intend(intent())
            fill(filler)
            for index in range(3000):
                ledger.request(row(index, index + 1))
            with pytest.raises(LedgerUnwritable, match=r"full|I/O"):
                await ledger.flush()
            with pytest.raises(LedgerUnwritable):  # not lost silently: told again by the next call that counts
                await ledger.sample(sample(1, 1, 1, 1))
            with pytest.raises(LedgerUnwritable):
                await ledger.intend(intent("si-2", "two"))
            assert await ledger.record("si-1") is not None  # reading goes on
            filler.unlink()
            await ledger.flush()
            await ledger.move("si-1", State.TERMINATED, Cause.USER, at(9))
            await ledger.aclose()

        anyio.run(main)
        assert stored(path) == {"si-1": 3000}
        assert integrity(path) == "ok"


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return


def test_what_waits_on_a_full_disk_is_written_once_there_is_room(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with tmpfs(folder, "size=1m"):
        path, filler = folder / "ledger.db", folder / "filler"
        make_ledger(path, rows=1)
        ledger = open_ledger(path)
        fill(filler)
        for index in range(3000):
            ledger.request(row(index, index + 1))
        time.sleep(0.6)
        with pytest.raises(LedgerError):
            ledger.histories_sync()
        filler.unlink()
        deadline = time.monotonic() + 6
        while stored(path)["si-1"] < 3001:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        ledger.close()
        assert stored(path) == {"si-1": 3001}
