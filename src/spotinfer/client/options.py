"""What a caller of ``launch`` may say, checked and turned into the terms of the lower layers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, TypedDict

from ..core.errors import ConfigError, UnknownName
from ..core.model import EngineSettings, Limits
from ..core.money import money
from .durations import parse_duration

if TYPE_CHECKING:
    from ..planning.plan import Plan
    from .settings import Settings

Duration = timedelta | float | int | str | None
Dollars = Decimal | float | int | str | None

LEASE = timedelta(minutes=5)


class LaunchOptions(TypedDict, total=False):
    """Keyword arguments of every ``launch``."""

    provider: str | None
    """Only this provider; default: every one that is configured."""
    engine: str | None
    """``"vllm"`` or ``"llamacpp"``; default: by the rule that ``plan(...).explain()`` shows."""
    name: str | None
    """The name under which ``connect`` and the command line find it; default: made from the model's."""
    if_exists: Literal["error", "attach"]
    """What to do when a server of that name is live: raise ``NameTaken``, or connect to it."""
    budget: Dollars
    """Dollars after which the server is ended."""
    max_price: Dollars
    """Dollars per hour that an offer may cost at most."""
    idle_timeout: Duration
    """End after this long without work (seconds, ``"10m"``, timedelta); None: never."""
    max_age: Duration
    """End at this age; None: never."""
    detach: bool
    """Leave it running when this process ends. Then at least one of idle_timeout, max_age, budget must hold."""
    revision: str | None
    """The model's revision (branch, tag or commit) at the hub."""
    context: int | None
    """Longest context in tokens."""
    slots: int | None
    """Requests served at once."""
    engine_args: Sequence[str]
    """Further options for the engine's own command line, passed on as they are."""
    port: int
    """The engine's port on this computer (provider ``local``); 0: any free one."""
    timeout: Duration
    """How long the whole launch may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """Checked options. ``limits`` has the defaults of the mode filled in."""

    provider: str | None
    engine: str | None
    name: str | None
    if_exists: Literal["error", "attach"]
    limits: Limits
    detach: bool
    revision: str | None
    max_price: Decimal | None
    engine_settings: EngineSettings
    port: int
    timeout: float | None


def check_options(options: Mapping[str, object], settings: Settings) -> LaunchRequest:
    """Raises :class:`ConfigError` (with a hint) for anything that cannot be meant."""
    known = list(LaunchOptions.__annotations__)
    for option in options:
        if option not in known:
            raise UnknownName("launch option", option, known)
    get = options.get
    detach = _flag("detach", get("detach", False))
    return LaunchRequest(
        provider=_text("provider", get("provider")) or settings.provider,
        engine=_text("engine", get("engine")) or settings.engine,
        name=_name(get("name")),
        if_exists=_if_exists(get("if_exists", "error")),
        limits=_limits(options, settings, detach),
        detach=detach,
        revision=_text("revision", get("revision")),
        max_price=None if get("max_price") is None else money(get("max_price"), what="max_price"),  # type: ignore[arg-type]
        engine_settings=_engine_settings(options, settings),
        port=_whole("port", get("port", 0), 0, 65535) or 0,
        timeout=_seconds(get("timeout")),
    )


def check_model(model: object) -> str | Plan:
    """A path object is as good as its text. Raises :class:`ConfigError` for what is no model and no plan."""
    from ..planning.plan import Plan

    if isinstance(model, os.PathLike):
        model = os.fspath(model)
    if not isinstance(model, (str, Plan)):
        raise ConfigError(
            f"a model is a name, a path or a plan, not {model!r}", hint='for example launch("tiny"), launch(plan(...))'
        )
    return model


def check_tail(tail: object) -> None:
    _whole("tail", tail, 1, 10_000_000)


def check_grace(grace: object) -> None:
    if not isinstance(grace, timedelta) or grace < timedelta(0):
        raise ConfigError(f"grace must be a timedelta, not {grace!r}", hint="for example grace=timedelta(seconds=60)")


def _limits(options: Mapping[str, object], settings: Settings, detach: bool) -> Limits:
    budget = options.get("budget", settings.budget)
    limits = Limits(
        lease=None if detach else LEASE,
        idle=parse_duration(options.get("idle_timeout", settings.idle_timeout), what="idle_timeout"),
        max_age=parse_duration(options.get("max_age", settings.max_age), what="max_age"),
        budget=None if budget is None else money(budget, what="budget"),  # type: ignore[arg-type]
    )
    if limits.budget is not None and limits.budget == 0:
        raise ConfigError("budget is 0: nothing could run", hint='for example budget="0.50", or leave it out')
    if detach and not limits.self_ending:
        raise ConfigError(
            "a detached server needs a limit: idle_timeout, max_age or budget",
            hint='for example idle_timeout="30m"; without one it would run, and cost, for ever',
        )
    return limits


def _engine_settings(options: Mapping[str, object], settings: Settings) -> EngineSettings:
    extra = options.get("engine_args", ())
    if not isinstance(extra, (list, tuple)) or not all(isinstance(item, str) for item in extra):
        raise ConfigError(
            "engine_args must be a list of strings", hint='for example engine_args=["--max-num-seqs", "8"]'
        )
    return EngineSettings(
        context=_whole("context", options.get("context"), 1, 100_000_000),
        slots=_whole("slots", options.get("slots"), 1, 100_000),
        extra=tuple(extra),
        hf_token=settings.hf_token,
    )


def _name(value: object) -> str | None:
    name = _text("name", value)
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
        raise ConfigError(
            f"{name!r} cannot be a server's name", hint="letters, digits, '.', '_' and '-', at most 63, no space"
        )
    return name


def _text(what: str, value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        raise ConfigError(f"{what} must be a text, not {value!r}", hint=f"leave {what} out, or say which")
    return value


def _flag(what: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{what} must be True or False, not {value!r}", hint=f"for example {what}=True")
    return value


def _if_exists(value: object) -> Literal["error", "attach"]:
    if value == "attach":
        return "attach"
    if value != "error":
        raise UnknownName("if_exists", str(value), ["error", "attach"])
    return "error"


def _whole(what: str, value: object, least: int, most: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(
            f"{what} must be a whole number from {least} to {most}, not {value!r}",
            hint=f"leave {what} out for the default, or say a number without quotes",
        )
    return value


def _seconds(value: object) -> float | None:
    span = parse_duration(value, what="timeout")
    return None if span is None else span.total_seconds()


def default_name(model: str, suffix: str) -> str:
    """``Qwen/Qwen3-8B`` -> ``qwen3-8b-1f3a``."""
    stem = re.sub(r"[^a-z0-9]+", "-", model.rstrip("/").rsplit("/", 1)[-1].lower()).strip("-")[:40] or "server"
    return f"{stem}-{suffix}"
