"""For tests: yours and those of plug-ins. Names are loaded on use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..serving.tiny import tiny_model

__all__ = ["tiny_model"]

_HOMES = {"tiny_model": "spotinfer.serving.tiny"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
