"""Did a TPM's key sign this: the one place where a public area becomes a key of `cryptography`.

TPM 2.0 Part 2 §11.2.4: ECDSA over P-256 and RSA (PKCS #1 v1.5 or PSS), all with SHA-256. The scheme
of the signature must be the one bound to the key where one is bound. A malleable signature does no
harm here: a quote is known by its content, never by its signature's bytes.
"""

from __future__ import annotations

from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from edgewarden.wire.tpm import Alg, Public, Signature

_EXPONENT = 65537
KEYS_CACHED = 4096
"""Parsed attestation keys kept; one per gateway."""
_SHA256 = hashes.SHA256()
_ECDSA = ec.ECDSA(_SHA256)


def verify(public: Public, message: bytes, signature: Signature) -> bool:
    """Whether this key signed SHA-256 of the message; False for a point off the curve."""
    if public.scheme not in (Alg.NULL, signature.scheme):
        return False
    if (public.kind is Alg.ECC) is not (signature.scheme is Alg.ECDSA):
        return False
    try:
        if public.point is not None:
            _check_ecdsa(public.point, message, signature.value)
        else:
            _check_rsa(public.modulus, message, signature)
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(maxsize=KEYS_CACHED)
def _key(point: tuple[bytes, bytes]) -> ec.EllipticCurvePublicKey:
    x, y = (int.from_bytes(c, "big") for c in point)
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()


def _check_ecdsa(point: tuple[bytes, bytes], message: bytes, value: bytes) -> None:
    key = _key(point)
    r, s = int.from_bytes(value[:32], "big"), int.from_bytes(value[32:], "big")
    key.verify(encode_dss_signature(r, s), message, _ECDSA)


def _check_rsa(modulus: bytes, message: bytes, signature: Signature) -> None:
    key = rsa.RSAPublicNumbers(_EXPONENT, int.from_bytes(modulus, "big")).public_key()
    if signature.scheme is Alg.RSASSA:
        key.verify(signature.value, message, padding.PKCS1v15(), _SHA256)
        return
    pss = padding.PSS(padding.MGF1(_SHA256), padding.PSS.AUTO)
    key.verify(signature.value, message, pss, _SHA256)
