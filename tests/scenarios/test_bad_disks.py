"""Disks that cannot be written: nothing is rented, nothing is lost, and what runs can be ended all the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from spotinfer.core.errors import ConfigError, LedgerUnwritable
from spotinfer.core.states import State
from support.cli import CommandLine
from support.homes import apart, chat, client_at, fill, nothing_left, processes_of, remount, small_disk

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("disks")
    with apart(path):
        yield path


def test_a_read_only_home(folder: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        remount(disk, "ro")
        with client_at(disk / "new") as client, pytest.raises(LedgerUnwritable) as caught:
            client.launch("tiny")
        assert "Read-only file system" in caught.value.message
        assert "SPOTINFER_HOME" in (caught.value.hint or "")
        answer = CommandLine(folder, {"SPOTINFER_HOME": str(disk / "new")})("launch", "tiny")
        assert (answer.status, answer.out, len(answer.err.splitlines())) == (1, "", 2)

        remount(disk, "rw")
        with client_at(disk / "home") as client, client.launch("tiny") as server:
            chat(server)
        remount(disk, "ro")
        with client_at(disk / "home") as client, pytest.raises(LedgerUnwritable):
            client.launch("tiny")
        remount(disk, "rw")
        nothing_left(disk / "home")
        with client_at(disk / "home") as client:
            assert client.meter().snapshot().requests == 1


def test_a_read_only_cache(folder: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        remount(disk, "ro")
        with client_at(tmp_path / "home", cache=disk) as client, pytest.raises(ConfigError, match="cannot be written"):
            client.launch("tiny")
    nothing_left(tmp_path / "home")


def test_a_home_that_is_a_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with client_at(tmp_path / "file") as client, pytest.raises(LedgerUnwritable) as caught:
        client.launch("tiny")
    assert caught.value.hint


def test_a_full_disk_before_a_launch(folder: Path, tmp_path: Path) -> None:
    """The whole home is on it: ledger, keys, the machine's folder."""
    with small_disk(tmp_path / "disk", "2m") as disk:
        home, filler = disk / "home", disk / "filler"
        for _ in range(2):  # without a ledger yet, and with one
            fill(filler)
            with client_at(home) as client, pytest.raises(LedgerUnwritable) as caught:
                client.launch("tiny")
            assert "free some space" in (caught.value.hint or "")
            assert list(home.glob("local/machines/*")) == []
            filler.unlink()
            with client_at(home) as client, client.launch("tiny") as server:
                assert chat(server) == 4
            nothing_left(home)


def test_a_disk_that_fills_up_while_a_server_is_used(folder: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        ledger, home = str(disk / "ledger.db"), tmp_path / "home"
        with client_at(home, ledger=ledger) as client, client.launch("tiny") as server:
            chat(server)
            fill(disk / "filler")
            assert [chat(server) for _ in range(3)] == [4, 4, 4]
            with pytest.raises(LedgerUnwritable, match="full"):
                server.meter.snapshot()
            assert "full" in repr(server.meter)
            assert (server.state, len(client.servers())) == (State.READY, 1)
            (disk / "filler").unlink()
            deadline = time.monotonic() + 10
            while server.meter.snapshot().requests != 4:  # with the probe a row of its own that is not ours
                assert time.monotonic() < deadline
                time.sleep(0.05)
        nothing_left(home, ledger)


def test_a_server_is_ended_although_the_disk_is_full(folder: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        ledger, home = str(disk / "ledger.db"), tmp_path / "home"
        with client_at(home, ledger=ledger) as client:
            first, second = client.launch("tiny", name="first"), client.launch("tiny", name="second")
            chat(first)
            fill(disk / "filler")
            chat(first)
            with pytest.raises(LedgerUnwritable, match="first was ended, but that could not be recorded") as caught:
                first.close()
            assert "spotinfer ls" in (caught.value.hint or "")
            assert second.state is State.READY
            with pytest.raises(LedgerUnwritable, match="was ended, but"):
                client.terminate_all()
            assert processes_of([first.key, second.key]) == []
            (disk / "filler").unlink()
            assert client.servers() == []  # looking brings the books up to date
            assert client.meter("first").snapshot().requests == 2
            second.close()
        nothing_left(home, ledger)
