"""Signatures and certificates that come out the same every time, for the vectors.

The keys are those of samples.py: TEST-ONLY, published, worth nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgewarden.enrol.service import device_urn
from edgewarden.trust.keys import FileSigner
from edgewarden.wire import cose
from tests.wire import samples

TENANT, DEVICE = "main", "gw-test"
BEGIN, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2125, 12, 31, tzinfo=UTC)
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ROOT, ISSUING = samples.key("root"), samples.key("issuing")


def fixed_sign(signer: FileSigner) -> cose.Sign:
    """RFC 6979, lower s."""

    def sign(message: bytes) -> bytes:
        fixed = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
        r, s = decode_dss_signature(signer.private_key().sign(message, fixed))
        return r.to_bytes(32, "big") + min(s, ORDER - s).to_bytes(32, "big")

    return sign


def der(tag: int, *parts: bytes) -> bytes:
    """One DER element."""
    body = b"".join(parts)
    if len(body) < 128:
        return bytes((tag, len(body))) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + body


def certificate(
    name: str, number: int, holder: FileSigner, issuer: str, issuer_key: FileSigner, path: int
) -> x509.CertificateBuilder:
    """What all three have in common; path is how many CAs may follow, -1 for a leaf."""
    public, ca = holder.private_key().public_key(), path >= 0
    return (
        x509.CertificateBuilder()
        .subject_name(subject(name))
        .issuer_name(subject(issuer))
        .public_key(public)
        .serial_number(number)
        .not_valid_before(BEGIN)
        .not_valid_after(END)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(
                issuer_key.private_key().public_key()
            ),
            False,
        )
        .add_extension(x509.BasicConstraints(ca, path if ca else None), True)
        .add_extension(
            x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False), True
        )
    )


def subject(name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, TENANT),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def issued(builder: x509.CertificateBuilder, issuer: FileSigner) -> bytes:
    """Sign deterministically: the builder of cryptography 43 has no switch for it."""
    signed = builder.sign(issuer.private_key(), hashes.SHA256())
    fixed = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    signature = issuer.private_key().sign(signed.tbs_certificate_bytes, fixed)
    algorithm = der(0x30, bytes.fromhex("06082a8648ce3d040302"))  # ecdsa-with-SHA256
    return der(0x30, signed.tbs_certificate_bytes, algorithm, der(0x03, b"\x00", signature))


def gateway(device: str, holder: FileSigner, number: int) -> bytes:
    """A gateway's certificate."""
    uri = x509.UniformResourceIdentifier(device_urn(TENANT, device))
    builder = certificate(device, number, holder, "TEST-ONLY issuing", ISSUING, -1)
    builder = builder.add_extension(x509.SubjectAlternativeName([uri]), False)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
    return issued(builder, ISSUING)


def root_der() -> bytes:
    return issued(certificate("TEST-ONLY root", 1, ROOT, "TEST-ONLY root", ROOT, 1), ROOT)


def chain() -> tuple[bytes, bytes]:
    """Leaf and issuing certificate of the identity key."""
    between = certificate("TEST-ONLY issuing", 2, ISSUING, "TEST-ONLY root", ROOT, 0)
    return gateway(DEVICE, samples.IDENTITY, 3), issued(between, ROOT)


def ca_pem() -> str:
    root = x509.load_der_x509_certificate(root_der())
    return root.public_bytes(serialization.Encoding.PEM).decode()
