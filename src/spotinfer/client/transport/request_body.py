"""What a request asks for, read out of its JSON body, and how to ask for usage too.

A prompt can be megabytes and the caller's own client has serialised it just now, so the body is not parsed again
where the answer can be had from its last few bytes. Wherever that could be wrong, it is parsed.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import NamedTuple

_ASK = b',"stream_options":{"include_usage":true}}'
_HEAD = re.compile(rb'\{(?:\s*"\w+"\s*:\s*(?:"[^"\\\x00-\x1f]{0,200}"|true|false|null|\d{1,9})\s*,)*')
"""The short parameters that a body begins with: openai's client puts model and stream before the messages."""
_decode = json.JSONDecoder().raw_decode
_UTF8 = re.compile(rb"\{[^\x00]")
_WANTED = (("model", b'"model"'), ("stream", b'"stream"'), ("stream_options", b'"stream_options"'))
_BEFORE_A_KEY = b"{, \t\r\n"


class Asked(NamedTuple):
    """``body`` is the body to send where usage had to be asked for; None leaves the request as it is."""

    model: str = ""
    stream: bool = False
    body: bytes | None = None


NOTHING = Asked()


def read(body: bytes, *, add_usage: bool) -> Asked:
    """Model and stream flag of ``body``; with ``add_usage``, also the body that asks for usage in the stream.

    The caller's other stream options are kept, but for ``continuous_usage_stats``: without ``include_usage`` it has no
    effect, and must not get one by our asking.
    """
    params = _ends(body)
    if params is None:
        params = _object(body) or {}
    model = params.get("model")
    stream = params.get("stream") is True
    return Asked(
        model if isinstance(model, str) else "", stream, _with_usage(body, params) if stream and add_usage else None
    )


def _ends(body: bytes) -> dict[str, object] | None:
    """At least ``model``, ``stream`` and ``stream_options``, from both ends of ``body``; None if that is not enough to
    be sure.
    """
    head = _HEAD.match(body)
    if head is None or not _UTF8.match(body):
        return None
    params = _beginning(head[0])
    if params is None:
        return None
    for key, quoted in _WANTED:
        if key in params or (key == "stream_options" and params.get("stream") is not True):
            continue
        at = body.rfind(quoted, head.end())  # CPython's rfind is several times faster than its find
        if at >= 0:
            rest = _from_key(body, at)
            if rest is None:
                return None
            params = {**rest, **params}
    return params


@lru_cache(maxsize=32)
def _beginning(head: bytes) -> dict[str, object] | None:
    """Cached, because requests of one program begin alike. Not to be changed."""
    return _object(head.rstrip(b", \t\r\n") + b"}")


def _from_key(body: bytes, at: int) -> dict[str, object] | None:
    """The parameters from the key at ``at`` on, if it stands at the top level; else None.

    Why this is right: a quote after ``{``, ``,`` or white space, followed by a letter, can only open a string in valid
    JSON. If the rest behind it, with a new ``{`` in front, is one JSON object up to the end of the body, then its
    closing brace is the body's last one, so the key stands at the top level.
    """
    if at < 1 or body[at - 1] not in _BEFORE_A_KEY:
        return None
    return _object(b"{" + body[at:])


def _object(text: bytes) -> dict[str, object] | None:
    try:
        if not _UTF8.match(text):
            found = json.loads(text)  # looks for another encoding
        else:
            decoded = text.decode("utf-8", "surrogatepass")
            found, end = _decode(decoded)
            if end != len(decoded) and decoded[end:].strip(" \t\r\n"):
                return None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _with_usage(body: bytes, params: dict[str, object]) -> bytes | None:
    if "stream_options" not in params and body[:1] == b"{" and body[-1:] == b"}":
        return b"".join((memoryview(body)[:-1], _ASK))
    options = params.get("stream_options")
    if options is None:
        options = {}
    if not isinstance(options, dict) or options.get("include_usage") is True:
        return None
    kept = {name: value for name, value in options.items() if name != "continuous_usage_stats"}
    # ASCII output also carries lone surrogates, which UTF-8 cannot.
    return json.dumps({**(_object(body) or {}), "stream_options": {**kept, "include_usage": True}}).encode("ascii")
