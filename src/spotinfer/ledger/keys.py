"""The launch secrets on disk, beside the ledger: private to the user, durable before they are used."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from ..core.errors import LedgerCorrupt, LedgerError, LedgerUnwritable
from ..core.model import LaunchSecrets
from ..core.secret import Secret

_CA, _CLIENT, _AGENT, _SECRETS = "ca.pem", "client.pem", "agent.pem", "secrets.json"
_LEGAL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


class FileKeyStore:
    """:class:`spotinfer.core.protocols.KeyStore`: one folder (0700) a launch, its files 0600.

    The server's private key is not among them: only the machine has it. A folder appears whole or not at all.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder).expanduser()

    def save(self, secrets: LaunchSecrets) -> None:
        """Durable when it returns. What was stored under the key before is replaced."""
        target = self._path(secrets.key)
        with _key_errors(self._folder):
            _make_private(self._folder)
            draft = Path(tempfile.mkdtemp(prefix=".new-", dir=self._folder))  # made 0700
            try:
                for name, text in _files(secrets).items():
                    _write_private(draft / name, text)
                _sync_folder(draft)
                if target.exists():
                    shutil.rmtree(target)
                draft.rename(target)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
            _sync_folder(self._folder)

    def load(self, key: str) -> LaunchSecrets | None:
        """None when nothing is stored. Raises ``LedgerCorrupt`` for files that cannot be understood."""
        folder = self._path(key)
        with _key_errors(self._folder):
            if not folder.is_dir():
                return None
            try:
                stored = json.loads((folder / _SECRETS).read_text(encoding="utf-8"))
                return LaunchSecrets(
                    key=key,
                    api_key=Secret(stored["api_key"]),
                    agent_secret=Secret(stored["agent_secret"]),
                    dns_name=stored["dns_name"],
                    ca=(folder / _CA).read_text(encoding="utf-8"),
                    client=Secret((folder / _CLIENT).read_text(encoding="utf-8")),
                    agent=Secret((folder / _AGENT).read_text(encoding="utf-8")),
                    server=None,
                    expires_at=datetime.fromisoformat(stored["expires_at"]),
                )
            except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
                # Not chained: a JSON error shows the text that it could not read, and that text is a secret.
                kind = type(error).__name__
        raise LedgerCorrupt(
            f"the launch secrets in {folder} cannot be read ({kind})",
            hint="the machine cannot be reached with them any more: `spotinfer terminate` or `spotinfer reap` ends it",
        )

    def delete(self, key: str) -> None:
        folder = self._path(key)
        with _key_errors(self._folder):
            try:
                shutil.rmtree(folder)
            except FileNotFoundError:
                return
            _sync_folder(self._folder)

    def keys(self) -> Sequence[str]:
        with _key_errors(self._folder):
            if not self._folder.is_dir():
                return []
            names = (entry.name for entry in self._folder.iterdir() if entry.is_dir())
            return sorted(name for name in names if _LEGAL_KEY.fullmatch(name))

    def ca_pem(self, key: str) -> Path:
        """The file with the certificate that both sides trust, for libraries that want a path."""
        return self._path(key) / _CA

    def client_pem(self, key: str) -> Path:
        """The file with the client's certificate and its private key."""
        return self._path(key) / _CLIENT

    def agent_pem(self, key: str) -> Path:
        """The file with the certificate and private key that the owner shows to the agent."""
        return self._path(key) / _AGENT

    def __repr__(self) -> str:
        return f"FileKeyStore({str(self._folder)!r})"

    def _path(self, key: str) -> Path:
        if not _LEGAL_KEY.fullmatch(key):
            raise LedgerError(f"{key[:100]!r} is not the key of a launch", hint="keys look like si-0123456789abcdef")
        return self._folder / key


def _files(secrets: LaunchSecrets) -> Mapping[str, str]:
    stored = {
        "api_key": secrets.api_key.reveal(),
        "agent_secret": secrets.agent_secret.reveal(),
        "dns_name": secrets.dns_name,
        "expires_at": secrets.expires_at.isoformat(),
    }
    return {
        _CA: secrets.ca,
        _CLIENT: secrets.client.reveal(),
        _AGENT: secrets.agent.reveal(),
        _SECRETS: json.dumps(stored, indent=1),
    }


def _make_private(folder: Path) -> None:
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    """A rename survives a power cut only when the folder that holds the name is synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _key_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LedgerUnwritable(
            f"the key store {folder} cannot be used ({error.strerror or error})",
            hint="free some space or make the folder writable; no machine is rented without its keys on disk",
        ) from error
