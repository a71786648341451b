"""The start-up script of rented hosts, really run: in a folder of its own, with stand-ins for what a host has."""

from __future__ import annotations

import base64
import gzip
import json
import stat
import zlib
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path

import pytest

from spotinfer.control.attempt import HostView
from spotinfer.control.boot import instance_spec
from spotinfer.core.errors import ProviderError
from spotinfer.core.model import GPU, Accelerators, EngineSettings, InstanceSpec, Limits, Model, Offer, OfferKind
from spotinfer.core.secret import Secret
from spotinfer.providers.cloudinit import CONTAINER, compressed_user_data, user_data
from spotinfer.serving.access import issue
from spotinfer.serving.vllm import VllmEngine
from support.hosts import Host

A10 = Accelerators(gpu=GPU(name="A10", memory=24 << 30))
OFFER = Offer(provider="lambda", id="x", kind=OfferKind.ON_DEMAND, per_hour=None, accelerators=A10)
NASTY = "two\nlines, 'quotes', \"more\", $HOME `id` \\ and a # \nSPOTINFER_END\n"
AGENT = """
import json, os, subprocess, sys
with open(os.environ["SPOTINFER_DIR"] + ".json", "w") as file:
    json.dump(dict(os.environ), file)
env = {**os.environ, "VLLM_API_KEY": "engine-secret-77"}
sys.exit(subprocess.run(["vllm", "serve", "org/model", "--port", "8000"], env=env).returncode)
"""
PLENTY = 1_000_000


def make_spec(**changes: object) -> InstanceSpec:
    given = {
        "key": "si-1",
        "owner": "me",
        "name": "n",
        "offer": OFFER,
        "command": ("python3", "-I", "-c", AGENT),
        "env": {"SPOTINFER_CONFIG": Secret(NASTY), "PLAIN": "word"},
        "image": "org/image:1",
        **changes,
    }
    return InstanceSpec(**given)  # type: ignore[arg-type]


def script(**changes: object) -> str:
    return user_data(make_spec(**changes), limit=PLENTY)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_service_is_enabled_and_starts_the_agent(host: Host) -> None:
    host.boot(script())
    unit = host.root / "spotinfer.service"
    assert host.called("systemctl")[0]["argv"] == ["enable", "--now", "--no-block", str(unit)]
    assert f"ExecStart={host.root}/start\n" in unit.read_text()


def test_the_agent_gets_its_environment_to_the_letter(host: Host) -> None:
    host.boot(script())
    host.start()
    seen = json.loads((host.root / "machine.json").read_text())
    assert seen["SPOTINFER_CONFIG"] == NASTY
    assert seen["PLAIN"] == "word"
    assert seen["SPOTINFER_DIR"] == str(host.root / "machine")


def test_only_root_can_read_what_it_writes(host: Host) -> None:
    host.boot(script())
    for path in (host.root, *host.root.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_nothing_secret_is_printed_or_on_a_command_line(host: Host) -> None:
    told = host.boot(script()) + host.start()
    told += "".join(json.dumps(call["argv"]) for name in ("systemctl", "docker") for call in host.called(name))
    assert "lines, " not in told
    assert "engine-secret-77" not in told


def test_the_engine_runs_in_its_image_with_the_same_command_line(host: Host) -> None:
    host.boot(script())
    host.start()
    pull, remove, run = host.called("docker")
    argv = run["argv"]
    command = ["--entrypoint", "vllm", "org/image:1", "serve", "org/model", "--port", "8000"]
    assert (pull["argv"], remove["argv"]) == (["pull", "org/image:1"], ["rm", "-f", CONTAINER])
    assert argv[argv.index("--entrypoint") :] == command
    assert ("--gpus", "all") in pairwise(argv)
    assert f"{host.root}/machine:{host.root}/machine:ro" in argv
    assert run["env"]["VLLM_API_KEY"] == "engine-secret-77"


def test_the_container_gets_the_engines_variables_and_not_the_hosts(host: Host) -> None:
    host.boot(script())
    host.start()
    argv = host.called("docker")[-1]["argv"]
    passed = {name for flag, name in pairwise(argv) if flag == "-e"}
    assert {"VLLM_API_KEY", "PLAIN"} <= passed
    assert not {"PATH", "HOME", "LANG"} & passed
    assert not [name for name in passed if name.startswith("SPOTINFER_")]


@pytest.mark.parametrize("missing", ["nvidia-ctk", "docker"])
def test_docker_and_the_toolkit_are_installed_where_one_is_missing(tmp_path: Path, missing: str) -> None:
    host = Host(tmp_path, without=missing)
    host.boot(script())
    assert not host.called("apt-get"), "not before the agent runs"
    if missing == "docker":  # and the stand-in installs nothing
        with pytest.raises(AssertionError, match="docker is missing and could not be installed"):
            host.start()
    else:
        host.start()
    assert [call["argv"][-1] for call in host.called("apt-get")] == ["update", "nvidia-container-toolkit"]
    assert host.called("systemctl")[-1]["argv"] == ["restart", "docker"]


def test_no_toolkit_is_needed_without_gpus(tmp_path: Path) -> None:
    host = Host(tmp_path, without="nvidia-ctk")
    bare = Offer(provider="aws", id="x", kind=OfferKind.ON_DEMAND, per_hour=None)
    host.boot(script(offer=bare))
    host.start()
    assert not host.called("apt-get")
    assert "--gpus" not in host.called("docker")[-1]["argv"]


def test_without_an_image_the_host_runs_the_command_alone(host: Host) -> None:
    host.boot(script(image=None, command=("sh", "-c", "exit 0")))
    host.start()
    assert host.called("systemctl")
    assert not host.called("docker")
    assert not list((host.root / "bin").iterdir())


def test_too_much_is_refused_with_the_sizes() -> None:
    with pytest.raises(ProviderError, match=r"has \d+ bytes, and the cloud allows 4000") as raised:
        user_data(make_spec(env={"BIG": Secret("x" * 5000)}), limit=4000)
    assert "xxxx" not in str(raised.value)


@pytest.mark.parametrize("env", [{"A B": "x"}, {"1A": "x"}, {"A;id": "x"}, {"A": "nul\0"}])
def test_a_variable_that_cannot_be_written_is_refused(env: dict[str, str]) -> None:
    with pytest.raises(ProviderError, match="cannot be a variable"):
        script(env=env)


def test_the_compressed_form_does_the_same(tmp_path: Path) -> None:
    packed = base64.b64encode(zlib.compress(b"packed before")).decode()
    ours = {"SPOTINFER_CONFIG": Secret(NASTY), "SPOTINFER_AGENT": packed, "SPOTINFER_SAME": Secret(packed)}
    spec = make_spec(env={**ours, "PACKED": packed, "EMPTY": ""})
    plain, small = Host(tmp_path / "plain"), Host(tmp_path / "small")
    plain.boot(user_data(spec, limit=PLENTY))
    small.boot(gzip.decompress(compressed_user_data(spec, limit=16_384)).decode())
    for host in (plain, small):
        host.start()
    seen, wanted = (json.loads((host.root / "machine.json").read_text()) for host in (small, plain))
    for name in ("SPOTINFER_AGENT", "SPOTINFER_SAME"):
        assert zlib.decompress(base64.b64decode(seen[name])) == b"packed before"
    for name in ("SPOTINFER_CONFIG", "PACKED", "EMPTY"):
        assert seen[name] == wanted[name]
    for file in ("start", "bin/vllm"):
        assert (small.root / file).read_text() == (plain.root / file).read_text()


def test_the_compressed_form_is_always_the_same_bytes() -> None:
    assert compressed_user_data(make_spec(), limit=16_384) == compressed_user_data(make_spec(), limit=16_384)


def test_a_failure_of_the_compressed_form_is_seen_by_cloud_init(tmp_path: Path) -> None:
    host = Host(tmp_path, without="systemctl")
    with pytest.raises(AssertionError, match="systemctl"):
        host.boot(gzip.decompress(compressed_user_data(make_spec(), limit=16_384)).decode())


def test_a_real_launch_fits_into_what_aws_allows() -> None:
    secrets = issue("si-0123456789abcdef", timedelta(days=1), datetime.now(timezone.utc))
    engine, model = VllmEngine(), Model(source="org/model", served_name="org/model")
    settings = EngineSettings(hf_token=Secret("hf_" + "x" * 34), extra=("--max-model-len", "8192"))
    spec = instance_spec(
        secrets=secrets,
        owner="0123456789abcdef",
        name="n",
        offer=OFFER,
        engine=engine,
        command=engine.command(model, settings, HostView(gpus=1, local=False), secrets.api_key.reveal()),
        limits=Limits(),
        local=False,
    )
    assert 10_000 < len(compressed_user_data(spec, limit=16_384)) < 15_500, "the agent will grow"
