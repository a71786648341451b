"""Servers that two processes want, share, and inherit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from spotinfer import Client, Settings
from spotinfer.core.errors import Lost, NameTaken
from spotinfer.core.states import Cause, State
from support.agents import eventually
from support.homes import apart, chat, client_at, nothing_left, processes_of
from support.launcher import Launcher, launchers

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("two")
    with apart(path):
        yield path


def test_of_two_that_launch_one_name_one_wins(folder: Path) -> None:
    home = folder / "home"
    with launchers(2) as pair, client_at(home) as client:
        for number, mode in enumerate(["attach", "error", "attach", "error"]):
            for one in pair:
                one.tell("launch", name=f"round-{number}", if_exists=mode)
            answers = [one.hear() for one in pair]
            [winner] = [index for index, answer in enumerate(answers) if answer.get("owner")]
            loser = 1 - winner
            assert len(client.servers()) == 1
            assert len(processes_of([answers[winner]["key"]])) == 2  # one agent, one engine
            if mode == "error":
                assert answers[loser]["error"] == "name_taken"
                assert "spotinfer.connect(" in answers[loser]["hint"]
            else:
                assert answers[loser] == {"key": answers[winner]["key"], "owner": False}
                assert [one.ask("chat") for one in pair] == [4, 4]
                eventually(lambda: [one.ask("requests") for one in pair] == [2, 2], 5)
                pair[loser].ask("close")
                assert pair[winner].ask("chat") == 4  # it was not the attached one's to end
            pair[winner].ask("close")
            nothing_left(home)


def test_looking_and_reaping_do_not_disturb_a_launch(folder: Path) -> None:
    """A machine that is about to be created is on no list yet; that must not count as evidence that it is gone."""
    home = folder / "home"
    with Launcher() as other, client_at(home) as client:
        for number in range(3):
            other.tell("launch", name=f"seen-{number}")
            while not other.answered():
                assert {info.record.live for info in client.servers()} <= {True}
                assert client.reap().ended == ()
            assert other.hear()["owner"] is True
            other.ask("close")
    nothing_left(home)


def test_a_launch_that_another_process_ends_says_so(folder: Path) -> None:
    home = folder / "home"
    with Launcher() as other, client_at(home) as client:
        other.tell("launch", name="unwanted")
        eventually(lambda: client.servers(), 10, pause=0.01)
        assert client.terminate("unwanted").state is State.TERMINATED
        assert other.hear() == {"error": "lost", "hint": "launch it again"}
    nothing_left(home)


def test_a_server_outlives_its_killed_owner_in_the_hands_of_another(folder: Path) -> None:
    home, lease = folder / "home", 3
    with client_at(home) as client:
        with Launcher(lease) as owner:
            owner.ask("launch", name="inherited")
            assert (owner.ask("chat"), owner.ask("chat"), owner.ask("requests")) == (4, 4, 2)
            owner.kill()
        server = client.connect("inherited")
        with client.launch("tiny", name="other"):  # which sweeps what nobody owns
            pass
        time.sleep(lease + 1)
        assert chat(server) == 4
        assert server.meter.snapshot().requests == 3
        with pytest.raises(NameTaken):
            client.launch("tiny", name="inherited")
        server.close()  # not its owner: the lease ends it
        eventually(lambda: not processes_of([server.key]), lease + 5)
        assert client.servers() == []
        [ended] = [info.record for info in client.servers(ended=True) if info.record.name == "inherited"]
        assert ended.cause is Cause.LEASE_LAPSED
    nothing_left(home)


def test_a_launch_sweeps_what_a_killed_owner_left(folder: Path) -> None:
    home = folder / "home"
    with Launcher() as owner:
        first = owner.ask("launch", name="again")
        owner.kill()
    with client_at(home) as client:
        with client.launch("tiny", name="other"):
            assert [info.record.name for info in client.servers()] == ["other"]
        with client.launch("tiny", name="again") as server:  # its name is free again
            assert server.key != first["key"]
    nothing_left(home)


def test_a_machine_of_another_computer_in_a_shared_ledger_is_left_alone(tmp_path: Path) -> None:
    """One ledger, two homes: what another computer runs locally cannot be looked at from here, and is not "gone"."""
    ledger = str(tmp_path / "shared.db")
    with (
        Client(Settings.load(home=tmp_path / "a", ledger=ledger), progress="none") as here,
        Client(Settings.load(home=tmp_path / "b", ledger=ledger), progress="none") as there,
        here.launch("tiny", name="one") as server,
    ):
        [seen] = there.servers()
        assert seen.record.live
        assert there.reap().ended == ()
        with pytest.raises(Lost, match="on the computer that launched it"):
            there.terminate("one")
        reply = server.client.completions.create(model=server.model, prompt="still there", max_tokens=2)
        assert reply.usage is not None
        assert [info.record.state for info in here.servers()] == [State.READY]
    assert server.state is State.TERMINATED
