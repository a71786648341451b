"""Secrets are nowhere but where they must be: searched for after a whole launch on real parts."""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from spotinfer import Server, Settings
from spotinfer.ledger.keys import FileKeyStore
from support.homes import apart, chat, client_at, nothing_left

pytestmark = pytest.mark.engine

HF_TOKEN = "hf_QkZrT0Zzd3JpdHRlbkhlcmU"
ACCOUNT_KEY = "rp_account-key-that-no-machine-may-see"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with apart(tmp_path, HF_TOKEN=HF_TOKEN, RUNPOD_API_KEY=ACCOUNT_KEY, SPOTINFER_PROVIDERS="local"):
        yield tmp_path


def private_lines(pem: str) -> list[str]:
    """The lines of the private keys in it."""
    blocks = re.findall(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\n(.+?)-----END", pem, re.DOTALL)
    assert blocks
    return [line for block in blocks for line in block.splitlines() if len(line) > 20]


def secrets_of(home: Path, server: Server) -> list[str]:
    stored = FileKeyStore(home / "keys").load(server.key)
    assert stored is not None
    [machine] = (home / "local" / "machines").iterdir()
    keys = [stored.client.reveal(), stored.agent.reveal(), (machine / "agent" / "tls" / "server.pem").read_text()]
    lines = [line for pem in keys for line in private_lines(pem)]
    return [stored.api_key.reveal(), stored.agent_secret.reveal(), *lines, HF_TOKEN, ACCOUNT_KEY]


def holders(folder: Path, wanted: list[str], *but: Path) -> list[Path]:
    """Files that hold one of the secrets, but for those below ``but``."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not any(path.is_relative_to(place) for place in but):
            content = path.read_bytes()
            if any(secret.encode() in content for secret in wanted):
                found.append(path)
    return found


def command_lines() -> str:
    return "\n".join(" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))


def ledger_dump(home: Path) -> str:
    connection = sqlite3.connect(home / "ledger.db")
    try:
        return "\n".join(connection.iterdump())
    finally:
        connection.close()


def shown(text: str, wanted: list[str]) -> list[str]:
    return [secret for secret in wanted if secret in text]


def test_secrets_are_nowhere(folder: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.DEBUG)
    home = folder / "home"
    with client_at(home) as client:
        with client.launch("tiny", name="one") as server:
            wanted = secrets_of(home, server)
            with server.meter.tag("a"):
                chat(server)
            with client.connect("one") as second:
                chat(second)
            address = server.local_url()
            wanted.append(address.key.reveal())
            [info] = client.servers()
            seen = [client, server, server.client, server.aclient, server.meter, address, info, info.record]
            seen += [server.endpoint, client.plan("tiny"), Settings.load(hf_token=HF_TOKEN), server.logs(1000)]
            seen += [server.meter.snapshot(), server._repr_html_(), server._held.secrets]
            assert shown("\n".join(f"{item!r} {item}" for item in seen), wanted) == []
            assert shown(command_lines(), wanted) == []
            # The machine keeps its own key beside its engine; what the owner needs is in the key store.
            tls = home / "local" / "machines" / server.key / "agent" / "tls"
            assert holders(folder, wanted, home / "keys", tls) == []
            assert all(path.stat().st_mode & 0o077 == 0 for place in (home / "keys", tls) for path in place.rglob("*"))
            failed = server.client.with_options(api_key="wrong", max_retries=0)
            with pytest.raises(Exception, match="401") as caught:
                failed.models.list()
            assert shown(f"{caught.value!r}{caught.value}", wanted) == []
        assert client.logs("one", 1000)
    nothing_left(home)
    assert holders(folder, wanted) == []
    assert shown(ledger_dump(home), wanted) == []
    out, err = capfd.readouterr()
    assert shown(caplog.text + out + err, wanted) == []
    assert len(wanted) > 8
