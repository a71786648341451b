"""Reads what a GGUF file says about itself, without loading it (the format: ggml's ``docs/gguf.md``)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_ALL_F32 = 0
_OLDEST = 2
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

Value = int | float | bool | str


class NotGguf(ValueError):
    """The file is no GGUF, or broken; the text says how."""


def is_gguf(path: Path) -> bool:
    """Whether the file begins like one. False where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """``context`` is the length in tokens that the model was made for; ``full_precision``: 32-bit weights."""

    context: int | None
    full_precision: bool


def read_facts(path: Path) -> Facts:
    """Raises :class:`NotGguf`, ``OSError``."""
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise NotGguf("it does not begin with GGUF")
        try:
            found = dict(_pairs(file))
        except (struct.error, ValueError, KeyError, OverflowError, MemoryError) as error:
            raise NotGguf("its header is cut off, broken or too old") from error
    context = found.get(f"{found.get('general.architecture')}.context_length")
    return Facts(
        context=context if isinstance(context, int) else None,
        full_precision=found.get("general.file_type") == _ALL_F32,
    )


def _pairs(file: BinaryIO) -> Iterator[tuple[str, Value | None]]:
    """Keys with their values (None for arrays), up to the vocabulary, which takes long to walk over."""
    version, _tensors, count = _unpack(file, "IQQ")
    if version < _OLDEST:
        raise ValueError(f"version {version}")
    for _ in range(count):
        key = _text(file)
        if key.startswith("tokenizer."):
            return
        yield key, _value(file)


def _unpack(file: BinaryIO, form: str) -> tuple[int, ...]:
    return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))


def _text(file: BinaryIO) -> str:
    return file.read(_unpack(file, "Q")[0]).decode()


def _value(file: BinaryIO) -> Value | None:
    (kind,) = _unpack(file, "I")
    if kind == _STRING:
        return _text(file)
    if kind != _ARRAY:
        return _unpack(file, _SCALARS[kind])[0]
    element, count = _unpack(file, "IQ")
    if element == _STRING:
        for _ in range(count):
            file.seek(_unpack(file, "Q")[0], 1)
    else:
        file.seek(count * struct.calcsize("<" + _SCALARS[element]), 1)
    return None
