"""`import spotinfer` costs next to nothing, whatever is installed beside it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

ALLOWED: frozenset[str] = frozenset()
"""Standard modules that the import may add. None today: public names are found when they are touched."""
HEAVY = ("openai", "httpx2", "pydantic", "sqlalchemy", "anyio", "asyncio", "rich", "boto3", "ssl")
MOST_MODULES = 60

PROBE = """\
import sys
before = set(sys.modules)
{code}
import json
print(json.dumps(sorted(set(sys.modules) - before - {{"json"}})))
"""


def added_by(code: str) -> list[str]:
    probe = PROBE.format(code=f"{code}\nadded_now = set(sys.modules)").replace(
        "set(sys.modules) - before", "added_now - before"
    )
    # -I: neither the folder nor the environment decides what is found.
    child = subprocess.run([sys.executable, "-I", "-c", probe], capture_output=True, text=True, timeout=60, check=True)
    return list(json.loads(child.stdout))


def test_the_import_loads_only_small_standard_modules() -> None:
    added = added_by("import spotinfer")
    assert "spotinfer" in added
    strangers = set(added) - ALLOWED - {"spotinfer"}
    assert not strangers, f"import spotinfer loads {sorted(strangers)}"
    assert len(added) <= MOST_MODULES


@pytest.mark.parametrize("code", ["", "spotinfer.__version__, dir(spotinfer), spotinfer.__all__"])
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert not set(HEAVY) & set(added_by(f"import spotinfer; {code}"))


def test_core_loads_nothing_that_does_input_or_output() -> None:
    added = added_by(
        "import spotinfer.core.model, spotinfer.core.protocols, spotinfer.core.errors, spotinfer.core.money"
    )
    assert not {name.partition(".")[0] for name in added} & {
        "anyio", "asyncio", "httpx2", "openai", "pydantic", "sqlalchemy", "rich", "ssl", "socket",
    }  # fmt: skip


def test_touching_an_error_does_not_load_the_client() -> None:
    added = added_by("import spotinfer; spotinfer.errors.SpotinferError")
    assert not {"openai", "sqlalchemy", "anyio", "spotinfer.client"} & set(added)
