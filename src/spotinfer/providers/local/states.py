"""What a machine's folder and processes say, as one snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType

from psutil import Process

from ...core.clock import utc
from ...core.model import Endpoint, Instance
from ...core.states import Cause, State
from . import processes
from .folder import Card, Folder

STATES: Mapping[str, State] = MappingProxyType(
    {
        "starting": State.PROVISIONING,
        "running": State.BOOTING,
        "orphaned": State.LOST,
        "ended": State.TERMINATED,
    }
)
"""``starting``: no address yet. ``running``: the agent listens; whether the engine answers, only asking it can tell.
``orphaned``: the agent is gone, something that it started is not (yet). ``ended``: nothing lives, the folder remains.
"""

CAUSES: Mapping[str, Cause] = MappingProxyType({cause.value: cause for cause in Cause})
"""The agent's words for why it ended. One that is not ours (``terminated``: by a signal) is kept in the detail."""


def state_of(native: str) -> State:
    """Our state for a native one; ``lost`` for a word that we do not know."""
    return STATES.get(native, State.LOST)


def describe(folder: Folder, now: datetime) -> Instance | None:
    """The machine now; None when it has no folder and nothing carries its key."""
    card = folder.card()
    native = _native(folder, card)
    if not folder.exists():
        # Removed while we looked, or never there. A folder deleted by hand does not hide what still runs.
        return _snapshot(folder, None, "orphaned", now) if processes.marked(folder.key) else None
    return _snapshot(folder, folder.card() if card is None else card, native, now)


def _native(folder: Folder, card: Card | None) -> str:
    if card is None or card.pid is None:
        if folder.guarded():
            return "starting"
        card = folder.card()  # whoever held the guard may have written it just before we looked
    if card is None or card.pid is None:
        return "starting" if processes.marked(folder.key) else "ended"
    if processes.lives(card.pid, card.started, folder.key):
        return "running" if {"agent", "engine"} <= set(folder.ports()) else "starting"
    return "orphaned" if remains(folder, card) else "ended"


def remains(folder: Folder, card: Card | None) -> bool:
    """Whether anything of the machine lives although its agent's process does not."""
    return folder.agent_lock_held() or bool(survivors(folder, card))


def survivors(folder: Folder, card: Card | None) -> list[Process]:
    """Every living process of the machine, whatever is known of it."""
    ports = folder.ports()
    leaders: dict[int, float | None] = {ports[name]: None for name in ("pid", "engine_pid") if name in ports}
    if card is not None and card.pid is not None:
        leaders[card.pid] = card.started
    since = card.created_at.timestamp() if card is not None else 0.0
    return processes.survivors(folder.key, leaders, since)


def _snapshot(folder: Folder, card: Card | None, native: str, now: datetime) -> Instance:
    ports = folder.ports() if native == "running" else {}
    ended = folder.ended() if native == "ended" else {}
    return Instance(
        provider="local",
        id=folder.key,
        key=folder.key,
        state=state_of(native),
        native_state=native,
        seen_at=now,
        created_at=card.created_at if card else None,
        owner=card.owner if card else "",
        name=card.name if card else "",
        per_hour=card.per_hour if card else None,
        endpoints={role: Endpoint(host="127.0.0.1", port=ports[role]) for role in ("agent", "engine") if role in ports},
        cause=CAUSES.get(str(ended.get("cause"))),
        detail=_detail(native, ended),
    )


def _detail(native: str, ended: Mapping[str, object]) -> str:
    if native != "ended":
        return ""
    if not ended:
        return "the agent ended without saying why"
    at = ended.get("at")
    when = f" at {utc(at):%Y-%m-%d %H:%M:%S} UTC" if isinstance(at, (int, float)) else ""
    return f"{ended.get('cause')}{when} {ended.get('detail') or ''}".strip()
