"""The engine: its process group, its environment, and the certainty that nothing of it remains."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time

from .config import Config
from .state import Folder, say

STRIP_PREFIXES = ("SPOTINFER_", "RUNPOD_", "VAST_", "LAMBDA_", "AWS_")
STRIP_SUFFIXES = ("_API_KEY", "_API_TOKEN", "_ACCESS_KEY", "_SECRET_KEY", "_SESSION_TOKEN")
STUBBORN_S = 10.0
# It outlives a `kill -9` of the agent by a moment: when the pipe closes, the whole group dies, not only the first
# process of it, which is all that PR_SET_PDEATHSIG would reach.
GUARD = 'trap "" TERM INT HUP; read -r group; read -r rest; [ -z "$group" ] || kill -s KILL -- "-$group"'


def clean_environment(environ: dict[str, str], strip: tuple[str, ...]) -> dict[str, str]:
    """What the engine may see: neither our own variables nor the keys of any provider."""
    prefixes = STRIP_PREFIXES + tuple(prefix.upper() for prefix in strip if prefix)
    return {
        name: value
        for name, value in environ.items()
        if not name.upper().startswith(prefixes) and not name.upper().endswith(STRIP_SUFFIXES)
    }


def adopt_orphans() -> None:
    """Become the parent of what the engine leaves behind (Linux), so that it can be found and reaped."""
    if sys.platform == "linux":
        with contextlib.suppress(ImportError, OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


class Engine:
    """One engine process and everything that it started."""

    def __init__(self, config: Config, folder: Folder, host: str, port: int, lock: int) -> None:
        self._folder = folder
        self._lock = lock
        self._mark = f"SPOTINFER_KEY={config.key}".encode()
        values = {"{port}": str(port), "{dir}": folder.path, "{host}": host}
        self._argv = [_fill(part, values) for part in config.engine.argv]
        self._env = clean_environment(dict(os.environ), config.strip)
        self._env.update({name: _fill(value, values) for name, value in config.engine.env.items()})
        self._env["SPOTINFER_KEY"] = config.key
        self._guard: subprocess.Popen[bytes] | None = None
        self.hurry = False  # do not wait for the grace any longer
        self.pid: int | None = None
        self.exit_code: int | None = None

    def start(self) -> None:
        """Start it. A command that cannot be started counts as an engine that ended, with the reason in its log."""
        adopt_orphans()
        self._start_guard()
        log = self._folder.open_log()
        try:
            process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                pass_fds=(self._lock,),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            os.write(log, f"cannot start {self._argv[0]}: {error}\n".encode())
            self.exit_code = 127
        else:
            self.pid = process.pid
            process.returncode = 0  # `reap` collects it; Popen must neither wait nor warn
            if self._guard and self._guard.stdin:
                self._guard.stdin.write(f"{self.pid}\n".encode())
                self._guard.stdin.flush()
        finally:
            os.close(log)

    def _start_guard(self) -> None:
        try:
            self._guard = subprocess.Popen(
                ["/bin/sh", "-c", GUARD],
                env={},  # without the mark: it is no part of the engine
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            say(f"no guard against a killed agent: {error.strerror}")

    def reap(self) -> None:
        """Collect every child that ended; the engine's own exit code (negative: the signal) is kept."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.pid:
                    self.exit_code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, the grace, SIGKILL; returns when nothing of the engine is left."""
        remaining = self._remaining()
        self._signal(remaining, signal.SIGTERM)
        deadline, pause = time.monotonic() + grace_s, 0.02
        while remaining and time.monotonic() < deadline and not self.hurry:
            await asyncio.sleep(pause)
            pause = min(0.25, pause * 1.5)
            remaining = self._remaining()
        deadline = time.monotonic() + STUBBORN_S
        while remaining and time.monotonic() < deadline:
            self._signal(remaining, signal.SIGKILL)
            await asyncio.sleep(0.05)
            remaining = self._remaining()
        if remaining:
            say(f"processes {remaining} do not die")
        self._dismiss_guard()

    def _dismiss_guard(self) -> None:
        # Before the group's number can be given to a stranger.
        if self._guard and self._guard.stdin:
            self._guard.kill()
            self._guard.wait()
            self._guard.stdin.close()
            self._guard = None

    def _signal(self, pids: list[int], number: int) -> None:
        if pids and self.pid:
            with contextlib.suppress(OSError):
                os.killpg(self.pid, number)
        if number == signal.SIGKILL:
            for pid in pids:
                with contextlib.suppress(OSError):
                    os.kill(pid, number)

    def _remaining(self) -> list[int]:
        """Living processes of the engine: its group, its session, and orphans that came to us."""
        self.reap()
        if self.pid is None:
            return []
        if not os.path.exists("/proc/self/stat"):
            try:
                os.killpg(self.pid, 0)
            except OSError:
                return []
            return [self.pid]
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._is_ours(pid)]

    def _is_ours(self, pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/stat", "rb") as stream:
                state, parent, *groups = stream.read().rpartition(b")")[2].split()[:4]
            if state in b"ZX":
                return False
            if str(self.pid).encode() in groups:
                return True
            if int(parent) != os.getpid():
                return False
            with open(f"/proc/{pid}/environ", "rb") as stream:  # a script that became us may have had other children
                return self._mark in stream.read()
        except OSError:
            return False


def _fill(text: str, values: dict[str, str]) -> str:
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text
