"""P-256 by the OpenSSL that Python's ssl has loaded already: sign, check, make, take apart.

What this decides: how ECDSA with SHA-256 is asked of libcrypto.so.3, and that only one form of a
key file is read here. What it leaves to trust/keys.py: whether this or the ``cryptography`` package
is used, and which of a signature's two forms is ours.

A second OpenSSL, which ``cryptography``'s wheel brings, costs link 8 MB for what is one call for a
record. A key here is 138 bytes of PKCS#8 with its public point, exactly as ``cryptography`` and
`openssl genpkey` write it; whatever else is ValueError, and the caller may ask a library that reads
more. Numbers of a signature are 32 bytes each, r then s (RFC 9053 §2.1); DER stays inside.

Every call asks for OpenSSL's own provider by name: where a TPM's is loaded too, it may be the
preferred one for signatures (openssl.py). Calls hold the interpreter's lock (PyDLL): none blocks,
the longest takes a tenth of a millisecond, and a context is never used by two threads at once. What
a failed call leaves in OpenSSL's queue of errors is taken away: ssl would find it.

    key = Private.generate(); point = key.point()
    Public(point).verify(b"words", key.sign(b"words"))
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from edgewarden.kernel import ffi as ctypes

HALF = 32
"""Bytes of a coordinate, and of each number of a signature."""
POINT_BYTES = 1 + 2 * HALF
_PROVIDER = b"provider=default"
_SIGNATURE_BYTES = 80
"""The longest in DER has 72."""
# RFC 5208 and 5915 in DER: version, id-ecPublicKey on prime256v1, then an ECPrivateKey that holds
# the number and, as [1], the point; RFC 5480: the same algorithm, then the point.
_PKCS8 = bytes.fromhex("308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420")
_PKCS8_POINT = bytes.fromhex("a144034200")
_SPKI = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
# What OpenSSL writes for an EC key of a named curve (RFC 5915 with [0]).
_SEC1 = bytes.fromhex("30770201010420")
_UNCOMPRESSED = b"\x04"
PKCS8_BYTES = len(_PKCS8) + HALF + len(_PKCS8_POINT) + POINT_BYTES

_Pointer, _Size = ctypes.c_void_p, ctypes.c_size_t
_Bytes = ctypes.c_char_p
_CALLS: dict[str, tuple[object, tuple[object, ...]]] = {
    "d2i_AutoPrivateKey_ex": (_Pointer, (_Pointer, _Pointer, ctypes.c_long, _Pointer, _Bytes)),
    "d2i_PUBKEY_ex": (_Pointer, (_Pointer, _Pointer, ctypes.c_long, _Pointer, _Bytes)),
    "i2d_PrivateKey": (ctypes.c_int, (_Pointer, _Pointer)),
    "EVP_PKEY_Q_keygen": (_Pointer, (_Pointer, _Bytes, _Bytes, _Bytes)),
    "EVP_PKEY_free": (None, (_Pointer,)),
    "EVP_PKEY_CTX_new_from_pkey": (_Pointer, (_Pointer, _Pointer, _Bytes)),
    "EVP_PKEY_CTX_free": (None, (_Pointer,)),
    "EVP_PKEY_pairwise_check": (ctypes.c_int, (_Pointer,)),
    "EVP_PKEY_sign_init": (ctypes.c_int, (_Pointer,)),
    "EVP_PKEY_sign": (ctypes.c_int, (_Pointer, _Pointer, _Pointer, _Bytes, _Size)),
    "EVP_PKEY_verify_init": (ctypes.c_int, (_Pointer,)),
    "EVP_PKEY_verify": (ctypes.c_int, (_Pointer, _Bytes, _Size, _Bytes, _Size)),
    "ERR_clear_error": (None, ()),
}
_loaded: list[ctypes.PyDLL | None] = []
"""What was found, once: nothing of a process's libraries changes under it."""


def library() -> ctypes.PyDLL | None:
    """The libcrypto of this process with every call declared; None where ssl has another."""
    if not _loaded:
        import ssl  # which loads it

        assert ssl.OPENSSL_VERSION
        try:
            found = ctypes.PyDLL("libcrypto.so.3", mode=os.RTLD_NOLOAD | os.RTLD_NOW)
            for name, (result, arguments) in _CALLS.items():
                call = getattr(found, name)
                call.restype, call.argtypes = result, arguments
        except (OSError, AttributeError):
            _loaded.append(None)
        else:
            _loaded.append(found)
    return _loaded[0]


class _Key:
    """An EVP_PKEY and a context made ready for one kind of call; both freed with the object."""

    def __init__(self, held: int | None, ready: str) -> None:
        self._context: int | None = None
        self._held = held
        crypto = self._crypto = _need()
        if held:
            self._context = crypto.EVP_PKEY_CTX_new_from_pkey(None, held, _PROVIDER)
        if not self._context or getattr(crypto, ready)(self._context) != 1:
            crypto.ERR_clear_error()
            raise ValueError("OpenSSL does not take this key")

    def __del__(self) -> None:
        crypto = getattr(self, "_crypto", None)
        if crypto is not None:
            crypto.EVP_PKEY_CTX_free(self._context)
            crypto.EVP_PKEY_free(self._held)


class Private(_Key):
    """A private key in this process's memory."""

    def __init__(self, held: int | None) -> None:
        super().__init__(held, "EVP_PKEY_sign_init")
        self._room = ctypes.create_string_buffer(_SIGNATURE_BYTES)
        self._length = _Size()

    @classmethod
    def generate(cls) -> Private:
        """A fresh one, of OpenSSL's own entropy. Raises ValueError when OpenSSL gives none."""
        return cls(_need().EVP_PKEY_Q_keygen(None, _PROVIDER, b"EC", b"P-256"))

    @classmethod
    def open(cls, der: bytes) -> Private:
        """A key of exactly PKCS8_BYTES; raises ValueError unless number and point belong
        together."""
        if len(der) != PKCS8_BYTES or not der.startswith(_PKCS8):
            raise ValueError("not the one form of a P-256 key that is read here")
        if der[len(_PKCS8) + HALF :][: len(_PKCS8_POINT) + 1] != _PKCS8_POINT + _UNCOMPRESSED:
            raise ValueError("not the one form of a P-256 key that is read here")
        crypto = _need()
        made = cls(_read(crypto.d2i_AutoPrivateKey_ex, der))
        check = crypto.EVP_PKEY_CTX_new_from_pkey(None, made._held, _PROVIDER)
        fits = bool(check) and crypto.EVP_PKEY_pairwise_check(check) == 1
        crypto.EVP_PKEY_CTX_free(check)
        crypto.ERR_clear_error()
        if not fits or made.pkcs8() != der:
            raise ValueError("the number and the point of this key do not belong together")
        return made

    def sign(self, message: bytes) -> bytes:
        """64 bytes, r || s. Raises ValueError when OpenSSL refuses."""
        digest, self._length.value = hashlib.sha256(message).digest(), _SIGNATURE_BYTES
        room, length = self._room, self._length
        done = self._crypto.EVP_PKEY_sign(
            self._context, room, ctypes.byref(length), digest, len(digest)
        )
        if done != 1:
            self._crypto.ERR_clear_error()
            raise ValueError("OpenSSL does not sign")
        return numbers(room.raw[: length.value])

    def point(self) -> bytes:
        """POINT_BYTES: 4, x, y."""
        return self._sec1()[-POINT_BYTES:]

    def pkcs8(self) -> bytes:
        """PKCS8_BYTES: what ``open`` reads."""
        sec1 = self._sec1()
        number = sec1[len(_SEC1) :][:HALF]
        return _PKCS8 + number + _PKCS8_POINT + sec1[-POINT_BYTES:]

    def _sec1(self) -> bytes:
        room = ctypes.create_string_buffer(256)
        end = ctypes.c_void_p(ctypes.addressof(room))
        length = self._crypto.i2d_PrivateKey(self._held, ctypes.byref(end))
        if length != 121 or not room.raw.startswith(_SEC1):
            self._crypto.ERR_clear_error()
            raise ValueError("OpenSSL writes this key in another form")
        return room.raw[:length]


class Public(_Key):
    """A public key. Raises ValueError when the point is not on the curve."""

    def __init__(self, point: bytes) -> None:
        if len(point) != POINT_BYTES or point[:1] != _UNCOMPRESSED:
            raise ValueError("not an uncompressed point")
        held = _read(_need().d2i_PUBKEY_ex, _SPKI + point)
        super().__init__(held, "EVP_PKEY_verify_init")

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether r || s, 64 bytes, is this key's signature."""
        if len(signature) != 2 * HALF:
            return False
        der, digest = der_of(signature), hashlib.sha256(message).digest()
        done = self._crypto.EVP_PKEY_verify(self._context, der, len(der), digest, len(digest))
        self._crypto.ERR_clear_error()
        return bool(done == 1)


def numbers(der: bytes) -> bytes:
    """r || s of a signature as OpenSSL writes it: SEQUENCE of two INTEGERs, each below 2^256."""
    at, found = 2, b""
    for _ in range(2):
        length = der[at + 1]
        found += int.from_bytes(der[at + 2 : at + 2 + length], "big").to_bytes(HALF, "big")
        at += 2 + length
    if at != len(der) or at != 2 + der[1]:
        raise ValueError("not a signature")
    return found


def der_of(signature: bytes) -> bytes:
    """The same in DER (X.690 §8.3: as short as can be, and no sign bit)."""
    body = b""
    for half in (signature[:HALF], signature[HALF:]):
        number = half.lstrip(b"\0") or b"\0"
        if number[0] & 0x80:
            number = b"\0" + number
        body += bytes((2, len(number))) + number
    return bytes((0x30, len(body))) + body


def _read(call: Callable[..., int | None], der: bytes) -> int | None:
    start = ctypes.c_char_p(der)
    held = call(None, ctypes.byref(start), len(der), None, _PROVIDER)
    if not held:
        _need().ERR_clear_error()
    return held


def _need() -> ctypes.PyDLL:
    found = library()
    if found is None:
        raise ValueError("this Python's ssl does not use libcrypto.so.3")
    return found
