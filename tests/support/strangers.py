"""What somebody without the keys of a launch gets from a port: raw bytes, so that no HTTP library hides any."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from spotinfer.core.model import LaunchSecrets
from spotinfer.serving.access import client_context, issue

TIMEOUT = 20.0
TLS_ALERT = b"\x15\x03"


@dataclass(frozen=True)
class Heard:
    """``content`` is what arrived inside the connection; ``refusal`` is how it ended, where it did not just close."""

    content: bytes
    refusal: str

    @property
    def answered(self) -> bool:
        """Whether anything was said but the alert with which TLS refuses one who does not speak it."""
        return bool(self.content) and not self.content.startswith(TLS_ALERT)

    @property
    def status(self) -> int | None:
        """Of an HTTP answer; None: there was none."""
        return int(self.content.split(b" ", 2)[1]) if self.content.startswith(b"HTTP/") else None


def ask(
    address: tuple[str, int],
    request: bytes,
    context: ssl.SSLContext | None,
    name: str,
) -> Heard:
    """Send ``request`` and read to the end. ``context`` None speaks without TLS; ``name`` is the server's by SNI."""
    content = b""
    try:
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(socket.create_connection(address, timeout=TIMEOUT))
            if context is not None:
                connection = stack.enter_context(context.wrap_socket(connection, server_hostname=name))
            connection.sendall(request)
            while block := connection.recv(65536):
                content += block
    except TimeoutError:
        raise  # neither an answer nor a refusal
    except OSError as error:  # ssl.SSLError is one
        return Heard(content, f"{type(error).__name__}: {error}")
    return Heard(content, "")


def http_request(method: str, path: str, headers: Mapping[str, str], body: object = None) -> bytes:
    """As HTTP/1.1, the connection to be closed afterwards. ``body`` is sent as JSON; bytes as they are."""
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: engine", "Connection: close", f"Content-Length: {len(content)}"]
    lines += ["Content-Type: application/json", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + content


KINDS = ("no certificate", "another launch's", "one of a CA with our name", "plain HTTP")


def strangers(secrets: LaunchSecrets, folder: Path) -> dict[str, ssl.SSLContext | None]:
    """They trust our authority, so that it is the server that refuses."""
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(cadata=secrets.ca)
    contexts = [certified(secrets.ca, issue(key, None, datetime.now(timezone.utc)), folder / key)
                for key in ("si-other", secrets.key)]  # fmt: skip
    return dict(zip(KINDS, [bare, *contexts, None], strict=True))


def certified(ca: str, forged: LaunchSecrets, folder: Path) -> ssl.SSLContext:
    folder.mkdir()
    (folder / "ca.pem").write_text(ca)
    (folder / "client.pem").write_text(forged.client.reveal())
    return client_context(str(folder / "ca.pem"), str(folder / "client.pem"))
