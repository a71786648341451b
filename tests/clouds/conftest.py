"""Adapters of clouds on their emulators. They need the dependency group `clouds`, as `nox -s contracts` installs it."""

from __future__ import annotations

from importlib.util import find_spec

MISSING = [name for name in ("boto3", "moto", "jsonschema", "referencing", "yaml") if find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_report_header() -> str | None:
    return f"tests/clouds is left out: {', '.join(MISSING)} not installed (nox -s contracts)" if MISSING else None
