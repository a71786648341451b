"""A real Jupyter kernel, fed cell by cell."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .agents import eventually


@dataclass(frozen=True)
class Result:
    """``error`` is the name of the exception; ``text`` and ``html`` are what the cell's last expression shows."""

    outputs: list[Any]

    @property
    def error(self) -> str | None:
        return next((output["ename"] for output in self.outputs if output["output_type"] == "error"), None)

    @property
    def text(self) -> str:
        return self._shown("execute_result", "text/plain")

    @property
    def html(self) -> str:
        return self._shown("execute_result", "text/html")

    @property
    def display(self) -> str:
        """What was drawn beside: the progress."""
        return self._shown("display_data", "text/html")

    def _shown(self, kind: str, form: str) -> str:
        return "".join(output["data"].get(form, "") for output in self.outputs if output["output_type"] == kind)


class Kernel:
    def __init__(self, client: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop
        self.pid = int(self.run("import os; os.getpid()").text)

    def run(self, source: str) -> Result:
        import nbformat

        cells = self._client.nb.cells
        cells.append(nbformat.v4.new_code_cell(source))
        self._loop.run_until_complete(self._client.async_execute_cell(cells[-1], len(cells) - 1))
        return Result(cells[-1].outputs)

    def run_and_interrupt(self, source: str, when: Callable[[], object]) -> Result:
        """As the stop button does: a SIGINT, once ``when`` is true."""

        def interrupt() -> None:
            eventually(when, 30)
            os.kill(self.pid, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            return self.run(source)
        finally:
            thread.join()


@contextmanager
def running() -> Iterator[Kernel]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of jupyter's own, about its paths and its unencrypted sockets
        import nbclient
        import nbformat

        loop = asyncio.new_event_loop()
        client = nbclient.NotebookClient(nbformat.v4.new_notebook(), timeout=60, kernel_name="python3")
        client.allow_errors = True

        async def start() -> Any:
            manager = client.async_setup_kernel(stderr=-3)
            await manager.__aenter__()
            return manager

        manager = loop.run_until_complete(start())
        try:
            yield Kernel(client, loop)
        finally:
            loop.run_until_complete(manager.__aexit__(None, None, None))
            loop.close()
