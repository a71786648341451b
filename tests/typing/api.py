"""Type-checked, never run: the test of the public types. What a user may write must pass; what is wrong must not.

`warn_unused_ignores` (part of --strict) makes an expected error that does not come an error itself.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import openai
from typing_extensions import assert_type

import spotinfer


def sync_face() -> None:
    with spotinfer.launch("tiny", provider="local", budget="0.50", idle_timeout="10m") as server:
        assert_type(server, spotinfer.Server)
        assert_type(server.client, openai.OpenAI)
        assert_type(server.aclient, openai.AsyncOpenAI)
        assert_type(server.model, str)
        assert_type(server.state, spotinfer.State)
        assert_type(server.logs(tail=5), list[str])
        assert_type(server.local_url().url, str)
        with server.meter.tag("experiment-1") as tag:
            assert_type(tag, str)
        snapshot = server.meter.snapshot(since=timedelta(days=7))
        assert_type(snapshot.accrued, Decimal | None)
        assert_type(snapshot.per_million_tokens, Decimal | None)
        assert_type(server.meter.export("costs.csv"), Path)
    assert_type(spotinfer.connect("name"), spotinfer.Server)


async def async_face() -> None:
    async with spotinfer.alaunch("tiny", max_age=timedelta(hours=1)) as server:
        assert_type(server, spotinfer.AsyncServer)
        assert_type(await server.logs(), list[str])
    waited = await spotinfer.alaunch("tiny")
    assert_type(waited, spotinfer.AsyncServer)
    async with spotinfer.aconnect("name") as found:
        assert_type(found, spotinfer.AsyncServer)
    assert_type(await spotinfer.aplan("tiny"), spotinfer.Plan)


def plans_and_clients(settings: spotinfer.Settings) -> None:
    plan = spotinfer.plan("Qwen/Qwen3-8B", max_price=3)
    assert_type(plan, spotinfer.Plan)
    assert_type(plan.explain(), str)
    spotinfer.launch(plan, budget=Decimal("5.00"))
    with spotinfer.Client(settings, progress="none") as client:
        assert_type(client.launch("tiny", if_exists="attach"), spotinfer.Server)
        assert_type(client.meter(since=timedelta(days=7)), spotinfer.Meter)


def errors() -> None:
    try:
        spotinfer.plan("tiny")
    except spotinfer.errors.NoFeasiblePlan as error:
        assert_type(error.rejected, dict[str, str])
        assert_type(error.hint, str | None)
    except spotinfer.SpotinferError as error:
        assert_type(error.code, str)


def what_must_not_pass() -> None:
    spotinfer.launch("tiny", idle_timout="10m")  # type: ignore[call-arg]
    spotinfer.launch("tiny", if_exists="replace")  # type: ignore[arg-type]
    spotinfer.launch(42)  # type: ignore[arg-type]
    spotinfer.lunch("tiny")  # type: ignore[attr-defined]
