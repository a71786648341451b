"""What both kinds of server object share: facts that need no waiting, the meter, and the making of OpenAI clients."""

from __future__ import annotations

import html
import os
import threading
from typing import TYPE_CHECKING

from ..core.errors import ConfigError
from ..ledger.meter import Meter
from .session.held import Held
from .session.house import House

if TYPE_CHECKING:
    import openai

    from ..core.model import Endpoint
    from ..core.states import Cause, State


class ServerHandle:
    """Not made by users: ``launch`` and ``connect`` return its subclasses."""

    def __init__(self, house: House, held: Held, *, owner: bool) -> None:
        self._house = house
        self._owner = owner
        self._pid = os.getpid()
        self._closed = False
        self._held = held
        self._lock = threading.Lock()
        self._client: openai.OpenAI | None = None
        self._aclient: openai.AsyncOpenAI | None = None
        house.knows(self)
        self.meter = Meter(held.ledger, keys=[held.record.key])
        """What this server has cost and done; reads the ledger, so other processes' requests are in it too."""

    @property
    def name(self) -> str:
        return self._held.record.name

    @property
    def key(self) -> str:
        """The unique key of this launch, as the ledger and the provider know it. No secret."""
        return self._held.record.key

    @property
    def model(self) -> str:
        """What to pass as ``model=``."""
        return self._held.record.model

    @property
    def engine(self) -> str:
        return self._held.record.engine

    @property
    def provider(self) -> str:
        return self._held.record.provider

    @property
    def endpoint(self) -> Endpoint:
        """Where the engine listens; it answers only to this launch's client certificate."""
        return self._held.instance.endpoints["engine"]

    @property
    def state(self) -> State:
        """As last seen by the keeper (a few seconds old at most)."""
        return self._held.now.state

    @property
    def cause(self) -> Cause:
        """Why it is in that state."""
        return self._held.now.cause

    @property
    def client(self) -> openai.OpenAI:
        """A real ``openai.OpenAI``, made on first use; its transport meters."""
        self._not_inherited()
        with self._lock:
            if self._client is None:
                from .transport.openai_clients import make_client

                self._client = make_client(self._held.upstream())
            return self._client

    @property
    def aclient(self) -> openai.AsyncOpenAI:
        """A real ``openai.AsyncOpenAI`` for your own event loop; its transport meters."""
        self._not_inherited()
        with self._lock:
            if self._aclient is None:
                from .transport.openai_clients import make_async_client

                self._aclient = make_async_client(self._held.upstream())
            return self._aclient

    @property
    def _inherited(self) -> bool:
        """Whether this is a forked child, whose parent holds the server, its connections and its loop."""
        return os.getpid() != self._pid

    def _not_inherited(self) -> None:
        if self._inherited:
            raise ConfigError(
                f"this process was forked after {self.name} was launched and cannot share its connections",
                hint=f'in the child, use spotinfer.connect("{self.name}")',
            )

    def _close_clients(self) -> None:
        """Of this process: a forked child leaves its parent's connections alone."""
        if self._inherited:
            return
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    async def _aclose_clients(self) -> None:
        """Those, and the async one."""
        self._close_clients()
        if self._inherited:
            return
        with self._lock:
            aclient, self._aclient = self._aclient, None
        if aclient is not None:
            await aclient.close()

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.name!r} {self.state}: {self.model} on {self.engine}, "
            f"{self.provider} {self.endpoint}>"
        )

    def _repr_html_(self) -> str:
        facts = f"{self.model} on {self.engine}, {self.provider} {self.endpoint}"
        return f"<b>{html.escape(self.name)}</b> ({self.state}): {html.escape(facts)}{self.meter._repr_html_()}"
