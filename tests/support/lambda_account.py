"""An account at the emulated Lambda Cloud for tests of one thing each, on virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from spotinfer.core.clock import LoopClock
from spotinfer.core.model import InstanceSpec, Offer, Want
from spotinfer.core.secret import Secret
from spotinfer.core.virtual import run_virtual
from spotinfer.providers.lambdalabs.adapter import LambdaProvider
from spotinfer.testing.emulators.lambdalabs import EmulatedLambda

from .specs import validated

TOKEN = "hf-secret-1234567890"  # it exists to be looked for
SPEC = "lambda/openapi-1.10.0.json"


class Account:
    """A fresh account and an adapter for it."""

    def __init__(self, **options: Any) -> None:
        self.cloud = EmulatedLambda()
        validated(self.cloud, SPEC)
        self.provider = self.adapter(**options)

    def adapter(self, **options: Any) -> LambdaProvider:
        given = {"wait_for_launch": True, **options}
        key, origin = Secret(self.cloud.token), self.cloud.origin
        return LambdaProvider(key, clock=LoopClock(), base_url=origin, transport=self.cloud.transport(), **given)

    async def offer(self) -> Offer:
        return (await self.provider.list_offers(Want()))[0]

    async def spec(self, number: int = 1) -> InstanceSpec:
        return InstanceSpec(
            key=f"si-{number:016x}",
            owner="me",
            name="test",
            offer=await self.offer(),
            command=("python3", "-c", "agent"),
            env={"HF_TOKEN": Secret(TOKEN)},
            ports={"engine": 8000, "agent": 8001},
            image="org/image:1",
        )

    def launches(self) -> list[Any]:
        return [call.request.body for call in self.cloud.calls if call.request.path.endswith("/launch")]

    def clutter(self) -> list[str]:
        return [item["name"] for item in (*self.cloud.ssh_keys.values(), *self.cloud.rulesets.values())]


def on_account(**options: Any) -> Callable[[Callable[[Account], Awaitable[None]]], Callable[[], None]]:
    def decorate(body: Callable[[Account], Awaitable[None]]) -> Callable[[], None]:
        async def main() -> None:
            account = Account(**options)
            await body(account)
            await account.provider.aclose()

        def test() -> None:
            run_virtual(main)

        test.__name__, test.__doc__ = body.__name__, body.__doc__
        return test

    return decorate
