"""The agent's private folder: its lock, the facts that survive a restart, and the engine's log."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time

LOG = "engine.log"
LOG_CAP = 64 << 20
LOG_KEEP = 8 << 20
TAIL_BYTES = 1 << 20


def say(text: str) -> None:
    """One plain line for whoever reads stderr. That nobody does any more must not end the agent."""
    with contextlib.suppress(OSError, ValueError):
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        print(f"{stamp} agent: {text}", file=sys.stderr, flush=True)


class Folder:
    """Files that only this user can read; every write is whole or did not happen."""

    def __init__(self, path: str) -> None:
        self.path = path
        os.makedirs(path, mode=0o700, exist_ok=True)
        os.chmod(path, 0o700)

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def lock(self) -> int:
        """Take the folder. The engine inherits the descriptor: the lock tells "alive" until the last of them ends.

        Raises BlockingIOError where another agent, or an engine that outlived one, holds it.
        """
        handle = os.open(self.file("lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise
        return handle

    def write(self, name: str, text: str) -> None:
        path = self.file(name)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        handle = os.open(path + ".tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(handle)
        os.replace(path + ".tmp", path)
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def record(self, name: str, value: object) -> None:
        """Write a fact as JSON. A full disk is said and survived: the machine must still be able to end."""
        try:
            self.write(name, json.dumps(value))
        except OSError as error:
            say(f"cannot write {name}: {error.strerror}")

    def recall(self, name: str) -> float | None:
        """The time that was recorded under this name by this or an earlier run."""
        try:
            with open(self.file(name), encoding="utf-8") as stream:
                return float(stream.read())
        except (OSError, ValueError):
            return None

    def forget(self, *names: str) -> None:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.file(name))

    def open_log(self) -> int:
        return os.open(self.file(LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def cap_log(self, cap: int = LOG_CAP, keep: int = LOG_KEEP) -> None:
        """Keep the newest part of a long log aside and empty the file in place: the engine has it open to append."""
        path = self.file(LOG)
        try:
            if os.path.getsize(path) <= cap:
                return
            with open(path, "rb") as stream:
                stream.seek(-keep, os.SEEK_END)
                newest = stream.read(keep)
            with open(os.open(path + ".1", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as old:
                old.write(newest)
        except OSError as error:
            say(f"cannot keep the log's tail: {error.strerror}")
        os.truncate(path, 0)

    def tail_log(self, lines: int) -> list[str]:
        """The last lines of the engine's log, from at most the last MiB; of a redrawn line, its last state."""
        rows = _rows(self.file(LOG))
        if len(rows) < lines:
            rows = _rows(self.file(LOG + ".1")) + rows
        return [row.rstrip("\r").rsplit("\r", 1)[-1] for row in rows[-lines:]]


def _rows(path: str) -> list[str]:
    try:
        with open(path, "rb") as stream:
            start = max(0, stream.seek(0, os.SEEK_END) - TAIL_BYTES)
            stream.seek(start)
            rows = stream.read(TAIL_BYTES).decode("utf-8", "replace").split("\n")
    except FileNotFoundError:
        return []
    if start and len(rows) > 1:
        del rows[0]
    if not rows[-1]:
        rows.pop()
    return rows
