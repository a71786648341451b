"""From a name to a class, by entry points only: what we ship and what a plug-in brings take the same path.

A provider is a class under ``spotinfer.providers`` with ``name``, ``api``, ``capabilities`` (readable without
credentials) and the class method ``from_options``; an engine is a class under ``spotinfer.engines`` that needs no
arguments. Nothing is looked up or imported before a name is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from ..core.clock import Clock
from ..core.errors import PluginError, SpotinferError, UnknownName
from ..core.model import Capabilities
from ..core.protocols import Engine, Provider, ProviderOptions

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

PROVIDERS = "spotinfer.providers"
ENGINES = "spotinfer.engines"
API = 1
"""The version of the provider protocol that this release speaks."""


class ProviderClass(Protocol):
    """What an entry point under ``spotinfer.providers`` must name."""

    name: str
    api: int
    capabilities: Capabilities

    def from_options(self, options: ProviderOptions, *, clock: Clock) -> Provider:
        """Build the adapter from its own settings. Raises ``ConfigError`` for an unknown or wrong one."""
        ...


class EngineClass(Protocol):
    """What an entry point under ``spotinfer.engines`` must name: engines hold no state but their options."""

    name: str

    def __call__(self, **options: str) -> Engine: ...


def provider_names() -> list[str]:
    """Every provider that is installed, sorted; nothing of it is imported."""
    return sorted(_claims(PROVIDERS))


def engine_names() -> list[str]:
    """Every engine that is installed, sorted; nothing of it is imported."""
    return sorted(_claims(ENGINES))


def load_provider(name: str) -> ProviderClass:
    """The provider's class.

    Raises :class:`UnknownName`, and :class:`PluginError` when two distributions claim the name, when the class cannot
    be imported or lacks something, or when it speaks another version of the protocol.
    """
    point, found = _load(PROVIDERS, "provider", name, needs=("name", "api", "capabilities", "from_options"))
    if found.api != API:
        raise PluginError(
            f"the provider {name!r} of {_distribution(point)} speaks version {found.api} of the protocol, not {API}",
            hint=f"install a release of {_distribution(point)} that fits this spotinfer",
        )
    return cast("ProviderClass", found)


def load_engine(name: str) -> EngineClass:
    """The engine's class. Raises as :func:`load_provider` does."""
    return cast("EngineClass", _load(ENGINES, "engine", name, needs=("name", "metrics", "command"))[1])


def _load(group: str, kind: str, name: str, *, needs: Iterable[str]) -> tuple[EntryPoint, Any]:
    claims = _claims(group)
    if name not in claims:
        raise UnknownName(kind, name, list(claims))
    point, *others = claims[name]
    if others:
        owners = " and ".join(_distribution(claim) for claim in claims[name])
        raise PluginError(f"the {kind} {name!r} is claimed by {owners}", hint="uninstall one of them")
    try:
        found = point.load()
    except SpotinferError:
        raise  # it says what is missing better than we could, for example a MissingExtra
    except Exception as error:  # a plug-in's module may raise anything while it is imported
        raise PluginError(
            f"the {kind} {name!r} of {_distribution(point)} cannot be imported: {type(error).__name__}: {error}",
            hint=f"reinstall or uninstall {_distribution(point)}",
        ) from error
    _check(point, kind, found, needs)
    return point, found


def _check(point: EntryPoint, kind: str, found: object, needs: Iterable[str]) -> None:
    missing = [attribute for attribute in needs if not hasattr(found, attribute)]
    if not isinstance(found, type) or missing:
        lacks = f"lacks {', '.join(missing)}" if missing else "is not a class"
        raise PluginError(f"the {kind} {point.name!r} of {_distribution(point)} ({point.value}) {lacks}")
    called = getattr(found, "name", None)
    if called != point.name:
        raise PluginError(f"the {kind} {point.name!r} of {_distribution(point)} calls itself {called!r}")


def _claims(group: str) -> Mapping[str, list[EntryPoint]]:
    """Who claims which name. The same entry found twice (two folders of the path) is one claim."""
    from importlib.metadata import entry_points  # on use: it costs more than the rest of this module

    claims: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        known = claims.setdefault(point.name, [])
        if all((point.value, _distribution(point)) != (other.value, _distribution(other)) for other in known):
            known.append(point)
    return claims


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


__all__ = [
    "EngineClass",
    "ProviderClass",
    "engine_names",
    "load_engine",
    "load_provider",
    "provider_names",
]
