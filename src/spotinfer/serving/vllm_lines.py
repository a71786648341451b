"""What vLLM's log says (0.8 to 0.33), from its sources and from real starts. Read from the top, searched for."""

from __future__ import annotations

from ..core.errors import (
    BadEngineOption,
    CudaMismatch,
    ModelGated,
    ModelNotFound,
    OutOfMemory,
    PortTaken,
    StartFailed,
    UnsupportedModel,
)
from ..core.model import Phase
from .loglines import Failure, PhaseMark

PHASES = (
    PhaseMark(r"Application startup complete", Phase.PROBE, "the server is up, generating one token"),
    PhaseMark(r"Starting vLLM (?:API )?server\b.* on ", Phase.PROBE, "opening the port"),
    PhaseMark(r"init engine \(.*\) took (?P<seconds>[\d.]+)", Phase.GRAPHS, "engine initialised in {seconds} s"),
    PhaseMark(r"Graph capturing finished in (?P<seconds>\d+)", Phase.GRAPHS, "CUDA graphs captured in {seconds} s"),
    PhaseMark(r"Capturing CUDA graphs?\b.*?(?P<percent>\d+)%", Phase.GRAPHS, "capturing CUDA graphs {percent} %"),
    PhaseMark(r"Capturing CUDA graph", Phase.GRAPHS, "capturing CUDA graphs"),
    PhaseMark(r"KV cache size: (?P<tokens>[\d,]+) tokens", Phase.PROFILING, "KV cache for {tokens} tokens"),
    PhaseMark(r"Available KV cache memory: (?P<size>[\d.]+) GiB", Phase.PROFILING, "{size} GiB for the KV cache"),
    PhaseMark(r"torch\.compile (?:takes|took) (?P<seconds>[\d.]+)", Phase.PROFILING, "compiled in {seconds} s"),
    PhaseMark(
        r"Compiling a graph|Dynamo bytecode transform|Directly load .*compiled|Using cache directory: .*torch\.compile",
        Phase.PROFILING,
        "compiling kernels",
    ),
    PhaseMark(r"Model loading took (?P<size>[\d.]+) GiB", Phase.WEIGHTS, "weights loaded, {size} GiB"),
    PhaseMark(r"Loading weights took (?P<seconds>[\d.]+)", Phase.WEIGHTS, "weights read in {seconds} s"),
    PhaseMark(r"Loading \w+ checkpoint shards:\s+(?P<percent>\d+)%", Phase.WEIGHTS, "loading weights {percent} %"),
    PhaseMark(r"Time spent downloading weights for .*: (?P<seconds>\d+)", Phase.WEIGHTS, "downloaded in {seconds} s"),
    PhaseMark(r"Starting to load model", Phase.WEIGHTS, "downloading or reading weights"),
    PhaseMark(r"Initializing a V1 LLM engine \(v(?P<version>[^)]+)\)", Phase.WEIGHTS, "vLLM {version} starts"),
    PhaseMark(r"Downloaded newer image|Pull complete|Download complete", Phase.IMAGE, "the image is here"),
    PhaseMark(r"Pulling (?:from|image|fs layer)|Extracting\b", Phase.IMAGE, "pulling the image"),
)

SUMMARIES = (
    r"EngineCore failed to start",
    r"Engine core initialization failed",
    r"WorkerProc initialization failed",
    r"See root cause above",
    r"ERROR.*\bTraceback\b",
)

_SMALLER = "use a larger GPU, a smaller or quantised model, or a shorter context"
_DRIVER = "rent a machine with a newer driver (CUDA 13 images need 580 or later), or use an image for CUDA 12"

_OPTIONS = (
    Failure(
        r"error: unrecognized arguments: (?P<option>.+)",
        BadEngineOption,
        "vLLM does not know the option {option}",
        "`vllm serve --help=all` lists the options of its version",
    ),
    Failure(
        r"error: argument (?P<option>[^:]+): (?P<why>.+)",
        BadEngineOption,
        "vLLM refused the option {option}: {why}",
        "`vllm serve --help=all` lists the options of its version",
    ),
    Failure(
        r"User-specified max_model_len \((?P<asked>\d+)\) is greater than the derived max_model_len "
        r"\((?P<most>[^)]*\d+)\D*\)",
        BadEngineOption,
        "a context of {asked} tokens is more than the model was made for ({most})",
        "ask for a context that the model supports",
    ),
    Failure(
        r"Bfloat16 is only supported on GPUs with compute capability",
        BadEngineOption,
        "this GPU cannot compute in bfloat16: {line}",
        "pass the engine option --dtype half",
    ),
    Failure(
        r"World size \((?P<asked>\d+)\) is larger than the number of available GPUs \((?P<here>\d+)\)",
        BadEngineOption,
        "{asked} GPUs were asked for, the machine has {here}",
        "lower --tensor-parallel-size, or rent a machine with more GPUs",
    ),
)

_MODEL = (
    Failure(
        r"Cannot access gated repo for url (?P<url>\S+)|Access to model (?P<model>\S+) is restricted|"
        r"You are trying to access a gated repo",
        ModelGated,
        "the model is gated: its owner decides who may download it ({line})",
        "accept its terms on its page at huggingface.co, and set HF_TOKEN to a token of that account",
    ),
    Failure(
        r"Repository Not Found for url: (?P<url>\S+)|(?P<model>\S+) is not a local folder and is not a valid model "
        r"identifier",
        ModelNotFound,
        "the hub has no such model, or it is private: {url}{model}",
        "check the name; a private model needs HF_TOKEN",
    ),
    Failure(
        r"couldn't connect to '(?P<hub>\S+)'",
        ModelNotFound,
        "the machine cannot reach {hub}, and the model is not in its cache",
        "check the model's name and the machine's network; HF_ENDPOINT names another hub",
    ),
    Failure(
        r"Revision Not Found for url: (?P<url>\S+)|(?P<revision>\S+) is not a valid git identifier",
        ModelNotFound,
        "the model has no such revision: {url}{revision}",
        "check revision=: a branch, a tag or a commit of the model's repository",
    ),
    Failure(
        r"Invalid repository ID or local directory specified: '(?P<path>[^']*)'|"
        r"Repo id must be in the form .*: '(?P<id>[^']*)'",
        ModelNotFound,
        "vLLM finds no model at {path}{id}",
        "a folder needs config.json and safetensors files; a hub model is named owner/name",
    ),
    Failure(
        r"Cannot find any model weights with (?P<path>.+)",
        ModelNotFound,
        "there are no weights in {path}",
        "the folder needs safetensors files besides config.json",
    ),
    Failure(
        r"Couldn't instantiate the backend tokenizer|Can't load tokenizer for",
        ModelNotFound,
        "the model has no tokenizer that vLLM can read",
        "the folder needs tokenizer.json and tokenizer_config.json besides the weights",
    ),
    Failure(
        r"SafetensorError: (?P<why>.+)",
        UnsupportedModel,
        "the model's weights are incomplete or damaged: {why}",
        "download the safetensors files again, and compare their sizes",
    ),
    Failure(
        r"Model architecture (?P<name>\S+) was supported in vLLM until (?P<version>v[\d.]+)",
        UnsupportedModel,
        "vLLM supported the architecture {name} until {version} only",
        "use an older vLLM, or another model",
    ),
    Failure(
        r"[Mm]odel architectures? (?P<names>\[[^\]]*\])?.*(?:not supported|failed to be inspected)|"
        r"is not supported in-tree any\s?more",
        UnsupportedModel,
        "this vLLM does not know the model's architecture {names}",
        "use a newer vLLM, or another model",
    ),
    Failure(
        r"The checkpoint you are trying to load has model type [`'](?P<type>[^`']+)",
        UnsupportedModel,
        "this vLLM does not know the model type {type}",
        "use a newer vLLM, or another model",
    ),
    Failure(
        r"quantization method (?P<method>\S+) is not supported for the current GPU",
        UnsupportedModel,
        "this GPU cannot run the model's quantisation {method}: {line}",
        "rent a newer GPU, or use another quantisation of the model",
    ),
)

_MACHINE = (
    Failure(
        r"Address already in use|\[Errno 98\]|error while attempting to bind on address",
        PortTaken,
        "the port is taken by another program",
        "choose another port, or none: any free one is taken then",
    ),
    Failure(
        r"unsatisfied condition: (?P<condition>cuda\S*)",
        CudaMismatch,
        "the machine's driver is too old for the image, which needs {condition}",
        _DRIVER,
    ),
    Failure(
        r"NVIDIA driver on your system is too old|unsupported toolchain",
        CudaMismatch,
        "the machine's NVIDIA driver is too old for this vLLM: {line}",
        _DRIVER,
    ),
    Failure(
        r"Error 80[34]: |system has unsupported display driver|forward compatibility was attempted",
        CudaMismatch,
        "the machine's driver and the image's CUDA do not fit together: {line}",
        _DRIVER,
    ),
    Failure(
        r"no kernel image is available for execution on the device",
        CudaMismatch,
        "this vLLM was not built for the machine's GPU",
        "rent another GPU, or use a vLLM that was built for this one (0.20 and later: compute capability 7.5)",
    ),
    Failure(
        r"Failed to infer device type",
        CudaMismatch,
        "vLLM sees no GPU on the machine",
        "the container was started without its GPUs, or the driver does not run: look at nvidia-smi",
    ),
    Failure(
        r"/shm/nccl|No space left on device.*shm|unable to (?:open|allocate) shared memory",
        StartFailed,
        "the machine's shared memory is too small: {line}",
        "start the container with more of it (--shm-size 16g, or --ipc host)",
    ),
    Failure(
        r"No space left on device",
        StartFailed,
        "the machine's disk is full",
        "rent it with a larger disk: the image needs 30 GB besides the weights",
    ),
)

_MEMORY = (
    Failure(
        r"max seq len \((?P<asked>\d+)\).*?(?:estimated maximum model length is (?P<most>\d+)|$)",
        OutOfMemory,
        "the KV cache has no room for one request of {asked} tokens",
        "use a shorter context (vLLM estimates that {most} would fit), or a larger GPU",
    ),
    Failure(
        r"Free memory on device .* on startup is less than desired",
        OutOfMemory,
        "another program uses the GPU's memory: {line}",
        "end the other program, or pass --gpu-memory-utilization with a smaller fraction",
    ),
    Failure(
        r"Available memory on node .* is less than requested memory",
        OutOfMemory,
        "the computer has less memory than the KV cache is to have: {line}",
        "pass --kv-cache-memory-bytes with a smaller number, or end other programs",
    ),
    Failure(
        r"not enough GPU memory|No available memory for the cache blocks",
        OutOfMemory,
        "the model leaves no memory for the KV cache: {line}",
        _SMALLER,
    ),
    Failure(
        r"out of memory occurred when warming up",
        OutOfMemory,
        "the GPU's memory ran out at the warm-up: {line}",
        "pass --max-num-seqs with a smaller number, or use a larger GPU",
    ),
    Failure(
        r"CUDA out of memory|OutOfMemoryError|HIP out of memory|Cannot allocate memory|MemoryError|"
        r"Not enough memory|can't allocate memory",
        OutOfMemory,
        "vLLM ran out of memory: {line}",
        _SMALLER,
    ),
)

FAILURES = (*_OPTIONS, *_MODEL, *_MACHINE, *_MEMORY)
