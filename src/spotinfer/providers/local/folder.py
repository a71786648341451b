"""A machine's folder: the only record of it, and the place of every lock.

::

    <home>/machines/<key>/        0700; locked (flock) while the machine is created or ended
        machine.json              whose it is, and its process; written before the process is started, then with it
        agent.log                 the agent's own output
        agent/                    the agent's private folder (SPOTINFER_DIR/agent)
            lock                  flock, held by the agent and inherited by the engine
            ports.json            {"agent", "engine", "pid", "engine_pid"}
            ended.json            {"cause", "at", "exit_code", "detail"}
            engine.log
    <home>/logs/<key>.log         the logs' tails, kept after the machine was ended

The folder is made before the process and removed only when nothing of the machine lives any more. So a missing folder
is positive evidence that there is no machine.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio

from ...core.errors import ProviderUnavailable
from ...core.money import MachineHour

TAIL_BYTES = 1 << 20
KEPT_LOGS = 50
GUARD_SECONDS = 60.0
GONE = ".gone-"
"""Prefix of a folder that is being removed: no machine's key starts with a dot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """``machine.json``. ``pid`` None: the process was not started, or its owner died in that moment.

    ``started`` is the process's creation time in Unix seconds: a process with this number but another time is a
    stranger.
    """

    key: str
    owner: str
    name: str
    created_at: datetime
    per_hour: MachineHour | None
    pid: int | None = None
    started: float | None = None

    def to_json(self) -> str:
        return json.dumps(
            {
                "version": 1,
                "key": self.key,
                "owner": self.owner,
                "name": self.name,
                "created_at": self.created_at.isoformat(),
                "per_hour": None if self.per_hour is None else str(self.per_hour),
                "pid": self.pid,
                "started": self.started,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Raises ``ValueError``, ``KeyError``, ``TypeError`` or ``ArithmeticError`` for what is no card."""
        data = json.loads(text)
        return cls(
            key=str(data["key"]),
            owner=str(data["owner"]),
            name=str(data["name"]),
            created_at=datetime.fromisoformat(data["created_at"]),
            per_hour=None if data["per_hour"] is None else MachineHour(Decimal(data["per_hour"])),
            pid=None if data["pid"] is None else int(data["pid"]),
            started=None if data["started"] is None else float(data["started"]),
        )


class Folder:
    """One machine's folder. Every method but :meth:`guard` blocks; what cannot be told raises ProviderUnavailable."""

    def __init__(self, home: Path, key: str) -> None:
        self.key = key
        self.path = home / "machines" / key
        self.agent = self.path / "agent"
        self.kept_log = home / "logs" / f"{key}.log"

    def exists(self) -> bool:
        """False is evidence; a folder that may not be looked at raises."""
        try:
            self.path.stat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._unreadable(error) from error
        return True

    # --- facts -----------------------------------------------------------------------------------------------------

    def card(self) -> Card | None:
        """None while there is none, so that nothing was ever started here."""
        try:
            return Card.from_json((self.path / "machine.json").read_text("utf-8"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(error) from error
        except (ValueError, KeyError, TypeError, ArithmeticError) as error:
            raise ProviderUnavailable(
                f"{self.path / 'machine.json'} is damaged ({type(error).__name__}), so nobody can tell whose it is",
                provider="local",
                hint=f"`spotinfer terminate {self.key}` ends what runs there and removes it",
            ) from error

    def write_card(self, card: Card) -> None:
        _write_synced(self.path / "machine.json", card.to_json())

    def ports(self) -> dict[str, int]:
        """What the agent listens on, by role, once it does."""
        facts = self._facts("ports.json")
        return {name: port for name, port in facts.items() if isinstance(port, int) and port > 0}

    def ended(self) -> dict[str, Any]:
        """What the agent wrote when it ended the machine; empty when it did not get to it."""
        return self._facts("ended.json")

    def _facts(self, name: str) -> dict[str, Any]:
        try:
            facts = json.loads((self.agent / name).read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error
        return facts if isinstance(facts, dict) else {}

    def agent_lock_held(self) -> bool:
        """Whether agent or engine hold the agent's lock.

        Ask only when the agent's process is gone: trying a lock takes it for a moment, and an agent that starts in
        that moment would believe that another one is there.
        """
        return _locked(self.agent / "lock", self._unreadable)

    def _unreadable(self, error: Exception) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"cannot read {self.path}: {error}", provider="local", hint="check who may read that folder"
        )

    # --- exclusion -------------------------------------------------------------------------------------------------

    def guarded(self) -> bool:
        """Whether somebody creates or ends the machine at this moment."""
        return _locked(self.path, self._unreadable)

    @asynccontextmanager
    async def guard(self, *, create: bool) -> AsyncIterator[bool]:
        """Keep everybody else from creating or ending this machine; yields False if it has no folder (not created).

        The descriptor closes when the new process's program starts, not before: so a guard that is free means that
        whatever was started carries its mark already.
        """
        handle = await self._take(create)
        try:
            yield handle is not None
        finally:
            if handle is not None:
                if create:
                    with suppress(OSError):
                        self.path.rmdir()  # only an empty one goes: nothing was started in it
                os.close(handle)

    async def _take(self, create: bool) -> int | None:
        with anyio.move_on_after(GUARD_SECONDS):
            while True:
                try:
                    handle = self._open(create)
                except OSError as error:
                    raise self._unreadable(error) from error
                if handle is None:
                    return None
                if self._lock(handle):
                    return handle
                os.close(handle)
                await anyio.sleep(0.02)
        raise ProviderUnavailable(
            f"another process has been creating or ending {self.key} for {GUARD_SECONDS:.0f} s", provider="local"
        )

    def _open(self, create: bool) -> int | None:
        if create:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700, exist_ok=True)
        try:
            return os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None

    def _lock(self, handle: int) -> bool:
        """Take the lock, if the folder is still the one at this path."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(handle), self.path.stat())
        except OSError:
            return False

    # --- logs and the end ------------------------------------------------------------------------------------------

    def logs(self, tail: int) -> list[str]:
        """The last lines of the agent, then of the engine; what was kept of them when the machine is gone."""
        try:
            engine, agent = _lines(self.agent / "engine.log"), _lines(self.path / "agent.log")
            if not self.path.exists():
                return _lines(self.kept_log)[-tail:] if tail > 0 else []
        except OSError as error:
            raise self._unreadable(error) from error
        if tail <= 0:
            return []
        words = agent[-max(tail // 4, tail - len(engine)) :] if agent else []
        rest = tail - len(words)
        return words[-tail:] + (engine[-rest:] if rest > 0 else [])

    def remove(self) -> None:
        """Keep the logs' tails and remove the rest; the keys of the machine go with it. Only under the guard."""
        if not self.exists():
            return
        try:
            self._keep_logs()
            gone = self.path.with_name(GONE + self.key)
            shutil.rmtree(gone, ignore_errors=True)  # left by somebody who died right here
            self.path.rename(gone)  # at once, so that nobody sees half a machine
            shutil.rmtree(gone)
        except OSError as error:
            raise ProviderUnavailable(f"cannot remove {self.path}: {error}", provider="local") from error

    def _keep_logs(self) -> None:
        lines = self.logs(2000)
        if not lines:
            return
        with suppress(OSError):  # a full disk must not keep a machine from being removed
            self.kept_log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(self.kept_log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as f:
                f.write("\n".join(lines) + "\n")
            kept = sorted(self.kept_log.parent.glob("*.log"), key=lambda path: path.stat().st_mtime)
            for old in kept[:-KEPT_LOGS]:
                old.unlink()


def folders(home: Path) -> list[Folder]:
    """Every machine's folder. No folder of machines at all: none was ever created."""
    try:
        names = sorted(os.listdir(home / "machines"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ProviderUnavailable(f"cannot read {home / 'machines'}: {error}", provider="local") from error
    return [Folder(home, name) for name in names if not name.startswith(".")]


def _locked(path: Path, unreadable: Any) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unreadable(error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _lines(path: Path) -> list[str]:
    try:
        with open(path, "rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES)
            file.seek(start)
            lines = file.read(TAIL_BYTES).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    return lines[1:] if start else lines


def _write_synced(path: Path, text: str) -> None:
    """Whole or not at all, and on the disk when it returns."""
    temporary = path.with_suffix(".tmp")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
