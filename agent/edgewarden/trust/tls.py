"""TLS contexts. One way to be a client, and no argument that loosens it.

Both sides prove who they are: the server against the pinned root and its host name, the gateway
with its own certificate. TLS 1.2 with AEAD suites is the floor, 1.3 what everybody speaks today.

Dates are held to the system's clock, or to ``at_utc_s`` where the gateway knows better
(order/clock.py). In one place they wait: ``untimed_context``, for the exchange that brings the
time (trust/signed_time.py), whose answer proves itself. tests/rules holds it to that one caller.
"""

from __future__ import annotations

import ssl

from edgewarden.errors import TrustFault
from edgewarden.kernel.openssl import check_certificates_at
from edgewarden.trust.identity import Identity

# RFC 9325 §4.2: ECDHE with AEAD only, for the 1.2 fallback.
_TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


_DATES_WAIT = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of <openssl/x509_vfy.h>


def pinned_context(ca_pem: str, at_utc_s: int | None = None) -> ssl.SSLContext:
    """A client context that trusts exactly one root and checks the host name; no own
    certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS12_CIPHERS)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        context.load_verify_locations(cadata=ca_pem)
    except (ssl.SSLError, ValueError, TypeError) as fault:
        raise TrustFault(
            f"the pinned root cannot be read: {fault}",
            code="EW-ID-005",
            next_step="restore state/identity from a backup of this very device, or enrol again",
        ) from fault
    if at_utc_s is not None:
        check_certificates_at(context, at_utc_s)
    return context


def untimed_context(ca_pem: str) -> ssl.SSLContext:
    """As pinned_context, but no date is looked at: for signed time alone."""
    context = pinned_context(ca_pem)
    context.verify_flags |= _DATES_WAIT
    return context


def client_context(identity: Identity, at_utc_s: int | None = None) -> ssl.SSLContext:
    """The context of the uplink: pinned root, host name checked, our certificate shown.

    Blocks while the key's holder is asked (a TPM).

    Raises:
        TrustFault: EW-ID-005 when a file of the identity does not fit the others.
        HardwareFault: the key's holder refuses or is gone.
    """
    try:
        context = pinned_context(identity.ca_path.read_text("ascii"), at_utc_s)
        identity.signer().present(context, identity.cert_path, identity.key_path)
    except (OSError, ValueError) as fault:  # ssl.SSLError is an OSError
        raise TrustFault(
            f"key and certificate do not load: {fault}",
            code="EW-ID-005",
            next_step="run `edgewarden identity selftest`; enrol again if it stays so",
        ) from fault
    return context
