"""A computer that was just rented, as cloud-init sees it: a folder for a root, and stand-ins for its programs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STAND_IN = """#!/usr/bin/env python3
import json, os, sys
with open(os.path.join(os.environ["CALLS"], os.path.basename(sys.argv[0]) + ".jsonl"), "a") as file:
    file.write(json.dumps({"argv": sys.argv[1:], "env": dict(os.environ)}) + "\\n")
"""
DOCKER = """
if sys.argv[1] == "run" and "CONTAINER" in os.environ:
    args = sys.argv[2:]
    passed = {name for flag, name in zip(args, args[1:]) if flag == "-e"}
    command = args[args.index("--entrypoint") + 3 :]
    env = {name: value for name, value in os.environ.items() if name in passed or name == "PATH"}
    os.execve(sys.executable, [sys.executable, "-I", os.environ["CONTAINER"], *command], env)
"""
PROGRAMS: Mapping[str, str] = {
    "systemctl": STAND_IN,
    "docker": STAND_IN + DOCKER,
    "nvidia-ctk": STAND_IN,
    "apt-get": STAND_IN,
}
TOOLS = ("sh", "env", "cat", "mkdir", "chmod", "sed", "dirname", "readlink")


class Host:
    """``without`` are programs that it lacks. ``container`` is a Python program that every image consists of: the
    stand-in for Docker becomes it, with the variables that were passed and the arguments of the command."""

    def __init__(self, root: Path, *, without: str = "", container: Path | None = None) -> None:
        self.root, self.calls, self.bin = root / "opt", root / "calls", root / "bin"
        for folder in (self.calls, self.bin):
            folder.mkdir(parents=True)
        for name, text in PROGRAMS.items():
            if name != without:
                (self.bin / name).write_text(text)
                (self.bin / name).chmod(0o755)
        for name in TOOLS:
            found = shutil.which(name)
            assert found is not None
            (self.bin / name).symlink_to(found)
        (self.bin / "python3").symlink_to(os.path.realpath(sys.executable))
        self.env = {"PATH": str(self.bin), "CALLS": str(self.calls), "SPOTINFER_HOST_DIR": str(self.root), "LANG": "C"}
        if container is not None:
            self.env["CONTAINER"] = str(container)

    def boot(self, user_data: str) -> str:
        """What cloud-init does with a script; answers what it printed. The service is enabled, not started."""
        return self._run("sh", text=user_data)

    def start(self) -> str:
        """What systemd does with the service, until it ends by itself."""
        return self._run(str(self.root / "start"))

    def called(self, program: str) -> list[dict[str, Any]]:
        path = self.calls / f"{program}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _run(self, *argv: str, text: str | None = None) -> str:
        done = subprocess.run(argv, env=self.env, input=text, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr
