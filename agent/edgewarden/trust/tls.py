"""TLS contexts. One way to be a client, and no argument that loosens it.

Both sides prove who they are: the server against the pinned root and its host name, the gateway
with its own certificate. TLS 1.2 with AEAD suites is the floor, 1.3 what everybody speaks today.

Dates are held to the system's clock, or to ``at_utc_s`` where the gateway knows better
(order/clock.py). In one place they wait: ``untimed_context``, for the exchange that brings the
time (trust/signed_time.py), whose answer proves itself. tests/rules holds it to that one caller.

And one way to be a server, for devices behind the gateway: ``device_context``, with a key and a CA
that are never the gateway's own.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from edgewarden.errors import TrustFault
from edgewarden.kernel.openssl import check_certificates_at
from edgewarden.plain import dataclass
from edgewarden.trust.identity import Identity

TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""RFC 9325 §4.2: ECDHE with AEAD only, where somebody falls back to 1.2; the fleet's servers and
its broker keep to them, too."""


_DATES_WAIT = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of <openssl/x509_vfy.h>


def pinned_context(ca_pem: str, at_utc_s: int | None = None) -> ssl.SSLContext:
    """A client context that trusts exactly one root and checks the host name; no own
    certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(TLS12_CIPHERS)
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


@dataclass(frozen=True, slots=True)
class DeviceFiles:
    """What the listener for devices behind the gateway is made of.

    Attributes:
        ca: certificates of the CA whose devices are let in.
        certificate, key: what the listener shows.
        crl: list of revoked certificates; None without one.
        least: "1.3" or "1.2", the least version of TLS.
    """

    ca: Path
    certificate: Path
    key: Path
    crl: Path | None = None
    least: str = "1.3"


_VERSIONS = {"1.3": ssl.TLSVersion.TLSv1_3, "1.2": ssl.TLSVersion.TLSv1_2}


def device_context(files: DeviceFiles, at_utc_s: int | None = None) -> ssl.SSLContext:
    """The listener's context: whoever has no certificate of this CA gets no further.

    No session is resumed: each one shows its certificate anew, and a list of revoked ones counts
    for each, and for every CA up to the root. OpenSSL holds a certificate with an extended key
    usage to clientAuth.

    Raises:
        TrustFault: EW-DEV-005 when a file is missing or does not fit the others.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[files.least]
    context.set_ciphers(TLS12_CIPHERS)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1", "mqtt"])
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
        context.load_verify_locations(files.ca)
        if files.crl is not None:
            context.load_verify_locations(files.crl)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    except (OSError, ValueError) as fault:  # ssl.SSLError is an OSError
        raise TrustFault(
            f"the listener for devices has no usable files: {fault}",
            code="EW-DEV-005",
            next_step="see docs/devices.md, Setting it up; then `edgewarden devices`",
        ) from fault
    if at_utc_s is not None:
        check_certificates_at(context, at_utc_s)
    return context


def _no_password() -> str:
    raise ValueError("the key has a password, and nobody is here to type it")


def prove_server(context: ssl.SSLContext) -> None:
    """Does this context's own key carry a handshake in this very process?

    OpenSSL on Debian 12 with a TPM key in use signs with no other key (kernel/openssl.py); a file
    key loads there all the same, and every handshake fails. One is played in memory, up to the
    server's first flight, which holds its signature.

    Raises:
        TrustFault: EW-DEV-006.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    played = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client = played.wrap_bio(to_client, to_server, server_hostname="edgewarden")
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for end in (client, server):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError as fault:
            raise TrustFault(
                f"the listener's key does not sign in this process: {fault}",
                code="EW-DEV-006",
                next_step="with a TPM key this needs tpm2-openssl 1.2 or later (Debian 13)",
            ) from fault
