"""Which of Vast's offers a user wants to see, out of the adapter's settings."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.errors import ConfigError
from ...core.protocols import ProviderOptions
from .rental import SMALLEST_DISK

DISK_GB = 80
"""An image of an engine takes about 30 GB unpacked; the rest is for weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taste:
    """Which offers are looked at: ``verified`` hosts, those in ``datacenter``s only, with ``disk_gb`` free."""

    verified: bool = True
    datacenter: bool = False
    disk_gb: int = DISK_GB


def taste_of(options: ProviderOptions) -> Taste:
    disk = options.get("disk_gb", DISK_GB)
    if isinstance(disk, bool) or not isinstance(disk, int) or disk < SMALLEST_DISK:
        raise ConfigError(f"disk_gb of the provider vast is a whole number of at least {SMALLEST_DISK}, not {disk!r}")
    return Taste(
        verified=switch(options, "verified", True), datacenter=switch(options, "datacenter", False), disk_gb=disk
    )


def switch(options: ProviderOptions, name: str, default: bool) -> bool:
    value = options.get(name, default)
    if not isinstance(value, bool):
        raise ConfigError(f"{name} of the provider vast is True or False, not {value!r}")
    return value
