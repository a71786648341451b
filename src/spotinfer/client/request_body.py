"""What a request asks for, read out of its JSON body, and how to ask for usage too.

A prompt can be megabytes and the caller's own client has serialised it just now, so the body is not parsed again
where the answer can be had from its last few bytes. Wherever that could be wrong, it is parsed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

_ASK = b',"stream_options":{"include_usage":true}}'
_BEFORE_A_KEY = b"{, \t\r\n"


@dataclass(frozen=True, slots=True)
class Asked:
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
    params = _end(body)
    if params is None:
        params = _whole(body)
    model = params.get("model")
    asked = Asked(model if isinstance(model, str) else "", params.get("stream") is True)
    if not (add_usage and asked.stream):
        return asked
    return Asked(asked.model, True, _with_usage(body, params))


def _end(body: bytes) -> dict[str, object] | None:
    """The parameters from the last ``"model"`` on, if that is enough to know them; else None.

    Why this is right: a quote after ``{``, ``,`` or white space, followed by a letter, can only open a string in valid
    JSON. If the rest behind it, with a new ``{`` in front, is one JSON object up to the end of the body, then its
    closing brace is the body's last one, so the key stands at the top level.
    """
    at = body.rfind(b'"model"')
    if at < 1 or body[at - 1] not in _BEFORE_A_KEY:
        return None
    try:
        params = json.loads(b"{" + body[at:])
    except (ValueError, RecursionError):
        return None
    if not isinstance(params, dict):
        return None
    wanted = b'"stream_options"' if "stream" in params else b'"stream"'
    if wanted == b'"stream_options"' and (params["stream"] is not True or "stream_options" in params):
        return params
    # What is not here may stand before: then (or when the prompt merely holds such a word) everything is parsed.
    return params if body.find(wanted, 0, at) < 0 else None


def _whole(body: bytes) -> dict[str, object]:
    try:
        params = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return params if isinstance(params, dict) else {}


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
    return json.dumps({**_whole(body), "stream_options": {**kept, "include_usage": True}}).encode("ascii")
