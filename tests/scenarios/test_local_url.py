"""The loopback proxy over a real mutual-TLS server, spoken to by sockets and by ordinary clients."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest
from anyio.from_thread import start_blocking_portal

from spotinfer.client.proxy.server import LocalProxy
from spotinfer.client.transport.metered import Metering
from spotinfer.client.transport.openai_clients import make_async_client, make_client
from spotinfer.client.transport.upstream import Upstream
from spotinfer.core.errors import ConfigError, PortTaken
from spotinfer.core.model import Endpoint
from spotinfer.core.records import RequestRow
from spotinfer.core.secret import Secret
from support.certs import DNS_NAME, Pki, make_pki
from support.streams import USAGE, answer, sse

ENGINE_KEY = "engine-key"


class Engine:
    """A mutual-TLS server that answers like vLLM, tells what it was sent, and can misbehave on request."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.gone = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                body = await self._body(reader, head.lower())
                self.bodies.append(body)
                await self._answer(head.split()[1], body, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.gone.set()
        finally:
            writer.close()

    async def _body(self, reader: asyncio.StreamReader, head: str) -> bytes:
        if "transfer-encoding: chunked" in head:
            body = b""
            while length := int(await reader.readline(), 16):
                body += (await reader.readexactly(length + 2))[:-2]
            await reader.readline()
            return body
        _, found, size = head.partition("content-length: ")
        return await reader.readexactly(int(size.split()[0])) if found else b""

    async def _answer(self, path: str, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not path.endswith("/completions"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            return
        asked = json.loads(body)
        if not asked.get("stream"):
            text = json.dumps({"object": "chat.completion", "choices": [], "usage": USAGE}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(text), text))
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        events = answer(["Hel", "lo"], usage="stream_options" in asked)
        for event in events[:2] if asked["model"] in ("hang", "break") else events:
            part = sse([event])
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            await writer.drain()
        if asked["model"] == "break":
            writer.transport.abort()
        elif asked["model"] == "hang":
            await reader.read()
            self.gone.set()
        else:
            writer.write(b"0\r\n\r\n")


def server_context(pki: Pki) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=pki.ca)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "server.pem")
        path.write_text(pki.server)
        context.load_cert_chain(path)
    return context


PKI = make_pki()


class Setting:
    def __init__(self, engine: Engine, port: int) -> None:
        self.engine = engine
        self.rows: list[RequestRow] = []
        self.upstream = Upstream(
            endpoint=Endpoint(host="127.0.0.1", port=port),
            api_key=Secret(ENGINE_KEY),
            metering=Metering("k1", self.rows.append, sni=DNS_NAME),
            context=PKI.client_context(),
        )
        self.proxy = LocalProxy(self.upstream, max_body=100_000)

    async def raw(self, request: str | bytes) -> bytes:
        """What the proxy answers to these bytes, up to when it closes or 5 seconds are over."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy.port)
        writer.write(request if isinstance(request, bytes) else request.encode())
        got = b""
        with anyio.move_on_after(5):
            got = await reader.read()
        writer.close()
        return got

    def head(self, method: str = "GET", path: str = "/health", *lines: str, key: str | None = None) -> str:
        auth = f"Authorization: Bearer {self.proxy.key.reveal() if key is None else key}"
        return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", auth, *lines, "Connection: close", "", ""])


@asynccontextmanager
async def setting() -> AsyncIterator[Setting]:
    engine = Engine()
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0, ssl=server_context(PKI))
    here = Setting(engine, server.sockets[0].getsockname()[1])
    try:
        async with here.proxy:
            yield here
    finally:
        server.close()


def run(test: Callable[[Setting], Awaitable[None]]) -> None:
    async def main() -> None:
        with anyio.fail_after(30):
            async with setting() as here:
                await test(here)

    anyio.run(main)


CHAT: Any = {"messages": [{"role": "user", "content": "hi"}]}


def test_openai_through_the_proxy_streams_and_is_metered() -> None:
    async def test(here: Setting) -> None:
        async with openai.AsyncOpenAI(base_url=here.proxy.url, api_key=here.proxy.key.reveal()) as client:
            for _ in range(3):
                stream = await client.chat.completions.create(model="m", stream=True, **CHAT)
                assert "".join([c.choices[0].delta.content or "" async for c in stream]) == "Hello"
            whole = await client.chat.completions.create(model="m", **CHAT)
        assert whole.usage is not None
        assert [(row.status, row.prompt_tokens, row.completion_tokens) for row in here.rows] == [("ok", 21, 2)] * 4
        sent = here.engine.heads[0].lower()
        assert f"authorization: bearer {ENGINE_KEY}" in sent
        assert here.proxy.key.reveal().lower() not in sent
        assert "accept-encoding: identity" in sent

    run(test)


def test_curl_with_chunks_and_expect() -> None:
    async def test(here: Setting) -> None:
        body = json.dumps({"model": "m", **CHAT, "user": "x" * 20_000})
        command = ["curl", "-sS", "-m", "10", "--data-binary", "@-", "-H", "Transfer-Encoding: chunked"]
        headers = ["-H", f"Authorization: Bearer {here.proxy.key.reveal()}", "-H", "Expect: 100-continue"]
        done = await anyio.run_process([*command, *headers, f"{here.proxy.url}/chat/completions"], input=body.encode())
        assert json.loads(done.stdout)["usage"] == USAGE
        assert here.engine.bodies == [body.encode()]

    try:
        subprocess.run(["curl", "--version"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no curl here")
    run(test)


@pytest.mark.parametrize("key", ["", "wrong", ENGINE_KEY, "é"])
def test_without_the_proxys_key_nothing_reaches_the_engine(key: str) -> None:
    async def test(here: Setting) -> None:
        got = await here.raw(here.head("POST", "/v1/chat/completions", "Content-Length: 50000", key=key) + "x" * 50_000)
        head, _, body = got.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 401 ")
        assert json.loads(body)["error"]["code"] == "invalid_api_key"
        assert here.engine.heads == []

    run(test)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "[::2]"])
def test_a_page_that_rebinds_its_name_to_this_computer_is_refused(host: str) -> None:
    async def test(here: Setting) -> None:
        got = await here.raw(here.head().replace("Host: 127.0.0.1", f"Host: {host}"))
        assert got.startswith(b"HTTP/1.1 403 ")
        assert here.engine.heads == []

    run(test)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1234", "[::1]:80", "LOCALHOST"])
def test_local_names_are_served(host: str) -> None:
    async def test(here: Setting) -> None:
        got = await here.raw(here.head().replace("Host: 127.0.0.1", f"Host: {host}"))
        assert got.startswith(b"HTTP/1.1 200 ")
        assert got.endswith(b"ok")

    run(test)


@pytest.mark.parametrize(
    ("lines", "body", "status"),
    [
        (["Content-Length: 5", "Transfer-Encoding: chunked"], "0\r\n\r\n", 400),
        (["Content-Length: 5", "Content-Length: 6"], "", 400),
        (["Content-Length: 100001"], "", 413),
        (["Transfer-Encoding: chunked"], "186a1\r\n" + "x" * 100_001 + "\r\n0\r\n\r\n", 413),
        (["X: " + "y" * 70_000], "", 431),
        (["Content-Length: x"], "", 400),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
def test_bad_framing_and_what_is_too_large_are_refused(path: str, lines: list[str], body: str, status: int) -> None:
    async def test(here: Setting) -> None:
        got = await here.raw(here.head("POST", path, *lines) + body)
        assert got.startswith(b"HTTP/1.1 %d " % status)
        assert here.rows == []

    run(test)


@pytest.mark.parametrize("target", ["http://evil.example/", "*"])
def test_only_paths_are_forwarded(target: str) -> None:
    async def test(here: Setting) -> None:
        assert (await here.raw(here.head("GET", target))).startswith(b"HTTP/1.1 400 ")
        assert here.engine.heads == []

    run(test)


def test_bodies_of_other_endpoints_stream_through() -> None:
    async def test(here: Setting) -> None:
        got = await here.raw(
            here.head("POST", "/tokenize", "Transfer-Encoding: chunked") + "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        assert got.startswith(b"HTTP/1.1 200 ")
        assert here.engine.bodies == [b"abcde"]
        got = await here.raw(here.head("POST", "/tokenize", "Content-Length: 5") + "abcde")
        assert got.startswith(b"HTTP/1.1 200 ")
        assert "content-length: 5" in here.engine.heads[-1].lower()
        assert here.rows == []

    run(test)


def test_a_connection_is_kept_and_pipelined_requests_are_answered_in_order() -> None:
    async def test(here: Setting) -> None:
        kept = here.head().replace("Connection: close\r\n", "")
        got = await here.raw(kept + kept + here.head())
        assert got.count(b"HTTP/1.1 200 ") == 3

    run(test)


def test_a_cut_stream_is_never_ended_cleanly() -> None:
    async def test(here: Setting) -> None:
        async with openai.AsyncOpenAI(
            base_url=here.proxy.url, api_key=here.proxy.key.reveal(), max_retries=0
        ) as client:
            stream = await client.chat.completions.create(model="break", stream=True, **CHAT)
            with pytest.raises(openai.APIConnectionError):
                async for _ in stream:
                    pass
        assert [row.status for row in here.rows] == ["cut"]

    run(test)


@pytest.mark.parametrize("wait_for", ["head", "text"])
def test_a_client_that_leaves_stops_the_engine(wait_for: str) -> None:
    async def test(here: Setting) -> None:
        body = json.dumps({"model": "hang", "stream": True, **CHAT})
        reader, writer = await asyncio.open_connection("127.0.0.1", here.proxy.port)
        writer.write((here.head("POST", "/v1/chat/completions", f"Content-Length: {len(body)}") + body).encode())
        await reader.readuntil(b"\r\n\r\n" if wait_for == "head" else b"Hel")
        writer.close()
        with anyio.fail_after(5):
            await here.engine.gone.wait()
            while not here.rows:
                await anyio.sleep(0.01)
        assert [row.status for row in here.rows] == ["cancelled"]

    run(test)


def test_an_engine_that_does_not_answer_is_a_502() -> None:
    async def test(here: Setting) -> None:
        nowhere = Upstream(
            endpoint=Endpoint(host="127.0.0.1", port=9), api_key=Secret("k"), metering=here.upstream.metering
        )
        async with (
            LocalProxy(nowhere, key=here.proxy.key) as proxy,
            openai.AsyncOpenAI(base_url=proxy.url, api_key=proxy.key.reveal(), max_retries=0) as client,
        ):
            with pytest.raises(openai.InternalServerError) as raised:
                await client.chat.completions.create(model="m", **CHAT)
        assert raised.value.status_code == 502
        assert raised.value.code == "upstream_failed"

    run(test)


def test_a_taken_port_and_a_bad_one_are_said_clearly() -> None:
    async def test(here: Setting) -> None:
        with pytest.raises(PortTaken, match=str(here.proxy.port)) as taken:
            await LocalProxy(here.upstream, port=here.proxy.port).start()
        assert taken.value.hint
        with pytest.raises(ConfigError):
            LocalProxy(here.upstream, port=70_000)

    run(test)


def test_the_keys_show_themselves_nowhere() -> None:
    async def test(here: Setting) -> None:
        for shown in (repr(here.proxy), here.proxy.url, repr(here.upstream), repr(here.proxy.key)):
            assert here.proxy.key.reveal() not in shown
            assert ENGINE_KEY not in shown
        assert here.proxy.url == f"http://127.0.0.1:{here.proxy.port}/v1"

    run(test)


def test_closing_cuts_what_runs_and_can_be_repeated_from_another_task() -> None:
    async def main() -> None:
        async with setting() as here:
            async with openai.AsyncOpenAI(
                base_url=here.proxy.url, api_key=here.proxy.key.reveal(), max_retries=0
            ) as client:
                stream = await client.chat.completions.create(model="hang", stream=True, **CHAT)
                await anext(aiter(stream))
                await asyncio.create_task(here.proxy.aclose())
                await here.proxy.aclose()
                with pytest.raises(openai.APIConnectionError):
                    async for _ in stream:
                        pass
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", here.proxy.port)

    anyio.run(main)


def test_the_clients_speak_mutual_tls_by_the_name_in_the_certificate() -> None:
    async def test(here: Setting) -> None:
        async with make_async_client(here.upstream) as client:
            stream = await client.chat.completions.create(model="m", stream=True, **CHAT)
            assert [chunk async for chunk in stream]

        def in_thread() -> None:
            with make_client(here.upstream) as client:
                assert list(client.chat.completions.create(model="m", stream=True, **CHAT))

        await anyio.to_thread.run_sync(in_thread)
        stranger = Upstream(
            endpoint=here.upstream.endpoint,
            api_key=Secret(ENGINE_KEY),
            metering=here.upstream.metering,
            context=PKI.client_context(""),
        )
        async with make_async_client(stranger, max_retries=0) as client:
            with pytest.raises(openai.APIConnectionError):
                await client.chat.completions.create(model="m", **CHAT)
        assert [row.status for row in here.rows] == ["ok", "ok", "error"]

    run(test)


def test_the_account_at_openai_stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")

    async def test(here: Setting) -> None:
        async with make_async_client(here.upstream, max_retries=0) as client:
            await client.chat.completions.create(model="m", **CHAT)
        assert not {"org-1", "proj-1", "sk-admin"} & set(here.engine.heads[0].split())

    run(test)


def test_it_lives_in_a_portal() -> None:
    rows: list[RequestRow] = []
    metering = Metering("k", rows.append)
    upstream = Upstream(endpoint=Endpoint(host="127.0.0.1", port=9), api_key=Secret("k"), metering=metering)
    with start_blocking_portal() as portal:
        proxy = portal.call(LocalProxy(upstream).start)
        assert openai.OpenAI(base_url=proxy.url, api_key=proxy.key.reveal(), max_retries=0).base_url
        portal.call(proxy.aclose)
