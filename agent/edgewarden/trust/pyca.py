"""P-256 by the ``cryptography`` package: the classes of kernel/p256.py, and key files of any form.

For the fleet and the commands, which have the package in memory for their certificates, and for a
Python whose ssl uses another OpenSSL. ``verify`` lets other threads run meanwhile.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

HALF = 32
_CURVE = "secp256r1"
# SEC 2 §2.4.2: the order of the base point of P-256.
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_ECDSA = ec.ECDSA(hashes.SHA256())


class Private:
    """A private key in this process's memory. Raises ValueError on another curve."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        if key.curve.name != _CURVE:
            raise ValueError(f"the curve is {key.curve.name}, not P-256")
        self.key = key

    @classmethod
    def generate(cls) -> Private:
        """A fresh one."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def open(cls, der: bytes) -> Private:
        """A key in PKCS#8; raises ValueError for any other."""
        return cls(_elliptic(serialization.load_der_private_key(der, password=None)))

    @classmethod
    def read(cls, pem: bytes) -> Private:
        """A key in an unencrypted PEM file of any form; raises ValueError for any other."""
        try:
            return cls(_elliptic(serialization.load_pem_private_key(pem, password=None)))
        except (TypeError, UnsupportedAlgorithm) as fault:
            raise ValueError(str(fault)) from fault

    def sign(self, message: bytes) -> bytes:
        """64 bytes, r || s."""
        r, s = decode_dss_signature(self.key.sign(message, _ECDSA))
        return r.to_bytes(HALF, "big") + s.to_bytes(HALF, "big")

    def point(self) -> bytes:
        """4, x, y."""
        return self.key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )

    def pkcs8(self) -> bytes:
        """PKCS#8, unencrypted."""
        return self.key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


class Public:
    """A public key. Raises ValueError when the point is not on the curve."""

    def __init__(self, point: bytes) -> None:
        self._key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)

    @classmethod
    def of(cls, key: ec.EllipticCurvePublicKey) -> Public:
        """A P-256 key that has been read."""
        public = cls.__new__(cls)
        public._key = key
        return public

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether r || s is this key's signature."""
        r, s = int.from_bytes(signature[:HALF], "big"), int.from_bytes(signature[HALF:], "big")
        try:
            self._key.verify(encode_dss_signature(r, s), message, _ECDSA)
        except InvalidSignature:
            return False
        return True


def point_of_pem(pem: bytes) -> bytes:
    """4, x, y of a public key in PEM; raises ValueError unless it is P-256."""
    try:
        key = serialization.load_pem_public_key(pem)
    except UnsupportedAlgorithm as fault:
        raise ValueError(str(fault)) from fault
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != _CURVE:
        raise ValueError("not P-256")
    return key.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )


def _elliptic(key: object) -> ec.EllipticCurvePrivateKey:
    """Number and point belong together: the package looks at that since version 44 only."""
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an elliptic curve")
    number = key.private_numbers().private_value
    if key.curve.name == _CURVE and not 0 < number < _ORDER:
        raise ValueError("the number is outside the group")
    if ec.derive_private_key(number, key.curve).public_key() != key.public_key():
        raise ValueError("the number and the point do not belong together")
    return key
