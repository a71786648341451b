"""Launch secrets on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from spotinfer.core.errors import LedgerCorrupt, LedgerError, LedgerUnwritable
from spotinfer.ledger.keys import FileKeyStore
from support.secrets import launch_secrets


@pytest.fixture
def store(tmp_path: Path) -> FileKeyStore:
    return FileKeyStore(tmp_path / "home" / "keys")


def test_what_is_saved_is_loaded_but_for_the_servers_private_key(store: FileKeyStore) -> None:
    secrets = launch_secrets()
    store.save(secrets)
    loaded = store.load("si-1")
    assert loaded is not None
    assert loaded.server is None
    for name in ("key", "api_key", "agent_secret", "dns_name", "ca", "client", "agent", "expires_at"):
        assert getattr(loaded, name) == getattr(secrets, name)
    assert store.ca_pem("si-1").read_text() == secrets.ca
    assert store.client_pem("si-1").read_text() == secrets.client.reveal()
    assert store.agent_pem("si-1").read_text() == secrets.agent.reveal()


def test_everything_is_private_and_the_servers_key_is_nowhere(store: FileKeyStore, tmp_path: Path) -> None:
    store.save(launch_secrets())
    for path in (tmp_path / "home").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)
        assert path.is_dir() or b"server-private-key" not in path.read_bytes()


def test_saving_again_replaces_and_leaves_no_draft(store: FileKeyStore, tmp_path: Path) -> None:
    store.save(launch_secrets())
    store.save(launch_secrets(api_key="another"))
    loaded = store.load("si-1")
    assert loaded is not None
    assert loaded.api_key.reveal() == "another"
    assert [path.name for path in (tmp_path / "home" / "keys").iterdir()] == ["si-1"]


def test_keys_and_deleting_twice(store: FileKeyStore) -> None:
    assert list(store.keys()) == []
    for key in ("si-2", "si-1"):
        store.save(launch_secrets(key))
    assert list(store.keys()) == ["si-1", "si-2"]
    store.delete("si-1")
    store.delete("si-1")
    assert list(store.keys()) == ["si-2"]
    assert store.load("si-1") is None


@pytest.mark.parametrize("key", ["", "..", "../up", "a/b", "/etc", ".hidden", "a\0b", "x" * 101, "si-1\n"])
def test_a_key_is_no_path(store: FileKeyStore, key: str) -> None:
    for action in (store.load, store.delete, store.ca_pem, lambda key: store.save(launch_secrets(key))):
        with pytest.raises(LedgerError, match="not the key"):
            action(key)


@pytest.mark.parametrize("text", ['{"api_key": "key-of-the-engine"', "[]", "{}"])
def test_a_damaged_store_is_told_without_the_secret(store: FileKeyStore, text: str) -> None:
    store.save(launch_secrets())
    (store.ca_pem("si-1").parent / "secrets.json").write_text(text)
    with pytest.raises(LedgerCorrupt) as told:
        store.load("si-1")
    assert told.value.hint
    chained = (told.value, told.value.__cause__, told.value.__context__)
    assert not any("key-of-the-engine" in repr(error) + str(error) for error in chained)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("")
    with pytest.raises(LedgerUnwritable):
        FileKeyStore(tmp_path / "keys").save(launch_secrets())
