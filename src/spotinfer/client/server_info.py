"""A server as a list of servers shows it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from ..control.world import World
from ..core.errors import SpotinferError
from ..core.model import Endpoint
from ..core.records import Record, accrued_simply

log = logging.getLogger("spotinfer")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """One line of ``ls``. ``accrued`` is dollars since the start at the recorded rate, None where no price is set."""

    record: Record
    endpoint: Endpoint | None
    age: timedelta
    accrued: Decimal | None


async def describe(world: World, record: Record) -> ServerInfo:
    """Asks the provider for the address of a live server; one that cannot tell it is no error here."""
    endpoint = None
    if record.live and record.instance_id is not None and record.provider in world.providers:
        try:
            instance = await world.provider(record.provider).get(record.instance_id)
            endpoint = instance.endpoints.get("engine") if instance is not None else None
        except SpotinferError as error:
            log.debug("%s: %s", record.name, error.message)
    age = (record.ended_at or world.clock.now()) - record.created_at
    accrued = accrued_simply(record.per_hour, record.billing, age)
    return ServerInfo(record=record, endpoint=endpoint, age=age, accrued=accrued)
