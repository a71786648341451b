"""Bad input through the public interface: a typed error that says what to do, nothing left, the ledger intact."""

from __future__ import annotations

import json
import socket
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import spotinfer
from spotinfer import Client, Settings
from spotinfer.core.errors import (
    ConfigError,
    LedgerCorrupt,
    LedgerError,
    Lost,
    NameTaken,
    NotSupported,
    PortTaken,
    SpotinferError,
    StartFailed,
    UnknownName,
)
from support.cli import CommandLine
from support.homes import apart, chat, client_at, nothing_left

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Spaces and letters beyond ASCII, since users have them in their folders' names."""
    path = tmp_path_factory.mktemp("bad") / "mein Zuhause ü 家"
    path.mkdir()
    (path / "folder").mkdir()
    (path / "weights").mkdir()
    (path / "weights" / "config.json").write_text("{}")
    (path / "text.gguf").write_text("this is no model")
    with apart(path):
        yield path


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    with client_at(folder / "home") as client:
        yield client
    nothing_left(folder / "home")


def told(error: SpotinferError, kind: type[SpotinferError], code: str, message: str) -> None:
    assert (type(error), error.code) == (kind, code)
    assert message in error.message
    assert error.hint
    assert str(error).endswith(error.hint) or isinstance(error, StartFailed)


MODELS = [
    ("./nowhere", UnknownName, "unknown_name", "no model is called './nowhere'"),
    ("{folder}/text.ggfu", UnknownName, "unknown_name", "did you mean"),
    ("tinny", UnknownName, "unknown_name", "did you mean 'tiny'?"),
    ("", UnknownName, "unknown_name", "no model"),
    ("{folder}/folder", ConfigError, "config", "has no config.json"),
    ("{folder}/weights", ConfigError, "config", "no weights"),
    ("{folder}/text.gguf", ConfigError, "config", "is not a GGUF file"),
    (5, ConfigError, "config", "a model is a name, a path or a plan, not 5"),
    (None, ConfigError, "config", "not None"),
]


@pytest.mark.parametrize(("model", "kind", "code", "message"), MODELS)
def test_a_model_that_is_none(
    client: Client, folder: Path, model: Any, kind: type[SpotinferError], code: str, message: str
) -> None:
    wanted = model.format(folder=folder) if isinstance(model, str) else model
    with pytest.raises(SpotinferError) as caught:
        client.launch(wanted)
    told(caught.value, kind, code, message)
    nothing_left(folder / "home")


OPTIONS: list[tuple[dict[str, Any], type[SpotinferError], str]] = [
    ({"provider": "locl"}, UnknownName, "did you mean 'local'?"),
    ({"engine": "lamacpp"}, UnknownName, "did you mean 'llamacpp'?"),
    ({"idletimeout": "5m"}, UnknownName, "did you mean 'idle_timeout'?"),
    ({"if_exists": "atach"}, UnknownName, "did you mean 'attach'?"),
    ({"budget": "-1"}, ConfigError, "must not be negative"),
    ({"budget": 0}, ConfigError, "budget is 0"),
    ({"budget": float("nan")}, ConfigError, "nan"),
    ({"budget": "much"}, ConfigError, "must be an amount in dollars"),
    ({"budget": True}, ConfigError, "must be an amount in dollars"),
    ({"max_price": [1]}, ConfigError, "max_price must be an amount in dollars"),
    ({"idle_timeout": "soon"}, ConfigError, "idle_timeout must be a duration"),
    ({"idle_timeout": 0}, ConfigError, "longer than nothing"),
    ({"max_age": float("inf")}, ConfigError, "max_age must be a duration"),
    ({"timeout": "-3s"}, ConfigError, "timeout must be a duration"),
    ({"detach": True, "idle_timeout": None, "max_age": None}, ConfigError, "needs a limit"),
    ({"detach": "yes"}, ConfigError, "must be True or False"),
    ({"name": "a b"}, ConfigError, "cannot be a server's name"),
    ({"name": "../up"}, ConfigError, "cannot be a server's name"),
    ({"name": ""}, ConfigError, "name must be a text"),
    ({"provider": 3}, ConfigError, "provider must be a text"),
    ({"context": 0}, ConfigError, "context must be a whole number"),
    ({"slots": "4"}, ConfigError, "slots must be a whole number"),
    ({"port": 70000}, ConfigError, "port must be a whole number"),
    ({"engine_args": "--x"}, ConfigError, "must be a list of strings"),
    ({"engine_args": 5}, ConfigError, "must be a list of strings"),
]


@pytest.mark.parametrize(("options", "kind", "message"), OPTIONS, ids=str)
def test_an_option_that_cannot_be_meant(
    client: Client, folder: Path, options: dict[str, Any], kind: type[SpotinferError], message: str
) -> None:
    with pytest.raises(SpotinferError) as caught:
        client.launch("tiny", **options)
    told(caught.value, kind, kind.code, message)
    nothing_left(folder / "home")


def test_a_port_that_is_taken(client: Client, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SpotinferError) as caught:
            client.launch("tiny", port=port)
    told(caught.value, PortTaken, "port_taken", str(port))
    nothing_left(folder / "home")


def test_a_launch_that_takes_too_long(client: Client, folder: Path) -> None:
    with pytest.raises(SpotinferError) as caught:
        client.launch("tiny", timeout=0.05)
    assert (caught.value.code, caught.value.message.count("0.05 s")) == ("boot_timeout", 1)
    nothing_left(folder / "home")


def test_a_server_that_is_used_wrongly_runs_on_and_ends_cleanly(client: Client, folder: Path) -> None:
    """By now this home has seen every other mistake: its ledger takes a launch, in a folder with a strange name."""
    with client.launch("tiny", name="here") as server:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            for wrong, code in [
                (lambda: server.local_url(port), "port_taken"),
                (lambda: server.local_url("x"), "config"),  # type: ignore[arg-type]
                (lambda: server.logs(-1), "config"),
                (lambda: server.drain("1m"), "config"),  # type: ignore[arg-type]
                (lambda: server.stop(), NotSupported.code),
                (lambda: client.launch("tiny", name="here"), NameTaken.code),
                (lambda: client.connect("heer"), "unknown_name"),
                (lambda: client.connect(5), "unknown_name"),  # type: ignore[arg-type]
                (lambda: client.meter("nobody"), "unknown_name"),
                (lambda: client.meter("here", since="7d"), "config"),  # type: ignore[arg-type]
                (lambda: server.meter.window(days=-1), "config"),
            ]:
                with pytest.raises(SpotinferError) as caught:
                    wrong()
                assert (caught.value.code, bool(caught.value.hint)) == (code, True), caught.value
            answer = CommandLine(folder, {"SPOTINFER_HOME": str(folder / "home")})("proxy", "here", "--port", str(port))
            assert (answer.status, answer.out) == (1, "")
            assert f"error: port {port} is taken" in answer.err
        assert chat(server) == 4
        assert server.state == "ready"
    with pytest.raises(UnknownName, match="no live server is called 'here'"):
        client.connect("here")
    with pytest.raises(Lost, match="terminated"):
        server.local_url()
    server.close()
    server.terminate()  # both repeatable
    nothing_left(folder / "home")


def test_a_handle_that_is_closed_twice_does_not_let_go_for_another(client: Client, folder: Path) -> None:
    with client.launch("tiny", name="shared"):
        first, second = client.connect("shared"), client.connect("shared")
        first.close()
        first.close()
        assert second.local_url().url.startswith("http://127.0.0.1:")
        second.close()
    nothing_left(folder / "home")


# --- the ledger -----------------------------------------------------------------------------------------------------


def damaged(path: Path, how: str) -> None:
    good = path.read_bytes()
    if how == "garbage":
        path.write_bytes(b"\x93" * 5000)
    elif how == "cut":
        path.write_bytes(good[: len(good) // 2])
    else:
        connection = sqlite3.connect(path)
        connection.execute("INSERT INTO schema_version VALUES (999, 0)")
        connection.commit()
        connection.close()


@pytest.mark.parametrize(
    ("how", "kind", "says"),
    [
        ("garbage", LedgerCorrupt, "left untouched"),
        ("cut", LedgerCorrupt, "left untouched"),
        ("newer", LedgerError, "schema 999"),
    ],
)
def test_a_ledger_that_cannot_be_read(
    folder: Path, tmp_path: Path, how: str, kind: type[SpotinferError], says: str
) -> None:
    home = tmp_path / "home"
    with client_at(home) as client:
        client.servers()
    path = home / "ledger.db"
    good = path.read_bytes()
    damaged(path, how)
    bad = path.read_bytes()
    with client_at(home) as client, pytest.raises(SpotinferError) as caught:
        client.launch("tiny")
    told(caught.value, kind, kind.code, says)
    answer = CommandLine(folder, {"SPOTINFER_HOME": str(home)})("launch", "tiny", "--json")
    assert (answer.status, answer.out, json.loads(answer.err)) == (1, "", caught.value.as_dict())
    assert path.read_bytes() == bad
    path.write_bytes(good)  # what the hint advises: the copy from before
    nothing_left(home)
    with client_at(home) as client, client.launch("tiny"):
        pass
    nothing_left(home)


@pytest.mark.parametrize(
    ("url", "code", "says"),
    [
        ("mysql://me:hush-hush@localhost/x", "config", "mysql"),
        ("postgresql://me:hush-hush@127.0.0.1:9/x", "ledger", "127.0.0.1:9"),
        ("postgresql://me:hush-hush@127.0.0.1:port/x", "config", "URL"),
    ],
)
def test_a_ledger_url_that_leads_nowhere_shows_no_password(
    folder: Path, tmp_path: Path, url: str, code: str, says: str
) -> None:
    with pytest.raises(SpotinferError) as caught, client_at(tmp_path, ledger=url) as client:
        client.launch("tiny")
    error: BaseException | None = caught.value
    assert (caught.value.code, says in caught.value.message, bool(caught.value.hint)) == (code, True, True)
    while error is not None:
        assert "hush-hush" not in f"{error}{error!r}"
        error = error.__cause__
    nothing_left(tmp_path)


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("SPOTINFER_BUDGET", "much", "SPOTINFER_BUDGET: budget must be"),
        ("SPOTINFER_IDLE_TIMEOUT", "soon", "SPOTINFER_IDLE_TIMEOUT: idle_timeout must be"),
        ("SPOTINFER_BUDGTE", "0.50", "did you mean 'SPOTINFER_BUDGET'?"),
        ("SPOTINFER_PROVIDERS", "locl", "did you mean 'local'?"),
        ("SPOTINFER_ENGINE", "lamacpp", "did you mean 'llamacpp'?"),
        ("SPOTINFER_LEDGER", "mysql://x", "mysql://"),
    ],
)
def test_a_variable_that_cannot_be_meant(
    folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as caught, Client() as client:
        client.launch("tiny")
    assert says in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("text", ["budget = = 3", 'budgte = "3"', "[options]\nlocal = 3"])
def test_a_configuration_file_that_is_wrong(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    monkeypatch.setenv("SPOTINFER_CONFIG_FILE", str(path))
    with pytest.raises(ConfigError) as caught:
        spotinfer.Client().launch("tiny")
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_settings_that_are_unknown_or_of_the_wrong_type(folder: Path) -> None:
    for wrong in ({"hoem": "x"}, {"home": 3}, {"budget": "-1"}, {"max_age": "soon"}, {"progress": "loud"}):
        with pytest.raises(ConfigError):
            Settings.load(**wrong)
    assert Settings.load(max_age="2h").max_age == timedelta(hours=2)


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "code", "says"),
    [
        (["launch", "./nowhere"], 1, "unknown_name", "no model is called './nowhere'"),
        (["launch", "tiny", "--budget", "-1"], 1, "config", "must not be negative"),
        (["launch", "tiny", "--budgt", "1"], 2, "usage", "did you mean --budget?"),
    ],
)
def test_the_command_line_says_one_line_and_a_hint(
    folder: Path, arguments: list[str], status: int, code: str, says: str
) -> None:
    spotinfer = CommandLine(folder, {"SPOTINFER_HOME": str(folder / "home")})
    answer = spotinfer(*arguments)
    assert (answer.status, answer.out) == (status, "")
    first, second = answer.err.splitlines()
    assert first.startswith("error: ")
    assert says in first
    assert second.startswith("hint:  ")
    answer = spotinfer(*arguments, "--json")
    told = json.loads(answer.err)
    assert (answer.status, answer.out, told["error"]) == (status, "", code)
    assert says in told["message"]
    assert told["hint"]
    nothing_left(folder / "home")
