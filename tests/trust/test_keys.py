"""Keys: one kind of key, one spelling of a signature."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from types import ModuleType

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from edgewarden.errors import TrustFault, WireRefusal
from edgewarden.kernel import p256
from edgewarden.trust import keys, pyca
from edgewarden.trust.keys import (
    FileSigner,
    cose_key_of_pem,
    either_form_verified,
    key_id,
    public_cose_key,
    verifier_for,
)
from edgewarden.wire import cose
from tests.wire import samples

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
MESSAGE = b"what was measured"
# RFC 6979 appendix A.2.5: key, message "sample", SHA-256; s is in the upper half.
X = int("60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6", 16)
Y = int("7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299", 16)
R = int("efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716", 16)
S = int("f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8", 16)


@pytest.fixture(params=[p256, pyca], ids=["ssl's OpenSSL", "cryptography"], autouse=True)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Every test of this file holds for both libraries."""
    if request.param is p256 and p256.library() is None:
        pytest.skip("this Python's ssl does not use libcrypto.so.3")
    monkeypatch.setattr(keys, "library", lambda: request.param)
    made: ModuleType = request.param
    return made


@pytest.fixture
def signer() -> FileSigner:
    return FileSigner.generate()


def raw(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def test_a_known_signature_holds_in_its_lower_half_only() -> None:
    verify = verifier_for(cose.encode_key(X.to_bytes(32, "big"), Y.to_bytes(32, "big")))
    assert verify(b"sample", raw(R, ORDER - S))
    assert not verify(b"sample", raw(R, S))
    assert not verify(b"simple", raw(R, ORDER - S))


def test_signatures_are_64_bytes_and_what_der_says(signer: FileSigner) -> None:
    verify = verifier_for(signer.public_key())
    for number in range(64):
        message = MESSAGE + bytes([number])
        signature = signer.sign(message)
        assert len(signature) == 64
        assert verify(message, signature)
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        assert s <= ORDER // 2
        public = signer.private_key().public_key()
        public.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
        assert not verify(message, raw(r, ORDER - s))


@pytest.mark.parametrize("length", [0, 1, 63, 65, 72, 128])
def test_a_signature_of_another_length_does_not_hold(signer: FileSigner, length: int) -> None:
    good = signer.sign(MESSAGE)
    assert not verifier_for(signer.public_key())(MESSAGE, (good * 2)[:length])


def test_degenerate_and_altered_signatures_do_not_hold(signer: FileSigner) -> None:
    verify, good = verifier_for(signer.public_key()), signer.sign(MESSAGE)
    for r, s in ((0, 0), (0, 1), (1, 0), (ORDER, 1), (1, ORDER // 2), (2**256 - 1, 1)):
        assert not verify(MESSAGE, raw(r, s))
    for at in range(64):
        assert not verify(MESSAGE, good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    assert not verifier_for(samples.STRANGER.public_key())(MESSAGE, good)


@pytest.mark.parametrize(
    ("x", "y"), [(X, Y ^ 1), (X ^ 1, Y), (0, 0), (2**256 - 1, Y), (X, 2**256 - 1)]
)
def test_a_point_off_the_curve_is_refused(x: int, y: int) -> None:
    key = cose.encode_key(x.to_bytes(32, "big"), y.to_bytes(32, "big"))
    with pytest.raises(WireRefusal) as caught:
        verifier_for(key)
    assert caught.value.name == "bad_key"


def test_kid_is_the_thumbprints_beginning(signer: FileSigner) -> None:
    assert signer.kid == hashlib.sha256(signer.public_key()).digest()[:8]
    assert signer.kid == key_id(signer.public_key())
    assert signer.public_key() == public_cose_key(signer.private_key().public_key())
    assert len(signer.public_key()) == 75


def test_pem_round_trip(signer: FileSigner) -> None:
    again = FileSigner.from_pem(signer.to_pem())
    assert again.public_key() == signer.public_key()
    assert b"BEGIN PRIVATE KEY" in signer.to_pem()


PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def pem(key: PrivateKey, password: bytes = b"") -> bytes:
    how: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        how = serialization.BestAvailableEncryption(password)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        pem(ec.generate_private_key(ec.SECP384R1())),
        pem(ec.generate_private_key(ec.SECP256K1())),
        pem(ed25519.Ed25519PrivateKey.generate()),
        pem(ec.generate_private_key(ec.SECP256R1()), b"secret"),
        FileSigner.generate().to_pem()[:-60],
        FileSigner.generate().to_pem().replace(b"M", b"!", 1),
    ],
    ids=["empty", "garbled", "p-384", "secp256k1", "ed25519", "encrypted", "cut", "no base64"],
)
def test_another_key_is_no_identity(data: bytes) -> None:
    with pytest.raises(TrustFault) as caught:
        FileSigner.from_pem(data)
    assert caught.value.code == "EW-ID-003"


def test_a_public_key_of_another_curve_has_no_cose_key() -> None:
    for curve in (ec.SECP384R1(), ec.SECP256K1()):
        with pytest.raises(WireRefusal) as caught:
            public_cose_key(ec.generate_private_key(curve).public_key())
        assert caught.value.name == "bad_key"


def test_of_others_signatures_both_forms_hold_and_nothing_else(signer: FileSigner) -> None:
    """A device's evidence counts by its nonce; nothing is known by the signature's bytes."""
    public, made = signer.public_key(), signer.sign(MESSAGE)
    r, s = int.from_bytes(made[:32], "big"), int.from_bytes(made[32:], "big")
    for form in (made, raw(r, ORDER - s)):
        assert either_form_verified(public, MESSAGE, form)
        assert not either_form_verified(public, MESSAGE + b".", form)
        assert not either_form_verified(public, MESSAGE, form[:-1])
        assert not either_form_verified(public, MESSAGE, form + b"\0")
    assert not either_form_verified(public, MESSAGE, b"")


def public_pem(key: PrivateKey) -> str:
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, info).decode()


def test_an_operators_key_for_a_device_is_p256() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert cose_key_of_pem(public_pem(key)) == public_cose_key(key.public_key())
    others = (ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate())
    # Algorithm 1.2.3.4, which nobody has.
    unknown = "-----BEGIN PUBLIC KEY-----\nMAswBQYDKgMEAwIAAA==\n-----END PUBLIC KEY-----\n"
    for text in (*map(public_pem, others), "", "nonsense", pem(key).decode(), unknown):
        with pytest.raises(TrustFault) as caught:
            cose_key_of_pem(text)
        assert caught.value.code == "EW-DEV-005"


# --- two libraries ----------------------------------------------------------------------------


OTHER = {p256: pyca, pyca: p256}


def test_each_library_reads_and_checks_what_the_other_made(library: ModuleType) -> None:
    ours, theirs = library.Private.generate(), OTHER[library]
    again = theirs.Private.open(ours.pkcs8())
    assert (again.point(), again.pkcs8()) == (ours.point(), ours.pkcs8())
    for number in range(64):
        message = MESSAGE + bytes([number])
        assert theirs.Public(ours.point()).verify(message, ours.sign(message))
        assert library.Public(again.point()).verify(message, again.sign(message))


def test_a_longer_signature_with_the_same_numbers_does_not_hold(library: ModuleType) -> None:
    key = library.Private.generate()
    made, public = keys.low_s(key.sign(MESSAGE)), library.Public(key.point())
    longer = made[:32] + b"\0" + made[32:]
    assert keys._verifier(public)(MESSAGE, made)
    assert not keys._verifier(public)(MESSAGE, longer)
    if library is p256:
        assert not public.verify(MESSAGE, longer)


def test_a_file_under_another_name_is_no_key(signer: FileSigner) -> None:
    for pem in (
        signer.to_pem().replace(b"BEGIN PRIVATE", b"BEGIN STRANGE"),
        signer.to_pem().replace(b"END PRIVATE", b"END STRANGE"),
    ):
        with pytest.raises(TrustFault) as caught:
            FileSigner.from_pem(pem)
        assert caught.value.code == "EW-ID-003"


def test_a_key_file_is_what_cryptography_writes(signer: FileSigner) -> None:
    whole = signer.private_key().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    assert signer.to_pem() == whole
    assert FileSigner.from_pem(whole).public_key() == signer.public_key()


def test_a_number_and_another_keys_point_are_no_key(library: ModuleType) -> None:
    one, other = library.Private.generate().pkcs8(), library.Private.generate().pkcs8()
    with pytest.raises(ValueError, match=r"."):
        library.Private.open(one[:-65] + other[-65:])


@pytest.mark.parametrize("number", [0, ORDER, 2**256 - 1])
def test_a_number_outside_the_group_is_no_key(library: ModuleType, number: int) -> None:
    der = library.Private.generate().pkcs8()
    with pytest.raises(ValueError, match=r"."):
        library.Private.open(der[:36] + number.to_bytes(32, "big") + der[68:])


def in_a_fresh_one(code: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


@pytest.mark.skipif(p256.library() is None, reason="this Python's ssl has another OpenSSL")
def test_who_has_no_cryptography_signs_and_checks_without_it(signer: FileSigner) -> None:
    said = in_a_fresh_one(
        "import sys\n"
        "from edgewarden.trust.ladder import Keys\n"
        "from edgewarden.trust.keys import FileSigner, verifier_for\n"
        f"for key in (FileSigner.generate(), Keys().open({signer.to_pem()!r}, 'G0')):\n"
        "    assert verifier_for(key.public_key())(b'words', key.sign(b'words'))\n"
        "print(*(name for name in sys.modules if name.startswith('cryptography')))\n"
    )
    assert said == "\n"


@pytest.mark.skipif(p256.library() is None, reason="this Python's ssl has another OpenSSL")
@pytest.mark.parametrize(
    "failing",
    [
        "p256.Public(b'\\x04' + bytes(64))",
        "p256.Private.open(key.pkcs8()[:-1] + bytes([key.pkcs8()[-1] ^ 1]))",
        "p256.Private.open(key.pkcs8()[:36] + bytes(32) + key.pkcs8()[68:])",
        "p256.Public(key.point()).verify(b'', bytes(64))",
        "p256.Public(key.point()).verify(b'', b'\\xff' * 64)",
    ],
)
def test_a_failed_call_leaves_nothing_for_ssl_to_find(failing: str) -> None:
    """OpenSSL's queue of errors belongs to the thread: the next handshake would raise what is in
    it."""
    said = in_a_fresh_one(
        "import ctypes, os, ssl\n"
        "from edgewarden.kernel import p256\n"
        "key = p256.Private.generate()\n"
        f"try: {failing}\n"
        "except ValueError: pass\n"
        "crypto = ctypes.CDLL('libcrypto.so.3', mode=os.RTLD_NOLOAD | os.RTLD_NOW)\n"
        "crypto.ERR_peek_error.restype = ctypes.c_ulong\n"
        "print(crypto.ERR_peek_error())\n"
    )
    assert said == "0\n"


def test_one_form_of_a_key_file_is_read_by_ssls_library() -> None:
    """Any other that OpenSSL would read is left to the package: one key, one spelling."""
    if p256.library() is None:
        pytest.skip("this Python's ssl does not use libcrypto.so.3")
    der = p256.Private.generate().pkcs8()
    assert p256.Private.open(der).pkcs8() == der
    compressed = der[:-65] + bytes([2 + (der[-1] & 1)]) + der[-64:]
    head = bytes([der[0] ^ 1])
    for other in (der + b"\0", der[:-1], b"", head + der[1:], compressed):
        with pytest.raises(ValueError, match="not the one form"):
            p256.Private.open(other)


def test_a_signature_is_two_numbers_and_nothing_behind() -> None:
    der = p256.der_of(raw(R, S))
    assert p256.numbers(der) == raw(R, S)
    for other in (der + b"\0", bytes([der[0], der[1] + 1]) + der[2:]):
        with pytest.raises(ValueError, match="not a signature"):
            p256.numbers(other)


def test_ssls_library_looks_at_64_bytes_alone(signer: FileSigner) -> None:
    if p256.library() is None:
        pytest.skip("this Python's ssl does not use libcrypto.so.3")
    key, made = (
        p256.Public(b"\4" + b"".join(cose.decode_key(signer.public_key()))),
        signer.sign(MESSAGE),
    )
    assert key.verify(MESSAGE, made)
    assert not key.verify(MESSAGE, made + b"\0")
    assert not key.verify(MESSAGE, made[:-1])
