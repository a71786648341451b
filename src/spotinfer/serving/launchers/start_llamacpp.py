"""Starts llama.cpp's own HTTP server out of `xllamacpp` and stays until it is killed.

`start_llamacpp.py --model FILE --alias NAME --host HOST --port PORT --context N --slots N [--exact] [--OPTION VALUE]`

With `--exact` everything is computed in 32 bits, as the weights are.

Every further option sets the parameter of xllamacpp's `CommonParams` of that name. The API key comes from the
environment (`LLAMA_API_KEY`), where other users of the computer cannot read it.
"""

from __future__ import annotations

import argparse
import difflib
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any, NoReturn

BAD_OPTION = 2
SWITCH = {"": True, "true": True, "1": True, "false": False, "0": False}


def main(arguments: list[str]) -> NoReturn:
    options, extra = _parser().parse_known_args(arguments)
    try:
        import xllamacpp
    except ImportError as error:
        sys.exit(f"error: xllamacpp cannot be imported: {error}")
    params = xllamacpp.CommonParams()
    _prepare(params, options)
    if options.exact:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    _apply(params, extra)
    # The engine has nothing to save: a signal may simply end it, also while it loads.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        sys.exit(f"error: llama.cpp did not start: {error}")
    print(f"llama.cpp {xllamacpp.__version__} serves {options.alias} on {server.listening_address}", flush=True)
    while True:
        signal.pause()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llamacpp", allow_abbrev=False, add_help=False)
    for name in ("--model", "--alias", "--host"):
        parser.add_argument(name, required=True)
    for name in ("--port", "--context", "--slots"):
        parser.add_argument(name, required=True, type=int)
    parser.add_argument("--exact", action="store_true")
    return parser


def _prepare(params: Any, options: argparse.Namespace) -> None:
    params.model.path = options.model
    params.model_alias = {options.alias}
    params.hostnames = [options.host]
    params.port = options.port
    params.n_parallel = options.slots
    params.n_ctx = options.context * options.slots  # llama.cpp divides it among the slots
    params.endpoint_metrics = True
    params.ui = False
    # Its threads wait for each other by spinning: with as many as there are cores, one busy neighbour stalls them all.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max(1, _usable_cores() - 1)
    params.cache_ram_mib = 1024  # llama.cpp's own default keeps up to 8 GiB of old prompts
    key = os.environ.pop("LLAMA_API_KEY", "")
    if not key:
        sys.exit("error: LLAMA_API_KEY is not set: an engine is never started without a key")
    params.api_keys = [key]


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _apply(params: Any, extra: list[str]) -> None:
    for option, value in _pairs(extra):
        name = option.removeprefix("--").replace("-", "_")
        current = getattr(params, name, None)
        if not option.startswith("--") or not isinstance(current, (bool, int, float, str)):
            _refuse(params, option)
        try:
            setattr(params, name, _convert(value, current))
        except (KeyError, ValueError, TypeError, OverflowError):
            sys.exit(f"error: invalid value for option {option}: {value!r} ({type(current).__name__} expected)")


def _pairs(words: list[str]) -> Iterator[tuple[str, str]]:
    """`--name=value`, `--name value`, and `--name` alone, which switches something on."""
    rest = deque(words)
    while rest:
        name, equals, value = rest.popleft().partition("=")
        if not equals and rest and not rest[0].startswith("--"):
            value = rest.popleft()
        yield name, value


def _convert(value: str, like: bool | int | float | str) -> bool | int | float | str:
    return SWITCH[value.lower()] if isinstance(like, bool) else type(like)(value)


def _refuse(params: Any, option: str) -> NoReturn:
    names = ["--" + name.replace("_", "-") for name in dir(params) if not name.startswith("_")]
    close = difflib.get_close_matches(option, names, 1)
    print(f"error: unknown option {option}" + (f" (did you mean {close[0]}?)" if close else ""), file=sys.stderr)
    sys.exit(BAD_OPTION)


if __name__ == "__main__":
    main(sys.argv[1:])
