"""What `spotinfer doctor` finds out: whether all that a launch needs is there, and what to do where it is not."""

from __future__ import annotations

import os
import platform
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING

from ..core.clock import WallClock
from ..core.errors import ConfigError, MissingExtra, SpotinferError
from ..core.model import Account, Model
from ..core.money import usd
from ..providers import registry
from .settings import KEYS, Settings
from .settings.fields import FIELDS, PREFIX

if TYPE_CHECKING:
    from ..control.attempt import HostView
    from ..core.protocols import Engine
    from .sync import Client

LITTLE_SPACE = 2**30
CORE = ("openai", "httpx2", "anyio", "sqlalchemy", "cryptography")
OPTIONAL = {
    "xllamacpp": "llama.cpp on this computer: pip install 'spotinfer[local]'",
    "vllm": "vLLM on this computer: pip install vllm",
    "nvidia-ml-py": "exact facts of NVIDIA GPUs: pip install 'spotinfer[local]'",
    "boto3": "AWS: pip install 'spotinfer[aws]'",
    "psycopg": "a shared ledger: pip install 'spotinfer[postgres]'",
    "keyring": "keys in the system's keyring: pip install 'spotinfer[keyring]'",
}
OTHER_VARIABLES = frozenset({"SPOTINFER_CONFIG_FILE", "SPOTINFER_KEY", "SPOTINFER_DIR"})


class Verdict(str, Enum):
    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """``hint`` says what to do about it."""

    area: str
    verdict: Verdict
    text: str
    hint: str | None = None


def examine(client: Client, settings: Settings) -> Iterator[Finding]:
    """One finding after the other, as soon as each is known. Raises nothing of ours: an error is a finding."""
    yield from _versions()
    yield from _settings(settings)
    yield from _home(settings)
    yield from _guarded("ledger", partial(_ledger, client, settings))
    yield from _guarded("computer", partial(_computer, settings))
    yield from _guarded("engines", partial(_engines, settings))
    for name in registry.provider_names():
        if name != "local":
            yield from _guarded(name, partial(_provider, settings, name))
    yield from _guarded("machines", partial(_machines, client))


async def check_provider(settings: Settings, name: str) -> Account:
    """Ask a provider whether its credentials work. Raises what building it and its ``check`` raise."""
    provider = registry.load_provider(name).from_options(settings.provider_options(name), clock=WallClock())
    try:
        return await provider.check()
    finally:
        await provider.aclose()


def _guarded(area: str, look: partial[Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except SpotinferError as error:
        yield Finding(area=area, verdict=Verdict.PROBLEM, text=error.message, hint=error.hint)


def _versions() -> Iterator[Finding]:
    from .. import __version__

    system = f"spotinfer {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield Finding(area="versions", verdict=Verdict.OK, text=system)
    yield Finding(area="versions", verdict=Verdict.OK, text=", ".join(f"{name} {_version(name)}" for name in CORE))
    for name, use in OPTIONAL.items():
        version = _version(name)
        if version is not None:
            yield Finding(area="versions", verdict=Verdict.OK, text=f"{name} {version}")
        else:
            what, _, how = use.partition(": ")
            yield Finding(area="versions", verdict=Verdict.NOTE, text=f"{name} is not installed ({what})", hint=how)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _settings(settings: Settings) -> Iterator[Finding]:
    path = settings.config_file
    if not path.exists():
        yield Finding(area="settings", verdict=Verdict.OK, text=f"no file {path}; defaults and variables are used")
    elif path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) and _holds_secret(settings):
        text, hint = f"{path} holds a key and others may read it", f"chmod 600 {path}"
        yield Finding(area="settings", verdict=Verdict.PROBLEM, text=text, hint=hint)
    else:
        yield Finding(area="settings", verdict=Verdict.OK, text=str(path))
    known = {variable for field in FIELDS for variable in field.all_variables}
    for variable in sorted(os.environ):
        if variable.startswith(PREFIX) and variable not in known and variable not in OTHER_VARIABLES:
            text = f"the variable {variable} is no setting"
            yield Finding(area="settings", verdict=Verdict.NOTE, text=text, hint="spotinfer config show")


def _holds_secret(settings: Settings) -> bool:
    from .settings import Origin

    return any(field.secret and settings.sources[field.name].origin is Origin.TOML for field in FIELDS)


def _home(settings: Settings) -> Iterator[Finding]:
    folder = settings.home
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = folder / f".doctor-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        text = f"{folder} cannot be written: {error.strerror}"
        hint = "set SPOTINFER_HOME to a folder you can write to"
        yield Finding(area="home", verdict=Verdict.PROBLEM, text=text, hint=hint)
        return
    little = free < LITTLE_SPACE
    yield Finding(
        area="home",
        verdict=Verdict.NOTE if little else Verdict.OK,
        text=f"{folder}, {free / 2**30:.1f} GiB free",
        hint="free some space: a full disk stops the ledger" if little else None,
    )


def _ledger(client: Client, settings: Settings) -> Iterator[Finding]:
    live = client.servers()
    text = f"{settings.shown('ledger')}, {len(live)} live server{'' if len(live) == 1 else 's'}"
    yield Finding(area="ledger", verdict=Verdict.OK, text=text)


def _computer(settings: Settings) -> Iterator[Finding]:
    import anyio

    account = anyio.run(check_provider, settings, "local")
    for note in account.notes:
        yield Finding(area="computer", verdict=Verdict.OK, text=note)
    if settings.local_price_per_hour is None:
        text, hint = "no price is set: the meter counts tokens, no dollars", "SPOTINFER_LOCAL_PRICE_PER_HOUR=0.40"
        yield Finding(area="computer", verdict=Verdict.NOTE, text=text, hint=hint)
    else:
        yield Finding(area="computer", verdict=Verdict.OK, text=f"{usd(settings.local_price_per_hour)} an hour")


def _engines(settings: Settings) -> Iterator[Finding]:
    """For the two kinds of model: files of llama.cpp, and what the hub has."""
    host = _this_host(settings)
    engines = {name: registry.load_engine(name)(**settings.engine_options(name)) for name in registry.engine_names()}
    for source, form, what in (("tiny", "tiny", "tiny and .gguf files"), ("owner/model", "hub", "models of the hub")):
        yield _choice(engines, host, Model(source=source, served_name=source, format=form), what)


def _this_host(settings: Settings) -> HostView:
    import anyio

    from ..control.attempt import HostView
    from ..core.model import Want

    async def look() -> int:
        options = settings.provider_options("local")
        provider = registry.load_provider("local").from_options(options, clock=WallClock())
        offers = await provider.list_offers(Want())
        return sum(offer.accelerators.count for offer in offers if offer.accelerators is not None)

    return HostView(gpus=anyio.run(look), local=True)


def _choice(engines: Mapping[str, Engine], host: HostView, model: Model, what: str) -> Finding:
    from ..serving.choice import choose_engine

    try:
        choice = choose_engine(engines, model, host)
    except MissingExtra as error:
        return Finding(area="engines", verdict=Verdict.PROBLEM, text=f"{what}: {error.message}", hint=error.hint)
    except ConfigError:
        reasons = [f"{name}: {engine.unavailable(model, host)}" for name, engine in engines.items()]
        text = f"{what} can be served on rented machines only ({'; '.join(reasons)})"
        return Finding(area="engines", verdict=Verdict.NOTE, text=text)
    return Finding(area="engines", verdict=Verdict.OK, text=f"{what}: {choice.engine.name} ({choice.reason})")


def _provider(settings: Settings, name: str) -> Iterator[Finding]:
    import anyio

    if name not in settings.enabled_providers(registry.provider_names()):
        if name in KEYS:
            hint = f"spotinfer init {name}"
            yield Finding(area=name, verdict=Verdict.NOTE, text="no API key: it is not used", hint=hint)
        return
    account = anyio.run(check_provider, settings, name)
    parts = [
        "the credentials work",
        account.user,
        "" if account.balance is None else f"{usd(account.balance)} left",
        *account.notes,
    ]
    yield Finding(area=name, verdict=Verdict.OK, text=", ".join(part for part in parts if part))


def _machines(client: Client) -> Iterator[Finding]:
    report = client.reap(dry_run=True)
    for what, reason in report.failed.items():
        yield Finding(area="machines", verdict=Verdict.PROBLEM, text=f"{what}: {reason}", hint="try again")
    if report.unowned:
        text = f"nobody owns {', '.join(item.name or str(item.id) for item in report.unowned)}"
        yield Finding(area="machines", verdict=Verdict.PROBLEM, text=text, hint="spotinfer reap")
    elif not report.failed:
        yield Finding(area="machines", verdict=Verdict.OK, text="nothing runs that nobody owns")
