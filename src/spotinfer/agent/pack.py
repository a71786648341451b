"""Makes the text that carries the agent to a machine, for `SPOTINFER_AGENT`. Runs at the owner's only.

It is base64(zlib(zip)): the zip itself stores, so that one dictionary serves all files, and comments and docstrings
stay at home. Environments are small: AWS allows 16 KB of user data, and Vast's are passed on a command line.
"""

from __future__ import annotations

import ast
import base64
import io
import tokenize
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

LIMIT = 16 << 10


@lru_cache(maxsize=1)
def packed_agent() -> str:
    """The program as text, the same for the same sources. Its zip holds the package `agent`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(Path(__file__).parent.glob("*.py")):
            if path != Path(__file__):
                archive.writestr(zipfile.ZipInfo(f"agent/{path.name}"), slim(path.read_text(encoding="utf-8")))
    return base64.b64encode(zlib.compress(buffer.getvalue(), 9)).decode()


def slim(source: str) -> str:
    """The same program without comments, docstrings and blank lines, indented by one. Sources are indented by four."""
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip() + "\n"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and _has_docstring(node):
            first = node.body[0]
            assert first.end_lineno is not None
            indent = " " * first.col_offset
            lines[first.lineno - 1 : first.end_lineno] = [indent + "''\n"] + [""] * (first.end_lineno - first.lineno)
    return "".join(" " * ((len(line) - len(line.lstrip())) // 4) + line.lstrip() for line in lines if line.strip())


def _has_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return ast.get_docstring(node, clean=False) is not None
