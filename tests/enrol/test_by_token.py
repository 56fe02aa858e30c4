"""Enrolment against real TLS: the fleet's own service, and services that lie."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgewarden.enrol.by_token import enroll, renew
from edgewarden.enrol.folder import PENDING, locked
from edgewarden.enrol.service import device_urn, names_device
from edgewarden.errors import (
    EdgewardenError,
    OperatorFault,
    PeerUnavailable,
    TrustFault,
    WireRefusal,
)
from edgewarden.trust import identity
from edgewarden.trust.identity import load, replaced
from edgewarden.wire import enrol
from edgewarden_fleet.ca import certificates
from edgewarden_fleet.ca.folder import FleetFolder, create
from edgewarden_fleet.ca.settings import Attestation, Endpoint, FleetSettings
from tests.enrol.fleet_service import standing_service
from tests.enrol.service import DEVICE, HOST, Fleet, Service, new_key, running

Answer = Callable[[bytes], tuple[int, bytes]]


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture(scope="module")
def stranger() -> Fleet:
    return Fleet()


@pytest.fixture
def serve(fleet: Fleet, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """serve(answer): a service of this fleet's CA that answers so; stopped after the test."""
    with contextlib.ExitStack() as stack:

        def start(
            answer: Answer, ca: str | None = None, by: Fleet = fleet, host: str = HOST
        ) -> Service:
            service = Service((ca or fleet.ca_pem()).encode(), answer)
            files = by.server_files(tmp_path, host)
            return stack.enter_context(running(service, files))

        yield start


def refused(state: Path, url: str, token: str) -> EdgewardenError:
    """The fault that enrolment ends in; nothing may be stored then."""
    with pytest.raises(EdgewardenError) as caught:
        enroll(state, url, token)
    with pytest.raises(TrustFault, match="no identity"):
        load(state)
    return caught.value


def test_an_honest_service_gives_an_identity(
    fleet: Fleet, serve: Callable[..., Service], tmp_path: Path
) -> None:
    service = serve(fleet.honest)
    got = enroll(tmp_path / "state", service.url, fleet.token() + "\n")
    assert (got.device, got.tenant, got.grade) == (DEVICE, "main", "G0")
    assert (got.broker_host, got.broker_port) == ("broker.example", 8883)
    assert got.verifier_key == fleet.verifier.public_key()
    leaf, issuing = (x509.load_der_x509_certificate(c) for c in got.x5chain())
    leaf.verify_directly_issued_by(issuing)
    assert leaf.public_key() == got.signer().private_key().public_key()
    assert got.serial == f"{leaf.serial_number:x}"
    assert got.not_after_utc == leaf.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert got.ca_path.read_text().split() == fleet.ca_pem().split()
    assert not (tmp_path / "state" / identity.FOLDER / PENDING).exists()


def test_a_ca_may_have_renewed_its_root_under_one_name(
    fleet: Fleet, serve: Callable[..., Service], tmp_path: Path
) -> None:
    """Companies do: another key, the same name. The fleet takes either; so must its gateways."""
    key, name = new_key(), fleet.root.certificate.subject
    day = timedelta(days=1)
    namesake = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(fleet.root.certificate.not_valid_before_utc - day)
        .not_valid_after(fleet.root.certificate.not_valid_after_utc - day)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .sign(key, hashes.SHA256())
    )

    def answer(request: bytes) -> tuple[int, bytes]:
        body = json.loads(fleet.honest(request)[1])
        body["ca"] = certificates.pem(namesake) + body["ca"]
        return 200, json.dumps(body).encode()

    got = enroll(tmp_path / "state", serve(answer).url, fleet.token())
    assert got.root_pem().count("BEGIN") == 2


def test_the_key_never_leaves(fleet: Fleet, serve: Callable[..., Service], tmp_path: Path) -> None:
    service = serve(fleet.honest)
    got = enroll(tmp_path / "state", service.url, fleet.token())
    (request,) = service.requests
    assert b"PRIVATE" not in request
    scalar = got.signer().private_key().private_numbers().private_value.to_bytes(32, "big")
    assert scalar not in request
    asked = enrol.parse_request(request)
    assert asked.device == DEVICE
    signing_request = x509.load_pem_x509_csr(asked.csr_pem.encode())
    assert signing_request.is_signature_valid


def test_a_foreign_root_ends_it_before_anything_is_sent(
    fleet: Fleet, stranger: Fleet, serve: Callable[..., Service], tmp_path: Path
) -> None:
    service = serve(fleet.honest)
    fault = refused(tmp_path / "state", service.url, stranger.token())
    assert isinstance(fault, TrustFault)
    assert fault.code == "EW-ID-009"
    assert "token_foreign_ca" in str(fault)
    assert service.requests == []


@pytest.mark.parametrize(
    "ca", ["", "no PEM", "-----BEGIN CERTIFICATE-----\n???\n-----END CERTIFICATE-----\n"]
)
def test_a_garbled_root_is_a_foreign_one(
    fleet: Fleet, serve: Callable[..., Service], tmp_path: Path, ca: str
) -> None:
    service = serve(fleet.honest, ca=ca or " ")
    fault = refused(tmp_path / "state", service.url, fleet.token())
    assert isinstance(fault, TrustFault)
    assert "token_foreign_ca" in str(fault)
    assert service.requests == []


def test_the_right_root_on_a_foreign_server_is_refused(
    fleet: Fleet, stranger: Fleet, serve: Callable[..., Service], tmp_path: Path
) -> None:
    """An impostor can hand out our public root; he cannot hold a certificate under it."""
    service = serve(stranger.honest, by=stranger)
    fault = refused(tmp_path / "state", service.url, fleet.token())
    assert isinstance(fault, TrustFault)
    assert fault.code == "EW-ID-009"
    assert service.requests == []


def test_a_server_of_another_name_is_refused(
    fleet: Fleet, serve: Callable[..., Service], tmp_path: Path
) -> None:
    service = serve(fleet.honest, host="other.example")
    fault = refused(tmp_path / "state", service.url, fleet.token())
    assert isinstance(fault, TrustFault)
    assert "localhost" in str(fault)
    assert service.requests == []


def another_key(fleet: Fleet, _: Fleet, request: bytes) -> bytes:
    return fleet.answer(fleet.leaf(new_key().public_key()))


def key_of(request: bytes) -> ec.EllipticCurvePublicKey:
    return certificates.read_request(enrol.parse_request(request).csr_pem)


def another_device(fleet: Fleet, _: Fleet, request: bytes) -> bytes:
    return fleet.answer(fleet.leaf(key_of(request), "gw-other"))


def another_name(fleet: Fleet, _: Fleet, request: bytes) -> bytes:
    """Ours by its SAN, and to the broker another gateway."""
    return named(fleet, request, certificates._name("gw-other", "main"))


def two_names(fleet: Fleet, _: Fleet, request: bytes) -> bytes:
    """Ours by the first of its names: which of them a broker takes is the broker's affair."""
    names = [x509.NameAttribute(x509.NameOID.COMMON_NAME, n) for n in (DEVICE, "gw-other")]
    return named(fleet, request, x509.Name(names))


def named(fleet: Fleet, request: bytes, subject: x509.Name) -> bytes:
    builder = certificates._under(fleet.issuing, subject, key_of(request), 30, time.time())
    uri = x509.UniformResourceIdentifier(device_urn("main", DEVICE))
    builder = builder.add_extension(x509.SubjectAlternativeName([uri]), False)
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH
    return fleet.answer(certificates._leaf(builder, purpose, fleet.issuing))


def another_tenant(fleet: Fleet, _: Fleet, request: bytes) -> bytes:
    leaf = certificates.make_gateway(fleet.issuing, key_of(request), "north", DEVICE, time.time())
    return fleet.answer(leaf)


def another_issuer(fleet: Fleet, stranger: Fleet, request: bytes) -> bytes:
    return fleet.answer(stranger.leaf(key_of(request)), stranger.issuing.certificate)


def broken_link(fleet: Fleet, stranger: Fleet, request: bytes) -> bytes:
    return fleet.answer(stranger.leaf(key_of(request)))


def no_name(fleet: Fleet, _: Fleet, request: bytes) -> bytes:
    leaf = certificates.make_client(fleet.issuing, key_of(request), "main", time.time())
    return fleet.answer(leaf)


def p384(fleet: Fleet, _: Fleet, request: bytes) -> bytes:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    return fleet.answer(fleet.leaf(key))


def edited(**changed: object) -> Callable[[Fleet, Fleet, bytes], bytes]:
    def answer(fleet: Fleet, _: Fleet, request: bytes) -> bytes:
        body = json.loads(fleet.honest(request)[1])
        return json.dumps({**body, **changed}).encode()

    return answer


def leaf_as_root(fleet: Fleet, stranger: Fleet, request: bytes) -> bytes:
    answer = json.loads(fleet.answer(fleet.leaf(key_of(request))))
    answer["ca"] += certificates.pem(fleet.leaf(new_key().public_key()))
    return json.dumps(answer).encode()


def five_roots(fleet: Fleet, stranger: Fleet, request: bytes) -> bytes:
    answer = json.loads(fleet.answer(fleet.leaf(key_of(request))))
    return json.dumps({**answer, "ca": fleet.ca_pem() * 5}).encode()


LIES: dict[str, tuple[Callable[[Fleet, Fleet, bytes], bytes], str]] = {
    "another key": (another_key, "another key"),
    "another device": (another_device, "another device"),
    "another name at the broker": (another_name, "by another name"),
    "two names at the broker": (two_names, "by another name"),
    "another tenant": (another_tenant, "another device"),
    "another issuer": (another_issuer, "none of the roots"),
    "no roots": (edited(ca=""), "cannot be checked"),
    "a root that is none": (leaf_as_root, "no roots"),
    "five roots": (five_roots, "no roots"),
    "issued by somebody else under the right name": (broken_link, "cannot be checked"),
    "no name": (no_name, "cannot be checked"),
    "P-384": (p384, "another key"),
    "no certificate": (edited(certificate=""), "cannot be checked"),
    "garbled": (edited(certificate="-----BEGIN CERTIFICATE-----\nAAAA\n"), "cannot be checked"),
    "verifier key off the curve": (
        edited(verifier_key="a401022001215820" + "00" * 32 + "225820" + "01" * 32),
        "cannot be checked",
    ),
    "verifier key of another kind": (edited(verifier_key="a0"), "cannot be checked"),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_that_is_not_ours_is_refused(
    fleet: Fleet, stranger: Fleet, serve: Callable[..., Service], tmp_path: Path, lie: str
) -> None:
    answer, says = LIES[lie]
    service = serve(lambda request: (200, answer(fleet, stranger, request)))
    fault = refused(tmp_path / "state", service.url, fleet.token())
    assert isinstance(fault, TrustFault)
    assert fault.code == "EW-ID-011"
    assert says in str(fault)


@pytest.mark.parametrize(
    ("body", "name"),
    [(b"", "bad_request"), (b"<html>", "bad_request"), (b"x" * 100_000, "too_long")],
)
def test_an_answer_that_is_no_message_is_refused(
    fleet: Fleet, serve: Callable[..., Service], tmp_path: Path, body: bytes, name: str
) -> None:
    service = serve(lambda _: (502, body))
    fault = refused(tmp_path / "state", service.url, fleet.token())
    assert isinstance(fault, WireRefusal)
    assert fault.name == name


def test_no_answer_keeps_the_key_for_the_next_try(
    fleet: Fleet, serve: Callable[..., Service], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    service = serve(lambda _: (0, b""))
    fault = refused(state, service.url, fleet.token())
    assert isinstance(fault, PeerUnavailable)
    assert fault.code == "EW-ID-010"
    service.on_enroll = fleet.honest
    got = enroll(state, service.url, fleet.token())
    first, second = (key_of(request) for request in service.requests)
    assert first == second == got.signer().private_key().public_key()


def test_nobody_there_is_a_passing_fault(fleet: Fleet, tmp_path: Path) -> None:
    service = Service(fleet.ca_pem().encode(), fleet.honest)
    with running(service, fleet.server_files(tmp_path)):
        url = service.url
    fault = refused(tmp_path / "state", url, fleet.token())
    assert isinstance(fault, PeerUnavailable)
    assert not (tmp_path / "state").exists()


def test_a_gateway_enrols_once(fleet: Fleet, serve: Callable[..., Service], tmp_path: Path) -> None:
    service = serve(fleet.honest)
    got = enroll(tmp_path / "state", service.url, fleet.token())
    with pytest.raises(OperatorFault) as caught:
        enroll(tmp_path / "state", service.url, fleet.token())
    assert caught.value.code == "EW-ID-007"
    assert load(tmp_path / "state") == got
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    "url", ["http://localhost:1", "localhost:1", "https://", "https://h:99999", "https://h:x",
            "https://[::1", ""],
)  # fmt: skip
def test_a_url_that_cannot_be_used_is_named(fleet: Fleet, tmp_path: Path, url: str) -> None:
    fault = refused(tmp_path / "state", url, fleet.token())
    assert isinstance(fault, OperatorFault)
    assert fault.code == "EW-ID-008"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ew1.gw-test.xxx", "not ew1."), ("", "empty"), (" \n", "empty"), ("hello", "not ew1."),
        ("ew1.gw-test.!.00", "not readable"), ("ew1.gw-test.AAAA.00", "wrong length"),
    ],
)  # fmt: skip
def test_a_garbled_token_reaches_nobody_and_is_named(tmp_path: Path, text: str, says: str) -> None:
    fault = refused(tmp_path / "state", "https://localhost:1", text)
    assert isinstance(fault, WireRefusal)
    assert fault.name == "token_malformed"
    assert says in fault.text
    assert fault.code == "EW-ID-018"
    assert "begins with ew1." in fault.next_step


def test_a_wrong_url_is_named_before_the_token_is_looked_at(tmp_path: Path) -> None:
    for ask in (enroll, renew):
        with pytest.raises(OperatorFault) as caught:
            ask(tmp_path, "http://localhost:1", "no token")
        assert caught.value.code == "EW-ID-008"


# --- the fleet's own service -------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> FleetFolder:
    here = Endpoint(HOST, 1)
    wanted = FleetSettings("main", here, here, here, Attestation(60, 30, ("identity",)))
    return create(tmp_path_factory.mktemp("fleet") / "f", wanted, time.time())[0]


@pytest.fixture
def fleet_service(folder: FleetFolder) -> Iterator[tuple[str, Callable[..., str]]]:
    """(URL, token(device, ttl_s)) of the fleet's enrolment service."""
    with standing_service(folder) as made:
        yield made.url, made.token


def test_the_fleet_enrols_and_refuses_by_the_same_names(
    fleet_service: tuple[str, Callable[..., str]], tmp_path: Path
) -> None:
    url, token = fleet_service
    used = token()
    got = enroll(tmp_path / "a", url, used)
    assert got.device == DEVICE
    assert len(got.x5chain()) == 2

    def name(text: str) -> str:
        fault = refused(tmp_path / "b", url, text)
        assert isinstance(fault, WireRefusal)
        assert fault.next_step
        assert fault.code == "EW-ID-002"
        assert fault.text.count(fault.name) == 1, fault.text
        return fault.name

    assert name(used) == "token_used"
    assert name(token()) == "device_exists"
    assert name(token("gw-late", 60, time.time() - 3600)) == "token_expired"
    read = enrol.parse_token(token("gw-new"))
    assert name(str(enrol.Token("gw-new", bytes(32), read.ca_sha256))) == "token_unknown"
    assert name(str(enrol.Token("gw-else", read.secret, read.ca_sha256))) == "token_foreign_device"
    assert enroll(tmp_path / "b", url, str(read)).device == "gw-new"


def test_the_fleet_answers_the_same_key_again(
    fleet_service: tuple[str, Callable[..., str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer was lost on the way: same token, same key, and it goes through."""
    url, token = fleet_service
    text = token("gw-again")
    with monkeypatch.context() as patch:
        patch.setattr(enrol, "parse_answer", lost)
        with pytest.raises(PeerUnavailable):
            enroll(tmp_path / "s", url, text)
    assert enroll(tmp_path / "s", url, text).device == "gw-again"


def lost(_: bytes) -> enrol.EnrolAnswer:
    raise PeerUnavailable("the answer did not arrive")


def test_a_signing_request_of_another_curve_is_refused_by_the_fleet() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.sign(key, hashes.SHA256())
    with pytest.raises(WireRefusal) as caught:
        certificates.read_request(certificates.pem(request))  # type: ignore[arg-type]
    assert caught.value.name == "csr_invalid"


# --- renewal -----------------------------------------------------------------------------------


def test_the_fleet_renews_the_same_key_with_a_new_token(
    fleet_service: tuple[str, Callable[..., str]], tmp_path: Path
) -> None:
    url, token = fleet_service
    old = enroll(tmp_path, url, token("gw-renew"))
    assert not replaced(tmp_path, old)
    new = renew(tmp_path, url, token("gw-renew"))
    assert replaced(tmp_path, old)
    assert load(tmp_path) == new
    assert (new.device, new.tenant, new.verifier_key) == (old.device, old.tenant, old.verifier_key)
    assert new.key_path.read_bytes() == old.key_path.read_bytes()
    assert new.ca_path.read_bytes() == old.ca_path.read_bytes()
    assert new.serial != old.serial
    leaf = x509.load_der_x509_certificate(new.x5chain()[0])
    assert leaf.public_key() == old.signer().private_key().public_key()
    assert (old.folder / "cert.pem").exists(), "a running link still reads it"


def test_a_certificate_that_has_ended_is_renewed_too(
    fleet_service: tuple[str, Callable[..., str]], tmp_path: Path
) -> None:
    url, token = fleet_service
    old = enroll(tmp_path, url, token("gw-ended"))
    body = json.loads((old.folder / "identity.json").read_text())
    body["not_after_utc"] = "2020-01-01T00:00:00Z"
    (old.folder / "identity.json").write_text(json.dumps(body))
    assert renew(tmp_path, url, token("gw-ended")).not_after_utc > "2026"


def test_a_spent_token_renews_nothing(
    fleet_service: tuple[str, Callable[..., str]], tmp_path: Path
) -> None:
    url, token = fleet_service
    old = enroll(tmp_path / "a", url, token("gw-a"))
    for text, name in (
        (token("gw-a", 60, time.time() - 3600), "token_expired"),
        (str(enrol.Token("gw-a", bytes(32), enrol.parse_token(token("gw-a")).ca_sha256)),
         "token_unknown"),
    ):  # fmt: skip
        with pytest.raises(WireRefusal) as caught:
            renew(tmp_path / "a", url, text)
        assert caught.value.name == name
    assert load(tmp_path / "a") == old


def test_a_token_of_another_fleet_moves_nobody(
    fleet: Fleet, stranger: Fleet, serve: Callable[..., Service], tmp_path: Path
) -> None:
    service = serve(fleet.honest)
    old = enroll(tmp_path, service.url, fleet.token())
    with pytest.raises(TrustFault, match="another fleet") as caught:
        renew(tmp_path, service.url, stranger.token())
    assert caught.value.code == "EW-ID-009"
    assert len(service.requests) == 1
    assert load(tmp_path) == old


def test_an_impostor_gets_no_token_to_renew_with(
    fleet: Fleet, stranger: Fleet, serve: Callable[..., Service], tmp_path: Path
) -> None:
    old = enroll(tmp_path, serve(fleet.honest).url, fleet.token())
    theirs = serve(stranger.honest, by=stranger)
    with pytest.raises(TrustFault):
        renew(tmp_path, theirs.url, fleet.token())
    assert theirs.requests == []
    assert load(tmp_path) == old


@pytest.mark.parametrize("lie", ["another key", "another device", "another issuer"])
def test_a_renewal_that_is_not_ours_is_refused(
    fleet: Fleet, stranger: Fleet, serve: Callable[..., Service], tmp_path: Path, lie: str
) -> None:
    service = serve(fleet.honest)
    old = enroll(tmp_path, service.url, fleet.token())
    answer, _ = LIES[lie]
    service.on_enroll = lambda request: (200, answer(fleet, stranger, request))
    with pytest.raises(TrustFault) as caught:
        renew(tmp_path, service.url, fleet.token())
    assert caught.value.code == "EW-ID-011"
    assert load(tmp_path) == old


def test_a_renewal_into_another_tenant_is_refused(
    fleet: Fleet, serve: Callable[..., Service], tmp_path: Path
) -> None:
    service = serve(fleet.honest)
    old = enroll(tmp_path, service.url, fleet.token())

    def north(request: bytes) -> tuple[int, bytes]:
        leaf = certificates.make_gateway(
            fleet.issuing, key_of(request), "north", DEVICE, time.time()
        )
        return 200, json.dumps({**json.loads(fleet.answer(leaf)), "tenant": "north"}).encode()

    service.on_enroll = north
    with pytest.raises(TrustFault, match="another tenant"):
        renew(tmp_path, service.url, fleet.token())
    assert load(tmp_path) == old


def test_a_token_for_another_device_renews_nothing(
    fleet: Fleet, serve: Callable[..., Service], tmp_path: Path
) -> None:
    service = serve(fleet.honest)
    enroll(tmp_path, service.url, fleet.token())
    with pytest.raises(OperatorFault, match="gw-other") as caught:
        renew(tmp_path, service.url, fleet.token("gw-other"))
    assert f"--device {DEVICE}" in caught.value.next_step
    assert len(service.requests) == 1


def test_without_an_identity_there_is_nothing_to_renew(fleet: Fleet, tmp_path: Path) -> None:
    with pytest.raises(TrustFault) as caught:
        renew(tmp_path, "https://localhost:1", fleet.token())
    assert caught.value.code == "EW-ID-004"


def test_an_identity_that_is_gone_replaces_nothing(
    fleet: Fleet, serve: Callable[..., Service], tmp_path: Path
) -> None:
    old = enroll(tmp_path, serve(fleet.honest).url, fleet.token())
    (tmp_path / identity.FOLDER / identity.CURRENT).unlink()
    assert not replaced(tmp_path, old)


def test_one_enrolment_at_a_time(
    serve: Callable[..., Service], fleet: Fleet, tmp_path: Path
) -> None:
    """Two at once would each make a key, and one would be kept without its certificate."""
    service = serve(fleet.honest)
    state = tmp_path / "state"
    with locked(state, make=True):
        fault = refused(state, service.url, fleet.token())
    assert isinstance(fault, OperatorFault)
    assert fault.code == "EW-ID-041"
    assert service.requests == []
    assert enroll(state, service.url, fleet.token()).device == DEVICE


def uri(device: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(device_urn("main", device))


@pytest.mark.parametrize(
    ("names", "tenant", "device", "is_its"),
    [
        ([uri("gw-1")], "main", "gw-1", True),
        ([uri("gw-2")], "main", "gw-1", False),
        ([uri("")], "main", "", False),
        ([uri("gw-1")] * 2, "main", "gw-1", False),
        ([], "main", "gw-1", False),
    ],
)
def test_a_certificate_names_this_gateway_alone(
    names: list[x509.GeneralName], tenant: str, device: str, is_its: bool
) -> None:
    assert names_device(x509.SubjectAlternativeName(names), tenant, device) is is_its
