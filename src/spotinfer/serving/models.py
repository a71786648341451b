"""What a user's model name means: ``tiny``, a folder, a GGUF file, or a model of the hub."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..core.errors import ConfigError, UnknownName
from ..core.model import Model
from .gguf import is_gguf
from .tiny import Format, cached_tiny

TINY = "tiny"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_WEIGHTS = (".safetensors", ".bin", ".pt")
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")


def resolve_model(
    name: str | Path,
    *,
    engine_format: str | None = None,
    cache: Path | None = None,
    revision: str | None = None,
) -> Model:
    """The model of that name.

    ``tiny`` stays without a file (``format="tiny"``) until ``engine_format`` and ``cache`` are given: which file it
    becomes is the engine's choice, and the engine is chosen by the model.

    Raises :class:`UnknownName` for a path that does not exist and a name that is none of the above,
    :class:`ConfigError` for a file or folder that is not a model.
    """
    text = str(name)
    path = Path(text).expanduser()
    if text == TINY:
        return _tiny(engine_format, cache)
    if text and path.is_dir():
        return _folder(text, path)
    if path.is_file():
        return _file(text, path)
    if not _looks_like_path(text) and _HUB_ID.fullmatch(text):
        return Model(source=text, served_name=text, revision=revision, format="hub")
    raise _unknown(text, path)


def _tiny(engine_format: str | None, cache: Path | None) -> Model:
    model = Model(source=TINY, served_name=TINY, format=TINY)
    if engine_format is None or cache is None:
        return model
    form: Format = "gguf" if engine_format == "gguf" else "safetensors"
    try:
        path = cached_tiny(cache, form)
    except OSError as error:
        raise ConfigError(
            f"the tiny model cannot be written to {cache}: {error.strerror}",
            hint="free some space there, or set another cache folder",
        ) from error
    return replace(model, path=str(path), format=form, weights=_size(_weight_files(path)))


def _folder(name: str, path: Path) -> Model:
    if not (path / "config.json").is_file():
        files = sorted(path.glob("*.gguf"))
        hint = f"name the file: {files[0]}" if files else "a model's folder has config.json and safetensors files"
        raise ConfigError(f"the folder {name} is not a model: it has no config.json", hint=hint)
    weights = list(_weight_files(path))
    if not weights:
        raise ConfigError(
            f"the folder {name} has a config.json but no weights",
            hint="download the model's safetensors files into it",
        )
    path = path.resolve()
    return Model(source=name, served_name=path.name, path=str(path), format="safetensors", weights=_size(weights))


def _file(name: str, path: Path) -> Model:
    if not is_gguf(path):
        raise ConfigError(f"the file {name} is not a GGUF file", hint="name a .gguf file, or a folder with config.json")
    path = path.resolve()
    shard = _SHARD.fullmatch(path.name)
    stem = shard["stem"] if shard else path.stem
    return Model(source=name, served_name=stem, path=str(path), format="gguf", weights=_size(_weight_files(path)))


def _weight_files(path: Path) -> Iterable[Path]:
    if path.is_dir():
        return [file for file in path.iterdir() if file.suffix in _WEIGHTS and file.is_file()]
    shard = _SHARD.fullmatch(path.name)
    if not shard:
        return [path]
    return [
        file
        for file in path.parent.iterdir()
        if (other := _SHARD.fullmatch(file.name)) and other["stem"] == shard["stem"]
    ]


def _size(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.endswith(".gguf") or "\\" in name or name.count("/") > 1


def _unknown(name: str, path: Path) -> UnknownName:
    prefix = name[: name.rfind("/") + 1]
    neighbours = [prefix + entry.name for entry in _entries(path.parent) if _may_be_model(entry)]
    if _looks_like_path(name):
        hint = "the path does not exist: name a folder with config.json, or a .gguf file"
    else:
        hint = "name `tiny`, a model of the hub (owner/name), a folder with config.json, or a .gguf file"
    known = neighbours if prefix else [TINY, *neighbours]
    return UnknownName("model", name, known, hint=hint)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())[:1000]
    except OSError:
        return []


def _may_be_model(path: Path) -> bool:
    return path.suffix == ".gguf" or (path / "config.json").is_file()
