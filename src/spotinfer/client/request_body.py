"""What a request asks for, read out of its JSON body, and how to ask for usage too.

A prompt can be megabytes and the caller's own client has serialised it just now, so the body is not parsed again
where the answer can be had from its last few bytes. Wherever that could be wrong, it is parsed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_ASK = b',"stream_options":{"include_usage":true}}'
_MODEL_FIRST = re.compile(rb'\{"model": ?"([^"\\]*)"')
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
    params = _ends(body)
    if params is None:
        params = _whole(body)
    model = params.get("model")
    asked = Asked(model if isinstance(model, str) else "", params.get("stream") is True)
    if not (add_usage and asked.stream):
        return asked
    return Asked(asked.model, True, _with_usage(body, params))


def _ends(body: bytes) -> dict[str, object] | None:
    """``model``, ``stream`` and ``stream_options``, from the first and the last bytes of ``body``; None if that is not
    enough to be sure.

    Searching is from the end, which is several times faster in CPython, and where clients put short parameters.
    """
    at = body.rfind(b'"stream"')
    params = _from_key(body, at) if at >= 0 else {}
    if params is None:
        return None
    if params.get("stream") is True and "stream_options" not in params and body.rfind(b'stream_options"', 0, at) >= 0:
        return None
    if "model" not in params:
        first = _MODEL_FIRST.match(body)
        if first:
            return {**params, "model": first[1].decode("utf-8", "replace")}
        rest = _from_key(body, body.rfind(b'"model"'))
        return None if rest is None else {**rest, **params}
    return params


def _from_key(body: bytes, at: int) -> dict[str, object] | None:
    """The parameters from the key at ``at`` on, if it stands at the top level; else None.

    Why this is right: a quote after ``{``, ``,`` or white space, followed by a letter, can only open a string in valid
    JSON. If the rest behind it, with a new ``{`` in front, is one JSON object up to the end of the body, then its
    closing brace is the body's last one, so the key stands at the top level.
    """
    if at < 1 or body[at - 1] not in _BEFORE_A_KEY:
        return None
    try:
        params = json.loads(b"{" + body[at:])
    except (ValueError, RecursionError):
        return None
    return params if isinstance(params, dict) else None


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
