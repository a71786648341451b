"""One thread that owns the database connection, and the queue in front of it.

Why a thread: a request's row must be queued from any thread or task without waiting, an awaited write must not block
the event loop, and SQLite wants one writer at a time.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar, cast

T = TypeVar("T")

FLUSH_SECONDS = 0.25
"""How long a request's row waits for company before it is written."""
MAX_BACKOFF = 5.0


class Usage(Protocol):
    def flush(self) -> None:
        """Write what is queued. Keeps it, and remembers the error, when it cannot be written. Never raises."""
        ...

    @property
    def failing(self) -> bool: ...


class Job(Generic[T]):
    """An action for the writer thread. Once submitted it is performed, also when nobody waits for it any more."""

    __slots__ = ("_action", "_error", "_result", "finished", "wake")

    def __init__(self, action: Callable[[], T]) -> None:
        self._action = action
        self._result: T | None = None
        self._error: BaseException | None = None
        self.finished = threading.Event()
        self.wake: Callable[[], object] | None = None

    def run(self) -> None:
        try:
            self._result = self._action()
        except BaseException as error:  # noqa: BLE001 - it is raised again where the job is waited for
            self._error = error
        self.finished.set()
        if self.wake is not None:
            self.wake()

    def result(self) -> T:
        """What the action returned or raised; only after ``finished``."""
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # an error that refers to the frame that refers to it is freed late
        return cast("T", self._result)

    async def wait(self) -> T:
        """Await the end of the job on any event loop."""
        import anyio
        from anyio.lowlevel import current_token

        done = anyio.Event()
        loop = current_token().native_token
        # Not anyio.from_thread: it would make the writer wait for a loop that may be busy, or closed.
        soon = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon  # type: ignore[attr-defined]

        def wake() -> None:
            try:
                soon(done.set)
            except RuntimeError:
                return  # the loop was closed: who waited there is gone

        self.wake = wake
        if not self.finished.is_set():
            await done.wait()
        return self.result()


class WriterThread:
    """Runs jobs in order and flushes the usage queue at most ``FLUSH_SECONDS`` after a row was announced."""

    def __init__(self, usage: Usage, gate: threading.RLock) -> None:
        self._usage = usage
        self._gate = gate
        self._queue: queue.SimpleQueue[Job[object] | str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="spotinfer-ledger", daemon=True)
        self._thread.start()

    def announce(self) -> None:
        """A row was queued. Never blocks: this queue is safe even within a signal handler or a destructor."""
        self._queue.put("row")

    def submit(self, action: Callable[[], T]) -> Job[T]:
        job = Job(action)
        self._queue.put(cast("Job[object]", job))
        return job

    def stop(self, timeout: float | None = None) -> None:
        """End the thread after everything submitted before. The usage queue is not flushed here."""
        self._queue.put("stop")
        self._thread.join(timeout)

    @property
    def is_current(self) -> bool:
        return threading.current_thread() is self._thread

    def _run(self) -> None:
        due: float | None = None
        backoff = FLUSH_SECONDS
        while True:
            try:
                item = self._queue.get(timeout=None if due is None else max(0.0, due - time.monotonic()))
            except queue.Empty:
                with self._gate:
                    self._usage.flush()
                backoff = min(backoff * 2, MAX_BACKOFF) if self._usage.failing else FLUSH_SECONDS
                due = time.monotonic() + backoff if self._usage.failing else None
                continue
            if item == "stop":
                return
            if isinstance(item, Job):
                with self._gate:
                    item.run()
            elif due is None:
                due = time.monotonic() + FLUSH_SECONDS
