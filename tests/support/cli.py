"""The command line as a user has it: a process of its own, with its own home, no variables of the surroundings."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OWN = ("SPOTINFER_", "RUNPOD_", "VAST_", "LAMBDA_", "AWS_", "HF_", "HUGGING_FACE", "XDG_", "COLUMNS", "NO_COLOR")
PROGRAM = (sys.executable, "-m", "spotinfer.cli")


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class CommandLine:
    home: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
        own = {
            "HOME": str(self.home),
            "SPOTINFER_HOME": str(self.home / "state"),
            "SPOTINFER_CACHE": str(self.home / "cache"),
            "SPOTINFER_CONFIG_FILE": str(self.home / "config.toml"),
        }
        return {**kept, **own, **self.variables}

    def __call__(self, *arguments: str, timeout: float = 60) -> Answer:
        done = subprocess.run(
            [*PROGRAM, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*PROGRAM, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def on_terminal(self, *arguments: str, answers: tuple[tuple[str, str], ...] = (), timeout: float = 60) -> Answer:
        """With a pseudo-terminal for everything. ``answers``: what is typed when the prompt's text has appeared."""
        leader, follower = pty.openpty()
        process = subprocess.Popen(
            [*PROGRAM, *arguments],
            env={**self.environment, "TERM": "xterm-256color"},
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
        )
        os.close(follower)
        text, seen, waiting = "", 0, list(answers)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if waiting and waiting[0][0] in text[seen:]:
                seen = text.index(waiting[0][0], seen) + len(waiting[0][0])
                time.sleep(0.1)  # getpass switches the echo off after it has written its prompt
                os.write(leader, (waiting.pop(0)[1] + "\n").encode())
            if not select.select([leader], [], [], 0.05)[0]:
                continue
            try:
                text += os.read(leader, 65536).decode()
            except OSError:  # Linux says so when the other end is closed
                break
        os.close(leader)
        return Answer(process.wait(timeout=10), text.replace("\r\n", "\n"), "")


def engines_of(home: Path) -> list[int]:
    """Processes that belong to machines of this home, agents and engines."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SPOTINFER_DIR", "").startswith(str(home)) and process.status() != "zombie":
                found.append(process.pid)
        except psutil.Error:
            continue
    return found
