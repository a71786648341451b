"""Settings, and where each of them came from.

An earlier place wins: an argument, the environment, the clouds' own files, the keyring, our file, the default. Plain
dataclasses: pydantic would take a fifth of the processor time that `spotinfer ls` may use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...core.errors import ConfigError, MissingCredentials, UnknownName
from ...core.secret import Secret
from . import toml, vault
from .fields import BY_NAME, FIELDS, PREFIX, Field
from .source import Found, Origin, Source

if TYPE_CHECKING:
    from typing_extensions import Self

KEYS: Mapping[str, str] = {
    "runpod": "runpod_api_key",
    "vast": "vast_api_key",
    "lambda": "lambda_api_key",
}
"""Which secret a provider needs."""
SIMULATED = "simulated"
"""Rents nothing real: used only where it is asked for by name."""

_HINT = "correct it there; `spotinfer config show` lists every setting"

_Deferred = Callable[[], "Secret | None"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """Make it with :meth:`load`. ``sources`` says for every setting where its value came from.

    Money is dollars; None as a duration means no limit. A secret that is in the keyring is fetched when it is used.
    """

    home: Path
    cache: Path
    ledger: str
    provider: str | None
    providers: tuple[str, ...] | None
    engine: str | None
    vllm_python: str | None
    local_price_per_hour: Decimal | None
    budget: Decimal | None
    idle_timeout: timedelta | None
    max_age: timedelta | None
    progress: Literal["auto", "plain", "none"]
    aws_profile: str | None
    config_file: Path
    sources: Mapping[str, Source]
    _options: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    _secrets: Mapping[str, _Deferred] = field(default_factory=dict)

    @classmethod
    def load(cls, **arguments: object) -> Self:
        """Look in every place. Raises :class:`ConfigError` for a value that cannot be meant, with its source."""
        for name in arguments:
            if name not in BY_NAME:
                raise UnknownName("setting", name, list(BY_NAME))
        environ = dict(os.environ)
        _no_near_misses(environ)
        path = toml.config_path(environ)
        file = toml.read(path, list(BY_NAME))
        plain: dict[str, Any] = {}
        secrets: dict[str, _Deferred] = {}
        sources: dict[str, Source] = {}
        for item in FIELDS:
            found = _find(item, arguments, environ, file)
            if item.secret:
                secrets[item.name] = _deferred(item, found)
            else:
                plain[item.name] = item.default(plain) if found is None else _parsed(item, found)
            sources[item.name] = Source(Origin.DEFAULT) if found is None else found.source
        return cls(**plain, config_file=path, sources=sources, _options=file.options, _secrets=secrets)

    @property
    def runpod_api_key(self) -> Secret | None:
        return self._secrets["runpod_api_key"]()

    @property
    def vast_api_key(self) -> Secret | None:
        return self._secrets["vast_api_key"]()

    @property
    def lambda_api_key(self) -> Secret | None:
        return self._secrets["lambda_api_key"]()

    @property
    def hf_token(self) -> Secret | None:
        """The Hugging Face token."""
        return self._secrets["hf_token"]()

    def is_set(self, name: str) -> bool:
        """Whether somebody said it; does not open the keyring."""
        return self.sources[name].origin is not Origin.DEFAULT

    def enabled_providers(self, installed: Iterable[str]) -> tuple[str, ...]:
        """Which of the installed providers to use, without asking any.

        Those named in ``providers`` where that is set; else this computer, every cloud with credentials, every
        plug-in. ``provider`` is always one of them. Raises :class:`UnknownName` for a name that is not installed.
        """
        names = list(installed)
        wanted = list(self.providers) if self.providers is not None else [name for name in names if self._usable(name)]
        if self.provider is not None and self.provider not in wanted:
            wanted.append(self.provider)
        for name in wanted:
            if name not in names:
                raise UnknownName("provider", name, names)
        return tuple(wanted)

    def _usable(self, name: str) -> bool:
        if name == "aws":
            return self.aws_profile is not None or "AWS_ACCESS_KEY_ID" in os.environ
        return name != SIMULATED and (name not in KEYS or self.is_set(KEYS[name]))

    def provider_options(self, name: str) -> dict[str, object]:
        """What the provider's ``from_options`` gets: its table in our file, and what the settings say.

        Raises :class:`MissingCredentials` for a cloud without a key.
        """
        options = dict(self._options.get(name, {}))
        if name == "local":
            options.setdefault("home", self.home / "local")
            if self.local_price_per_hour is not None:
                options["price_per_hour"] = self.local_price_per_hour
        elif name == "aws" and self.aws_profile is not None:
            options["profile"] = self.aws_profile
        elif name in KEYS:
            secret = self._secrets[KEYS[name]]()
            if secret is None:
                raise MissingCredentials(f"there is no API key for {name}")
            options["api_key"] = secret
        return options

    def engine_options(self, name: str) -> dict[str, str]:
        """What the engine's class is called with."""
        return {"python": self.vllm_python} if name == "vllm" and self.vllm_python else {}

    def shown(self, name: str) -> str | None:
        """The value for people to see: a secret as stars, a password in a URL too; None where nothing is set."""
        if BY_NAME[name].secret:
            return "***" if self.is_set(name) else None
        value = getattr(self, name)
        if value is None:
            return None
        return _as_text(without_password(value) if name == "ledger" else value)

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={self.shown(name)!r}" for name in BY_NAME if self.is_set(name))
        return f"<Settings {said or 'all by default'}>"


def without_password(url: str) -> str:
    """``postgresql://me:secret@host/db`` -> ``postgresql://me:***@host/db``."""
    scheme, separator, rest = url.partition("://")
    login, at, host = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    return f"{scheme}{separator}{user}:***@{host}" if separator and at and colon else url


def store_secret(settings: Settings, name: str, secret: Secret) -> Source:
    """Keep a key for later runs: in the keyring where there is one, else in our file, which only its owner can read.

    Raises :class:`ConfigError` when neither can be written.
    """
    path = settings.config_file
    names = toml.read(path, list(BY_NAME)).in_keyring
    if vault.usable():
        vault.store(name, secret)
        toml.write_value(path, toml.IN_KEYRING, sorted({*names, name}))
        toml.write_value(path, name, None)
        return Source(Origin.KEYRING, vault.SERVICE)
    toml.write_value(path, name, secret.reveal())
    if name in names:
        toml.write_value(path, toml.IN_KEYRING, [other for other in names if other != name])
    return Source(Origin.TOML, str(path))


def _find(
    item: Field, arguments: Mapping[str, object], environ: Mapping[str, str], file: toml.ConfigFile
) -> Found | None:
    if item.name in arguments and not (item.required and arguments[item.name] is None):
        return Found(arguments[item.name], Source(Origin.ARGUMENT))
    for variable in item.all_variables:
        if environ.get(variable, "").strip():
            return Found(environ[variable], Source(Origin.ENVIRONMENT, variable))
    found = item.file(environ) if item.file is not None else None
    if found is not None:
        return found
    if item.secret and item.name in file.in_keyring:
        return Found(None, Source(Origin.KEYRING, vault.SERVICE))
    return file.values.get(item.name)


def _no_near_misses(environ: Mapping[str, str]) -> None:
    """A misspelt ``SPOTINFER_BUDGET`` must not mean "no budget". Names that resemble none of ours are not ours."""
    known = [PREFIX + name.upper() for name in (*BY_NAME, "config_file")]
    for variable in environ:
        if variable.startswith(PREFIX) and variable not in known and get_close_matches(variable, known, cutoff=0.9):
            raise UnknownName("setting (in the environment)", variable, known, hint="`spotinfer config show` lists all")


def _parsed(item: Field, found: Found) -> object:
    if found.value is None:
        return None  # said by an argument: no provider, no limit
    try:
        return item.parse(found.value, item.name)
    except ConfigError as error:
        if found.source.origin is Origin.ARGUMENT:
            raise
        raise ConfigError(f"{found.source.where}: {error.message}", hint=error.hint or _HINT) from error


def _deferred(item: Field, found: Found | None) -> _Deferred:
    if found is not None and found.source.origin is Origin.KEYRING:
        return cache(lambda: vault.fetch(item.name))
    value = None if found is None else _parsed(item, found)
    secret = value if isinstance(value, Secret) else None
    return lambda: secret


def _as_text(value: object) -> str:
    if isinstance(value, timedelta):
        from ..durations import format_duration

        return format_duration(value)
    return ", ".join(value) if isinstance(value, tuple) else str(value)


__all__ = ["Origin", "Settings", "Source", "store_secret", "without_password"]
