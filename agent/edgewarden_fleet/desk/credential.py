"""TPM2_MakeCredential in Python: a secret that one TPM gets out, and only for one key's name.

No TPM and no TPM library on this side. The steps are those of "TPM 2.0 Library, Part 1", §24
(credential protection) and Annexes B.10.4 (RSA: OAEP with label IDENTITY) and C.6.1 (ECC: one-pass
Diffie-Hellman); algorithms are those of the TCG's EK templates L-1 and L-2: SHA-256, AES-128-CFB.

    credential, secret = make_credential(ek_public, ak_name, os.urandom(32))
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from edgewarden.errors import WireRefusal
from edgewarden.wire.tpm import Alg, Attribute, Public, parse_public

_BLOCK = 16
_EXPONENT = 65537
_EK = (
    Attribute.FIXED_TPM | Attribute.FIXED_PARENT | Attribute.SENSITIVE_DATA_ORIGIN
    | Attribute.RESTRICTED | Attribute.DECRYPT
)  # fmt: skip


def parse_ek(ek_public: bytes) -> Public:
    """Read an endorsement key that credentials can be made for.

    Raises:
        WireRefusal: ``bad_tpm``, or ``tpm_keys`` when its attributes are no storage key's.
    """
    ek = parse_public(ek_public)
    if ek.attributes & _EK != _EK or Attribute.SIGN in ek.attributes:
        raise WireRefusal("tpm_keys", "the EK is not a storage key that stays in its TPM")
    return ek


def make_credential(ek: Public, name: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """Wrap a secret for a TPM.

    Args:
        ek: its endorsement key.
        name: of the key that it must hold, too (the AK's).
        secret: at most 32 bytes.

    Returns:
        TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET.

    Raises:
        WireRefusal: ``bad_tpm``, the EK's point is not on its curve.
    """
    seed, encrypted = _rsa_seed(ek) if ek.kind is Alg.RSA else _ecc_seed(ek)
    identity = _encrypt(_kdf_a(seed, b"STORAGE", name, b"", 128), _sized(secret))
    outer = hmac.digest(_kdf_a(seed, b"INTEGRITY", b"", b"", 256), identity + name, "sha256")
    return _sized(_sized(outer) + identity), _sized(encrypted)


def _rsa_seed(ek: Public) -> tuple[bytes, bytes]:
    seed = secrets.token_bytes(32)
    key = rsa.RSAPublicNumbers(_EXPONENT, int.from_bytes(ek.modulus, "big")).public_key()
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\0")
    return seed, key.encrypt(seed, oaep)


def _ecc_seed(ek: Public) -> tuple[bytes, bytes]:
    assert ek.point is not None
    x, y = (int.from_bytes(part, "big") for part in ek.point)
    try:
        theirs = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    except ValueError:
        raise WireRefusal("bad_tpm", "the EK is not on its curve") from None
    ours = ec.generate_private_key(ec.SECP256R1())
    point = ours.public_key().public_numbers()
    ours_x, ours_y = point.x.to_bytes(32, "big"), point.y.to_bytes(32, "big")
    shared = ours.exchange(ec.ECDH(), theirs)
    seed = _kdf_e(shared, b"IDENTITY", ours_x, ek.point[0])
    return seed, _sized(ours_x) + _sized(ours_y)


def _kdf_a(key: bytes, label: bytes, u: bytes, v: bytes, bits: int) -> bytes:
    """Part 1, §11.4.10.2 (SP 800-108 in counter mode); one round is 256 bits, all that is asked."""
    body = struct.pack(">I", 1) + label + b"\0" + u + v + struct.pack(">I", bits)
    return hmac.digest(key, body, "sha256")[: bits // 8]


def _kdf_e(shared: bytes, label: bytes, u: bytes, v: bytes) -> bytes:
    """Part 1, §11.4.10.3 (SP 800-56A); one round is 256 bits."""
    return hashlib.sha256(struct.pack(">I", 1) + shared + label + b"\0" + u + v).digest()


def _encrypt(key: bytes, data: bytes) -> bytes:
    """AES in CFB with a zero IV, by hand: libraries have begun to drop the mode."""
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - one block at a time
    out, chained = b"", bytes(_BLOCK)
    for at in range(0, len(data), _BLOCK):
        part = data[at : at + _BLOCK]
        chained = bytes(a ^ b for a, b in zip(part, block.update(chained), strict=False))
        out += chained
    return out


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data
