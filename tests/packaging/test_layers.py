"""The layers hold, and files and functions stay small enough to read."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "spotinfer"
FILES = sorted(SOURCE.rglob("*.py"))
AGENT = sorted((SOURCE / "agent").glob("*.py"))
LAUNCHERS = sorted((SOURCE / "serving" / "launchers").glob("*.py"))
MOST_LINES = 400
MOST_LINES_A_FUNCTION = 50


def imports(path: Path) -> set[str]:
    """Top-level names of every absolute import in a file, those inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_the_contracts_of_import_linter_hold() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    child = subprocess.run(
        [program, "--no-cache"], cwd=ROOT, env={**os.environ, "PYTHONPATH": "src"}, capture_output=True, text=True
    )
    assert child.returncode == 0, child.stdout + child.stderr


@pytest.mark.parametrize("path", AGENT, ids=lambda path: path.name)
def test_the_agent_needs_only_the_standard_library(path: Path) -> None:
    strangers = imports(path) - set(sys.stdlib_module_names)
    assert not strangers, f"{path.name} imports {sorted(strangers)}"
    climbing = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom) and node.level > 1
    ]
    assert not climbing, f"{path.name} imports out of its own package"


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_launchers_import_nothing_of_ours(path: Path) -> None:
    """They run in the engine's own Python, where spotinfer is not installed."""
    assert "spotinfer" not in imports(path)
    assert not [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.level]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_and_functions_are_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= MOST_LINES_A_FUNCTION, f"{path.name}: {node.name} has {length} lines"
