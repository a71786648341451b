"""The main job with its ledger on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from spotinfer import Client
from spotinfer.core.errors import NameTaken, UnknownName
from spotinfer.core.states import State
from support import postgres
from support.agents import eventually
from support.homes import apart, chat, nothing_left
from support.launcher import Launcher, launchers

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    with postgres.running() as server:
        yield server


@pytest.fixture
def url(server: postgres.Server, tmp_path: Path) -> Iterator[str]:
    url = server.create()
    with apart(tmp_path, SPOTINFER_LEDGER=url):
        yield url


def test_launch_use_connect_and_end(url: str, tmp_path: Path) -> None:
    with Client(progress="none") as client:
        with client.launch("tiny", name="one", budget="0.50") as server, server.meter.tag("mine"):
            assert chat(server) == 4
            with Launcher() as other:
                assert other.ask("connect", name="one") == {"key": server.key, "owner": False}
                assert other.ask("chat") == 4
                eventually(lambda: other.ask("requests") == 2, 5)
                other.ask("close")
            stream = server.client.chat.completions.create(
                model=server.model, messages=[{"role": "user", "content": "Hi"}], max_tokens=5, stream=True
            )
            assert sum(1 for chunk in stream if chunk.choices) >= 1
            snapshot = server.meter.snapshot()
            assert (snapshot.requests, snapshot.completion_tokens) == (3, 13)
            assert [info.record.name for info in client.servers()] == ["one"]
            with pytest.raises(NameTaken):
                client.launch("tiny", name="one")
        assert client.servers() == []
        assert [info.record.state for info in client.servers(ended=True)] == [State.TERMINATED]
        assert client.meter("one").snapshot().requests == 3
        with pytest.raises(UnknownName):
            client.connect("one")
    assert not (tmp_path / "home" / "ledger.db").exists()
    nothing_left(tmp_path / "home", url)


def test_of_two_processes_that_launch_one_name_one_wins(url: str, tmp_path: Path) -> None:
    with launchers(2) as pair:
        for number, mode in enumerate(["attach", "error"]):
            for one in pair:
                one.tell("launch", name=f"round-{number}", if_exists=mode)
            answers = [one.hear() for one in pair]
            [winner] = [index for index, answer in enumerate(answers) if answer.get("owner")]
            other = answers[1 - winner]
            assert other.get("error") == ("name_taken" if mode == "error" else None)
            if mode == "attach":
                assert other["key"] == answers[winner]["key"]
                assert [one.ask("chat") for one in pair] == [4, 4]
                pair[1 - winner].ask("close")
            pair[winner].ask("close")
            nothing_left(tmp_path / "home", url)


def test_a_database_that_restarts_is_found_again(server: postgres.Server, url: str, tmp_path: Path) -> None:
    with Client(progress="none") as client, client.launch("tiny") as running:
        chat(running)
        server.disconnect_everybody()
        chat(running)
        assert running.meter.snapshot().requests == 2
    nothing_left(tmp_path / "home", url)
