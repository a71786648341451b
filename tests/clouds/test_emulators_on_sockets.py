"""An emulated cloud on a real socket: the adapter reaches it as it would the real one."""

from __future__ import annotations

import anyio
import pytest

from spotinfer.core.clock import WallClock
from spotinfer.core.errors import OutcomeUnknown, ProviderUnavailable
from spotinfer.core.model import InstanceSpec, Want
from spotinfer.core.secret import Secret
from spotinfer.core.states import State
from spotinfer.providers.runpod.adapter import RunpodProvider
from spotinfer.testing.emulators.fault import CUT_AFTER, HALF, UNAVAILABLE
from spotinfer.testing.emulators.runpod import EmulatedRunpod
from spotinfer.testing.emulators.server import served


def test_a_machine_is_rented_and_ended_over_a_socket() -> None:
    async def body() -> None:
        cloud = EmulatedRunpod(WallClock(), boot=(0.0, 0.0))
        async with served(cloud) as address:
            provider = RunpodProvider.from_options(
                {"api_key": Secret(cloud.token), "base_url": f"{address}/v2"}, clock=WallClock()
            )
            offer = (await provider.list_offers(Want()))[0]
            spec = InstanceSpec(
                key="si-1", owner="me", name="x", offer=offer, command=("agent",), ports={"engine": 8000}, image="i"
            )
            cloud.inject(CUT_AFTER.on("POST", "/v2/pods"))
            with pytest.raises(OutcomeUnknown):
                await provider.create(spec)
            cloud.inject(UNAVAILABLE, HALF.on("GET"))
            created = await provider.create(spec)  # two broken reads are survived; the machine is there already
            assert [pod.id for pod in cloud.existing()] == [created.id]
            assert created.state is State.BOOTING
            assert "engine" in created.endpoints
            assert len(await provider.logs(created.id, 5)) == 1
            await provider.terminate(created.id)
            assert await provider.get(created.id) is None
        with pytest.raises(ProviderUnavailable):
            await provider.check()  # the cloud is gone
        await provider.aclose()

    anyio.run(body)


def test_what_is_no_http_does_not_end_the_cloud() -> None:
    async def body() -> None:
        cloud = EmulatedRunpod(WallClock())
        async with served(cloud) as address:
            port = int(address.rpartition(":")[2])
            for noise in (b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\n", b""):
                async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                    if noise:
                        await stream.send(noise)
            provider = RunpodProvider.from_options(
                {"api_key": Secret(cloud.token), "base_url": f"{address}/v2"}, clock=WallClock()
            )
            assert (await provider.check()).provider == "runpod"
            await provider.aclose()

    anyio.run(body)
