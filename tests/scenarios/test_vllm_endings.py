"""How real vLLM ends when its owner or its agent is killed, and how a start fails: nothing of it is left, ever."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from spotinfer import AsyncClient, Client
from spotinfer.core.errors import BadEngineOption, ConfigError, ServerError, SpotinferError, UnsupportedModel
from spotinfer.serving.tiny import tiny_model
from spotinfer.serving.vllm_install import VARIABLE, find_vllm
from support.agents import eventually
from support.notes import note
from support.owners import Family, running_from
from support.pauses import watched
from support.places import Place

FOUND = find_vllm()
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(isinstance(FOUND, str), reason=f"{FOUND}: set {VARIABLE}"),
]
HELLO: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("vllm"))


ATTACHED = """\
import time
import spotinfer
server = spotinfer.launch("tiny", provider="local", engine="vllm", name="orphan")
print(server.key, flush=True)
time.sleep(600)
"""


def test_an_owner_who_is_killed_leaves_what_connect_finds_and_reap_ends(place: Place) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", ATTACHED], env=place.spotinfer.environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert owner.stdout is not None
        key = owner.stdout.readline().strip()
        assert key, "the launch failed"
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.communicate()
    family = Family(key)
    with Client(place.settings(), progress="none") as client:
        server = client.connect("orphan")
        assert server.client.chat.completions.create(**HELLO).usage
    assert family.living(), "letting go of it does not end it"
    assert [item["key"] for item in place.spotinfer("ls", "--json").json] == [key]
    assert place.spotinfer("reap", "--yes", "--json").json["ended"] == [key]
    assert family.living() == running_from(place.folder) == []
    record = place.record("orphan")
    assert (record["state"], record["cause"]) == ("terminated", "reaped")


def test_a_start_by_hand_shows_life_and_its_engine_dies_with_a_killed_agent(
    place: Place, request: pytest.FixtureRequest
) -> None:
    shown, longest = watched(place.spotinfer, "launch", "tiny", "--name", "by-hand", timeout=240)
    assert "by-hand: tiny on vllm" in shown
    assert longest < 2.0, f"{longest:.1f} s without a sign of life"
    note(request, "longest pause on the terminal", round(longest, 2))
    family = Family(place.record("by-hand")["key"])
    assert any("EngineCore" in name for name in family.names)
    family.agent.kill()
    began = time.monotonic()
    eventually(lambda: not family.living(), 10)
    note(request, "seconds until the engine was gone", round(time.monotonic() - began, 1))
    assert place.spotinfer("ls", "--json").json == []
    assert place.record("by-hand")["state"] == "terminated"
    assert running_from(place.folder) == []


# --- starts that fail ----------------------------------------------------------------------------------------------


def test_a_folder_without_weights_is_refused_before_anything_starts(place: Place, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "empty")
    for file in model.glob("*.safetensors"):
        file.unlink()
    with Client(place.settings()) as client, pytest.raises(ConfigError, match="no weights") as caught:
        client.launch(str(model), name="empty")
    assert "safetensors" in (caught.value.hint or "")
    assert "empty" not in [item["name"] for item in place.spotinfer("ls", "--all", "--json").json]


def test_starts_that_fail_say_why_and_leave_nothing(place: Place, tmp_path: Path) -> None:
    """Both at once, in one loop."""
    damaged = tiny_model(tmp_path / "damaged")
    for file in damaged.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    faults: dict[str, SpotinferError] = {}

    async def fail(client: AsyncClient, name: str, model: str, arguments: list[str]) -> None:
        try:
            await client.launch(model, name=name, engine_args=arguments)
        except SpotinferError as error:
            faults[name] = error

    async def main() -> None:
        async with AsyncClient(place.settings(), progress="none") as client, anyio.create_task_group() as tasks:
            tasks.start_soon(fail, client, "damaged", str(damaged), [])
            tasks.start_soon(fail, client, "odd", "tiny", ["--no-such-option", "3"])

    anyio.run(main)
    for name, error, word in (("damaged", UnsupportedModel, "damaged"), ("odd", BadEngineOption, "--no-such-option")):
        fault = faults[name]
        assert type(fault) is error, fault
        assert isinstance(fault, ServerError)
        assert word in fault.message
        assert fault.hint
        assert fault.log, "the end of the engine's log"
        record = place.record(name)
        assert (record["state"], record["cause"]) == ("terminated", "engine_failed")
    assert running_from(tmp_path) == running_from(place.folder) == []
