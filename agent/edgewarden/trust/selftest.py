"""Does this key really carry a mutual TLS handshake? Asked before a grade is declared.

A certificate authority that lives for one call signs a client's and a server's certificate for the
very key, and both ends of one connection are played in this thread, over memory: each proves the
key to the other, with TLS 1.3 and with 1.2. No network, no port, no clock but OpenSSL's.

One thread on purpose: tpm2-openssl 1.1.1 mixes up two handshakes at once; and one key on both ends:
with its property query OpenSSL signs with no other.

Blocks for as long as four signatures take (a TPM: seconds). Uses the X.509 parser: commands only,
never the daemon.

    prove(key, Path("pending.pem"))     raises when the key cannot do it
"""

from __future__ import annotations

import ssl
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgewarden.errors import EdgewardenError, TrustFault
from edgewarden.trust.keys import verifier_for
from edgewarden.trust.ladder import OwnKey

_NAME = "edgewarden-selftest"
_MESSAGE = b"edgewarden identity selftest"
_BEGIN, _END = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""Whatever the clock says: a board without one tests its key before it knows the time."""
_ROUNDS = 8
"""A handshake takes three exchanges; more is one that does not end."""
VERSIONS = (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2)


def prove(key: OwnKey, key_path: Path) -> None:
    """Sign and verify; then a handshake with each version, both ends with this key.

    Args:
        key: loaded.
        key_path: its file, as TLS will read it later.

    Raises:
        EdgewardenError: what the holder of the key said (HardwareFault), or TrustFault EW-ID-036.
    """
    if not verifier_for(key.public_key())(_MESSAGE, key.sign(_MESSAGE)):
        raise _no("its own signature does not verify")
    with tempfile.TemporaryDirectory(prefix="edgewarden-selftest-") as folder:
        ca, client, server = _certificates(Path(folder), key)
        for version in VERSIONS:
            try:
                theirs = _context(ssl.PROTOCOL_TLS_SERVER, ca, version)
                key.present(theirs, server, key_path)
                ours = _context(ssl.PROTOCOL_TLS_CLIENT, ca, version)
                key.present(ours, client, key_path)
                _handshake(ours, theirs)
            except EdgewardenError:
                raise
            except OSError as fault:  # ssl.SSLError is one
                raise _no(f"{version.name}: {fault}") from fault


def _handshake(ours: ssl.SSLContext, theirs: ssl.SSLContext) -> None:
    """Play both ends to the end; each has seen a certificate that exists for this key alone."""
    to_us, to_them = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ours.wrap_bio(to_us, to_them, server_hostname=_NAME)
    server = theirs.wrap_bio(to_them, to_us, server_side=True)
    waiting = [client, server]
    for _ in range(_ROUNDS):
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
        if not waiting:
            return
    raise _no("the handshake does not end")


def _context(side: int, ca: Path, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = context.maximum_version = version
    context.load_verify_locations(ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _certificates(folder: Path, key: OwnKey) -> tuple[Path, Path, Path]:
    """(root, client's certificate, server's) as files."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    public = key.private_key().public_key()
    made = (
        _certificate("root", ca_key.public_key(), ca_key, None),
        _certificate(_NAME, public, ca_key, ExtendedKeyUsageOID.CLIENT_AUTH),
        _certificate(_NAME, public, ca_key, ExtendedKeyUsageOID.SERVER_AUTH),
    )
    paths = (folder / "ca.pem", folder / "client.pem", folder / "server.pem")
    for path, certificate in zip(paths, made, strict=True):
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return paths


def _certificate(
    name: str,
    key: ec.EllipticCurvePublicKey,
    ca_key: ec.EllipticCurvePrivateKey,
    purpose: x509.ObjectIdentifier | None,
) -> x509.Certificate:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named("root"))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGIN)
        .not_valid_after(_END)
        .add_extension(x509.BasicConstraints(purpose is None, None), True)
    )
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), False)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
    return builder.sign(ca_key, hashes.SHA256())


def _no(why: str) -> TrustFault:
    return TrustFault(
        f"the key does not carry a mutual TLS handshake: {why}",
        code="EW-ID-036",
        next_step="see `edgewarden identity selftest`; the next lower grade may do",
    )
