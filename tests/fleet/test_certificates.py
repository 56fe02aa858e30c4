"""What each certificate may be used for, judged by OpenSSL, and what a signing request must be."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from edgewarden.errors import OurFault, WireRefusal
from edgewarden.wire.record import is_identifier
from edgewarden_fleet.ca import certificates
from edgewarden_fleet.ca.certificates import Authority
from edgewarden_fleet.verify.chain import check_chain
from tests.fleet.makers import NOW, TENANT, authority, new_key

BEGIN = datetime.fromtimestamp(NOW, UTC)


@pytest.fixture(scope="module")
def ca() -> tuple[Authority, Authority]:
    return authority()


def openssl_says(
    tmp_path: Path, ca: tuple[Authority, Authority], leaf: x509.Certificate, purpose: str
) -> bool:
    paths = {}
    for name, c in (("root", ca[0].certificate), ("issuing", ca[1].certificate), ("leaf", leaf)):
        paths[name] = tmp_path / f"{name}.pem"
        paths[name].write_text(certificates.pem(c))
    done = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-attime", str(int(NOW)),
         "-CAfile", paths["root"], "-untrusted", paths["issuing"], paths["leaf"]],
        capture_output=True, check=False,
    )  # fmt: skip
    return done.returncode == 0


def test_openssl_accepts_each_for_its_purpose_alone(
    tmp_path: Path, ca: tuple[Authority, Authority]
) -> None:
    key = new_key().public_key()
    gateway = certificates.make_gateway(ca[1], key, TENANT, "gw-demo", NOW)
    client = certificates.make_client(ca[1], key, TENANT, NOW)
    server = certificates.make_server(ca[1], key, ["127.0.0.1", "fleet.example"], NOW)
    for leaf, may in ((gateway, "sslclient"), (client, "sslclient"), (server, "sslserver")):
        for purpose in ("sslclient", "sslserver"):
            assert openssl_says(tmp_path, ca, leaf, purpose) is (purpose == may)


def test_an_issuer_that_one_root_vouched_for_is_none_of_anothers(
    ca: tuple[Authority, Authority],
) -> None:
    root, issuing = ca
    stranger = authority()[0].certificate
    leaf = certificates.make_gateway(issuing, new_key().public_key(), TENANT, "gw-demo", NOW)
    chain = [c.public_bytes(serialization.Encoding.DER) for c in (leaf, issuing.certificate)]
    for roots in ([root.certificate], [stranger], [stranger, root.certificate], [stranger]):
        if root.certificate in roots:
            assert check_chain(chain, roots, NOW + 60).device == "gw-demo"
        else:
            with pytest.raises(WireRefusal, match="bad_chain"):
                check_chain(chain, roots, NOW + 60)


def test_a_gateway_lives_thirty_days_and_begins_a_little_early(
    ca: tuple[Authority, Authority],
) -> None:
    leaf = certificates.make_gateway(ca[1], new_key().public_key(), TENANT, "gw-demo", NOW)
    assert leaf.not_valid_after_utc == BEGIN + timedelta(days=30)
    assert leaf.not_valid_before_utc == BEGIN - certificates.BACKDATE
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [n.value for n in names] == ["urn:edgewarden:device:main:gw-demo"]
    assert [a.value for a in leaf.subject] == [TENANT, "gw-demo"]


def test_the_fleets_own_name_can_be_no_gateways() -> None:
    assert not is_identifier(certificates.FLEET_CN)


def request(key: object, *, subject: str = "whoever") -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    signed = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def test_a_request_gives_its_key_and_nothing_else() -> None:
    key = new_key()
    read = certificates.read_request(request(key))
    assert read.public_numbers() == key.public_key().public_numbers()


def test_a_request_signed_by_another_key_is_refused() -> None:
    text = request(new_key())
    der = bytearray(x509.load_pem_x509_csr(text.encode()).public_bytes(serialization.Encoding.DER))
    der[-4] ^= 1
    altered = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(WireRefusal, match="csr_invalid: the request is not signed"):
        certificates.read_request(altered.decode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        request(rsa.generate_private_key(65537, 2048)),
        request(ec.generate_private_key(ec.SECP384R1())),
    ],
    ids=["empty", "nonsense", "garbled", "rsa", "p-384"],
)
def test_any_other_request_is_refused(text: str) -> None:
    with pytest.raises(WireRefusal, match="csr_invalid"):
        certificates.read_request(text)


def test_a_request_that_asks_for_more_is_refused() -> None:
    """A CA that passed extensions on would issue what a gateway wishes to be."""
    key = new_key()
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    more = builder.add_extension(x509.BasicConstraints(True, None), True)
    for asked in (more, builder.add_attribute(x509.ObjectIdentifier("1.2.840.113549.1.9.7"), b"x")):
        text = asked.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
        with pytest.raises(WireRefusal, match="csr_invalid: the request asks for more"):
            certificates.read_request(text)


def test_a_key_of_the_fleets_own_that_is_none_is_said() -> None:
    with pytest.raises(OurFault) as caught:
        certificates.load_private_key(
            rsa.generate_private_key(65537, 2048).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
    assert caught.value.code == "EW-ID-020"
