"""Figures that a test found, for people: on stdout (``pytest -rP``) and in a report."""

from __future__ import annotations

import pytest


def note(request: pytest.FixtureRequest, name: str, value: object) -> None:
    """What ``record_property`` does, without its warning where the report has the newer of its two formats."""
    print(f"{name}: {value}")
    request.node.user_properties.append((name, value))
