from __future__ import annotations

import socket
import ssl
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from spotinfer.core.errors import LedgerError
from spotinfer.core.model import LaunchSecrets
from spotinfer.serving.access import DNS_NAME, client_context, issue

NOW = datetime.now(timezone.utc).replace(microsecond=0)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def launch() -> LaunchSecrets:
    return issue("si-one", HOUR, NOW)


def server_context(secrets: LaunchSecrets, folder: Path) -> ssl.SSLContext:
    """What an engine or an agent does with the files that it is given."""
    assert secrets.server is not None
    path = folder / f"{secrets.key}-server.pem"
    path.write_text(secrets.server.reveal())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(path)
    context.load_verify_locations(cadata=secrets.ca)
    return context


def stored(secrets: LaunchSecrets, folder: Path, pem: str | None = None) -> ssl.SSLContext:
    ca, client = folder / f"{secrets.key}-ca.pem", folder / f"{secrets.key}-client-{abs(hash(pem))}.pem"
    ca.write_text(secrets.ca)
    client.write_text(pem if pem is not None else secrets.client.reveal())
    return client_context(str(ca), str(client))


def exchange(server: ssl.SSLContext, client: ssl.SSLContext, name: str = DNS_NAME) -> bytes:
    """What a client reads from a server over one real connection. TLS 1.3 refuses a client only at its first read."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    with server.wrap_socket(connection, server_side=True) as secured:
                        secured.sendall(b"hello")
                except OSError:
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=5) as plain,
                client.wrap_socket(plain, server_hostname=name) as secured,
            ):
                return secured.recv(10)
        finally:
            thread.join(5)


def test_client_and_agent_certificates_are_let_in(launch: LaunchSecrets, tmp_path: Path) -> None:
    server = server_context(launch, tmp_path)
    assert exchange(server, stored(launch, tmp_path)) == b"hello"
    assert exchange(server, stored(launch, tmp_path, launch.agent.reveal())) == b"hello"


def test_a_client_without_a_certificate_is_refused(launch: LaunchSecrets, tmp_path: Path) -> None:
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(cadata=launch.ca)
    with pytest.raises(ssl.SSLError):
        exchange(server_context(launch, tmp_path), bare)


def test_another_launch_is_refused_by_both_sides(launch: LaunchSecrets, tmp_path: Path) -> None:
    other = issue("si-two", HOUR, NOW)
    with pytest.raises(ssl.SSLCertVerificationError):
        exchange(server_context(launch, tmp_path), stored(other, tmp_path))
    trusts_us = stored(launch, tmp_path, other.client.reveal())
    with pytest.raises(ssl.SSLError):
        exchange(server_context(launch, tmp_path), trusts_us)


def test_the_name_is_checked_whatever_the_address(launch: LaunchSecrets, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        exchange(server_context(launch, tmp_path), stored(launch, tmp_path), "127.0.0.1")


def test_a_client_cannot_pose_as_the_server_nor_the_server_as_a_client(launch: LaunchSecrets, tmp_path: Path) -> None:
    assert launch.server is not None
    server = server_context(launch, tmp_path)
    with pytest.raises(ssl.SSLError):
        exchange(server, stored(launch, tmp_path, launch.server.reveal()))
    posing = tmp_path / "posing.pem"
    posing.write_text(launch.client.reveal())
    server.load_cert_chain(posing)
    with pytest.raises(ssl.SSLCertVerificationError):
        exchange(server, stored(launch, tmp_path))


def test_certificates_outlive_the_machine_and_forgive_a_slow_clock(launch: LaunchSecrets) -> None:
    assert launch.server is not None
    for pem in (launch.ca, launch.server.reveal(), launch.client.reveal(), launch.agent.reveal()):
        certificate = x509.load_pem_x509_certificate(pem.encode())
        assert certificate.not_valid_before_utc == NOW - timedelta(days=1)
        assert certificate.not_valid_after_utc == NOW + HOUR + timedelta(days=1) == launch.expires_at


def test_a_machine_without_a_maximum_age_gets_ten_years() -> None:
    assert issue("si-x", None, NOW).expires_at - NOW > timedelta(days=3650)


def test_extensions_say_what_each_certificate_is_for(launch: LaunchSecrets) -> None:
    assert launch.server is not None
    purposes = {}
    for role, pem in (("server", launch.server), ("client", launch.client), ("agent", launch.agent)):
        certificate = x509.load_pem_x509_certificate(pem.reveal().encode())
        purposes[role] = list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    client = [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert purposes == {"server": [ExtendedKeyUsageOID.SERVER_AUTH], "client": client, "agent": client}
    assert "PRIVATE KEY" not in launch.ca


def test_every_launch_has_its_own_secrets_and_shows_none(launch: LaunchSecrets) -> None:
    other = issue("si-two", HOUR, NOW)
    assert other.api_key != launch.api_key
    assert other.agent_secret != launch.agent_secret
    shown = repr(launch) + str(launch)
    assert launch.api_key.reveal() not in shown
    assert launch.agent_secret.reveal() not in shown
    assert "PRIVATE KEY" not in shown


def test_it_is_fast() -> None:
    before = time.process_time()
    issue("si-x", HOUR, NOW)
    assert time.process_time() - before < 0.1


def test_contexts_are_cached_and_strict(launch: LaunchSecrets, tmp_path: Path) -> None:
    context = stored(launch, tmp_path)
    assert context is stored(launch, tmp_path)
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_missing_or_broken_keys_are_a_typed_error(launch: LaunchSecrets, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot be read"):
        client_context(str(tmp_path / "no-ca.pem"), str(tmp_path / "no.pem"))
    with pytest.raises(LedgerError):
        stored(launch, tmp_path, "not a certificate")
