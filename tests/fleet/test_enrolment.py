"""Enrolment with a TPM, on the fleet's side: each rule alone keeps a forged TPM out.

The TPM here is a few lines of Python (``PaperTpm``): it opens credentials as
TPM2_ActivateCredential does and signs certifications, and it can be made to lie in each thing that
a rule looks at. What a real TPM does is tests/system/test_tpm_gateway.py's.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from edgewarden.errors import OperatorFault, WireRefusal
from edgewarden.kernel import tpm_forms
from edgewarden.wire import tpm as forms
from edgewarden.wire.enrol import EnrolRequest
from edgewarden.wire.enrol_tpm import (
    Activation,
    CredentialChallenge,
    TpmKeys,
    qualifying,
)
from edgewarden_fleet.ca import certificates
from edgewarden_fleet.ca.certificates import Authority, make_issuing, make_root
from edgewarden_fleet.ca.folder import FleetFolder
from edgewarden_fleet.desk.binding import Makers
from edgewarden_fleet.desk.credential import make_credential, parse_ek
from edgewarden_fleet.desk.enrolment import ACTIVATE_S, MAX_WAITING, Enrolment
from edgewarden_fleet.desk.tokens import Office, new_token
from edgewarden_fleet.store import lineage, registry
from edgewarden_fleet.store.schema import open_store
from tests.fleet.makers import NOW, new_key
from tests.fleet.test_certificates import request as signing_request
from tests.fleet.test_folder import make

DEVICE = "gw-demo"


def point_of(key: ec.EllipticCurvePublicKey) -> bytes:
    n = key.public_numbers()
    return b"".join(struct.pack(">H", 32) + c.to_bytes(32, "big") for c in (n.x, n.y))


def public(template: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A template with a key's point in the place of its own."""
    empty = 4 if template.endswith(bytes(4)) and template[-68:-66] != b"\0\x20" else 68
    return template[:-empty] + point_of(key.public_key())


@dataclass
class PaperTpm:
    """Keys of one TPM; P-256 all of them."""

    ek: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    ak: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    tls: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    ak_template: bytes = tpm_forms.AK
    tls_template: bytes = tpm_forms.TLS
    ek_template: bytes = tpm_forms.EK["ecc"]
    certificate: bytes = b""

    @property
    def keys(self) -> TpmKeys:
        return TpmKeys(
            public(self.ek_template, self.ek), self.certificate,
            public(self.ak_template, self.ak), public(self.tls_template, self.tls),
        )  # fmt: skip

    def open(self, challenge: CredentialChallenge) -> bytes:
        """TPM2_ActivateCredential for this EK and this AK's name (Part 1, §24)."""
        name = forms.parse_public(self.keys.ak_public).name
        encrypted = tpm_forms.unsized(challenge.secret)
        x, y = encrypted[2:34], encrypted[36:68]
        theirs = ec.EllipticCurvePublicNumbers(
            int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1()
        ).public_key()
        shared = self.ek.exchange(ec.ECDH(), theirs)
        mine = self.ek.public_key().public_numbers().x.to_bytes(32, "big")
        seed = hashlib.sha256(b"\0\0\0\1" + shared + b"IDENTITY\0" + x + mine).digest()
        return opened(seed, tpm_forms.unsized(challenge.credential), name)

    def certify(self, secret: bytes, name: bytes | None = None) -> tuple[bytes, bytes]:
        """TPM2_Certify of the TLS key by the AK."""
        name = name or forms.parse_public(self.keys.tls_public).name
        attest = (
            struct.pack(">IH", forms.GENERATED, forms.ST_ATTEST_CERTIFY)
            + tpm_forms.sized(bytes(34)) + tpm_forms.sized(qualifying(secret)) + bytes(25)
            + tpm_forms.sized(name) + tpm_forms.sized(bytes(34))
        )  # fmt: skip
        return attest, signed(self.ak, attest)

    def answer(self, challenge: CredentialChallenge) -> Activation:
        secret = self.open(challenge)
        return Activation(challenge.session, secret, *self.certify(secret))


def signed(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return bytes.fromhex("0018000b") + b"".join(
        tpm_forms.sized(n.to_bytes(32, "big")) for n in (r, s)
    )


def opened(seed: bytes, blob: bytes, name: bytes) -> bytes:
    """The inner half of ActivateCredential: check the HMAC, decrypt."""
    outer, identity = tpm_forms.unsized(blob), blob[34:]
    mac_key = hmac.digest(seed, b"\0\0\0\1INTEGRITY\0" + struct.pack(">I", 256), "sha256")
    if not hmac.compare_digest(hmac.digest(mac_key, identity + name, "sha256"), outer):
        raise ValueError("integrity")
    key = hmac.digest(seed, b"\0\0\0\1STORAGE\0" + name + struct.pack(">I", 128), "sha256")[:16]
    block, plain, before = Cipher(algorithms.AES(key), modes.ECB()).encryptor(), b"", bytes(16)
    for at in range(0, len(identity), 16):
        part = identity[at : at + 16]
        plain += bytes(a ^ b for a, b in zip(part, block.update(before), strict=False))
        before = part
    return tpm_forms.unsized(plain)


class Maker:
    """A vendor: root, a certificate between, and EK certificates."""

    def __init__(self) -> None:
        self.root_key, self.issuing_key = new_key(), new_key()
        root = Authority(make_root(self.root_key, "maker", NOW), self.root_key)
        between = make_issuing(root, self.issuing_key, "maker", NOW)
        self.root, self.issuing = root.certificate, Authority(between, self.issuing_key)

    def certify(self, tpm: PaperTpm, padding_bytes: int = 0) -> PaperTpm:
        """The TPM with a certificate for its EK, padded as NV areas are."""
        leaf = certificates.make_client(self.issuing, tpm.ek.public_key(), "maker", NOW)
        tpm.certificate = certificates.der(leaf) + b"\xff" * padding_bytes
        return tpm

    @property
    def pinned(self) -> list[x509.Certificate]:
        return [self.root, self.issuing.certificate]


@dataclass
class Service:
    """The fleet's desk with a store of its own."""

    folder: FleetFolder
    trusted: Makers = field(default_factory=Makers)

    def __post_init__(self) -> None:
        self.db = open_store(self.folder.database)
        self.office = Office.open(self.folder)
        self.desk = Enrolment(self.db, self.office, lambda: self.trusted)

    def request(self, tpm: PaperTpm | None, device: str = DEVICE, **more: object) -> EnrolRequest:
        token = new_token(self.db, self.folder.root(), device, NOW, 600)
        key = new_key() if tpm is None else tpm.tls
        asked = EnrolRequest(str(token), device, signing_request(key))
        if tpm is not None:
            asked = replace(asked, grade="G2", tpm=tpm.keys)
        return replace(asked, **more)  # type: ignore[arg-type]

    def enrol(self, tpm: PaperTpm, device: str = DEVICE, now: float = NOW, **more: object) -> str:
        """ "ok" or the refusal's name."""
        return self.enrol_request(self.request(tpm, device, **more), tpm, now)

    def enrol_request(self, asked: EnrolRequest, tpm: PaperTpm, now: float = NOW) -> str:
        try:
            said = self.desk.begin(asked, now)
            assert isinstance(said, CredentialChallenge)
            self.desk.finish(tpm.answer(said), now)
        except WireRefusal as refusal:
            return refusal.name
        return "ok"

    def findings(self) -> list[tuple[str, str]]:
        rows = self.db.execute("SELECT kind, text FROM finding ORDER BY id").fetchall()
        return [(row["kind"], row["text"]) for row in rows]

    def registered(self, device: str = DEVICE) -> str | None:
        found = registry.find(self.db, device)
        return None if found is None else found.grade


@pytest.fixture
def maker() -> Maker:
    return Maker()


@pytest.fixture
def service(tmp_path: Path, maker: Maker) -> Service:
    return Service(make(tmp_path / "fleet"), Makers(maker.pinned))


def test_a_tpm_of_a_pinned_maker_is_enrolled_as_G2(service: Service, maker: Maker) -> None:
    tpm = maker.certify(PaperTpm(), padding_bytes=40)
    assert service.enrol(tpm) == "ok"
    assert service.registered() == "G2"
    known = lineage.of_device(service.db, DEVICE)
    assert known is not None
    assert (known.ak_public, known.tls_public) == (tpm.keys.ak_public, tpm.keys.tls_public)
    assert "root" in known.vouched_by
    assert registry.ak_public(service.db, DEVICE) == tpm.keys.ak_public
    assert service.findings() == []


def test_a_listed_ek_needs_no_certificate(service: Service) -> None:
    tpm = PaperTpm()
    assert service.enrol(tpm) == "ek_untrusted"
    name = parse_ek(tpm.keys.ek_public).name
    service.trusted = Makers((), frozenset({name}))
    assert service.enrol(tpm) == "ok"


def test_the_refusal_names_what_to_list(service: Service) -> None:
    tpm = PaperTpm()
    with pytest.raises(WireRefusal) as caught:
        service.desk.begin(service.request(tpm), NOW)
    assert parse_ek(tpm.keys.ek_public).name.hex() in caught.value.text
    assert "has no certificate" in caught.value.text


def of_the_rsa_kind(tpm: PaperTpm) -> tuple[rsa.RSAPrivateKey, bytes]:
    """The EK that every TPM has; and its TPMT_PUBLIC."""
    key = rsa.generate_private_key(65537, 2048)
    modulus = key.public_key().public_numbers().n.to_bytes(256, "big")
    return key, tpm_forms.EK["rsa"][:-258] + tpm_forms.sized(modulus)


def test_an_rsa_ek_is_its_certificates_or_is_not(service: Service, maker: Maker) -> None:
    tpm = PaperTpm()
    key, public_area = of_the_rsa_kind(tpm)
    other, _ = of_the_rsa_kind(tpm)
    for shown, ends in ((key, "challenged"), (other, "ek_untrusted")):
        leaf = certificates.make_client(maker.issuing, shown.public_key(), "maker", NOW)  # type: ignore[arg-type]
        keys = replace(tpm.keys, ek_public=public_area, ek_certificate=certificates.der(leaf))
        try:
            service.desk.begin(replace(service.request(tpm), tpm=keys), NOW)
            said = "challenged"
        except WireRefusal as refusal:
            said = refusal.name
        assert said == ends


# --- whom to trust -------------------------------------------------------------------------------


def other_keys_certificate(maker: Maker, tpm: PaperTpm) -> None:
    tpm.certificate = maker.certify(PaperTpm()).certificate


def another_makers(maker: Maker, tpm: PaperTpm) -> None:
    Maker().certify(tpm)


def self_made(maker: Maker, tpm: PaperTpm) -> None:
    """Signed by nobody's issuing CA of the right name."""
    impostor = Maker()
    impostor.issuing = replace(maker.issuing, key=impostor.issuing_key)
    impostor.certify(tpm)


def garbled(maker: Maker, tpm: PaperTpm) -> None:
    tpm.certificate = maker.certify(tpm).certificate[:-9]


def of_nobody(certificate: bytes) -> bytes:
    """Its names with a text of a kind (0) that there is none of, in the place of UTF-8 (12): it is
    read as a whole all the same, and its names only when they are asked for."""
    return re.sub(rb"(?<=\x55\x04[\x03\x0a])\x0c", b"\0", certificate)


def issued_by_nobody(maker: Maker, tpm: PaperTpm) -> None:
    tpm.certificate = of_nobody(maker.certify(tpm).certificate)


@pytest.mark.parametrize(
    "forge", [other_keys_certificate, another_makers, self_made, garbled, issued_by_nobody]
)
def test_an_ek_nobody_vouches_for_is_refused(
    service: Service, maker: Maker, forge: Callable[[Maker, PaperTpm], None]
) -> None:
    tpm = PaperTpm()
    forge(maker, tpm)
    assert service.enrol(tpm) == "ek_untrusted"
    assert service.registered() is None


def test_a_pinned_certificate_that_is_no_authority_vouches_for_nobody(
    service: Service, maker: Maker
) -> None:
    """Whoever pins the certificate of one TPM has not made that TPM a maker."""
    middle, below = maker.certify(PaperTpm()), Maker()
    leaf = x509.load_der_x509_certificate(middle.certificate)
    below.issuing = Authority(leaf, middle.ek)
    service.trusted = Makers([*maker.pinned, leaf])
    assert service.enrol(below.certify(PaperTpm())) == "ek_untrusted"


def test_a_pinned_certificate_with_a_garbled_name_keeps_nobody_out(
    service: Service, maker: Maker
) -> None:
    odd = x509.load_der_x509_certificate(of_nobody(certificates.der(maker.root)))
    service.trusted = Makers([odd, *maker.pinned])
    assert service.enrol(maker.certify(PaperTpm())) == "ok"


def test_authorities_that_vouch_for_each_other_are_no_root(service: Service, maker: Maker) -> None:
    """Two pinned certificates, each issued by the other: a walk without an end."""
    one, other = Maker(), Maker()
    upper = make_issuing(
        replace(other.issuing, key=other.issuing_key), one.issuing_key, "maker", NOW
    )
    one.issuing = replace(one.issuing, certificate=upper)
    lower = make_issuing(one.issuing, other.issuing_key, "maker", NOW)
    above = make_issuing(replace(other.issuing, certificate=lower), one.issuing_key, "maker", NOW)
    tpm = PaperTpm()
    one.issuing = replace(one.issuing, certificate=above)
    service.trusted = Makers([above, lower])
    with pytest.raises(WireRefusal, match="no root within"):
        service.desk.begin(service.request(one.certify(tpm)), NOW)


def test_without_its_root_a_chain_leads_nowhere(service: Service, maker: Maker) -> None:
    service.trusted = Makers([maker.issuing.certificate])
    assert service.enrol(maker.certify(PaperTpm())) == "ek_untrusted"


def test_a_broken_list_trusts_nobody_and_says_so(service: Service, tmp_path: Path) -> None:
    roots = service.folder.path / "tpm" / "roots"
    (roots / "x.pem").write_text("no certificate")
    with pytest.raises(OperatorFault) as caught:
        Makers.open(service.folder.path)
    assert caught.value.code == "EW-SET-030"
    with pytest.raises(WireRefusal, match="ek_untrusted"):
        service.office.makers()
    (roots / "x.pem").unlink()
    (service.folder.path / "tpm" / "allowed").write_text("# mine\nxx\n")
    with pytest.raises(OperatorFault):
        Makers.open(service.folder.path)


def test_the_folder_is_read_as_it_stands(service: Service, maker: Maker) -> None:
    roots = service.folder.path / "tpm" / "roots"
    pem = b"".join(c.public_bytes(serialization.Encoding.PEM) for c in maker.pinned)
    (roots / "maker.pem").write_bytes(pem)
    (service.folder.path / "tpm" / "allowed").write_text(f"# the lab's\n{'ab' * 34}  # board 7\n")
    found = service.office.makers()
    assert list(found.certificates) == maker.pinned
    assert found.allowed == {b"\xab" * 34}


# --- what the keys must be -----------------------------------------------------------------------


def with_attributes(template: bytes, add: int = 0, drop: int = 0) -> bytes:
    (bits,) = struct.unpack_from(">I", template, 4)
    return template[:4] + struct.pack(">I", (bits | add) & ~drop) + template[8:]


A = forms.Attribute
WEAK = {
    "ak-may-leave": {"ak_template": with_attributes(tpm_forms.AK, drop=A.FIXED_TPM)},
    "ak-may-move": {"ak_template": with_attributes(tpm_forms.AK, drop=A.FIXED_PARENT)},
    "ak-imported": {"ak_template": with_attributes(tpm_forms.AK, drop=A.SENSITIVE_DATA_ORIGIN)},
    "ak-unrestricted": {"ak_template": with_attributes(tpm_forms.AK, drop=A.RESTRICTED)},
    "ak-decrypts": {"ak_template": with_attributes(tpm_forms.AK, add=A.DECRYPT)},
    "ak-signs-not": {"ak_template": with_attributes(tpm_forms.AK, drop=A.SIGN)},
    "tls-may-leave": {"tls_template": with_attributes(tpm_forms.TLS, drop=A.FIXED_TPM)},
    "tls-imported": {"tls_template": with_attributes(tpm_forms.TLS, drop=A.SENSITIVE_DATA_ORIGIN)},
    "tls-decrypts": {"tls_template": with_attributes(tpm_forms.TLS, add=A.DECRYPT)},
    "ek-signs": {"ek_template": with_attributes(tpm_forms.EK["ecc"], add=A.SIGN)},
    "ek-may-leave": {"ek_template": with_attributes(tpm_forms.EK["ecc"], drop=A.FIXED_TPM)},
    "ek-decrypts-not": {"ek_template": with_attributes(tpm_forms.EK["ecc"], drop=A.DECRYPT)},
}


@pytest.mark.parametrize("weak", WEAK.values(), ids=WEAK.keys())
def test_a_key_that_is_not_what_it_must_be_is_refused(
    service: Service, maker: Maker, weak: dict[str, bytes]
) -> None:
    tpm = maker.certify(replace(PaperTpm(), **weak))  # type: ignore[arg-type]
    assert service.enrol(tpm) == "tpm_keys"
    assert service.registered() is None


def test_an_attestation_key_of_another_kind_is_refused(service: Service, maker: Maker) -> None:
    tpm = maker.certify(PaperTpm())
    rsa_ak = with_attributes(tpm_forms.EK["rsa"], add=A.SIGN, drop=A.DECRYPT)
    plain = rsa_ak[:8] + tpm_forms.sized(b"") + tpm_forms.NONE + bytes.fromhex("0014000b")
    modulus = tpm_forms.sized(b"\xff" * 256)
    keys = replace(tpm.keys, ak_public=plain + struct.pack(">HI", 2048, 0) + modulus)
    assert service.enrol_request(replace(service.request(tpm), tpm=keys), tpm) == "tpm_keys"


def test_an_ek_beside_its_curve_gets_no_credential(service: Service, maker: Maker) -> None:
    tpm = maker.certify(PaperTpm())
    beside = tpm.keys.ek_public[:-1] + bytes([tpm.keys.ek_public[-1] ^ 1])
    service.trusted = Makers((), frozenset({parse_ek(beside).name}))
    keys = replace(tpm.keys, ek_public=beside)
    assert service.enrol_request(replace(service.request(tpm), tpm=keys), tpm) == "bad_tpm"


def test_a_signing_request_of_another_key_is_refused(service: Service, maker: Maker) -> None:
    tpm = maker.certify(PaperTpm())
    asked = service.request(tpm, csr_pem=signing_request(new_key()))
    assert service.enrol_request(asked, tpm) == "tpm_keys"


# --- the answer to the challenge -----------------------------------------------------------------


def begun(service: Service, tpm: PaperTpm) -> tuple[CredentialChallenge, Activation]:
    said = service.desk.begin(service.request(tpm), NOW)
    assert isinstance(said, CredentialChallenge)
    return said, tpm.answer(said)


def finished(service: Service, answer: Activation, now: float = NOW) -> str:
    try:
        service.desk.finish(answer, now)
    except WireRefusal as refusal:
        return refusal.name
    return "ok"


def test_a_session_is_good_once_and_for_a_while(service: Service, maker: Maker) -> None:
    tpm = maker.certify(PaperTpm())
    _, answer = begun(service, tpm)
    assert finished(service, replace(answer, session=bytes(32))) == "activation_expired"
    assert finished(service, answer, NOW + ACTIVATE_S) == "activation_expired"
    assert finished(service, answer) == "activation_expired", "it was used up by being late"
    _, answer = begun(service, tpm)
    assert finished(service, replace(answer, secret=bytes(32))) == "activation_failed"
    assert finished(service, answer) == "activation_expired", "one guess a session"
    _, answer = begun(service, tpm)
    assert finished(service, answer) == "ok"
    assert finished(service, answer) == "activation_expired"


def test_the_certification_is_held_to_this_enrolment(service: Service, maker: Maker) -> None:
    tpm, stranger = maker.certify(PaperTpm()), PaperTpm()

    def lying(lie: Callable[[Activation], Activation]) -> str:
        _, answer = begun(service, tpm)
        return finished(service, lie(answer))

    def other(answer: Activation, attest: tuple[bytes, bytes]) -> Activation:
        return replace(answer, certify=attest[0], certify_signature=attest[1])

    assert lying(lambda a: other(a, tpm.certify(bytes(32)))) == "tpm_keys", "an older one"
    assert lying(lambda a: other(a, tpm.certify(a.secret, b"\0\x0b" + bytes(32)))) == "tpm_keys"
    assert lying(lambda a: replace(a, certify_signature=signed(stranger.ak, a.certify))) == (
        "tpm_keys"
    )
    assert lying(lambda a: replace(a, certify=a.certify + b"\0")) == "bad_tpm"
    assert lying(lambda a: replace(a, certify=b"\0" + a.certify[1:])) == "bad_tpm"
    assert service.registered() is None
    assert lying(lambda a: a) == "ok"


def test_a_credential_opens_for_its_ak_and_its_tpm_alone(service: Service, maker: Maker) -> None:
    tpm = maker.certify(PaperTpm())
    said, _ = begun(service, tpm)
    for other in (replace(tpm, ak=new_key()), replace(tpm, ek=new_key())):
        with pytest.raises(ValueError, match="integrity"):
            other.open(said)


def test_an_rsa_ek_gets_a_credential_it_opens() -> None:
    key = rsa.generate_private_key(65537, 2048)
    modulus = key.public_key().public_numbers().n.to_bytes(256, "big")
    ek = parse_ek(tpm_forms.EK["rsa"][:-256] + modulus)
    name, secret = b"\0\x0b" + bytes(range(32)), bytes(range(32))
    credential, encrypted = make_credential(ek, name, secret)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\0")
    seed = key.decrypt(tpm_forms.unsized(encrypted), oaep)
    assert opened(seed, tpm_forms.unsized(credential), name) == secret


def test_waiting_enrolments_are_bounded(service: Service, maker: Maker) -> None:
    tpm = maker.certify(PaperTpm())
    _, first = begun(service, tpm)
    for _ in range(MAX_WAITING):
        begun(service, tpm)
    assert finished(service, first) == "activation_expired"


# --- lineage -------------------------------------------------------------------------------------


def test_a_device_keeps_its_tpm(service: Service, maker: Maker) -> None:
    tpm = maker.certify(PaperTpm())
    assert service.enrol(tpm) == "ok"
    assert service.enrol(tpm) == "ok", "the same keys may have another certificate"
    for other in (
        maker.certify(PaperTpm()),
        maker.certify(PaperTpm(ak=tpm.ak, tls=tpm.tls)),
        replace(tpm, ak=new_key()),
        replace(tpm, tls=new_key()),
    ):
        assert service.enrol(other) == "lineage_conflict"
    kinds = [kind for kind, _ in service.findings()]
    assert kinds == ["lineage"] * 4
    known = lineage.of_device(service.db, DEVICE)
    assert known is not None
    assert known.tls_public == tpm.keys.tls_public


def test_a_conflict_is_refused_before_a_credential_is_made(service: Service, maker: Maker) -> None:
    assert service.enrol(maker.certify(PaperTpm())) == "ok"
    with pytest.raises(WireRefusal, match="lineage_conflict"):
        service.desk.begin(service.request(maker.certify(PaperTpm())), NOW)


def test_of_two_that_began_at_once_one_is_enrolled(service: Service, maker: Maker) -> None:
    one = maker.certify(PaperTpm())
    for other, device in ((maker.certify(PaperTpm()), DEVICE), (replace(one, tls=new_key()), "b")):
        begun = []
        for tpm, name in ((one, DEVICE), (other, device)):
            said = service.desk.begin(service.request(tpm, name), NOW)
            assert isinstance(said, CredentialChallenge)
            begun.append(tpm.answer(said))
        service.desk.finish(begun[0], NOW)
        with pytest.raises(WireRefusal, match="lineage_conflict"):
            service.desk.finish(begun[1], NOW)
        lineage.forget(service.db, DEVICE)
        service.db.execute("DELETE FROM device")


def test_a_tpm_is_one_device(service: Service, maker: Maker) -> None:
    tpm = maker.certify(PaperTpm())
    assert service.enrol(tpm) == "ok"
    assert service.enrol(replace(tpm, tls=new_key()), "gw-two") == "lineage_conflict"
    assert service.findings() == [
        ("lineage", "enrolment refused: lineage_conflict: this TPM is gw-demo")
    ]
    assert service.registered("gw-two") is None


def test_a_file_key_cannot_take_a_tpms_place(service: Service, maker: Maker) -> None:
    assert service.enrol(maker.certify(PaperTpm())) == "ok"
    with pytest.raises(WireRefusal, match="device_exists"):
        service.desk.begin(service.request(None), NOW)
    assert [kind for kind, _ in service.findings()] == ["lineage"]
    assert service.registered() == "G2"


def test_a_tpm_cannot_take_a_file_keys_place(service: Service, maker: Maker) -> None:
    service.desk.begin(service.request(None), NOW)
    assert service.enrol(maker.certify(PaperTpm())) == "device_exists"
    assert service.registered() == "G0"


def test_a_forgotten_lineage_begins_anew(service: Service, maker: Maker) -> None:
    tpm = maker.certify(PaperTpm())
    assert service.enrol(tpm) == "ok"
    lineage.forget(service.db, DEVICE)
    assert lineage.of_device(service.db, DEVICE) is None
    assert service.enrol(replace(tpm, tls=new_key()), "gw-two") == "ok"


def test_no_word_of_a_tpm_makes_G2_without_its_proof(service: Service) -> None:
    with pytest.raises(WireRefusal, match="tpm_keys"):
        service.desk.begin(service.request(None, grade="G2"), NOW)
    assert service.registered() is None


# --- grades --------------------------------------------------------------------------------------


@pytest.mark.parametrize("grade", ["G0", "G0+", "G1"])
def test_a_grade_without_a_tpm_is_the_gateways_word(service: Service, grade: str) -> None:
    service.desk.begin(service.request(None, grade=grade), NOW)
    assert service.registered() == grade


def test_a_lowered_grade_is_refused_and_told_and_with_a_persons_word_told(
    service: Service,
) -> None:
    with pytest.raises(WireRefusal, match="grade_lowered"):
        service.desk.begin(service.request(None, recorded="G2"), NOW)
    assert service.registered() is None
    service.desk.begin(service.request(None, recorded="G2", accept_lower=True), NOW)
    assert service.registered() == "G0"
    told = service.findings()
    assert [kind for kind, _ in told] == ["grade", "grade"]
    assert all("G2" in text and "G0" in text for _, text in told)


def test_nobody_without_a_token_writes_findings(service: Service, maker: Maker) -> None:
    tpm = maker.certify(PaperTpm())
    assert service.enrol(tpm) == "ok"
    asked = service.request(None, recorded="G2")
    head, _, tail = asked.token.rpartition(".")
    other = head[:-2] + ("AA" if not head.endswith("AA") else "BA")
    with pytest.raises(WireRefusal, match="token"):
        service.desk.begin(replace(asked, token=f"{other}.{tail}"), NOW)
    assert service.findings() == []
