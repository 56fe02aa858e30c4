"""A small certificate authority for tests: P-256 root, leaves with any fault a test wants."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Leaf:
    """A certificate and its key, PEM."""

    cert_pem: bytes
    key_pem: bytes


class Authority:
    """A self-signed root."""

    def __init__(self, name: str = "test root") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self.name, self.key.public_key(), DAY, DAY)
        builder = builder.add_extension(x509.BasicConstraints(True, 0), critical=True)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
        self.cert = builder.sign(self.key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return self.cert.public_bytes(serialization.Encoding.PEM)

    def server(self, name: str = "localhost", *, ended: bool = False) -> Leaf:
        """A server certificate for a host name."""
        san = x509.SubjectAlternativeName([x509.DNSName(name)])
        return self._leaf(name, san, ExtendedKeyUsageOID.SERVER_AUTH, ended)

    def client(self, device: str = "gw-demo", *, ended: bool = False) -> Leaf:
        """A gateway's certificate."""
        urn = x509.UniformResourceIdentifier(f"urn:edgewarden:device:main:{device}")
        san = x509.SubjectAlternativeName([urn])
        return self._leaf(device, san, ExtendedKeyUsageOID.CLIENT_AUTH, ended)

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        before: dt.timedelta,
        after: dt.timedelta,
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        issuer = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer)
        own = x509.SubjectKeyIdentifier.from_public_key(key)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - before)
            .not_valid_after(now + after)
            .add_extension(own, critical=False)
            .add_extension(authority, critical=False)
        )

    def _leaf(
        self, name: str, san: x509.SubjectAlternativeName, use: x509.ObjectIdentifier, ended: bool
    ) -> Leaf:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        span = (2 * DAY, -DAY / 24) if ended else (DAY, 20 * DAY)
        builder = self._builder(subject, key.public_key(), *span)
        builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        cert = builder.add_extension(san, critical=False).sign(self.key, hashes.SHA256())
        return Leaf(
            cert.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )


def store_identity(
    state: Path,
    ca_pem: bytes,
    leaf: Leaf,
    *,
    device: str = "gw-demo",
    broker: tuple[str, int] = ("localhost", 8883),
    not_after_utc: str = "2099-01-01T00:00:00Z",
) -> None:
    """Lay down what an enrolment leaves in the state folder."""
    folder = state / "identity" / "identity-1"
    folder.mkdir(parents=True)
    (folder / "key.pem").touch(mode=0o600)
    (folder / "key.pem").write_bytes(leaf.key_pem)
    (folder / "cert.pem").write_bytes(leaf.cert_pem)
    (folder / "ca.pem").write_bytes(ca_pem)
    body = {
        "schema": "edgewarden.identity/1",
        "device": device,
        "tenant": "main",
        "grade": "G0",
        "serial": "2a",
        "not_after_utc": not_after_utc,
        "broker": {"host": broker[0], "port": broker[1]},
        "verifier_key": "00" * 32,
    }
    (folder / "identity.json").write_text(json.dumps(body))
    (state / "identity" / "current").symlink_to(folder.name)


def lenient(whole: x509.Certificate, issuer: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """The same without an authority key identifier, which RFC 5280 §4.2.1.1 asks for: only a
    verifier that is not strict takes it."""
    builder = x509.CertificateBuilder(
        whole.issuer, whole.subject, whole.public_key(), whole.serial_number,
        whole.not_valid_before_utc, whole.not_valid_after_utc,
    )  # fmt: skip
    for extension in whole.extensions:
        if not isinstance(extension.value, x509.AuthorityKeyIdentifier):
            builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(issuer, hashes.SHA256())
