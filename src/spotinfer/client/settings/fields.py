"""Every setting as data: how a raw value is checked, which variables name it, what holds when nobody said anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from ...core.errors import ConfigError, UnknownName
from ...core.money import money
from ...core.secret import Secret
from ..durations import parse_duration
from . import cloud_files
from .source import Found

PREFIX = "SPOTINFER_"
PROGRESS = ("auto", "plain", "none")
POSTGRES = ("postgresql://", "postgres://", "postgresql+psycopg://")


@dataclass(frozen=True, slots=True)
class Field:
    """``default`` gets the settings that stand above it in the table. ``variables`` are those of other programs.

    ``required``: there must be a value, so None as an argument means that nothing was said.
    """

    name: str
    help: str
    parse: Callable[[object, str], object]
    default: Callable[[Mapping[str, Any]], object] = lambda settings: None
    variables: tuple[str, ...] = ()
    file: Callable[[Mapping[str, str]], Found | None] | None = None
    required: bool = False

    @property
    def secret(self) -> bool:
        return self.parse is _secret

    @property
    def all_variables(self) -> tuple[str, ...]:
        return (PREFIX + self.name.upper(), *self.variables)


def _folder(value: object, what: str) -> Path:
    if not isinstance(value, (str, Path)) or not str(value).strip():
        raise ConfigError(f"{what} must be a folder, not {value!r}")
    return Path(value).expanduser().absolute()


def _ledger(value: object, what: str) -> str:
    """A relative path is relative to the folder in which the program was started, as everywhere."""
    if not isinstance(value, (str, Path)) or not str(value).strip():
        raise ConfigError(f"{what} must be a file or a postgresql:// URL, not {value!r}")
    text = str(value).strip()
    if text == ":memory:" or text.startswith(POSTGRES):
        return text
    if "://" in text:
        scheme = text.partition("://")[0]
        raise ConfigError(f"{what} cannot be a {scheme}:// URL", hint="a file, or a postgresql:// URL")
    return str(Path(text).expanduser().absolute())


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{what} must be a text, not {value!r}")
    return value.strip()


def _names(value: object, what: str) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) and part.strip() for part in parts):
        raise ConfigError(f"{what} must be a list of names, not {value!r}", hint='for example "local,runpod"')
    return tuple(part.strip() for part in parts)


def _dollars(value: object, what: str) -> object:
    if isinstance(value, str) and value.strip().lower() == "none":
        return None
    return money(value, what=what)  # type: ignore[arg-type]  # it refuses what is no amount


def _duration(value: object, what: str) -> timedelta | None:
    return parse_duration(value, what=what)


def _progress(value: object, what: str) -> str:
    if value not in PROGRESS:
        raise UnknownName(what, str(value), PROGRESS)
    return str(value)


def _secret(value: object, what: str) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{what} must be a text")  # not shown: it may be the secret in another form
    return Secret(value.strip())


def _state_folder(settings: Mapping[str, Any]) -> Path:
    from platformdirs import user_state_path

    return user_state_path("spotinfer")


def _cache_folder(settings: Mapping[str, Any]) -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("spotinfer")


FIELDS: tuple[Field, ...] = (
    Field("home", "folder of the ledger, the keys and the local machines", _folder, _state_folder, required=True),
    Field("cache", "folder of what can be made or downloaded again", _folder, _cache_folder, required=True),
    Field("ledger", "file or postgresql:// URL", _ledger, lambda all: str(all["home"] / "ledger.db"), required=True),
    Field("provider", "the only provider to use, unless a launch says another", _text),
    Field("providers", "providers to use; default: this computer and every one with credentials", _names),
    Field("engine", "the engine to use; default: by rule", _text),
    Field("vllm_python", "the Python that has vLLM, where it is not this one", _text),
    Field("local_price_per_hour", "dollars an hour that this computer costs", _dollars),
    Field("budget", "dollars after which a server is ended", _dollars),
    Field("idle_timeout", "how long a server may be without work", _duration, lambda settings: timedelta(minutes=30)),
    Field("max_age", "how old a server may become", _duration, lambda settings: timedelta(hours=24)),
    Field("progress", "how progress is shown: auto, plain or none", _progress, lambda settings: "auto", required=True),
    Field("runpod_api_key", "RunPod", _secret, variables=("RUNPOD_API_KEY",), file=cloud_files.runpod),
    Field("vast_api_key", "Vast.ai", _secret, variables=("VAST_API_KEY",), file=cloud_files.vast),
    Field("lambda_api_key", "Lambda", _secret, variables=("LAMBDA_API_KEY",), file=cloud_files.lambda_cloud),
    Field("aws_profile", "AWS profile", _text, variables=("AWS_PROFILE",), file=cloud_files.aws),
    Field(
        "hf_token",
        "Hugging Face, for gated models",
        _secret,
        variables=("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
        file=cloud_files.hugging_face,
    ),
)
BY_NAME: Mapping[str, Field] = {field.name: field for field in FIELDS}
