"""A TLS key whose private half is elsewhere: OpenSSL asks us for each signature and for nothing
else.

Python's ssl knows keys in files only (cpython #116971), and OpenSSL's provider for TPMs does more
than hold one: version 1.1 (Debian 12) has the TPM check the peer's signatures as well. Here the key
that OpenSSL gets is a public point with a method of ours in the place of ECDSA's signing step
(EC_KEY_METHOD of <openssl/ec.h>, since 1.1.0, deprecated in 3.0, gone in 4). Hashes, the peer's
chain and signatures, key exchange: all that stays OpenSSL's own and untouched, and so does every
other key of the process.

Decides nothing about who signs (trust/tpmkey.py) and whether it works here (a real handshake says
so, trust/selftest.py). Rules:

1. the SSL_CTX behind a context is taken only after two looks (openssl.ssl_ctx)
2. a digest of SHA-256 goes out, a DER signature of at most 72 bytes comes in; else no signature
3. whatever the signer raises ends the handshake, not the process: OpenSSL hears "no"
4. method and keys stay for the life of the process: a session may outlive its context

The signer is called on the thread of the handshake, with the GIL, and may block it.

    present(context, Path("cert.pem"), point, sign)
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewarden.errors import HardwareFault
from edgewarden.kernel.openssl import libcrypto, libssl, no_tls_key, ssl_ctx

if TYPE_CHECKING:
    import ssl

Sign = Callable[[bytes], bytes]
"""A SHA-256 digest in, an ECDSA-Sig-Value (RFC 3279 §2.2.3) out."""

_P256 = 415  # NID_X9_62_prime256v1 of <openssl/obj_mac.h>
_UNCOMPRESSED = 4  # POINT_CONVERSION_UNCOMPRESSED of <openssl/ec.h>
_POINT_BYTES = 65
_DIGEST_BYTES = 32
_MAX_DER_BYTES = 72
"""ECDSA_size() of a P-256 key: as much room as OpenSSL gives."""

_pointer = ctypes.c_void_p
_METHOD = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_int, _pointer, ctypes.c_int, _pointer, ctypes.POINTER(ctypes.c_uint),
    _pointer, _pointer, _pointer,
)  # fmt: skip
"""int sign(int type, const unsigned char *dgst, int dlen, unsigned char *sig, unsigned int *siglen,
const BIGNUM *kinv, const BIGNUM *r, EC_KEY *eckey) of <openssl/ec.h>."""

_lock = threading.Lock()
_signers: dict[bytes, Sign] = {}
"""Point -> who signs for it."""
_keys: dict[bytes, int] = {}
"""Point -> EVP_PKEY."""
_kept: list[Any] = []
"""The callback and the EC_KEY_METHOD: one for the process."""


def missing() -> str | None:
    """Why keys cannot be presented so here, or None when everything that is needed is there."""
    try:
        _crypto()
        _ssl()
    except HardwareFault as fault:
        return fault.text
    return None


def present(context: ssl.SSLContext, cert_path: Path, point: bytes, sign: Sign) -> None:
    """Make a certificate and the key of ``sign`` the context's own.

    Args:
        point: the public key, 65 bytes, uncompressed.

    Raises:
        HardwareFault: EW-ID-032, this Python's OpenSSL takes no such key.
        ssl.SSLError: the certificate cannot be read or is of another key.
    """
    import ssl

    held, crypto, library = ssl_ctx(context), _crypto(), _ssl()
    with _lock:
        _signers[point] = sign
        if point not in _keys:
            _keys[point] = _made(crypto, point)
        key = _keys[point]
    if library.SSL_CTX_use_certificate_chain_file(held, os.fsencode(cert_path)) != 1:
        crypto.ERR_clear_error()
        raise ssl.SSLError(f"{cert_path.name} holds no certificate that OpenSSL reads")
    if library.SSL_CTX_use_PrivateKey(held, key) != 1:
        crypto.ERR_clear_error()
        raise ssl.SSLError(f"{cert_path.name} is the certificate of another key")


def _made(crypto: ctypes.CDLL, point: bytes) -> int:
    """An EVP_PKEY of a public point that signs by ``_signed``."""
    key = crypto.EC_KEY_new_by_curve_name(_P256)
    holder = crypto.EVP_PKEY_new()
    made = (
        key
        and holder
        and crypto.EC_KEY_oct2key(key, point, len(point), None) == 1
        and crypto.EC_KEY_set_method(key, _method(crypto)) == 1
        and crypto.EVP_PKEY_set1_EC_KEY(holder, key) == 1
    )
    crypto.EC_KEY_free(key)  # the holder has its own hold on it
    if not made:
        crypto.EVP_PKEY_free(holder)
        crypto.ERR_clear_error()
        raise no_tls_key("OpenSSL takes no key without its private half")
    return int(holder)


def _method(crypto: ctypes.CDLL) -> int:
    """OpenSSL's own ECDSA, but for the one step that needs the private half."""
    if not _kept:
        method = crypto.EC_KEY_METHOD_new(crypto.EC_KEY_OpenSSL())
        setup, raw, step = _pointer(), _pointer(), _pointer()
        named = (ctypes.byref(one) for one in (step, setup, raw))
        crypto.EC_KEY_METHOD_get_sign(method, *named)
        callback = _METHOD(_signed)
        crypto.EC_KEY_METHOD_set_sign(method, callback, setup, raw)
        _kept.extend((method, callback))
    return int(_kept[0])


def _signed(
    _type: int, digest: int, size: int, out: int, out_size: Any, _kinv: int, _r: int, key: int
) -> int:
    """OpenSSL wants a signature; 1 when there is one. Nothing may be raised through C."""
    crypto = _crypto()
    crypto.ERR_set_mark()  # the signer may use OpenSSL, too, and its complaints are not TLS's
    try:
        if size != _DIGEST_BYTES:
            return 0
        made = _signers[_point_of(crypto, key)](ctypes.string_at(digest, size))
        if len(made) > _MAX_DER_BYTES:
            return 0
        ctypes.memmove(out, made, len(made))
        out_size[0] = len(made)
        return 1
    except BaseException:  # the signer has said what it was, where somebody reads it
        return 0
    finally:
        crypto.ERR_pop_to_mark()


def _point_of(crypto: ctypes.CDLL, key: int) -> bytes:
    """Whose key: by its point, since OpenSSL may copy it."""
    room = ctypes.create_string_buffer(_POINT_BYTES)
    crypto.EC_POINT_point2oct(
        crypto.EC_KEY_get0_group(key), crypto.EC_KEY_get0_public_key(key), _UNCOMPRESSED,
        room, _POINT_BYTES, None,
    )  # fmt: skip
    return room.raw


_CRYPTO: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "EC_KEY_OpenSSL": (_pointer, ()),
    "EC_KEY_METHOD_new": (_pointer, (_pointer,)),
    "EC_KEY_METHOD_get_sign": (None, (_pointer, _pointer, _pointer, _pointer)),
    "EC_KEY_METHOD_set_sign": (None, (_pointer, _METHOD, _pointer, _pointer)),
    "EC_KEY_new_by_curve_name": (_pointer, (ctypes.c_int,)),
    "EC_KEY_oct2key": (ctypes.c_int, (_pointer, ctypes.c_char_p, ctypes.c_size_t, _pointer)),
    "EC_KEY_set_method": (ctypes.c_int, (_pointer, _pointer)),
    "EC_KEY_free": (None, (_pointer,)),
    "EC_KEY_get0_group": (_pointer, (_pointer,)),
    "EC_KEY_get0_public_key": (_pointer, (_pointer,)),
    "EC_POINT_point2oct": (
        ctypes.c_size_t,
        (_pointer, _pointer, ctypes.c_int, _pointer, ctypes.c_size_t, _pointer),
    ),
    "EVP_PKEY_new": (_pointer, ()),
    "EVP_PKEY_free": (None, (_pointer,)),
    "EVP_PKEY_set1_EC_KEY": (ctypes.c_int, (_pointer, _pointer)),
    "ERR_clear_error": (None, ()),
    "ERR_set_mark": (ctypes.c_int, ()),
    "ERR_pop_to_mark": (ctypes.c_int, ()),
}
_SSL: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "SSL_CTX_use_certificate_chain_file": (ctypes.c_int, (_pointer, ctypes.c_char_p)),
    "SSL_CTX_use_PrivateKey": (ctypes.c_int, (_pointer, _pointer)),
}


@functools.cache
def _crypto() -> ctypes.CDLL:
    return _declared(libcrypto(), _CRYPTO)


@functools.cache
def _ssl() -> ctypes.CDLL:
    return _declared(libssl(), _SSL)


def _declared(
    library: ctypes.CDLL, functions: dict[str, tuple[Any, tuple[Any, ...]]]
) -> ctypes.CDLL:
    for name, (result, arguments) in functions.items():
        try:
            function = getattr(library, name)
        except AttributeError as fault:
            raise no_tls_key(f"this OpenSSL has no {name}") from fault
        function.restype, function.argtypes = result, arguments
    return library
