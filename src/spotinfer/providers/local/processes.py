"""The processes of a machine: how they are started, recognised and killed. Everything here blocks.

Four marks, because none alone is enough: the environment's ``SPOTINFER_KEY`` (inherited by everything that is started,
but a program that renames itself may overwrite it), the session (agent and engine lead one each), the recorded process
number with its creation time (numbers are reused), and the agent's lock (held as long as agent or engine live).
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from psutil import Process

MARK = "SPOTINFER_KEY"
NEWBORN_SECONDS, NEWBORN_LOOKS = 0.5, 5
SAME_START = 2.0
"""Seconds by which a recorded creation time may differ: it is counted from the boot, whose time may be corrected."""


def start(command: Sequence[str], env: Mapping[str, str], folder: Path) -> tuple[int, float]:
    """Start a process that outlives this one, its output in ``agent.log``. Returns its number and creation time.

    A thread waits for it, so that it never stays a zombie while we live; when we end first, init takes it over.
    """
    log = os.open(folder / "agent.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            list(command),
            env=dict(env),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    finally:
        os.close(log)
    started = creation_time(process.pid)
    threading.Thread(target=process.wait, name=f"spotinfer-reaps-{process.pid}", daemon=True).start()
    return process.pid, started


def creation_time(pid: int) -> float:
    """Unix seconds; 0 for a process that is gone already."""
    try:
        return float(Process(pid).create_time())
    except psutil.Error:
        return 0.0


def lives(pid: int | None, started: float | None, key: str) -> bool:
    """Whether the process that was started for the machine still runs."""
    if pid is None:
        return False
    try:
        process = Process(pid)
        same = _mark(process) == key or (started is not None and abs(process.create_time() - started) < SAME_START)
        return same and _alive(process)
    except psutil.Error:
        return False


def marked(key: str) -> list[Process]:
    """Every living process whose environment carries the machine's key."""
    return survivors(key, {}, 0.0)


def survivors(key: str, leaders: Mapping[int, float | None], since: float) -> list[Process]:
    """Every living process of the machine: marked, or in a session that the machine's own processes led.

    ``leaders`` are process numbers with their creation time, where it was recorded. ``since`` is when the machine was
    made, in Unix seconds: an older process is a stranger.
    """
    sessions = {pid for pid, started in leaders.items() if not _is_stranger(pid, started, key)}
    for _ in range(NEWBORN_LOOKS):
        others = list(psutil.process_iter())
        if not any(_is_newborn(process) for process in others):
            break
        time.sleep(0.02)
    me = os.getpid()
    return [
        process
        for process in others
        if process.pid != me and (_mark(process) == key or _in_session(process, sessions, since)) and _alive(process)
    ]


def holders(lock: Path) -> list[Process]:
    """Who has the agent's lock open: finds an engine that lost every other mark."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and any(file.path == str(lock) for file in process.open_files()):
                found.append(process)
    return found


def ask(pid: int) -> None:
    """SIGTERM."""
    with suppress(psutil.Error):
        Process(pid).terminate()


def kill(processes: Iterable[Process]) -> None:
    """SIGKILL; psutil checks the creation time first, so that a reused number is never hit."""
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def _is_newborn(process: Process) -> bool:
    """Whether its environment cannot be read yet: for a moment after a program was started it looks empty."""
    try:
        return not process.environ() and time.time() - process.create_time() < NEWBORN_SECONDS
    except (psutil.Error, OSError):
        return False


def _alive(process: Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _mark(process: Process) -> str | None:
    try:
        mark: str | None = process.environ().get(MARK)
    except (psutil.Error, OSError):
        return None
    return mark


def _is_stranger(pid: int, started: float | None, key: str) -> bool:
    """Whether the number was given to another process; of one that is gone, what is left of its session is ours."""
    try:
        process = Process(pid)
    except psutil.Error:
        return False
    return _alive(process) and not lives(pid, started, key)


def _in_session(process: Process, sessions: set[int], since: float) -> bool:
    try:
        return os.getsid(process.pid) in sessions and bool(process.create_time() > since - SAME_START)
    except (psutil.Error, OSError):
        return False
