"""Command lines of both engines, and where vLLM is found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from spotinfer.core.errors import ConfigError
from spotinfer.core.model import EngineCommand, EngineSettings, Model
from spotinfer.core.secret import Secret
from spotinfer.serving import vllm_install
from spotinfer.serving.llamacpp import CONTEXT, SLOTS, LlamaCppEngine
from spotinfer.serving.metrics import Tokens, tokens
from spotinfer.serving.tiny import tiny_model
from spotinfer.serving.vllm import IMAGE, VllmEngine
from spotinfer.serving.vllm_install import VARIABLE, find_vllm

REMOTE, GPU, CPU = (SimpleNamespace(local=local, gpus=gpus) for local, gpus in ((False, 1), (True, 1), (True, 0)))
KEY = "sk-very-secret"
HUB = Model(source="a/b", served_name="a/b", revision="r1", format="hub")


def value(command: EngineCommand, option: str) -> str:
    return command.argv[command.argv.index(option) + 1]


def hidden(command: EngineCommand) -> bool:
    return KEY not in repr(command) and KEY not in " ".join(command.argv)


@pytest.fixture
def gguf(tmp_path: Path) -> Model:
    path = tiny_model(tmp_path / "m.gguf", "gguf")
    return Model(source="m.gguf", served_name="m", path=str(path), format="gguf")


def fake_python(folder: Path, **versions: str) -> Path:
    """A Python of another environment, in which the given distributions are installed."""
    for name, version in versions.items():
        info = folder / "site" / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Name: {name.replace('_', '-')}\nVersion: {version}\n")
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}/site" exec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    python = fake_python(tmp_path / "with-vllm", vllm="0.32.0")
    monkeypatch.setenv(VARIABLE, str(python))
    return python


# --- llama.cpp -----------------------------------------------------------------------------------------------------


def test_llamacpp_listens_where_the_agent_says_and_takes_its_key_from_the_environment(gguf: Model) -> None:
    command = LlamaCppEngine().command(gguf, EngineSettings(), CPU, KEY)
    assert (value(command, "--host"), value(command, "--port")) == ("{host}", "{port}")
    assert (value(command, "--model"), value(command, "--alias")) == (gguf.path, "m")
    assert command.env["LLAMA_API_KEY"] == Secret(KEY)
    assert hidden(command)
    assert not command.tls
    assert command.image is None
    assert command.argv[0] == sys.executable
    assert Path(command.argv[1]).is_file()


def test_llamacpp_gives_every_slot_the_models_context(gguf: Model, tmp_path: Path) -> None:
    command = LlamaCppEngine().command(gguf, EngineSettings(), CPU, KEY)
    assert (value(command, "--slots"), value(command, "--context")) == (str(SLOTS), "2048")
    command = LlamaCppEngine().command(gguf, EngineSettings(slots=2, context=512), CPU, KEY)
    assert (value(command, "--slots"), value(command, "--context")) == ("2", "512")
    long = tiny_model(tmp_path / "long.gguf", "gguf", context=131072)
    model = Model(source="long", served_name="long", path=str(long), format="gguf")
    assert value(LlamaCppEngine().command(model, EngineSettings(), CPU, KEY), "--context") == str(CONTEXT)


def test_full_precision_weights_are_computed_in_full_precision(gguf: Model, tmp_path: Path) -> None:
    assert "--exact" in LlamaCppEngine().command(gguf, EngineSettings(), CPU, KEY).argv
    assert gguf.path is not None
    key = b"general.file_type\4\0\0\0"
    data = Path(gguf.path).read_bytes()
    (tmp_path / "half.gguf").write_bytes(data.replace(key + b"\0", key + b"\1"))
    half = Model(source="half", served_name="half", path=str(tmp_path / "half.gguf"), format="gguf")
    assert "--exact" not in LlamaCppEngine().command(half, EngineSettings(), CPU, KEY).argv


def test_own_options_and_variables_come_last(gguf: Model, vllm: Path) -> None:
    settings = EngineSettings(extra=("--a", "1"), env={"B": "2"})
    for engine, model in ((LlamaCppEngine(), gguf), (VllmEngine(), HUB)):
        command = engine.command(model, settings, CPU, KEY)
        assert command.argv[-2:] == ("--a", "1")
        assert command.env["B"] == "2"


# --- vLLM ----------------------------------------------------------------------------------------------------------


def test_vllm_demands_client_certificates_and_the_key(vllm: Path) -> None:
    command = VllmEngine().command(HUB, EngineSettings(), GPU, KEY)
    assert command.tls
    assert value(command, "--ssl-cert-reqs") == "2"
    assert value(command, "--ssl-ca-certs") == "{dir}/tls/ca.pem"
    assert value(command, "--ssl-keyfile") == value(command, "--ssl-certfile") == "{dir}/tls/server.pem"
    assert (value(command, "--host"), value(command, "--port")) == ("{host}", "{port}")
    assert command.env["VLLM_API_KEY"] == Secret(KEY)
    assert hidden(command)


def test_vllm_takes_what_the_settings_say(vllm: Path) -> None:
    settings = EngineSettings(context=1024, slots=8, hf_token=Secret("hf_secret"))
    command = VllmEngine().command(HUB, settings, GPU, KEY)
    serve = command.argv.index("serve")
    assert command.argv[serve + 1] == "a/b"
    assert value(command, "--served-model-name") == "a/b"
    assert value(command, "--revision") == "r1"
    assert value(command, "--max-model-len") == "1024"
    assert value(command, "--max-num-seqs") == "8"
    assert command.env["HF_TOKEN"] == Secret("hf_secret")
    assert "hf_secret" not in repr(command)
    assert "HF_HUB_OFFLINE" not in command.env


def test_a_local_model_needs_no_hub(vllm: Path) -> None:
    model = Model(source="m", served_name="m", path="/models/m", format="safetensors", revision="r1")
    command = VllmEngine().command(model, EngineSettings(), GPU, KEY)
    assert command.argv[command.argv.index("serve") + 1] == "/models/m"
    assert command.env["HF_HUB_OFFLINE"] == "1"
    assert "--revision" not in command.argv


def test_without_a_gpu_vllm_is_told_so(vllm: Path) -> None:
    command = VllmEngine().command(HUB, EngineSettings(), CPU, KEY)
    assert value(command, "--kv-cache-memory-bytes") == "256M"
    assert "--enforce-eager" in command.argv
    assert command.env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert "--enforce-eager" not in VllmEngine().command(HUB, EngineSettings(), GPU, KEY).argv


def test_a_cpu_build_cannot_use_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(fake_python(tmp_path, vllm_cpu="0.32.0")))
    assert "--enforce-eager" in VllmEngine().command(HUB, EngineSettings(), GPU, KEY).argv


def test_a_rented_machine_runs_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/nowhere/python")
    command = VllmEngine().command(HUB, EngineSettings(), REMOTE, KEY)
    assert command.argv[:3] == ("vllm", "serve", "a/b")
    assert command.image == IMAGE
    assert "--enforce-eager" not in command.argv


def test_tiny_must_have_become_a_folder(vllm: Path) -> None:
    tiny = Model(source="tiny", served_name="tiny", format="tiny")
    with pytest.raises(ConfigError):
        VllmEngine().command(tiny, EngineSettings(), CPU, KEY)
    with pytest.raises(ConfigError):
        LlamaCppEngine().command(tiny, EngineSettings(), CPU, KEY)


# --- where vLLM is -------------------------------------------------------------------------------------------------


def test_the_python_that_the_variable_names(vllm: Path) -> None:
    found = find_vllm()
    assert not isinstance(found, str)
    assert (found.argv[0], found.version, found.cpu) == (str(vllm), "0.32.0", False)


@pytest.mark.parametrize(("versions", "cpu"), [({"vllm": "0.32.0+cpu"}, True), ({"vllm_cpu": "0.32.0"}, True)])
def test_cpu_builds_are_told_apart(
    versions: dict[str, str], cpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(fake_python(tmp_path, **versions)))
    found = find_vllm()
    assert not isinstance(found, str)
    assert found.cpu is cpu


def test_a_variable_that_leads_nowhere_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    assert "cannot be run" in str(find_vllm())
    monkeypatch.setenv(VARIABLE, str(fake_python(tmp_path)))
    assert "has no vLLM" in str(find_vllm())
    with pytest.raises(ConfigError, match="has no vLLM"):
        VllmEngine().command(HUB, EngineSettings(), CPU, KEY)


def test_a_program_on_the_path_is_the_last_resort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if any(vllm_install._version_here(name) for name in vllm_install.DISTRIBUTIONS):
        pytest.skip("vLLM is installed in the environment of the tests, which comes before the path")
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "pip install vllm" in str(VllmEngine().unavailable(HUB, CPU))
    program = tmp_path / "vllm"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert VllmEngine().command(HUB, EngineSettings(), CPU, KEY).argv[:3] == (str(program), "serve", "a/b")


def test_the_launcher_answers_for_the_cpu_distribution(tmp_path: Path) -> None:
    """What vLLM does at its start, in an environment that has only `vllm-cpu`."""
    python = fake_python(tmp_path, vllm_cpu="0.32.0")
    package = tmp_path / "site" / "vllm" / "entrypoints" / "cli"
    package.mkdir(parents=True)
    (package / "main.py").write_text(
        "import importlib.metadata, json, sys\n"
        "def main():\n"
        "    try:\n"
        "        importlib.metadata.version('no-such-thing')\n"
        "    except importlib.metadata.PackageNotFoundError:\n"
        "        print(json.dumps([importlib.metadata.version('vllm'), sys.argv]))\n"
    )
    launcher = Path(vllm_install.__file__).with_name("launchers") / "start_vllm.py"
    done = subprocess.run([python, launcher, "serve", "m"], capture_output=True, text=True, timeout=20, check=True)
    assert json.loads(done.stdout) == ["0.32.0+cpu", ["vllm", "serve", "m"]]


# --- counters ------------------------------------------------------------------------------------------------------


def test_token_totals_follow_one_convention() -> None:
    llamacpp, vllm = LlamaCppEngine.metrics, VllmEngine.metrics
    counters = {llamacpp.prompt_tokens: 10.0, llamacpp.cached_tokens: 4.0, llamacpp.generated_tokens: 7.0}
    assert tokens(counters, llamacpp) == Tokens(prompt=14, cached=4, generated=7)
    counters = {vllm.prompt_tokens: 14.0, vllm.cached_tokens: 4.0, vllm.generated_tokens: 7.0}
    assert tokens(counters, vllm) == Tokens(prompt=14, cached=4, generated=7)
    assert tokens({}, vllm) is None
