"""llama.cpp by ``xllamacpp``: the embedded engine, for GGUF files on this computer. No TLS: the agent relays it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from ..core.errors import (
    BadEngineOption,
    ConfigError,
    ModelNotFound,
    OutOfMemory,
    PortTaken,
    ServerError,
    StartFailed,
    UnsupportedModel,
)
from ..core.model import EngineCommand, EngineSettings, MetricNames, Model, Phase
from ..core.protocols import Host
from ..core.secret import Secret
from .gguf import Facts, NotGguf, read_facts
from .loglines import Failure, PhaseMark, read_failure, read_phase

SLOTS = 16
"""Requests that run at once where the settings do not say; more wait in the engine's queue."""
CONTEXT = 4096
"""Tokens per slot where the settings do not say and the model could do more: every slot's memory is taken at once."""
NOT_INSTALLED = "xllamacpp is not installed (pip install 'spotinfer[local]')"


class LlamaCppEngine:
    """Implements :class:`~spotinfer.core.protocols.Engine`.

    ``EngineSettings.extra`` sets parameters of xllamacpp's ``CommonParams`` (``--n-gpu-layers 20``).
    """

    name: ClassVar[str] = "llamacpp"
    format: ClassVar[str] = "gguf"
    closes_streams: ClassVar[bool] = True
    metrics_path: ClassVar[str] = "/metrics"
    metrics: ClassVar[MetricNames] = MetricNames(
        busy=("llamacpp:requests_processing", "llamacpp:requests_deferred"),
        progress=("llamacpp:n_decode_total",),
        prompt_tokens="llamacpp:prompt_tokens_total",
        cached_tokens="llamacpp:prompt_tokens_cached_total",
        generated_tokens="llamacpp:tokens_predicted_total",
        prompt_includes_cached=False,
    )

    def unavailable(self, model: Model, host: Host) -> str | None:
        if model.format not in ("gguf", "tiny"):
            return f"llama.cpp needs a GGUF file; {model.source} is not one"
        if not host.local:
            return "llama.cpp runs on this computer only"
        return None if find_spec("xllamacpp") else NOT_INSTALLED

    def command(self, model: Model, settings: EngineSettings, host: Host, api_key: str) -> EngineCommand:
        """Raises :class:`ModelNotFound`, :class:`UnsupportedModel`, :class:`ConfigError`."""
        if model.path is None:
            raise ConfigError(f"{model.source} has no file yet", hint="resolve the model for this engine first")
        facts = _facts(model.path)
        slots = SLOTS if settings.slots is None else settings.slots
        options = {
            "--model": model.path,
            "--alias": model.served_name,
            "--host": "{host}",
            "--port": "{port}",
            "--slots": str(slots),
            "--context": str(settings.context or min(CONTEXT, facts.context or CONTEXT)),
        }
        # Rounding keys and values to 16 bits would be coarser than such weights are, and differ from other engines.
        exact = ["--exact"] if facts.full_precision else []
        launcher = Path(__file__).with_name("launchers") / "start_llamacpp.py"
        words = [word for option in options.items() for word in option]
        return EngineCommand(
            argv=(sys.executable, str(launcher), *words, *exact, *settings.extra),
            env={"LLAMA_API_KEY": Secret(api_key), **settings.env},
        )

    def phase(self, line: str) -> tuple[Phase, str] | None:
        return read_phase(line, PHASES)

    def diagnose(self, log: Sequence[str], exit_code: int | None) -> ServerError:
        return read_failure("llama.cpp", log, exit_code, FAILURES, SUMMARIES)


def _facts(path: str) -> Facts:
    try:
        return read_facts(Path(path))
    except NotGguf as error:
        raise UnsupportedModel(f"{path} is not a GGUF file: {error}", hint=_DOWNLOAD) from error
    except OSError as error:
        raise ModelNotFound(f"{path} cannot be read: {error.strerror}", hint="check the path") from error


_DOWNLOAD = "download the file again, and compare its size"

PHASES = (
    PhaseMark(r"\bserves \S+ on http", Phase.PROBE, "the server is up, generating one token"),
    PhaseMark(r"\bmodel loaded\b|listening on http", Phase.PROBE, "the server is up, generating one token"),
    PhaseMark(
        r"n_slots = (?P<slots>\d+), n_ctx_slot = (?P<context>\d+)", Phase.PROFILING, "{slots} slots of {context} tokens"
    ),
    PhaseMark(r"warming up", Phase.PROFILING, "warming up"),
    PhaseMark(r"loading model", Phase.WEIGHTS, "loading weights"),
)

SUMMARIES = (
    r"Failed to init server",
    r"failed to load model",
    r"llama_model_load_from_file_impl",
    r"exiting due to",
    r"common_init_",
)

FAILURES = (
    Failure(
        r"unknown option (?P<option>\S+)|invalid value for option (?P<other>\S+)",
        BadEngineOption,
        "llama.cpp does not take an option: {line}",
        "options are the parameters of xllamacpp's CommonParams, for example --n-gpu-layers 20",
    ),
    Failure(
        r"couldn't bind HTTP server socket.*port: (?P<port>\d+)",
        PortTaken,
        "port {port} is taken by another program",
        "choose another port, or none: any free one is taken then",
    ),
    Failure(
        r"failed to open GGUF file '(?P<path>[^']+)' \((?P<why>[^)]+)\)",
        ModelNotFound,
        "{path} cannot be opened: {why}",
        "check the path of the model",
    ),
    Failure(
        r"invalid magic characters|gguf_init_from_\w+: .*(?:bad|invalid|version)",
        UnsupportedModel,
        "the model's file is not a GGUF file: {line}",
        "llama.cpp reads GGUF files only; convert the model, or use vLLM",
    ),
    Failure(
        r"not within the file bounds|model is corrupted or incomplete|failed to read (?:tensor|key)",
        UnsupportedModel,
        "the model's file is incomplete: {line}",
        _DOWNLOAD,
    ),
    Failure(
        r"unknown model architecture: '(?P<architecture>[^']+)'",
        UnsupportedModel,
        "this llama.cpp does not know the architecture {architecture}",
        "pip install --upgrade xllamacpp, or use vLLM",
    ),
    Failure(
        r"bad_alloc|unable to allocate|failed to allocate|out of memory|OutOfMemory|cudaMalloc failed|"
        r"Insufficient Memory",
        OutOfMemory,
        "llama.cpp ran out of memory: {line}",
        "use a shorter context, fewer slots, or a smaller model (context and slots multiply)",
    ),
    Failure(
        r"error loading model: (?P<why>(?!.*failed to load model).+)",
        UnsupportedModel,
        "llama.cpp cannot load the model: {why}",
        "the file may be damaged or too new: download it again, or pip install --upgrade xllamacpp",
    ),
    Failure(
        r"failed to (?:create|initialize the) context\b.*",
        StartFailed,
        "llama.cpp cannot make room for the context: {line}",
        "use a shorter context or fewer slots",
    ),
    Failure(
        r"LLAMA_API_KEY is not set|xllamacpp cannot be imported",
        StartFailed,
        "{line}",
        "pip install --force-reinstall 'spotinfer[local]'",
    ),
)
