"""The engine's address as clients see it: where, with which key and certificate, and who meters."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

import httpx2

from ...core.model import Endpoint
from ...core.secret import Secret
from .metered import AsyncMeteredTransport, MeteredTransport, Metering


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """``context`` trusts only this launch's authority and holds the client certificate; None means plain HTTP, for an
    engine on loopback. ``metering.sni`` is the name in the server's certificate.
    """

    endpoint: Endpoint
    api_key: Secret
    metering: Metering
    context: ssl.SSLContext | None = None

    @property
    def origin(self) -> str:
        return f"{'http' if self.context is None else 'https'}://{self.endpoint}"

    @property
    def base_url(self) -> str:
        """For clients of the OpenAI API."""
        return f"{self.origin}/v1"

    def transport(self, limits: httpx2.Limits) -> MeteredTransport:
        inner = httpx2.HTTPTransport(verify=self._verify(), trust_env=False, limits=_short_lived(limits))
        return MeteredTransport(inner, self.metering)

    def async_transport(self, limits: httpx2.Limits) -> AsyncMeteredTransport:
        inner = httpx2.AsyncHTTPTransport(verify=self._verify(), trust_env=False, limits=_short_lived(limits))
        return AsyncMeteredTransport(inner, self.metering)

    def _verify(self) -> ssl.SSLContext:
        # Without TLS nothing is verified, and loading the system's certificates would cost 20 ms for nothing.
        return self.context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


KEEP_ALIVE = 3.0
"""Seconds that an idle connection is kept: less than the 5 s after which vLLM and llama.cpp close it, so that no
request is sent into one that is just being closed."""


def _short_lived(limits: httpx2.Limits) -> httpx2.Limits:
    return httpx2.Limits(
        max_connections=limits.max_connections,
        max_keepalive_connections=limits.max_keepalive_connections,
        keepalive_expiry=KEEP_ALIVE,
    )
