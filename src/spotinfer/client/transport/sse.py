"""Server-sent events of OpenAI-compatible servers, looked at as bytes: no event is parsed that need not be."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from .usage import Usage, usage_of

_EVENT_END: Final = re.compile(rb"\n\n|\n\r\n|\r\r\n?")
_NO_CHOICES: Final = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_FINISHED: Final = re.compile(rb'"finish_reason"\s*:\s*"(\w+)"')
_CONTENT: Final = re.compile(
    rb'"(?:content|text|reasoning_content|reasoning|refusal|name|arguments)"\s*:\s*"[^"]'  # chat and completions
)
_DELTA: Final = b'.delta"'  # in the type of every Responses event that carries generated text


def safe_end(block: bytes) -> int:
    """Up to where ``block`` may be handed on before more has come: the end of its last complete event.

    If something incomplete follows an event that finishes a choice, that event waits too: the usage event may follow,
    and :func:`strip_usage` has to see both.
    """
    end = _last_end(block)
    if end < len(block):
        begin = _last_end(block[:end].rstrip(b"\r\n"))
        if _FINISHED.search(block, begin, end):
            return begin
    return end


def _last_end(block: bytes) -> int:
    ends = (block.rfind(mark) + len(mark) for mark in (b"\n\n", b"\n\r\n", b"\r\r") if mark in block)
    return max(ends, default=0)


def strip_usage(block: bytes) -> tuple[bytes, Usage | None]:
    """``block`` without the event that only carries usage (its ``choices`` are empty), and that usage.

    llama.cpp puts its ``timings`` on the last event, so asking for usage moves them there; they move back.
    """
    kept: list[bytes] = []
    usage: Usage | None = None
    at = 0
    while at < len(block):
        mark = _EVENT_END.search(block, at)
        end = mark.end() if mark else len(block)
        event = block[at:end]
        at = end
        found = _usage_event(event)
        if found is None:
            kept.append(event)
            continue
        counts = found["usage"]
        usage = usage_of(counts) if isinstance(counts, Mapping) else None
        if "timings" in found and kept:
            kept[-1] = _with_timings(kept[-1], found["timings"])
    return b"".join(kept), usage


def _usage_event(event: bytes) -> dict[str, object] | None:
    if b'"usage"' not in event or not _NO_CHOICES.search(event):
        return None
    found = _object(_data(event))
    if found is None or found.get("choices") != [] or not isinstance(found.get("usage"), dict):
        return None
    return found


def _with_timings(event: bytes, timings: object) -> bytes:
    brace = event.rfind(b"}")
    if brace < 0:
        return event
    return b"".join((event[:brace], b',"timings":', json.dumps(timings).encode("ascii"), event[brace:]))


def first_content(endpoint: str, seen: bytes | bytearray, start: int) -> tuple[bytes, int] | None:
    """Whether ``seen`` has generated text from ``start`` on: then what to count events by, and how many came before.

    What to count by is how this server begins an event (``data: {"``), which cannot occur in generated text, where
    quotes are escaped.
    """
    if endpoint == "/responses":
        return (_DELTA, 0) if _DELTA in seen else None
    found = _CONTENT.search(seen, start)
    if found is None:
        return None
    begin = seen.rfind(b"data:", 0, found.start())
    brace = seen.find(b"{", begin, found.start())
    if begin < 0 or brace < 0:
        return None
    needle = bytes(seen[begin : brace + 2])
    return needle, seen.count(needle, 0, begin)


def empty_at_end(endpoint: str, tail: bytes) -> int:
    """How many of the last events carry no text: what finishes a choice, and what tells usage."""
    if endpoint == "/responses":
        return 0
    empty = 0
    for line in reversed(tail.splitlines()):
        if line.startswith(b"data:") and not line[5:].lstrip().startswith(b"[DONE]"):
            if _CONTENT.search(line):
                break
            empty += 1
    return empty


def finished(tail: bytes) -> str:
    """The last finish reason in the stream's tail; empty where there is none."""
    at = tail.rfind(b'"finish_reason"')
    while at >= 0:
        found = _FINISHED.match(tail, at)
        if found:
            return found[1].decode()
        at = tail.rfind(b'"finish_reason"', 0, at)
    return ""


def done(tail: bytes) -> bool:
    """Whether the last event is ``[DONE]``. It must begin a line: the same words inside generated text do not."""
    at = tail.rfind(b"data:")
    begins_line = at == 0 or (at > 0 and tail[at - 1] in b"\r\n")
    return begins_line and tail[at + 5 : at + 16].lstrip().startswith(b"[DONE]")


def error_in(tail: bytes) -> bool:
    """Whether the stream's tail holds an error event: one that a client raises for."""
    if tail.rfind(b'"error"') < 0 and tail.rfind(b'"response.failed"') < 0:  # several times faster than "in"
        return False
    events = (_object(line[5:]) for line in tail.splitlines() if line.startswith(b"data:"))
    return any(event and (event.get("error") or event.get("type") == "response.failed") for event in events)


def _data(event: bytes) -> bytes:
    lines = (line for line in event.splitlines() if line.startswith(b"data:"))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)


def _object(text: bytes) -> dict[str, object] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
