"""From a host name to a TLS connection, and the name of what went wrong on the way.

Decides whether a failure passes (PeerUnavailable) or is one of trust (TrustFault). Blocks; runs on
an executor. The whole way has one deadline, however slowly the other side drips; only the resolver
keeps its own time-out. Every address of a name has its share of the deadline, for TCP and TLS: a
site whose IPv6 leads nowhere is reached by IPv4, and the other way round, also where IPv6 lets a
connection through and no long packet after it. An impostor at one of them ends it: no other is
asked then.

A Route may lead through a proxy (tunnel.py), name MQTT for whoever shares port 443 (ALPN), and put
MQTT into a WebSocket (websocket.py). Whatever it is, TLS is with the broker and verifies the
broker's name.

* the name does not resolve: PeerUnavailable, EW-NET-003
* nothing accepts the connection: PeerUnavailable, EW-NET-004
* the proxy refuses, or is none: PeerUnavailable, EW-NET-014
* no TLS handshake, or not in time: PeerUnavailable, EW-NET-005
* no WebSocket inside it: PeerUnavailable, EW-NET-015
* the broker's certificate does not hold: TrustFault, EW-NET-006
* the same by its dates, and our clock was never set: PeerUnavailable, EW-NET-006 (it passes)
* our certificate is refused by an alert: TrustFault, EW-NET-007

With TLS 1.3 the last one arrives after the handshake, and MQTT libraries report it as an unnamed
loss: probe() connects once more and only reads, because writing first makes the kernel throw the
alert away.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
from collections.abc import Sequence
from typing import Any

from edgewarden.errors import OurFault, PeerUnavailable, TrustFault
from edgewarden.link.tunnel import Proxy, Wait, through
from edgewarden.link.websocket import TokenBytes, WebSocket, upgrade
from edgewarden.plain import dataclass
from edgewarden.ports import Clock

REFUSES_US = "EW-NET-007"
NO_TCP = "EW-NET-004"
DEADLINE_S = 15.0
"""TCP and TLS together: a satellite link needs 3 s, a slow board 1 s more for the signature."""
PROBE_READ_S = 3.0
"""How long a broker may take from our Finished message to its alert."""

# OpenSSL <openssl/x509_vfy.h>
DATES = frozenset({9, 10})
"""X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED: what a wrong clock looks like."""
_ALERT = re.compile(r"ALERT_([A-Z_]+)")
CERTIFICATE_ALERTS = frozenset(
    {
        "access_denied",
        "bad_certificate",
        "certificate_expired",
        "certificate_required",
        "certificate_revoked",
        "certificate_unknown",
        "decrypt_error",
        "unknown_ca",
        "unsupported_certificate",
    }
)
"""RFC 8446 §6.2: what a server says about a client's certificate."""


Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]
"""As getaddrinfo gives it."""


@dataclass(frozen=True, slots=True)
class Route:
    """How the broker is reached.

    Attributes:
        proxy: the site's, or None.
        alpn: the protocol named in the TLS handshake (RFC 7301); "" names none.
        websocket: the path of the WebSocket; "" speaks MQTT inside TLS itself.
        token_bytes: for WebSockets.
    """

    proxy: Proxy | None = None
    alpn: str = ""
    websocket: str = ""
    token_bytes: TokenBytes | None = None


DIRECT = Route()


def dial(
    host: str, port: int, context: ssl.SSLContext, clock: Clock, route: Route = DIRECT
) -> ssl.SSLSocket | WebSocket:
    """Return a connected, verified, blocking TLS socket, or a WebSocket in one.

    Raises:
        OurFault: the context would not verify the broker.
        PeerUnavailable, TrustFault: see the module's docstring.
    """
    wait = _waiting(clock)
    tls = _reach(host, port, context, clock, route, wait)
    if not route.websocket:
        tls.settimeout(None)
        return tls
    assert route.token_bytes is not None
    try:
        wire = upgrade(tls, host, port, route.websocket, route.token_bytes, wait)
        tls.settimeout(None)
    except OSError as fault:
        tls.close()
        if isinstance(fault, ssl.SSLError) and alert_name(fault) in CERTIFICATE_ALERTS:
            raise refused_certificate(alert_name(fault)) from fault
        raise PeerUnavailable(
            f"no WebSocket with {host}:{port}: {_why(fault)}",
            code="EW-NET-015",
            next_step="check [uplink] websocket_path and whether the broker listens for WebSockets",
        ) from fault
    return wire


def dial_plain(host: str, port: int, clock: Clock) -> socket.socket:
    """Return a connected, blocking socket without TLS, for a broker on this very machine.

    Raises:
        PeerUnavailable: nobody answers.
    """
    plain = _connect(host, port, _waiting(clock))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain.settimeout(None)
    return plain


def _reach(
    host: str, port: int, context: ssl.SSLContext, clock: Clock, route: Route, wait: Wait
) -> ssl.SSLSocket:
    """TCP, proxy, TLS; see dial()."""
    if context.verify_mode is not ssl.CERT_REQUIRED or not context.check_hostname:
        raise OurFault("a TLS context that does not verify the broker")
    if context.minimum_version < ssl.TLSVersion.TLSv1_2:
        raise OurFault("a TLS context that speaks less than TLS 1.2")
    if route.alpn:
        context.set_alpn_protocols([route.alpn])
    if route.proxy is not None:
        _check_name(host)
        return _secured(_way(host, port, route.proxy, wait), host, port, context, clock, wait)
    told: PeerUnavailable | None = None
    found = _addresses(host, port)
    for place, address in enumerate(found):
        try:
            share = _waiting(clock, wait() / (len(found) - place))
            plain = _tcp(address, share)
        except OSError as fault:
            told = told or _no_tcp(host, port, fault)
            continue
        try:
            return _secured(plain, host, port, context, clock, share)
        except PeerUnavailable as fault:
            # What came furthest says most.
            told = fault if told is None or told.code == NO_TCP else told
    assert told is not None
    raise told


def _secured(
    plain: socket.socket, host: str, port: int, context: ssl.SSLContext, clock: Clock, wait: Wait
) -> ssl.SSLSocket:
    """TLS on a TCP connection, which is closed when there is none."""
    with contextlib.ExitStack() as unless_done:
        unless_done.callback(plain.close)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _handshake(plain, host, context, wait)
        except ssl.SSLCertVerificationError as fault:
            raise _distrust(host, fault, clock) from fault
        except ssl.SSLError as fault:
            alert = alert_name(fault)
            if alert in CERTIFICATE_ALERTS:
                raise refused_certificate(alert) from fault
            raise _no_handshake(host, port, fault.reason or str(fault)) from fault
        except OSError as fault:
            raise _no_handshake(host, port, _why(fault)) from fault
        unless_done.pop_all()
        return connection


def acknowledge_at_once(connection: ssl.SSLSocket | WebSocket | socket.socket) -> None:
    """Have the kernel acknowledge what was read, without waiting for something to send with it.

    A broker without TCP_NODELAY (Mosquitto's default) has sent its TLS session tickets and holds
    CONNACK back until they are acknowledged, which Linux puts off by 40 ms (tcp(7)).
    """
    plain = socket.socket(fileno=os.dup(connection.fileno()))
    with plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def probe(
    host: str, port: int, context: ssl.SSLContext, clock: Clock, route: Route = DIRECT
) -> str | None:
    """Connect, say nothing, listen: return the name of a certificate alert, or None.

    Raises:
        PeerUnavailable, TrustFault: as dial().
    """
    with _reach(host, port, context, clock, route, _waiting(clock)) as connection:
        connection.settimeout(PROBE_READ_S)
        try:
            connection.recv(1)
        except ssl.SSLError as fault:
            alert = alert_name(fault)
            return alert if alert in CERTIFICATE_ALERTS else None
        except OSError:
            return None
    return None


def alert_name(fault: ssl.SSLError) -> str:
    """``certificate_expired`` from SSLV3_ALERT_CERTIFICATE_EXPIRED; "" when it is no alert."""
    found = _ALERT.search(fault.reason or "")
    return found.group(1).lower() if found else ""


def refused_certificate(alert: str) -> TrustFault:
    """The broker does not accept our certificate, and says why."""
    return TrustFault(
        f"the broker refuses this gateway's certificate: {alert.replace('_', ' ')}",
        code=REFUSES_US,
        next_step="see `edgewarden identity show`; ask the operator whether it was revoked",
        alert=alert,
    )


def _way(host: str, port: int, proxy: Proxy | None, wait: Wait) -> socket.socket:
    """A TCP connection that leads to the broker."""
    if proxy is None:
        return _connect(host, port, wait)
    plain = _connect(proxy.host, proxy.port, wait, "the proxy ")
    try:
        through(proxy, plain, host, port, wait)
    except OSError as fault:
        plain.close()
        raise PeerUnavailable(
            f"no way through the proxy {proxy.host}:{proxy.port}: {_why(fault)}",
            code="EW-NET-014",
            next_step="check [uplink] proxy; ask the site whether it is one",
        ) from fault
    except BaseException:
        plain.close()
        raise
    return plain


def _connect(host: str, port: int, wait: Wait, what: str = "") -> socket.socket:
    """Try every address, each with its share of what is left of the deadline."""
    found = _addresses(host, port)
    last: OSError | None = None
    for place, address in enumerate(found):
        try:
            return _tcp(address, wait, len(found) - place)
        except OSError as fault:
            last = fault
    assert last is not None
    raise _no_tcp(f"{what}{host}", port, last) from last


def _addresses(host: str, port: int) -> Sequence[Address]:
    _check_name(host)
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as fault:
        raise _no_name(host, fault.strerror or str(fault), f"try `getent hosts {host}`") from fault


def _check_name(host: str) -> None:
    """A name that no resolver and no TLS can take (``a..b``) is no defect of ours."""
    try:
        host.encode("idna")
    except UnicodeError as fault:
        raise _no_name(host, "it is no host name", "correct [uplink] host") from fault


def _tcp(address: Address, wait: Wait, shares: int = 1) -> socket.socket:
    family, kind, protocol, _, where = address
    connection = socket.socket(family, kind, protocol)
    try:
        connection.settimeout(wait() / shares)
        connection.connect(where)
    except BaseException:
        connection.close()
        raise
    return connection


def _handshake(
    plain: socket.socket, host: str, context: ssl.SSLContext, wait: Wait
) -> ssl.SSLSocket:
    """TLS with one deadline over all its reads; takes plain over."""
    name = host.removesuffix(".")  # RFC 6066 §3: SNI goes without it, and so do certificates
    tls = context.wrap_socket(plain, server_hostname=name, do_handshake_on_connect=False)
    try:
        tls.settimeout(wait())
        tls.do_handshake()
    except BaseException:
        tls.close()
        raise
    return tls


def _waiting(clock: Clock, seconds: float = 0) -> Wait:
    """The seconds left, of DEADLINE_S or so many; raises TimeoutError when there are none."""
    seconds = seconds or DEADLINE_S
    until_ns = clock.now().boot_ns + round(seconds * 1e9)

    def wait() -> float:
        left_s = (until_ns - clock.now().boot_ns) / 1e9
        if left_s <= 0:
            raise TimeoutError(f"not done within {seconds:.3g} s")
        return left_s

    return wait


def _why(fault: OSError) -> str:
    return str(fault) or type(fault).__name__


def _no_name(host: str, why: str, step: str) -> PeerUnavailable:
    text = f"the name {host} does not resolve: {why}"
    return PeerUnavailable(text, code="EW-NET-003", next_step=step)


def _no_tcp(where: str, port: int, fault: OSError) -> PeerUnavailable:
    return PeerUnavailable(
        f"no TCP connection to {where}:{port}: {fault}",
        code=NO_TCP,
        next_step="ask the operator whether the broker runs",
    )


def _no_handshake(host: str, port: int, why: str) -> PeerUnavailable:
    return PeerUnavailable(
        f"no TLS handshake with {host}:{port}: {why}",
        code="EW-NET-005",
        next_step="check uplink.port; ask the site whether it inspects TLS",
    )


def _distrust(
    host: str, fault: ssl.SSLCertVerificationError, clock: Clock
) -> TrustFault | PeerUnavailable:
    why = fault.verify_message or str(fault)
    text = f"{host} does not prove to be the broker: {why}"
    step = "check the clock (`date -u`); if it is right, report it to the operator"
    unset = clock.now().state == "unsynced"
    code = fault.verify_code
    if unset and code in DATES:
        return PeerUnavailable(text, code="EW-NET-006", next_step=step, verify_code=code)
    return TrustFault(text, code="EW-NET-006", next_step=step, verify_code=code)
