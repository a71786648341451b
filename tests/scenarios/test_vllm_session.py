"""vLLM for real, as a user has it: launch, clients, meter, strangers, command line, and a clean end.

`SPOTINFER_VLLM_PYTHON` names the Python that has it. A start takes half a minute: one server serves most tests, in the
order of this file, and the one that ends it stands last of them.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest

from spotinfer import AsyncClient, Client, Server
from spotinfer.core.model import Phase
from spotinfer.core.states import Cause, State
from spotinfer.ledger.tags import tag
from spotinfer.serving.vllm import VllmEngine
from spotinfer.serving.vllm_install import VARIABLE, find_vllm
from support.notes import note
from support.owners import Counted, Family, Owner, Told, running_from
from support.places import Place
from support.strangers import KINDS, ask, http_request, strangers

FOUND = find_vllm()
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(isinstance(FOUND, str), reason=f"{FOUND}: set {VARIABLE}"),
]
HELLO: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}


@dataclass(frozen=True)
class Session:
    place: Place
    server: Server
    owner: Owner
    progress: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("vllm"))


@pytest.fixture(scope="module")
def session(place: Place) -> Iterator[Session]:
    said = io.StringIO()
    with Client(place.settings(), progress="plain") as client:
        with contextlib.redirect_stderr(said):
            server = client.launch("tiny", name="one")
        yield Session(place, server, Owner(place.home, server, VllmEngine.metrics), said.getvalue())


# --- tokens --------------------------------------------------------------------------------------------------------


def test_it_began_with_the_probe_and_nothing_else(session: Session) -> None:
    (probe,) = [cost.row for cost in session.server.meter.snapshot().rows]
    assert probe.probe
    assert Told.sum([probe]) == Told(*session.owner.counters())
    assert session.server.meter.snapshot().requests == 0


def test_the_phases_of_its_start_were_told_in_order(session: Session) -> None:
    """The display says a phase once; polls are up to a second apart, so that not every short one is seen."""
    told = [Phase(word) for word in re.findall(r"^spotinfer: one: (\w+): ", session.progress, re.MULTILINE)]
    assert told == sorted(told, key=list(Phase).index), session.progress
    assert told[0] is Phase.RENT
    assert told[-1] is Phase.READY
    assert Phase.WEIGHTS in told


def told(usage: openai.types.CompletionUsage | None) -> Told:
    assert usage is not None
    details = usage.prompt_tokens_details
    return Told(usage.prompt_tokens, (details and details.cached_tokens) or 0, usage.completion_tokens)


def requests(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A chat and a text completion. Their prompts share beginnings, so that the engine's cache is used."""
    text = "Count with me. " * (number % 7 * 4) + f"From {number}."
    length = {"model": "tiny", "max_tokens": 5 + number % 20}
    return {**length, "messages": [{"role": "user", "content": text}]}, {**length, "prompt": text}


STREAM: dict[str, Any] = {"stream": True}
WITH_USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


def test_every_answers_usage_is_metered(session: Session, request: pytest.FixtureRequest) -> None:
    counted = Counted(session.server, session.owner)
    chat, text = requests(6)
    client = session.server.client
    said: list[Told | None] = []
    for api, body in ((client.chat.completions, chat), (client.completions, text)):
        said.append(told(api.create(**body).usage))
        said.append(told(list(api.create(**body, **WITH_USAGE))[-1].usage))
        assert all(chunk.choices and chunk.usage is None for chunk in api.create(**body, **STREAM))
        said.append(None)
    check(counted, said, request)


def test_the_async_clients_too(session: Session, request: pytest.FixtureRequest) -> None:
    counted = Counted(session.server, session.owner)
    chat, text = requests(5)
    said: list[Told | None] = []

    async def talk(client: openai.AsyncOpenAI) -> None:
        for api, body in ((client.chat.completions, chat), (client.completions, text)):
            said.append(told((await api.create(**body)).usage))
            said.append(told([chunk async for chunk in await api.create(**body, **WITH_USAGE)][-1].usage))
            async for chunk in await api.create(**body, **STREAM):
                assert chunk.choices
                assert chunk.usage is None
            said.append(None)

    in_a_loop(session, talk)
    check(counted, said, request)


def in_a_loop(session: Session, talk: Callable[[openai.AsyncOpenAI], Awaitable[None]]) -> None:
    """``connect`` in an event loop of its own, and let go of the server afterwards."""

    async def main() -> None:
        async with AsyncClient(session.place.settings(), progress="none") as client, await client.connect("one") as own:
            await talk(own.aclient)

    anyio.run(main)


def check(counted: Counted, said: list[Told | None], request: pytest.FixtureRequest) -> None:
    """Each row is what its answer said (None: said nothing to the caller), and all together what the engine counted."""
    rows = counted.rows
    assert [(row.status, row.estimated) for row in rows] == [("ok", False)] * len(said)
    for row, usage in zip(rows, said, strict=True):
        assert usage is None or usage == Told.sum([row])
    assert counted.metered == counted.grown
    assert counted.grown.cached > 0, "else this proves nothing about cached tokens"
    note(request, "tokens", str(counted.grown))


def test_32_concurrent_streams_agree_exactly(session: Session, request: pytest.FixtureRequest) -> None:
    counted = Counted(session.server, session.owner)
    answers: dict[str, Told] = {}

    async def stream(client: openai.AsyncOpenAI, number: int) -> None:
        with tag(f"stream-{number}"):
            options = WITH_USAGE if number % 2 else STREAM
            async for chunk in await client.chat.completions.create(**requests(number)[0], **options):
                assert chunk.choices or number % 2, "nobody sees a usage chunk that he did not ask for"
                if chunk.usage is not None:
                    answers[f"stream-{number}"] = told(chunk.usage)

    async def talk(client: openai.AsyncOpenAI) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(32):
                tasks.start_soon(stream, client, number)

    in_a_loop(session, talk)
    rows = {row.tag: row for row in counted.rows}
    assert len(rows) == len(counted.rows) == 32
    assert {(row.status, row.stream, row.estimated) for row in rows.values()} == {("ok", True, False)}
    assert {name: Told.sum([rows[name]]) for name in answers} == answers
    assert len(answers) == 16
    assert counted.metered == counted.grown
    assert counted.grown.generated == sum(requests(number)[0]["max_tokens"] for number in range(32))
    note(request, "tokens", str(counted.grown))


def test_a_stream_that_is_closed_early_stops_the_engine_and_is_marked(session: Session) -> None:
    """Only the engine knows what it generated until it noticed; ours is what arrived, and says that it is estimated."""
    body = {**requests(1)[0], "max_tokens": 1500}
    before, generated = session.server.meter.snapshot().estimated, []
    while len(generated) < 3 and min(generated, default=1500) == 1500:  # on a busy computer it may be over before us
        counted = Counted(session.server, session.owner)
        with session.server.client.chat.completions.create(**body, **STREAM) as stream:
            seen = [next(stream) for _ in range(10)]
        (row,) = counted.rows
        generated.append(counted.grown.generated)
        assert (row.status, row.estimated, row.http_status) == ("cancelled", True, 200)
        assert len(seen) - 1 <= row.completion_tokens <= generated[-1]
        assert row.prompt_tokens > 0
    assert min(generated) < 1500
    assert session.server.meter.snapshot().estimated == before + len(generated)


def test_a_caller_who_wants_usage_with_every_chunk_has_the_prompt_exactly(session: Session) -> None:
    counted = Counted(session.server, session.owner)
    options = {"include_usage": True, "continuous_usage_stats": True}
    body: dict[str, Any] = {**requests(2)[0], "max_tokens": 1500, "stream": True, "stream_options": options}
    with session.server.client.chat.completions.create(**body) as stream:
        for _ in range(10):
            last = next(stream)
    (row,) = counted.rows
    assert (row.status, row.estimated) == ("cancelled", True)
    assert last.usage is not None
    assert row.prompt_tokens == last.usage.prompt_tokens == counted.grown.prompt
    assert last.usage.completion_tokens <= row.completion_tokens <= counted.grown.generated <= 1500


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_refuses_costs_no_token(session: Session, stream: bool) -> None:
    counted = Counted(session.server, session.owner)
    create: Any = session.server.client.chat.completions.create
    with pytest.raises(openai.BadRequestError):
        create(**{**HELLO, "temperature": -1}, stream=stream)
    with pytest.raises(openai.BadRequestError):
        create(**{**HELLO, "messages": [{"role": "user", "content": "too long " * 3000}]}, stream=stream)
    with pytest.raises(openai.NotFoundError):
        create(**{**HELLO, "model": "another"}, stream=stream)
    assert [(row.status, row.http_status) for row in counted.rows] == [("error", 400), ("error", 400), ("error", 404)]
    assert counted.metered == counted.grown == Told(0, 0, 0)


def test_the_local_proxy_serves_and_meters(session: Session) -> None:
    counted = Counted(session.server, session.owner)
    address = session.server.local_url()
    key = address.key.reveal()
    plain = json.loads(post(f"{address}/chat/completions", key, HELLO))
    lines = post(f"{address}/chat/completions", key, {**HELLO, **WITH_USAGE}).decode().split("\n\n")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        post(f"{address}/chat/completions", "sk-wrong", HELLO)
    assert lines[-2:] == ["data: [DONE]", ""]
    usages = [plain["usage"], json.loads(lines[-3].removeprefix("data: "))["usage"]]
    assert [(row.prompt_tokens, row.completion_tokens) for row in counted.rows] == [
        (usage["prompt_tokens"], usage["completion_tokens"]) for usage in usages
    ]
    assert counted.metered == counted.grown


def post(url: str, key: str, body: dict[str, Any]) -> bytes:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        content: bytes = answer.read()
    return content


# --- strangers -----------------------------------------------------------------------------------------------------

MORE = ("/invocations", "/metrics", "/health", "/docs", "/redoc", "/openapi.json", "/tokenize", "/")
"""Asked for besides what the description lists, which leaves some out."""
CHAT = json.dumps(HELLO).encode()


@pytest.fixture(scope="module")
def doors(session: Session) -> list[tuple[str, str]]:
    """Every method of every path that vLLM describes, and GET and POST of them all."""
    described = session.owner.get("/openapi.json").json()["paths"]
    found = {(method.upper(), path) for path, methods in described.items() for method in methods}
    found |= {(method, path) for path in (*described, *MORE) for method in ("GET", "POST")}
    assert len(described) > 15
    return sorted((method, re.sub(r"\{\w+\}", "x", path)) for method, path in found)


def test_a_stranger_gets_no_answer_on_any_path(
    session: Session, doors: list[tuple[str, str]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """All with the right key, asking for a chat; the owner gets an answer at every one of these doors."""
    owner = session.owner
    before = owner.counters()
    heard = {
        (kind, method, path): ask(
            owner.address, http_request(method, path, owner.headers, CHAT), context, owner.secrets.dns_name
        )
        for kind, context in strangers(owner.secrets, tmp_path).items()
        for method, path in doors
    }
    answered = [door for door, reply in heard.items() if reply.answered]
    tried = f"{len({path for _, path in doors})} paths, {len(doors)} methods of them, {len(KINDS)} kinds of strangers"
    assert not answered, f"{len(answered)} answers ({tried}): {answered[:3]}"
    refusals = Counter(f"{kind}: {reply.refusal or 'closed'}" for (kind, _, _), reply in heard.items())
    assert not [text for text in refusals if "CERTIFICATE_VERIFY_FAILED" in text], "it was we who refused the server"
    assert owner.counters() == before, tried
    for method, path in doors:
        broken = http_request(method, path, owner.headers, b"{")
        assert ask(owner.address, broken, owner.context, owner.secrets.dns_name).status is not None, (method, path)
    note(request, "strangers", f"{tried}: {len(heard)} requests, 0 answers; {dict(refusals)}")


def test_the_certificate_alone_is_not_enough(
    session: Session, doors: list[tuple[str, str]], request: pytest.FixtureRequest
) -> None:
    owner = session.owner
    guarded = [(method, path) for method, path in doors if path.startswith("/v1/")]
    for headers in ({}, {"Authorization": "Bearer sk-wrong"}):
        for method, path in guarded:
            heard = ask(owner.address, http_request(method, path, headers, CHAT), owner.context, owner.secrets.dns_name)
            assert heard.status == 401, (method, path, heard)
    assert len(guarded) > 10
    note(request, "without the key", f"{len(guarded)} methods of /v1 paths, no or a wrong key: all 401")


# --- the command line, and a clean end --------------------------------------------------------------------------------


def test_the_command_line_sees_it(session: Session) -> None:
    spotinfer, server = session.place.spotinfer, session.server
    (shown,) = spotinfer("ls", "--json").json
    assert (shown["name"], shown["key"], shown["state"]) == ("one", server.key, "ready")
    assert (shown["engine"], shown["model"], shown["endpoint"]) == ("vllm", "tiny", str(server.endpoint))
    lines = spotinfer("logs", "one", "--tail", "500").out
    assert "Application startup complete" in lines
    assert session.owner.secrets.api_key.reveal() not in lines
    cost, ours = spotinfer("cost", "one", "--json").json, server.meter.snapshot()
    for name in ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "estimated"):
        assert cost[name] == getattr(ours, name) > 0
    assert (cost["owned"], cost["accrued"]) == (True, None)


def test_terminate_leaves_nothing(session: Session, request: pytest.FixtureRequest) -> None:
    family = Family(session.server.key)
    assert any("EngineCore" in name for name in family.names)
    session.server.client.chat.completions.create(**HELLO)
    began = time.monotonic()
    session.server.terminate()
    note(request, "seconds to terminate", round(time.monotonic() - began, 1))
    assert (session.server.state, session.server.cause) == (State.TERMINATED, Cause.USER)
    assert family.living() == running_from(session.place.folder) == []
    assert session.place.spotinfer("ls", "--json").json == []
    assert not list(session.place.home.glob("keys/*")), "its keys are of no use any more"
