"""One metered request as a plain object: no I/O and no clock of its own, so that sync and async share every rule.

It sees the bytes of the answer go by, keeps only the last few kilobytes, and makes one :class:`RequestRow` at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final

from ...core.records import RequestRow
from . import sse
from .usage import BYTES_PER_TOKEN, Usage, last_usage

KEEP: Final = 4096
"""Bytes of an answer's end (and, where it is no stream, of its beginning) in which usage is looked for."""
_COMPACT: Final = 4 * KEEP
_MAX_HELD: Final = 64 * 1024

log = logging.getLogger("spotinfer.meter")


class Ending(Enum):
    """How the body of an answer ended, before anybody looked into it."""

    COMPLETE = "the body ended as HTTP says it should"
    CLOSED = "the caller closed it, or dropped it"
    BROKEN = "it failed"
    CANCELLED = "the caller was cancelled meanwhile"

    @classmethod
    def of(cls, exc: BaseException) -> Ending:
        """Cancellation, Ctrl-C and the like are no ``Exception``, in asyncio and in trio; failures are."""
        return cls.BROKEN if isinstance(exc, Exception) else cls.CANCELLED


_PLAIN: Final = {
    Ending.COMPLETE: "ok",
    Ending.BROKEN: "cut",
    Ending.CLOSED: "cancelled",
    Ending.CANCELLED: "cancelled",
}


class Exchange:
    """Meters one request. Give it every byte block by :meth:`feed`, or by :meth:`feed_stripping` where usage was asked
    for on the caller's behalf, then :meth:`end` it. An exchange that is dropped ends itself.

    Tokens of an answer that ended without saying its usage are estimated: one for every event with content; for an
    answer that is no stream, and for the prompt, by size (``BYTES_PER_TOKEN``). A prompt counts where the engine may
    have worked on it: not where it refused the request, or never got it.
    """

    # Defaults of the class, not set one by one in __init__: one of these is made for every request.
    first_token: float | None = None
    http_status = 0
    sent = True
    """False where the engine cannot have seen the request."""
    sse = False
    _ended = False
    _waiting = False
    _head = b""
    _held = b""
    _dropped = 0
    _events = 0
    _needle = b""
    _stripped: Usage | None = None

    def __init__(
        self,
        sink: Callable[[RequestRow], None],
        now: Callable[[], float],
        *,
        key: str,
        endpoint: str,
        tag: str,
        model: str,
        stream: bool,
        strip: bool,
        prompt_size: int,
    ) -> None:
        self._sink, self._now = sink, now
        self.key, self.endpoint, self.tag, self.model = key, endpoint, tag, model
        self.stream, self.strip, self.prompt_size = stream, strip, prompt_size
        self.started = now()
        self._tail = bytearray()

    def answered(self, http_status: int, content_type: str, headers: Mapping[str, str]) -> None:
        """The head of the answer is here. A compressed stream passes unread: then nothing is stripped or counted."""
        self.http_status = http_status
        if http_status < 300 and content_type.lower().startswith("text/event-stream"):
            self.stream = True
            self.sse = self._waiting = headers.get("content-encoding", "identity").lower() in ("", "identity")
        self.strip = self.strip and self.sse

    # --- the hot path: once for every byte block ---------------------------------------------------------------------

    def feed(self, block: bytes) -> bytes:
        """Take note of ``block``, which the caller gets as it is."""
        tail = self._tail
        tail += block
        if self._waiting or len(tail) > _COMPACT:
            self._look(len(block))
        return block

    def feed_stripping(self, block: bytes) -> bytes:
        """Take note of ``block`` and give back what the caller shall see now: whole events, without the usage event.

        An event that is not complete yet waits here; no reader of events can tell, since it has to wait as well.
        """
        tail = self._tail
        tail += block
        if self._waiting or len(tail) > _COMPACT:
            self._look(len(block))
        if self._held:
            block = self._held + block
            self._held = b""
        # rfind where "in" would do: in CPython it is four times as fast on such a block.
        if not block.endswith(b"\n\n") or block.rfind(b'"usage"') >= 0:
            return self._whole_events(block)
        return block

    # --- once or twice for a request ---------------------------------------------------------------------------------

    def _whole_events(self, block: bytes) -> bytes:
        end = sse.safe_end(block)
        if len(block) - end < _MAX_HELD:
            self._held = block[end:]
            block = block[:end]
        return self._without_usage(block)

    def rest(self) -> bytes:
        """What was still held back when the body ended."""
        held, self._held = self._held, b""
        return self._without_usage(held)

    def _without_usage(self, block: bytes) -> bytes:
        if block.rfind(b'"usage"') < 0:
            return block
        kept, usage = sse.strip_usage(block)
        self._stripped = usage or self._stripped
        return kept

    def _look(self, new: int) -> None:
        if self._waiting:
            self._look_for_content(new)
        if len(self._tail) > _COMPACT:
            self._compact()

    def _look_for_content(self, new: int) -> None:
        found = sse.first_content(self.endpoint, self._tail, max(0, len(self._tail) - new - 64))
        if found is not None:
            self.first_token = self._now()
            self._waiting = False
            self._needle, before = found
            self._events = -before

    def _compact(self) -> None:
        tail = self._tail
        if not self.sse and not self._head:
            self._head = bytes(tail[:KEEP])
        cut = len(tail) - KEEP
        if self._needle:  # one that straddles the cut belongs to the part that goes
            self._events += tail.count(self._needle, 0, cut + len(self._needle) - 1)
        self._dropped += cut
        del tail[:cut]

    # --- the end -----------------------------------------------------------------------------------------------------

    def failed(self, exc: BaseException, *, sent: bool) -> None:
        """No answer came at all. ``sent``: the engine may have seen the request all the same."""
        self.sent = sent
        self.end(Ending.of(exc))

    def end(self, ending: Ending) -> None:
        """Make the row. Only the first call counts, so every way out of a driver may call it."""
        if self._ended:
            return
        self._ended = True
        usage = self._stripped or last_usage(self._tail) or (last_usage(self._head) if self._head else None)
        tail = bytes(self._tail[-KEEP:]) if self.sse else b""
        status = self._status(ending, tail, usage)
        # Usage that comes with every event is only as final as the stream.
        final = usage is not None and (status in ("ok", "error") or self._stripped is not None or sse.finished(tail))
        if usage is None:
            usage = self._estimate()
        row = RequestRow(
            self.key, self.started, self._now(), self.first_token, self.endpoint, self.model, self.tag, status,
            self.http_status, self.stream, usage.prompt, usage.completion, usage.cached, usage.reasoning, not final,
        )  # fmt: skip
        try:
            self._sink(row)
        except Exception:  # the caller's request must not fail because it could not be written down
            log.exception("a request was not metered")

    def _status(self, ending: Ending, tail: bytes, usage: Usage | None) -> str:
        if not self.http_status:
            return "cancelled" if ending is Ending.CANCELLED else "error"
        if self.http_status >= 300:
            return "error"
        if not self.sse:
            return _PLAIN[ending]
        if sse.error_in(tail):
            return "error"
        if sse.finished(tail) == "abort":
            return "cut"  # vLLM ends the streams of a server that shuts down like this
        if sse.done(tail) or (self.endpoint == "/responses" and usage is not None):
            return "ok"
        if ending in (Ending.CLOSED, Ending.CANCELLED):
            return "ok" if sse.finished(tail) else "cancelled"
        # The Responses API has no last line of its own; elsewhere a stream that ends without one was cut.
        return "ok" if ending is Ending.COMPLETE and self.endpoint == "/responses" else "cut"

    def _estimate(self) -> Usage:
        tail = self._tail
        worked = self.sent and self.http_status < 300
        prompt = self.prompt_size // BYTES_PER_TOKEN if worked else 0
        completion = 0
        if self.sse and self._needle:
            completion = self._events + tail.count(self._needle) - sse.empty_at_end(self.endpoint, bytes(tail[-KEEP:]))
        elif not self.sse and 200 <= self.http_status < 300 and self.endpoint != "/embeddings":
            completion = (self._dropped + len(tail)) // BYTES_PER_TOKEN
        return Usage(prompt, max(0, completion))

    def __del__(self) -> None:
        if not self._ended and hasattr(self, "_tail"):
            self.end(Ending.CLOSED)
