"""The module-level functions: one client of this process with the settings that are found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import aio, sync
from .session.house import House

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..planning.plan import Plan
    from .options import LaunchOptions

HOUSE = House(None, None)


def launch(model: str | Plan, **options: Unpack[LaunchOptions]) -> sync.Server:
    """Rent, start, and hand back a server that has generated a token.

    ``model`` is a hub id, a folder, a ``.gguf`` file, ``"tiny"``, or a :class:`Plan`. Options: :class:`LaunchOptions`.
    Without ``with``, the server is ended when the process exits. Raises every kind of :class:`SpotinferError`.
    """
    return sync.launch_server(HOUSE, model, options)


def alaunch(model: str | Plan, **options: Unpack[LaunchOptions]) -> aio.Launching:
    """The same for ``await`` and for ``async with``."""
    return aio.Launching(lambda: aio.launch_server(HOUSE, model, options))


def connect(name: str) -> sync.Server:
    """Use a live server by name, from this or another process. Raises :class:`UnknownName`, :class:`Lost`."""
    return sync.connect_server(HOUSE, name)


def aconnect(name: str) -> aio.Launching:
    """The same for ``await`` and for ``async with``."""
    return aio.Launching(lambda: aio.connect_server(HOUSE, name))


def plan(model: str, **options: Unpack[LaunchOptions]) -> Plan:
    """What ``launch`` would try, in order, and why not the rest. Rents nothing."""
    return HOUSE.call(HOUSE.planning(model, options))


async def aplan(model: str, **options: Unpack[LaunchOptions]) -> Plan:
    """The same for ``await``."""
    return await HOUSE.acall(HOUSE.planning(model, options))
