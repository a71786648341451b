"""Every example of the README and the documentation does what the text says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.examples import agrees, blocks

ROOT = Path(__file__).resolve().parents[2]
PAGES = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if "_build" not in path.parts]
RUN = {"python", "console", "output"}
WITH_EXAMPLES = [page for page in PAGES if any(block.language in RUN for block in blocks(page.read_text()))]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by all pages: the tiny model is made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def clean_environment(tmp_path: Path, cache: Path) -> dict[str, str]:
    """A user without settings or keys, with a home that may be written to."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SPOTINFER_", "XDG_", "OPENAI_"))}
    return {
        **kept,
        "HOME": str(tmp_path),
        "SPOTINFER_HOME": str(tmp_path / "spotinfer"),
        "SPOTINFER_CACHE": str(cache),
        "SPOTINFER_CONFIG_FILE": str(tmp_path / "config.toml"),
        "SPOTINFER_PROGRESS": "none",
        "PYTHONPATH": str(ROOT / "tests"),
        "COLUMNS": "100",
    }


@pytest.mark.engine
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples(page: Path, clean_environment: dict[str, str], tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-m", "support.examples", str(page)],
        env=clean_environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    machines = tmp_path / "spotinfer" / "local" / "machines"
    assert not machines.exists() or not list(machines.iterdir()), "an example left a machine running"


def test_every_fence_says_its_language() -> None:
    """So that no example escapes being run because its language was forgotten: plain text is said to be ``text``."""
    known = RUN | {"text", "toml", "bash", "python"}
    for page in PAGES:
        for block in blocks(page.read_text()):
            assert block.language in known or block.language.startswith("{"), f"{page}:{block.line}: {block.language!r}"


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("$0.0012 for 48 tokens", "$0.0300  for\n1,024 tokens", True),
        ("tokens 48", "requests 48", False),
        ("one ... three", "one two\ntwo three", True),
        ("... three", "one two four", False),
        ("True", "False", False),
        ("a\nb", "a b", True),
    ],
)
def test_how_outputs_are_compared(expected: str, printed: str, same: bool) -> None:
    assert agrees(expected, printed) is same
