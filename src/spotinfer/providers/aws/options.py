"""The adapter's settings by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from ...core.errors import ConfigError
from ...core.protocols import ProviderOptions
from ...core.secret import Secret
from ..options import only_known
from . import network, wire
from .calls import CONNECT_S, FIRST_WAIT, READ_S, Login
from .failures import NAME

GB = 10**9
DISK = 120 * GB
"""An image of vLLM has about 10 GB, the AMI itself some dozens; the rest is for weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``regions`` is where offers are asked for (default: the region of the profile or the environment, else
    us-east-1), ``search_regions`` where machines are looked for (default: every region that the account has enabled).

    ``allow_from`` are the networks that reach the machines; without it the caller's own address, which ``caller``
    finds. ``subnets`` replace the default subnets, ``ami`` the Deep Learning AMI, ``disk`` is in bytes. ``timeout`` is
    for one answer and ``first_wait`` between two attempts, in seconds; ``endpoint_url`` leads to an emulator.
    """

    login: Login = Login()
    regions: tuple[str, ...] = ()
    search_regions: tuple[str, ...] = ()
    allow_from: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()
    ami: str | None = None
    disk: int = DISK
    endpoint_url: str | None = None
    timeout: float = READ_S
    connect_timeout: float = CONNECT_S
    first_wait: float = FIRST_WAIT
    caller: network.Caller = network.public_address


def read(options: ProviderOptions) -> Settings:
    """Raises ``ConfigError``."""
    only_known(NAME, options, (*LOGIN, *PARSERS))
    login = Login(
        **{name: parse(name, options[name]) for name, parse in LOGIN.items() if options.get(name) is not None}
    )
    if (login.access_key is None) != (login.secret_key is None):
        raise ConfigError("the provider aws takes access_key and secret_key together, or neither")
    given = {name: parse(name, options[name]) for name, parse in PARSERS.items() if options.get(name) is not None}
    return Settings(login=login, **given)


def _wrong(name: str, what: str) -> ConfigError:
    return ConfigError(f"{name} of the provider aws must be {what}")  # the value may be a secret in another form


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _wrong(name, "a text")
    return value.strip()


def _secret(name: str, value: object) -> Secret:
    if isinstance(value, Secret):
        return value
    raise _wrong(name, "a Secret")


def _texts(name: str, value: object) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)):
        raise _wrong(name, "a list of names")
    return tuple(_text(name, part) for part in parts)


def _regions(name: str, value: object) -> tuple[str, ...]:
    found = _texts(name, value)
    for region in found:
        if not wire.ZONED.fullmatch(region):
            raise ConfigError(f"{region!r} is no region of AWS", hint=f'for example {name}=["us-east-1"]')
    return found


def _positive(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise _wrong(name, "a number greater than zero")
    return value


def _bytes(name: str, value: object) -> int:
    return int(_positive(name, value))


def _caller(name: str, value: object) -> network.Caller:
    if not callable(value):
        raise _wrong(name, "an async function that answers an IPv4 address")
    return cast("network.Caller", value)


Parser = Callable[[str, object], Any]
LOGIN: Mapping[str, Parser] = {
    "profile": _text,
    "access_key": _text,
    "secret_key": _secret,
    "session_token": _secret,
}
PARSERS: Mapping[str, Parser] = {
    "regions": _regions,
    "search_regions": _regions,
    "allow_from": lambda name, value: network.networks(value),
    "subnets": _texts,
    "ami": _text,
    "disk": _bytes,
    "endpoint_url": _text,
    "timeout": _positive,
    "connect_timeout": _positive,
    "first_wait": _positive,
    "caller": _caller,
}
