"""The certificates of a fleet: what each may be used for, and for how long.

    root        CA, path length 1      signs issuing certificates only; its key belongs off line
    after `init` issuing     CA, path length 0      signs everything below; its key is what
    enrolment needs server      serverAuth             broker, enrolment service
    client      clientAuth             the fleet's own broker session; CN is no device id, so no
    gateway can be it gateway     clientAuth             CN = device, O = tenant, SAN URI =
    urn:edgewarden:device:TENANT:DEVICE; CN = DEVICE.2 for the
    second board in a place (wire/topics.py)

Nothing outlives what signed it: the end asked for, or the issuer's where that comes first.

Every key is P-256, every signature ECDSA with SHA-256. Names: nothing in a gateway's signing
request is copied but its key. Left to others: who may have a certificate (tokens.py), believing
one (verify/chain.py).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgewarden.enrol.service import device_urn
from edgewarden.errors import OurFault, PeerFault, WireRefusal
from edgewarden.wire.topics import session_name

ROOT_DAYS = 20 * 365
"""Outlives the boards: pinned in every gateway, changing it is a visit."""
ISSUING_DAYS = 10 * 365
SERVER_DAYS = 825
"""Longest life that common TLS clients accept of a server (CA/B Forum ballot 193)."""
GATEWAY_DAYS = 30
"""Short life is the first line of revocation."""
BACKDATE = timedelta(minutes=10)
"""Gateways without a battery clock run some minutes behind after their first NTP answer."""

FLEET_CN = "fleet.verifier"
"""The fleet's own broker user. The dot is not in a device id's alphabet."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate with its private key, able to sign others."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_root(key: ec.EllipticCurvePrivateKey, tenant: str, now_utc_s: float) -> x509.Certificate:
    """Self-signed root."""
    name = _name(f"edgewarden root {key_tag(key)}", tenant)
    builder = _begin(name, name, key.public_key(), key.public_key(), ROOT_DAYS, now_utc_s)
    return builder.add_extension(x509.BasicConstraints(True, 1), True).add_extension(
        _usage(ca=True), True
    ).sign(key, hashes.SHA256())  # fmt: skip


def make_issuing(
    root: Authority, key: ec.EllipticCurvePrivateKey, tenant: str, now_utc_s: float
) -> x509.Certificate:
    """Issuing certificate under the root."""
    name = _name(f"edgewarden issuing {key_tag(key)}", tenant)
    builder = _under(root, name, key.public_key(), ISSUING_DAYS, now_utc_s)
    return builder.add_extension(x509.BasicConstraints(True, 0), True).add_extension(
        _usage(ca=True), True
    ).sign(root.key, hashes.SHA256())  # fmt: skip


def make_server(
    issuing: Authority, key: ec.EllipticCurvePublicKey, hosts: list[str], now_utc_s: float
) -> x509.Certificate:
    """Server certificate for the given host names and addresses."""
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    builder = _under(issuing, _name(hosts[0], None), key, SERVER_DAYS, now_utc_s)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    return _leaf(builder, ExtendedKeyUsageOID.SERVER_AUTH, issuing)


def make_client(
    issuing: Authority, key: ec.EllipticCurvePublicKey, tenant: str, now_utc_s: float
) -> x509.Certificate:
    """The fleet's own client certificate."""
    builder = _under(issuing, _name(FLEET_CN, tenant), key, SERVER_DAYS, now_utc_s)
    return _leaf(builder, ExtendedKeyUsageOID.CLIENT_AUTH, issuing)


def make_gateway(
    issuing: Authority,
    key: ec.EllipticCurvePublicKey,
    tenant: str,
    device: str,
    now_utc_s: float,
    days: float = GATEWAY_DAYS,
    board: int = 1,
) -> x509.Certificate:
    """A gateway's certificate; ``board`` counts the boards in this place, and the broker tells
    them apart by it."""
    subject = _name(session_name(device, board), tenant)
    builder = _under(issuing, subject, key, days, now_utc_s)
    uri = x509.UniformResourceIdentifier(device_urn(tenant, device))
    builder = builder.add_extension(x509.SubjectAlternativeName([uri]), False)
    return _leaf(builder, ExtendedKeyUsageOID.CLIENT_AUTH, issuing)


def read_request(pem: str) -> ec.EllipticCurvePublicKey:
    """Return the public key of a signing request whose signature holds.

    It may ask for nothing else: a CA of others might take what it says for the fleet's wish.

    Raises:
        WireRefusal: ``csr_invalid``.
    """
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        sound = request.is_signature_valid
        asks_more = bool(list(request.extensions) or list(request.attributes))
        key = request.public_key()
    except (
        Exception
    ) as fault:  # the parser raises ValueError, TypeError and its own kinds by version
        raise WireRefusal(
            "csr_invalid", f"not a signing request ({type(fault).__name__})"
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise WireRefusal("csr_invalid", "the key is not P-256")
    if asks_more:
        raise WireRefusal("csr_invalid", "the request asks for more than a certificate for its key")
    if not sound:
        raise WireRefusal("csr_invalid", "the request is not signed by its own key")
    return key


def pem(certificate: x509.Certificate) -> str:
    """PEM text of one certificate."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def der(certificate: x509.Certificate) -> bytes:
    """DER bytes of one certificate."""
    return certificate.public_bytes(serialization.Encoding.DER)


def serial_hex(certificate: x509.Certificate) -> str:
    """Serial number as registry and console show it."""
    return f"{certificate.serial_number:x}"


def load_private_key(data: bytes) -> ec.EllipticCurvePrivateKey:
    """Read one of the fleet's own keys."""
    key = serialization.load_pem_private_key(data, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise OurFault("a key of the fleet folder is not P-256", code="EW-ID-020")
    return key


def key_tag(key: ec.EllipticCurvePrivateKey) -> str:
    """Eight hex digits that tell two CAs of one name apart."""
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest[:4].hex()


def _name(common: str, tenant: str | None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if tenant is not None:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, tenant))
    return x509.Name(parts)


def _begin(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    days: float,
    now_utc_s: float,
) -> x509.CertificateBuilder:
    now = datetime.fromtimestamp(int(now_utc_s), UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), False)
    )


def _under(
    issuer: Authority,
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    days: float,
    now_utc_s: float,
) -> x509.CertificateBuilder:
    left_s = issuer.certificate.not_valid_after_utc.timestamp() - int(now_utc_s)
    if left_s <= 0:
        raise PeerFault(
            f"the CA that is to sign ended {issuer.certificate.not_valid_after_utc:%Y-%m-%d}",
            code="EW-ID-040",
            next_step="make another one: `edgewarden-fleet ca rotate issuing`, for a root `root`",
        )
    days = min(days, left_s / 86400)
    return _begin(
        subject, issuer.certificate.subject, key, issuer.key.public_key(), days, now_utc_s
    )


def _leaf(
    builder: x509.CertificateBuilder, purpose: x509.ObjectIdentifier, issuer: Authority
) -> x509.Certificate:
    return (
        builder.add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(_usage(ca=False), True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), False)
        .sign(issuer.key, hashes.SHA256())
    )


def _usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
