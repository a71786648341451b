"""Where a value came from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Origin(str, Enum):
    """In order: an earlier one wins over a later one."""

    ARGUMENT = "argument"
    ENVIRONMENT = "environment"
    CLOUD_FILE = "cloud's own file"
    KEYRING = "keyring"
    TOML = "config file"
    DEFAULT = "default"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Source:
    """``where`` names the variable, or the file with its line."""

    origin: Origin
    where: str = ""

    def __str__(self) -> str:
        return f"{self.origin}: {self.where}" if self.where else str(self.origin)


@dataclass(frozen=True, slots=True)
class Found:
    """A raw value, not yet checked."""

    value: object
    source: Source
