"""P-256 keys on the gateway: make, keep, sign, check.

Grade G0: the private key is a PKCS#8 file that only the agent's user can read. Everything else
speaks the ``Signer`` port, so a sealed key (sealed.py) or one in a TPM (tpmkey.py) changes nothing
above this file.

COSE carries ECDSA as raw r || s (RFC 9053 §2.1), X.509 and ``cryptography`` as DER: the
conversion stands here once, in both directions, with its length check.

For each ECDSA signature (r, s) anybody can write a second one, (r, n - s), that also verifies.
Ours have s in the lower half and the other is refused: a record is known by the hash of all its
bytes, and a broker could otherwise turn an honest record into a fork.

Imports of ``cryptography`` are limited to the elliptic-curve part: ``x509`` costs the link process
7 MB more.
"""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from edgewarden.errors import TrustFault, WireRefusal
from edgewarden.ports import Quoter
from edgewarden.wire import cose

_COORDINATE_BYTES = 32
# SEC 2 §2.4.2: the order of the base point of P-256.
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_ECDSA = ec.ECDSA(hashes.SHA256())


class FileSigner:
    """A P-256 private key in this process's memory; implements ladder.OwnKey. Never blocks."""

    grade = "G0"

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self._public = public_cose_key(key.public_key())
        self.kid = key_id(self._public)

    @classmethod
    def generate(cls) -> FileSigner:
        """A fresh key that exists nowhere else."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, pem: bytes) -> FileSigner:
        """Read a PKCS#8 key.

        Raises:
            TrustFault: EW-ID-003 unless it is an unencrypted P-256 key.
        """
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as fault:
            raise TrustFault(
                f"the identity key cannot be read: {fault}",
                code="EW-ID-003",
                next_step=(
                    "restore state/identity from a backup of this very device, or enrol again"
                ),
            ) from fault
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise TrustFault(
                "the identity key is not P-256",
                code="EW-ID-003",
                next_step="enrol again with `edgewarden enroll`",
            )
        return cls(key)

    def to_pem(self) -> bytes:
        """PKCS#8, unencrypted: the file's permissions are the protection (grade G0)."""
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def private_key(self) -> ec.EllipticCurvePrivateKey:
        """The key object, for the certificate signing request."""
        return self._key

    def public_key(self) -> bytes:
        """Deterministic COSE_Key."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """ES256: 64 bytes, r || s."""
        r, s = decode_dss_signature(self._key.sign(message, _ECDSA))
        return low_s(r.to_bytes(_COORDINATE_BYTES, "big") + s.to_bytes(_COORDINATE_BYTES, "big"))

    def present(self, context: ssl.SSLContext, cert_path: Path, key_path: Path) -> None:
        """Make this the context's own key; raises OSError when the files do not fit."""
        context.load_cert_chain(cert_path, key_path)

    def quoter(self) -> Quoter | None:
        """Nobody vouches for a file."""
        return None

    def about(self) -> str:
        """One line for a person."""
        return "a file that only the agent's user can read"

    def close(self) -> None:
        """Nothing is held."""


def low_s(signature: bytes) -> bytes:
    """The one of a signature's two forms that is ours: s in the lower half."""
    s = int.from_bytes(signature[_COORDINATE_BYTES:], "big")
    return signature[:_COORDINATE_BYTES] + min(s, _ORDER - s).to_bytes(_COORDINATE_BYTES, "big")


def public_cose_key(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the deterministic COSE_Key of a P-256 public key.

    Raises:
        WireRefusal: ``bad_key`` when it is on another curve.
    """
    if key.curve.name != "secp256r1":
        raise WireRefusal("bad_key", f"the curve is {key.curve.name}, not P-256")
    numbers = key.public_numbers()
    return cose.encode_key(
        numbers.x.to_bytes(_COORDINATE_BYTES, "big"), numbers.y.to_bytes(_COORDINATE_BYTES, "big")
    )


def key_id(cose_key: bytes) -> bytes:
    """kid: first 8 bytes of the COSE key thumbprint (RFC 9679: SHA-256 of the required members)."""
    return hashlib.sha256(cose_key).digest()[: cose.KID_BYTES]


def verifier_for(cose_key: bytes) -> cose.Verify:
    """Return the verify function of a public key.

    Raises:
        WireRefusal: ``bad_key`` when the point is not on the curve or the encoding is not ours.
    """
    x, y = cose.decode_key(cose_key)
    try:
        key = ec.EllipticCurvePublicNumbers(
            int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1()
        ).public_key()
    except ValueError:
        raise WireRefusal("bad_key", "the point is not on P-256") from None

    def verify(message: bytes, signature: bytes) -> bool:
        if len(signature) != 2 * _COORDINATE_BYTES:
            return False
        r = int.from_bytes(signature[:_COORDINATE_BYTES], "big")
        s = int.from_bytes(signature[_COORDINATE_BYTES:], "big")
        if s > _ORDER // 2:
            return False
        try:
            key.verify(encode_dss_signature(r, s), message, _ECDSA)
        except InvalidSignature:
            return False
        return True

    return verify


def either_form_verified(cose_key: bytes, message: bytes, signature: bytes) -> bool:
    """As verifier_for, for other people's signatures: both forms of one are taken.

    Only where nothing is known by the signature's bytes: a device's evidence counts by its nonce.

    Raises:
        WireRefusal: ``bad_key``.
    """
    if len(signature) != 2 * _COORDINATE_BYTES:
        return False
    return verifier_for(cose_key)(message, low_s(signature))


def cose_key_of_pem(pem: str) -> bytes:
    """COSE_Key of a public key in PEM that an operator named for a device.

    Raises:
        TrustFault: EW-DEV-005 unless it is P-256.
    """
    try:
        key = serialization.load_pem_public_key(pem.encode())
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise WireRefusal("bad_key", "not an elliptic curve")
        return public_cose_key(key)
    except (ValueError, UnsupportedAlgorithm, WireRefusal) as fault:
        raise TrustFault(
            f"the attestation key of a device cannot be read: {fault}",
            code="EW-DEV-005",
            next_step="write a P-256 public key, as `openssl ec -pubout` prints it",
        ) from fault
