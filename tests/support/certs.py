"""Certificates for tests: what `serving/access.py` makes for a launch, written independently of it."""

from __future__ import annotations

import ssl
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DNS_NAME = "engine.spotinfer.internal"


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey | None = None) -> str:
    text = certificate.public_bytes(serialization.Encoding.PEM)
    if key is not None:
        text += key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    return text.decode()


class Authority:
    """A certificate authority of one test launch."""

    def __init__(self, name: str = "test CA") -> None:
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(name, self._key).add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        self._certificate = builder.sign(self._key, hashes.SHA256())
        self.pem = _pem(self._certificate)

    def _builder(self, subject: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=2))
        )

    def issue(self, name: str, usage: x509.ObjectIdentifier) -> str:
        """A certificate with its key, as one PEM text."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            self._builder(name, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
            .add_extension(x509.ExtendedKeyUsage([usage]), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False)
        )
        return _pem(builder.sign(self._key, hashes.SHA256()), key)


@dataclass(frozen=True)
class Pki:
    """The certificates of one launch, as PEM texts with their keys."""

    ca: str
    server: str
    agent: str
    client: str

    def client_context(self, certificate: str | None = None) -> ssl.SSLContext:
        """A context that trusts this launch's CA and shows its client certificate, or the one given ("": none)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.ca)
        shown = self.client if certificate is None else certificate
        if shown:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "client.pem")
                path.write_text(shown)
                context.load_cert_chain(path)
        return context


def make_pki() -> Pki:
    """A fresh CA with a server, an agent and a client certificate."""
    authority = Authority()
    client = ExtendedKeyUsageOID.CLIENT_AUTH
    return Pki(
        ca=authority.pem,
        server=authority.issue(DNS_NAME, ExtendedKeyUsageOID.SERVER_AUTH),
        agent=authority.issue("agent", client),
        client=authority.issue("client", client),
    )
