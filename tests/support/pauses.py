"""How long a command leaves somebody at a terminal without a sign of life."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time

from .cli import PROGRAM, CommandLine


def watched(spotinfer: CommandLine, *arguments: str, timeout: float) -> tuple[str, float]:
    """What the command showed on a pseudo-terminal, and its longest pause in seconds, from its start to its end."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        env={**spotinfer.environment, "TERM": "xterm-256color"},
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    text, longest = b"", 0.0
    began = last = time.monotonic()
    try:
        while select.select([leader], [], [], max(0.0, began + timeout - last))[0]:
            try:
                text += os.read(leader, 65536)
            except OSError:  # Linux says so when the other end is closed
                break
            now = time.monotonic()
            longest, last = max(longest, now - last), now
        return text.decode(), max(longest, time.monotonic() - last)
    finally:
        os.close(leader)
        if process.poll() is None and last - began >= timeout:
            process.kill()
        process.wait(30)
