"""What the lines of an engine's log mean, as data: phases of its start, and the causes of its failures.

Engines put process names and times before a line, and versions differ in the rest: patterns are searched for, never
anchored. Tables are read from the top, so the more specific pattern stands first.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..core.errors import OutOfMemory, PortTaken, StartFailed
from ..core.model import Phase

TAIL = 60
"""Lines of the log that an error carries."""


@dataclass(frozen=True, slots=True)
class PhaseMark:
    """``message`` may use the pattern's named groups."""

    pattern: str
    phase: Phase
    message: str


@dataclass(frozen=True, slots=True)
class Failure:
    """``message`` and ``hint`` may use the pattern's named groups; ``{line}`` is the line itself, cleaned."""

    pattern: str
    error: type[StartFailed]
    message: str
    hint: str


AGENT_FAILURES = (
    Failure(
        r"cannot listen on \S+:(?P<port>\d+): Address already in use",
        PortTaken,
        "port {port} is taken by another program",
        "choose another port, or none: any free one is taken then",
    ),
    Failure(
        r"cannot start (?P<path>\S+): .*No such file or directory",
        StartFailed,
        "there is no program {path} to start the engine with",
        "`spotinfer doctor` shows which engines are installed and where",
    ),
)
"""What the agent says when it cannot even start the engine: the same for every engine."""


def read_phase(line: str, marks: Sequence[PhaseMark]) -> tuple[Phase, str] | None:
    """The phase that a line tells. A progress bar is one line with carriage returns: its last state counts."""
    for part in reversed(line.split("\r")):
        for mark in marks:
            found = _compiled(mark.pattern).search(part)
            if found:
                return mark.phase, mark.message.format(**_groups(found))
    return None


def read_failure(
    engine: str, log: Sequence[str], exit_code: int | None, failures: Sequence[Failure], summaries: Sequence[str]
) -> StartFailed:
    """The most specific error for an engine that ended before it was ready.

    ``summaries`` are patterns of lines that only repeat that something failed: never the cause.
    """
    tail = log[-TAIL:]
    loud = [line for line in log if not _HARMLESS.search(line)]
    for failure in (*failures, *AGENT_FAILURES):
        for line in loud:
            found = _compiled(failure.pattern).search(line)
            if found:
                words = {**_groups(found), "line": _clean(line)}
                return failure.error(failure.message.format(**words), hint=failure.hint.format(**words), log=tail)
    return _unknown(engine, log, loud, exit_code, summaries)


def _unknown(
    engine: str, log: Sequence[str], loud: Sequence[str], exit_code: int | None, summaries: Sequence[str]
) -> StartFailed:
    tail = log[-TAIL:]
    if exit_code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return OutOfMemory(
            f"{engine} was killed before it was ready, most often because the computer ran out of memory",
            hint="use a smaller model, a shorter context or a larger machine; the kernel's log tells (`dmesg`)",
            log=tail,
        )
    cause = first_error(loud, summaries)
    ended = "did not become ready" if exit_code is None else f"ended with {describe_exit(exit_code)}"
    return StartFailed(
        f"{engine} {ended}" + (f": {cause}" if cause else ""),
        hint="the log below shows what it was doing; options given by you are the first suspects",
        log=tail,
    )


def first_error(log: Sequence[str], summaries: Sequence[str]) -> str | None:
    """The first line that names an error and is no summary: in a chain of exceptions the root comes first."""
    for line in log:
        if _ERROR.search(line) and not any(_compiled(summary).search(line) for summary in summaries):
            return _clean(line)
    return None


def describe_exit(code: int) -> str:
    """``exit code 1`` or ``signal SIGSEGV`` (negative codes are signals)."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


# A warning may quote the very error that did not happen (vLLM's, and llama.cpp's one-letter levels).
_HARMLESS = re.compile(r"\b(?:DEBUG|INFO|WARNING)\s+\d\d-\d\d |^[\d.]{12,} [DIW] ")
_ERROR = re.compile(r"\b\w*(?:Error|Exception)\b: \S|\berror: ")
_PREFIX = re.compile(
    r"^(?:\(\w+ pid=\d+\)\s*)?(?:(?:INFO|WARNING|ERROR|DEBUG)\s+[\d:. -]+\[[\w.:/-]+\]\s*)?(?:[\d.]+ [IWE] [\w~]+\s+)?"
)


def _clean(line: str) -> str:
    """Without the names and times that the engine puts before it."""
    return _PREFIX.sub("", line.split("\r")[-1].strip())[:500]


def _groups(found: re.Match[str]) -> dict[str, str]:
    return {name: value.strip(" `") if value else "" for name, value in found.groupdict().items()}


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
