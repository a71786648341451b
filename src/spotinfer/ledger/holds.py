"""Who on this computer still stands behind a machine: a file lock that the kernel releases when its holder dies.

A lease on the machine is what ends it when the owner is gone; this only lets ``reap`` and ``launch`` on the same
computer know at once, also after ``kill -9``, instead of after the lease.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ..core.errors import LedgerUnwritable


class Holds:
    """``hold`` until ``release`` or the end of this process; ``held`` asks about any process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, int] = {}

    def hold(self, key: str) -> None:
        """Repeatable. Raises :class:`LedgerUnwritable`. A second live process may hold the same machine, too."""
        if key in self._open:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self._path(key), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerUnwritable(
                f"cannot write {self._folder}: {error.strerror}", hint="set SPOTINFER_HOME to a folder you can write to"
            ) from error
        # Shared: the owner and all who connected hold it together; an exclusive probe fails while any of them lives.
        fcntl.flock(handle, fcntl.LOCK_SH)
        self._open[key] = handle

    def release(self, key: str) -> None:
        handle = self._open.pop(key, None)
        if handle is not None:
            os.close(handle)

    def forget(self, key: str) -> None:
        """Remove the file of a machine that is gone."""
        self.release(key)
        self._path(key).unlink(missing_ok=True)

    def held(self, key: str) -> bool | None:
        """Whether a live process stands behind it; None if it was never held on this computer."""
        if key in self._open:
            return True
        try:
            handle = os.open(self._path(key), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.hold"
