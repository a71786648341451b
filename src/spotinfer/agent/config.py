"""What the agent is told: `SPOTINFER_CONFIG`, which is base64(zlib(JSON)).

Unknown keys are ignored, so that a newer owner can talk to an older agent; a missing key without a default is an
error. The four limits have no default: a limit that was left out must not mean "unlimited".
"""

from __future__ import annotations

import base64
import json
import math
import os
import zlib
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Callable, MutableMapping, TypeVar  # noqa: UP035 - Python 3.8

VERSION = 1
T = TypeVar("T")


class BadConfig(ValueError):
    """The configuration cannot be used; the text says which key and why."""


@dataclass(frozen=True)
class EngineConfig:
    """How to start the engine. `{port}`, `{dir}` and `{host}` are replaced in `argv` and in the values of `env`."""

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    tls: bool = False  # the engine itself demands client certificates; otherwise the agent relays to loopback
    port: int = 0  # where the engine listens; 0: `listen.engine` with `tls`, else any free port


@dataclass(frozen=True)
class Listen:
    """Where clients reach this machine; port 0 means any free port, which `ports.json` then tells."""

    host: str = "127.0.0.1"
    agent: int = 0
    engine: int = 0


@dataclass(frozen=True)
class Tls:
    """PEM files (relative to `dir`; certificates with their keys) and the DNS name in the server's certificate."""

    cert: str
    ca: str
    client: str
    name: str


@dataclass(frozen=True)
class Metrics:
    """Where the engine's counters are. `busy` names gauges that are 0 at rest, `progress` counters that only grow."""

    path: str = "/metrics"
    headers: dict[str, str] = field(default_factory=dict)
    busy: tuple[str, ...] = ()
    progress: tuple[str, ...] = ()


@dataclass(frozen=True)
class LimitsConfig:
    """Seconds; None: no such limit. Age and budget count from the first birth, also after a restart."""

    lease_s: float | None
    idle_s: float | None
    max_age_s: float | None
    budget_s: float | None
    linger_s: float = 60  # how long a failed engine's log stays readable
    grace_s: float = 10  # between SIGTERM and SIGKILL


@dataclass(frozen=True)
class Config:
    """Everything that one agent knows about its machine."""

    version: int
    key: str
    dir: str  # private folder; `~` and `$NAME` are expanded
    engine: EngineConfig
    tls: Tls
    secret: str  # bearer of the control port
    metrics: Metrics
    limits: LimitsConfig
    listen: Listen = Listen()
    files: dict[str, str] = field(default_factory=dict)  # written under `dir` before anything starts
    end: tuple[dict[str, Any], ...] = ({"kind": "exit"},)  # see fuse.py
    strip: tuple[str, ...] = ()  # prefixes of names that the engine's environment must not have


def take(environ: MutableMapping[str, str]) -> Config:
    """Read the configuration and remove it, with the program itself, from the environment."""
    environ.pop("SPOTINFER_AGENT", None)
    packed = environ.pop("SPOTINFER_CONFIG", None)
    if not packed:
        raise BadConfig("SPOTINFER_CONFIG is not set")
    try:
        data = json.loads(zlib.decompress(base64.b64decode(packed)))
    except (ValueError, zlib.error) as error:
        raise BadConfig(f"SPOTINFER_CONFIG cannot be unpacked ({type(error).__name__})") from error
    return parse(data)


def parse(data: object) -> Config:
    """Check the configuration; `BadConfig` names the first key that is wrong."""
    config = _build(Config, data, "")
    if config.version != VERSION:
        raise BadConfig(f"version {config.version} is not {VERSION}, the one that this agent understands")
    if not config.secret or not config.engine.argv:
        raise BadConfig("secret and engine.argv must not be empty")
    for name in config.files:
        if os.path.isabs(name) or ".." in name.split("/"):
            raise BadConfig(f"files: {name!r} leads out of dir")
    return config


def _seconds(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def _texts(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _step(value: Any) -> bool:
    return isinstance(value, dict) and value.get("kind") in ("exit", "command", "http")


# By the annotation of the field: what JSON may hold there, and how to say so.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "str": (lambda value: isinstance(value, str), "a string"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "int": (lambda value: type(value) is int and 0 <= value <= 65535, "a whole number up to 65535"),
    "float": (_seconds, "a number of seconds"),
    "float | None": (lambda value: value is None or _seconds(value), "a number of seconds or null"),
    "tuple[str, ...]": (lambda value: isinstance(value, list) and _texts(value), "a list of strings"),
    "dict[str, str]": (lambda value: isinstance(value, dict) and _texts(value.values()), "names with strings"),
    "tuple[dict[str, Any], ...]": (lambda value: isinstance(value, list) and all(map(_step, value)), "a list of steps"),
}
_PARTS = {part.__name__: part for part in (EngineConfig, Listen, Tls, Metrics, LimitsConfig)}


def _build(cls: Callable[..., T], data: object, where: str) -> T:
    if not isinstance(data, dict):
        raise BadConfig(f"{where or 'the configuration'} must be an object")
    values: dict[str, Any] = {}
    for item in fields(cls):  # type: ignore[arg-type]
        name, kind = where + item.name, str(item.type)
        if item.name not in data:
            if item.default is MISSING and item.default_factory is MISSING:
                raise BadConfig(f"{name} is missing")
        elif kind in _PARTS:
            values[item.name] = _build(_PARTS[kind], data[item.name], name + ".")
        else:
            accepts, wanted = _KINDS[kind]
            value = data[item.name]
            if not accepts(value):
                raise BadConfig(f"{name} must be {wanted}")
            values[item.name] = tuple(value) if isinstance(value, list) else value
    return cls(**values)
