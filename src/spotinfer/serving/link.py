"""The owner's line to one machine: its agent's control port, and its engine's readiness, over mutual TLS."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Any

import httpx2

from ..core.clock import Clock, utc
from ..core.errors import Unhealthy
from ..core.model import AgentStatus, Endpoint, LaunchSecrets, Probed
from ..core.states import Cause

TIMEOUT = httpx2.Timeout(10.0, connect=5.0)
PROBE_TIMEOUT = httpx2.Timeout(60.0, connect=5.0)
"""The first token may still compile kernels."""
ONCE = {"Connection": "close"}
"""To the engine: one that ends waits for its connections, and over TLS an idle one keeps vLLM for its whole grace."""


class HttpLink:
    """Implements :class:`~spotinfer.core.protocols.MachineLink`. One HTTP client for its whole life."""

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        secrets: LaunchSecrets,
        context: ssl.SSLContext,
        clock: Clock,
    ) -> None:
        self._agent = _url(endpoints["agent"])
        self._engine = _url(endpoints["engine"])
        self._secrets = secrets
        self._clock = clock
        # A proxy of the environment is for the internet; nobody can reach this computer's loopback through it.
        proxied = not all(_is_loopback(endpoints[role].host) for role in ("agent", "engine"))
        self._client = httpx2.AsyncClient(verify=context, timeout=TIMEOUT, trust_env=proxied)

    async def status(self) -> AgentStatus:
        return _read_status(await self._ask_agent("GET", "/status"))

    async def renew(self, lease: timedelta) -> None:
        await self._ask_agent("POST", "/lease", {"seconds": lease.total_seconds()})

    async def drain(self, grace: timedelta) -> None:
        await self._ask_agent("POST", "/drain", {"grace_s": grace.total_seconds()})

    async def end(self, cause: Cause) -> None:
        try:
            await self._ask_agent("POST", "/stop", {"cause": str(cause)})
        except Unhealthy as error:
            if not isinstance(error.__cause__, httpx2.TransportError):
                raise

    async def log(self, tail: int) -> Sequence[str]:
        lines = (await self._ask_agent("GET", f"/log?tail={tail}")).get("lines")
        if not isinstance(lines, list):
            raise Unhealthy("the agent's log has no lines")
        return [str(line) for line in lines]

    async def probe(self, model: str) -> Probed:
        """``/health`` first, which is cheap; then one token, since an engine may be healthy and yet unable to."""
        key = self._secrets.api_key.reveal()
        await self._ask("GET", f"{self._engine}/health", key, more=ONCE)
        body = {"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
        started = self._clock.now()
        answer = await self._ask("POST", f"{self._engine}/v1/completions", key, body, PROBE_TIMEOUT, ONCE)
        return _read_probe(_parse(answer), started, self._clock.now())

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _ask_agent(self, method: str, path: str, body: object = None) -> Mapping[str, Any]:
        return _parse(await self._ask(method, self._agent + path, self._secrets.agent_secret.reveal(), body))

    async def _ask(
        self,
        method: str,
        url: str,
        bearer: str,
        body: object = None,
        timeout: httpx2.Timeout = TIMEOUT,
        more: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        try:
            response = await self._client.request(
                method,
                url,
                json=body,
                headers={"Authorization": f"Bearer {bearer}", **(more or {})},
                timeout=timeout,
                extensions={"sni_hostname": self._secrets.dns_name},
            )
        except httpx2.HTTPError as error:
            raise Unhealthy(f"no answer from {url}: {type(error).__name__}: {error}".rstrip(": ")) from error
        if not response.is_success:
            raise Unhealthy(f"{url} answered {response.status_code}: {response.text[:300]}")
        return response


def _url(endpoint: Endpoint) -> str:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"https://{host}:{endpoint.port}"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _parse(response: httpx2.Response) -> Mapping[str, Any]:
    try:
        data = response.json()
    except ValueError as error:
        raise Unhealthy(f"{response.url} answered something that is not JSON") from error
    if not isinstance(data, dict):
        raise Unhealthy(f"{response.url} answered JSON that is not an object")
    return data


def _read_status(data: Mapping[str, Any]) -> AgentStatus:
    try:
        return AgentStatus(
            phase=str(data["phase"]),
            born_at=utc(data["born_at"]),
            can_end=bool(data["can_end"]),
            engine_exit_code=data["engine"]["exit_code"],
            lease_until=None if data["lease_until"] is None else utc(data["lease_until"]),
            ends_at={name: utc(moment) for name, moment in data["ends_at"].items() if moment is not None},
            idle_seconds=float(data["idle_s"]),
            busy_seconds=float(data["busy_s"]),
            counters={name: float(value) for name, value in data["counters"].items()},
            cause=_cause(data["cause"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Unhealthy(f"the agent's status cannot be read ({type(error).__name__}: {error})") from error


def _cause(word: object) -> Cause | None:
    try:
        return Cause(word)
    except ValueError:
        return None  # an agent newer than we are


def _read_probe(data: Mapping[str, Any], started: datetime, ended: datetime) -> Probed:
    try:
        usage = data["usage"]
        generated = int(usage["completion_tokens"])
        probed = Probed(
            prompt_tokens=int(usage["prompt_tokens"]),
            cached_tokens=int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
            completion_tokens=generated,
            started=started,
            ended=ended,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unhealthy("the engine's answer to the probe has no usage") from error
    if generated < 1:
        raise Unhealthy("the engine answered the probe without generating a token")
    return probed
