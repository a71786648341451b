"""Starting and ending real processes on this computer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import anyio
import psutil
import pytest

from spotinfer.core.clock import WallClock
from spotinfer.core.errors import ConfigError, NotSupported, ProviderError, UnknownName
from spotinfer.core.secret import Secret
from spotinfer.core.states import Cause, State
from spotinfer.providers.local.adapter import LocalProvider
from spotinfer.providers.local.environment import base_environment
from spotinfer.providers.local.folder import KEPT_LOGS, Card, Folder
from support import agents
from support.certs import Pki, make_pki
from support.local_machines import AGENT, KEY, OFFER, in_state, living, running, spec


@pytest.mark.parametrize(
    "traits", [(), ("family",), ("nameless",), ("hidden",), ("stubborn", "family", "nameless", "hidden")]
)
def test_terminate_leaves_no_process(tmp_path: Path, traits: tuple[str, ...]) -> None:
    children = {"family", "nameless", "hidden"} & set(traits)

    async def law() -> None:
        provider = LocalProvider(tmp_path, grace=0.3 if traits else 5.0)
        await provider.create(spec(KEY, *traits))
        await running(provider, KEY)
        folder = Folder(tmp_path, KEY)
        with anyio.fail_after(10):
            while {path.stem for path in folder.agent.glob("*.pid")} != children:
                await anyio.sleep(0.02)
        pids = {int(path.read_text()) for path in folder.agent.glob("*.pid")} | set(living(tmp_path))
        assert len(pids) >= 2 + len(children)
        assert folder.path.stat().st_mode & 0o777 == 0o700
        await provider.terminate(KEY)
        assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
        assert not folder.path.exists()

    anyio.run(law)


def test_the_same_key_again_starts_nothing(tmp_path: Path) -> None:
    async def law() -> None:
        provider = LocalProvider(tmp_path)
        await provider.create(spec(KEY))
        first = Folder(tmp_path, KEY).card()
        again = await provider.create(spec(KEY))
        assert (again.id, Folder(tmp_path, KEY).card()) == (KEY, first)
        await provider.terminate(KEY)

    anyio.run(law)


def test_logs_stay_readable_after_the_end(tmp_path: Path) -> None:
    async def law() -> None:
        provider = LocalProvider(tmp_path)
        await provider.create(spec(KEY))
        await running(provider, KEY)
        with anyio.fail_after(5):
            while len(await provider.logs(KEY, 10)) < 2:
                await anyio.sleep(0.02)
        await provider.terminate(KEY)
        assert await provider.logs(KEY, 10) == ["agent is up", "engine is up"]
        assert await provider.logs(KEY, 1) == ["engine is up"]

    anyio.run(law)


def test_only_the_newest_logs_are_kept(tmp_path: Path) -> None:
    for number in range(KEPT_LOGS + 3):
        folder = Folder(tmp_path, f"si-{number}")
        folder.path.mkdir(parents=True)
        (folder.path / "agent.log").write_text("a line\n")
        folder.remove()
        os.utime(folder.kept_log, (number, number))
    assert len(list((tmp_path / "logs").iterdir())) == KEPT_LOGS
    assert not Folder(tmp_path, "si-0").kept_log.exists()


def test_a_long_log_is_read_from_its_end(tmp_path: Path) -> None:
    folder = Folder(tmp_path, KEY)
    folder.agent.mkdir(parents=True)
    (folder.path / "agent.log").write_text("".join(f"agent {number}\n" for number in range(20)))
    (folder.agent / "engine.log").write_text("".join(f"engine {number:06d}\n" for number in range(200_000)))
    lines = folder.logs(8)
    assert lines == ["agent 18", "agent 19", *(f"engine {number:06d}" for number in range(199_994, 200_000))]


def test_a_machine_that_ends_by_itself_says_why_and_is_no_zombie(tmp_path: Path) -> None:
    async def law() -> None:
        provider = LocalProvider(tmp_path)
        await provider.create(spec(KEY, "brief"))
        ended = await in_state(provider, KEY, "ended")
        assert (ended.state, ended.cause) == (State.TERMINATED, Cause.IDLE)
        assert [instance.id for instance in await provider.list_owned("me")] == [KEY]
        await provider.terminate(KEY)
        assert await provider.list_owned("me") == []

    anyio.run(law)
    deadline = time.monotonic() + 5
    while [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, "a zombie is left"
        time.sleep(0.02)


OWNER = """
import anyio, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.local_machines import running, spec
from spotinfer.providers.local.adapter import LocalProvider

async def main():
    provider = LocalProvider(Path({home!r}))
    await provider.create(spec({key!r}))
    await running(provider, {key!r})

anyio.run(main)
"""


def test_a_machine_outlives_its_owner_and_another_process_ends_it(tmp_path: Path) -> None:
    program = OWNER.format(tests=str(Path(__file__).parents[1]), home=str(tmp_path), key=KEY)
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    provider = LocalProvider(tmp_path)
    found = anyio.run(provider.list_owned, "me")
    assert [(instance.id, instance.state) for instance in found] == [(KEY, State.BOOTING)]
    anyio.run(provider.terminate, KEY)
    assert not living(tmp_path)


def test_an_owner_that_died_between_card_and_process(tmp_path: Path) -> None:
    """The card is there and has no process number: nothing was started, or it was and carries the key."""
    folder = Folder(tmp_path, KEY)
    folder.path.mkdir(parents=True)
    folder.write_card(Card(key=KEY, owner="me", name="test", created_at=WallClock().now(), per_hour=None))
    env = {**os.environ, "SPOTINFER_KEY": KEY, "SPOTINFER_DIR": str(folder.path)}

    async def law() -> None:
        provider = LocalProvider(tmp_path)
        assert (await provider.get(KEY)).state is State.TERMINATED  # type: ignore[union-attr]
        with subprocess.Popen(
            [sys.executable, str(AGENT)], env=env, start_new_session=True, stdout=subprocess.DEVNULL
        ) as process:
            seen = await provider.get(KEY)
            assert seen is not None
            assert seen.state is State.PROVISIONING
            assert [instance.key for instance in await provider.list_owned("me")] == [KEY]
            assert (await provider.create(spec(KEY))).id == KEY
            assert set(living(tmp_path)) >= {process.pid}
            await provider.terminate(KEY)
            assert process.wait(5) == -signal.SIGKILL
        assert not living(tmp_path)

    anyio.run(law)


def test_create_goes_on_where_a_dead_owner_had_begun(tmp_path: Path) -> None:
    folder = Folder(tmp_path, KEY)
    folder.path.mkdir(parents=True)
    folder.write_card(Card(key=KEY, owner="me", name="test", created_at=WallClock().now(), per_hour=None))

    async def law() -> None:
        provider = LocalProvider(tmp_path)
        await provider.create(spec(KEY))
        await running(provider, KEY)
        await provider.terminate(KEY)

    anyio.run(law)


def test_terminate_spares_a_stranger_with_a_reused_number(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"], start_new_session=True) as stranger:
        began = psutil.Process(stranger.pid).create_time()
        folder = Folder(tmp_path, KEY)
        folder.path.mkdir(parents=True)
        card = Card(key=KEY, owner="me", name="test", created_at=WallClock().now(), per_hour=None)
        folder.write_card(replace(card, pid=stranger.pid, started=began - 60))
        time.sleep(0.05)
        anyio.run(LocalProvider(tmp_path).terminate, KEY)
        try:
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_program_that_does_not_exist_leaves_nothing(tmp_path: Path) -> None:
    provider = LocalProvider(tmp_path)
    with pytest.raises(ProviderError, match="no-such-program") as caught:
        anyio.run(provider.create, spec(KEY, command=("no-such-program",)))
    assert caught.value.hint
    assert list((tmp_path / "machines").iterdir()) == []
    assert anyio.run(provider.get, KEY) is None


def test_a_key_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="cannot be the name of a folder"):
        anyio.run(LocalProvider(tmp_path).create, spec("../elsewhere"))


def test_secrets_reach_the_process_and_no_file(tmp_path: Path) -> None:
    async def law() -> None:
        provider = LocalProvider(tmp_path)
        await provider.create(spec(KEY))
        await running(provider, KEY)
        process = psutil.Process(Folder(tmp_path, KEY).ports()["pid"])
        assert process.environ()["HF_TOKEN"] == "hf-secret"
        assert "hf-secret" not in " ".join(process.cmdline())
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert len(files) >= 5
        assert not [path for path in files if b"hf-secret" in path.read_bytes()]
        await provider.terminate(KEY)

    anyio.run(law)


def test_a_machine_sees_no_key_of_its_owner() -> None:
    owner = dict.fromkeys(
        [
            "PATH",
            "HOME",
            "LC_ALL",
            "CUDA_VISIBLE_DEVICES",
            "HF_HOME",
            "HF_TOKEN",
            "RUNPOD_API_KEY",
            "AWS_SECRET_ACCESS_KEY",
            "OPENAI_API_KEY",
            "VLLM_API_KEY",
            "MY_OWN",
            "SPOTINFER_KEY",
        ],
        "x",
    )
    assert set(base_environment(owner)) == {"PATH", "HOME", "LC_ALL", "CUDA_VISIBLE_DEVICES", "HF_HOME"}


def test_what_it_cannot_do_says_so(tmp_path: Path) -> None:
    provider = LocalProvider(tmp_path)
    with pytest.raises(NotSupported, match="cannot stop") as caught:
        anyio.run(provider.stop, KEY)
    assert caught.value.hint == f"spotinfer terminate {KEY}"


def test_a_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert LocalProvider(Path("here")).home == tmp_path / "here"


def test_options_are_checked(tmp_path: Path) -> None:
    provider = LocalProvider.from_options({"home": str(tmp_path), "price_per_hour": 0.1}, clock=WallClock())
    assert (provider.home, provider.price_per_hour) == (tmp_path, Decimal("0.1"))
    with pytest.raises(UnknownName, match="did you mean 'price_per_hour'"):
        LocalProvider.from_options({"price_per_hours": 1}, clock=WallClock())
    for wrong in ({"home": 3}, {"price_per_hour": -1}, {"price_per_hour": object()}):
        with pytest.raises(ConfigError):
            LocalProvider.from_options(wrong, clock=WallClock())


def test_the_real_agent_keeps_its_promises(tmp_path: Path, pki: Pki) -> None:
    """The program that really runs there, over a stand-in engine."""
    import base64
    import json
    import zlib

    from spotinfer.control.boot import BOOT

    config = agents.agent_config(tmp_path, pki)
    config["dir"], config["key"] = "$SPOTINFER_DIR/agent", KEY
    packed = base64.b64encode(zlib.compress(json.dumps(config).encode())).decode()
    wanted = replace(
        spec(KEY, command=(sys.executable, "-I", "-c", BOOT)),
        offer=OFFER,
        env={"SPOTINFER_AGENT": agents.packed_agent(), "SPOTINFER_CONFIG": Secret(packed)},
    )

    async def law() -> None:
        provider = LocalProvider(tmp_path)
        await provider.create(wanted)
        seen = await running(provider, KEY)
        assert seen.endpoints["agent"].port != seen.endpoints["engine"].port
        await provider.terminate(KEY)
        assert not living(tmp_path)
        assert any("ending: terminated" in line for line in await provider.logs(KEY, 50))

    anyio.run(law)


@pytest.fixture(scope="module")
def pki() -> Pki:
    return make_pki()
