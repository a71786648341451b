"""Vast's words for a machine's state, and what a description of a machine means to us."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType

from ...core.clock import utc
from ...core.model import Endpoint, Instance
from ...core.money import NANO, MachineHour
from ...core.states import Cause, State
from .label import Label
from .wire import Machine

NOT_YET = "null"
"""The word for a status that JSON shows as null: the host has not reported yet."""

STATES: Mapping[str, State] = MappingProxyType(
    {
        NOT_YET: State.PROVISIONING,
        "created": State.PROVISIONING,
        "loading": State.PROVISIONING,  # the image is pulled; only storage is billed
        "rebooting": State.PROVISIONING,
        "running": State.BOOTING,
        "stopped": State.STOPPED,
        # None of these becomes "running" again by itself, and none says that billing has ended: what we cannot tell
        # goes on costing money in the books until the machine is destroyed.
        "exited": State.LOST,
        "frozen": State.LOST,  # [U] whether the GPUs are billed meanwhile
        "offline": State.LOST,  # not billed, but it may come back and bill
        "unknown": State.LOST,
    }
)
"""``actual_status``. A word that is not here is :attr:`State.LOST`."""

DEAD = "OCI runtime create failed"
"""In ``status_msg``: the container cannot be started on this host, whatever ``actual_status`` goes on saying."""


def native_state(machine: Machine) -> str:
    """``actual_status``, or the contract's own state for a machine that was stopped before it ever started: this is
    what a bid that was too low leaves behind."""
    if machine.actual_status is not None:
        return machine.actual_status
    wanted = {machine.cur_state, machine.intended_status, machine.next_state}
    return "stopped" if wanted == {"stopped"} else NOT_YET


def state(machine: Machine) -> State:
    if DEAD in (machine.status_msg or ""):
        return State.LOST
    native = native_state(machine)
    if native == "running" and machine.intended_status == "stopped":
        return State.STOPPING
    return STATES.get(native, State.LOST)


def cause(machine: Machine) -> Cause | None:
    """A bid that stands still although it is meant to run was exceeded. [U] Where Vast also changes the intention, the
    word cannot be told from a stop of the user's; the owner's books know which it was."""
    outbid = machine.is_bid and state(machine) is State.STOPPED and machine.intended_status == "running"
    return Cause.OUTBID if outbid else None


def instance(machine: Machine, provider: str, seen_at: datetime) -> Instance:
    label = Label.read(machine.label)
    return Instance(
        provider=provider,
        id=str(machine.id),
        key=label.key if label else "",
        owner=label.owner if label else "",
        name=label.name if label else machine.label or "",
        state=state(machine),
        native_state=native_state(machine),
        seen_at=seen_at,
        created_at=None if machine.start_date is None else utc(machine.start_date),
        per_hour=per_hour(machine),
        endpoints=endpoints(machine, label.ports if label else {}),
        cause=cause(machine),
        detail=(machine.status_msg or "").strip(),
    )


def per_hour(machine: Machine) -> MachineHour | None:
    """What the running machine costs besides its disk, as offers quote it: the total without the disk's share. [U]
    Whether ``dph_base`` of a machine that was bid for is the bid or the host's price; the total is what is charged."""
    if machine.dph_total is not None and machine.storage_total_cost is not None:
        return MachineHour((machine.dph_total - machine.storage_total_cost).quantize(NANO))
    return None if machine.dph_base is None else MachineHour(machine.dph_base)


def endpoints(machine: Machine, ports: Mapping[str, int]) -> Mapping[str, Endpoint]:
    """By role, once it runs. The address is shared with other machines of the host and the ports are random; both may
    change with every start. Vast pads the address with blanks."""
    host = (machine.public_ipaddr or "").strip()
    if not host or machine.actual_status != "running":
        return {}
    found: dict[str, Endpoint] = {}
    for role, port in ports.items():
        mapped = machine.ports.get(f"{port}/tcp")
        if mapped:
            found[role] = Endpoint(host=host, port=mapped[0].port)
    return found
