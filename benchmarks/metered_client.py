"""CPU that our metering adds to the plain ``openai`` client, on the same server, in interleaved pairs.

    python benchmarks/metered_client.py                  # a canned server in another process: only the client's CPU
    python benchmarks/metered_client.py --server llama   # llama.cpp with the tiny model
    python benchmarks/metered_client.py --json

Each pair runs two plain clients and a metered one in random order. A/B is metered over plain; A/A is plain over plain,
the noise of this computer. A chunk's cost is the slope between a short and a long stream; what a stream
costs beside its chunks (the extra event with the usage, above all) is in the short stream. Rows go into a list; with
--ledger into a real ledger, and its writer thread's CPU counts too. Targets: 1.05 for a request, 1.02 for a chunk.

Then: after how long a request's row can be read from the ledger's file by another connection. Target: 1 s.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai

from spotinfer.client.transport.metered import Metering
from spotinfer.client.transport.openai_clients import make_async_client, make_client
from spotinfer.client.transport.upstream import Upstream
from spotinfer.core.model import Endpoint
from spotinfer.core.records import RequestRow
from spotinfer.core.secret import Secret
from spotinfer.ledger.store import open_ledger

SHORT, LONG = 4, 204
SIZES = {"1 KB": 1000, "100 KB": 100_000}

# --- servers ---------------------------------------------------------------------------------------------------------


def _event(delta: dict[str, object] | None, finish: str | None = None, **more: object) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    head = {
        "id": "chatcmpl-8a1f0a7c3b2d4e5f",
        "object": "chat.completion.chunk",
        "created": 1790000000,
        "model": "tiny",
    }
    return b"data: " + json.dumps({**head, "choices": choices, **more}, separators=(",", ":")).encode() + b"\n\n"


def canned_answer(asked: dict[str, Any]) -> list[bytes]:
    """What a vLLM would send: the body's blocks."""
    count = asked["max_tokens"]
    usage = {"prompt_tokens": 10, "completion_tokens": count, "total_tokens": 10 + count}
    if not asked.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": "word " * count}, "finish_reason": "stop"}
        head = {"id": "chatcmpl-8a1f0a7c3b2d4e5f", "object": "chat.completion", "created": 1790000000, "model": "tiny"}
        return [json.dumps({**head, "choices": [choice], "usage": usage}).encode()]
    blocks = [_event({"role": "assistant", "content": ""}), *[_event({"content": " word"})] * count, _event({}, "stop")]
    if (asked.get("stream_options") or {}).get("include_usage"):
        blocks.append(_event(None, usage=usage))
    return [*blocks, b"data: [DONE]\n\n"]


async def _serve_canned(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            size = next(
                int(v)
                for k, _, v in (line.partition(b":") for line in head.split(b"\r\n"))
                if k.lower() == b"content-length"
            )
            asked = json.loads(await reader.readexactly(size))
            kind = b"text/event-stream" if asked.get("stream") else b"application/json"
            out = b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\ntransfer-encoding: chunked\r\n\r\n"
            blocks = canned_answer(asked)
            # One write: how the network cuts a stream must not differ between the two clients.
            writer.write(out + b"".join(b"%x\r\n%s\r\n" % (len(b), b) for b in blocks) + b"0\r\n\r\n")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def _canned_main(pipe: Any) -> None:
    async def main() -> None:
        server = await asyncio.start_server(_serve_canned, "127.0.0.1", 0, limit=2**20)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def _llama_main(pipe: Any) -> None:
    import xllamacpp

    from spotinfer.serving.tiny import tiny_model

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # its log has several lines for every request
    with tempfile.TemporaryDirectory() as folder:
        params = xllamacpp.CommonParams()
        params.model.path = str(tiny_model(Path(folder, "tiny.gguf"), format="gguf", context=8192))
        params.port, params.n_parallel, params.n_ctx, params.cpuparams.n_threads = 0, 1, 8192, 1
        server = xllamacpp.Server(params)
        pipe.send(int(server.listening_address.rpartition(":")[2]))
        time.sleep(3600)


@contextmanager
def serving(kind: str) -> Any:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_llama_main if kind == "llama" else _canned_main, args=(theirs,), daemon=True)
    process.start()
    try:
        if not ours.poll(60):
            raise SystemExit("the server did not start")
        yield ours.recv()
    finally:
        process.kill()
        process.join()


# --- measuring -------------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """CPU seconds of each run; plain runs twice for every pair."""

    plain: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    metered: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, object]:
        """Medians in microseconds; the ratio is the median over the pairs, its spread the quartiles.

        Other programs on the same cores only ever add, so ``quiet_ratio`` compares the low ends.
        """
        both = [(a + b) / 2 for a, b in zip(self.plain, self.again, strict=True)]
        pairs = [m / p for m, p in zip(self.metered, both, strict=True)]
        return {
            "plain_us": statistics.median(both) * 1e6,
            "metered_us": statistics.median(self.metered) * 1e6,
            "ratio": statistics.median(pairs),
            "quiet_ratio": _low(self.metered) / _low(self.plain + self.again),
            "a_b": _quartiles(pairs),
            "a_a": _quartiles([a / b for a, b in zip(self.plain, self.again, strict=True)]),
        }


def _low(values: list[float]) -> float:
    """The tenth percentile: what it costs when nothing else disturbs."""
    return statistics.quantiles(values, n=10)[0]


def _quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4)


Run = Callable[[], float]


def interleave(plain: Run, again: Run, metered: Run, pairs: int, repeat: int) -> Case:
    """Each value is the mean of ``repeat`` requests. Single requests alternate: what disturbs, disturbs all three."""
    case = Case()
    order = [(case.plain, plain), (case.again, again), (case.metered, metered)]
    shuffle = random.Random(0).shuffle
    for _, run in order:
        run()  # connections, caches
    gc.disable()  # a collection would fall on one of them
    try:
        for _ in range(pairs):
            gc.collect()
            for results, _ in order:
                results.append(0.0)
            for _ in range(repeat):
                shuffle(order)
                for results, run in order:
                    results[-1] += run() / repeat
    finally:
        gc.enable()
    return case


def sync_run(client: openai.OpenAI, size: int, tokens: int, stream: bool) -> Run:
    messages: Any = [{"role": "user", "content": prompt(size)}]

    def run() -> float:
        started = time.process_time()
        answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=tokens, stream=stream)
        if stream:
            for _ in answer:
                pass
        return time.process_time() - started

    return run


def async_run(loop: asyncio.AbstractEventLoop, client: openai.AsyncOpenAI, size: int, tokens: int, stream: bool) -> Run:
    messages: Any = [{"role": "user", "content": prompt(size)}]

    async def request() -> float:
        started = time.process_time()
        answer = await client.chat.completions.create(model="tiny", messages=messages, max_tokens=tokens, stream=stream)
        if stream:
            async for _ in answer:
                pass
        return time.process_time() - started

    return lambda: loop.run_until_complete(request())


def prompt(size: int) -> str:
    words = 'the quick brown fox jumps over streams of data in summer; "quoted" words,\nlines and {braces} too. '
    return (words * (size // len(words) + 1))[:size]


def measure(port: int, pairs: int, max_prompt: int, sink: Callable[[RequestRow], None]) -> list[dict[str, object]]:
    rows: list[RequestRow] = []

    def keep(row: RequestRow) -> None:
        rows.append(row)
        sink(row)

    upstream = Upstream(
        endpoint=Endpoint(host="127.0.0.1", port=port), api_key=Secret("k"), metering=Metering("bench", keep)
    )
    loop = asyncio.new_event_loop()
    clients = [*(openai.OpenAI(base_url=upstream.base_url, api_key="k") for _ in "ab"), make_client(upstream)]
    aclients = [
        *(openai.AsyncOpenAI(base_url=upstream.base_url, api_key="k") for _ in "ab"),
        make_async_client(upstream),
    ]

    def make(client: Any, *args: Any) -> Run:
        return sync_run(client, *args) if isinstance(client, openai.OpenAI) else async_run(loop, client, *args)

    results = []
    for label, size in SIZES.items():
        for kind, three in (("sync", clients), ("async", aclients)):

            def case(tokens: int, stream: bool, repeat: int, three: Any = three, size: int = size) -> Case:
                runs = (make(client, min(size, max_prompt), tokens, stream) for client in three)
                return interleave(*runs, pairs, repeat)

            plain_answers, short, long = case(16, False, 16), case(SHORT, True, 8), case(LONG, True, 2)
            for name, found in (
                ("request", plain_answers),
                (f"stream of {SHORT}", short),
                (f"stream of {LONG}", long),
                ("one more chunk", slope(short, long)),
            ):
                results.append({"case": f"{kind}, prompt {label}, {name}", **found.summary()})
    for aclient in aclients:
        loop.run_until_complete(aclient.close())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    if any(row.estimated or row.status != "ok" for row in rows):
        raise SystemExit("a request was not metered right")
    return results


def slope(short: Case, long: Case) -> Case:
    """CPU of one more chunk."""

    def per_chunk(of_short: list[float], of_long: list[float]) -> list[float]:
        base = statistics.median(of_short)
        return [(value - base) / (LONG - SHORT) for value in of_long]

    plain = short.plain + short.again
    return Case(per_chunk(plain, long.plain), per_chunk(plain, long.again), per_chunk(short.metered, long.metered))


def durability(port: int, folder: Path, requests: int = 10) -> dict[str, float]:
    """Seconds from a request's end until another connection can read its row."""
    path = folder / "durable.db"
    ledger = open_ledger(path)
    upstream = Upstream(
        endpoint=Endpoint(host="127.0.0.1", port=port), api_key=Secret("k"), metering=Metering("bench", ledger.request)
    )
    waited = []
    with make_client(upstream) as client, closing(sqlite3.connect(path)) as reader:
        for number in range(1, requests + 1):
            client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "Hello"}], max_tokens=SHORT
            )
            started = time.monotonic()
            while reader.execute("SELECT count(*) FROM requests").fetchone()[0] < number:
                if time.monotonic() - started > 10:
                    raise SystemExit("a request's row was not written within 10 s")
                time.sleep(0.002)
            waited.append(time.monotonic() - started)
    asyncio.run(ledger.aclose())
    return {"median_s": statistics.median(waited), "worst_s": max(waited)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", choices=("canned", "llama"), default="canned")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--ledger", action="store_true", help="write rows into a real ledger while measuring")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(args.server) as port:
        ledger = open_ledger(Path(folder, "ledger.db")) if args.ledger else None
        sink = ledger.request if ledger else lambda row: None
        # The tiny model's context does not hold 100 KB.
        results = measure(port, args.pairs, 100_000 if args.server == "canned" else 1_500, sink)
        durable = durability(port, Path(folder))
        if ledger:
            asyncio.run(ledger.aclose())
    if args.json:
        print(json.dumps({"server": args.server, "pairs": args.pairs, "results": results, "durable": durable}))
    else:
        report(args, results, durable)
    return 0


def report(args: argparse.Namespace, results: list[dict[str, Any]], durable: dict[str, float]) -> None:
    print(f"{args.server} server, {args.pairs} interleaved pairs; CPU of the client's process, medians\n")
    header = ("", "plain us", "metered us", "ratio", "quiet", "A/B quartiles", "A/A quartiles")
    print("{:38}{:>10}{:>11}{:>7}{:>7}   {:^21}   {:^21}".format(*header))
    for result in results:
        spread = ("  ".join(f"{value:5.3f}" for value in result[key]) for key in ("a_b", "a_a"))
        costs = f"{result['plain_us']:10.1f}{result['metered_us']:11.1f}"
        ratios = f"{result['ratio']:7.3f}{result['quiet_ratio']:7.3f}"
        print(f"{result['case']:38}{costs}{ratios}   " + "   ".join(f"{text:^21}" for text in spread))
    print()
    for name, ends in (("request", "request"), ("chunk", "one more chunk")):
        found = [result for result in results if result["case"].endswith(ends)]
        worst, quiet = (max(result[key] for result in found) for key in ("ratio", "quiet_ratio"))
        print(f"worst ratio for a {name}: {worst:.3f} (quiet: {quiet:.3f})")
    print(f"rows readable after {durable['median_s']:.3f} s (median), {durable['worst_s']:.3f} s (worst)")


if __name__ == "__main__":
    sys.exit(main())
