"""What a user gets: the wheel's contents, its metadata, and entry points that name real things."""

from __future__ import annotations

import importlib.metadata as metadata
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

import spotinfer

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = {"local", "aws", "postgres", "prices", "notebook", "keyring", "all"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_library_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert "spotinfer/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    strangers = [name for name in names if not name.startswith(("spotinfer/", "spotinfer-"))]
    assert not strangers
    assert not [name for name in names if "/tests/" in name or name.endswith((".pyc", ".gguf", ".safetensors"))]


def test_the_wheel_holds_every_source_file(wheel: zipfile.ZipFile) -> None:
    source = ROOT / "src"
    written = {str(path.relative_to(source)) for path in (source / "spotinfer").rglob("*.py")}
    assert written <= set(wheel.namelist())


def test_the_metadata_agrees_with_the_package(wheel: zipfile.ZipFile) -> None:
    (path,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    head = HeaderParser().parsestr(wheel.read(path).decode())
    assert head["Version"] == spotinfer.__version__
    assert head["License-Expression"] == "Apache-2.0"
    assert head["Requires-Python"] == ">=3.10"
    assert set(head.get_all("Provides-Extra") or ()) == EXTRAS


@pytest.mark.parametrize("group", ["spotinfer.providers", "spotinfer.engines"])
def test_our_own_entry_points_load(group: str) -> None:
    points = [point for point in metadata.entry_points(group=group) if point.value.startswith("spotinfer.")]
    assert points
    for point in points:
        assert point.load().name == point.name


def test_the_command_is_installed() -> None:
    (point,) = [point for point in metadata.entry_points(group="console_scripts") if point.name == "spotinfer"]
    assert callable(point.load())
