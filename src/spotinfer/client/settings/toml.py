"""Our own configuration file: reading it with line numbers, and writing one value into it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from ...core.errors import ConfigError, UnknownName
from .source import Found, Origin, Source

OPTIONS = "options"
"""``[options.NAME]``: options of one provider, handed to it as they are; it checks them."""
IN_KEYRING = "in_keyring"
"""Names of the secrets that are in the system's keyring. Opening a keyring is slow and may ask the user for a password,
so it is opened only for a name that stands here, and only when the secret is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """The checked structure of the file; the values are checked by their fields."""

    path: Path
    values: Mapping[str, Found] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    in_keyring: tuple[str, ...] = ()


def loads(text: str) -> dict[str, Any]:
    """Raises ``ValueError``."""
    parser = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    table: dict[str, Any] = parser.loads(text)
    return table


def config_path(environ: Mapping[str, str]) -> Path:
    """``SPOTINFER_CONFIG_FILE``, else ``config.toml`` in the user's configuration folder."""
    given = environ.get("SPOTINFER_CONFIG_FILE")
    if given:
        return Path(given).expanduser()
    from platformdirs import user_config_path

    return user_config_path("spotinfer") / "config.toml"


def read(path: Path, known: list[str]) -> ConfigFile:
    """No file is an empty one.

    Raises :class:`ConfigError` for a file that cannot be read or parsed, :class:`UnknownName` for a wrong key.
    """
    text = _text(path)
    if text is None:
        return ConfigFile(path=path)
    try:
        table = loads(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}", hint=f"correct it, or move {path} away") from error
    names = [*known, OPTIONS, IN_KEYRING]
    for name in table:
        if name not in names:
            raise UnknownName(f"setting (in {_where(path, text, name)})", name, names)
    return ConfigFile(
        path=path,
        values={
            name: Found(value, Source(Origin.TOML, _where(path, text, name)))
            for name, value in table.items()
            if name in known
        },
        options=_tables(path, text, table.get(OPTIONS, {})),
        in_keyring=_names(path, text, table.get(IN_KEYRING, []), known),
    )


def write_value(path: Path, name: str, value: str | list[str] | None) -> None:
    """Set one top-level key, or remove it, and keep the rest of the file as the user wrote it; 0600.

    Raises :class:`ConfigError` when the file cannot be written.
    """
    lines = (_text(path) or "").splitlines()
    head = next((index for index, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
    kept = [line for line in lines[:head] if not _assigns(line, name)]
    while kept and not kept[-1].strip():
        kept.pop()
    if value is not None:
        kept.append(f"{name} = {_quoted(value)}")
    rest = lines[head:]
    _replace(path, "\n".join([*kept, *([""] if rest and kept else []), *rest]) + "\n")


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise ConfigError(
            f"cannot write {path}: {error.strerror}",
            hint="make it writable, or set SPOTINFER_CONFIG_FILE to another file",
        ) from error


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text", hint=f"correct it, or move {path} away") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="make it readable, or move it away") from error


def _tables(path: Path, text: str, value: object) -> dict[str, dict[str, object]]:
    if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
        raise ConfigError(
            f"{_where(path, text, OPTIONS)}: {OPTIONS} must hold one table for each provider",
            hint="for example a line [options.local]",
        )
    return value


def _names(path: Path, text: str, value: object, known: list[str]) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ConfigError(
            f"{_where(path, text, IN_KEYRING)}: {IN_KEYRING} must be a list of names",
            hint=f'for example {IN_KEYRING} = ["runpod_api_key"]',
        )
    for name in value:
        if name not in known:
            raise UnknownName(f"setting (in {_where(path, text, IN_KEYRING)})", name, known)
    return tuple(value)


def _where(path: Path, text: str, name: str) -> str:
    """The parser tells no positions, so the line is looked up again by the key at its beginning."""
    numbers = (number for number, line in _lines(text) if _assigns(line, name) or _opens(line, name))
    number = next(numbers, None)
    return str(path) if number is None else f"{path}, line {number}"


def _lines(text: str) -> Iterator[tuple[int, str]]:
    return enumerate(text.splitlines(), start=1)


def _assigns(line: str, name: str) -> bool:
    return re.match(rf"""\s*["']?{re.escape(name)}["']?\s*[=.]""", line) is not None


def _opens(line: str, name: str) -> bool:
    return re.match(rf"""\s*\[\[?\s*["']?{re.escape(name)}["']?\s*[].]""", line) is not None


def _quoted(value: str | list[str]) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_quoted(item) for item in value)}]"
    return '"' + "".join(_escaped(character) for character in value) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\u{ord(character):04x}"
