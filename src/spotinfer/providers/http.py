"""HTTP to a cloud: one place where every failure becomes an error of the tree, and where nothing is sent twice that
must not be.

Retries are for calls that may be repeated, count attempts only and use the loop's clock, so that they also run under
virtual time; deadlines belong to the caller.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn

import anyio
import httpx2

from ..core.clock import Clock, WallClock
from ..core.errors import (
    ConfigError,
    MissingCredentials,
    OutcomeUnknown,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    UnexpectedAnswer,
)
from ..core.secret import Secret
from .answers import Answer, Conflict, NotFound, Refine, judge, read_answer
from .redact import Redactor

__all__ = ["Answer", "CloudHttp", "Conflict", "Interval", "NotFound", "Refine", "plain_id"]

IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})
FIRST_WAIT = 0.25
"""Seconds before the second attempt; each later one waits twice as long."""
PATIENCE = 5.0
"""A ``Retry-After`` of at most so many seconds is waited out here; a longer one is the caller's decision."""
NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)
"""The request never left: nothing can have been rented."""


@dataclass(frozen=True, slots=True)
class Interval:
    """At least ``seconds`` between two calls of one ``name``.

    With ``wait`` False a call that comes too early raises :class:`RateLimited` with the time that is left and sends
    nothing: the launch saga tries another cloud meanwhile.
    """

    name: str
    seconds: float
    wait: bool = True


class CloudHttp:
    """The connection of one adapter to one cloud.

    ``key`` goes into the ``Authorization`` header of calls to ``base_url`` and nowhere else. ``timeout`` is the limit
    of one attempt in seconds, ``tries`` how often a call that may be repeated is attempted. ``refine`` sees every
    complete answer first (:data:`~spotinfer.providers.answers.Refine`). ``transport`` replaces the network in tests.
    """

    def __init__(
        self,
        provider: str,
        base_url: str,
        key: Secret,
        *,
        clock: Clock | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
        timeout: float = 60.0,
        tries: int = 3,
        refine: Refine | None = None,
    ) -> None:
        self.provider, self.base_url = provider, _checked_url(provider, base_url)
        self._key = _checked_key(provider, key)
        self._clock = clock or WallClock()
        self._transport, self._timeout, self._tries, self._refine = transport, timeout, tries, refine
        self._redactor = Redactor([self._key])
        self._client: httpx2.AsyncClient | None = None
        self._free_at: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"CloudHttp({self.provider!r}, {self.base_url!r})"

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    # --- calls -----------------------------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        params: Mapping[str, object] | None = None,
        spends: bool = False,
        interval: Interval | None = None,
        idempotent: bool | None = None,
        secrets: Iterable[Secret] = (),
    ) -> Any:
        """The JSON that the cloud answers, None for an empty answer.

        ``spends`` marks the call that rents: it is sent once, and whenever its outcome cannot be known it raises
        :class:`OutcomeUnknown`. Other calls are repeated when they failed on the way if ``idempotent`` (by default:
        GET, HEAD, PUT, DELETE). ``secrets`` are what the request carries; they are removed from errors.

        Raises :class:`ProviderError`: ``AuthenticationFailed`` 401, ``InsufficientFunds`` 402, ``PermissionDenied``
        403, :class:`NotFound` 404 and 410, :class:`Conflict` 409, ``RateLimited`` 429, ``ProviderUnavailable`` (or
        ``OutcomeUnknown``) for 5xx, time-outs and broken answers, ``UnexpectedAnswer`` for the rest.
        """
        hide = self._redactor.plus(secrets)
        may_repeat = not spends and (method in IDEMPOTENT if idempotent is None else idempotent)
        left = self._tries if may_repeat else 1
        wait = FIRST_WAIT
        while True:
            left -= 1
            await self._pace(interval)
            try:
                return (await self._attempt(method, path, json, params, spends, hide)).body
            except RateLimited as error:
                if not left or error.retry_after is None or error.retry_after > PATIENCE:
                    raise
                pause = error.retry_after
            except ProviderUnavailable:
                if not left:
                    raise
                pause, wait = wait, wait * 2
            await anyio.sleep(pause)

    async def turn(self, interval: Interval) -> None:
        """Take the next turn of ``interval`` ahead of a call that needs other calls first; without this those would be
        made, and undone, for a call that comes too early. Raises :class:`RateLimited` as :meth:`request`."""
        await self._pace(interval)

    async def lines(
        self,
        path: str,
        *,
        params: Mapping[str, object] | None = None,
        most: int = 5000,
        quiet: float = 2.0,
        limit: float = 15.0,
    ) -> list[str]:
        """The lines of a streamed answer: until it ends, ``most`` were read, none came for ``quiet`` seconds, or
        ``limit`` seconds have passed. A stream that breaks off gives what came before. Raises as :meth:`request`."""
        found: list[str] = []
        started = False
        try:
            with anyio.move_on_after(limit):
                request = self._build("GET", path, None, params)
                response = await self._http().send(request, stream=True)
                started = response.is_success
                try:
                    if not started:
                        content = await response.aread()
                        self._judged(_answer(response, content, f"GET {path}"), f"GET {path}", False, self._redactor)
                    await _collect(response, found, most, quiet)
                finally:
                    with anyio.CancelScope(shield=True):
                        await response.aclose()
        except httpx2.HTTPError as error:
            if not started:
                self._fail(error, f"GET {path}", spends=False)
        if not started:
            raise ProviderUnavailable(f"GET {path}: no answer within {limit:g} s", provider=self.provider)
        return found

    async def download(self, url: str) -> str | None:
        """The text at an address that the cloud gave, fetched without the key; None while it is not there (403, 404).

        Raises :class:`ProviderUnavailable` and :class:`UnexpectedAnswer`."""
        what = "GET of the given address"
        if not _encrypted(url):
            raise UnexpectedAnswer("the cloud gave an address that is not encrypted", provider=self.provider)
        try:
            with anyio.fail_after(self._timeout):
                response = await self._http().get(url)
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
            self._fail(error, what, spends=False)
        if response.status_code in (403, 404):
            return None
        if response.status_code >= 500 or response.status_code == 429:
            raise ProviderUnavailable(f"{what}: status {response.status_code}", provider=self.provider)
        if not response.is_success:
            raise UnexpectedAnswer(f"{what}: status {response.status_code}", provider=self.provider)
        return response.text

    # --- one attempt -----------------------------------------------------------------------------------------------

    async def _attempt(
        self, method: str, path: str, json: object, params: Mapping[str, object] | None, spends: bool, hide: Redactor
    ) -> Answer:
        what = f"{method} {path}"
        request = self._build(method, path, json, params)
        try:
            with anyio.fail_after(self._timeout):
                response = await self._http().send(request)
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
            self._fail(error, what, spends=spends)
        answer = _answer(response, response.content, what)
        self._judged(answer, what, spends, hide)
        return answer

    def _build(self, method: str, path: str, json: object, params: Mapping[str, object] | None) -> httpx2.Request:
        given = {name: value for name, value in (params or {}).items() if value is not None}
        return self._http().build_request(
            method,
            self.base_url + path,
            json=json,
            params=given or None,  # type: ignore[arg-type]
            headers={"Authorization": f"Bearer {self._key.reveal()}"},
        )

    def _judged(self, answer: Answer, what: str, spends: bool, hide: Redactor) -> None:
        """Raise what the answer means, if it is no good one."""
        refined = self._refine(answer) if self._refine is not None else None
        if refined is not None:
            refined.message = hide.text(refined.message)
            refined.args = (refined.message, *refined.args[1:])
            raise refined
        error = judge(answer, provider=self.provider, what=what, spends=spends, now=self._clock.now(), hide=hide)
        if error is not None:
            raise error

    def _fail(self, error: Exception, what: str, *, spends: bool) -> NoReturn:
        """No complete answer came."""
        why = str(error) or type(error).__name__
        raised: ProviderError
        if isinstance(error, NOT_SENT):
            raised = ProviderUnavailable(f"{what} was not sent: {why}", provider=self.provider)
        elif spends:
            raised = OutcomeUnknown(f"the answer to {what} was lost: {why}", provider=self.provider)
        else:
            raised = ProviderUnavailable(f"no answer to {what}: {why}", provider=self.provider)
        raise raised from error

    async def _pace(self, interval: Interval | None) -> None:
        if interval is None:
            return
        now = anyio.current_time()
        at = max(now, self._free_at.get(interval.name, now))
        if at > now and not interval.wait:
            raise RateLimited(
                f"{interval.name}: at most one call in {interval.seconds:g} s",
                provider=self.provider,
                retry_after=at - now,
            )
        self._free_at[interval.name] = at + interval.seconds  # taken before waiting: others queue behind it
        if at > now:
            await anyio.sleep(at - now)

    def _http(self) -> httpx2.AsyncClient:
        if self._client is None:  # on first use: building one reads the certificates
            self._client = httpx2.AsyncClient(
                transport=self._transport,
                timeout=self._timeout,
                follow_redirects=False,
                trust_env=not _loopback(httpx2.URL(self.base_url).host),
                headers={"User-Agent": _agent(), "Accept": "application/json"},
            )
        return self._client


async def _collect(response: httpx2.Response, found: list[str], most: int, quiet: float) -> None:
    lines = response.aiter_lines()
    while len(found) < most:
        line: str | None = None
        with anyio.move_on_after(quiet):
            line = await anext(lines, None)
        if line is None:
            return
        found.append(line)


def plain_id(id: str) -> bool:
    """Whether it can stand in a path as it is. Nothing else is ever an id, so what it names does not exist."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", id) is not None


def _agent() -> str:
    """A name of our own: some clouds refuse those of HTTP libraries with a 403 that looks like a bad key."""
    try:
        return f"spotinfer/{version('spotinfer')}"
    except PackageNotFoundError:  # run from a checkout
        return "spotinfer/0"


def _answer(response: httpx2.Response, content: bytes, call: str) -> Answer:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return read_answer(response.status_code, headers, content, call)


def _checked_key(provider: str, key: Secret) -> Secret:
    value = key.reveal().strip()
    if not value:
        raise MissingCredentials(f"there is no key for {provider}")
    if not re.fullmatch(r"[!-~]+", value):  # the HTTP library would put the whole header into its error
        raise ConfigError(
            f"the key for {provider} holds characters that no key has", hint="copy it again: one line, no spaces"
        )
    return Secret(value)


def _checked_url(provider: str, url: str) -> str:
    if not _encrypted(url):
        raise ConfigError(
            f"{provider}: {url!r} is no https:// address", hint="http:// is allowed to this computer (127.0.0.1) only"
        )
    return url.rstrip("/")


def _encrypted(url: str) -> bool:
    """Whether a key may be sent there: over TLS, or within this computer."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        return False
    return bool(parsed.host) and (parsed.scheme == "https" or (parsed.scheme == "http" and _loopback(parsed.host)))


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
