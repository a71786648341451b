"""Executes the examples of a Markdown document, in order, as one reader would who types them in.

    PYTHONPATH=tests python -m support.examples docs/tutorial/first-launch.md

``python`` blocks share one namespace and one event loop (top-level ``await`` works, as in a notebook); ``python
file=NAME`` is a file that the reader saves in the current folder; ``console`` blocks are commands after ``$ `` with
their output below; an ``output`` block is what the block above it printed. In expected output ``...`` stands for
anything, and numbers and the widths of tables may differ. A block in any other language is text. A block that cannot
be run here says why in a comment right above it: ``% not run: it rents a GPU``.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^(?P<fence>`{3,})(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=fence)[ ]*$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"(?:^% not run: .+|<!-- not run: .+-->)\n+\Z", re.MULTILINE)
RULES = re.compile(r"[\s\u2500-\u257f]+")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")


@dataclass(frozen=True)
class Block:
    line: int
    language: str
    file: str
    body: str
    skipped: bool


def blocks(text: str) -> Iterator[Block]:
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start("body")) + 1
        skipped = NOT_RUN.search(text[: found.start()]) is not None
        language, _, file = found["info"].strip().partition(" file=")
        yield Block(line, language, file, found["body"], skipped)


def plain(text: str) -> str:
    """Numbers become ``0``; blanks, line ends and the lines of tables become one space."""
    return RULES.sub(" ", NUMBER.sub("0", text)).strip()


def agrees(expected: str, printed: str) -> bool:
    pattern = ".*".join(re.escape(plain(part)) for part in expected.split("..."))
    return re.fullmatch(re.sub(r"(\\ |\s)*\.\*(\\ |\s)*", ".*", pattern), plain(printed), re.DOTALL) is not None


class Reader:
    """Runs blocks; raises AssertionError, naming file and line, where the output is not the one shown."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: dict[str, object] = {"__name__": "__main__"}
        self.printed = ""

    async def read(self) -> int:
        done = 0
        for block in blocks(self.path.read_text()):
            if block.skipped or block.language not in ("python", "console", "output"):
                continue
            if block.file:
                Path(block.file).write_text(block.body)
            elif block.language == "python":
                await self.python(block)
            elif block.language == "console":
                await asyncio.to_thread(self.console, block)
            else:
                self.check(block, block.body, self.printed)
            done += 1
        return done

    async def python(self, block: Block) -> None:
        source = "\n" * (block.line - 1) + block.body
        code = compile(source, str(self.path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            result = eval(code, self.names)
            if inspect.isawaitable(result):
                await result
        self.printed = out.getvalue()

    def console(self, block: Block) -> None:
        commands = re.split(r"^\$ ", block.body, flags=re.MULTILINE)[1:]
        assert commands, f"{self.path}:{block.line}: a console block needs a line that starts with '$ '"
        for command in commands:
            text, expected = _split_command(command)
            child = subprocess.run(
                ["bash", "-c", text], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
            )
            self.printed = child.stdout + child.stderr
            assert child.returncode == 0, f"{self.path}:{block.line}: $ {text}\n{self.printed}"
            if expected.strip():
                self.check(block, expected, self.printed)

    def check(self, block: Block, expected: str, printed: str) -> None:
        assert agrees(expected, printed), (
            f"{self.path}:{block.line}: the document shows\n{expected}\nbut this was printed\n{printed}"
        )


def _split_command(text: str) -> tuple[str, str]:
    """The command with its continuation lines, and what follows."""
    lines = text.splitlines(keepends=True)
    end = 1
    while end < len(lines) and lines[end - 1].endswith("\\\n"):
        end += 1
    return "".join(lines[:end]), "".join(lines[end:])


def main() -> int:
    path = Path(sys.argv[1])
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = asyncio.run(Reader(path).read())
    print(f"{path}: {done} blocks executed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
