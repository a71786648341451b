"""The toolbox of the emulated clouds: routes, the token, faults, and a machine's timeline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import httpx2
import pytest

from spotinfer.core.clock import LoopClock
from spotinfer.core.virtual import run_virtual
from spotinfer.testing.emulators.base import EmulatedCloud, Refused, Reply, Request, route
from spotinfer.testing.emulators.fault import BROKEN_AFTER, CUT, FAULTS, HALF, INVALID, REFUSED, UNAVAILABLE, Fault
from spotinfer.testing.emulators.timeline import Timeline

T = TypeVar("T")


class Shelf(EmulatedCloud):
    def __init__(self) -> None:
        super().__init__(LoopClock())
        self.things: list[str] = []

    @route("POST", "/v1/things")
    def put(self, request: Request) -> Reply:
        if not request.readable or "name" not in request.body:
            raise Refused(self.problem(422, "a thing has a name"))
        self.things.append(request.body["name"])
        return Reply(status=201, body={"things": len(self.things)})

    @route("GET", "/v1/things/{name}")
    @route("HEAD", "/v1/things/{name}")
    def get(self, request: Request, name: str) -> Reply:
        return Reply(body={"name": name, "query": request.query})


def on_shelf(check: Callable[[Shelf, httpx2.AsyncClient], Awaitable[T]]) -> T:
    async def body() -> T:
        shelf = Shelf()
        headers = {"Authorization": f"Bearer {shelf.token}"}
        async with httpx2.AsyncClient(transport=shelf.transport(), base_url=shelf.origin, headers=headers) as client:
            return await check(shelf, client)

    return run_virtual(body)


def test_routes_and_the_token() -> None:
    async def check(shelf: Shelf, client: httpx2.AsyncClient) -> None:
        assert (await client.get("/v1/things/a?x=1")).json() == {"name": "a", "query": {"x": "1"}}
        assert (await client.get("/v1/nothing")).status_code == 404
        assert (await client.delete("/v1/things/a")).status_code == 405
        assert (await client.post("/v1/things", content="{")).status_code == 422
        assert (await client.get("/v1/things/a", headers={"Authorization": "Bearer guess"})).status_code == 401
        assert [call.status for call in shelf.calls] == [200, 404, 405, 422, 401]
        assert shelf.token not in repr(shelf.calls)

    on_shelf(check)


@pytest.mark.parametrize(("fault", "acted"), [(UNAVAILABLE, 0), (CUT, 0), (REFUSED, 0), (BROKEN_AFTER, 1), (HALF, 1)])
def test_a_fault_happens_once_before_or_after_the_deed(fault: Fault, acted: int) -> None:
    async def check(shelf: Shelf, client: httpx2.AsyncClient) -> None:
        shelf.inject(fault.on("POST"))
        await client.get("/v1/things/a")
        spoilt = False
        try:
            answer = await client.post("/v1/things", json={"name": "x"})
            answer.json()
            spoilt = answer.status_code >= 500
        except (httpx2.TransportError, ValueError):
            spoilt = True
        assert spoilt
        assert len(shelf.things) == acted
        assert (await client.post("/v1/things", json={"name": "x"})).status_code == 201

    on_shelf(check)


def test_an_echoing_fault_repeats_what_was_sent() -> None:
    async def check(shelf: Shelf, client: httpx2.AsyncClient) -> str:
        shelf.inject(INVALID.repeated())
        await client.post("/v1/things", json={"name": "x"})
        text = (await client.post("/v1/things", json={"name": "hush-hush"})).text
        shelf.heal()
        assert (await client.post("/v1/things", json={"name": "x"})).status_code == 201
        assert shelf.token in text
        return text

    assert "hush-hush" in on_shelf(check)


def test_what_was_carried_out_is_shown_to_observers_and_cancelling_does_not_halve_it() -> None:
    async def check(shelf: Shelf, client: httpx2.AsyncClient) -> None:
        seen: list[int] = []
        shelf.observers.append(lambda request, reply: seen.append(reply.status))
        with anyio.move_on_after(shelf.latency * 1.5):
            await client.post("/v1/things", json={"name": "x"})
        with anyio.move_on_after(shelf.latency / 2):
            await client.post("/v1/things", json={"name": "y"})
        assert (seen, shelf.things) == ([201], ["x"])

    on_shelf(check)


def test_intervals_by_the_emulators_clock() -> None:
    async def check(shelf: Shelf, client: httpx2.AsyncClient) -> None:
        assert shelf.too_early("create", 4.5) is None
        await anyio.sleep(2)
        left = shelf.too_early("create", 4.5)
        assert left == pytest.approx(2.5)
        await anyio.sleep(2.5)
        assert shelf.too_early("create", 4.5) is None

    on_shelf(check)


def test_faults_have_different_names() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) == 18


def test_a_timeline_knows_what_was_and_what_is_planned() -> None:
    line = Timeline(100, "new")
    line.plan([(110, "boot"), (130, "run")])
    assert [line.at(at) for at in (50, 100, 109.9, 110, 1000)] == ["new", "new", "new", "boot", "run"]
    line.say(150, "off")
    line.plan([(200, "run")])
    assert (line.at(149), line.at(199), line.at(201), line.since(160)) == ("run", "off", "run", 150)
    assert line.seconds({"boot", "run"}, 0, 210) == 50
    assert line.spans({"boot", "run"}, 120, 300) == [(120, 150), (200, 300)]
    assert (line.first({"run"}, 120), line.first({"run"}, 500)) == (None, 130)
    line.say(120, "gone")
    assert (line.at(500), line.seconds({"run"}, 0, 500)) == ("gone", 0)
