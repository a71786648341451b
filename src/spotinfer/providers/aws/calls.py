"""boto3 behind async calls: each call is one worker thread, one attempt of boto3, and an error of the tree.

boto3's own retries are off. A call is repeated here, between two threads, so that a cancelled launch sends nothing
more; the one that is under way cannot be cancelled and is waited for, at most for its time-outs.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import anyio
from anyio import to_thread

from ...core.errors import (
    MissingExtra,
    OutcomeUnknown,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    UnexpectedAnswer,
)
from ...core.secret import Secret
from ..redact import Redactor
from .failures import NAME, Incomplete, shown_cause, translate

CONNECT_S, READ_S = 10, 60
TRIES = 3
FIRST_WAIT = 0.25
PATIENCE = 5.0
"""A ``Retry-After`` of at most so many seconds is waited out here."""
THREADS = 32
"""So many calls may be under way at once: a listing asks every region three things."""
MOST_PAGES = 1000
TALKATIVE = ("botocore.endpoint", "botocore.auth", "botocore.parsers")
"""They log whole requests and answers at level DEBUG: user data, session tokens, console output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Which credentials: keys where they are given, else ``profile``, else boto3's own chain."""

    profile: str | None = None
    access_key: str | None = None
    secret_key: Secret | None = None
    session_token: Secret | None = None

    @property
    def secrets(self) -> list[Secret]:
        return [secret for secret in (self.secret_key, self.session_token) if secret is not None]


class Aws:
    """The connection of the adapter. ``endpoint_url`` replaces every AWS endpoint (an emulator).

    ``timeout`` and ``connect_timeout`` are for one attempt, ``first_wait`` before the second one, in seconds; each
    later wait is twice as long.
    """

    def __init__(
        self,
        login: Login,
        *,
        endpoint_url: str | None = None,
        timeout: float = READ_S,
        connect_timeout: float = CONNECT_S,
        first_wait: float = FIRST_WAIT,
    ) -> None:
        self._login, self._endpoint_url = login, endpoint_url
        self._timeout, self._connect_timeout, self._first_wait = timeout, connect_timeout, first_wait
        self._redactor = Redactor(login.secrets)
        self._lock = threading.Lock()  # a session is not thread-safe, a client is
        self._session: Any = None
        self._clients: dict[tuple[str, str], Any] = {}
        self._limiter: anyio.CapacityLimiter | None = None

    def __repr__(self) -> str:
        return f"Aws(profile={self._login.profile!r})"

    async def call(
        self,
        service: str,
        region: str,
        operation: str,
        *,
        needs: str | None = None,
        spends: bool = False,
        secrets: Iterable[Secret] = (),
        **parameters: Any,
    ) -> dict[str, Any]:
        """The answer to one call. Raises :class:`ProviderError` (the table is in ``failures.py``).

        An answer without ``needs`` is none: of a JSON that broke off boto3 makes an empty answer.
        Every call is attempted up to three times, which is right for one that ``spends`` only because it carries a
        ClientToken: the same token is the same machine. Once an attempt of it was left open, whatever comes after is
        :class:`OutcomeUnknown`, unless it is an answer.
        """
        what = f"{operation} in {region}"
        hide = self._redactor.plus(secrets)
        open_end: ProviderError | None = None
        wait = self._first_wait
        for left in reversed(range(TRIES)):
            try:
                return await self._attempt(service, region, operation, parameters, needs)
            except MissingExtra:
                raise
            except Exception as raised:  # noqa: BLE001 - whatever the library raises becomes an error of the tree
                error, cause = translate(raised, what, spends=spends, hide=hide), shown_cause(raised)
            if isinstance(error, OutcomeUnknown):
                open_end = error
            if not left or not _may_help(error):
                raise (open_end or error) from cause
            await anyio.sleep(getattr(error, "retry_after", None) or wait)
            wait *= 2
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def pages(self, service: str, region: str, operation: str, items: str, **parameters: Any) -> list[Any]:
        """``items`` of every page. Raises as :meth:`call`: a list is whole, or it is an error."""
        found: list[Any] = []
        token: str | None = None
        for _ in range(MOST_PAGES):
            more: dict[str, Any] = {"NextToken": token} if token else {}
            answer = await self.call(service, region, operation, needs=items, **parameters, **more)
            found += answer[items]
            token = answer.get("NextToken") or None
            if token is None:
                return found
        raise UnexpectedAnswer(f"{operation} in {region} has no last page", provider=NAME)

    async def home(self) -> str | None:
        """The region of the profile or the environment, where one is set."""

        def region() -> str | None:
            with self._lock:
                return self._opened().region_name or None

        try:
            return await to_thread.run_sync(region)
        except Exception as error:  # a profile that does not exist, a file that cannot be parsed
            raise translate(error, "reading the AWS configuration", spends=False, hide=self._redactor) from error

    async def aclose(self) -> None:
        clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    async def _attempt(
        self, service: str, region: str, operation: str, parameters: dict[str, Any], needs: str | None
    ) -> dict[str, Any]:
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(THREADS)

        def send() -> Any:
            with _muted():
                return getattr(self._client(service, region), operation)(**parameters)

        answer: dict[str, Any] = await to_thread.run_sync(send, limiter=self._limiter)
        if needs is not None and needs not in answer:
            raise Incomplete
        return answer

    def _client(self, service: str, region: str) -> Any:
        with self._lock:
            client = self._clients.get((service, region))
            if client is None:
                from botocore.config import Config

                config = Config(
                    connect_timeout=self._connect_timeout,
                    read_timeout=self._timeout,
                    retries={"total_max_attempts": 1, "mode": "standard"},
                    max_pool_connections=THREADS,
                )
                client = self._opened().client(
                    service, region_name=region, endpoint_url=self._endpoint_url, config=config
                )
                self._clients[service, region] = client
            return client

    def _opened(self) -> Any:
        if self._session is None:
            must_be_installed()
            import boto3

            login = self._login
            # boto3 does not look at the environment once a profile is named, and takes the default one anyway.
            own_chain = login.access_key is not None or login.profile == "default"
            self._session = boto3.Session(
                profile_name=None if own_chain else login.profile,
                aws_access_key_id=login.access_key,
                aws_secret_access_key=login.secret_key.reveal() if login.secret_key else None,
                aws_session_token=login.session_token.reveal() if login.session_token else None,
            )
            for name in TALKATIVE:
                logging.getLogger(name).addFilter(_MUTE)  # the same filter is never added twice
        return self._session


def _may_help(error: ProviderError) -> bool:
    """Whether the same call may go better in a moment; a long Retry-After is the caller's decision."""
    if isinstance(error, RateLimited):
        return error.retry_after is None or error.retry_after <= PATIENCE
    return isinstance(error, (OutcomeUnknown, ProviderUnavailable))


def must_be_installed() -> None:
    """Raises :class:`MissingExtra`. Does not import it: that takes half a second, and many a program never calls."""
    if importlib.util.find_spec("boto3") is None:
        raise MissingExtra("the provider aws", "aws")


_ours = threading.local()


class _Mute(logging.Filter):
    """Drops what boto3 would log of our calls in detail; other users of boto3 in this process keep their logs."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.DEBUG or not getattr(_ours, "calling", False)


_MUTE = _Mute()


class _muted:  # noqa: N801 - used as a function
    def __enter__(self) -> None:
        _ours.calling = True

    def __exit__(self, *exc: object) -> None:
        _ours.calling = False
