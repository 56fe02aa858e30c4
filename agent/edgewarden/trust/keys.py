"""P-256 keys on the gateway: make, keep, sign, check.

Grade G0: the private key is a PKCS#8 file that only the agent's user can read. Everything else
speaks the ``Signer`` port, so a sealed key (sealed.py) or one in a TPM (tpmkey.py) changes nothing
above this file.

COSE carries ECDSA as raw r || s (RFC 9053 §2.1), X.509 and ``cryptography`` as DER: the
conversion stands here once, in both directions, with its length check.

For each ECDSA signature (r, s) anybody can write a second one, (r, n - s), that also verifies.
Ours have s in the lower half and the other is refused: a record is known by the hash of all its
bytes, and a broker could otherwise turn an honest record into a fork.

Two libraries can do it (ADR 42). The ``cryptography`` package brings an OpenSSL of its own: 8 MB in
link, which has Python's in memory for its uplink already. So who has the package in memory uses it
(the fleet and the commands, for their certificates), and link, which has not, goes by
kernel/p256.py. Both say the same to every vector and to each other (tests/trust/test_keys.py).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from edgewarden.errors import TrustFault, WireRefusal
from edgewarden.kernel import p256
from edgewarden.ports import Quoter
from edgewarden.wire import cose

if TYPE_CHECKING:
    import ssl
    from types import ModuleType

    from cryptography.hazmat.primitives.asymmetric import ec

_COORDINATE_BYTES = 32
# SEC 2 §2.4.2: the order of the base point of P-256.
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_HIGHEST_S = (_ORDER // 2).to_bytes(_COORDINATE_BYTES, "big")
_BEGIN, _END = "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"
_PACKAGE = "cryptography.hazmat.bindings._rust"


class Own(Protocol):
    """A private key of either library."""

    def sign(self, message: bytes) -> bytes:
        """64 bytes, r || s."""

    def point(self) -> bytes:
        """4, x, y."""

    def pkcs8(self) -> bytes:
        """DER, unencrypted."""


class Public(Protocol):
    """A public key of either library."""

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether r || s is this key's signature."""


def library() -> ModuleType:
    """p256 or pyca: whichever OpenSSL is in this process already; pyca where only that can be."""
    if _PACKAGE not in sys.modules and p256.library() is not None:
        return p256
    from edgewarden.trust import pyca

    return pyca


class FileSigner:
    """A P-256 private key in this process's memory; implements ladder.OwnKey. Never blocks."""

    grade = "G0"

    def __init__(self, key: ec.EllipticCurvePrivateKey | Own) -> None:
        self.own = cast("Own", key) if hasattr(key, "pkcs8") else _of_the_package(key)
        point = self.own.point()
        self._public = cose.encode_key(
            point[1 : 1 + _COORDINATE_BYTES], point[1 + _COORDINATE_BYTES :]
        )
        self.kid = key_id(self._public)

    @classmethod
    def generate(cls) -> FileSigner:
        """A fresh key that exists nowhere else."""
        return cls(library().Private.generate())

    @classmethod
    def from_pem(cls, pem: bytes) -> FileSigner:
        """Read a PKCS#8 key.

        Raises:
            TrustFault: EW-ID-003 unless it is an unencrypted P-256 key.
        """
        der = _der(pem)
        try:
            if len(der) == p256.PKCS8_BYTES:
                return cls(library().Private.open(der))
            from edgewarden.trust import pyca  # another form, which only the package reads

            return cls(pyca.Private.read(pem))
        except ValueError as fault:
            raise TrustFault(
                f"the identity key cannot be read: {fault}",
                code="EW-ID-003",
                next_step=(
                    "restore state/identity from a backup of this very device, or enrol again"
                ),
            ) from fault

    def to_pem(self) -> bytes:
        """PKCS#8, unencrypted: the file's permissions are the protection (grade G0)."""
        text = base64.b64encode(self.own.pkcs8()).decode()
        lines = [text[at : at + 64] for at in range(0, len(text), 64)]
        return "\n".join([_BEGIN, *lines, _END, ""]).encode()

    def private_key(self) -> ec.EllipticCurvePrivateKey:
        """The package's key object, for the certificate signing request."""
        from edgewarden.trust import pyca

        return pyca.Private.open(self.own.pkcs8()).key

    def public_key(self) -> bytes:
        """Deterministic COSE_Key."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """ES256: 64 bytes, r || s."""
        return low_s(self.own.sign(message))

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
        return _verifier(library().Public(b"\x04" + x + y))
    except ValueError:
        raise WireRefusal("bad_key", "the point is not on P-256") from None


def verifier_of(key: ec.EllipticCurvePublicKey) -> cose.Verify:
    """The same of a P-256 key that the package has read."""
    from edgewarden.trust import pyca

    return _verifier(pyca.Public.of(key))


def _verifier(key: Public) -> cose.Verify:
    def verify(message: bytes, signature: bytes) -> bool:
        if len(signature) != 2 * _COORDINATE_BYTES:
            return False
        if signature[_COORDINATE_BYTES:] > _HIGHEST_S:
            return False
        return key.verify(message, signature)

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
    from edgewarden.trust import pyca

    try:
        point = pyca.point_of_pem(pem.encode())
    except ValueError as fault:
        raise TrustFault(
            f"the attestation key of a device cannot be read: {fault}",
            code="EW-DEV-005",
            next_step="write a P-256 public key, as `openssl ec -pubout` prints it",
        ) from fault
    return cose.encode_key(point[1 : 1 + _COORDINATE_BYTES], point[1 + _COORDINATE_BYTES :])


def _of_the_package(key: object) -> Own:
    from edgewarden.trust import pyca

    return pyca.Private(cast("ec.EllipticCurvePrivateKey", key))


def _der(pem: bytes) -> bytes:
    """What stands between the lines of one PKCS#8 key; b"" for anything else."""
    text = pem.decode("ascii", "replace").strip()
    if not (text.startswith(_BEGIN) and text.endswith(_END)):
        return b""
    try:
        return base64.b64decode("".join(text[len(_BEGIN) : -len(_END)].split()), validate=True)
    except (ValueError, binascii.Error):
        return b""
