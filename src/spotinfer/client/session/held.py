"""A server as the session holds it, and a loopback address to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from ...control.watch import Keeper
from ...core.model import Instance, LaunchSecrets
from ...core.protocols import Engine, MachineLink
from ...core.records import Record
from ...core.secret import Secret

if TYPE_CHECKING:
    from ...ledger.keys import FileKeyStore
    from ...ledger.store import SqlLedger
    from ..proxy.server import LocalProxy
    from ..transport.upstream import Upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalUrl:
    """A loopback address for other programs. ``url`` ends in ``/v1``; send ``key`` as the bearer token."""

    url: str
    key: Secret

    def __str__(self) -> str:
        return self.url

    @property
    def environment(self) -> dict[str, str]:
        """Variables that OpenAI-compatible programs read. Holds the key in the clear."""
        return {"OPENAI_BASE_URL": self.url, "OPENAI_API_KEY": self.key.reveal()}


@dataclass(kw_only=True)
class Held:
    """A server that this process uses, by ``users`` handles. ``owner``: it launched it attached, and ends it."""

    ledger: SqlLedger
    keystore: FileKeyStore
    record: Record
    instance: Instance
    secrets: LaunchSecrets
    link: MachineLink
    engine: Engine
    keeper: Keeper
    owner: bool
    users: int = 1
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    proxies: list[LocalProxy] = field(default_factory=list)

    @property
    def now(self) -> Record:
        """The freshest record that is known without asking."""
        return self.keeper.record

    def upstream(self) -> Upstream:
        """The engine as clients reach it: address, key, client certificate, and the ledger that counts."""
        from ...ledger.tags import current_tag
        from ...serving.access import client_context
        from ..transport.metered import Metering
        from ..transport.upstream import Upstream

        key = self.record.key
        return Upstream(
            endpoint=self.instance.endpoints["engine"],
            api_key=self.secrets.api_key,
            context=client_context(str(self.keystore.ca_pem(key)), str(self.keystore.client_pem(key))),
            metering=Metering(
                key=key,
                sink=self.ledger.request,
                sni=self.secrets.dns_name,
                tag=current_tag,
                closes_streams=self.engine.closes_streams,
            ),
        )
