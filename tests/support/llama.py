"""A real llama.cpp server with the tiny model, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spotinfer.core.model import Endpoint

_SERVE = """
import sys
from pathlib import Path
import xllamacpp
from spotinfer.serving.tiny import tiny_model
params = xllamacpp.CommonParams()
params.model.path = str(tiny_model(Path(sys.argv[1], "tiny.gguf"), format="gguf"))
params.port, params.n_parallel, params.n_ctx, params.endpoint_metrics = 0, 16, 16 * 512, True
params.cpuparams.n_threads = 2
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Counters:
    prompt: int
    cached: int
    completion: int


@dataclass(frozen=True)
class Llama:
    endpoint: Endpoint

    def counters(self) -> Counters:
        """The engine's own; ``prompt`` includes cached tokens."""
        with urllib.request.urlopen(f"http://{self.endpoint}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found = {name: float(value) for name, _, value in (line.partition(" ") for line in lines if line[0] != "#")}
        cached = int(found["llamacpp:prompt_tokens_cached_total"])
        processed = int(found["llamacpp:prompt_tokens_total"])
        return Counters(processed + cached, cached, int(found["llamacpp:tokens_predicted_total"]))


@contextmanager
def llama_server(folder: Path) -> Iterator[Llama]:
    with subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            host, _, port = process.stdout.readline().strip().removeprefix("http://").rpartition(":")
            yield Llama(Endpoint(host=host, port=int(port)))
        finally:
            process.kill()
