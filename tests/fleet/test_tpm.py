"""Signatures of TPM keys, and who may be given a credential: what holds, and each way not to.

Each refusal here is taken out by tests/fleet/test_mutation_rest.py, and one of these turns red.
"""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from edgewarden.errors import WireRefusal
from edgewarden.kernel import tpm_forms
from edgewarden.wire.tpm import Alg, Attribute, Public, Signature, parse_public, parse_signature
from edgewarden_fleet.desk.credential import make_credential, parse_ek
from edgewarden_fleet.verify.tpm import verify
from tests.fakes.tpm import AK, public_of, sized
from tests.fleet.makers import new_key
from tests.wire.tpm_vectors import RECORDED

MESSAGE = b"what a TPM made"
SHA256 = hashes.SHA256()
CURVE_KEY = new_key()
RSA_KEY = rsa.generate_private_key(65537, 2048)
MODULUS = RSA_KEY.public_key().public_numbers().n.to_bytes(256, "big")


def ecc(scheme: Alg = Alg.ECDSA) -> Public:
    return replace(parse_public(public_of(CURVE_KEY, AK)), scheme=scheme)


def rsa_public(scheme: Alg) -> Public:
    bound = struct.pack(">HH", scheme, Alg.SHA256) if scheme is not Alg.NULL else b"\0\x10"
    head = struct.pack(">HHI", Alg.RSA, Alg.SHA256, AK) + sized(b"") + b"\0\x10"
    return parse_public(head + bound + struct.pack(">HI", 2048, 0) + sized(MODULUS))


def ecdsa(message: bytes = MESSAGE) -> bytes:
    """r || s."""
    r, s = decode_dss_signature(CURVE_KEY.sign(message, ec.ECDSA(SHA256)))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def pkcs1(message: bytes = MESSAGE) -> bytes:
    return RSA_KEY.sign(message, padding.PKCS1v15(), SHA256)


def pss(message: bytes = MESSAGE) -> bytes:
    """With the salt that a TPM takes: as long as fits."""
    scheme = padding.PSS(padding.MGF1(SHA256), padding.PSS.MAX_LENGTH)
    return RSA_KEY.sign(message, scheme, SHA256)


def test_what_a_real_tpm_signed_holds() -> None:
    ak = parse_public(RECORDED["ak_public"])
    for name in ("quote", "certify"):
        signature = parse_signature(RECORDED[f"{name}_signature"])
        assert verify(ak, RECORDED[name], signature)
        assert not verify(ak, RECORDED[name] + b"\0", signature)


@pytest.mark.parametrize(
    ("public", "signature"),
    [
        (ecc(), Signature(Alg.ECDSA, ecdsa())),
        (ecc(Alg.NULL), Signature(Alg.ECDSA, ecdsa())),
        (rsa_public(Alg.RSASSA), Signature(Alg.RSASSA, pkcs1())),
        (rsa_public(Alg.RSAPSS), Signature(Alg.RSAPSS, pss())),
        (rsa_public(Alg.NULL), Signature(Alg.RSASSA, pkcs1())),
        (rsa_public(Alg.NULL), Signature(Alg.RSAPSS, pss())),
    ],
    ids=["ECDSA", "free ECDSA", "PKCS 1", "PSS", "free PKCS 1", "free PSS"],
)
def test_each_scheme_holds_for_its_key_and_its_message_alone(
    public: Public, signature: Signature
) -> None:
    assert verify(public, MESSAGE, signature)
    assert not verify(public, MESSAGE + b".", signature)
    altered = signature.value[:-1] + bytes([signature.value[-1] ^ 1])
    assert not verify(public, MESSAGE, replace(signature, value=altered))


@pytest.mark.parametrize(
    ("public", "signature"),
    [
        # A right signature by the right key, in a scheme that the key is not bound to.
        (rsa_public(Alg.RSAPSS), Signature(Alg.RSASSA, pkcs1())),
        (rsa_public(Alg.RSASSA), Signature(Alg.RSAPSS, pss())),
        # A right signature that says it were of the other kind of key.
        (ecc(Alg.NULL), Signature(Alg.RSASSA, ecdsa())),
        (ecc(Alg.NULL), Signature(Alg.RSAPSS, ecdsa())),
        (rsa_public(Alg.NULL), Signature(Alg.ECDSA, pss())),
    ],
    ids=["PKCS 1 for PSS", "PSS for PKCS 1", "ECC as PKCS 1", "ECC as PSS", "RSA as ECDSA"],
)
def test_a_scheme_that_is_not_the_keys_is_refused(public: Public, signature: Signature) -> None:
    assert not verify(public, MESSAGE, signature)


def test_a_point_off_the_curve_signs_nothing() -> None:
    nowhere = replace(ecc(), point=(bytes(31) + b"\1", bytes(31) + b"\1"))
    assert verify(nowhere, MESSAGE, Signature(Alg.ECDSA, ecdsa())) is False


@pytest.mark.parametrize("value", [bytes(64), b"\xff" * 64], ids=["zero", "beyond the order"])
def test_numbers_that_are_no_signature_are_refused(value: bytes) -> None:
    assert verify(ecc(), MESSAGE, Signature(Alg.ECDSA, value)) is False


# --- who may be given a credential ---------------------------------------------------------------

EK = Attribute(int.from_bytes(tpm_forms.EK["rsa"][4:8], "big"))


def ek(attributes: int) -> bytes:
    """The EK template of every TPM with other attributes, and a key of ours."""
    template = tpm_forms.EK["rsa"]
    return template[:4] + struct.pack(">I", attributes) + template[8:-258] + sized(MODULUS)


def test_a_storage_key_that_stays_in_its_tpm_is_an_ek() -> None:
    assert parse_ek(ek(EK)).attributes == EK


@pytest.mark.parametrize(
    "lacking",
    [
        Attribute.FIXED_TPM, Attribute.FIXED_PARENT, Attribute.SENSITIVE_DATA_ORIGIN,
        Attribute.RESTRICTED, Attribute.DECRYPT,
    ],
    ids=lambda a: str(a.name),
)  # fmt: skip
def test_a_key_that_lacks_an_attribute_is_no_ek(lacking: Attribute) -> None:
    """An unrestricted one, say, would hand the secret of any credential to whoever asks it."""
    with pytest.raises(WireRefusal, match="tpm_keys"):
        parse_ek(ek(EK & ~lacking))


def test_a_key_that_also_signs_is_no_ek() -> None:
    with pytest.raises(WireRefusal, match="tpm_keys"):
        parse_ek(ek(EK | Attribute.SIGN))


def test_no_credential_is_made_for_a_point_off_the_curve() -> None:
    nowhere = replace(ecc(), point=(bytes(31) + b"\1", bytes(31) + b"\1"))
    with pytest.raises(WireRefusal, match="bad_tpm: the EK is not on its curve"):
        make_credential(nowhere, b"\0\x0b" + bytes(32), bytes(32))
