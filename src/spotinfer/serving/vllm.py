"""vLLM: the engine for GPUs, here and on rented machines. It demands client certificates itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from ..core.errors import ConfigError, ServerError
from ..core.model import EngineCommand, EngineSettings, MetricNames, Model, Phase
from ..core.protocols import Host
from ..core.secret import Secret
from .loglines import read_failure, read_phase
from .vllm_install import Installation, find_vllm
from .vllm_lines import FAILURES, PHASES, SUMMARIES

VERSION = "0.32.0"
IMAGE = f"vllm/vllm-openai:v{VERSION}"
"""What rented machines run. Its CUDA is 13: the host needs driver 580 or later."""

# vLLM's key guards only some paths; /invocations and /metrics answer anybody. Client certificates guard all of them.
MUTUAL_TLS = (
    ("--ssl-certfile", "{dir}/tls/server.pem"),
    ("--ssl-keyfile", "{dir}/tls/server.pem"),
    ("--ssl-ca-certs", "{dir}/tls/ca.pem"),
    ("--ssl-cert-reqs", "2"),
)
OURS = (*(name for name, _ in MUTUAL_TLS), "--host", "--port", "--uds", "--api-key", "--served-model-name")
"""Options that decide who reaches the engine, and how: given again they would replace ours, which stand before them."""
# Bytes, since a fraction of the memory of a computer that others use too fails at the start.
ON_CPU = ("--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", "256M")
QUIET: Mapping[str, str] = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


class VllmEngine:
    """Implements :class:`~spotinfer.core.protocols.Engine`. ``EngineSettings.extra`` are options of ``vllm serve``.

    ``python`` is the interpreter in whose environment vLLM is on this computer (the setting ``vllm_python``).
    """

    name: ClassVar[str] = "vllm"
    format: ClassVar[str] = "safetensors"
    closes_streams: ClassVar[bool] = False
    metrics_path: ClassVar[str] = "/metrics"
    metrics: ClassVar[MetricNames] = MetricNames(
        busy=("vllm:num_requests_running", "vllm:num_requests_waiting"),
        progress=("vllm:prompt_tokens_total", "vllm:generation_tokens_total"),
        prompt_tokens="vllm:prompt_tokens_total",
        cached_tokens="vllm:prompt_tokens_cached_total",
        generated_tokens="vllm:generation_tokens_total",
        prompt_includes_cached=True,
    )

    def __init__(self, python: str | None = None) -> None:
        self._python = python

    def unavailable(self, model: Model, host: Host) -> str | None:
        if model.format == "gguf":
            return "vLLM does not read GGUF files (a plug-in of vLLM would)"
        if not host.local:
            if model.format == "hub":
                return None
            return f"a rented machine cannot see {model.path or model.source}, which is on this computer"
        found = find_vllm(self._python)
        return found if isinstance(found, str) else None

    def command(self, model: Model, settings: EngineSettings, host: Host, api_key: str) -> EngineCommand:
        """Raises :class:`ConfigError` where vLLM is not installed, and for further options that are :data:`OURS`."""
        _refuse_ours(settings.extra)
        found = find_vllm(self._python) if host.local else Installation(argv=("vllm",), version=VERSION)
        if isinstance(found, str):
            raise ConfigError(found, hint="`spotinfer doctor` shows which engines are here")
        if model.format == "tiny" and model.path is None:
            raise ConfigError(f"{model.source} has no folder yet", hint="resolve the model for this engine first")
        on_cpu = host.local and (host.gpus == 0 or found.cpu)
        options = [word for option in _options(model, settings) for word in option]
        return EngineCommand(
            argv=(
                *(*found.argv, "serve", model.path or model.source),
                *options,
                *("--enable-prompt-tokens-details", "--disable-uvicorn-access-log"),
                *(ON_CPU if on_cpu else ()),
                *settings.extra,
            ),
            env=_environment(model, settings, api_key, on_cpu=on_cpu),
            tls=True,
            image=None if host.local else IMAGE,
        )

    def phase(self, line: str) -> tuple[Phase, str] | None:
        return read_phase(line, PHASES)

    def diagnose(self, log: Sequence[str], exit_code: int | None) -> ServerError:
        return read_failure("vLLM", log, exit_code, FAILURES, SUMMARIES)


def _refuse_ours(extra: Sequence[str]) -> None:
    for word in extra:
        name = word.partition("=")[0].replace("_", "-")  # vLLM takes both, and any beginning that is unambiguous
        if len(name) > 3 and any(ours.startswith(name) for ours in OURS):
            raise ConfigError(
                f"spotinfer sets vLLM's option {name} itself",
                hint="leave it out: with another value strangers might get in, or you might not",
            )


def _options(model: Model, settings: EngineSettings) -> Iterator[tuple[str, str]]:
    yield "--host", "{host}"
    yield "--port", "{port}"
    yield "--served-model-name", model.served_name
    yield from MUTUAL_TLS
    if model.revision is not None and model.path is None:
        yield "--revision", model.revision
    if settings.context is not None:
        yield "--max-model-len", str(settings.context)
    if settings.slots is not None:
        yield "--max-num-seqs", str(settings.slots)


def _environment(model: Model, settings: EngineSettings, api_key: str, *, on_cpu: bool) -> Mapping[str, Secret | str]:
    env: dict[str, Secret | str] = {**QUIET, "VLLM_API_KEY": Secret(api_key)}
    if settings.hf_token is not None:
        env["HF_TOKEN"] = settings.hf_token
    if model.path is not None:
        env["HF_HUB_OFFLINE"] = "1"
    if on_cpu:
        env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # binding fails where a container may not use every core
        if model.format == "tiny" or model.source == "tiny":
            env["OMP_NUM_THREADS"] = "1"  # more threads would only wait for each other
    return {**env, **settings.env}
