"""A tiny model made on the fly: real weights, a real tokenizer, a chat template, and nothing to download.

It is a two-layer Llama with random weights that are *steered*: its output is always printable ASCII and never ends by
itself, so a test or a first try decides how long an answer is. The same seed gives the same bytes on every Python and
platform, and the same greedy output in vLLM and llama.cpp.

Only the standard library is used, so that this folder can be carried to a rented machine and run there alone.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from . import gguf, safetensors
from .architecture import CONTEXT

Format = Literal["safetensors", "gguf"]
VERSION = 1
"""Part of every cached name: raised whenever the bytes change (a test pins them)."""


def tiny_model(path: str | Path, format: Format = "safetensors", *, seed: int = 0, context: int = CONTEXT) -> Path:
    """Write the model to ``path`` and return it: a folder (``safetensors``, for vLLM) or one file (``gguf``).

    Atomic: at ``path`` stands either nothing or a whole model. One that is there already is replaced.

    Raises ``ValueError`` for an unknown format, ``OSError`` where it cannot be written.
    """
    if format not in _WRITERS:
        raise ValueError(f"format must be one of {', '.join(_WRITERS)}, not {format!r}")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        made = Path(scratch, "model")
        _WRITERS[format](made, seed, context)
        _replace(made, target, Path(scratch, "old"))
    return target


def cached_tiny(cache: str | Path, format: Format) -> Path:
    """The model in the folder ``cache``, made if it is not there yet; safe with several processes at once."""
    target = Path(cache, f"tiny-{VERSION}.gguf" if format == "gguf" else f"tiny-{VERSION}")
    return target if target.exists() else tiny_model(target, format)


def _replace(made: Path, target: Path, aside: Path) -> None:
    if made.is_dir() and target.is_dir():
        # A folder that is not empty cannot be renamed over; the old one goes with the scratch folder.
        os.replace(target, aside)
    try:
        os.replace(made, target)
    except OSError:
        if not (made.is_dir() and target.is_dir()):
            raise
        shutil.rmtree(made)  # another process was faster, with the same bytes


_WRITERS: dict[str, Callable[[Path, int, int], None]] = {"safetensors": safetensors.write, "gguf": gguf.write}
