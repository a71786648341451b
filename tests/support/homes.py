"""A home of spotinfer in a folder of its own, apart from the user's settings, and what must hold of it afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from spotinfer import Client, Server, Settings
from spotinfer.ledger.keys import FileKeyStore
from spotinfer.ledger.store import open_ledger

from .worlds import machine_processes

FOREIGN = ("SPOTINFER_", "RUNPOD_", "VAST_", "LAMBDA_", "AWS_", "HF_", "HUGGING_FACE", "OPENAI_")


@contextmanager
def apart(folder: Path, **variables: str) -> Iterator[None]:
    """Settings come from here only: no variable and no file of the user's. Models are kept in one cache."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(FOREIGN)]:
            patch.delenv(name)
        patch.setenv("HOME", str(folder))
        patch.setenv("SPOTINFER_HOME", str(folder / "home"))
        patch.setenv("SPOTINFER_CACHE", str(folder / "cache"))
        patch.setenv("SPOTINFER_CONFIG_FILE", str(folder / "config.toml"))
        patch.setenv("SPOTINFER_PROGRESS", "none")
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@contextmanager
def client_at(home: Path, **settings: object) -> Iterator[Client]:
    with Client(Settings.load(home=home, **settings), progress="none") as client:
        yield client


def chat(server: Server, text: str = "Hello", tokens: int = 4) -> int:
    """Completion tokens of one request."""
    answer = server.client.chat.completions.create(
        model=server.model, messages=[{"role": "user", "content": text}], max_tokens=tokens
    )
    assert answer.usage is not None
    return answer.usage.completion_tokens


def processes_of(keys: Collection[str]) -> list[psutil.Process]:
    """Agents and engines of these launches: they carry the key in their environment, whoever their parent is."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("SPOTINFER_KEY") in keys and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def nothing_left(home: Path, ledger: str | None = None) -> None:
    """No process, no secret, no live record; the ledger, if there is one, opens."""
    keys = set()
    where = ledger or str(home / "ledger.db")
    if "://" in where or Path(where).exists():
        opened = open_ledger(where)
        try:
            records = [history.record for history in opened.histories_sync()]
        finally:
            opened.close()
        assert [record.name for record in records if record.live] == []
        keys = {record.key for record in records}
    assert processes_of(keys) == []
    assert machine_processes(home) == []
    assert FileKeyStore(home / "keys").keys() == []
    assert list(home.glob("keys/*.hold")) == []
    assert list(home.glob("local/machines/*")) == []


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own in memory."""
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"mounting is not permitted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, how: str) -> None:
    """``how`` is "ro" or "rw"."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def fill(path: Path) -> None:
    """Take what is left of the disk."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return
