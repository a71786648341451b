"""The agent's parts that are pure or nearly so: configuration, clock, limits, idleness, files, recipe, packing."""

from __future__ import annotations

import ast
import asyncio
import base64
import io
import json
import sys
import zipfile
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from spotinfer.agent import config as agent_config
from spotinfer.agent import fuse, pack
from spotinfer.agent.config import BadConfig, LimitsConfig, parse, take
from spotinfer.agent.engine import clean_environment
from spotinfer.agent.state import TAIL_BYTES, Folder
from spotinfer.agent.watch import CANNOT_TELL_S, STARTING_S, Activity, Clock, Limits
from spotinfer.agent.watch import parse as parse_metrics

GOOD: dict[str, Any] = {
    "version": 1,
    "key": "si-1",
    "dir": "/opt/x",
    "engine": {"argv": ["engine"]},
    "tls": {"cert": "a", "ca": "b", "client": "c", "name": "d"},
    "secret": "s",
    "metrics": {},
    "limits": {"lease_s": 300, "idle_s": None, "max_age_s": 86400.5, "budget_s": 0},
}


# -- configuration ----------------------------------------------------------------------------------------------------


def test_the_configuration_is_taken_out_of_the_environment() -> None:
    packed = base64.b64encode(zlib.compress(json.dumps({**GOOD, "new_key": 1}).encode())).decode()
    environ = {"SPOTINFER_AGENT": "zip", "SPOTINFER_CONFIG": packed, "HOME": "/root"}
    config = take(environ)
    assert environ == {"HOME": "/root"}
    assert config.limits == LimitsConfig(300, None, 86400.5, 0, linger_s=60, grace_s=10)
    assert config.end == ({"kind": "exit"},)
    assert (config.listen.host, config.listen.agent, config.metrics.path) == ("127.0.0.1", 0, "/metrics")


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (["version"], 2, "version 2"),
        (["key"], None, "key must be a string"),
        (["secret"], "", "must not be empty"),
        (["engine"], [], "engine. must be an object"),
        (["engine", "argv"], [], "must not be empty"),
        (["engine", "argv"], "engine", "engine.argv must be a list of strings"),
        (["engine", "env"], {"A": 1}, "engine.env must be"),
        (["engine", "port"], 70000, "engine.port must be"),
        (["engine", "tls"], 1, "engine.tls must be"),
        (["limits", "idle_s"], -1, "limits.idle_s must be"),
        (["limits", "idle_s"], True, "limits.idle_s must be"),
        (["limits", "idle_s"], float("nan"), "limits.idle_s must be"),
        (["limits", "grace_s"], None, "limits.grace_s must be"),
        (["limits", "budget_s"], ..., "limits.budget_s is missing"),
        (["tls", "ca"], ..., "tls.ca is missing"),
        (["files"], {"../x": ""}, "leads out of dir"),
        (["files"], {"/etc/x": ""}, "leads out of dir"),
        (["end"], [{"kind": "explode"}], "end must be"),
    ],
)
def test_a_bad_key_is_named(path: list[str], value: object, complaint: str) -> None:
    data = json.loads(json.dumps(GOOD))
    part = data
    for name in path[:-1]:
        part = part[name]
    if value is ...:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    with pytest.raises(BadConfig, match=complaint):
        parse(data)


@pytest.mark.parametrize("packed", ["", "!", base64.b64encode(b"x").decode(), None])
def test_what_cannot_be_unpacked_is_said(packed: str | None) -> None:
    with pytest.raises(BadConfig, match="SPOTINFER_CONFIG"):
        take({} if packed is None else {"SPOTINFER_CONFIG": packed})


def test_every_field_has_a_known_kind() -> None:
    full = parse({**GOOD, "listen": {}, "strip": ["A"], "files": {}, "end": []})
    assert full.strip == ("A",)
    assert full.listen == agent_config.Listen()


def test_provider_keys_do_not_reach_the_engine() -> None:
    gone = ["SPOTINFER_DIR", "RUNPOD_POD_ID", "VAST_CONTAINERLABEL", "AWS_SESSION_TOKEN", "GROQ_API_KEY", "own_thing"]
    kept = {"HF_TOKEN": "x", "PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0"}
    assert clean_environment({**dict.fromkeys(gone, "x"), **kept}, ("OWN_", "")) == kept


# -- clock and limits -------------------------------------------------------------------------------------------------


class Hands:
    """A wall clock and a monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.wall = 1_000_000.0
        self.mono = 50.0
        self.clock = Clock(lambda: self.wall, lambda: self.mono)

    def move(self, seconds: float, leap: float = 0.0) -> None:
        self.mono += seconds
        self.wall += seconds + leap


def limits_of(folder: Path, hands: Hands, **seconds: float) -> Limits:
    none: dict[str, float | None] = {"lease_s": None, "idle_s": None, "max_age_s": None, "budget_s": None}
    return Limits(LimitsConfig(**{**none, **seconds}), Folder(str(folder)), hands.clock)  # type: ignore[arg-type]


def test_a_clock_that_is_set_back_does_not_lengthen_life(tmp_path: Path) -> None:
    hands = Hands()
    limits = limits_of(tmp_path, hands, max_age_s=100)
    hands.move(60, leap=-5000)
    assert limits.due(0) is None
    hands.move(40)
    assert limits.due(0) == "max_age"


def test_after_a_leap_ahead_the_owner_has_time_to_renew(tmp_path: Path) -> None:
    hands = Hands()
    limits = limits_of(tmp_path, hands, lease_s=300)
    hands.move(10, leap=7200)  # the laptop slept
    assert limits.due(0) is None
    hands.move(59)
    assert limits.due(0) is None
    hands.move(2)
    assert limits.due(0) == "lease_lapsed"


def test_birth_and_lease_survive_a_restart(tmp_path: Path) -> None:
    hands = Hands()
    first = limits_of(tmp_path, hands, lease_s=300, budget_s=1000)
    hands.move(200)
    again = limits_of(tmp_path, hands, lease_s=300, budget_s=1000)
    assert (again.born, again.lease_until) == (first.born, first.lease_until)
    assert again.left() == pytest.approx(100)
    again.renew(900)
    hands.move(801)
    assert limits_of(tmp_path, hands, budget_s=1000).due(0) == "budget"


def test_the_limit_that_came_first_is_the_cause(tmp_path: Path) -> None:
    hands = Hands()
    limits = limits_of(tmp_path, hands, lease_s=20, idle_s=30, max_age_s=10)
    hands.move(25)
    assert limits.due(proven_idle_s=30) == "max_age"
    assert limits.ends_at(10) == {
        "lease": 1_000_020.0,
        "idle": 1_000_045.0,
        "age": 1_000_010.0,
        "budget": None,
    }


# -- idleness ---------------------------------------------------------------------------------------------------------


def activity() -> Activity:
    return Activity(100.0, ["busy"], ["done"])


def test_loading_is_not_idle_but_not_for_ever() -> None:
    watched = activity()
    watched.saw(None, 100 + STARTING_S - 1)
    assert watched.proven_idle_s(100 + STARTING_S - 1) == 0
    assert watched.proven_idle_s(100 + STARTING_S + 1) == STARTING_S + 1


def test_idle_counts_from_the_last_work_that_was_seen() -> None:
    watched = activity()
    watched.saw({"busy": 0, "done": 5}, 110)
    watched.saw({"busy": 0, "done": 5}, 120)
    assert watched.proven_idle_s(125) == 10  # up to the last reading: what came after it is not known
    assert watched.idle_s(125) == 15
    watched.saw({"busy": 1, "done": 5}, 130)
    assert watched.proven_idle_s(131) == 0
    watched.saw({"busy": 0, "done": 6}, 140)
    assert watched.proven_idle_s(141) == 0
    watched.saw({"busy": 0, "done": 6}, 150)
    assert watched.proven_idle_s(151) == 10


def test_counters_that_cannot_be_read_are_idle_only_after_a_bound() -> None:
    watched = activity()
    watched.saw({"busy": 0, "done": 5}, 110)
    watched.saw(None, 120)
    assert watched.proven_idle_s(110 + CANNOT_TELL_S - 1) == 0
    assert watched.proven_idle_s(110 + CANNOT_TELL_S + 1) == CANNOT_TELL_S + 1
    watched.saw({"busy": 0, "done": 5}, 130)
    assert watched.proven_idle_s(130) == 20


def test_busy_seconds_count_long_work_in_full_and_short_work_as_a_second_at_most() -> None:
    watched = activity()
    for at, busy, done in [(110, 0, 0), (115, 0, 3), (120, 1, 4), (122, 2, 9), (125, 0, 9)]:
        watched.saw({"busy": busy, "done": done}, at)
    assert watched.busy_s == 1 + 1 + 2


def test_quiet_needs_a_reading_of_its_own() -> None:
    watched = activity()
    watched.saw({"busy": 0, "done": 5}, 110)
    watched.saw({"busy": 0, "done": 5}, 120)
    assert not watched.quiet_since(121)
    watched.saw({"busy": 0, "done": 5}, 122)
    assert watched.quiet_since(121)


def test_metrics_are_summed_over_their_label_sets() -> None:
    text = """
# HELP vllm:tokens_total words
vllm:tokens_total{engine="0",model_name="a b}c"} 3.0
vllm:tokens_total{engine="1",model_name="x"} 4e2 1700000000
vllm:tokens_total_created{engine="1"} 9
running 1
waiting NaN
"""
    assert parse_metrics(text, ["vllm:tokens_total", "running", "waiting", "absent"]) == {
        "vllm:tokens_total": 403.0,
        "running": 1.0,
    }


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_long_log_is_emptied_in_place_and_its_tail_is_kept(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    with open(folder.open_log(), "wb", buffering=0) as writer:
        writer.write(b"".join(b"line %d\n" % number for number in range(1000)))
        folder.cap_log(cap=10_000, keep=100)
        assert (tmp_path / "engine.log").stat().st_size > 0
        folder.cap_log(cap=1000, keep=100)
        assert (tmp_path / "engine.log").stat().st_size == 0
        writer.write(b"newest\n")
    assert folder.tail_log(3) == ["line 998", "line 999", "newest"]
    assert len(folder.tail_log(2000)) < 20


def test_the_tail_shows_the_last_state_of_a_redrawn_line(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    assert folder.tail_log(5) == []
    (tmp_path / "engine.log").write_bytes(b"loading 1%\rloading 100%\r\n\xff done")
    assert folder.tail_log(5) == ["loading 100%", "\ufffd done"]
    (tmp_path / "engine.log").write_bytes(b"x" * (TAIL_BYTES + 5) + b"\nlast\n")
    assert folder.tail_log(5) == ["last"]


def test_a_fact_that_cannot_be_written_does_not_stop_the_agent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Folder(str(tmp_path))
    (tmp_path / "ended.json").mkdir()
    folder.record("ended.json", {})
    assert "cannot write ended.json" in capsys.readouterr().err


# -- the end's recipe -------------------------------------------------------------------------------------------------


class Cloud(BaseHTTPRequestHandler):
    seen: list[tuple[str, str, str | None, bytes]] = []

    def do_DELETE(self) -> None:
        self.seen.append(("DELETE", self.path, self.headers["X-Key"], b""))
        self.send_response(204 if self.path == "/machine/1" else 403)
        self.end_headers()

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/machine/1")
        else:
            self.send_response(200 if self.path == "/machine/1" else 404)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def cloud() -> Iterator[str]:
    Cloud.seen.clear()
    with HTTPServer(("127.0.0.1", 0), Cloud) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def http_step(url: str, check: str = "/machine/1", end: str = "/machine/1") -> dict[str, Any]:
    return {
        "kind": "http",
        "method": "DELETE",
        "url": url + end,
        "headers": {"X-Key": "machine-key"},
        "check": {"method": "GET", "url": url + check, "headers": {}},
    }


def test_the_fuse_is_tried_without_ending_anything(cloud: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fuse.can_end([{"kind": "exit"}])
    assert fuse.can_end([{"kind": "command", "argv": ["sh", "-c", "exit 1"]}])
    assert fuse.can_end([http_step(cloud)])
    assert not fuse.can_end([])
    for broken in (
        {"kind": "command", "argv": ["/no/such/program"]},
        {"kind": "command"},
        {"kind": "http", "url": "file:///etc/passwd", "check": {"url": "file:///etc/passwd"}},
        http_step(cloud, check="/missing"),
        http_step(cloud, check="/moved"),
        http_step("http://127.0.0.1:1"),
    ):
        assert not fuse.can_end([broken])
    assert Cloud.seen == []
    assert "machine-key" not in capsys.readouterr().err


def test_the_first_step_that_works_ends_the_machine(cloud: str, tmp_path: Path) -> None:
    mark = tmp_path / "powered-off"
    recipe = [
        http_step(cloud, end="/machine/other"),
        {"kind": "command", "argv": ["false"]},
        http_step(cloud),
        {"kind": "command", "argv": ["touch", str(mark)]},
    ]
    assert asyncio.run(fuse.end(recipe))
    assert [seen[:3] for seen in Cloud.seen] == [
        ("DELETE", "/machine/other", "machine-key"),
        ("DELETE", "/machine/1", "machine-key"),
    ]
    assert not mark.exists()


# -- packing ----------------------------------------------------------------------------------------------------------


def _bare(source: str) -> str:
    """The syntax tree without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                del node.body[0]
    return ast.dump(tree)


def test_the_packed_agent_is_small_and_the_same_program() -> None:
    packed = pack.packed_agent()
    assert len(packed) <= pack.LIMIT
    with zipfile.ZipFile(io.BytesIO(zlib.decompress(base64.b64decode(packed)))) as archive:
        assert "agent/main.py" in archive.namelist()
        assert "agent/pack.py" not in archive.namelist()
        for name in archive.namelist():
            sent = archive.read(name).decode()
            source = Path(pack.__file__).with_name(name.partition("/")[2]).read_text()
            ast.parse(sent, feature_version=(3, 8))
            assert _bare(sent) == _bare(source), name
            assert "#" not in sent.replace("0x", "")


def test_the_agent_imports_the_standard_library_only() -> None:
    allowed = sys.stdlib_module_names
    for path in Path(pack.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {name.name.partition(".")[0] for name in node.names} <= allowed, path
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert str(node.module).partition(".")[0] in allowed, path
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 1, path
