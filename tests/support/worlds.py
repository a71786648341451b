"""A world of real parts in a folder of its own: SQLite, key store, this computer, llama.cpp."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import psutil

from spotinfer.control.attempt import HostView
from spotinfer.control.launch import Order
from spotinfer.control.world import Pace, World
from spotinfer.core.clock import WallClock
from spotinfer.core.model import EngineSettings, Instance, LaunchSecrets, Limits, Want
from spotinfer.core.protocols import MachineLink
from spotinfer.ledger.holds import Holds
from spotinfer.ledger.keys import FileKeyStore
from spotinfer.ledger.store import open_ledger
from spotinfer.planning.plan import Candidate
from spotinfer.providers.registry import load_engine, load_provider
from spotinfer.serving.access import client_context, issue
from spotinfer.serving.choice import choose_engine
from spotinfer.serving.link import HttpLink
from spotinfer.serving.models import resolve_model


@asynccontextmanager
async def local_world(home: Path, *, pace: Pace | None = None, price: Decimal | None = None) -> AsyncIterator[World]:
    clock = WallClock()
    keystore = FileKeyStore(home / "keys")
    ledger = open_ledger(home / "ledger.db")
    provider = load_provider("local").from_options({"home": home, "price_per_hour": price}, clock=clock)

    def open_link(instance: Instance, secrets: LaunchSecrets) -> MachineLink:
        context = client_context(str(keystore.ca_pem(secrets.key)), str(keystore.client_pem(secrets.key)))
        return HttpLink(endpoints=instance.endpoints, secrets=secrets, context=context, clock=clock)

    world = World(
        ledger=ledger,
        keystore=keystore,
        holds=Holds(home / "keys"),
        providers={"local": provider},
        engines={"llamacpp": load_engine("llamacpp")()},
        open_link=open_link,
        issue=issue,
        clock=clock,
        pace=pace or Pace(),
    )
    try:
        yield world
    finally:
        await provider.aclose()
        await ledger.aclose()


async def local_order(
    world: World,
    home: Path,
    *,
    model: str = "tiny",
    name: str = "one",
    limits: Limits | None = None,
    detached: bool = False,
    settings: EngineSettings | None = None,
    port: int = 0,
    timeout: float | None = 60,
) -> Order:
    [offer] = await world.providers["local"].list_offers(Want())
    choice = choose_engine(world.engines, resolve_model(model), HostView(gpus=0, local=True))
    resolved = resolve_model(model, engine_format=choice.engine.format, cache=home / "models")
    candidate = Candidate(offer=offer, engine=choice.engine.name, model=resolved, why=choice.reason)
    return Order(
        name=name,
        candidates=(candidate,),
        limits=limits or Limits(),
        detached=detached,
        settings=settings or EngineSettings(),
        port=port,
        timeout=timeout,
    )


def machine_processes(home: Path) -> list[psutil.Process]:
    """Every live process of a machine under ``home``: agents by their folder, engines by the model that they serve."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            ours = environment.get("SPOTINFER_DIR", "").startswith(str(home)) or str(home) in " ".join(
                process.cmdline()
            )
            if "SPOTINFER_KEY" in environment and ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
