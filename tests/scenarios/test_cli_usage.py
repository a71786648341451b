"""The command line without a server: help, settings, wrong usage, keys."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from spotinfer.cli.commands import COMMANDS, execute
from spotinfer.cli.parser import UsageError
from spotinfer.core.errors import SpotinferError
from support.cli import PROGRAM, CommandLine


@pytest.fixture
def spotinfer(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


@pytest.fixture
def own_home(spotinfer: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same surroundings for a command that runs in this process."""
    for name in os.environ.keys() - spotinfer.environment.keys():
        monkeypatch.delenv(name)
    for name, value in spotinfer.environment.items():
        monkeypatch.setenv(name, value)


def test_help_names_every_command(spotinfer: CommandLine) -> None:
    answer = spotinfer("--help")
    assert answer.status == 0
    for name, help in COMMANDS.items():
        assert f"{name:<12}{help}" in answer.out
    assert spotinfer().status == 2


def test_version(spotinfer: CommandLine) -> None:
    import spotinfer as package

    assert spotinfer("--version").out == f"spotinfer {package.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lounch", "tiny"], "there is no command 'lounch' (did you mean launch?)"),
        (["ls", "--josn"], "there is no option --josn (did you mean --json?)"),
        (["launch", "tiny", "--idle-timout=5m"], "there is no option --idle-timout (did you mean --idle-timeout?)"),
        (["launch"], "required: MODEL"),
        (["cost", "one", "two"], "nothing is expected at 'two'"),
        (["logs", "one", "--tail", "0"], "--tail: invalid number from 1 to 100000 value: '0'"),
        (["config", "shwo"], "invalid choice: 'shwo'"),
        (["terminate"], "say which server to end, or --all"),
        (["terminate", "one", "--all"], "say which server to end, or --all"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        execute(arguments)
    assert message in caught.value.message
    assert caught.value.hint.endswith("--help")


def test_wrong_usage_is_status_2(spotinfer: CommandLine) -> None:
    answer = spotinfer("ls", "--josn")
    expected = "error: there is no option --josn (did you mean --json?)\nhint:  spotinfer ls --help\n"
    assert (answer.status, answer.out, answer.err) == (2, "", expected)
    answer = spotinfer("lz", "--json")
    assert (answer.status, json.loads(answer.err)["error"]) == (2, "usage")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["launch", "tiny", "--provider", "loca"], "unknown_name", "did you mean 'local'"),
        (["launch", "tiny", "--engine", "lamacpp"], "unknown_name", "did you mean 'llamacpp'"),
        (["launch", "./no/such.gguf"], "unknown_name", "./no/such.gguf"),
        (["launch", "tiny", "--budget=-1"], "config", "must not be negative"),
        (["launch", "tiny", "--idle-timeout", "soon"], "config", "must be a duration"),
        (["launch", "tiny", "--idle-timeout", "never", "--max-age", "never"], "config", "needs a limit"),
        (["cost", "nobody"], "unknown_name", "nobody"),
        (["cost", "--since=-3d"], "config", "--since must be"),
        (["logs", "nobody"], "unknown_name", "nobody"),
        (["proxy", "nobody"], "unknown_name", "nobody"),
        (["stop", "nobody"], "unknown_name", "nobody"),
        (["terminate", "nobody"], "unknown_name", "nobody"),
    ],
)
def test_errors_have_a_code_and_a_hint(own_home: None, arguments: list[str], code: str, message: str) -> None:
    with pytest.raises(SpotinferError) as caught:
        execute([*arguments, "--json"])
    assert caught.value.code == code
    assert message in caught.value.message
    assert caught.value.hint


def test_an_error_for_people_is_a_line_and_a_hint(spotinfer: CommandLine) -> None:
    answer = spotinfer("terminate", "nobody")
    assert answer.status == 1
    assert answer.err == "error: no live server is called 'nobody'\nhint:  nothing runs; spotinfer ls --all\n"
    answer = spotinfer("terminate", "nobody", "--json")
    assert (answer.status, answer.out) == (1, "")
    assert set(json.loads(answer.err)) == {"error", "message", "hint"}


def test_nothing_runs(spotinfer: CommandLine) -> None:
    assert spotinfer("ls").err == "Nothing runs.\n"
    assert spotinfer("ls", "--json").json == []
    assert spotinfer("terminate", "--all", "--json").json == []
    answer = spotinfer("reap", "--json")
    assert (answer.status, answer.json) == (0, {"found": [], "ended": [], "failed": {}})


def test_config_show(spotinfer: CommandLine) -> None:
    (spotinfer.home / "config.toml").write_text('budget = "2.50"\nvast_api_key = "very-secret"\n')
    spotinfer.variables["SPOTINFER_MAX_AGE"] = "8h"
    answer = spotinfer("config", "show", "--json")
    assert answer.status == 0
    assert answer.json["budget"] == {
        "value": "2.50",
        "source": "config file",
        "where": f"{spotinfer.home / 'config.toml'}, line 1",
    }
    assert answer.json["max_age"] == {"value": "8h", "source": "environment", "where": "SPOTINFER_MAX_AGE"}
    assert answer.json["vast_api_key"]["value"] == "***"
    assert answer.json["engine"] == {"value": None, "source": "default", "where": None}
    shown = spotinfer("config", "show")
    assert "very-secret" not in shown.out + answer.out
    line = next(line for line in shown.out.splitlines() if line.startswith("max_age"))
    assert line.split()[:2] == ["max_age", "8h"]


def test_a_wrong_config_file(spotinfer: CommandLine) -> None:
    (spotinfer.home / "config.toml").write_text("budgett = 1\n")
    for command in (["ls"], ["config", "show"], ["doctor"]):
        answer = spotinfer(*command)
        assert answer.status == 1
        assert "config.toml, line 1) is called 'budgett' (did you mean 'budget'?)" in answer.err


def test_a_corrupt_ledger(spotinfer: CommandLine) -> None:
    (spotinfer.home / "state").mkdir()
    ledger = spotinfer.home / "state" / "ledger.db"
    ledger.write_bytes(b"no database at all" * 1000)
    answer = spotinfer("ls", "--json")
    assert answer.status == 1
    assert json.loads(answer.err)["error"] == "ledger_corrupt"
    assert ledger.read_bytes().startswith(b"no database")


def test_who_reads_our_output_may_leave(spotinfer: CommandLine) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*PROGRAM, "config", "show", "--json"],
        env=spotinfer.environment,
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_stream_that_has_no_ticks(spotinfer: CommandLine) -> None:
    spotinfer.variables["PYTHONIOENCODING"] = "ascii"
    answer = spotinfer("doctor")
    assert "ledger     ? " in answer.out
    assert "Traceback" not in answer.err


def test_doctor(spotinfer: CommandLine) -> None:
    spotinfer.variables["SPOTINFER_COLOUR"] = "blue"
    answer = spotinfer("doctor", "--json")
    found = {(item["area"], item["verdict"]): item for item in answer.json}
    assert answer.status == int(any(item["verdict"] == "problem" for item in answer.json))
    assert found["settings", "note"]["text"] == "the variable SPOTINFER_COLOUR is no setting"
    assert found["ledger", "ok"]["text"].endswith("0 live servers")
    assert {area for area, _ in found} >= {"versions", "settings", "home", "ledger", "computer", "engines", "machines"}


def test_a_mistyped_limit_is_not_ignored(spotinfer: CommandLine) -> None:
    spotinfer.variables["SPOTINFER_IDLE_TIMOUT"] = "5m"
    answer = spotinfer("ls")
    assert answer.status == 1
    assert "did you mean 'SPOTINFER_IDLE_TIMEOUT'?" in answer.err


def test_doctor_finds_an_open_file_with_a_key(spotinfer: CommandLine) -> None:
    config = spotinfer.home / "config.toml"
    config.write_text('hf_token = "very-secret"\n')
    config.chmod(0o644)
    answer = spotinfer("doctor")
    assert f"chmod 600 {config}" in answer.out
    assert "very-secret" not in answer.out + answer.err


# --- init ----------------------------------------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """Says of one token whose it is."""

    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == "Bearer hf_good"
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(b'{"name": "ada"}' if known else b"{}")

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def hub() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_init_checks_a_key_and_keeps_it_private(spotinfer: CommandLine, hub: str) -> None:
    spotinfer.variables |= {"HF_ENDPOINT": hub, "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}
    answer = spotinfer.on_terminal("init", "huggingface", answers=(("key:", "hf_bad"), ("key:", "hf_good")))
    assert answer.status == 0, answer.out
    assert "the hub refuses this token" in answer.out
    assert "works: ada" in answer.out
    assert "hf_good" not in answer.out, "what is typed is not shown"
    config = spotinfer.home / "config.toml"
    assert config.read_text() == 'hf_token = "hf_good"\n'
    assert stat.S_IMODE(config.stat().st_mode) == 0o600


def test_init_leaves_what_is_not_answered(spotinfer: CommandLine) -> None:
    answers = tuple(("key:", "") for _ in range(4))
    answer = spotinfer.on_terminal("init", answers=answers)
    assert answer.status == 0, answer.out
    assert not (spotinfer.home / "config.toml").exists()


def test_init_needs_a_terminal(spotinfer: CommandLine) -> None:
    answer = spotinfer("init")
    assert answer.status == 1
    assert "RUNPOD_API_KEY" in answer.err
    assert spotinfer.on_terminal("init", "runpodd").status == 1
