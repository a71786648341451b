"""Makes the ``openai`` clients that users get: the real classes, with our transport inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from .upstream import Upstream

if TYPE_CHECKING:
    import openai

    ClientT = TypeVar("ClientT", openai.OpenAI, openai.AsyncOpenAI)

_HEADERS = {"Accept-Encoding": "identity"}
"""The transport would see to it anyway; said here, it need not copy every request."""


def make_client(upstream: Upstream, *, max_retries: int | None = None) -> openai.OpenAI:
    """An ``openai.OpenAI`` for this one server. ``max_retries`` is openai's own (its default: 2)."""
    import openai  # half a second: only for those who use it

    client = openai.OpenAI(
        base_url=upstream.base_url,
        api_key=upstream.api_key.reveal(),
        max_retries=openai.DEFAULT_MAX_RETRIES if max_retries is None else max_retries,
        http_client=openai.DefaultHttpxClient(
            transport=upstream.transport(openai.DEFAULT_CONNECTION_LIMITS), headers=_HEADERS, trust_env=False
        ),
    )
    return _without_account(client)


def make_async_client(upstream: Upstream, *, max_retries: int | None = None) -> openai.AsyncOpenAI:
    """:func:`make_client` for async code."""
    import openai

    client = openai.AsyncOpenAI(
        base_url=upstream.base_url,
        api_key=upstream.api_key.reveal(),
        max_retries=openai.DEFAULT_MAX_RETRIES if max_retries is None else max_retries,
        http_client=openai.DefaultAsyncHttpxClient(
            transport=upstream.async_transport(openai.DEFAULT_CONNECTION_LIMITS), headers=_HEADERS, trust_env=False
        ),
    )
    return _without_account(client)


def _without_account(client: ClientT) -> ClientT:
    """What ``OPENAI_ORG_ID``, ``OPENAI_PROJECT_ID`` and ``OPENAI_ADMIN_KEY`` say is not for a rented machine."""
    client.organization = None
    client.project = None
    client.admin_api_key = None
    return client
