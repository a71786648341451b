"""A provider's settings by name, checked: what a user wrote in a file or a call becomes typed arguments."""

from __future__ import annotations

from collections.abc import Iterable

from ..core.errors import UnknownName
from ..core.protocols import ProviderOptions


def only_known(provider: str, options: ProviderOptions, known: Iterable[str]) -> None:
    """Raise :class:`UnknownName` (with "did you mean") for a setting that the provider does not have."""
    names = list(known)
    for name in options:
        if name not in names:
            raise UnknownName(f"option of the provider {provider}", name, names)
