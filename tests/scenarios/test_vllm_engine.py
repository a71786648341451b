"""vLLM for real, by the engine's own command: under the agent, and in the ways in which it usually fails to start.

`SPOTINFER_VLLM_PYTHON` names the Python that has it. Starts are dear (half a minute each): one server is shared, and
all failures are started at once.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import anyio
import httpx2
import psutil
import pytest

from spotinfer.core.errors import (
    BadEngineOption,
    ModelNotFound,
    PortTaken,
    ServerError,
    StartFailed,
    UnsupportedModel,
)
from spotinfer.core.model import EngineSettings, Model, Phase
from spotinfer.core.states import Cause
from spotinfer.serving.access import issue
from spotinfer.serving.llamacpp import LlamaCppEngine
from spotinfer.serving.metrics import Tokens, tokens
from spotinfer.serving.models import resolve_model
from spotinfer.serving.tiny import tiny_model
from spotinfer.serving.vllm import VllmEngine
from spotinfer.serving.vllm_install import VARIABLE, find_vllm
from support.agents import eventually
from support.machines import HERE, Machine, reveal, store

FOUND = find_vllm()
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(isinstance(FOUND, str), reason=f"{FOUND}: set {VARIABLE}"),
]
ENGINE = VllmEngine()
PROMPTS = ("Hello", "What is the answer to 17?", "Zürich 漢字", "one two three " * 20)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def machine(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    model = resolve_model("tiny", engine_format=ENGINE.format, cache=cache)
    with Machine(ENGINE, model, tmp_path_factory.mktemp("vllm")) as machine:
        machine.wait_ready(240)
        yield machine


def counters(client: httpx2.Client, machine: Machine) -> Tokens:
    text = machine.ask(client, ENGINE.metrics_path).text
    found: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, number = line.split("{")[0].split()[0], line.rsplit(" ", 1)[1]
            found[name] = found.get(name, 0.0) + float(number)
    assert {*ENGINE.metrics.busy, *ENGINE.metrics.progress} <= set(found)
    totals = tokens(found, ENGINE.metrics)
    assert totals is not None
    return totals


def test_its_counters_grow_by_the_usage_that_it_reports(machine: Machine) -> None:
    with machine.client() as client:
        before = counters(client, machine)
        usages = [machine.chat(client, "count " * 300, max_tokens=9)["usage"] for _ in range(2)]
        stream = machine.ask(
            client,
            "/v1/chat/completions",
            {
                "model": "tiny",
                "messages": [{"role": "user", "content": "Hello"}],
                "max_tokens": 11,
                "stream": True,
                "stream_options": {"include_usage": True},
            },
        )
        events = [line.removeprefix("data: ") for line in stream.text.splitlines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        usages.append(json.loads(events[-2])["usage"])
        after = counters(client, machine)
    assert after.prompt - before.prompt == sum(usage["prompt_tokens"] for usage in usages)
    assert after.generated - before.generated == 9 + 9 + 11
    cached = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
    assert after.cached - before.cached == cached > 0


def test_llamacpp_says_the_same(machine: Machine, cache: Path, tmp_path: Path) -> None:
    other = LlamaCppEngine()
    model = resolve_model("tiny", engine_format=other.format, cache=cache)
    if reason := other.unavailable(model, HERE):
        pytest.skip(reason)
    with Machine(other, model, tmp_path) as second:
        second.wait_ready(30)
        for prompt in PROMPTS:
            answers = [answer(machine, prompt), answer(second, prompt)]
            assert answers[0] == answers[1]
            assert answers[0]["text"].isprintable()
            assert answers[0]["text"].isascii()


def answer(machine: Machine, prompt: str) -> dict[str, Any]:
    with machine.client() as client:
        said = machine.chat(client, prompt, max_tokens=150, temperature=0)
    usage = said["usage"]
    return {
        "text": said["choices"][0]["message"]["content"],
        "reason": said["choices"][0]["finish_reason"],
        "tokens": (usage["prompt_tokens"], usage["completion_tokens"]),
    }


def test_a_stranger_gets_no_answer_on_any_path(machine: Machine, tmp_path: Path) -> None:
    """With the right key, but no certificate or that of another launch."""
    with machine.client() as client:
        paths = set(machine.ask(client, "/openapi.json").json()["paths"]) | {"/metrics", "/invocations", "/health"}
    assert len(paths) > 15
    other = issue("si-other", None, datetime.now(timezone.utc))
    wrong = store(other, tmp_path / "other")
    wrong_but_trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    wrong_but_trusting.load_verify_locations(cadata=machine.secrets.ca)
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(cadata=machine.secrets.ca)
    wrong_but_trusting.load_cert_chain(tmp_path / "other" / "client.pem")
    for context in (bare, wrong, wrong_but_trusting):
        for path in sorted(paths):
            for body in (None, {}):
                with machine.client(context) as client, pytest.raises(httpx2.TransportError):
                    machine.ask(client, path, body)


def test_the_key_is_demanded_too_and_shown_nowhere(machine: Machine) -> None:
    with machine.client() as client:
        client.headers["Authorization"] = "Bearer wrong"
        assert machine.ask(client, "/v1/models").status_code == 401
    engine = psutil.Process(machine.ports["engine_pid"])
    shown = " ".join(engine.cmdline()) + (machine.folder / "agent" / "engine.log").read_text()
    assert machine.secrets.api_key.reveal() not in shown


def test_the_log_told_every_phase_and_the_end_leaves_nothing(machine: Machine) -> None:
    """The last test: it ends the shared server."""
    pid = machine.ports["engine_pid"]
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    assert len(family) > 1

    async def run() -> list[str]:
        link = machine.link()
        try:
            lines = list(await link.log(2000))
            await link.end(Cause.USER)
            return lines
        finally:
            await link.aclose()

    phases = [found[0] for line in anyio.run(run) if (found := ENGINE.phase(line))]
    assert set(phases) >= {Phase.WEIGHTS, Phase.PROFILING, Phase.PROBE}
    assert phases[-1] is Phase.PROBE
    eventually(lambda: not any(process.is_running() for process in family), 30)


# --- failures ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ServerError]:
    """Failures that show early, started at once (the later ones are lines in the unit tests), and what we say."""
    folder = tmp_path_factory.mktemp("failures")
    good = tiny_model(folder / "good")
    strange = tiny_model(folder / "strange")
    config = json.loads((strange / "config.json").read_text())
    (strange / "config.json").write_text(json.dumps({**config, "architectures": ["StrangeForCausalLM"]}))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        running = {
            "missing": start(folder / "missing", folder),
            "strange": start(strange, folder),
            "flag": start(good, folder, "--no-such-flag", "3"),
            "port": start(good, folder, port=taken.getsockname()[1]),
        }
        try:
            codes = {name: process.wait(240) for name, (process, _) in running.items()}
        finally:
            for process, _ in running.values():
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(10)
    return {name: ENGINE.diagnose(log.read_text().splitlines(), codes[name]) for name, (_, log) in running.items()}


def start(model: Path, folder: Path, *extra: str, port: int = 0) -> tuple[subprocess.Popen[bytes], Path]:
    secrets = issue("si-failing", None, datetime.now(timezone.utc))
    assert secrets.server is not None
    (folder / "tls").mkdir(exist_ok=True)
    (folder / "tls" / "ca.pem").write_text(secrets.ca)
    (folder / "tls" / "server.pem").write_text(secrets.server.reveal())
    served = Model(source=str(model), served_name="m", path=str(model), format="safetensors")
    command = ENGINE.command(served, EngineSettings(extra=extra), HERE, "sk-test")
    values = {"{host}": "127.0.0.1", "{port}": str(port or free_port()), "{dir}": str(folder)}
    argv = list(command.argv)
    for placeholder, value in values.items():
        argv = [word.replace(placeholder, value) for word in argv]
    log = folder / f"{model.name}-{len(list(folder.glob('*.log')))}.log"
    with log.open("wb") as output:
        env = {**os.environ, **reveal(command.env)}
        process = subprocess.Popen(argv, env=env, stdout=output, stderr=output, start_new_session=True)
    return process, log


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("missing", ModelNotFound, "finds no model"),
        ("strange", UnsupportedModel, "StrangeForCausalLM"),
        ("flag", BadEngineOption, "--no-such-flag"),
        ("port", PortTaken, "taken"),
    ],
)
def test_a_failed_start_is_diagnosed(
    failures: dict[str, ServerError], name: str, error: type[StartFailed], says: str
) -> None:
    found = failures[name]
    assert type(found) is error, found
    assert says in found.message
    assert found.hint
    assert found.log
