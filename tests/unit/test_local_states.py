"""What the provider ``local`` says of a machine, from its folder and its processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path

import anyio
import psutil
import pytest

from spotinfer.core.errors import ProviderUnavailable
from spotinfer.core.states import Cause, State
from spotinfer.providers.local import states
from spotinfer.providers.local.adapter import LocalProvider
from spotinfer.providers.local.folder import Card, Folder
from support.local_machines import KEY, in_state, living, running, spec

NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)
CARD = Card(key=KEY, owner="me", name="test", created_at=NOW, per_hour=Decimal("0.25"))


def made(home: Path, card: Card | None = CARD, **facts: object) -> Folder:
    """A machine's folder as it may be found, without any process."""
    folder = Folder(home, KEY)
    folder.agent.mkdir(parents=True)
    if card is not None:
        folder.write_card(card)
    for name, value in facts.items():
        (folder.agent / f"{name}.json").write_text(json.dumps(value))
    return folder


def test_every_word_maps_and_a_strange_one_is_lost() -> None:
    assert {word: states.state_of(word) for word in states.STATES} == dict(states.STATES)
    assert states.state_of("contemplating") is State.LOST


def test_card_survives_its_file(tmp_path: Path) -> None:
    card = replace(CARD, pid=12, started=1.5)
    folder = made(tmp_path, card)
    assert folder.card() == card
    assert (folder.path / "machine.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("word", [cause.value for cause in Cause])
def test_the_agents_cause_is_told(tmp_path: Path, word: str) -> None:
    folder = made(tmp_path, ended={"cause": word, "at": 1767312000.0, "exit_code": 3, "detail": "out of patience"})
    instance = states.describe(folder, NOW)
    assert instance is not None
    assert (instance.state, instance.cause) == (State.TERMINATED, Cause(word))
    assert instance.detail == f"{word} at 2026-01-02 00:00:00 UTC out of patience"
    assert (instance.owner, instance.name, instance.per_hour) == ("me", "test", Decimal("0.25"))


def test_a_cause_that_is_not_ours_is_kept_as_text(tmp_path: Path) -> None:
    instance = states.describe(made(tmp_path, ended={"cause": "terminated", "at": None}), NOW)
    assert instance is not None
    assert (instance.cause, instance.detail) == (None, "terminated")


def test_an_agent_that_said_nothing_ended_all_the_same(tmp_path: Path) -> None:
    instance = states.describe(made(tmp_path, replace(CARD, pid=2**22 + 1, started=5.0)), NOW)
    assert instance is not None
    assert (instance.state, instance.cause) == (State.TERMINATED, None)
    assert "without saying why" in instance.detail


def test_a_reused_process_number_is_a_stranger(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"], start_new_session=True) as stranger:
        try:
            began = psutil.Process(stranger.pid).create_time()
            folder = made(tmp_path, replace(CARD, pid=stranger.pid, started=began - 100, created_at=NOW), ports={})
            seen = states.describe(folder, NOW)
            assert seen is not None
            assert seen.state is State.TERMINATED
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_an_unreadable_record_is_not_gone(tmp_path: Path) -> None:
    folder = made(tmp_path)
    (folder.path / "machine.json").write_text('{"version": 1, "key"')
    provider = LocalProvider(tmp_path)
    with pytest.raises(ProviderUnavailable, match="damaged") as caught:
        anyio.run(provider.get, KEY)
    assert f"spotinfer terminate {KEY}" in str(caught.value.hint)
    with pytest.raises(ProviderUnavailable):
        anyio.run(provider.list_owned, "me")
    anyio.run(provider.terminate, KEY)
    assert anyio.run(provider.get, KEY) is None


def test_a_place_that_cannot_be_looked_at_is_not_gone(tmp_path: Path) -> None:
    (tmp_path / "machines").write_text("a file where a folder belongs")
    provider = LocalProvider(tmp_path)
    for call in (provider.get, provider.list_owned, provider.terminate):
        with pytest.raises(ProviderUnavailable):
            anyio.run(call, KEY)


def test_a_folder_without_a_card_was_never_a_machine(tmp_path: Path) -> None:
    made(tmp_path, card=None)
    assert anyio.run(LocalProvider(tmp_path).list_owned, "me") == []


def test_a_killed_agent_leaves_an_orphan_until_its_engine_is_gone(tmp_path: Path) -> None:
    async def law() -> None:
        provider = LocalProvider(tmp_path)
        await provider.create(spec(KEY))
        await running(provider, KEY)
        ports = Folder(tmp_path, KEY).ports()
        os.kill(ports["pid"], signal.SIGKILL)
        orphan = await in_state(provider, KEY, "orphaned")
        assert orphan.state is State.LOST
        os.kill(ports["engine_pid"], signal.SIGKILL)
        assert (await in_state(provider, KEY, "ended")).cause is None
        await provider.terminate(KEY)

    anyio.run(law)


def test_a_deleted_folder_does_not_hide_what_runs(tmp_path: Path) -> None:
    async def law() -> None:
        provider = LocalProvider(tmp_path)
        await provider.create(spec(KEY))
        await running(provider, KEY)
        Folder(tmp_path, KEY).path.rename(tmp_path / "elsewhere")
        seen = await provider.get(KEY)
        assert seen is not None
        assert seen.state is State.LOST
        await provider.terminate(KEY)
        assert await provider.get(KEY) is None
        assert not living(tmp_path)

    anyio.run(law)
