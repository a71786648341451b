"""What the engines' logs mean, line by line. The lines of vLLM are those of its versions 0.8 to 0.33."""

from __future__ import annotations

import re
import signal

import pytest

from spotinfer.core.errors import (
    BadEngineOption,
    CudaMismatch,
    ModelGated,
    ModelNotFound,
    OutOfMemory,
    PortTaken,
    StartFailed,
    UnsupportedModel,
)
from spotinfer.core.model import Phase
from spotinfer.serving import llamacpp
from spotinfer.serving.llamacpp import LlamaCppEngine
from spotinfer.serving.loglines import TAIL, read_failure, read_phase
from spotinfer.serving.vllm import VllmEngine
from spotinfer.serving.vllm_lines import FAILURES, PHASES

VLLM, LLAMACPP = VllmEngine(), LlamaCppEngine()
CORE = "(EngineCore pid=71) INFO 11-21 02:52:49 [core.py:133] "
ERROR = "(EngineCore pid=71) ERROR 11-21 02:52:49 [core.py:700] "
BAR = "Loading safetensors checkpoint shards: "
KV = "GPU KV cache size: 123,456 tokens"


@pytest.mark.parametrize(
    ("line", "phase", "message"),
    [
        ("latest: Pulling from vllm/vllm-openai", Phase.IMAGE, "pulling the image"),
        ("Status: Downloaded newer image for vllm/vllm-openai:latest", Phase.IMAGE, "the image is here"),
        (CORE + "Initializing a V1 LLM engine (v0.32.0) with config: model='m'", Phase.WEIGHTS, "vLLM 0.32.0 starts"),
        (CORE + "Starting to load model m...", Phase.WEIGHTS, "downloading or reading weights"),
        (CORE + "Time spent downloading weights for m: 12.345678 seconds", Phase.WEIGHTS, "downloaded in 12 s"),
        (
            BAR + "  0% Completed | 0/4\r" + BAR + " 50% Completed | 2/4 [00:01<00:01]",
            Phase.WEIGHTS,
            "loading weights 50 %",
        ),
        (CORE + "Loading weights took 3.21 seconds", Phase.WEIGHTS, "weights read in 3.21 s"),
        (CORE + "Model loading took 15.2689 GiB and 9.123456 seconds", Phase.WEIGHTS, "weights loaded, 15.2689 GiB"),
        (CORE + "Model loading took 15.27 GiB memory and 9.1 seconds", Phase.WEIGHTS, "weights loaded, 15.27 GiB"),
        (CORE + "Using cache directory: /c/abc for vLLM's torch.compile", Phase.PROFILING, "compiling kernels"),
        ("Dynamo bytecode transform time: 4.2 s", Phase.PROFILING, "compiling kernels"),
        ("Compiling a graph for general shape takes 9 s", Phase.PROFILING, "compiling kernels"),
        ("Compiling a graph for dynamic shape takes 9 s", Phase.PROFILING, "compiling kernels"),
        ("Compiling a graph for compile range (1, 8192) takes 9.87 s", Phase.PROFILING, "compiling kernels"),
        ("torch.compile takes 14.25 s in total", Phase.PROFILING, "compiled in 14.25 s"),
        ("torch.compile took 14.25 s in total", Phase.PROFILING, "compiled in 14.25 s"),
        (CORE + "Available KV cache memory: 50.1 GiB", Phase.PROFILING, "50.1 GiB for the KV cache"),
        (CORE + KV, Phase.PROFILING, "KV cache for 123,456 tokens"),
        (
            CORE + KV + ", Maximum concurrency for 2,048 tokens per request: 9.00x",
            Phase.PROFILING,
            "KV cache for 123,456 tokens",
        ),
        ("Capturing CUDA graphs (decode, FULL):  25%|##   | 9/35", Phase.GRAPHS, "capturing CUDA graphs 25 %"),
        ("Capturing CUDA graph shapes: starting", Phase.GRAPHS, "capturing CUDA graphs"),
        ("Graph capturing finished in 12 secs, took 0.84 GiB", Phase.GRAPHS, "CUDA graphs captured in 12 s"),
        (
            "init engine (profile, create kv cache, warmup model) took 61.20 seconds",
            Phase.GRAPHS,
            "engine initialised in 61.20 s",
        ),
        (
            "init engine (profile, create kv cache, warmup model) took 1.1 s (compilation: 0.2 s)",
            Phase.GRAPHS,
            "engine initialised in 1.1 s",
        ),
        ("(APIServer pid=1) INFO Starting vLLM API server 0 on http://0.0.0.0:8000", Phase.PROBE, "opening the port"),
        ("(APIServer pid=1) INFO Starting vLLM server on https://127.0.0.1:18555", Phase.PROBE, "opening the port"),
        ("INFO:     Application startup complete.", Phase.PROBE, "the server is up, generating one token"),
    ],
)
def test_phases_of_vllm(line: str, phase: Phase, message: str) -> None:
    assert VLLM.phase(line) == (phase, message)


@pytest.mark.parametrize(
    ("line", "phase"),
    [
        ("0.00.005.493 I srv    load_model: loading model '/m.gguf'", Phase.WEIGHTS),
        ("0.1 I srv load_model: initializing, n_slots = 16, n_ctx_slot = 2048, kv_unified = 'false'", Phase.PROFILING),
        ("0.00.045.086 I srv          init: model loaded", Phase.PROBE),
        ("0.00.045.088 I srv          init: listening on http://127.0.0.1:1", Phase.PROBE),
        ("llama.cpp 2026.10 serves tiny on http://127.0.0.1:1", Phase.PROBE),
    ],
)
def test_phases_of_llamacpp(line: str, phase: Phase) -> None:
    found = LLAMACPP.phase(line)
    assert found is not None
    assert found[0] is phase


@pytest.mark.parametrize("line", ["", "INFO something else", "\r\r", "GPU 0: 17 GiB free", "{curly} %s {0}"])
def test_other_lines_say_nothing(line: str) -> None:
    assert VLLM.phase(line) is None
    assert LLAMACPP.phase(line) is None


@pytest.mark.parametrize(
    ("line", "error", "says"),
    [
        ("vllm: error: unrecognized arguments: --no-such-flag 3", BadEngineOption, "--no-such-flag 3"),
        (
            "serve: error: argument --dtype: invalid choice: 'float3'",
            BadEngineOption,
            "--dtype: invalid choice: 'float3'",
        ),
        (
            "ValueError: User-specified max_model_len (999999) is greater than the derived max_model_len "
            "(max_position_embeddings=2048.0 or model_max_length=None in model's config.json).",
            BadEngineOption,
            "999999 tokens is more",
        ),
        (
            "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla T4 GPU "
            "has compute capability 7.5. You can use float16 instead by explicitly setting the `dtype` flag",
            BadEngineOption,
            "bfloat16",
        ),
        ("World size (4) is larger than the number of available GPUs (1) in this node.", BadEngineOption, "4 GPUs"),
        ("Cannot access gated repo for url https://huggingface.co/a/b/resolve/main/config.json.", ModelGated, "gated"),
        ("Access to model a/b is restricted and you are not in the authorized list.", ModelGated, "gated"),
        ("OSError: You are trying to access a gated repo.", ModelGated, "gated"),
        ("Repository Not Found for url: https://huggingface.co/api/models/a/b.", ModelNotFound, "a/b"),
        ("OSError: a/b is not a local folder and is not a valid model identifier listed on", ModelNotFound, "a/b"),
        ("Revision Not Found for url: https://huggingface.co/a/b/resolve/r1/config.json.", ModelNotFound, "revision"),
        ("OSError: We couldn't connect to 'https://huggingface.co' to load the files", ModelNotFound, "cannot reach"),
        (
            "ValueError: Available memory on node 0 (7.07/8.59 GiB) on kv cache allocation is less than requested "
            "memory for kv (9000.0 GiB). Decrease --kv-cache-memory-bytes",
            OutOfMemory,
            "7.07/8.59 GiB",
        ),
        ("RuntimeError: Cannot find any model weights with `/models/m`", ModelNotFound, "/models/m"),
        (
            "safetensors._safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata",
            UnsupportedModel,
            "incomplete or damaged",
        ),
        ("ValueError: Couldn't instantiate the backend tokenizer from one of: ", ModelNotFound, "no tokenizer"),
        (
            "ValueError: Model architectures ['FooForCausalLM'] are not supported for now. Supported architectures: x",
            UnsupportedModel,
            "['FooForCausalLM']",
        ),
        ("Model architectures ['FooForCausalLM'] failed to be inspected.", UnsupportedModel, "['FooForCausalLM']"),
        (
            "Model architecture FooLM was supported in vLLM until v0.9.2, and is not supported anymore.",
            UnsupportedModel,
            "until v0.9.2",
        ),
        ("FooLM is not supported in-tree anymore. Please install the plugin at x", UnsupportedModel, "architecture"),
        (
            "ValueError: The checkpoint you are trying to load has model type `foo` but Transformers does not",
            UnsupportedModel,
            "model type foo",
        ),
        (
            "The quantization method fp8 is not supported for the current GPU. Minimum capability: 80. Current: 75.",
            UnsupportedModel,
            "quantisation fp8",
        ),
        ("OSError: [Errno 98] Address already in use", PortTaken, "port"),
        (
            "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=13.0, please update your driver",
            CudaMismatch,
            "cuda>=13.0",
        ),
        (
            "RuntimeError: The NVIDIA driver on your system is too old (found version 12080). Please update",
            CudaMismatch,
            "found version 12080",
        ),
        ("RuntimeError: the provided PTX was compiled with an unsupported toolchain.", CudaMismatch, "too old"),
        ("Error 803: system has unsupported display driver / cuda driver combination", CudaMismatch, "do not fit"),
        ("Error 804: forward compatibility was attempted on non supported HW", CudaMismatch, "do not fit"),
        ("CUDA error: no kernel image is available for execution on the device", CudaMismatch, "not built"),
        ("RuntimeError: Failed to infer device type, please set the environment variable", CudaMismatch, "no GPU"),
        (
            "Error while creating shared memory segment /dev/shm/nccl-Ab12 (size 9637888), error: No space left on "
            "device (28)",
            StartFailed,
            "shared memory is too small",
        ),
        ("OSError: [Errno 28] No space left on device: '/root/.cache/x'", StartFailed, "disk is full"),
        (
            "ValueError: To serve at least one request with the model's max seq len (131072), (16.00 GiB KV cache is "
            "needed, which is larger than the available KV cache memory (7.55 GiB). Based on the available memory, the "
            "estimated maximum model length is 61840. Try increasing",
            OutOfMemory,
            "131072 tokens",
        ),
        (
            "ValueError: Free memory on device cuda:0 (1.2/79.3 GiB) on startup is less than desired GPU memory "
            "utilization (0.9, 71.3 GiB). Decrease",
            OutOfMemory,
            "another program",
        ),
        (
            "Failed to load model - not enough GPU memory. Try lowering --gpu-memory-utilization",
            OutOfMemory,
            "KV cache",
        ),
        ("ValueError: No available memory for the cache blocks. Try increasing", OutOfMemory, "KV cache"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", OutOfMemory, "2.00 GiB"),
        (
            "RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy requests. Please try",
            OutOfMemory,
            "warm-up",
        ),
    ],
)
def test_failures_of_vllm(line: str, error: type[StartFailed], says: str) -> None:
    log = [
        CORE + "Initializing a V1 LLM engine (v0.32.0)",
        ERROR + "EngineCore failed to start.",
        ERROR + "Traceback (most recent call last):",
        ERROR + line,
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    ]
    found = VLLM.diagnose(log, 1)
    assert type(found) is error
    assert says in found.message
    assert "EngineCore pid" not in found.message
    assert found.hint
    assert found.log == tuple(log)


def test_an_estimate_of_vllm_reaches_the_hint() -> None:
    line = (
        "ValueError: To serve at least one request with the model's max seq len (131072), (16.00 GiB KV cache is "
        "needed, which is larger than the available KV cache memory (7.55 GiB). Based on the available memory, the "
        "estimated maximum model length is 61840."
    )
    assert "61840" in str(VLLM.diagnose([line], 1).hint)


def test_the_first_error_is_the_cause_and_summaries_are_not() -> None:
    log = [
        ERROR + "EngineCore failed to start.",
        ERROR + "ZeroDivisionError: division by zero",
        ERROR + "ValueError: the second",
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    ]
    found = VLLM.diagnose(log, 1)
    assert type(found) is StartFailed
    assert found.message == "vLLM ended with exit code 1: ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("code", "says"),
    [(3, "exit code 3"), (-signal.SIGSEGV, "signal SIGSEGV"), (-250, "signal 250"), (None, "did not become ready")],
)
def test_a_log_that_says_nothing(code: int | None, says: str) -> None:
    for engine in (VLLM, LLAMACPP):
        found = engine.diagnose([], code)
        assert type(found) is StartFailed
        assert says in found.message
        assert found.hint


def test_a_warning_that_quotes_an_error_is_not_the_cause() -> None:
    warning = (
        "(APIServer pid=9) WARNING 11-21 03:02:54 [system_utils.py:255] Found ulimit of 20000 and failed to increase. "
        "This can cause errors like `OSError: [Errno 24] Too many open files`, or CUDA out of memory"
    )
    assert type(VLLM.diagnose([warning, "KeyError: 'x'"], 1)) is StartFailed
    assert VLLM.diagnose([warning, "KeyError: 'x'"], 1).message.endswith("KeyError: 'x'")
    llamacpp_warning = "0.00.006.948 W llama_context: unable to allocate what was asked for, using less"
    assert type(LLAMACPP.diagnose([llamacpp_warning], 1)) is StartFailed


@pytest.mark.parametrize("code", [-signal.SIGKILL, 137])
def test_a_killed_engine_most_likely_ran_out_of_memory(code: int) -> None:
    assert type(LLAMACPP.diagnose(["loading"], code)) is OutOfMemory


def test_only_the_tail_is_kept() -> None:
    found = VLLM.diagnose(["CUDA out of memory"] + [f"line {number}" for number in range(5000)], 1)
    assert type(found) is OutOfMemory
    assert len(found.log) == TAIL
    assert found.log[-1] == "line 4999"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("E gguf_init_from_reader: invalid magic characters: 'not ', expected 'GGUF'", UnsupportedModel),
        ("E gguf_init_from_file: failed to open GGUF file '/m.gguf' (No such file or directory)", ModelNotFound),
        (
            "E llama_model_load: error loading model: error loading model hyperparameters: key not found",
            UnsupportedModel,
        ),
        ("E ggml_gallocr_reserve_n_impl: failed to allocate CUDA0 buffer of size 99", OutOfMemory),
        ("E ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory", OutOfMemory),
        ("E llama_init_from_model: failed to initialize the context: n_ctx is too small", StartFailed),
    ],
)
def test_failures_of_llamacpp(line: str, error: type[StartFailed]) -> None:
    log = [
        line,
        "E llama_model_load: error loading model: llama_model_loader: failed to load model from /m.gguf",
        "E srv          init: exiting due to model loading error",
        "error: llama.cpp did not start: Failed to init server, please check the input params.",
    ]
    found = LLAMACPP.diagnose(log, 1)
    assert type(found) is error
    assert found.hint


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("2026-11-21T03:00:00Z agent: cannot listen on 127.0.0.1:8000: Address already in use", PortTaken),
        ("cannot start /no/python: [Errno 2] No such file or directory: '/no/python'", StartFailed),
    ],
)
def test_failures_of_the_agent_are_known_for_every_engine(line: str, error: type[StartFailed]) -> None:
    for engine in (VLLM, LLAMACPP):
        found = engine.diagnose([line], 127)
        assert type(found) is error
        assert "127" not in found.message.replace("127.0.0.1", "")


def test_every_row_can_be_formatted() -> None:
    """A message or a hint that names a group which its pattern lacks would fail in front of a user."""
    for failure in (*FAILURES, *llamacpp.FAILURES):
        groups = dict.fromkeys(re.compile(failure.pattern).groupindex, "x")
        assert failure.message.format(**groups, line="l")
        assert failure.hint.format(**groups, line="l")
    for mark in (*PHASES, *llamacpp.PHASES):
        assert mark.message.format(**dict.fromkeys(re.compile(mark.pattern).groupindex, "x"))


def test_tables_are_data() -> None:
    assert read_phase("a b c", []) is None
    assert type(read_failure("x", ["y"], 1, [], [])) is StartFailed
