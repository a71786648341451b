"""When a machine has to end: the clock, the absolute limits, and idleness told from the engine's own counters."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from typing import Any, Callable, Iterable  # noqa: UP035 - Python 3.8

from .config import LimitsConfig
from .state import Folder

LEAP_S = 5.0
WAKE_GRACE_S = 60.0
CANNOT_TELL_S = 600.0
STARTING_S = 3600.0
MAX_METRICS = 8 << 20


class Clock:
    """Unix time that never runs backwards: a clock that is set back must not lengthen a machine's life."""

    def __init__(self, wall: Callable[[], float] = time.time, mono: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self.mono = mono
        self._offset = wall() - mono()
        self._leapt = 0.0

    def now(self) -> float:
        mono = self.mono()
        ahead = self._wall() - mono - self._offset
        if ahead > 0:
            self._offset += ahead
            self._leapt = max(self._leapt, ahead)
        return mono + self._offset

    def not_before(self, moment: float) -> None:
        """It is at least this late, whatever the wall clock says after a restart."""
        self._offset = max(self._offset, moment - self.mono())

    def leapt(self) -> bool:
        """Whether the wall clock leapt ahead since the last call: a suspended computer woke, or the time was set."""
        leapt, self._leapt = self._leapt > LEAP_S, 0.0
        return leapt


class Limits:
    """The absolute deadlines. Birth and lease are kept in the folder, so that a restart does not renew them."""

    def __init__(self, limits: LimitsConfig, folder: Folder, clock: Clock) -> None:
        self._limits = limits
        self._folder = folder
        self._clock = clock
        born = folder.recall("born")
        if born is None:
            born = clock.now()
            folder.record("born", born)
        clock.not_before(born)
        self.born = born
        self.lease_until = folder.recall("lease")
        if self.lease_until is None and limits.lease_s is not None:
            self.renew(limits.lease_s)

    def renew(self, seconds: float) -> float:
        """The lease now ends `seconds` from now, whatever was left of it."""
        self.lease_until = self._clock.now() + seconds
        self._folder.record("lease", self.lease_until)
        return self.lease_until

    def ends_at(self, idle_s: float) -> dict[str, float | None]:
        """Unix time at which each limit ends the machine if nothing changes; None: no such limit."""
        limits, now = self._limits, self._clock.now()
        return {
            "lease": self.lease_until,
            "idle": None if limits.idle_s is None else now + max(0.0, limits.idle_s - idle_s),
            "age": None if limits.max_age_s is None else self.born + limits.max_age_s,
            "budget": None if limits.budget_s is None else self.born + limits.budget_s,
        }

    def left(self) -> float:
        """Seconds to the nearest absolute limit."""
        ends = self.ends_at(0.0)
        return min((end for name, end in ends.items() if end and name != "idle"), default=2e9) - self._clock.now()

    def due(self, proven_idle_s: float) -> str | None:
        """The cause for which the machine has to end now; the limit that came first wins."""
        now = self._clock.now()
        if self._clock.leapt() and self.lease_until is not None:
            # A laptop that slept: owner and agent wake together, so give the owner the time to renew.
            self.lease_until = max(self.lease_until, now + WAKE_GRACE_S)
        ends = self.ends_at(0.0)
        if self._limits.idle_s is not None:
            ends["idle"] = now if proven_idle_s >= self._limits.idle_s else None
        causes = {"lease": "lease_lapsed", "idle": "idle", "age": "max_age", "budget": "budget"}
        passed = sorted((end, name) for name, end in ends.items() if end is not None and end <= now)
        return causes[passed[0][1]] if passed else None


class Activity:
    """Whether the engine works, told from its counters. Times are monotonic seconds.

    Open connections say nothing: clients keep them for later. Where the counters cannot be read we cannot tell, and
    that is not idle, because a slow answer must not shoot a busy engine; but only for a bound, because a hung engine
    must not bill for ever. Until the first good reading the model is being loaded, which is work with a longer bound.
    """

    def __init__(self, started: float, busy: Iterable[str], progress: Iterable[str]) -> None:
        self._busy = tuple(busy)
        self._progress = tuple(progress)
        self._good_at = self._active_at = started
        self._blind = True
        self._working = False
        self.ready = False
        self.busy_s = 0.0
        self.counters: dict[str, float] = {}

    def saw(self, reading: dict[str, float] | None, at: float) -> None:
        """Take in the counters read at this moment, or None where they could not be read."""
        self._blind = reading is None
        if reading is None:
            return
        working = any(reading.get(name, 0.0) > 0 for name in self._busy)
        moved = any(reading.get(name) != self.counters.get(name) for name in self._progress)
        if self.ready and (working or moved):
            # What ran between two readings at rest was short; how long is not known, so it counts a second at most.
            passed = at - self._good_at
            self.busy_s += passed if working and self._working else min(1.0, passed)
        if working or moved or not self.ready:
            self._active_at = at
        self._working = working
        self.ready = True
        self._good_at = at
        self.counters = reading

    def age_s(self, at: float) -> float | None:
        """Seconds since the counters were last read."""
        return at - self._good_at if self.ready else None

    def idle_s(self, at: float) -> float:
        """Seconds without work, as far as is known."""
        return self._cannot_tell(at) if self._blind else at - self._active_at

    def proven_idle_s(self, at: float) -> float:
        """The same up to the last reading only: the one on which a machine may be ended."""
        return self._cannot_tell(at) if self._blind else self._good_at - self._active_at

    def quiet_since(self, moment: float) -> bool:
        """Whether a reading begun after this moment found the engine at rest."""
        return not self._blind and self._good_at > moment and self._active_at < self._good_at

    def _cannot_tell(self, at: float) -> float:
        silent = at - self._good_at
        return silent if silent > (CANNOT_TELL_S if self.ready else STARTING_S) else 0.0


class Unreadable(OSError):
    """The engine did not give its counters."""


class Source:
    """Where the counters of one engine are read; with a context, as a client of its mutual TLS.

    HTTP/1.0, so that the answer is never chunked and ends with the stream.
    """

    def __init__(
        self, host: str, port: int, path: str, headers: dict[str, str], tls: ssl.SSLContext | None, name: str
    ) -> None:
        self._address = host, port
        self._tls: dict[str, Any] = {} if tls is None else {"ssl": tls, "server_hostname": name}
        lines = [f"GET {path} HTTP/1.0", f"Host: {name}", *(f"{key}: {value}" for key, value in headers.items())]
        self._request = ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def read(self, names: Iterable[str], timeout: float) -> dict[str, float]:
        """The named metrics, each summed over its label sets. Raises OSError, or asyncio.TimeoutError."""
        answer = await asyncio.wait_for(self._fetch(), timeout)
        head, _, body = answer.partition(b"\r\n\r\n")
        if head.split(b" ", 2)[1:2] != [b"200"]:
            raise Unreadable("no answer 200")
        return parse(body.decode("utf-8", "replace"), names)

    async def _fetch(self) -> bytes:
        reader, writer = await asyncio.open_connection(*self._address, **self._tls)
        try:
            writer.write(self._request)
            answer = b""
            while len(answer) <= MAX_METRICS:
                part = await reader.read(1 << 18)
                if not part:
                    return answer
                answer += part
            raise Unreadable("the answer is too long")
        finally:
            with contextlib.suppress(OSError):
                writer.close()


def parse(text: str, names: Iterable[str]) -> dict[str, float]:
    """Sum the named samples of a Prometheus text over their label sets."""
    wanted = frozenset(names)
    sums: dict[str, float] = {}
    for line in text.splitlines():
        name, brace, rest = line.partition("{")
        if brace:
            value = rest.rpartition("}")[2].split()
        else:
            name, *value = line.split() or [""]
        if name in wanted and value:
            with contextlib.suppress(ValueError):
                number = float(value[0])
                if number == number:  # a gauge may be NaN, which would spoil the sum
                    sums[name] = sums.get(name, 0.0) + number
    return sums
