"""What Python's ssl does not offer of the OpenSSL it uses: a TPM's key, and which time it is.

A TPM key: tpm2-openssl loaded into this process.

The second way; the first is openssl_key.py, where OpenSSL asks us for signatures and nothing else
changes. Decides which recipe works with which provider; leaves to trust/ whether it did work (a
real handshake says so, not a version number).

    >= 1.2   no property query: private keys are marked as not to be exported
    1.1.1    ``?tpm2.signature=yes`` (Debian 12): OpenSSL prefers the TPM for signatures; the peer's
             are then checked by the TPM, too, so its chain may hold P-256 and RSA-2048 alone
    else     none: a TPM key cannot be used for TLS, the ladder ends one grade lower

Without a property query 1.1.1 fails every handshake ("EVP lib"); with ``?provider=tpm2`` TLS 1.2
does. Both versions need a resource manager: /dev/tpmrm0 or tpm2-abrmd.

Never by OPENSSL_CONF: it would change tpm2-tss's own use of OpenSSL, and every child's. The
provider's ``tcti`` option is ignored (tpm2-openssl #107), so its environment variable is set in the
C library's environment: Python's own copy and what it would hand to children stay as they are.

Loading is for the life of the process, like any library; a second load is a no-op. Does not block
on the TPM; raises HardwareFault EW-ID-032.

    recipe = load_tpm_provider("device:/dev/tpmrm0")
    context.load_cert_chain(cert, "key.pem")     # PEM "TSS2 PRIVATE KEY"

The time: a board whose clock nobody sets holds certificates to the time that it believes
(order/clock.py), not to its wall clock: ``check_certificates_at(context, utc_s)``. Dates are
checked as ever, by OpenSSL, against another now.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from edgewarden.errors import HardwareFault
from edgewarden.kernel import ffi as ctypes
from edgewarden.plain import dataclass

if TYPE_CHECKING:
    import ssl

_CRYPTO = "libcrypto.so.3"
_SSL = "libssl.so.3"
_USE_CHECK_TIME = 0x2  # X509_V_FLAG_USE_CHECK_TIME of <openssl/x509_vfy.h>
_TURNED = 0x80000  # X509_V_FLAG_PARTIAL_CHAIN of the same
_PROVIDER = b"tpm2"
_TCTI_NAME = b"TPM2OPENSSL_TCTI"
_PREFER_SIGNATURE = "?tpm2.signature=yes"
_UTF8_POINTER = 6  # OSSL_PARAM_UTF8_PTR of <openssl/core.h>
_NOT_EXPORTED_SINCE = (1, 2)
_WITH_QUERY = (1, 1)


class _Param(ctypes.Structure):
    """OSSL_PARAM of <openssl/core.h>."""

    _fields_ = (
        ("key", ctypes.c_char_p),
        ("data_type", ctypes.c_uint),
        ("data", ctypes.c_void_p),
        ("data_size", ctypes.c_size_t),
        ("return_size", ctypes.c_size_t),
    )


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a TPM key comes into OpenSSL here.

    Attributes:
        version: the provider's own word.
        query: property query set for the process, "" for none.
    """

    version: str
    query: str

    def __str__(self) -> str:
        query = f"property query {self.query}" if self.query else "no property query"
        return f"tpm2-openssl {self.version}, {query}"


_loaded: dict[str, Recipe] = {}
"""tcti -> recipe of what this process has loaded: OpenSSL keeps it for the process, so do we."""


def load_tpm_provider(tcti: str) -> Recipe:
    """Make keys of the TPM at tcti usable by ssl in this process.

    Raises:
        HardwareFault: EW-ID-032; no provider, one that no recipe fits, or another TPM was loaded.
    """
    if tcti in _loaded:
        return _loaded[tcti]
    if _loaded:
        raise no_tls_key("this process has loaded another TPM")
    crypto = libcrypto()
    ctypes.CDLL(None).setenv(_TCTI_NAME, tcti.encode(), 1)
    # Naming one provider ends OpenSSL's silent use of the default one.
    if not crypto.OSSL_PROVIDER_load(None, b"default"):
        raise no_tls_key("OpenSSL does not load its own provider")
    provider = crypto.OSSL_PROVIDER_load(None, _PROVIDER)
    if not provider:
        crypto.ERR_clear_error()
        raise no_tls_key("OpenSSL has no provider tpm2, or it does not reach the TPM")
    recipe = recipe_for(_version(crypto, provider))
    if recipe is None:
        crypto.OSSL_PROVIDER_unload(provider)
        raise no_tls_key(f"no recipe for tpm2-openssl {_version(crypto, provider)}")
    if recipe.query and not crypto.EVP_set_default_properties(None, recipe.query.encode()):
        raise no_tls_key(f"OpenSSL refuses the property query {recipe.query}")
    _loaded[tcti] = recipe
    return recipe


def recipe_for(version: str) -> Recipe | None:
    """What a provider of this version needs; None when nothing is known to work."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        return None
    number = (int(found[1]), int(found[2]))
    if number >= _NOT_EXPORTED_SINCE:
        return Recipe(version, "")
    return Recipe(version, _PREFER_SIGNATURE) if number == _WITH_QUERY else None


@functools.cache
def libcrypto() -> ctypes.CDLL:
    """The library that ssl has loaded already: another copy would be another OpenSSL.

    One object for the process: each would have classes of its own for its functions, which only the
    collector of cycles takes away.
    """
    import ssl  # not above: who only asks for a recipe needs no OpenSSL

    try:
        crypto = ctypes.CDLL(_CRYPTO, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError as fault:
        raise no_tls_key(
            f"this Python's ssl ({ssl.OPENSSL_VERSION}) does not use {_CRYPTO}"
        ) from fault
    crypto.OSSL_PROVIDER_load.restype = ctypes.c_void_p
    crypto.OSSL_PROVIDER_load.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
    crypto.OSSL_PROVIDER_unload.argtypes = (ctypes.c_void_p,)
    crypto.OSSL_PROVIDER_get_params.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    crypto.EVP_set_default_properties.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
    crypto.X509_VERIFY_PARAM_get_flags.restype = ctypes.c_ulong
    crypto.X509_VERIFY_PARAM_get_flags.argtypes = (ctypes.c_void_p,)
    crypto.X509_VERIFY_PARAM_set_time.restype = None
    crypto.X509_VERIFY_PARAM_set_time.argtypes = (ctypes.c_void_p, _time_t())
    return crypto


def look_up() -> None:
    """Find what ``check_certificates_at`` calls, for a start; raises nothing.

    A search for a name reads 0.4 MB of both libraries' tables, which stay in memory. Those of a
    start are given back (kernel/memory.py), those of the first clock that is not believed were not.
    """
    with contextlib.suppress(HardwareFault):
        libcrypto()
        libssl()


def check_certificates_at(context: ssl.SSLContext, utc_s: int) -> None:
    """Hold the peers of a context to the certificates' dates at this time, not at the system's.

    Where the SSL_CTX is: see ssl_ctx. Two looks make sure of it: its flags are what Python says
    before, and say afterwards that a time was set.

    Raises:
        HardwareFault: EW-ID-032, this Python's ssl cannot be told.
    """
    libcrypto().X509_VERIFY_PARAM_set_time(_parameters(context), utc_s)
    if not int(context.verify_flags) & _USE_CHECK_TIME:
        raise no_tls_key("OpenSSL takes no time to check certificates against")


def ssl_ctx(context: ssl.SSLContext) -> int:
    """Where the SSL_CTX of a context is: the first member behind the object's head (CPython's
    Modules/_ssl.c, since 2.7).

    Its flags are held to what Python says, before and after one of them was turned: a pointer to
    something else would not follow.

    Raises:
        HardwareFault: EW-ID-032, this Python keeps it elsewhere.
    """
    for turned in (0, _TURNED):
        context.verify_flags ^= turned
        try:
            _parameters(context)
        finally:
            context.verify_flags ^= turned
    return _held(context)


def _held(context: ssl.SSLContext) -> int:
    return ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value or 0


def _parameters(context: ssl.SSLContext) -> int:
    """Its X509_VERIFY_PARAM, if that has the flags that Python says."""
    parameters = libssl().SSL_CTX_get0_param(_held(context))
    if libcrypto().X509_VERIFY_PARAM_get_flags(parameters) != int(context.verify_flags):
        raise no_tls_key("this Python keeps its SSL_CTX elsewhere")
    return int(parameters)


def _time_t() -> type[ctypes.c_int64] | type[ctypes.c_int32]:
    """What the C library takes for a time: 32 bits on an older 32-bit Debian."""
    try:
        datetime.fromtimestamp(1 << 33, UTC)
    except OverflowError:
        return ctypes.c_int32
    return ctypes.c_int64


@functools.cache
def libssl() -> ctypes.CDLL:
    """As libcrypto."""
    try:
        library = ctypes.CDLL(_SSL, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError as fault:
        raise no_tls_key(f"this Python's ssl does not use {_SSL}") from fault
    library.SSL_CTX_get0_param.restype = ctypes.c_void_p
    library.SSL_CTX_get0_param.argtypes = (ctypes.c_void_p,)
    return library


def _version(crypto: ctypes.CDLL, provider: int) -> str:
    text = ctypes.c_char_p()
    asked = (_Param * 2)(
        _Param(b"version", _UTF8_POINTER, ctypes.addressof(text), 0, 0), _Param(None, 0, None, 0, 0)
    )
    if not crypto.OSSL_PROVIDER_get_params(provider, asked) or text.value is None:
        return "unknown"
    return text.value.decode("ascii", "replace")


def no_tls_key(why: str) -> HardwareFault:
    """EW-ID-032."""
    return HardwareFault(
        f"the TPM key cannot be used for TLS: {why}",
        code="EW-ID-032",
        next_step="install the package tpm2-openssl (Debian 12 and later have it)",
    )
