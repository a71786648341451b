"""The command line with real servers on this computer: from launch to the proof that nothing runs any more."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.cli import CommandLine, engines_of

pytestmark = pytest.mark.engine


@pytest.fixture
def spotinfer(tmp_path: Path) -> Iterator[CommandLine]:
    """Whatever a failed test leaves is ended."""
    line = CommandLine(tmp_path, {"SPOTINFER_LOCAL_PRICE_PER_HOUR": "0.40"})
    yield line
    if engines_of(tmp_path):
        line("terminate", "--all", "--yes")
    assert engines_of(tmp_path) == []


def ask(url: str, key: str, model: str) -> Any:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/chat/completions", data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_a_detached_server_from_launch_to_its_end(spotinfer: CommandLine) -> None:
    launched = spotinfer("launch", "tiny", "--name", "one", "--idle-timeout", "10m", "--json")
    assert launched.status == 0, launched.err
    assert "spotinfer: one: ready: " in launched.err
    described = launched.json
    assert {name: described[name] for name in ("name", "state", "detached", "per_hour")} == {
        "name": "one",
        "state": "ready",
        "detached": True,
        "per_hour": "0.40",
    }
    assert described["limits"] == {"idle": 600, "max_age": 86400, "budget": None, "lease": None}

    again = spotinfer("launch", "tiny", "--name", "one", "--json")
    assert (again.status, json.loads(again.err.splitlines()[-1])["error"]) == (1, "name_taken")
    attached = spotinfer("launch", "tiny", "--name", "one", "--if-exists", "attach", "--json")
    assert attached.json["key"] == described["key"]

    (listed,) = spotinfer("ls", "--json").json
    assert (listed["name"], listed["endpoint"]) == ("one", described["endpoint"])
    assert float(listed["accrued"]) > 0
    assert "engine answers" in spotinfer("logs", "one").out
    assert len(spotinfer("logs", "one", "--tail", "2", "--json").json["lines"]) == 2
    stopped = spotinfer("stop", "one", "--json")
    assert json.loads(stopped.err)["error"] == "not_supported"
    _through_the_proxy(spotinfer)

    reaped = spotinfer("reap", "--yes", "--json")
    assert (reaped.status, [item["owned"] for item in reaped.json["found"]]) == (0, [True])
    ended = spotinfer("terminate", "one", "--json")
    assert [item["state"] for item in ended.json] == ["terminated"]
    assert engines_of(spotinfer.home) == []
    assert spotinfer("ls", "--json").json == []
    assert [item["cause"] for item in spotinfer("ls", "--all", "--json").json] == ["user"]
    cost = spotinfer("cost", "one", "--json", "--export", str(spotinfer.home / "cost.csv")).json
    assert (cost["requests"], cost["ok"]) == (1, 1)
    assert float(cost["accrued"]) > 0
    assert (spotinfer.home / "cost.csv").read_text().startswith("record,")
    assert "cold start" in spotinfer("cost", "--since", "7d").out


def _through_the_proxy(spotinfer: CommandLine) -> None:
    process = spotinfer.start("proxy", "one")
    assert process.stdout is not None
    found = dict(process.stdout.readline().removeprefix("export ").strip().split("=", 1) for _ in range(2))
    url, key = found["OPENAI_BASE_URL"], found["OPENAI_API_KEY"]
    assert ask(url, key, "tiny")["usage"]["completion_tokens"] == 4
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask(url, "wrong", "tiny")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    with pytest.raises(urllib.error.URLError):
        ask(url, key, "tiny")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_attached_server_ends_with_its_command(spotinfer: CommandLine, number: signal.Signals, status: int) -> None:
    process = spotinfer.start("launch", "tiny", "--name", "one", "--attach", "--json")
    assert process.stdout is not None
    text = ""
    while not text.endswith("\n}\n"):
        text += process.stdout.readline()
    assert json.loads(text)["detached"] is False
    assert engines_of(spotinfer.home)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert err.endswith("Ending one ...\none is terminated.\n")
    assert engines_of(spotinfer.home) == []


@pytest.mark.slow
def test_an_attached_server_that_ends_by_itself(spotinfer: CommandLine) -> None:
    answer = spotinfer("launch", "tiny", "--name", "one", "--attach", "--max-age", "6s")
    assert answer.status == 0, answer.err
    assert re.search(r"\nspotinfer: one: \w+ \(max_age\)\n$", answer.err), answer.err
    assert engines_of(spotinfer.home) == []


def test_all_are_ended_after_a_question(spotinfer: CommandLine) -> None:
    for name in ("one", "two"):
        assert spotinfer("launch", "tiny", "--name", name, "--progress", "none").status == 0
    refused = spotinfer("terminate", "--all")
    assert (refused.status, "--yes" in refused.err) == (2, True)
    declined = spotinfer.on_terminal("terminate", "--all", answers=(("[y/N]", "n"),))
    assert declined.status == 1
    assert len(spotinfer("ls", "--json").json) == 2
    agreed = spotinfer.on_terminal("terminate", "--all", answers=(("End these 2? [y/N]", "y"),))
    assert agreed.status == 0
    assert "one is terminated." in agreed.out
    assert spotinfer("ls", "--json").json == []


def test_reap_asks_before_it_ends_what_nobody_owns(spotinfer: CommandLine) -> None:
    process = spotinfer.start("launch", "tiny", "--name", "one", "--attach", "--json")
    assert process.stdout is not None
    assert process.stdout.readline() == "{\n"
    process.kill()
    process.communicate(timeout=30)
    shown = spotinfer("reap")
    assert shown.status == 1
    assert "no: the process that launched it is gone" in shown.out
    assert "--yes" in shown.err
    assert spotinfer("reap", "--dry-run").status == 0
    assert "spotinfer reap" in spotinfer("doctor").out
    agreed = spotinfer.on_terminal("reap", answers=(("End it? [y/N]", "y"),))
    assert agreed.status == 0
    assert "one is ended." in agreed.out
    assert spotinfer("reap", "--json").json["found"] == []


def test_the_plan_rents_nothing(spotinfer: CommandLine) -> None:
    plan = spotinfer("launch", "tiny", "--dry-run", "--json").json
    assert [candidate["provider"] for candidate in plan["candidates"]] == ["local"]
    assert "engine llamacpp" in spotinfer("launch", "tiny", "--dry-run").out
    assert spotinfer("ls", "--all", "--json").json == []


def test_the_demo(spotinfer: CommandLine) -> None:
    answer = spotinfer.on_terminal("demo")
    assert answer.status == 0, answer.out
    for expected in ("3 ok", "plain", "streamed", "cold start", "0 are left", "is terminated"):
        assert expected in answer.out


def test_listing_is_quick(spotinfer: CommandLine) -> None:
    """The bound of the issue, with room for a busy computer; the benchmark prints the real figure."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert spotinfer("ls").status == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime) < 1.0


def test_listing_loads_nothing_heavy(spotinfer: CommandLine) -> None:
    code = "import sys; from spotinfer.cli.run import run; run(['ls']); print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=spotinfer.environment, capture_output=True, text=True, check=True
    )
    assert not {"openai", "httpx2", "pydantic", "boto3", "cryptography", "IPython"} & set(done.stdout.split())
