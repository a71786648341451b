"""20 servers kept alive on the simulated market for a month: wall seconds, and whether equal seeds give equal logs.

python benchmarks/fleet_month.py [--replicas 20] [--days 30] [--seed 1] [--json]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time

import anyio

from spotinfer.control.fleet import Fleet
from spotinfer.core.model import OfferKind
from spotinfer.core.virtual import run_virtual
from spotinfer.providers.simulated.config import CATALOGUE, MarketConfig
from spotinfer.testing.simulation import simulated_order, simulated_world

ROUGH = MarketConfig(
    catalogue=tuple(listing for listing in CATALOGUE if listing.kind is not OfferKind.ON_DEMAND),
    preemptions_per_day=2.0,
    scarcity=0.2,
    boot_failure=0.05,
    lost_answers=0.02,
    lost_requests=0.02,
    unavailable=0.01,
    listing_lag=20.0,
)
"""Nothing is on demand, and every kind of fault happens many times in a month."""


async def month(seed: int, replicas: int, days: float) -> dict[str, object]:
    world = simulated_world(seed, ROUGH)
    fleet = Fleet(world, replicas, lambda slot: simulated_order(world, f"slot-{slot}"))
    alive = 0
    with anyio.move_on_after(days * 86400):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fleet.run)
            while True:
                await anyio.sleep(3600)
                alive += fleet.ready
    histories = await world.ledger.histories()
    events = sorted(
        f"{move.at.isoformat()} {history.record.name} {move.key} {move.before}>{move.after} {move.cause}"
        for history in histories
        for move in history.transitions
    )
    return {
        "events": len(events),
        "machines": len(histories),
        "launches": fleet.launches,
        "failed_launches": fleet.failures,
        "alive_share": round(alive / (replicas * days * 24), 4),
        "log_sha256": hashlib.sha256("\n".join(events).encode()).hexdigest(),
    }


def timed(seed: int, replicas: int, days: float) -> dict[str, object]:
    started = time.perf_counter()
    result = run_virtual(month, seed, replicas, days)
    return {"seed": seed, "wall_seconds": round(time.perf_counter() - started, 2), **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=20)
    parser.add_argument("--days", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs = [timed(seed, options.replicas, options.days) for seed in (options.seed, options.seed, options.seed + 1)]
    verdict = {
        "same_seed_same_log": runs[0]["log_sha256"] == runs[1]["log_sha256"],
        "other_seed_other_log": runs[0]["log_sha256"] != runs[2]["log_sha256"],
    }
    if options.json:
        print(json.dumps({"runs": runs, **verdict}))
        return
    for run in runs:
        print(", ".join(f"{name} {value}" for name, value in run.items()))
    print(", ".join(f"{name}: {value}" for name, value in verdict.items()))


if __name__ == "__main__":
    main()
