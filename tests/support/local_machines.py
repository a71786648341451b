"""Machines of the provider ``local`` for tests, and what of them really lives."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import anyio
import psutil

from spotinfer.core.model import Instance, InstanceSpec, Offer, OfferKind
from spotinfer.core.secret import Secret
from spotinfer.providers.local.adapter import LocalProvider

AGENT = Path(__file__).with_name("stand_in_agent.py")
KEY = f"si-{os.getpid():x}-1"
"""A machine's key. Processes are found by it, so two test runs at the same time must not share one."""
OFFER = Offer(provider="local", id="computer", kind=OfferKind.OWNED, per_hour=None)


def spec(
    key: str, *traits: str, offer: Offer = OFFER, owner: str = "me", command: tuple[str, ...] = ()
) -> InstanceSpec:
    return InstanceSpec(
        key=key,
        owner=owner,
        name="test",
        offer=offer,
        command=command or (sys.executable, "-I", str(AGENT), *traits),
        env={"HF_TOKEN": Secret("hf-secret")},
    )


def living(home: Path) -> dict[int, str]:
    """Process number -> key of everything that was started for machines in ``home``, told from the system alone."""
    found = {}
    for process in psutil.process_iter():
        try:
            environ = process.environ()
            if environ.get("SPOTINFER_DIR", "").startswith(str(home)) and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = environ["SPOTINFER_KEY"]
        except psutil.Error:
            continue
    return found


def machines(home: Path) -> list[str]:
    """The key of each machine of which anything lives: once for each agent, or for what an agent left behind."""
    found = living(home)
    agents: dict[int, int] = {}  # number -> parent
    for pid in found:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            if str(AGENT) in process.cmdline():
                agents[pid] = process.ppid()
    # A child looks like its agent for a moment, until its own program is started.
    keys = [found[pid] for pid, parent in agents.items() if parent not in agents]
    return sorted(keys + list(set(found.values()) - set(keys)))


async def running(provider: LocalProvider, key: str) -> Instance:
    """The machine, once its agent says its ports."""
    with anyio.fail_after(10):
        while True:
            instance = await provider.get(key)
            assert instance is not None
            if instance.endpoints:
                return instance
            await anyio.sleep(0.02)


async def in_state(provider: LocalProvider, key: str, native: str) -> Instance:
    with anyio.fail_after(10):
        while True:
            instance = await provider.get(key)
            assert instance is not None
            if instance.native_state == native:
                return instance
            await anyio.sleep(0.02)
