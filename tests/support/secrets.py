"""Launch secrets that are no real ones."""

from __future__ import annotations

from datetime import datetime, timezone

from spotinfer.core.model import LaunchSecrets
from spotinfer.core.secret import Secret


def launch_secrets(key: str = "si-1", *, api_key: str = "key-of-the-engine") -> LaunchSecrets:
    return LaunchSecrets(
        key=key,
        api_key=Secret(api_key),
        agent_secret=Secret("secret-of-the-agent"),
        dns_name="si-1.spotinfer.internal",
        ca="-----BEGIN CERTIFICATE-----\nca\n-----END CERTIFICATE-----\n",
        client=Secret("client\n"),
        agent=Secret("agent\n"),
        server=Secret("server-private-key"),
        expires_at=datetime(2026, 12, 1, 8, 30, tzinfo=timezone.utc),
    )
