"""Who a certificate says it is: one URI with our prefix, and the key it is about."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from edgewarden.appraise.devices import info_digest, key_of_info
from edgewarden.downstream.certificate import key_digest, name_of, public_key_info
from edgewarden.errors import WireRefusal
from edgewarden.trust.keys import public_cose_key

PREFIX = "urn:edgewarden:device:"
Alternatives = list[tuple[object, ...]]

REFUSED: dict[str, tuple[Alternatives, str]] = {
    "none": ([], "no_name"),
    "another kind": ([("DNS", "urn:edgewarden:device:press-1")], "no_name"),
    "two": ([("URI", PREFIX + "a"), ("URI", PREFIX + "b")], "two_names"),
    "a second of somebody else's": ([("URI", PREFIX + "a"), ("URI", "urn:x")], "two_names"),
    "another prefix": ([("URI", "urn:edgewarden:main:gw-1")], "foreign_name"),
    "a prefix of that length": ([("URI", "urn:edgewarden:devicX:press-1")], "foreign_name"),
    "prefix inside": ([("URI", "x" + PREFIX + "a")], "foreign_name"),
    "no name left": ([("URI", PREFIX)], "foreign_name"),
    "no identifier": ([("URI", PREFIX + "Press 1")], "foreign_name"),
    "25 characters": ([("URI", PREFIX + "a" * 25)], "foreign_name"),
    "a null in it": ([("URI", PREFIX + "a\0b")], "foreign_name"),
    "a path": ([("URI", PREFIX + "a/b")], "foreign_name"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_is_none_is_refused(name: str) -> None:
    alternatives, refusal = REFUSED[name]
    with pytest.raises(WireRefusal) as refused:
        name_of(alternatives, PREFIX)
    assert refused.value.name == refusal


def test_the_name_is_what_follows_the_prefix() -> None:
    assert name_of([("DNS", "x"), ("URI", PREFIX + "press-1")], PREFIX) == "press-1"
    assert name_of([("URI", PREFIX + "a" * 24)], PREFIX) == "a" * 24


def certificate(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey, *,
                name: str = "x") -> bytes:  # fmt: skip
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject)
    builder = builder.public_key(key.public_key()).serial_number(5)
    builder = builder.not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
    builder = builder.not_valid_after(datetime(2027, 1, 1, tzinfo=UTC))
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


KEYS = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "RSA": rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}


@pytest.mark.parametrize("name", KEYS)
def test_the_key_is_the_one_that_cryptography_reads(name: str) -> None:
    public = KEYS[name].public_key()
    info = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    der = certificate(KEYS[name], name="n" * 60)
    assert public_key_info(der) == info
    assert key_digest(der) == hashlib.sha256(info).digest()
    if isinstance(public, ec.EllipticCurvePublicKey) and name == "P-256":
        assert key_of_info(info) == public_cose_key(public)
        assert info_digest(key_of_info(info)) == key_digest(der)
    else:
        assert key_of_info(info) == b""


def test_a_compressed_point_is_no_key_of_ours() -> None:
    info = public_key_info(certificate(KEYS["P-256"]))
    assert key_of_info(info[:-1]) == b""
    assert key_of_info(b"\x31" + info[1:]) == b""
    assert key_of_info(info[:26] + b"\x02" + info[27:]) == b""


GOOD = certificate(KEYS["P-256"])
BROKEN = {
    "empty": b"",
    "no sequence": b"\x31" + GOOD[1:],
    "one byte": GOOD[:1],
    "cut": GOOD[:200],
    "cut in the head": GOOD[:3],
    "inside is none": b"\x30\x02\x05\x00",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_certificate_is_refused(name: str) -> None:
    with pytest.raises(WireRefusal) as refused:
        public_key_info(BROKEN[name])
    assert refused.value.name == "bad_certificate"


def test_every_cut_of_a_certificate_is_refused() -> None:
    for size in range(len(GOOD)):
        with pytest.raises(WireRefusal):
            public_key_info(GOOD[:size])
