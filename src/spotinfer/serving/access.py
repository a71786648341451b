"""The secrets of one launch: a certificate authority of its own, certificates, an API key and the agent's secret.

A server's address is known only after it was rented, so its certificate carries a fixed DNS name, which clients send
as SNI and verify, whatever the address. The authority's key is dropped at once: nobody can add a certificate later.
"""

from __future__ import annotations

import secrets
import ssl
from datetime import datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..core.errors import LedgerError
from ..core.model import LaunchSecrets
from ..core.secret import Secret

DNS_NAME = "server.spotinfer.internal"
SKEW = timedelta(days=1)
"""How wrong a rented machine's clock may be: certificates start so much earlier and end so much later."""
UNLIMITED = timedelta(days=3650)
"""The lifetime of certificates where the machine has no maximum age. They die with the launch's key store entry."""


def issue(key: str, lifetime: timedelta | None, now: datetime, dns_name: str = DNS_NAME) -> LaunchSecrets:
    """Everything that the launch ``key`` needs, fresh. ``lifetime`` is its maximum age, None for unlimited."""
    end = now + (UNLIMITED if lifetime is None else lifetime) + SKEW
    authority = _Authority(f"spotinfer {key}", now - SKEW, end)
    server_auth, client_auth = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
    return LaunchSecrets(
        key=key,
        api_key=Secret(f"sk-{secrets.token_urlsafe(32)}"),
        agent_secret=Secret(secrets.token_urlsafe(32)),
        dns_name=dns_name,
        ca=authority.pem,
        server=Secret(authority.sign("server", server_auth, x509.DNSName(dns_name))),
        client=Secret(authority.sign("client", client_auth)),
        agent=Secret(authority.sign("agent", client_auth)),
        expires_at=end,
    )


@lru_cache(maxsize=64)
def client_context(ca_path: str, client_path: str) -> ssl.SSLContext:
    """What a client of that launch connects with: trusts its authority only, checks the name, shows its certificate.

    Cached, since a context takes milliseconds and connections of one context share TLS sessions.

    Raises :class:`LedgerError` where the files cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies, and checks the host name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(ca_path)
        context.load_cert_chain(client_path)
    except OSError as error:  # ssl.SSLError is one too
        raise LedgerError(
            f"the keys of this launch cannot be read ({error.strerror or error}): {client_path}",
            hint="without them the server cannot be reached, only ended: `spotinfer terminate`",
        ) from error
    return context


class _Authority:
    """Signs the certificates of one launch."""

    def __init__(self, name: str, start: datetime, end: datetime) -> None:
        self._name, self._start, self._end = _name(name), start, end
        self._key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.pem = _pem(builder.add_extension(_usage(authority=True), critical=True).sign(self._key, hashes.SHA256()))

    def sign(self, subject: str, purpose: x509.ObjectIdentifier, name: x509.GeneralName | None = None) -> str:
        """A certificate for one purpose, followed by its private key, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            self._builder(_name(subject), key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(issuer, critical=False)
        )
        if name is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([name]), critical=False)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        return _pem(builder.sign(self._key, hashes.SHA256())) + private

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._start)
            .not_valid_after(self._end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
