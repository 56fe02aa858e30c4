"""What a CA signed is held to what was asked for, before anything is registered."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgewarden.enrol.service import device_urn
from edgewarden.errors import PeerFault
from edgewarden_fleet.ca import certificates
from edgewarden_fleet.ca.certificates import Authority
from edgewarden_fleet.ca.issuers import BuiltIn, Chain, Wanted, checked
from tests.fleet.makers import NOW, TENANT, authority, new_key

ROOT, ISSUING = authority(NOW)
KEY = new_key().public_key()
WANTED = Wanted(TENANT, "gw-demo", KEY, "")


def made(key: object = KEY, tenant: str = TENANT, device: str = "gw-demo", board: int = 1) -> Chain:
    leaf = certificates.make_gateway(ISSUING, key, tenant, device, NOW, board=board)  # type: ignore[arg-type]
    return Chain(leaf, ISSUING.certificate)


def elsewhere() -> Chain:
    _, other = authority(NOW)
    leaf = certificates.make_gateway(other, KEY, TENANT, "gw-demo", NOW)
    return Chain(leaf, other.certificate)


def as_a_server() -> Chain:
    leaf = certificates.make_server(ISSUING, KEY, ["gw-demo"], NOW)
    return Chain(leaf, ISSUING.certificate)


def lasting(days: float) -> Chain:
    leaf = certificates.make_gateway(ISSUING, KEY, TENANT, "gw-demo", NOW, days)
    return Chain(leaf, ISSUING.certificate)


def ending_in(days: float) -> Authority:
    """An issuing certificate near its end; what it signs by our own code ends with it."""
    subject, key = ISSUING.certificate.subject, ISSUING.key.public_key()
    builder = certificates._under(ROOT, subject, key, days, NOW)
    builder = builder.add_extension(x509.BasicConstraints(True, 0), True)
    builder = builder.add_extension(certificates._usage(ca=True), True)
    return Authority(builder.sign(ROOT.key, hashes.SHA256()), ISSUING.key)


def outliving(issuing_days: float, days: float) -> Chain:
    """By a CA that does not look at its own end."""
    issuing, subject = ending_in(issuing_days), certificates._name("gw-demo", TENANT)
    public = ISSUING.key.public_key()
    builder = certificates._begin(subject, issuing.certificate.subject, KEY, public, days, NOW)
    uri = x509.UniformResourceIdentifier(device_urn(TENANT, "gw-demo"))
    builder = builder.add_extension(x509.SubjectAlternativeName([uri]), False)
    leaf = certificates._leaf(builder, ExtendedKeyUsageOID.CLIENT_AUTH, issuing)
    return Chain(leaf, issuing.certificate)


def with_critical() -> Chain:
    """An extension that OpenSSL does not know: the broker would refuse the certificate."""
    subject = certificates._name("gw-demo", TENANT)
    builder = certificates._under(ISSUING, subject, KEY, 30, NOW)
    uri = x509.UniformResourceIdentifier(device_urn(TENANT, "gw-demo"))
    builder = builder.add_extension(x509.SubjectAlternativeName([uri]), False)
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\5\0")
    builder = builder.add_extension(unknown, True)
    leaf = certificates._leaf(builder, ExtendedKeyUsageOID.CLIENT_AUTH, ISSUING)
    return Chain(leaf, ISSUING.certificate)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: made(device="gw-other"), "another gateway"),
        (lambda: made(tenant="north"), "another gateway"),
        (lambda: made(key=new_key().public_key()), "another key"),
        (lambda: made(board=2), "another board"),
        (lambda: lasting(3650), "3650.0 days"),
        (lambda: lasting(0.5), "0.5 days"),
        (lambda: outliving(20, 30), "outlive its issuer"),
        (with_critical, "not understand"),
        (elsewhere, "root"),
        (as_a_server, "clients"),
    ],
    ids=[
        "device",
        "tenant",
        "key",
        "board",
        "years",
        "hours",
        "outlives",
        "critical",
        "root",
        "purpose",
    ],
)
def test_anything_else_is_refused(make: Callable[[], Chain], why: str) -> None:
    with pytest.raises(PeerFault, match=why) as refused:
        checked(make(), WANTED, [ROOT.certificate], NOW)
    assert refused.value.code == "EW-ID-040"


def test_what_was_asked_for_is_believed() -> None:
    chain = BuiltIn(Authority(ISSUING.certificate, ISSUING.key)).issue(WANTED, NOW)
    assert checked(chain, WANTED, [ROOT.certificate], NOW) == chain


def test_a_certificate_as_long_as_its_issuer_is_believed() -> None:
    chain = outliving(20, 20)
    assert checked(chain, WANTED, [ROOT.certificate], NOW) == chain


def test_nothing_of_ours_outlives_what_signed_it() -> None:
    issuing = ending_in(12)
    chain = BuiltIn(issuing).issue(WANTED, NOW)
    assert checked(chain, WANTED, [ROOT.certificate], NOW) == chain
    end = issuing.certificate.not_valid_after_utc
    assert chain.leaf.not_valid_after_utc == end
    server = certificates.make_server(issuing, KEY, ["gw-demo"], NOW)
    client = certificates.make_client(issuing, KEY, TENANT, NOW)
    assert {server.not_valid_after_utc, client.not_valid_after_utc} == {end}
    late = NOW + 15 * 365 * 86400
    below = certificates.make_issuing(ROOT, ISSUING.key, TENANT, late)
    assert below.not_valid_after_utc == ROOT.certificate.not_valid_after_utc


def test_an_issuer_at_its_end_says_what_to_do() -> None:
    issuer = BuiltIn(ending_in(1))

    def at_the_desk(at: float) -> Chain:
        return checked(issuer.issue(WANTED, at), WANTED, [ROOT.certificate], at)

    for at, why in ((NOW + 86400 / 2, "good for 0.5 days"), (NOW + 86400, "ended")):
        with pytest.raises(PeerFault, match=why) as refused:
            at_the_desk(at)
        assert refused.value.code == "EW-ID-040"
        assert "ca rotate issuing" in refused.value.next_step
