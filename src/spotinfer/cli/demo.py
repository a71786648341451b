from __future__ import annotations

import contextlib
import time
from argparse import Namespace
from typing import TYPE_CHECKING

from .common import open_client, record_of
from .parser import Parser, add_progress

if TYPE_CHECKING:
    from ..client.sync import Server


def options(parser: Parser) -> None:
    add_progress(parser)


def run(arguments: Namespace) -> int:
    """1 if something of it still runs at the end."""
    from . import output

    started = time.monotonic()
    output.show("[bold]1. Launch[/] the model `tiny` on this computer: a real engine, behind mutual TLS")
    with open_client(arguments.progress) as client:
        with client.launch("tiny", provider="local", idle_timeout="10m", max_age="10m") as server:
            output.show(f"   {server.name} on {server.engine} at {server.endpoint}")
            processes = _processes(record_of(client, server).key)
            output.show("", "[bold]2. Three requests[/] by a real openai.OpenAI (the tiny model speaks gibberish)")
            _talk(server)
        output.show("", "[bold]3. The meter[/]", server.meter)
        if not server.meter.snapshot().price_known:
            output.show(
                "   To see dollars, say what this computer costs: SPOTINFER_LOCAL_PRICE_PER_HOUR=0.40 spotinfer demo"
            )
        record = record_of(client, server)
    left = [pid for pid in processes if _alive(pid)]
    output.show(
        "",
        "[bold]4. Nothing runs any more[/]",
        output.facts(
            ("   processes", f"{len(processes)} were started, {len(left)} are left{_listed(left)}"),
            ("   ledger", f"{record.name} is {record.state}"),
        ),
        "",
        f"Done in {time.monotonic() - started:.1f} s. Next: spotinfer doctor, spotinfer launch --help",
    )
    return 1 if left or record.live else 0


def _talk(server: Server) -> None:
    with server.meter.tag("plain"):
        for question in ("Hello", "And what does it cost?"):
            reply = server.client.chat.completions.create(
                model=server.model, messages=[{"role": "user", "content": question}], max_tokens=12
            )
            usage = reply.usage
            tokens = f"{usage.prompt_tokens} + {usage.completion_tokens} tokens" if usage else ""
            _show_reply("plain", reply.choices[0].message.content or "", tokens)
    with server.meter.tag("streamed"):
        chunks = server.client.chat.completions.create(
            model=server.model, messages=[{"role": "user", "content": "Once more"}], max_tokens=12, stream=True
        )
        parts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        _show_reply("streamed", "".join(parts), f"{len(parts)} chunks")


def _show_reply(kind: str, text: str, size: str) -> None:
    from rich.text import Text

    from . import output

    shown = " ".join(text.split())[:48]
    output.show(Text.assemble(f"   {kind:<9} ", (f"{shown!r:<52} ", "cyan"), (size, "dim")))


def _processes(key: str) -> list[int]:
    """Of one machine: they carry its key in their environment, whoever their parent is."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("SPOTINFER_KEY") == key:
                found.append(process.pid)
    return found


def _alive(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _listed(items: list[int]) -> str:
    return f": {', '.join(map(str, items))}" if items else ""
