"""Another process that launches and uses servers on command: `Launcher` here, its other end when run as a program."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

TESTS = Path(__file__).parents[1]


class Launcher:
    """Takes the settings of this process. ``lease`` is in seconds (None: the usual one)."""

    def __init__(self, lease: float | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), json.dumps(lease)],
            env={**os.environ, "PYTHONPATH": str(TESTS)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.hear()  # imports are done: races start even

    def tell(self, command: str, **arguments: Any) -> None:
        assert self._process.stdin is not None
        print(json.dumps([command, arguments]), file=self._process.stdin, flush=True)

    def answered(self, seconds: float = 0) -> bool:
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], seconds)[0])

    def hear(self, seconds: float = 60) -> Any:
        """The answer to what was told."""
        assert self.answered(seconds), f"no answer within {seconds} s"
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def ask(self, command: str, **arguments: Any) -> Any:
        self.tell(command, **arguments)
        return self.hear()

    def kill(self) -> None:
        """``kill -9``."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)

    def __enter__(self) -> Launcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()


@contextmanager
def launchers(count: int) -> Iterator[list[Launcher]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Launcher()) for _ in range(count)]


def main() -> None:
    from datetime import timedelta

    import openai  # noqa: F401 - its import takes longest

    from spotinfer import Client, SpotinferError
    from spotinfer.client import options
    from support.homes import chat

    lease = json.loads(sys.argv[1])
    if lease is not None:
        options.LEASE = timedelta(seconds=lease)
    server: Any = None
    print("null", flush=True)
    with Client(progress="none") as client:
        for line in sys.stdin:
            command, arguments = json.loads(line)
            answer: Any = None
            try:
                if command in ("launch", "connect"):
                    server = client.launch("tiny", **arguments) if command == "launch" else client.connect(**arguments)
                    answer = {"key": server.key, "owner": server._owner}
                elif command == "chat":
                    answer = chat(server)
                elif command == "requests":
                    answer = server.meter.snapshot().requests
                elif command == "close":
                    server.close()
            except SpotinferError as error:
                answer = {"error": error.code, "hint": error.hint}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.path[0] = str(TESTS)
    main()
