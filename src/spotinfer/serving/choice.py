"""Which engine serves a model: a rule without I/O of its own, and the reasons that `doctor` and the plan show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..core.errors import ConfigError, MissingExtra, UnknownName
from ..core.model import Model
from ..core.protocols import Engine, Host
from .llamacpp import NOT_INSTALLED

RULE = """\
An engine that was named is used. Otherwise, of those that can serve the model, the first of:
  on a rented machine         vllm
  here, with a GPU            vllm, llamacpp
  here, without a GPU         llamacpp, vllm
and then any plug-in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """``reason`` says why this one; ``others`` why not each of the others, by name."""

    engine: Engine
    reason: str
    others: Mapping[str, str]


def choose_engine(engines: Mapping[str, Engine], model: Model, host: Host, wanted: str | None = None) -> EngineChoice:
    """Apply :data:`RULE`.

    Raises :class:`UnknownName` for an engine that does not exist, :class:`MissingExtra` where installing one would be
    enough, :class:`ConfigError` (with every engine's reason) where nothing can serve the model.
    """
    if wanted is not None and wanted not in engines:
        raise UnknownName("engine", wanted, list(engines))
    order = [wanted] if wanted is not None else _preference(engines, host)
    reasons = {name: engines[name].unavailable(model, host) for name in order}
    able = [name for name, reason in reasons.items() if reason is None]
    if not able:
        raise _nothing_fits(model, {name: reason for name, reason in reasons.items() if reason})
    chosen = able[0]
    reason = "you named it" if wanted is not None else _why(chosen, reasons, host)
    others = {name: reasons[name] or f"{chosen} is preferred" for name in order if name != chosen}
    return EngineChoice(engine=engines[chosen], reason=reason, others=others)


def _preference(engines: Mapping[str, Engine], host: Host) -> list[str]:
    here = ["vllm", "llamacpp"] if host.gpus else ["llamacpp", "vllm"]
    first = here if host.local else ["vllm"]
    return [name for name in first if name in engines] + sorted(set(engines) - set(first))


def _why(chosen: str, reasons: Mapping[str, str | None], host: Host) -> str:
    place = "a rented machine" if not host.local else "a GPU here" if host.gpus else "no GPU here"
    passed = [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]
    if chosen == "llamacpp" and host.gpus and reasons.get("vllm"):
        return f"{place}; vLLM would be faster, but {reasons['vllm']}"
    before = "; ".join(passed[: list(reasons).index(chosen)])
    return f"{place}; {before}" if before else place


def _nothing_fits(model: Model, reasons: Mapping[str, str]) -> ConfigError:
    if reasons.get("llamacpp") == NOT_INSTALLED:
        return MissingExtra(f"serving {model.source} on this computer (engine llamacpp)", "local")
    listed = "".join(f"\n  - {name}: {reason}" for name, reason in reasons.items())
    return ConfigError(
        f"no engine can serve {model.source} there:{listed or ' none is installed'}",
        hint="choose another model or machine; `spotinfer doctor` shows what is installed",
    )
