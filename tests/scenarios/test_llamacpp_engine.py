"""llama.cpp for real: by the engine's own command, with and without the agent."""

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

import anyio
import httpx2
import psutil
import pytest

from spotinfer.core.errors import BadEngineOption, ModelNotFound, OutOfMemory, PortTaken, StartFailed, UnsupportedModel
from spotinfer.core.model import EngineSettings, Model, Phase
from spotinfer.core.states import Cause
from spotinfer.serving.access import issue
from spotinfer.serving.llamacpp import LlamaCppEngine
from spotinfer.serving.metrics import tokens
from spotinfer.serving.models import resolve_model
from spotinfer.serving.tiny import tiny_model
from support.agents import eventually
from support.machines import HERE, Machine, reveal, store

pytestmark = pytest.mark.engine
ENGINE = LlamaCppEngine()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return resolve_model("tiny", engine_format=ENGINE.format, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def machine(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with Machine(ENGINE, model, tmp_path_factory.mktemp("machine")) as machine:
        machine.wait_ready()
        yield machine


def test_a_chat_has_text_and_usage(machine: Machine) -> None:
    with machine.client() as client:
        answer = machine.chat(client, "Hello", max_tokens=300)
    text = answer["choices"][0]["message"]["content"]
    assert text.isascii()
    assert text.isprintable()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 300
    assert answer["usage"]["prompt_tokens"] > 10
    assert answer["model"] == "tiny"


def test_a_prompt_makes_a_difference_and_the_same_one_does_not(machine: Machine) -> None:
    with machine.client() as client:
        texts = [
            machine.chat(client, prompt, max_tokens=40, temperature=0)["choices"][0]["message"]["content"]
            for prompt in ("Hello", "Hello", "Zürich 漢字")
        ]
    assert texts[0] == texts[1] != texts[2]


def test_a_stream_carries_usage(machine: Machine) -> None:
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Count"}],
        "max_tokens": 12,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    with machine.client() as client:
        text = machine.ask(client, "/v1/chat/completions", body).text
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["usage"]["completion_tokens"] == 12


def test_the_context_of_every_slot_is_the_models(machine: Machine) -> None:
    with machine.client() as client:
        props = machine.ask(client, "/props").json()
        long = machine.ask(client, "/v1/completions", {"model": "tiny", "prompt": "x" * 2100, "max_tokens": 1})
    assert props["default_generation_settings"]["n_ctx"] == 2048
    assert props["total_slots"] == 16
    assert long.status_code == 400


def test_strangers_are_refused(machine: Machine, tmp_path: Path) -> None:
    other = store(issue("si-other", None, datetime.now(timezone.utc)), tmp_path)
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(cadata=machine.secrets.ca)
    for context in (other, bare):
        for path in ("/health", "/metrics", "/v1/models"):
            with machine.client(context) as client, pytest.raises(httpx2.TransportError):
                machine.ask(client, path)
    with machine.client() as client:
        client.headers["Authorization"] = "Bearer wrong"
        assert machine.ask(client, "/v1/completions", {"prompt": "x"}).status_code == 401
        assert machine.ask(client, "/metrics").status_code == 401


def test_the_key_is_on_no_command_line(machine: Machine) -> None:
    engine = psutil.Process(machine.ports["engine_pid"])
    assert machine.secrets.api_key.reveal() not in " ".join(engine.cmdline())


def test_counters_and_usage_agree(model: Model, tmp_path: Path) -> None:
    with Machine(ENGINE, model, tmp_path, EngineSettings(slots=2, context=512)) as machine:
        machine.wait_ready()
        with machine.client() as client:
            before = read_counters(client, machine)
            usages = [machine.chat(client, "Hello " * 20, max_tokens=7)["usage"] for _ in range(3)]
            after = read_counters(client, machine)
    grown = [end - start for start, end in zip(before, after, strict=True)]
    cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages]
    assert grown[0] == sum(usage["prompt_tokens"] for usage in usages)
    assert grown[1] == sum(cached) > 0
    assert grown[2] == 21


def read_counters(client: httpx2.Client, machine: Machine) -> tuple[int, int, int]:
    text = machine.ask(client, ENGINE.metrics_path).text
    pairs = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    counters = {name: float(value) for name, value in pairs}
    assert {*ENGINE.metrics.busy, *ENGINE.metrics.progress} <= set(counters)
    found = tokens(counters, ENGINE.metrics)
    assert found is not None
    return found


def test_the_link_sees_the_life_of_the_engine(model: Model, tmp_path: Path) -> None:
    with Machine(ENGINE, model, tmp_path, EngineSettings(slots=1)) as machine:
        machine.wait_ready()
        pid = machine.ports["engine_pid"]

        async def run() -> list[str]:
            link = machine.link()
            try:
                with anyio.fail_after(15):  # the agent says "running" once it has read the engine's counters itself
                    while (status := await link.status()).phase == "starting":
                        await anyio.sleep(0.1)
                assert (status.phase, status.engine_exit_code) == ("running", None)
                lines = list(await link.log(100))
                await link.end(Cause.USER)
                return lines
            finally:
                await link.aclose()

        lines = anyio.run(run)
        eventually(lambda: not psutil.pid_exists(pid), 15)
    phases = [found[0] for line in lines if (found := ENGINE.phase(line))]
    assert phases[0] is Phase.WEIGHTS
    assert phases[-1] is Phase.PROBE


def run_once(
    model: Model, settings: EngineSettings | None = None, port: int = 0, prefix: tuple[str, ...] = ()
) -> StartFailed:
    """Start the bare command with nothing but a path in its environment, and diagnose how it ended."""
    command = ENGINE.command(model, settings or EngineSettings(), HERE, "sk-test")
    argv = [word.replace("{host}", "127.0.0.1").replace("{port}", str(port)) for word in command.argv]
    env = {"PATH": os.environ["PATH"], **reveal(command.env)}
    done = subprocess.run([*prefix, *argv], env=env, capture_output=True, text=True, timeout=30)
    error = ENGINE.diagnose((done.stdout + done.stderr).splitlines(), done.returncode)
    assert isinstance(error, StartFailed)
    assert error.hint
    assert error.log
    return error


def test_a_file_that_went_away(model: Model, tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "gone.gguf", "gguf")
    gone = resolve_model(path)
    path.unlink()
    with pytest.raises(ModelNotFound, match=r"gone\.gguf cannot be read"):
        ENGINE.command(gone, EngineSettings(), HERE, "sk-test")


def edit(model: Model, path: Path, old: bytes, new: bytes) -> Model:
    assert model.path is not None
    data = Path(model.path).read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    return resolve_model(path)


def test_a_file_that_is_cut_off(model: Model, tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "cut.gguf", "gguf")
    os.truncate(path, 300_000)
    error = run_once(resolve_model(path))
    assert type(error) is UnsupportedModel
    assert "incomplete" in error.message


def test_an_unknown_architecture(model: Model, tmp_path: Path) -> None:
    strange = edit(model, tmp_path / "strange.gguf", b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0llxma")
    error = run_once(strange)
    assert type(error) is UnsupportedModel
    assert "llxma" in error.message


def test_a_port_that_is_taken(model: Model) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = run_once(model, port=port)
    assert type(error) is PortTaken
    assert str(port) in error.message


def test_a_context_that_does_not_fit(model: Model) -> None:
    settings = EngineSettings(context=200_000_000, slots=1, extra=("--fit-params", "false"))
    error = run_once(model, settings, prefix=("prlimit", "--as=4000000000"))
    assert type(error) is OutOfMemory
    assert "shorter context" in str(error.hint)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (("--n-gpu-layer", "1"), "did you mean --n-gpu-layers"),
        (("--n-gpu-layers", "many"), "invalid value"),
        (("--warmup", "perhaps"), "invalid value"),
        (("loose",), "unknown option loose"),
    ],
)
def test_bad_options(model: Model, extra: tuple[str, ...], says: str) -> None:
    error = run_once(model, EngineSettings(extra=extra))
    assert type(error) is BadEngineOption
    assert says in error.message


def test_good_options_and_a_clean_end(model: Model) -> None:
    settings = EngineSettings(extra=("--n-gpu-layers", "0", "--warmup=false", "--cont-batching"))
    command = ENGINE.command(model, settings, HERE, "sk-test")
    argv = [word.replace("{host}", "127.0.0.1").replace("{port}", "0") for word in command.argv]
    with subprocess.Popen(
        argv, env=reveal(command.env), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout
        line = process.stdout.readline()
        assert ENGINE.phase(line) == (Phase.PROBE, "the server is up, generating one token")
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == -signal.SIGTERM


def test_it_does_not_start_without_a_key(model: Model) -> None:
    command = ENGINE.command(model, EngineSettings(), HERE, "sk-test")
    argv = [word.replace("{host}", "127.0.0.1").replace("{port}", "0") for word in command.argv]
    done = subprocess.run(argv, env={}, capture_output=True, text=True, timeout=20)
    assert "LLAMA_API_KEY is not set" in ENGINE.diagnose(done.stderr.splitlines(), done.returncode).message
