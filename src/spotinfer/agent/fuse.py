"""How a machine ends itself: a recipe that the provider's adapter supplies as data, tried in order.

`{"kind": "exit"}`: the end of this process is the end of the machine (`local`). `{"kind": "command", "argv": [...]}`
runs a command. `{"kind": "http", "method", "url", "headers", "body", "check": {...}}` calls the cloud with a key that
is good for this machine only. Only steps that really end the machine belong in it; the process ends after it anyway.
"""

from __future__ import annotations

import asyncio
import http.client
import shutil
import subprocess
import urllib.request
from typing import Any, Iterable  # noqa: UP035 - Python 3.8

from .state import say

CALL_S = 20.0
COMMAND_S = 60.0
PAUSES_S = (0, 5, 15, 60, 120, 300)
FAILURES = (OSError, ValueError, TypeError, KeyError, http.client.HTTPException, subprocess.SubprocessError)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key in the headers is for the address that was given."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def can_end(recipe: Iterable[dict[str, Any]]) -> bool:
    """Whether some step would work, found out without doing it. Never raises."""
    return any(_try(_check, step) for step in recipe)


async def end(recipe: Iterable[dict[str, Any]]) -> bool:
    """Do the first step that works; where none does, try again for some minutes, since the machine keeps billing."""
    steps = list(recipe)
    loop = asyncio.get_running_loop()
    for pause in PAUSES_S:
        await asyncio.sleep(pause)
        for step in steps:
            if await loop.run_in_executor(None, _try, _perform, step):
                return True
            say(f"the end by {step['kind']} did not work")
    return False


def _try(action: Any, step: dict[str, Any]) -> bool:
    try:
        return bool(action(step))
    except FAILURES as error:
        # The kind of the error only: its text may repeat an address or a header that holds a key.
        say(f"{step['kind']}: {type(error).__name__}")
        return False


def _check(step: dict[str, Any]) -> bool:
    if step["kind"] == "command":
        return shutil.which(step["argv"][0]) is not None
    return step["kind"] == "exit" or _call(step["check"])


def _perform(step: dict[str, Any]) -> bool:
    if step["kind"] == "command":
        return subprocess.run(step["argv"], stdin=subprocess.DEVNULL, timeout=COMMAND_S).returncode == 0
    return step["kind"] == "exit" or _call(step)


def _call(call: dict[str, Any]) -> bool:
    if not call["url"].startswith(("https://", "http://")):
        raise ValueError("not an HTTP address")
    body = call.get("body")
    request = urllib.request.Request(  # noqa: S310 - the scheme was checked
        call["url"],
        data=body.encode() if isinstance(body, str) else None,
        headers=call.get("headers") or {},
        method=call.get("method", "GET"),
    )
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=CALL_S) as answer:
        return bool(200 <= answer.status < 300)
