"""A home of its own for a test, used by this process and by the command line."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spotinfer import Settings
from spotinfer.serving.vllm_install import VARIABLE

from .cli import CommandLine


@dataclass(frozen=True)
class Place:
    """Everything in it runs vLLM on this computer unless a launch says otherwise."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "state"

    def settings(self) -> Settings:
        return Settings.load(home=self.home, cache=self.folder / "cache", provider="local", engine="vllm")

    @property
    def spotinfer(self) -> CommandLine:
        python = {VARIABLE: os.environ[VARIABLE]} if VARIABLE in os.environ else {}
        return CommandLine(
            self.folder, {**python, "SPOTINFER_PROVIDER": "local", "SPOTINFER_ENGINE": "vllm", "COLUMNS": "120"}
        )

    def record(self, name: str) -> dict[str, Any]:
        """As the ledger has it."""
        (found,) = [item for item in self.spotinfer("ls", "--all", "--json").json if item["name"] == name]
        return dict(found)
