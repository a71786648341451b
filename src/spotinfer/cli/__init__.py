"""The command line. One file a command, loaded when it is used; only here signal handlers are installed."""

from __future__ import annotations

import sys


def main() -> None:
    """The program ``spotinfer``: exits with 0, 1 (an error of ours), 2 (wrong usage), 130 (Ctrl-C) or 143 (SIGTERM)."""
    try:
        from .run import run

        status = run(sys.argv[1:])
    except KeyboardInterrupt:  # while the program was still being loaded
        status = 130
    sys.exit(status)
